//! The replica core over a made-up network: seeds decide what is lost, repeated, swapped and cut, and after every
//! step the invariants hold. Set `PROPTEST_CASES` to try more seeds.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail by panicking, in its own functions too"
)]

mod network;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{
    catalog::{Age, Exports, Record},
    edition::Edition,
    name::GatewayId,
    signing::{Credential, Signed, Unproven, Verifier},
};
use causeway_zone_sync::replica::{
    LocalChange, Replica, ReplicaConfig, ReplicaEvent, limits::MAX_PART_BYTES,
};
use network::{Faults, Network, export, gateway, zones};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Random changes at random replicas under faults; then the faults heal, and everyone knows what everyone said.
fn converges(zones: usize, seed: u64, faults: Faults) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut network = Network::new(zones, faults);
    network.reopens = true;
    network.connect_all();
    for _ in 0..120 {
        let at = rng.random_range(0..zones);
        match rng.random_range(0..20) {
            0 => network.restart(at, &mut rng),
            1 => network.local(at, LocalChange::Draining(rng.random())),
            2 => network.cut(at, rng.random_range(0..zones)),
            3..=12 => network.change_exports(at, &mut rng),
            _ => {}
        }
        network.advance(Duration::from_millis(rng.random_range(1..700)), &mut rng);
    }
    network.heal();
    for _ in 0..400 {
        network.advance(Duration::from_millis(250), &mut rng);
        if network.has_converged() {
            return;
        }
    }
    panic!(
        "seed {seed}: the replicas did not converge:\n{}",
        network.describe()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn two_replicas_converge_over_a_lossless_network(seed in any::<u64>()) {
        converges(2, seed, Faults::default());
    }

    #[test]
    fn three_replicas_converge_over_a_network_that_loses_repeats_and_swaps(
        seed in any::<u64>(), lose in 0.0..0.3, repeat in 0.0..0.2, swap in 0.0..0.3,
    ) {
        converges(3, seed, Faults { lose, repeat, swap });
    }
}

#[test]
fn a_change_travels_as_a_small_delta_whatever_the_size_of_the_record() {
    let mut network = Network::new(2, Faults::default());
    network.connect_all();
    network.local(
        0,
        LocalChange::Exports((0..50_000).map(|i| export(i, 1)).collect()),
    );
    network.settle();
    let before = network.bytes;
    let mut all: Vec<_> = (0..50_000).map(|i| export(i, 1)).collect();
    all[25_000].healthy = 0;
    network.local(0, LocalChange::Exports(all));
    network.settle();
    assert!(network.has_converged(), "{}", network.describe());
    let bytes = network.bytes - before;
    assert!(bytes < 300, "one changed export took {bytes} bytes");
    assert!(before > 1_000_000, "the whole record took only {before} bytes");
    assert!(
        network.largest <= MAX_PART_BYTES + 1024,
        "a message has {} bytes",
        network.largest
    );
}

#[test]
fn a_reconnected_peer_is_sent_only_what_it_missed() {
    let mut network = Network::new(2, Faults::default());
    network.connect_all();
    let mut all: Vec<_> = (0..20_000).map(|i| export(i, 1)).collect();
    network.local(0, LocalChange::Exports(all.clone()));
    network.settle();
    network.cut(0, 1);
    for i in 0..5 {
        all[i * 100].healthy = 7;
        network.local(0, LocalChange::Exports(all.clone()));
    }
    let before = network.bytes;
    network.connect(0, 1);
    network.settle();
    assert!(network.has_converged(), "{}", network.describe());
    assert!(network.bytes - before < 1500, "{} bytes", network.bytes - before);
}

#[test]
fn changes_gather_while_a_delta_is_on_its_way() {
    let mut network = Network::new(2, Faults::default());
    network.connect_all();
    network.local(0, LocalChange::Exports(vec![export(0, 0)]));
    network.settle();
    let before = network.messages;
    for healthy in 1..=9 {
        network.local(0, LocalChange::Exports(vec![export(0, healthy)]));
        network.collect();
    }
    network.settle();
    assert!(network.has_converged());
    // Two deltas, one for the first change and one for the other eight, and their acknowledgements.
    assert_eq!(network.messages - before, 4);
}

