//! The lying peer: an authenticated gateway of the federation that says what it must not. It knows everything that its
//! victim holds, so each lie is made up at the moment it arrives.
//!
//! A lie that breaks a rule names the words for which it must be refused. Others are within the rules (a peer may always
//! claim to hold less than it does) and must do no harm; the oracle sees to that.

use std::collections::BTreeMap;

use causeway_federation::{
    catalog::{Export, Exports},
    name::{GatewayId, ServiceName},
};
use causeway_proto::sync::{self as proto, SyncMessage, sync_message::Body};
use causeway_zone_sync::replica::{Stamp, limits};
use prost::Message as _;
use rand::{Rng, rngs::SmallRng};

use super::captured::Captured;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    OthersSnapshot,
    OthersDelta,
    OthersHeartbeat,
    OthersAck,
    OlderIncarnation,
    DeltaBackwards,
    ReusedVersion,
    TooManyOrigins,
    TooLarge,
    BadName,
    BadTags,
    NamedTwice,
    PartPastTheLast,
    UnknownProtocol,
    Garbage,
    /// Claims that the victim once wrote a later version of its own record.
    VictimIsBehind,
    /// The same, with the highest incarnation there can be.
    VictimIsAtTheEnd,
    /// Claims to hold nothing of the victim's record, over and over.
    HoldsNothing,
    /// Advertises a version of its own record that it never tells.
    NeverTold,
    /// Passes on a record that it made up, with a signature that it made up.
    Forged,
    /// Passes on a true statement with other exports.
    Altered,
    /// Passes on what it once heard of another, however old it is.
    ReplayedRecord,
    ReplayedBeat,
    /// Passes on a beat that it made up, counted far ahead.
    ForgedBeat,
}

impl Lie {
    pub const ALL: [Self; 24] = [
        Self::OthersSnapshot,
        Self::OthersDelta,
        Self::OthersHeartbeat,
        Self::OthersAck,
        Self::OlderIncarnation,
        Self::DeltaBackwards,
        Self::ReusedVersion,
        Self::TooManyOrigins,
        Self::TooLarge,
        Self::BadName,
        Self::BadTags,
        Self::NamedTwice,
        Self::PartPastTheLast,
        Self::UnknownProtocol,
        Self::Garbage,
        Self::VictimIsBehind,
        Self::VictimIsAtTheEnd,
        Self::HoldsNothing,
        Self::NeverTold,
        Self::Forged,
        Self::Altered,
        Self::ReplayedRecord,
        Self::ReplayedBeat,
        Self::ForgedBeat,
    ];
}

/// Knowledge of the liar.
#[derive(Debug)]
pub struct Scene<'a> {
    pub liar: &'a GatewayId,
    pub victim: &'a GatewayId,
    /// A gateway that is neither.
    pub third: &'a GatewayId,
    /// The newest version of the liar's record that the victim holds.
    pub held: Stamp,
    /// The newest version that the liar told of in this session, if that is newer, else the same.
    pub told: Stamp,
    pub held_of_third: Stamp,
    pub victim_own: Stamp,
    pub protocol: u32,
    /// Tells whether the victim ever asked the liar for the zone of the third.
    pub was_asked: bool,
    pub captured: &'a Captured,
}

/// Message that arrives, and the words for one of which the victim must end the session; none where it need not.
#[derive(Debug)]
pub struct LieMessage {
    pub bytes: Vec<u8>,
    pub refused_as: &'static [&'static str],
}

fn told(body: Body, refused_as: &'static [&'static str]) -> LieMessage {
    let message = SyncMessage { body: Some(body) };
    LieMessage {
        bytes: message.encode_to_vec(),
        refused_as,
    }
}

pub fn origin_message(id: &GatewayId) -> Option<proto::Origin> {
    Some(proto::Origin {
        zone: id.zone.to_string(),
        gateway: id.gateway.to_string(),
    })
}

