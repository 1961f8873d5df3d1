//! The lying peer: an authenticated gateway of the federation that says what it must not. It knows everything that its
//! victim holds, so each lie is made up at the moment it arrives.
//!
//! A lie that breaks a rule names the words for which it must be refused. Others are within the rules (a peer may always
//! claim to hold less than it does) and must do no harm; the oracle sees to that.

use causeway_proto::sync::{self as proto, SyncMessage, sync_message::Body};
use causeway_zone_sync::{
    name::GatewayId,
    replica::{Stamp, limits},
};
use prost::Message as _;
use rand::{Rng, rngs::SmallRng};

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
}

impl Lie {
    pub const ALL: [Self; 19] = [
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
    ];
}

/// What the liar knows.
#[derive(Debug)]
pub struct Scene<'a> {
    pub liar: &'a GatewayId,
    pub victim: &'a GatewayId,
    /// A gateway that is neither.
    pub third: &'a GatewayId,
    /// The newest version of the liar's record that the victim holds.
    pub held: Stamp,
    pub victim_own: Stamp,
}

/// What arrives, and the words for one of which the victim must end the session; none where it need not.
#[derive(Debug)]
pub struct Told {
    pub bytes: Vec<u8>,
    pub refused_as: &'static [&'static str],
}

fn told(body: Body, refused_as: &'static [&'static str]) -> Told {
    let message = SyncMessage { body: Some(body) };
    Told {
        bytes: message.encode_to_vec(),
        refused_as,
    }
}

fn origin(id: &GatewayId) -> Option<proto::Origin> {
    Some(proto::Origin {
        zone: id.zone.to_string(),
        gateway: id.gateway.to_string(),
    })
}

fn known(id: &GatewayId, incarnation: u64, version: u64) -> proto::Known {
    proto::Known {
        origin: origin(id),
        incarnation,
        version,
    }
}

fn invented(service: &str) -> proto::Export {
    proto::Export {
        key: Some(proto::ExportKey {
            service: service.to_owned(),
            ..proto::ExportKey::default()
        }),
        instances: 99,
        healthy: 99,
        weight: 99,
        capacity_per_second: 0,
    }
}

fn snapshot(id: &GatewayId, stamp: Stamp) -> proto::Snapshot {
    proto::Snapshot {
        origin: origin(id),
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
        origin: origin(id),
        incarnation: stamp.incarnation,
        from_version: stamp.version,
        to_version: stamp.version + 1,
        changed: vec![invented("invented")],
        ..proto::Delta::default()
    }
}

fn heartbeat(current: Vec<proto::Known>) -> Body {
    Body::Heartbeat(proto::Heartbeat { current })
}

fn ack(id: &GatewayId, incarnation: u64, version: u64) -> Body {
    Body::Ack(proto::Ack {
        origin: origin(id),
        incarnation,
        version,
    })
}

/// Makes a lie up; `None` where what the victim holds does not lend itself to it.
pub fn make_up(lie: Lie, scene: &Scene<'_>, rng: &mut SmallRng) -> Option<Told> {
    let Stamp { incarnation, version } = scene.held;
    match lie {
        Lie::OthersSnapshot | Lie::OthersDelta | Lie::OthersHeartbeat | Lie::OthersAck => {
            Some(for_another(lie, scene))
        }
        Lie::OlderIncarnation if incarnation > 0 => {
            let stamp = Stamp {
                incarnation: incarnation - 1,
                version: 9,
            };
            Some(told(
                Body::Snapshot(snapshot(scene.liar, stamp)),
                &["version_backwards"],
            ))
        }
        Lie::ReusedVersion if version > 0 => {
            let part = snapshot(scene.liar, scene.held);
            Some(told(Body::Snapshot(part), &["version_reused"]))
        }
        Lie::OlderIncarnation | Lie::ReusedVersion => None,
        Lie::UnknownProtocol => {
            let hello = proto::Hello {
                protocol: 0,
                origin: origin(scene.liar),
                known: Vec::new(),
            };
            Some(told(Body::Hello(hello), &["unknown_protocol"]))
        }
        Lie::Garbage => Some(Told {
            bytes: (0..rng.random_range(1..200)).map(|_| rng.random()).collect(),
            refused_as: &[],
        }),
        Lie::VictimIsBehind | Lie::VictimIsAtTheEnd | Lie::HoldsNothing | Lie::NeverTold => {
            Some(within_the_rules(lie, scene))
        }
        _ => Some(malformed(lie, scene)),
    }
}

fn for_another(lie: Lie, scene: &Scene<'_>) -> Told {
    let later = Stamp {
        incarnation: limits::MAX_INCARNATION - 1,
        version: 7,
    };
    let body = match lie {
        Lie::OthersSnapshot => Body::Snapshot(snapshot(scene.third, later)),
        Lie::OthersDelta => Body::Delta(delta(scene.third, later)),
        Lie::OthersAck => ack(scene.third, 1, 1),
        _ => heartbeat(vec![known(scene.third, 1, 1)]),
    };
    told(body, &["wrong_origin"])
}

fn within_the_rules(lie: Lie, scene: &Scene<'_>) -> Told {
    let Stamp { incarnation, version } = scene.victim_own;
    let body = match lie {
        Lie::VictimIsBehind => ack(scene.victim, incarnation + 1, version + 3),
        Lie::VictimIsAtTheEnd => ack(scene.victim, limits::MAX_INCARNATION - 1, 1),
        Lie::HoldsNothing => ack(scene.victim, 0, 0),
        _ => heartbeat(vec![known(
            scene.liar,
            scene.held.incarnation,
            scene.held.version + 1_000_000,
        )]),
    };
    told(body, &[])
}

fn malformed(lie: Lie, scene: &Scene<'_>) -> Told {
    let mut delta = delta(scene.liar, scene.held);
    match lie {
        Lie::DeltaBackwards => {
            delta.from_version = scene.held.version + 5;
            return told(Body::Delta(delta), &["version_backwards"]);
        }
        Lie::TooManyOrigins => {
            let many = vec![known(scene.liar, 1, 1); limits::MAX_KNOWN + 1];
            return told(heartbeat(many), &["too_many_origins"]);
        }
        Lie::TooLarge => delta.topology = vec![0; limits::MAX_MESSAGE_BYTES],
        Lie::BadName => delta.changed = vec![invented("No.Name")],
        Lie::BadTags => {
            let tags = [("k".to_owned(), "v".repeat(limits::MAX_TAG_VALUE_BYTES + 1))];
            delta.changed[0].key.get_or_insert_default().tags.extend(tags);
        }
        Lie::PartPastTheLast => {
            let mut part = snapshot(scene.liar, scene.held);
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