#[test]
fn a_lost_delta_is_repaired_after_the_next_heartbeat() {
    let mut network = Network::new(2, Faults::default());
    network.connect_all();
    network.local(0, LocalChange::Exports(vec![export(0, 1)]));
    network.settle();
    network.local(0, LocalChange::Exports(vec![export(0, 2)]));
    network.collect();
    network.lose_everything_in_flight();
    network.settle();
    assert!(!network.has_converged());
    let mut rng = SmallRng::seed_from_u64(0);
    network.advance(Duration::from_millis(1100), &mut rng);
    assert!(network.has_converged(), "{}", network.describe());
}

#[test]
fn an_origin_ages_by_the_time_since_it_was_heard_and_comes_back() {
    let mut network = Network::new(2, Faults::default());
    let mut rng = SmallRng::seed_from_u64(0);
    network.connect_all();
    network.local(0, LocalChange::Exports(vec![export(0, 1)]));
    let mut seen = vec![];
    let look = |network: &Network| network.replica(1).catalog().entry(&gateway(0)).map(|e| e.age);
    network.settle();
    for _ in 0..20 {
        network.advance(Duration::from_secs(1), &mut rng);
        assert_eq!(look(&network), Some(Age::Fresh), "heartbeats keep it fresh");
    }
    network.cut(0, 1);
    for second in 0..3905 {
        let last = seen.last().map(|(_, age)| *age);
        if let Some(age) = look(&network).filter(|age| Some(*age) != last) {
            seen.push((second, age));
        }
        network.advance(Duration::from_secs(1), &mut rng);
    }
    assert_eq!(seen, [(0, Age::Fresh), (5, Age::Suspect), (300, Age::Withdrawn)]);
    assert_eq!(
        look(&network),
        None,
        "a withdrawn record is forgotten after an hour"
    );
    network.connect(0, 1);
    network.settle();
    assert_eq!(look(&network), Some(Age::Fresh));
}

#[test]
fn a_restored_record_is_suspect_until_its_origin_is_heard_and_confirms_it() {
    let mut network = Network::new(2, Faults::default());
    let mut rng = SmallRng::seed_from_u64(0);
    network.connect_all();
    network.local(0, LocalChange::Exports(vec![export(0, 1)]));
    network.settle();
    network.restart(1, &mut rng);
    let look = |network: &Network| network.replica(1).catalog().entry(&gateway(0)).map(|e| e.age);
    assert_eq!(look(&network), Some(Age::Suspect));
    network.advance(Duration::from_millis(10), &mut rng);
    let now = network.now;
    network.replica_mut(1).handle_timeout(now);
    assert_eq!(
        look(&network),
        Some(Age::Suspect),
        "time alone does not make it fresh"
    );
    let before = network.bytes;
    network.connect(0, 1);
    network.settle();
    assert_eq!(look(&network), Some(Age::Fresh));
    assert!(network.bytes - before < 300, "nothing had to be sent again");
    network.restart(1, &mut rng);
    network.advance(Duration::from_secs(301), &mut rng);
    assert_eq!(
        look(&network),
        Some(Age::Withdrawn),
        "withdrawn as measured from the restart"
    );
}

#[test]
fn a_zone_that_leaves_the_topology_is_forgotten_and_its_session_ends() {
    let mut network = Network::new(3, Faults::default());
    network.connect_all();
    for at in 0..3 {
        network.local(at, LocalChange::Exports(vec![export(0, 1)]));
    }
    network.settle();
    network.local(
        0,
        LocalChange::Topology {
            fingerprint: Default::default(),
            zones: zones(&[0, 2]),
        },
    );
    network.settle();
    let left: BTreeSet<_> = network
        .replica(0)
        .catalog()
        .entries()
        .map(|e| e.record.origin.clone())
        .collect();
    assert_eq!(left, [gateway(2)].into_iter().collect());
    assert!(network.replica(0).session(&gateway(1)).is_none());
    assert!(network.events.iter().any(|(at, event)| *at == 1
        && matches!(
            event,
            ReplicaEvent::RefusedByPeer {
                reason: "unknown_zone",
                ..
            }
        )));
    assert!(
        network.replica(0).session(&gateway(2)).is_some(),
        "the rest goes on"
    );
}