fn known(id: &GatewayId, incarnation: u64, version: u64) -> proto::Known {
    proto::Known {
        origin: origin_message(id),
        incarnation,
        version,
        elsewhere: 0,
    }
}

fn invented(service: &str) -> Vec<u8> {
    export(service, BTreeMap::new()).encode_to_vec()
}

/// Digest that the exports of [`snapshot`] sum up to: a forgery is found out by its signature alone.
fn digest_of_invented() -> Vec<u8> {
    let export = Export {
        service: ServiceName::new("invented").expect("letters are a label"),
        tags: Default::default(),
        instances: 99,
        healthy: 99,
        weight: 99,
        capacity_per_second: None,
    };
    let mut exports: Exports = [export].into_iter().collect();
    exports.digest().0.to_vec()
}

fn export(service: &str, tags: BTreeMap<String, String>) -> proto::Export {
    proto::Export {
        key: Some(proto::ExportKey {
            service: service.to_owned(),
            tags: tags.into_iter().collect(),
        }),
        instances: 99,
        healthy: 99,
        weight: 99,
        capacity_per_second: 0,
    }
}

fn snapshot(id: &GatewayId, stamp: Stamp) -> proto::Snapshot {
    proto::Snapshot {
        origin: origin_message(id),
        incarnation: stamp.incarnation,
        version: stamp.version,
        part: 0,
        parts: 1,
        exports: vec![invented("invented")],
        ..proto::Snapshot::default()
    }
}

fn delta(id: &GatewayId, stamp: Stamp) -> proto::Delta {
    proto::Delta {
        origin: origin_message(id),
        incarnation: stamp.incarnation,
        from_version: stamp.version,
        to_version: stamp.version + 1,
        changed: vec![invented("invented")],
        ..proto::Delta::default()
    }
}

fn heartbeat(current: Vec<proto::Known>) -> Body {
    Body::Heartbeat(proto::Heartbeat {
        current,
        beats: Vec::new(),
    })
}

fn beats(beats: Vec<proto::Beat>) -> Body {
    Body::Heartbeat(proto::Heartbeat {
        current: Vec::new(),
        beats,
    })
}

/// A statement with a signature that is none.
fn forged(words: Vec<u8>, id: &GatewayId) -> Option<proto::Signed> {
    Some(proto::Signed {
        statement: words,
        signature: vec![0x5a; 64],
        credential: vec![id.to_string().into_bytes()],
    })
}

fn statement(stamp: Stamp) -> Vec<u8> {
    proto::Statement {
        incarnation: stamp.incarnation,
        version: stamp.version,
        exports_digest: vec![1; 16],
        ..proto::Statement::default()
    }
    .encode_to_vec()
}

fn forged_beat(id: &GatewayId, stamp: Stamp) -> proto::Beat {
    let words = proto::BeatStatement {
        incarnation: stamp.incarnation,
        version: stamp.version,
        exports_digest: vec![1; 16],
        count: 1 << 40,
    };
    proto::Beat {
        origin: origin_message(id),
        signed: forged(words.encode_to_vec(), id),
    }
}

fn ack(id: &GatewayId, incarnation: u64, version: u64) -> Body {
    Body::Ack(proto::Ack {
        origin: origin_message(id),
        incarnation,
        version,
        elsewhere: 0,
    })
}

