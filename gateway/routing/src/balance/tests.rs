//! Tests of what the choice among instances owes to weight, load and latency.

use std::collections::BTreeMap;

use causeway_federation::{name::ServiceName, registry::InstanceSource};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::snapshot::Health;

fn instance(id: &str, weight: u32, tags: &[(&str, &str)]) -> Arc<Instance> {
    Arc::new(Instance {
        id: id.to_owned(),
        service: ServiceName::new("orders").unwrap(),
        address: "127.0.0.1:1".parse().unwrap(),
        tags: tags.iter().copied().collect(),
        weight,
        capacity_per_second: None,
        time_to_live: None,
        source: InstanceSource::Topology,
        health: Health::Healthy,
        drain: None,
        load: Arc::default(),
        provenance: causeway_federation::registry::Provenance::ThisHost,
    })
}

const NOW: Duration = Duration::from_secs(100);

fn shares(instances: &[Arc<Instance>]) -> BTreeMap<String, usize> {
    shares_at(instances, NOW)
}

fn shares_at(instances: &[Arc<Instance>], now: Duration) -> BTreeMap<String, usize> {
    let mut rng = SmallRng::seed_from_u64(7);
    let list: InstanceList = instances.iter().cloned().collect();
    let mut count = BTreeMap::new();
    for _ in 0..10_000 {
        let any = Tags::default();
        let picked = Choice::new(&list, &any).pick(now, &mut rng).unwrap();
        *count.entry(picked.id.clone()).or_default() += 1;
    }
    count
}

#[test]
fn idle_instances_share_by_weight() {
    let shares = shares(&[instance("a", 95, &[]), instance("b", 5, &[])]);
    assert!((9_350..9_650).contains(&shares["a"]), "{shares:?}");
}

#[test]
fn the_busier_of_two_gets_less() {
    let both = [instance("busy", 1, &[]), instance("idle", 1, &[])];
    let guards: Vec<_> = (0..8).map(|_| LoadGuard::new(both[0].load.clone())).collect();
    let with_load = shares(&both);
    assert!(with_load["idle"] > 7_000, "{with_load:?}");
    drop(guards);
    let without = shares(&both);
    assert!((4_800..5_200).contains(&without["idle"]), "{without:?}");
}

#[test]
fn a_slow_instance_gets_less_and_noise_does_not_count() {
    let both = [instance("a", 1, &[]), instance("b", 1, &[])];
    both[0].load.connected(NOW, Duration::from_micros(90));
    both[1].load.connected(NOW, Duration::from_micros(30));
    assert!((4_800..5_200).contains(&shares(&both)["a"]));
    both[0].load.connected(NOW, Duration::from_millis(200));
    assert!(
        (4_800..5_200).contains(&shares(&both)["a"]),
        "a single slow connection is noise too"
    );
    both[0].load.connected(NOW, Duration::from_millis(200));
    assert!(shares(&both).get("a").copied().unwrap_or(0) < 3_000);
}

#[test]
fn a_peak_counts_with_its_second_sample_and_fades() {
    let load = InstanceLoad::default();
    load.connected(NOW, Duration::from_millis(100));
    assert_eq!(load.latency(NOW), 5_000.0);
    load.connected(NOW, Duration::from_millis(80));
    assert_eq!(load.latency_micros.load(Ordering::Relaxed), 80_000);
    load.connected(NOW, Duration::from_micros(100));
    load.took(NOW, Duration::from_millis(100));
    assert_eq!(
        load.latency(NOW),
        100_000.0,
        "one that was given up counts at once"
    );
    for _ in 0..200 {
        load.connected(NOW, Duration::from_micros(100));
    }
    assert_eq!(load.latency_micros.load(Ordering::Relaxed), 100);
}

#[test]
fn only_healthy_instances_with_weight_and_tags_that_were_not_tried() {
    let mut unhealthy = instance("u", 1, &[("version", "v2")]);
    Arc::get_mut(&mut unhealthy).unwrap().health = Health::Unhealthy;
    let mut unknown = instance("n", 1, &[("version", "v2")]);
    Arc::get_mut(&mut unknown).unwrap().health = Health::Unknown;
    let all = [
        unhealthy,
        unknown,
        instance("zero", 0, &[("version", "v2")]),
        instance("v1", 9, &[("version", "v1")]),
        instance("good", 1, &[("version", "v2")]),
    ];
    let selector: Tags = [("version", "v2")].into_iter().collect();
    let list: InstanceList = all.into_iter().collect();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut choice = Choice::new(&list, &selector);
    assert_eq!(choice.pick(NOW, &mut rng).unwrap().id, "good");
    assert!(choice.pick(NOW, &mut rng).is_none());
}

fn ten() -> Vec<Arc<Instance>> {
    (0..10).map(|n| instance(&format!("i{n}"), 1, &[])).collect()
}

