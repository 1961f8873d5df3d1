//! Tests of what a replica makes of single messages, lying peers above all.

use causeway_federation::{
    catalog::{Export, Exports, encode, key_message},
    name::{GatewayName, MAX_TAGS, ServiceName, Tags},
    signing::keyed::KeyedVerifier,
};
use causeway_proto::sync as proto;
use prost::Message as _;

use super::{
    limits::{MAX_KNOWN, MAX_MESSAGE_BYTES, MAX_PARTS},
    *,
};

fn gateway(zone: &str) -> GatewayId {
    GatewayId::new(ZoneName::new(zone).unwrap(), GatewayName::new("gw1").unwrap())
}

fn export(service: &str, healthy: u32) -> Export {
    Export {
        service: ServiceName::new(service).unwrap(),
        tags: Tags::default(),
        instances: 9,
        healthy,
        weight: 1,
        capacity_per_second: None,
    }
}

fn new_replica(now: Instant) -> Replica {
    let config = ReplicaConfig::new(gateway("east"), 7, Arc::new(KeyedVerifier::default()));
    Replica::new(now, config, [])
}

fn known(zone: &str, incarnation: u64, version: u64) -> proto::Known {
    wire::known_message(&gateway(zone), Stamp { incarnation, version })
}

fn hello(zone: &str, known: Vec<proto::Known>) -> Body {
    Body::Hello(proto::Hello {
        protocol: 1,
        origin: Some(wire::origin_message(&gateway(zone))),
        known,
        newest_protocol: 0,
    })
}

fn snapshot(version: u64, part: u32, parts: u32, exports: &[Export]) -> proto::Snapshot {
    proto::Snapshot {
        origin: Some(wire::origin_message(&gateway("west"))),
        incarnation: 5,
        version,
        part,
        parts,
        exports: exports.iter().map(encode).collect(),
        draining: false,
        topology: Vec::new(),
        head: None,
        outdated: false,
    }
}

fn delta(from_version: u64, to_version: u64, changed: &[Export]) -> proto::Delta {
    proto::Delta {
        origin: Some(wire::origin_message(&gateway("west"))),
        incarnation: 5,
        from_version,
        to_version,
        changed: changed.iter().map(encode).collect(),
        ..proto::Delta::default()
    }
}

/// `east`, with sessions to `west`, which has said hello and told version 3, and to `north`.
struct East {
    replica: Replica,
    now: Instant,
}

impl East {
    fn new() -> Self {
        let now = Instant::now();
        let mut replica = new_replica(now);
        replica.handle_local(now, LocalChange::Exports(vec![export("web", 1)]));
        for peer in ["west", "north"] {
            replica.handle_connected(now, gateway(peer));
        }
        let mut east = Self { replica, now };
        east.hear(hello("west", vec![]));
        east.hear(Body::Snapshot(snapshot(
            3,
            0,
            1,
            &[export("orders", 1), export("web", 1)],
        )));
        east.answers();
        east
    }

    fn hear(&mut self, body: Body) {
        let message = SyncMessage { body: Some(body) };
        self.replica.handle_message(self.now, &gateway("west"), message);
    }

    /// Messages that `west` is sent.
    fn answers(&mut self) -> Vec<Body> {
        let sent = std::iter::from_fn(|| self.replica.poll_transmit(self.now));
        sent.filter(|(peer, _)| *peer == gateway("west"))
            .filter_map(|(_, message)| message.body)
            .collect()
    }

    /// The word for which `west` was refused, if it was. `north` is never touched.
    fn refusal(&mut self) -> Option<&'static str> {
        let events: Vec<_> = std::iter::from_fn(|| self.replica.poll_event()).collect();
        assert!(self.replica.session(&gateway("north")).is_some());
        let refused = events.into_iter().find_map(|event| match event {
            ReplicaEvent::Refused { peer, refusal } if peer == gateway("west") => Some(refusal.reason()),
            _ => None,
        });
        assert_eq!(
            refused.is_none(),
            self.replica.session(&gateway("west")).is_some()
        );
        if let Some(word) = refused {
            let told = self.answers().into_iter().find_map(|body| match body {
                Body::Refused(refused) => Some(refused.reason),
                _ => None,
            });
            assert_eq!(told.as_deref(), Some(word), "the peer is told why");
        }
        refused
    }

    fn held(&self) -> (u64, Vec<(String, u32)>) {
        let record = &self.replica.catalog().entry(&gateway("west")).unwrap().record;
        let exports = record.exports.iter().map(|e| (e.service.to_string(), e.healthy));
        (record.version, exports.collect())
    }
}