/// Makes a lie up; `None` where what the victim holds does not lend itself to it.
pub fn make_up(lie: Lie, scene: &Scene<'_>, rng: &mut SmallRng) -> Option<LieMessage> {
    match lie {
        Lie::OthersSnapshot | Lie::OthersDelta | Lie::OthersHeartbeat | Lie::OthersAck => {
            Some(for_another(lie, scene))
        }
        Lie::OlderIncarnation | Lie::ReusedVersion | Lie::DeltaBackwards => against_order(lie, scene),
        Lie::UnknownProtocol => {
            let hello = proto::Hello {
                protocol: limits::PROTOCOL + 7,
                origin: origin_message(scene.liar),
                ..proto::Hello::default()
            };
            Some(told(Body::Hello(hello), &["unknown_protocol"]))
        }
        Lie::Garbage => Some(LieMessage {
            bytes: (0..rng.random_range(1..200)).map(|_| rng.random()).collect(),
            refused_as: &[],
        }),
        Lie::VictimIsBehind | Lie::VictimIsAtTheEnd | Lie::HoldsNothing | Lie::NeverTold => {
            Some(within_the_rules(lie, scene))
        }
        Lie::Forged | Lie::Altered | Lie::ReplayedRecord | Lie::ReplayedBeat | Lie::ForgedBeat => {
            passed_on(lie, scene, rng)
        }
        Lie::TooManyOrigins if scene.protocol > 1 => {
            let many = vec![forged_beat(scene.liar, scene.held); limits::MAX_KNOWN + 1];
            Some(told(beats(many), &["too_many_origins", "message_too_large"]))
        }
        Lie::TooManyOrigins => {
            let many = vec![known(scene.liar, 1, 1); limits::MAX_KNOWN + 1];
            Some(told(heartbeat(many), &["too_many_origins"]))
        }
        _ => Some(malformed(lie, scene)),
    }
}