#[test]
fn the_two_that_are_drawn_differ() {
    // With two draws of the same one, the busy instance would be picked in a quarter of the cases.
    let both = [instance("busy", 1, &[]), instance("idle", 1, &[])];
    let _guard = LoadGuard::new(both[0].load.clone());
    assert_eq!(shares(&both).get("busy"), None);
}

#[test]
fn an_instance_that_refused_once_rests_for_a_moment_and_then_has_its_share() {
    let ten = ten();
    ten[0].load.refused(NOW);
    assert_eq!(shares(&ten).get("i0"), None);
    let later = shares_at(&ten, NOW + Duration::from_millis(500));
    assert!((850..1150).contains(&later["i0"]), "{later:?}");
    // It said nothing about latency.
    assert_eq!(ten[0].load.latency_micros.load(Ordering::Relaxed), 0);
}

#[test]
fn one_that_fails_gets_nothing_for_a_while_and_one_with_too_much_to_do_gets_less() {
    let both = [instance("bad", 1, &[]), instance("well", 1, &[])];
    both[0].load.failed(NOW);
    let guards: Vec<_> = (0..8).map(|_| LoadGuard::new(both[1].load.clone())).collect();
    assert_eq!(shares(&both).get("bad"), None, "however much the other has to do");
    let later = shares_at(&both, NOW + Duration::from_secs(10));
    assert_eq!(later.get("well"), None, "and then it is as before");
    drop(guards);
    let both = [instance("busy", 1, &[]), instance("well", 1, &[])];
    both[0].load.overloaded(NOW);
    assert_eq!(shares(&both).get("busy"), None);
    let _three: Vec<_> = (0..4).map(|_| LoadGuard::new(both[1].load.clone())).collect();
    assert!(
        shares(&both)["busy"] > 5_000,
        "what the other has four times as much of"
    );
}

#[test]
fn what_is_to_be_picked_last_is_picked_when_there_is_no_other() {
    let ten: InstanceList = ten().into_iter().collect();
    let (any, mut rng) = (Tags::default(), SmallRng::seed_from_u64(7));
    let number = |place: usize| ten[place].number();
    let (gone, last) = ([number(0)], [number(1), number(2), number(0)]);
    let mut choice = Choice::new(&ten, &any).besides(&gone).after(&last);
    let picked: Vec<String> = std::iter::from_fn(|| choice.pick(NOW, &mut rng))
        .map(|instance| instance.id.clone())
        .collect();
    assert_eq!(picked.len(), 9, "{picked:?}");
    assert!(!picked.contains(&ten[0].id));
    let mut end = picked[7..].to_vec();
    end.sort();
    assert_eq!(end, [ten[1].id.clone(), ten[2].id.clone()]);
}

#[test]
fn an_instance_that_keeps_refusing_rests_longer_each_time_and_not_for_ever() {
    let load = InstanceLoad::default();
    let mut now = NOW;
    let mut rests = Vec::new();
    for _ in 0..8 {
        load.refused(now);
        // Others that were refused at the same moment change nothing.
        load.refused(now);
        let begun = now;
        while load.is_resting(now) {
            now += Duration::from_millis(100);
        }
        rests.push(now - begun);
    }
    let expected = [500, 1000, 2000, 4000, 8000, 8000, 8000, 8000].map(Duration::from_millis);
    assert_eq!(rests, expected);
    load.refused(now);
    load.forget_refusals();
    assert!(!load.is_resting(now), "forgotten on becoming healthy");
    load.refused(now);
    assert!(
        !load.is_resting(now + Duration::from_millis(500)),
        "from the beginning"
    );
}

#[test]
fn an_instance_that_was_slow_once_is_tried_again_without_a_new_sample() {
    let ten = ten();
    ten[0].load.took(NOW, Duration::from_millis(200));
    assert_eq!(shares(&ten).get("i0"), None);
    let later = shares_at(&ten, NOW + Duration::from_secs(10));
    assert!((850..1150).contains(&later["i0"]), "{later:?}");
}