/// The encoding of an export of `web` with something changed.
fn encoding(change: impl FnOnce(&mut proto::Export)) -> Vec<u8> {
    let mut export = proto::Export::decode(&*encode(&export("web", 1))).unwrap();
    change(&mut export);
    export.encode_to_vec()
}

fn tagged(tags: Vec<(String, String)>) -> Vec<u8> {
    encoding(|export| export.key.as_mut().unwrap().tags = tags.into_iter().collect())
}

/// Each message ends the session of `west` for its reason, and touches neither what is held nor anyone else.
fn assert_refused(cases: Vec<(&str, Body)>) {
    for (reason, body) in cases {
        let mut east = East::new();
        assert_eq!(east.refusal(), None);
        let shown = format!("{body:.300?}");
        east.hear(body);
        assert_eq!(east.refusal(), Some(reason), "{shown:.300}");
        assert_eq!(east.held().0, 3, "what was held stays: {shown:.300}");
    }
}

fn next_delta(change: impl FnOnce(&mut proto::Delta)) -> Body {
    let mut message = delta(3, 4, &[export("web", 2)]);
    change(&mut message);
    Body::Delta(message)
}

fn next_snapshot(change: impl FnOnce(&mut proto::Snapshot)) -> Body {
    let mut message = snapshot(4, 0, 1, &[]);
    change(&mut message);
    Body::Snapshot(message)
}

fn heartbeat(current: proto::Known) -> Body {
    Body::Heartbeat(proto::Heartbeat {
        current: vec![current],
        ..proto::Heartbeat::default()
    })
}

#[test]
fn a_peer_that_speaks_for_another_or_another_protocol_is_refused() {
    let north = || Some(wire::origin_message(&gateway("north")));
    let mut later = hello("west", vec![]);
    if let Body::Hello(hello) = &mut later {
        hello.protocol = 9;
    }
    let ack = proto::Ack {
        origin: north(),
        ..proto::Ack::default()
    };
    let many = vec![known("west", 1, 1); MAX_KNOWN + 1];
    assert_refused(vec![
        ("unknown_protocol", later),
        ("wrong_origin", hello("north", vec![])),
        ("wrong_origin", next_delta(|delta| delta.origin = north())),
        ("wrong_origin", next_snapshot(|part| part.origin = north())),
        ("wrong_origin", heartbeat(known("north", 1, 1))),
        ("wrong_origin", Body::Ack(ack)),
        ("malformed", next_delta(|delta| delta.origin = None)),
        ("too_many_origins", hello("west", many)),
    ]);
}

#[test]
fn versions_that_go_backwards_or_are_used_twice_are_refused() {
    let reused = Body::Snapshot(snapshot(3, 0, 1, &[export("other", 1)]));
    assert_refused(vec![
        ("version_backwards", Body::Delta(delta(4, 4, &[]))),
        ("version_backwards", Body::Delta(delta(4, 2, &[]))),
        ("version_backwards", next_delta(|delta| delta.incarnation = 4)),
        ("version_backwards", next_snapshot(|part| part.incarnation = 4)),
        ("version_backwards", heartbeat(known("west", 4, 9))),
        ("version_reused", reused),
        ("malformed", next_snapshot(|part| part.incarnation = u64::MAX)),
    ]);
}

