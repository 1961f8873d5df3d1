//! Answering gateways of other zones that ask for a page of this one's admin API.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use causeway_control::places::AnswerPlaces;
use causeway_identity::LiveIdentity;
use causeway_proto::tunnel::{Page, RefusalReason};
use causeway_tunnel::{IncomingStream, Tunnel, refuse_documents, send_documents};
use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tower::ServiceExt as _;

use super::{
    HELD_UNIT_BYTES, MAX_HELD_BYTES, MAX_IN_ALL, MAX_PAGE_BYTES, MAX_WITH_ZONE,
    asking::room,
    pages::{AskedPage, PageRight},
};
use crate::{
    ApiMetrics,
    actor::{AskingConnection, Proof},
    admin::{AdminState, ApiError, PageReader, pages},
    credentials::{AskedRight, AskingGateway, Denied, Gate},
};

/// For making a page. The asker waits for 3 s until it begins.
const MADE_WITHIN: Duration = Duration::from_millis(2500);
/// For an answer from its first byte to its last.
const SENT_WITHIN: Duration = Duration::from_secs(10);

/// Answers other zones' gateways. Clones are the same.
#[derive(Debug, Clone)]
pub struct PageServer(Arc<Serving>);

#[derive(Debug)]
struct Serving {
    gate: Gate,
    identity: LiveIdentity,
    metrics: Arc<ApiMetrics>,
    places: AnswerPlaces,
    /// Room for answers.
    room: Arc<Semaphore>,
    /// Pages in full, and as the federation may read them; there are none before the admin API has started.
    pages: OnceLock<(Router, Router)>,
}

impl PageServer {
    #[must_use]
    pub fn new(gate: Gate, identity: LiveIdentity, metrics: Arc<ApiMetrics>) -> Self {
        Self(Arc::new(Serving {
            gate,
            identity,
            metrics,
            places: AnswerPlaces::new(MAX_WITH_ZONE, MAX_IN_ALL),
            room: Arc::new(Semaphore::new(MAX_HELD_BYTES / HELD_UNIT_BYTES)),
            pages: OnceLock::new(),
        }))
    }

    /// Has it answer from now on, with what the admin API shows.
    pub fn open(&self, state: &AdminState) {
        let made = (
            pages(state.clone(), PageReader::Whole),
            pages(state.clone(), PageReader::Federation),
        );
        // Once only: the first state is as good as any.
        let _ = self.0.pages.set(made);
    }

    /// Answers one question to its end.
    pub async fn answer(&self, asked: Page, mut stream: IncomingStream) {
        let serving = &self.0;
        let peer = stream.tunnel.peer().clone();
        let Some(_place) = serving.places.take(&peer.zone) else {
            serving.metrics.page_answered("overloaded");
            let why = "it has too many questions of that kind to answer";
            let _ = refuse_documents(&mut stream.send, RefusalReason::Overloaded, why).await;
            return;
        };
        let answer = match serving.page(&asked, &stream.tunnel).await {
            Ok(page) => page,
            Err(error) => error.into_response(),
        };
        let (status, body, _room) = serving.collected(answer).await;
        serving.metrics.page_answered(match status {
            StatusCode::OK => "answered",
            status if status.is_client_error() => "refused",
            _ => "failed",
        });
        let documents = [status.as_u16().to_be_bytes().to_vec(), body.into()];
        match timeout(SENT_WITHIN, send_documents(&mut stream.send, documents)).await {
            Ok(Ok(())) => {
                tracing::debug!(%peer, page = asked.path, %status, "answered a gateway that asked for a page")
            }
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a gateway did not take the page that it asked for")
            }
            Err(_) => {
                tracing::debug!(%peer, "gave up on a gateway that does not take the page that it asked for")
            }
        }
    }
}

impl Serving {
    /// Makes a page for a gateway that may read it.
    async fn page(&self, asked: &Page, tunnel: &Tunnel) -> Result<Response, ApiError> {
        let page = AskedPage::told(&asked.path).ok_or_else(|| {
            ApiError::not_found("that is no page that this zone gives to others")
                .hint("are the gateways of both zones of the same version?")
        })?;
        let asker = self.asker(tunnel);
        let vouched = Some(asked.vouched.as_slice()).filter(|vouched| !vouched.is_empty());
        let right = self
            .gate
            .admit_asked(&asker, vouched, &page.path, page.right == PageRight::Federation)
            .map_err(|denied| denied_to(&denied, self.identity.gateway().zone.as_str(), &asker))?;
        let (whole, of_federation) = self.pages.get().ok_or_else(|| {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "it is starting").hint("ask again in a moment")
        })?;
        let pages = match right {
            AskedRight::Whole(_) => whole,
            AskedRight::Federation => of_federation,
        };
        let request = Request::get(page.path).body(Body::empty());
        let request = request.map_err(|_| ApiError::bad_request("the path cannot be read"))?;
        let made = timeout(MADE_WITHIN, pages.clone().oneshot(request)).await;
        match made {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(never)) => match never {},
            Err(_) => Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the page took too long to make",
            )),
        }
    }

    fn asker(&self, tunnel: &Tunnel) -> AskingGateway {
        let id = tunnel.certificate().map(|(id, _)| id.clone());
        let is_own = |domain: &str| domain == self.identity.trust_domain();
        AskingGateway {
            is_of_federation: id.as_ref().is_some_and(|id| is_own(&id.trust_domain)),
            connection: AskingConnection {
                from: Some(tunnel.remote_address()),
                pair: None,
                proof: match &id {
                    Some(id) => Proof::Identity(id.to_string().into()),
                    None => Proof::Nobody,
                },
            },
            gateway: tunnel.peer().clone(),
            asked: self.identity.gateway().clone(),
        }
    }

    /// The whole answer, and the room that it takes.
    async fn collected(&self, answer: Response) -> (StatusCode, Bytes, Option<OwnedSemaphorePermit>) {
        let too_long = || {
            let error = format!("the page is longer than {MAX_PAGE_BYTES} bytes");
            ApiError::new(StatusCode::INSUFFICIENT_STORAGE, error)
                .hint("ask the admin API of that zone itself")
        };
        let (status, body) = (answer.status(), answer.into_body());
        let expected = body
            .size_hint()
            .exact()
            .and_then(|bytes| usize::try_from(bytes).ok());
        let error = match expected.filter(|bytes| *bytes <= MAX_PAGE_BYTES) {
            None => too_long(),
            Some(bytes) => match room(&self.room, bytes) {
                None => ApiError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too much is being read there already",
                ),
                Some(room) => {
                    match timeout(MADE_WITHIN, Limited::new(body, MAX_PAGE_BYTES).collect()).await {
                        Ok(Ok(body)) => return (status, body.to_bytes(), Some(room)),
                        _ => too_long(),
                    }
                }
            },
        };
        let response = error.into_response();
        let status = response.status();
        let body = response.into_body().collect().await;
        (status, body.map(|body| body.to_bytes()).unwrap_or_default(), None)
    }
}

/// Words for whoever asked through another gateway.
fn denied_to(denied: &Denied, zone: &str, asker: &AskingGateway) -> ApiError {
    let error = ApiError::from(denied);
    match denied {
        Denied::NotGranted(_) => error.hint(format!(
            "show a token that zone {zone} knows, or start its gateways with --admin-allow 'read=spiffe://…/zone/{}/*'",
            asker.gateway.zone
        )),
        Denied::BadToken => error.hint(format!(
            "each zone knows its own tokens: use one that was issued in zone {zone}, or none for what its gateways tell the federation"
        )),
        _ => error,
    }
}