/// Tags of a zone where every instance has one of its own.
fn pod(number: u32, version: u32) -> Vec<(String, String)> {
    vec![
        ("pod".to_owned(), format!("p{number}")),
        ("version".to_owned(), format!("v{version}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_choice_picks_every_instance_that_fits_once_and_no_other(
        zone in prop::collection::vec((0u32..3, 0u32..3, 0u32..200), 0..300),
        own_tags in any::<bool>(),
        wanted in 0u32..4,
        seed in any::<u64>(),
    ) {
        let one = |(number, (weight, health, version)): (usize, &(u32, u32, u32))| {
            let number = if own_tags { u32::try_from(number).unwrap() } else { 0 };
            // A few versions that are frequent, and many that are not.
            let tags: Tags = pod(number, if *version < 150 { version % 3 } else { *version }).into_iter().collect();
            let mut made = instance(&format!("{number}"), *weight, &[]);
            let inner = Arc::get_mut(&mut made).unwrap();
            inner.tags = tags;
            inner.health = [Health::Healthy, Health::Healthy, Health::Unhealthy][usize::try_from(*health).unwrap()];
            made
        };
        let list: InstanceList = zone.iter().enumerate().map(one).collect();
        let selector: Tags = match wanted {
            3 => Tags::default(),
            version => [("version", format!("v{version}"))].into_iter().collect(),
        };
        let fits = |i: &&Arc<Instance>| i.tags.matches(&selector) && takes_traffic(i);
        let mut expected: Vec<_> = list.iter().filter(fits).map(Arc::as_ptr).collect();
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut choice = Choice::new(&list, &selector);
        let mut picked = Vec::new();
        while let Some(instance) = choice.pick(NOW, &mut rng) {
            picked.push(Arc::as_ptr(instance));
        }
        picked.sort();
        expected.sort();
        prop_assert_eq!(&picked, &expected);
        prop_assert_eq!(list.usable(&selector).is_ok(), !expected.is_empty());
    }
}

#[test]
fn tags_of_their_own_leave_the_shares_as_they_are() {
    // More distinct sets than are compared one by one: drawn by rejection for a frequent tag, by look-up for a rare one.
    let all = (0..1000u32).map(|number| {
        let mut made = instance(&format!("{number:04}"), 1 + number % 2, &[]);
        Arc::get_mut(&mut made).unwrap().tags = pod(number, u32::from(number >= 100)).into_iter().collect();
        made
    });
    let list: InstanceList = all.collect();
    let mut rng = SmallRng::seed_from_u64(3);
    for (selector, total) in [("v0", 100), ("v1", 900)] {
        let selector: Tags = [("version", selector)].into_iter().collect();
        let mut heavy = 0;
        for _ in 0..9_000 {
            let picked = Choice::new(&list, &selector).pick(NOW, &mut rng).unwrap();
            assert!(picked.tags.matches(&selector));
            heavy += u32::from(picked.weight == 2);
        }
        assert!((5_800..6_200).contains(&heavy), "{heavy} of {total}");
    }
}

/// Instance that each of some keys is given to.
fn owners(list: &InstanceList) -> BTreeMap<u32, String> {
    let none = Tags::default();
    let rng = &mut SmallRng::seed_from_u64(0);
    let owner = |number: u32| {
        let key = StickyKey::of_mark(&number.to_be_bytes());
        let picked = Choice::new(list, &none)
            .keyed(Some(key))
            .pick(Duration::ZERO, rng);
        (number, picked.unwrap().id.clone())
    };
    (0..500).map(owner).collect()
}

proptest! {
    #[test]
    fn what_leaves_moves_its_own_users_and_nobody_else(
        weights in prop::collection::vec(1u32..5, 2..20), leaving in any::<prop::sample::Index>(),
    ) {
        let all: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(number, weight)| instance(&format!("i{number:02}"), *weight, &[]))
            .collect();
        let leaving = leaving.index(all.len());
        let mut left = all.clone();
        let gone = left.remove(leaving);
        let (before, after) = (owners(&all.into()), owners(&left.into()));
        let mut moved = 0u32;
        for (number, owner) in &before {
            if *owner == gone.id {
                moved += 1;
            } else {
                // And in the other direction: what comes takes nobody from one to another.
                prop_assert_eq!(&after[number], owner);
            }
        }
        // Its share, give or take five deviations.
        let share = f64::from(weights[leaving]) / f64::from(weights.iter().sum::<u32>());
        let deviation = (500.0 * share * (1.0 - share)).sqrt();
        prop_assert!((f64::from(moved) - 500.0 * share).abs() < 5.0 * deviation + 1.0, "{} of share {}", moved, share);
    }
}

#[test]
fn a_user_goes_past_what_is_ill_or_was_tried_and_comes_back() {
    let all: Vec<_> = (0..5)
        .map(|number| instance(&format!("i{number}"), 1, &[]))
        .collect();
    let list: InstanceList = all.into();
    let (none, rng) = (Tags::default(), &mut SmallRng::seed_from_u64(0));
    let key = Some(StickyKey::of_mark(b"user"));
    let mut choice = Choice::new(&list, &none).keyed(key);
    let order: Vec<_> = std::iter::from_fn(|| choice.pick(Duration::ZERO, rng).cloned()).collect();
    assert_eq!(order.len(), 5, "each once");
    let first = |list: &InstanceList, besides: &[u64], after: &[u64], rng: &mut SmallRng| {
        let choice = Choice::new(list, &none).besides(besides).after(after);
        choice
            .keyed(key)
            .pick(Duration::ZERO, rng)
            .map(|instance| instance.id.clone())
    };
    assert_eq!(
        first(&list, &[order[0].number()], &[], rng).as_ref(),
        Some(&order[1].id)
    );
    assert_eq!(
        first(&list, &[], &[order[0].number()], rng).as_ref(),
        Some(&order[1].id)
    );
    let alone: InstanceList = vec![order[0].clone()].into();
    assert_eq!(
        first(&alone, &[], &[order[0].number()], rng).as_ref(),
        Some(&order[0].id),
        "there is no other"
    );
    // While it rests after it has refused, and no longer.
    order[0].load.refused(Duration::ZERO);
    assert_eq!(first(&list, &[], &[], rng).as_ref(), Some(&order[1].id));
    let later = Choice::new(&list, &none)
        .keyed(key)
        .pick(Duration::from_secs(60), rng);
    assert_eq!(later.map(|instance| &instance.id), Some(&order[0].id));
}

const START: Duration = Duration::from_secs(30);

/// Share of picks that the last of some instances gets at `now`.
fn share_of_last(instances: &[Arc<Instance>], now: Duration) -> f64 {
    let mut rng = SmallRng::seed_from_u64(11);
    let list: InstanceList = instances.iter().cloned().collect();
    let (any, last) = (Tags::default(), &instances[instances.len() - 1].id);
    let pick = |_| {
        Choice::new(&list, &any)
            .with_slow_start(Some(START))
            .pick(now, &mut rng)
            .unwrap()
            .id
            == *last
    };
    (0..10_000).map(pick).filter(|is_last| *is_last).count() as f64 / 10_000.0
}

#[test]
fn one_that_begins_comes_to_its_share_over_its_slow_start() {
    let both = [instance("a", 1, &[]), instance("b", 1, &[])];
    both[1].load.begins(NOW);
    for (after, expected) in [
        (0, 0.1 / 1.1),
        (3, 0.1 / 1.1),
        (15, 0.5 / 1.5),
        (30, 0.5),
        (300, 0.5),
    ] {
        let share = share_of_last(&both, NOW + Duration::from_secs(after));
        assert!(
            (share - expected).abs() < 0.02,
            "{share} after {after} s, not {expected}"
        );
    }
    // Nor is it given all because it is idle, as in a client's one connection after the other.
    let last = LoadGuard::new(both[0].load.clone());
    let share = share_of_last(&both, NOW);
    assert!((share - 0.18).abs() < 0.02, "{share}");
    drop(last);
    // Busy ones are not spared by giving it all: what is under way counts against its small part.
    let _busy: Vec<_> = (0..20).map(|_| LoadGuard::new(both[0].load.clone())).collect();
    let _one: Vec<_> = (0..3).map(|_| LoadGuard::new(both[1].load.clone())).collect();
    let share = share_of_last(&both, NOW);
    assert!(share < 0.1, "{share}");
    // Alone it takes everything, and those that begin together share alike.
    let new = [instance("c", 1, &[]), instance("d", 1, &[])];
    new.iter().for_each(|one| one.load.begins(NOW));
    assert_eq!(share_of_last(&new[1..], NOW), 1.0);
    assert!((share_of_last(&new, NOW) - 0.5).abs() < 0.02);
}

#[test]
fn one_that_goes_up_and_down_every_second_moves_few() {
    let moves_in_a_minute = |slow_start| {
        let stay: Vec<_> = ["a", "b", "c"].map(|id| instance(id, 1, &[])).into();
        let mut flapping = instance("d", 1, &[]);
        let (any, mut before, mut moves) = (Tags::default(), Vec::new(), 0usize);
        for second in 0..60u64 {
            let now = NOW + Duration::from_secs(second);
            let one = Arc::get_mut(&mut flapping).unwrap();
            one.health = if second % 2 == 0 {
                Health::Unhealthy
            } else {
                Health::Healthy
            };
            one.load.begins(now);
            let list: InstanceList = stay.iter().chain([&flapping]).cloned().collect();
            let place = |user: u64| {
                let choice = Choice::new(&list, &any).keyed(Some(StickyKey::of_mark(&user.to_le_bytes())));
                let picked = choice
                    .with_slow_start(slow_start)
                    .pick(now, &mut SmallRng::seed_from_u64(1));
                picked.unwrap().id.clone()
            };
            let places: Vec<String> = (0..1000).map(place).collect();
            moves += before
                .iter()
                .zip(&places)
                .filter(|(one, other)| one != other)
                .count();
            before = places;
        }
        moves
    };
    let (without, with) = (moves_in_a_minute(None), moves_in_a_minute(Some(START)));
    println!(
        "1,000 users, an instance of four that goes up and down every second: {without} moves in a minute, with a slow start {with}"
    );
    assert!((13_000..17_000).contains(&without), "{without}");
    assert!(with < without / 5, "{with} of {without}");
}
