//! Reading the stream of a Replace: everything that one source knows, checked as it comes and bounded in size and time.

use std::time::Duration;

use causeway_federation::registry::{
    MAX_INSTANCES_PER_ZONE, Registration, RegistryError,
    wire::{self, MAX_LIST},
};
use causeway_proto::registry::{ReplaceReply, ReplaceRequest};
use causeway_zone_sync::registry::etcd::ReplaceResult;
use tokio::time::timeout;
use tonic::{Status, Streaming};

/// Longest silence within the stream.
const MAX_SILENCE: Duration = Duration::from_secs(10);
/// Refusals that the answer tells.
const MAX_REFUSALS_TOLD: usize = 1_000;

/// Content of a whole stream.
#[derive(Debug)]
pub(super) struct StreamedInstances {
    pub(super) source: String,
    pub(super) registrations: Vec<Result<Registration, RegistryError>>,
}

/// Reads the stream to its end.
///
/// # Errors
/// When it breaks off, is too slow or too long, or does not keep to one source. Nothing has been replaced then.
pub(super) async fn read(mut stream: Streaming<ReplaceRequest>) -> Result<StreamedInstances, Status> {
    let mut handed: Option<StreamedInstances> = None;
    loop {
        let next = timeout(MAX_SILENCE, stream.message()).await;
        let next = next.map_err(|_| {
            Status::deadline_exceeded(format!("nothing came for {MAX_SILENCE:?}; nothing was replaced"))
        })?;
        let Some(message) = next? else { break };
        let handed = handed.get_or_insert_with(|| StreamedInstances {
            source: message.source.clone(),
            registrations: Vec::new(),
        });
        if handed.source != message.source {
            return Err(Status::invalid_argument(
                "the stream names two sources; nothing was replaced",
            ));
        }
        let list = message.registrations;
        if list.len() > MAX_LIST || handed.registrations.len() + list.len() > MAX_INSTANCES_PER_ZONE {
            return Err(Status::invalid_argument(format!(
                "a message holds at most {MAX_LIST} instances, and a source {MAX_INSTANCES_PER_ZONE}; nothing was replaced"
            )));
        }
        handed
            .registrations
            .extend(list.into_iter().map(wire::registration));
    }
    handed.ok_or_else(|| {
        Status::invalid_argument(
            "the stream names no source; to remove everything, send one message without instances",
        )
    })
}

pub(super) fn reply(replaced: ReplaceResult) -> ReplaceReply {
    let refused = replaced.refused.into_iter().take(MAX_REFUSALS_TOLD);
    ReplaceReply {
        added: replaced.added,
        changed: replaced.changed,
        removed: replaced.removed,
        refused: refused.map(|error| wire::outcome::<()>(&Err(error))).collect(),
    }
}
