//! Passing records on, over a made-up network: zones without a tunnel know each other, and a relay can delay what an
//! origin says, but neither change nor invent it.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail by panicking, in its own functions too"
)]

mod lies;
#[path = "../network/mod.rs"]
mod network;
mod programs;

use std::time::Duration;

use causeway_federation::catalog::Age;
use causeway_proto::sync::{SyncMessage, sync_message::Body};
use causeway_zone_sync::replica::{LocalChange, ReplicaEvent};
use network::{Faults, Network, Program, export, gateway, zones};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Replicas that all know of all zones, with the sessions of `links`; each exports a little.
fn federation(programs: &[Program], links: &[(usize, usize)]) -> Network {
    let mut network = Network::of(programs, Faults::default());
    let all: Vec<_> = (0..programs.len()).collect();
    for at in 0..programs.len() {
        let zones = zones(&all);
        let fingerprint = Default::default();
        network.local(at, LocalChange::Topology { fingerprint, zones });
        network.local(at, LocalChange::Exports(vec![export(at, 1)]));
    }
    for (a, b) in links {
        network.connect(*a, *b);
    }
    network
}

fn line(count: usize) -> Network {
    let links: Vec<_> = (1..count).map(|at| (at - 1, at)).collect();
    federation(&vec![Program::Present; count], &links)
}

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

fn age(network: &Network, at: usize, origin: usize) -> Option<Age> {
    network
        .replica(at)
        .catalog()
        .entry(&gateway(origin))
        .map(|e| e.age)
}

fn healthy(network: &Network, at: usize, origin: usize) -> Option<u32> {
    let entry = network.replica(at).catalog().entry(&gateway(origin))?;
    entry.record.exports.iter().next().map(|export| export.healthy)
}

fn has(network: &Network, at: usize, wanted: impl Fn(&ReplicaEvent) -> bool) -> bool {
    network
        .events
        .iter()
        .any(|(by, event)| *by == at && wanted(event))
}

fn nobody_is_refused(network: &Network) {
    let refused = network.events.iter().find(|(_, e)| {
        matches!(
            e,
            ReplicaEvent::Refused { .. }
                | ReplicaEvent::RelayRefused { .. }
                | ReplicaEvent::OwnRefused { .. }
        )
    });
    assert!(refused.is_none(), "{refused:?}");
}

#[test]
fn a_zone_without_a_tunnel_is_known_through_a_relay_and_stays_fresh_while_it_lives() {
    let mut network = line(3);
    network.advance(Duration::from_millis(2_500), &mut rng());
    assert_eq!(healthy(&network, 2, 0), Some(1));
    let entry = network.replica(2).catalog().entry(&gateway(0)).unwrap().clone();
    assert_eq!(entry.via, Some(gateway(1)));
    assert_eq!(entry.record, *network.replica(0).own());
    for _ in 0..60 {
        network.advance(Duration::from_secs(1), &mut rng());
        assert_eq!(age(&network, 2, 0), Some(Age::Fresh), "beats are passed on");
    }
    network.local(0, LocalChange::Exports(vec![export(0, 5)]));
    network.settle();
    assert_eq!(healthy(&network, 2, 0), Some(5), "a change is passed on at once");
    network.local(0, LocalChange::Draining(true));
    network.settle();
    let entry = network.replica(2).catalog().entry(&gateway(0)).unwrap();
    assert!(entry.record.draining);
    // The origin goes; the relay does not.
    network.cut(0, 1);
    network.advance(Duration::from_secs(8), &mut rng());
    assert_eq!(age(&network, 2, 0), Some(Age::Suspect));
    network.advance(Duration::from_secs(300), &mut rng());
    assert_eq!(age(&network, 2, 0), Some(Age::Withdrawn));
    nobody_is_refused(&network);
}

#[test]
fn records_pass_over_a_long_chain_of_relays_both_ways() {
    let mut network = line(6);
    network.advance(Duration::from_secs(20), &mut rng());
    assert!(network.has_converged(), "{}", network.describe());
    for _ in 0..40 {
        network.advance(Duration::from_secs(1), &mut rng());
        assert_eq!(age(&network, 5, 0), Some(Age::Fresh));
        assert_eq!(age(&network, 0, 5), Some(Age::Fresh));
    }
    network.local(0, LocalChange::Exports(vec![export(0, 3)]));
    network.settle();
    assert!(network.has_converged(), "{}", network.describe());
    nobody_is_refused(&network);
}

#[test]
fn an_origin_that_changes_all_the_time_is_heard_through_relays_too() {
    let mut network = line(4);
    let mut rng = rng();
    network.advance(Duration::from_secs(12), &mut rng);
    for step in 0..400 {
        network.local(0, LocalChange::Exports(vec![export(0, step % 9)]));
        network.advance(Duration::from_millis(50), &mut rng);
        assert_eq!(age(&network, 3, 0), Some(Age::Fresh), "at step {step}");
    }
    nobody_is_refused(&network);
}