#[test]
fn content_that_breaks_a_limit_or_makes_no_sense_is_refused() {
    let twice = [export("a", 1), export("a", 2)];
    let long = tagged(vec![("k".into(), "v".repeat(1025))]);
    let many = (0..=MAX_TAGS).map(|i| (i.to_string(), String::new()));
    let many = tagged(many.collect());
    let misnamed = encoding(|export| export.key.as_mut().unwrap().service = "No.Name".into());
    let too_healthy = encoding(|export| export.healthy = 10);
    let nameless = encoding(|export| export.key = None);
    assert_refused(vec![
        ("malformed", next_snapshot(|part| part.part = 1)),
        (
            "record_too_large",
            next_snapshot(|part| part.parts = MAX_PARTS + 1),
        ),
        ("malformed", Body::Snapshot(snapshot(4, 0, 1, &twice))),
        ("malformed", Body::Delta(delta(3, 4, &twice))),
        ("malformed", next_delta(|delta| delta.topology = vec![1; 31])),
        ("malformed", next_delta(|delta| delta.changed = vec![too_healthy])),
        ("malformed", next_delta(|delta| delta.changed = vec![nameless])),
        ("bad_name", next_delta(|delta| delta.changed = vec![misnamed])),
        ("bad_tags", next_delta(|delta| delta.changed = vec![long])),
        ("bad_tags", next_delta(|delta| delta.changed = vec![many])),
        (
            "message_too_large",
            next_delta(|delta| delta.topology = vec![0; MAX_MESSAGE_BYTES]),
        ),
    ]);
}

#[test]
fn a_message_without_a_body_is_refused() {
    let mut east = East::new();
    east.replica
        .handle_message(east.now, &gateway("west"), SyncMessage { body: None });
    assert_eq!(east.refusal(), Some("malformed"));
}

#[test]
fn a_session_begins_with_a_hello() {
    let mut east = East::new();
    east.replica.handle_connected(east.now, gateway("west"));
    east.hear(Body::Delta(delta(3, 4, &[])));
    assert_eq!(east.refusal(), Some("hello_expected"));
}

#[test]
fn a_gateway_of_the_own_zone_is_refused() {
    let mut east = East::new();
    east.replica.handle_connected(
        east.now,
        GatewayId::new(gateway("east").zone, GatewayName::new("gw2").unwrap()),
    );
    assert!(matches!(
        east.replica.poll_transmit(east.now),
        Some((
            _,
            SyncMessage {
                body: Some(Body::Refused(_))
            }
        ))
    ));
}

#[test]
fn a_silent_peer_is_let_go() {
    let mut east = East::new();
    east.replica
        .handle_connected(east.now + limits::SILENCE, gateway("north"));
    east.now += limits::SILENCE;
    east.replica.handle_timeout(east.now);
    assert_eq!(east.refusal(), Some("silent"));
}

#[test]
fn a_delta_that_does_not_follow_is_answered_with_what_is_held() {
    for body in [
        Body::Delta(delta(4, 5, &[])),
        Body::Delta(proto::Delta {
            incarnation: 6,
            ..delta(3, 4, &[])
        }),
        Body::Delta(delta(1, 2, &[export("orders", 9)])),
        heartbeat(known("west", 5, 4)),
        heartbeat(known("west", 5, 2)),
    ] {
        let mut east = East::new();
        east.hear(body);
        assert_eq!(east.refusal(), None);
        let acks = east.answers();
        assert!(
            matches!(
                &acks[..],
                [Body::Ack(proto::Ack {
                    incarnation: 5,
                    version: 3,
                    ..
                })]
            ),
            "{acks:?}"
        );
        assert_eq!(east.held(), (3, vec![("orders".into(), 1), ("web".into(), 1)]));
    }
}

#[test]
fn a_delta_from_before_what_is_held_applies_as_values_are_absolute() {
    let mut east = East::new();
    let removed = vec![key_message(&export("web", 0).service, &Tags::default())];
    east.hear(Body::Delta(proto::Delta {
        removed,
        draining: true,
        ..delta(2, 6, &[export("orders", 4)])
    }));
    assert_eq!(east.refusal(), None);
    assert_eq!(east.held(), (6, vec![("orders".into(), 4)]));
    assert!(
        east.replica
            .catalog()
            .entry(&gateway("west"))
            .unwrap()
            .record
            .draining
    );
}

#[test]
fn a_snapshot_counts_only_when_all_its_parts_of_one_version_have_come() {
    let mut east = East::new();
    let (a, b) = ([export("a", 1)], [export("b", 1)]);
    east.hear(Body::Snapshot(snapshot(4, 0, 2, &a)));
    assert_eq!(east.held().0, 3);
    east.hear(Body::Snapshot(snapshot(5, 1, 2, &b)));
    assert_eq!(east.held().0, 3, "the version changed midway");
    east.hear(Body::Snapshot(snapshot(4, 1, 2, &b)));
    assert_eq!(east.held().0, 3, "the first part was dropped");
    east.hear(Body::Snapshot(snapshot(5, 0, 2, &a)));
    east.hear(Body::Snapshot(snapshot(5, 1, 2, &b)));
    assert_eq!(east.held(), (5, vec![("a".into(), 1), ("b".into(), 1)]));
    assert_eq!(east.refusal(), None);
}