/// The words for speaking of a third: none where the victim once asked for it.
fn unasked(scene: &Scene<'_>) -> &'static [&'static str] {
    if scene.was_asked { &[] } else { &["wrong_origin"] }
}

fn for_another(lie: Lie, scene: &Scene<'_>) -> LieMessage {
    let later = Stamp {
        incarnation: scene.held_of_third.incarnation + 1,
        version: 7,
    };
    let body = match lie {
        Lie::OthersSnapshot => Body::Snapshot(snapshot(scene.third, later)),
        Lie::OthersDelta => Body::Delta(delta(scene.third, later)),
        // Whoever passes records on is told what is held of others.
        Lie::OthersAck if scene.protocol > 1 => return told(ack(scene.third, 1, 1), &[]),
        Lie::OthersAck => ack(scene.third, 1, 1),
        _ if scene.protocol > 1 => beats(vec![forged_beat(scene.third, later)]),
        _ => heartbeat(vec![known(scene.third, 1, 1)]),
    };
    told(body, unasked(scene))
}

fn against_order(lie: Lie, scene: &Scene<'_>) -> Option<LieMessage> {
    let Stamp { incarnation, version } = scene.held;
    if version == 0 {
        return None;
    }
    match lie {
        // Where the liar has not yet said in this session what it now takes back, it is told what is held and no more.
        Lie::OlderIncarnation => {
            let stamp = Stamp {
                incarnation: incarnation - 1,
                version: 9,
            };
            let mut part = snapshot(scene.liar, stamp);
            part.head = forged(statement(stamp), scene.liar);
            Some(told(Body::Snapshot(part), &[]))
        }
        Lie::ReusedVersion => {
            let mut part = snapshot(scene.liar, scene.held);
            part.head = forged(statement(scene.held), scene.liar);
            let words: &[&str] = match scene.told.incarnation > incarnation {
                true => &["version_backwards"],
                false => &["version_reused", "digest_mismatch"],
            };
            Some(told(Body::Snapshot(part), words))
        }
        _ => {
            let mut delta = delta(scene.liar, scene.held);
            delta.from_version = version + 5;
            delta.head = forged(
                statement(Stamp {
                    incarnation,
                    version: version + 1,
                }),
                scene.liar,
            );
            Some(told(Body::Delta(delta), &["version_backwards", "malformed"]))
        }
    }
}

fn within_the_rules(lie: Lie, scene: &Scene<'_>) -> LieMessage {
    let Stamp { incarnation, version } = scene.victim_own;
    let body = match lie {
        Lie::VictimIsBehind => ack(scene.victim, incarnation + 1, version + 3),
        Lie::VictimIsAtTheEnd => ack(scene.victim, limits::MAX_INCARNATION - 1, 1),
        Lie::HoldsNothing => ack(scene.victim, 0, 0),
        _ if scene.protocol > 1 => {
            let version = scene.held.version + 1_000_000;
            let mut beat = forged_beat(
                scene.liar,
                Stamp {
                    version,
                    ..scene.held
                },
            );
            beat.origin = None;
            beats(vec![beat])
        }
        _ => {
            let version = scene.held.version + 1_000_000;
            heartbeat(vec![known(scene.liar, scene.held.incarnation, version)])
        }
    };
    told(body, &[])
}

/// Lies that only the relays of protocol 2 can tell. Where the victim asked, the session goes on, and the oracle sees to
/// it that nothing came of the lie.
fn passed_on(lie: Lie, scene: &Scene<'_>, rng: &mut SmallRng) -> Option<LieMessage> {
    if scene.protocol < 2 {
        return None;
    }
    let later = Stamp {
        version: scene.held_of_third.version + 1,
        ..scene.held_of_third
    };
    let body = match lie {
        Lie::Forged => {
            let mut part = snapshot(scene.third, later);
            let mut words = proto::Statement::decode(&*statement(later)).unwrap_or_default();
            words.exports_digest = digest_of_invented();
            part.head = forged(words.encode_to_vec(), scene.third);
            Body::Snapshot(part)
        }
        Lie::ForgedBeat => beats(vec![forged_beat(scene.third, scene.held_of_third)]),
        Lie::ReplayedBeat => {
            let all = &scene.captured.beats;
            let beat = all.get(rng.random_range(0..all.len().max(1)))?;
            return Some(told(beats(vec![beat.clone()]), &[]));
        }
        _ => {
            let all = &scene.captured.records;
            let mut part = all.get(rng.random_range(0..all.len().max(1)))?.clone();
            if lie == Lie::Altered {
                if let Some(delta) = altered_delta(scene) {
                    return Some(told(Body::Delta(delta), &[]));
                }
                part.exports.push(invented("invented"));
            }
            return Some(told(Body::Snapshot(part), &[]));
        }
    };
    Some(told(body, unasked(scene)))
}

/// Delta that the third truly signed of a version that the victim does not hold yet, with a change that it never made.
fn altered_delta(scene: &Scene<'_>) -> Option<proto::Delta> {
    let head = scene.captured.heads.get(scene.third)?;
    let said = proto::Statement::decode(&*head.statement).ok()?;
    let held = scene.held_of_third;
    let follows = said.incarnation == held.incarnation && said.version > held.version;
    follows.then(|| proto::Delta {
        to_version: said.version,
        head: Some(head.clone()),
        ..delta(scene.third, held)
    })
}

fn malformed(lie: Lie, scene: &Scene<'_>) -> LieMessage {
    let mut delta = delta(scene.liar, scene.held);
    let next = Stamp {
        version: delta.to_version,
        ..scene.held
    };
    delta.head = forged(statement(next), scene.liar);
    match lie {
        Lie::TooLarge => delta.topology = vec![0; limits::MAX_MESSAGE_BYTES],
        Lie::BadName => delta.changed = vec![invented("No.Name")],
        Lie::BadTags => {
            let tags = [("k".to_owned(), "v".repeat(limits::MAX_TAG_VALUE_BYTES + 1))];
            delta.changed = vec![export("invented", tags.into()).encode_to_vec()];
        }
        Lie::PartPastTheLast => {
            let mut part = snapshot(scene.liar, scene.told);
            part.part = part.parts;
            return told(Body::Snapshot(part), &["malformed"]);
        }
        _ => delta.changed.push(invented("invented")),
    }
    let refused_as: &[&str] = match lie {
        Lie::TooLarge => &["message_too_large"],
        // What does not follow what is held is not looked into, so it may also go unnoticed.
        _ if scene.held == Stamp::NONE => &[],
        Lie::BadName => &["bad_name"],
        Lie::BadTags => &["bad_tags"],
        _ => &["malformed"],
    };
    told(Body::Delta(delta), refused_as)
}