#[test]
fn nobody_asks_for_a_zone_that_it_has_a_session_with() {
    let mut network = federation(&[Program::Present; 3], &[(0, 1), (1, 2), (0, 2)]);
    network.advance(Duration::from_secs(10), &mut rng());
    for at in 0..3 {
        for peer in (0..3).filter(|peer| *peer != at) {
            let session = network.replica(at).session(&gateway(peer)).unwrap();
            assert!(session.asked.is_empty() && session.wanted.is_empty());
        }
    }
    network.cut(0, 2);
    network.advance(Duration::from_secs(4), &mut rng());
    let session = |network: &Network| network.replica(0).session(&gateway(1)).unwrap();
    assert_eq!(session(&network).asked, zones(&[2]));
    let relay = network.replica(1).session(&gateway(0)).unwrap();
    assert_eq!(relay.wanted, zones(&[2]));
    network.connect(0, 2);
    network.advance(Duration::from_secs(1), &mut rng());
    assert!(
        session(&network).asked.is_empty(),
        "a session of one's own ends the want"
    );
    assert!(session(&network).wanted.is_empty());
    let entry = network.replica(0).catalog().entry(&gateway(2)).unwrap();
    assert_eq!(entry.via, None, "the origin itself is heard again");
    nobody_is_refused(&network);
}

#[test]
fn peers_that_know_nothing_are_passed_over_until_one_is_found_that_does() {
    // The first has eight peers, and only one of those has a session with the last.
    for knowing in 1..=8 {
        let mut links: Vec<_> = (1..=8).map(|peer| (0, peer)).collect();
        links.push((knowing, 9));
        let mut network = federation(&[Program::Present; 10], &links);
        network.advance(Duration::from_secs(25), &mut rng());
        assert_eq!(healthy(&network, 0, 9), Some(1), "{knowing} was never asked");
        network.advance(Duration::from_secs(20), &mut rng());
        assert_eq!(age(&network, 0, 9), Some(Age::Fresh), "whoever delivers is kept");
    }
}

#[test]
fn a_gateway_that_lost_its_store_and_clock_hears_it_through_its_relay() {
    let mut network = line(3);
    let mut rng = rng();
    network.advance(Duration::from_secs(4), &mut rng);
    network.restart_without_memory(0, &mut rng);
    network.restart_without_memory(1, &mut rng);
    for at in [0, 1] {
        let (fingerprint, zones) = (Default::default(), zones(&[0, 1, 2]));
        network.local(at, LocalChange::Topology { fingerprint, zones });
        network.local(at, LocalChange::Exports(vec![export(at, 8)]));
    }
    network.connect(0, 1);
    network.connect(1, 2);
    network.advance(Duration::from_secs(20), &mut rng);
    assert!(network.has_converged(), "{}", network.describe());
    assert_eq!(age(&network, 2, 0), Some(Age::Fresh));
}

/// Tells a replica which zones there are.
fn tell_zones(network: &mut Network, at: usize, indexes: &[usize]) {
    let (fingerprint, zones) = (Default::default(), zones(indexes));
    network.local(at, LocalChange::Topology { fingerprint, zones });
}

#[test]
fn an_origin_that_came_back_with_less_than_was_forgotten_of_it_hears_so_and_is_heard() {
    let mut network = line(3);
    let mut rng = rng();
    network.advance(Duration::from_secs(4), &mut rng);
    assert_eq!(age(&network, 2, 0), Some(Age::Fresh));
    tell_zones(&mut network, 2, &[1, 2]);
    network.collect();
    // Only the one that forgot it ever knew of its earlier life.
    for at in [0, 1] {
        network.restart_without_memory(at, &mut rng);
        tell_zones(&mut network, at, &[0, 1, 2]);
        network.local(at, LocalChange::Exports(vec![export(at, 8)]));
    }
    network.connect(0, 1);
    network.connect(1, 2);
    network.advance(Duration::from_secs(1), &mut rng);
    tell_zones(&mut network, 2, &[0, 1, 2]);
    network.advance(Duration::from_secs(10), &mut rng);
    assert!(network.has_converged(), "{}", network.describe());
    assert_eq!(age(&network, 2, 0), Some(Age::Fresh));
}

