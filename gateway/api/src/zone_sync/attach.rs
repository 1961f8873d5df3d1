//! A gateway of the zone, attached: who it is, what it reports, and that it lives.

use std::time::Duration;

use causeway_control::trust::Trusted;
use causeway_federation::{
    name::{GatewayId, GatewayName, ZoneName},
    registry::{GatewaySession, wire},
};
use causeway_proto::registry::{AttachRequest, Attachment, attach_request::Request};
use causeway_zone_sync::registry::etcd::{Contact, GatewayPresence, SharedRegistry};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::watch::{self, WatchEvents, WatchSubject};

/// For a gateway to say who it is.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// A gateway that says nothing for this long is gone: it says something every second.
const SILENCE: Duration = Duration::from_secs(4);
/// Time that the gateway's session has to reach etcd before the gateway is answered.
const SETTLING: Duration = Duration::from_secs(1);
/// Longest reason for a failed check that is passed on, in bytes.
const MAX_FAILURE_BYTES: usize = 512;

/// Takes up the attachment, and begins to tell the gateway what is known.
pub(super) async fn start(
    registry: &SharedRegistry,
    mut requests: Streaming<AttachRequest>,
    peer: Option<GatewayId>,
    place: OwnedSemaphorePermit,
    (trusted, stop): (Option<Trusted>, CancellationToken),
) -> Result<WatchEvents, Status> {
    let first = timeout(FIRST_WORD, requests.message()).await;
    let first =
        first.map_err(|_| Status::deadline_exceeded(format!("no attachment within {FIRST_WORD:?}")))??;
    let Some(Request::Attachment(attachment)) = first.and_then(|first| first.request) else {
        return Err(Status::invalid_argument(
            "the first message must say which gateway this is",
        ));
    };
    let gateway = check(registry.zone(), &attachment, peer.as_ref())?;
    let session = session(&attachment.session)?;
    let who = GatewayId::new(registry.zone().clone(), gateway.clone());
    let attached = registry.attach(gateway, session);
    if *registry.contact().borrow() == Contact::Following {
        // Else the gateway's first calls would come too early. If it takes longer, they are made again.
        let _ = timeout(SETTLING, attached.settled()).await;
    }
    let ended = CancellationToken::new();
    let events = watch::start(
        registry.clone(),
        WatchSubject::Everything,
        place,
        either(&stop, &ended),
    );
    tokio::spawn(async move {
        tokio::select! {
            why = listen(&attached, requests, (who.clone(), trusted)) => tracing::debug!(why, "an attachment ended"),
            () = attached.over() => tracing::info!(gateway = %who.gateway, "a gateway attached itself anew, which ends its session here"),
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

/// The gateway, if it is of this zone and, where it proved who it is, no other.
fn check(zone: &ZoneName, attachment: &Attachment, peer: Option<&GatewayId>) -> Result<GatewayName, Status> {
    if attachment.zone != zone.as_str() {
        let shown: String = attachment.zone.chars().take(80).collect();
        return Err(Status::failed_precondition(format!(
            "this is the zone-sync of zone {zone}, and the gateway is of zone {}; check --zone-sync",
            shown.escape_debug()
        )));
    }
    let gateway = GatewayName::new(&attachment.gateway)
        .map_err(|error| Status::invalid_argument(format!("this is not the name of a gateway: {error}")))?;
    match peer.filter(|peer| peer.gateway != gateway) {
        None => Ok(gateway),
        Some(peer) => Err(Status::permission_denied(format!(
            "the certificate is of {peer}, and the attachment of gateway {gateway}"
        ))),
    }
}

/// Session that the attachment begins; `None`: it is of a version without them.
fn session(named: &str) -> Result<Option<GatewaySession>, Status> {
    let session = match named {
        "" => None,
        named => Some(named.parse::<GatewaySession>()),
    };
    let session = session.transpose();
    session.map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Takes what the gateway says until it ends, and says why it did.
async fn listen(
    attached: &GatewayPresence,
    mut requests: Streaming<AttachRequest>,
    (who, trusted): (GatewayId, Option<Trusted>),
) -> String {
    loop {
        let request = match timeout(SILENCE, requests.message()).await {
            Ok(Ok(Some(request))) => request,
            Ok(Ok(None)) => return "the gateway ended it".to_owned(),
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("nothing was heard for {SILENCE:?}"),
        };
        let request = match (request.request, &trusted) {
            (Some(Request::TrustDocument(document)), Some(trusted)) => {
                trusted.receive_encoded(&who, &document).await;
                continue;
            }
            (request, _) => request,
        };
        // What else it may say is a sign of life, or of a later version.
        if let Some(Request::Health(mut report)) = request {
            let key = report.key.clone().map(wire::key);
            truncate(&mut report.failure);
            if let Some(Ok(key)) = key {
                attached.report(key, report);
            }
        }
    }
}

fn truncate(text: &mut String) {
    let within = |(place, _): &(usize, char)| *place <= MAX_FAILURE_BYTES;
    if text.len() > MAX_FAILURE_BYTES
        && let Some((place, _)) = text.char_indices().take_while(within).last()
    {
        text.truncate(place);
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn attachment(zone: &str, gateway: &str) -> Attachment {
        Attachment {
            zone: zone.to_owned(),
            gateway: gateway.to_owned(),
            session: String::new(),
        }
    }

    #[test]
    fn a_gateway_attaches_as_who_it_is_and_to_its_own_zone() {
        let zone: ZoneName = "east".parse().unwrap();
        let peer = GatewayId::new(zone.clone(), "gw1".parse().unwrap());
        let said = |zone_said: &str, gateway: &str, peer: Option<&GatewayId>| {
            let done = check(&zone, &attachment(zone_said, gateway), peer);
            done.map(|gateway| gateway.to_string())
                .map_err(|refused| refused.code())
        };
        assert_eq!(said("east", "gw1", Some(&peer)), Ok("gw1".to_owned()));
        assert_eq!(said("east", "gw2", None), Ok("gw2".to_owned()));
        assert_eq!(said("east", "gw2", Some(&peer)), Err(Code::PermissionDenied));
        assert_eq!(said("west", "gw1", None), Err(Code::FailedPrecondition));
        assert_eq!(said("east", "No Name", None), Err(Code::InvalidArgument));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut text = "ö".repeat(MAX_FAILURE_BYTES);
        truncate(&mut text);
        assert!(
            text.len() <= MAX_FAILURE_BYTES
                && text.chars().all(|c| c == 'ö')
                && text.len() > MAX_FAILURE_BYTES - 4
        );
    }
}
