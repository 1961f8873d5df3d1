//! Times at which instances are probed: first, again, together, by hint.

use causeway_federation::topology::Probe;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::health::testing::health_check;

const EVERY: Duration = Duration::from_secs(2);

fn address() -> SocketAddr {
    "127.0.0.1:80".parse().unwrap()
}

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

fn check() -> Arc<HealthCheck> {
    let mut check = health_check();
    (check.every, check.rise, check.fall) = (EVERY, 2, 2);
    Arc::new(check)
}

fn failed() -> ProbeResult {
    ProbeResult::Failed("refused".to_owned())
}

/// Makes the probe that is due at `now`, and says when the next one is.
fn round(checks: &mut Checks, now: Instant, outcome: ProbeResult) -> (Option<Transition>, Instant) {
    let order = checks.poll_order(now).expect("a probe is due");
    let transition = checks.handle_result(now, &order, outcome, &mut rng());
    (transition, checks.poll_timeout().unwrap())
}

#[test]
fn a_new_instance_is_probed_at_once_and_its_first_result_decides() {
    let (mut checks, now) = (Checks::new(), Instant::now());
    let id = checks.insert(now, address(), check(), Health::Unknown);
    assert_eq!(checks.poll_timeout(), Some(now));
    let (transition, next) = round(&mut checks, now, ProbeResult::Passed);
    let to_healthy = Transition {
        from: Health::Unknown,
        to: Health::Healthy,
    };
    assert_eq!(transition, Some(to_healthy));
    assert_eq!(checks.state(id).unwrap().health(), Health::Healthy);
    assert!(next > now && next <= now + EVERY);
    assert!(checks.poll_order(now).is_none(), "not before it is due");
}

#[test]
fn probes_recur_about_every_interval_from_their_beginning() {
    let (mut checks, start) = (Checks::new(), Instant::now());
    checks.insert(start, address(), check(), Health::Healthy);
    let order = checks.poll_order(start).unwrap();
    assert_eq!(checks.poll_timeout(), None, "one probe of an instance at a time");
    let end = start + Duration::from_secs(1);
    checks.handle_result(end, &order, ProbeResult::Passed, &mut rng());
    let next = checks.poll_timeout().unwrap() - start;
    assert!(
        next >= EVERY.mul_f64(0.9) && next <= EVERY.mul_f64(1.1),
        "{next:?}"
    );

    let late = start + EVERY * 5;
    let order = checks.poll_order(late).unwrap();
    checks.handle_result(late + EVERY * 3, &order, ProbeResult::Passed, &mut rng());
    assert_eq!(
        checks.poll_timeout(),
        Some(late + EVERY * 3),
        "no catching up on what was missed"
    );
}

#[test]
fn ten_thousand_checks_that_begin_together_spread_out() {
    let (mut checks, now, mut rng) = (Checks::new(), Instant::now(), rng());
    for _ in 0..10_000 {
        checks.insert(now, address(), check(), Health::Unknown);
    }
    while let Some(order) = checks.poll_order(now) {
        checks.handle_result(now, &order, ProbeResult::Passed, &mut rng);
    }
    let mut in_twentieths = [0; 21];
    for (due, _) in &checks.due {
        in_twentieths[(*due - now).as_millis() as usize / 100] += 1;
    }
    // 18 twentieths take part, 556 each on average.
    assert!(
        in_twentieths.iter().all(|count| *count < 800),
        "{in_twentieths:?}"
    );
}

#[test]
fn no_more_probes_are_under_way_than_allowed() {
    let (mut checks, now) = (Checks::new(), Instant::now());
    for _ in 0..MAX_CONCURRENT_PROBES * 2 {
        checks.insert(now, address(), check(), Health::Unknown);
    }
    let orders: Vec<_> = std::iter::from_fn(|| checks.poll_order(now)).collect();
    assert_eq!(orders.len(), MAX_CONCURRENT_PROBES);
    assert_eq!(checks.poll_timeout(), None);
    checks.handle_result(now, &orders[0], failed(), &mut rng());
    assert!(checks.poll_order(now).is_some());
}

#[test]
fn a_removed_check_gives_its_place_back_and_ignores_its_result() {
    let (mut checks, now) = (Checks::new(), Instant::now());
    let id = checks.insert(now, address(), check(), Health::Unknown);
    let order = checks.poll_order(now).unwrap();
    checks.remove(id);
    assert_eq!(
        checks.handle_result(now, &order, ProbeResult::Passed, &mut rng()),
        None
    );
    assert_eq!((checks.in_flight, checks.len()), (0, 0));
    let id = checks.insert(now, address(), check(), Health::Unknown);
    checks.remove(id);
    assert_eq!(checks.poll_timeout(), None);
}

#[test]
fn a_hint_brings_the_next_probe_forward_but_not_too_often() {
    let (mut checks, start) = (Checks::new(), Instant::now());
    let id = checks.insert(start, address(), check(), Health::Healthy);
    round(&mut checks, start, ProbeResult::Passed);

    let soon = start + Duration::from_millis(100);
    checks.hint(soon, id);
    assert_eq!(checks.poll_timeout(), Some(start + HINT_GAP));
    let later = start + Duration::from_millis(700);
    assert!(checks.poll_order(later).is_some());

    // A hint during the probe asks for one more: the one under way may have passed before the failure.
    checks.hint(later, id);
    let order = ProbeOrder {
        id,
        address: address(),
        check: check(),
    };
    checks.handle_result(later, &order, failed(), &mut rng());
    assert_eq!(checks.poll_timeout(), Some(later + HINT_GAP));
    let (transition, _) = round(&mut checks, later + HINT_GAP, failed());
    assert_eq!(transition.map(|t| t.to), Some(Health::Unhealthy));
}

#[test]
fn an_altered_check_is_made_at_once_and_the_old_one_does_not_count() {
    let (mut checks, now) = (Checks::new(), Instant::now());
    let id = checks.insert(now, address(), check(), Health::Healthy);
    let (_, due) = round(&mut checks, now, failed());
    checks.alter(now, id, &check());
    assert_eq!(checks.poll_timeout(), Some(due), "the same check changes nothing");

    let mut other = HealthCheck::clone(&check());
    other.probe = Probe::Http {
        path: "/other".to_owned(),
    };
    let other = Arc::new(other);
    checks.alter(now, id, &other);
    assert_eq!(checks.poll_timeout(), Some(now));
    let (transition, _) = round(&mut checks, now, failed());
    assert_eq!(transition, None, "the streak began anew");

    let order = checks.poll_order(now + EVERY * 2).unwrap();
    checks.alter(now, id, &check());
    let outdated = checks.handle_result(now, &order, failed(), &mut rng());
    assert_eq!(outdated, None);
    assert_eq!(checks.poll_timeout(), Some(now));
}
