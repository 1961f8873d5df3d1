//! Passing records on, over a made-up network: zones without a tunnel know each other, and a relay can delay what an
//! origin says, but neither change nor invent it.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail by panicking, in its own functions too"
)]

mod network;

use std::{sync::Arc, time::Duration};

use causeway_proto::sync::{Refused, Signed, SyncMessage, sync_message::Body};
use causeway_zone_sync::{
    catalog::Age,
    replica::{Event, LocalChange, Replica},
    signing::keyed::KeyedSigner,
};
use network::{Faults, Network, Program, config, export, gateway, zones};
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

fn has(network: &Network, at: usize, wanted: impl Fn(&Event) -> bool) -> bool {
    network
        .events
        .iter()
        .any(|(by, event)| *by == at && wanted(event))
}

fn nobody_is_refused(network: &Network) {
    let refused = network.events.iter().find(|(_, e)| {
        matches!(
            e,
            Event::Refused { .. } | Event::RelayRefused { .. } | Event::OwnRefused { .. }
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
fn replayed_beats_and_records_change_nothing() {
    let mut network = line(3);
    let mut rng = rng();
    network.tap(1, 2);
    network.advance(Duration::from_secs(10), &mut rng);
    network.local(0, LocalChange::Exports(vec![export(0, 4)]));
    network.advance(Duration::from_secs(5), &mut rng);
    let heard: Vec<_> = network.tapped().to_vec();
    let is_relayed = |message: &&SyncMessage| match &message.body {
        Some(Body::Heartbeat(heartbeat)) => heartbeat.beats.iter().any(|beat| beat.origin.is_some()),
        Some(Body::Snapshot(part)) => part.origin.is_some(),
        Some(Body::Delta(delta)) => delta.origin.is_some(),
        _ => false,
    };
    let relayed: Vec<_> = heard.iter().filter(is_relayed).cloned().collect();
    assert!(relayed.len() > 6, "{} messages", relayed.len());
    network.cut(0, 1);
    network.advance(Duration::from_secs(8), &mut rng);
    for _ in 0..30 {
        for message in &relayed {
            let (now, peer) = (network.now, gateway(1));
            network.replica_mut(2).handle_message(now, &peer, message.clone());
            assert_ne!(
                age(&network, 2, 0),
                Some(Age::Fresh),
                "a replay made it live again"
            );
            assert_eq!(
                healthy(&network, 2, 0),
                Some(4),
                "a replay brought an old record back"
            );
        }
        network.advance(Duration::from_secs(1), &mut rng);
    }
}

#[test]
fn a_relay_that_lost_touch_with_an_origin_does_not_make_it_live() {
    let mut network = line(3);
    let mut rng = rng();
    network.cut(1, 2);
    network.advance(Duration::from_secs(1), &mut rng);
    network.cut(0, 1);
    network.advance(Duration::from_secs(3), &mut rng);
    assert_eq!(age(&network, 1, 0), Some(Age::Fresh), "so lately was it heard");
    network.connect(1, 2);
    for _ in 0..10 {
        network.advance(Duration::from_secs(1), &mut rng);
        assert_ne!(age(&network, 2, 0), Some(Age::Fresh));
    }
    assert_eq!(
        age(&network, 2, 0),
        Some(Age::Suspect),
        "what is known is passed on all the same"
    );
    // The same after the relay has come back with what was on its disk.
    network.restart(1, &mut rng);
    network.restart_without_memory(2, &mut rng);
    network.local(
        2,
        LocalChange::Topology {
            fingerprint: Default::default(),
            zones: zones(&[0, 1, 2]),
        },
    );
    network.local(
        1,
        LocalChange::Topology {
            fingerprint: Default::default(),
            zones: zones(&[0, 1, 2]),
        },
    );
    network.connect(1, 2);
    network.advance(Duration::from_secs(4), &mut rng);
    assert_eq!(age(&network, 2, 0), Some(Age::Suspect));
    nobody_is_refused(&network);
}

/// Lets `change` alter what the relay of three in a line passes on, and says why it was refused.
fn altered(change: fn(&mut Body) -> bool) -> (Network, &'static str) {
    let mut network = line(3);
    let mut rng = rng();
    network.cut(1, 2);
    network.settle();
    network.connect(1, 2);
    network.tamper = Some(((1, 2), change));
    network.advance(Duration::from_secs(3), &mut rng);
    assert!(network.tampered > 0, "nothing was altered");
    let refused = network.events.iter().find_map(|(at, event)| match event {
        Event::RelayRefused {
            peer,
            origin,
            refusal,
        } if *at == 2 => {
            assert_eq!((peer, origin), (&gateway(1), &gateway(0)));
            Some(refusal.reason())
        }
        _ => None,
    });
    let session = network.replica(2).session(&gateway(1));
    assert!(session.is_some(), "the session with the relay goes on");
    (network, refused.expect("it was not refused"))
}

#[test]
fn an_altered_record_is_refused_its_origin_hears_of_it_and_the_session_goes_on() {
    let (network, reason) = altered(|body| match body {
        Body::Snapshot(part) if part.origin.is_some() && !part.exports.is_empty() => {
            let last = part.exports[0].len() - 1;
            part.exports[0][last] ^= 1;
            true
        }
        _ => false,
    });
    assert_eq!(reason, "digest_mismatch");
    assert!(network.replica(2).catalog().entry(&gateway(0)).is_none());
    let told = |event: &Event| {
        matches!(event, Event::OwnRefused { by, via, reason: "digest_mismatch", .. }
            if *by == gateway(2) && *via == gateway(1))
    };
    assert!(
        has(&network, 0, told),
        "its origin was not told: {:?}",
        network.events
    );
}

#[test]
fn words_that_the_origin_did_not_sign_are_refused() {
    // Says that it drains.
    let (network, reason) = altered(|body| {
        head(body).is_some_and(|head| {
            head.statement.extend([0x18, 1]);
            true
        })
    });
    assert_eq!(reason, "bad_signature");
    assert!(network.replica(2).catalog().entry(&gateway(0)).is_none());
    let (_, reason) = altered(|body| {
        head(body).is_some_and(|head| {
            head.signature.clear();
            true
        })
    });
    assert_eq!(reason, "bad_signature");
}

/// What was signed of a record that is passed on whole.
fn head(body: &mut Body) -> Option<&mut Signed> {
    match body {
        Body::Snapshot(part) if part.origin.is_some() => part.head.as_mut(),
        _ => None,
    }
}

#[test]
fn a_relay_that_speaks_for_a_zone_it_was_not_asked_for_is_refused() {
    let mut network = line(3);
    network.advance(Duration::from_secs(3), &mut rng());
    network.tap(1, 2);
    network.local(0, LocalChange::Exports(vec![export(0, 4)]));
    network.settle();
    let tapped = network.tapped().iter();
    let delta = tapped.filter(|m| matches!(&m.body, Some(Body::Delta(delta)) if delta.origin.is_some()));
    let delta = delta.last().cloned().unwrap();
    // Another gateway, which has a session with everybody.
    let mut all = federation(&[Program::Present; 3], &[(0, 1), (1, 2), (0, 2)]);
    all.settle();
    let now = all.now;
    all.replica_mut(2).handle_message(now, &gateway(1), delta);
    all.collect();
    let refused = |event: &Event| matches!(event, Event::Refused { peer, refusal } if *peer == gateway(1) && refusal.reason() == "wrong_origin");
    assert!(has(&all, 2, refused));
    assert!(
        all.replica(2).session(&gateway(0)).is_some(),
        "nobody else's session ends"
    );
}

#[test]
fn programs_of_three_protocols_sync_and_what_only_the_newest_says_survives_the_present_relay() {
    use Program::{Newer, Older, Present};
    let mut network = federation(&[Newer, Present, Newer, Older], &[(0, 1), (1, 2), (1, 3), (0, 3)]);
    network.advance(Duration::from_secs(6), &mut rng());
    let at_two = network
        .replica(2)
        .catalog()
        .entry(&gateway(0))
        .unwrap()
        .record
        .clone();
    let own = network.replica(0).own().clone();
    assert_eq!(at_two, own);
    let (service, tags) = (&export(0, 1).service, &export(0, 1).tags);
    assert!(
        own.exports.foreign(service, tags).is_some(),
        "the newer program says more"
    );
    assert_eq!(
        at_two.exports.foreign(service, tags),
        own.exports.foreign(service, tags)
    );
    let words = &at_two.signed.as_ref().unwrap().words;
    assert!(words.ends_with(&[0xf8, 7, 1]), "its statement says more too");
    let spoken = |at: usize, peer: usize| network.replica(at).session(&gateway(peer)).unwrap().protocol;
    assert_eq!(
        [spoken(0, 1), spoken(1, 0), spoken(1, 3), spoken(3, 1)],
        [Some(2), Some(2), Some(1), Some(1)]
    );
    assert_eq!(healthy(&network, 3, 0), Some(1), "protocol 1 syncs directly");
    assert_eq!(healthy(&network, 0, 3), Some(1));
    assert_eq!(
        healthy(&network, 2, 3),
        None,
        "a record of protocol 1 is not signed, so it is not passed on"
    );
    assert!(has(&network, 1, |event| matches!(
        event,
        Event::PassedOver { .. }
    )));
    nobody_is_refused(&network);
}

#[test]
fn programs_without_a_protocol_in_common_say_so() {
    let mut network = Network::new(2, Faults::default());
    let mut far = config(1, 1, Program::Newer);
    far.speaks.oldest = 3;
    *network.replica_mut(1) = Replica::new(network.now, far, []);
    network.connect(0, 1);
    network.settle();
    let unknown = |event: &Event| match event {
        Event::Refused { refusal, .. } => refusal.reason() == "unknown_protocol",
        Event::RefusedByPeer { reason, .. } => *reason == "unknown_protocol",
        _ => false,
    };
    assert!(has(&network, 0, unknown) && has(&network, 1, unknown));
}

#[test]
fn a_held_record_that_is_not_what_its_origin_signed_is_found_and_repaired() {
    let mut network = Network::new(2, Faults::default());
    network.connect(0, 1);
    network.local(0, LocalChange::Exports((0..500).map(|i| export(i, 1)).collect()));
    network.settle();
    // As if a byte had changed on the disk.
    let mut damaged = network
        .replica(1)
        .catalog()
        .entry(&gateway(0))
        .unwrap()
        .record
        .as_ref()
        .clone();
    damaged.exports.insert(export(250, 9));
    network.cut(0, 1);
    *network.replica_mut(1) = Replica::new(network.now, config(1, 2, Program::Present), [damaged.clone()]);
    network.connect(0, 1);
    network.unchecked = true;
    network.settle();
    assert_eq!(
        network
            .replica(1)
            .catalog()
            .entry(&gateway(0))
            .unwrap()
            .record
            .as_ref(),
        &damaged
    );
    network.advance(Duration::from_secs(2), &mut rng());
    assert!(network.has_converged(), "it was not repaired");
    assert!(has(&network, 1, |event| matches!(event, Event::Diverged { .. })));
    nobody_is_refused(&network);
}

#[test]
fn a_renewed_certificate_is_told_and_relays_go_on() {
    let mut network = Network::new(3, Faults::default());
    let signer = Arc::new(KeyedSigner::new([7; 32], &gateway(0)));
    let mut own = config(0, 1, Program::Present);
    own.signer = Some(signer.clone());
    *network.replica_mut(0) = Replica::new(network.now, own, []);
    for at in 0..3 {
        let (fingerprint, zones) = (Default::default(), zones(&[0, 1, 2]));
        network.local(at, LocalChange::Topology { fingerprint, zones });
        network.local(at, LocalChange::Exports(vec![export(at, 1)]));
    }
    network.connect(0, 1);
    network.connect(1, 2);
    network.advance(Duration::from_secs(5), &mut rng());
    for round in 0..5 {
        signer.renew();
        network.advance(Duration::from_millis(300 * round), &mut rng());
        network.local(
            0,
            LocalChange::Exports(vec![export(0, u32::try_from(round).unwrap())]),
        );
        network.advance(Duration::from_secs(4), &mut rng());
        assert!(network.has_converged(), "{}", network.describe());
        assert_eq!(age(&network, 2, 0), Some(Age::Fresh));
    }
    nobody_is_refused(&network);
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
fn a_flap_in_a_large_record_costs_less_than_two_hundred_bytes_also_through_a_relay() {
    let mut network = line(3);
    let mut rng = rng();
    let mut exports: Vec<_> = (0..1_000).map(|i| export(i, 1)).collect();
    network.local(0, LocalChange::Exports(exports.clone()));
    network.local(0, LocalChange::TopologyGeneration(12));
    network.advance(Duration::from_secs(6), &mut rng);
    for (from, to, most) in [(0, 1, 180), (1, 2, 195)] {
        network.tap(from, to);
        exports[500].healthy += 1;
        network.local(0, LocalChange::Exports(exports.clone()));
        network.settle();
        let sizes: Vec<_> = network.tapped().iter().map(prost::Message::encoded_len).collect();
        assert!(
            sizes.len() == 1 && sizes[0] < most,
            "the change took {sizes:?} bytes from {from} to {to}"
        );
    }
}

#[test]
fn a_peer_that_floods_is_refused() {
    for message in [
        Body::Heartbeat(Default::default()),
        Body::Want(Default::default()),
        Body::Refused(Refused {
            origin: Some(Default::default()),
            ..Refused::default()
        }),
    ] {
        let mut network = line(3);
        network.settle();
        let (now, peer) = (network.now, gateway(0));
        let body = Some(message);
        for _ in 0..2_000 {
            network
                .replica_mut(1)
                .handle_message(now, &peer, SyncMessage { body: body.clone() });
        }
        network.collect();
        assert!(network.replica(1).session(&peer).is_none());
        assert!(network.replica(1).session(&gateway(2)).is_some());
    }
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
