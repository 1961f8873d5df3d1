//! Messages in a line, for the trace, and what of others' words is in them.

use causeway_federation::name::{GatewayId, GatewayName, ZoneName};
use causeway_proto::sync::{
    Ack, Beat, BeatStatement, Known, Origin, Signed, SyncMessage, sync_message::Body,
};
use prost::Message as _;

/// Something that an origin signed, on its way.
#[derive(Debug, Clone)]
pub struct Utterance {
    pub origin: GatewayId,
    pub incarnation: u64,
    pub version: u64,
    /// The count of a beat; `None` for the head of a record.
    pub beat: Option<u64>,
    /// Whoever passes it on says that it is no sign of life.
    pub is_outdated: bool,
    pub words: Vec<u8>,
}

/// Gateway that is spoken of, which is the speaker where nobody is named.
#[must_use]
pub fn read_origin(origin: Option<&Origin>, speaker: &GatewayId) -> Option<GatewayId> {
    let Some(origin) = origin else {
        return Some(speaker.clone());
    };
    let zone = ZoneName::new(&origin.zone).ok()?;
    Some(GatewayId::new(zone, GatewayName::new(&origin.gateway).ok()?))
}

/// Signed words of anyone that a message of `speaker` carries.
#[must_use]
pub fn utterances(message: &SyncMessage, speaker: &GatewayId) -> Vec<Utterance> {
    let head = |origin: Option<&Origin>, signed: Option<&Signed>, is_outdated: bool| {
        let words = signed?.statement.clone();
        let statement = causeway_proto::sync::Statement::decode(&*words).ok()?;
        Some(Utterance {
            origin: read_origin(origin, speaker)?,
            incarnation: statement.incarnation,
            version: statement.version,
            beat: None,
            is_outdated,
            words,
        })
    };
    let beat = |beat: &Beat| {
        let words = beat.signed.as_ref()?.statement.clone();
        let statement = BeatStatement::decode(&*words).ok()?;
        Some(Utterance {
            origin: read_origin(beat.origin.as_ref(), speaker)?,
            incarnation: statement.incarnation,
            version: statement.version,
            beat: Some(statement.count),
            is_outdated: false,
            words,
        })
    };
    match &message.body {
        Some(Body::Snapshot(part)) => head(part.origin.as_ref(), part.head.as_ref(), part.outdated)
            .into_iter()
            .collect(),
        Some(Body::Delta(delta)) => head(delta.origin.as_ref(), delta.head.as_ref(), delta.outdated)
            .into_iter()
            .collect(),
        Some(Body::Heartbeat(heartbeat)) => heartbeat.beats.iter().filter_map(beat).collect(),
        _ => Vec::new(),
    }
}

/// Tells whose record, and which part of how many, a message of `speaker` carries.
#[must_use]
pub fn part_of(message: &SyncMessage, speaker: &GatewayId) -> Option<(GatewayId, u32, u32)> {
    match &message.body {
        Some(Body::Snapshot(part)) => {
            let origin = read_origin(part.origin.as_ref(), speaker)?;
            Some((origin, part.part, part.parts))
        }
        _ => None,
    }
}

fn origin(origin: Option<&Origin>) -> String {
    origin.map_or_else(
        || "(understood)".to_owned(),
        |origin| format!("{}/{}", origin.zone, origin.gateway),
    )
}

fn known(known: &[Known]) -> String {
    let each = known.iter().map(|known| {
        let origin = origin(known.origin.as_ref());
        format!("{origin} {}.{}", known.incarnation, known.version)
    });
    each.collect::<Vec<_>>().join(", ")
}

fn beats(beats: &[Beat]) -> String {
    let each = beats.iter().map(|beat| {
        let origin = origin(beat.origin.as_ref());
        let words = beat.signed.as_ref().map(|signed| &*signed.statement);
        let statement = words
            .and_then(|words| BeatStatement::decode(words).ok())
            .unwrap_or_default();
        format!(
            "{origin} {}.{} count {}",
            statement.incarnation, statement.version, statement.count
        )
    });
    each.collect::<Vec<_>>().join(", ")
}

fn ack(ack: &Ack) -> String {
    let elsewhere = match ack.elsewhere {
        0 => String::new(),
        incarnation => format!(", elsewhere {incarnation}"),
    };
    format!(
        "ack {} {}.{}{elsewhere}",
        origin(ack.origin.as_ref()),
        ack.incarnation,
        ack.version
    )
}

#[must_use]
pub fn summary(message: &SyncMessage) -> String {
    match &message.body {
        None => "nothing known".to_owned(),
        Some(Body::Hello(hello)) => format!(
            "hello, protocol {} to {}, knows {}",
            hello.protocol,
            hello.newest_protocol,
            known(&hello.known)
        ),
        Some(Body::Snapshot(part)) => format!(
            "snapshot{} of {} {}.{} part {} of {}, {} exports",
            if part.outdated { " (outdated)" } else { "" },
            origin(part.origin.as_ref()),
            part.incarnation,
            part.version,
            part.part + 1,
            part.parts,
            part.exports.len()
        ),
        Some(Body::Delta(delta)) => format!(
            "delta of {} {}.{} to {}, {} changed, {} removed",
            origin(delta.origin.as_ref()),
            delta.incarnation,
            delta.from_version,
            delta.to_version,
            delta.changed.len(),
            delta.removed.len()
        ),
        Some(Body::Ack(word)) => ack(word),
        Some(Body::Heartbeat(beat)) => format!("heartbeat {}{}", known(&beat.current), beats(&beat.beats)),
        Some(Body::Want(want)) => format!("wants {}, knows {}", want.zones.join(" "), known(&want.known)),
        Some(Body::Refused(refused)) => match &refused.origin {
            None => format!("refused: {} ({})", refused.reason, refused.message),
            of => format!("refused a record of {}: {}", origin(of.as_ref()), refused.reason),
        },
    }
}