#[test]
fn a_gateway_that_lost_its_store_and_clock_is_heard_again_after_a_new_incarnation() {
    let mut network = Network::new(2, Faults::default());
    let mut rng = SmallRng::seed_from_u64(0);
    network.connect_all();
    for healthy in 0..5 {
        network.local(0, LocalChange::Exports(vec![export(0, healthy)]));
        network.settle();
    }
    network.restart_without_memory(0, &mut rng);
    network.local(0, LocalChange::Exports(vec![export(0, 9)]));
    network.connect(0, 1);
    network.settle();
    assert!(network.has_converged(), "{}", network.describe());
    assert!(
        !network
            .events
            .iter()
            .any(|(_, e)| matches!(e, ReplicaEvent::Refused { .. }))
    );
}

#[test]
fn a_blocked_peer_is_given_nothing_until_it_is_writable() {
    let mut network = Network::new(2, Faults::default());
    let mut rng = SmallRng::seed_from_u64(0);
    network.connect_all();
    network.settle();
    network.replica_mut(0).handle_blocked(&gateway(1));
    network.local(
        0,
        LocalChange::Exports((0..9_000).map(|i| export(i, 1)).collect()),
    );
    network.advance(Duration::from_secs(3), &mut rng);
    assert!(network.replica(1).catalog().entry(&gateway(0)).is_none());
    network.replica_mut(0).handle_writable(&gateway(1));
    network.settle();
    assert!(network.has_converged(), "{}", network.describe());
}

/// Believes everybody until it is told not to believe certificates any more.
#[derive(Debug, Default)]
struct Wary(std::sync::atomic::AtomicBool);

impl Verifier for Wary {
    fn verify(&self, _: &GatewayId, _: &Credential, _: &[u8], _: &[u8]) -> Result<(), Unproven> {
        match self.0.load(std::sync::atomic::Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Unproven::Credential("it was revoked".to_owned())),
        }
    }
}

fn id(zone: &str) -> GatewayId {
    GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap())
}

#[test]
fn what_is_held_of_a_gateway_that_is_not_believed_any_more_is_forgotten() {
    let record = |zone: &str, signature: &[u8]| Record {
        origin: id(zone),
        incarnation: 5,
        version: 3,
        exports: Exports::default(),
        draining: false,
        topology: Default::default(),
        topology_generation: 0,
        trust: Default::default(),
        trust_ended: 0,
        shifts: Default::default(),
        signed: Some(Arc::new(Signed {
            words: [][..].into(),
            signature: signature.into(),
            credential: Arc::default(),
        })),
    };
    let (now, wary) = (Instant::now(), Arc::new(Wary::default()));
    let config = ReplicaConfig::new(id("east"), 7, wary.clone());
    let held = [record("west", &[1]), record("north", &[])];
    let mut replica = Replica::new(now, config, held);
    let origins = |replica: &Replica| {
        let entries = replica.catalog().entries();
        entries
            .map(|entry| entry.record.origin.clone())
            .collect::<Vec<_>>()
    };
    let edition = Edition {
        generation: 4,
        ..Default::default()
    };
    replica.handle_local(now, LocalChange::Trust(edition));
    assert_eq!(origins(&replica).len(), 2, "it is believed as before");
    assert_eq!(
        replica.own().trust,
        edition,
        "and others are told what is in force"
    );
    wary.0.store(true, std::sync::atomic::Ordering::Relaxed);
    replica.handle_local(now, LocalChange::Trust(edition));
    // What was never signed came from its origin itself, whose session ends with its tunnel.
    assert_eq!(origins(&replica), [id("north")]);
    let forgotten = ReplicaEvent::Forgotten { origin: id("west") };
    assert_eq!(replica.poll_event(), Some(forgotten));
}
