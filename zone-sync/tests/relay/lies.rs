//! Tests of what a peer that lies, repeats itself or has lost touch can and cannot do.

use std::{sync::Arc, time::Duration};

use causeway_federation::{catalog::Age, signing::keyed::KeyedSigner};
use causeway_proto::sync::{Refused, Signed, SyncMessage, sync_message::Body};
use causeway_zone_sync::replica::{LocalChange, Replica, ReplicaEvent};

use super::{
    age, federation, has, healthy, line,
    network::{Network, Program, config, export, gateway, zones},
    nobody_is_refused, rng,
};

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
        ReplicaEvent::RelayRefused {
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
    let told = |event: &ReplicaEvent| {
        matches!(event, ReplicaEvent::OwnRefused { by, via, reason: "digest_mismatch", .. }
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

/// Signed head of a record that is passed on whole.
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
    let mut delta = tapped.filter(|m| matches!(&m.body, Some(Body::Delta(delta)) if delta.origin.is_some()));
    let delta = delta.next_back().cloned().unwrap();
    // Another gateway, which has a session with everybody.
    let mut all = federation(&[Program::Present; 3], &[(0, 1), (1, 2), (0, 2)]);
    all.settle();
    let now = all.now;
    all.replica_mut(2).handle_message(now, &gateway(1), delta);
    all.collect();
    let refused = |event: &ReplicaEvent| matches!(event, ReplicaEvent::Refused { peer, refusal } if *peer == gateway(1) && refusal.reason() == "wrong_origin");
    assert!(has(&all, 2, refused));
    assert!(
        all.replica(2).session(&gateway(0)).is_some(),
        "nobody else's session ends"
    );
}

#[test]
fn an_origin_whose_own_signature_is_bad_is_let_go_when_somebody_wants_its_record() {
    let mut network = line(3);
    let mut own = config(0, 2, Program::Present);
    own.signer = Some(Arc::new(KeyedSigner::new([8; 32], &gateway(0))));
    network.cut(0, 1);
    *network.replica_mut(0) = Replica::new(network.now, own, []);
    network.local(0, LocalChange::Exports(vec![export(0, 3)]));
    network.connect(0, 1);
    network.advance(Duration::from_secs(4), &mut rng());
    let refused = |event: &ReplicaEvent| matches!(event, ReplicaEvent::Refused { peer, refusal } if *peer == gateway(0) && refusal.reason() == "bad_signature");
    assert!(has(&network, 1, refused), "{:?}", network.events);
    assert_eq!(healthy(&network, 2, 0), None, "it was passed on");
    assert!(network.replica(1).session(&gateway(2)).is_some());
}

#[test]
fn a_gateway_without_a_key_is_known_to_its_peers_and_to_nobody_else() {
    let mut network = line(3);
    let mut own = config(0, 2, Program::Present);
    own.signer = None;
    network.cut(0, 1);
    *network.replica_mut(0) = Replica::new(network.now, own, []);
    network.local(0, LocalChange::Exports(vec![export(0, 3)]));
    network.connect(0, 1);
    network.advance(Duration::from_secs(6), &mut rng());
    assert_eq!(
        (healthy(&network, 1, 0), age(&network, 1, 0)),
        (Some(3), Some(Age::Fresh))
    );
    assert_eq!(healthy(&network, 2, 0), None);
    nobody_is_refused(&network);
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