#[test]
fn nothing_is_told_before_the_exports_were_set() {
    let now = Instant::now();
    let mut replica = new_replica(now);
    replica.handle_connected(now, gateway("west"));
    let mut east = East { replica, now };
    east.hear(hello("west", vec![]));
    east.replica.handle_local(now, LocalChange::Draining(true));
    assert!(matches!(&east.answers()[..], [Body::Hello(hello)] if hello.known.is_empty()));
    east.replica.handle_local(now, LocalChange::Exports(vec![]));
    assert!(
        matches!(&east.answers()[..], [Body::Snapshot(part)] if part.draining && part.exports.is_empty())
    );
}

#[test]
fn exports_that_peers_would_refuse_are_left_out_and_counted() {
    let mut east = East::new();
    let bad = Export {
        tags: [("k", "v".repeat(2000))].into_iter().collect(),
        ..export("bad", 1)
    };
    east.replica
        .handle_local(east.now, LocalChange::Exports(vec![export("web", 1), bad]));
    assert_eq!(
        east.replica.own().exports,
        [export("web", 1)].into_iter().collect::<Exports>()
    );
    let left_out = std::iter::from_fn(|| east.replica.poll_event())
        .any(|e| e == ReplicaEvent::ExportsLeftOut { count: 1 });
    assert!(left_out);
}

#[test]
fn a_refusal_by_the_peer_is_an_event_and_its_text_is_bounded() {
    let mut east = East::new();
    east.hear(Body::Refused(proto::Refused {
        reason: "made up".into(),
        message: "ä".repeat(9999),
        ..proto::Refused::default()
    }));
    let event = std::iter::from_fn(|| east.replica.poll_event()).last().unwrap();
    assert!(
        matches!(&event, ReplicaEvent::RefusedByPeer { reason: "other", message, .. } if message.len() <= 256)
    );
    assert!(east.replica.session(&gateway("west")).is_none());
}

#[test]
fn a_lying_peer_cannot_push_incarnations_up_quickly_or_out_of_range() {
    let mut east = East::new();
    for i in 0..50 {
        east.hear(hello("west", vec![known("east", 100 + i, 1)]));
    }
    let asked = std::iter::from_fn(|| east.replica.poll_event())
        .filter(|e| matches!(e, ReplicaEvent::Outdated { .. }));
    assert_eq!(asked.count(), 1);
    east.hear(hello("west", vec![known("east", u64::MAX, 1)]));
    assert_eq!(east.refusal(), Some("malformed"));
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_or_touch_what_is_held(
        messages in proptest::collection::vec(proptest::collection::vec(0u8..40, 0..60), 1..20),
    ) {
        let mut east = East::new();
        for bytes in messages {
            if let Ok(message) = SyncMessage::decode(&*bytes) {
                east.replica.handle_message(east.now, &gateway("west"), message);
                east.answers();
            }
        }
        proptest::prop_assert_eq!(east.held().0, 3);
    }
}

#[test]
fn a_lying_peer_cannot_use_up_the_incarnations() {
    let mut east = East::new();
    east.hear(hello("west", vec![known("east", limits::MAX_INCARNATION - 1, 1)]));
    let asked = std::iter::from_fn(|| east.replica.poll_event()).find_map(|event| match event {
        ReplicaEvent::Outdated { incarnation, .. } => Some(incarnation),
        _ => None,
    });
    assert_eq!(asked, Some(7 + limits::RAISE_STRIDE));
}

#[test]
fn a_gateway_that_is_told_that_it_used_a_version_twice_begins_a_new_incarnation() {
    let mut east = East::new();
    east.hear(Body::Refused(proto::Refused {
        reason: SyncRefusal::VersionReused.reason().into(),
        ..proto::Refused::default()
    }));
    let asked = std::iter::from_fn(|| east.replica.poll_event()).find_map(|event| match event {
        ReplicaEvent::Outdated { incarnation, .. } => Some(incarnation),
        _ => None,
    });
    assert_eq!(asked, Some(8));
}