#[test]
fn an_outdated_record_in_many_parts_is_as_old_as_the_first_of_them() {
    let mut network = line(3);
    let mut rng = rng();
    let many = (0..4_000).map(|service| export(service, 1)).collect();
    network.local(0, LocalChange::Exports(many));
    network.advance(Duration::from_secs(4), &mut rng);
    network.cut(0, 1);
    network.cut(1, 2);
    network.advance(Duration::from_secs(6), &mut rng);
    network.tap(1, 2);
    network.restart_without_memory(2, &mut rng);
    tell_zones(&mut network, 2, &[0, 1, 2]);
    network.connect(1, 2);
    network.advance(Duration::from_secs(4), &mut rng);
    let part =
        |m: &&SyncMessage| matches!(&m.body, Some(Body::Snapshot(part)) if part.outdated && part.parts > 1);
    let parts: Vec<_> = network.tapped().iter().filter(part).cloned().collect();
    assert!(parts.len() > 1, "{} parts", parts.len());
    // The same again, with a pause after the first, from a relay that adds nothing of its own.
    for at in [1, 2] {
        network.restart_without_memory(at, &mut rng);
        tell_zones(&mut network, at, &[0, 1, 2]);
    }
    network.connect(1, 2);
    network.advance(Duration::from_secs(4), &mut rng);
    let first = network.now;
    for (number, part) in parts.into_iter().enumerate() {
        let (now, peer) = (network.now, gateway(1));
        network.replica_mut(2).handle_message(now, &peer, part);
        if number == 0 {
            network.advance(Duration::from_secs(3), &mut rng);
        }
    }
    assert_eq!(age(&network, 2, 0), Some(Age::Suspect));
    let until = |network: &Network, seconds| first + Duration::from_secs(seconds) - network.now;
    network.advance(until(&network, 299), &mut rng);
    assert_eq!(age(&network, 2, 0), Some(Age::Suspect));
    network.advance(until(&network, 301), &mut rng);
    assert_eq!(age(&network, 2, 0), Some(Age::Withdrawn));
}

#[test]
fn a_zone_that_left_the_topology_is_forgotten_although_relays_still_tell_of_it() {
    let mut network = line(3);
    let mut rng = rng();
    network.advance(Duration::from_secs(4), &mut rng);
    assert!(age(&network, 2, 0).is_some());
    let (fingerprint, left) = (Default::default(), zones(&[1, 2]));
    network.local(
        2,
        LocalChange::Topology {
            fingerprint,
            zones: left,
        },
    );
    network.local(0, LocalChange::Exports(vec![export(0, 6)]));
    for _ in 0..10 {
        network.advance(Duration::from_secs(1), &mut rng);
        assert_eq!(age(&network, 2, 0), None);
    }
    let (fingerprint, back) = (Default::default(), zones(&[0, 1, 2]));
    network.local(
        2,
        LocalChange::Topology {
            fingerprint,
            zones: back,
        },
    );
    network.advance(Duration::from_secs(4), &mut rng);
    assert_eq!(healthy(&network, 2, 0), Some(6));
    nobody_is_refused(&network);
}

#[test]
fn changes_without_end_are_sent_at_a_measured_pace_and_the_newest_arrives() {
    let mut network = line(3);
    let mut rng = rng();
    network.advance(Duration::from_secs(4), &mut rng);
    network.tap(0, 1);
    for step in 0..2_000 {
        network.local(0, LocalChange::Exports(vec![export(0, step % 9)]));
        network.advance(Duration::from_millis(1), &mut rng);
    }
    let deltas = network
        .tapped()
        .iter()
        .filter(|m| matches!(m.body, Some(Body::Delta(_))))
        .count();
    assert!((100..=220).contains(&deltas), "{deltas} deltas in two seconds");
    network.advance(Duration::from_millis(50), &mut rng);
    assert!(network.has_converged(), "{}", network.describe());
    nobody_is_refused(&network);
}

/// Random changes over a random mesh that loses, repeats and swaps; then it heals and everyone knows everything.
fn converges(count: usize, seed: u64, faults: Faults) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let links: Vec<_> = (1..count).map(|at| (rng.random_range(0..at), at)).collect();
    let programs: Vec<_> = (0..count)
        .map(|_| {
            if rng.random_bool(0.3) {
                Program::Newer
            } else {
                Program::Present
            }
        })
        .collect();
    let mut network = federation(&programs, &links);
    network.set_faults(faults);
    for _ in 0..40 {
        let (a, b) = links[rng.random_range(0..links.len())];
        match rng.random_range(0..12) {
            0 => network.cut(a, b),
            1 => network.local(a, LocalChange::Draining(rng.random())),
            2..=7 => network.change_exports(a, &mut rng),
            _ => network.connect(a, b),
        }
        network.advance(Duration::from_millis(rng.random_range(1..900)), &mut rng);
    }
    network.heal();
    for _ in 0..60 {
        for (a, b) in &links {
            let is_up = |a: usize, b: usize| network.replica(a).session(&gateway(b)).is_some();
            if !is_up(*a, *b) || !is_up(*b, *a) {
                network.connect(*a, *b);
            }
        }
        network.advance(Duration::from_secs(1), &mut rng);
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
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_random_tree_of_zones_converges_through_relays(
        seed in any::<u64>(), count in 3usize..8, lose in 0.0..0.2, repeat in 0.0..0.1, swap in 0.0..0.2,
    ) {
        converges(count, seed, Faults { lose, repeat, swap });
    }
}
