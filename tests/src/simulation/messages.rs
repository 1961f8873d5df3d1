//! Messages in a line, for the trace.

use causeway_proto::sync::{Known, Origin, SyncMessage, sync_message::Body};

fn origin(origin: Option<&Origin>) -> String {
    origin.map_or_else(
        || "?".to_owned(),
        |origin| format!("{}/{}", origin.zone, origin.gateway),
    )
}

fn known(known: &[Known]) -> String {
    let each = known.iter().map(|known| {
        format!(
            "{} {}.{}",
            origin(known.origin.as_ref()),
            known.incarnation,
            known.version
        )
    });
    each.collect::<Vec<_>>().join(", ")
}

#[must_use]
pub fn summary(message: &SyncMessage) -> String {
    match &message.body {
        None => "nothing known".to_owned(),
        Some(Body::Hello(hello)) => format!(
            "hello, protocol {}, knows {}",
            hello.protocol,
            known(&hello.known)
        ),
        Some(Body::Snapshot(part)) => format!(
            "snapshot of {} {}.{} part {} of {}, {} exports",
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
        Some(Body::Ack(ack)) => format!(
            "ack {} {}.{}",
            origin(ack.origin.as_ref()),
            ack.incarnation,
            ack.version
        ),
        Some(Body::Heartbeat(beat)) => format!("heartbeat {}", known(&beat.current)),
        Some(Body::Refused(refused)) => format!("refused: {} ({})", refused.reason, refused.message),
    }
}
