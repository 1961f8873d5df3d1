//! A gateway of the zone, attached: who it is, what it reports, and that it lives.

use std::time::Duration;

use causeway_proto::registry::{AttachRequest, Attachment, attach_request::Request};
use causeway_zone_sync::{
    name::GatewayName,
    registry::{
        etcd::{Attached, SharedRegistry},
        wire,
    },
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::watch::{self, Events, Wanted};

/// For a gateway to say who it is.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// A gateway that says nothing for this long is gone: it says something every second.
const SILENCE: Duration = Duration::from_secs(4);
/// Longest reason for a failed check that is passed on, in bytes.
const MAX_FAILURE_BYTES: usize = 512;

/// Takes up the attachment, and begins to tell the gateway what is known.
pub(super) async fn start(
    registry: &SharedRegistry,
    mut requests: Streaming<AttachRequest>,
    place: OwnedSemaphorePermit,
    stop: CancellationToken,
) -> Result<Events, Status> {
    let first = timeout(FIRST_WORD, requests.message()).await;
    let first =
        first.map_err(|_| Status::deadline_exceeded(format!("no attachment within {FIRST_WORD:?}")))??;
    let Some(Request::Attachment(attachment)) = first.and_then(|first| first.request) else {
        return Err(Status::invalid_argument(
            "the first message must say which gateway this is",
        ));
    };
    let gateway = check(registry, attachment)?;
    let attached = registry.attach(gateway);
    let ended = CancellationToken::new();
    let events = watch::start(registry.clone(), Wanted::Everything, place, either(&stop, &ended));
    tokio::spawn(async move {
        tokio::select! {
            why = listen(&attached, requests) => tracing::debug!(why, "an attachment ended"),
            () = stop.cancelled() => {}
        }
        ended.cancel();
    });
    Ok(events)
}

/// A token that either of two cancels.
fn either(stop: &CancellationToken, ended: &CancellationToken) -> CancellationToken {
    let both = stop.child_token();
    let (cancel, ended) = (both.clone(), ended.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = ended.cancelled() => cancel.cancel(),
            () = cancel.cancelled() => {}
        }
    });
    both
}

fn check(registry: &SharedRegistry, attachment: Attachment) -> Result<GatewayName, Status> {
    if attachment.zone != registry.zone().as_str() {
        let shown: String = attachment.zone.chars().take(80).collect();
        return Err(Status::failed_precondition(format!(
            "this is the zone-sync of zone {}, and the gateway is of zone {}; check --zone-sync",
            registry.zone(),
            shown.escape_debug()
        )));
    }
    GatewayName::new(&attachment.gateway)
        .map_err(|error| Status::invalid_argument(format!("this is not the name of a gateway: {error}")))
}

/// Takes what the gateway says until it ends, and says why it did.
async fn listen(attached: &Attached, mut requests: Streaming<AttachRequest>) -> String {
    loop {
        let request = match timeout(SILENCE, requests.message()).await {
            Ok(Ok(Some(request))) => request,
            Ok(Ok(None)) => return "the gateway ended it".to_owned(),
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("nothing was heard for {SILENCE:?}"),
        };
        // What else it may say is a sign of life, or of a later version.
        if let Some(Request::Health(mut report)) = request.request {
            let key = report.key.clone().map(wire::key);
            truncate(&mut report.failure);
            if let Some(Ok(key)) = key {
                attached.report(key, report);
            }
        }
    }
}

fn truncate(text: &mut String) {
    if text.len() > MAX_FAILURE_BYTES {
        text.truncate(text.floor_char_boundary(MAX_FAILURE_BYTES));
    }
}
