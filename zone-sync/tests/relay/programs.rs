//! Programs of several protocols, repair of what is not what its origin signed, renewed certificates, and sizes.

use std::{sync::Arc, time::Duration};

use causeway_federation::{catalog::Age, signing::keyed::KeyedSigner};
use causeway_zone_sync::replica::{LocalChange, Replica, ReplicaEvent};

use super::{
    age, federation, has, healthy, line,
    network::{Faults, Network, Program, config, export, gateway, zones},
    nobody_is_refused, rng,
};

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
        ReplicaEvent::PassedOver { .. }
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
    let unknown = |event: &ReplicaEvent| match event {
        ReplicaEvent::Refused { refusal, .. } => refusal.reason() == "unknown_protocol",
        ReplicaEvent::RefusedByPeer { reason, .. } => *reason == "unknown_protocol",
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
    assert!(has(&network, 1, |event| matches!(
        event,
        ReplicaEvent::Diverged { .. }
    )));
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
