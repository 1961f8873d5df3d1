//! A Workload API server that was written for these tests: a stand-in for an agent, not SPIRE. It says what a test has it say,
//! checks that a call carries the header that it must carry, and makes SVIDs with the built-in CA.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use causeway_federation::name::GatewayId;
use causeway_proto::workload::{
    X509svid, X509svidRequest, X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use futures_util::{Stream, stream::unfold};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, transport::Server};

use super::{
    super::{Identity, ca::Ca},
    EndpointAddress,
};

/// Longer than any wait of these tests takes when all is well.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const TRUST_DOMAIN: &str = "acme.internal";

pub(super) fn gateway(zone: &str, name: &str) -> GatewayId {
    GatewayId::new(zone.parse().unwrap(), name.parse().unwrap())
}

/// Makes what an agent gives a gateway with this identity.
pub(super) fn svid(ca: &Ca, identity: &Identity) -> X509svid {
    X509svid {
        spiffe_id: identity.id().to_string(),
        x509_svid: identity.chain().iter().flat_map(|der| der.to_vec()).collect(),
        x509_svid_key: identity.key().secret_der().to_vec(),
        bundle: ca.certificate().to_vec(),
        hint: String::new(),
    }
}

pub(super) fn answer(svids: impl IntoIterator<Item = X509svid>) -> X509svidResponse {
    X509svidResponse {
        svids: svids.into_iter().collect(),
        ..X509svidResponse::default()
    }
}

/// An answer with a new SVID for one gateway.
pub(super) fn fresh(ca: &Ca, gateway: &GatewayId) -> X509svidResponse {
    let identity = ca.issue(gateway, Duration::from_secs(3600)).unwrap();
    answer([svid(ca, &identity)])
}

#[derive(Clone)]
pub(super) enum Says {
    Answer(Box<X509svidResponse>),
    /// It has no identity for the caller.
    Denied,
    /// It ends the call.
    Goodbye,
}

/// The stand-in. Dropping it ends it, with every connection.
pub(super) struct TestAgent {
    says: watch::Sender<Says>,
    calls: Arc<AtomicUsize>,
    ending: Option<DropGuard>,
    folder: TempDir,
}

struct Service {
    says: watch::Sender<Says>,
    calls: Arc<AtomicUsize>,
}

impl TestAgent {
    /// One whose socket is not there yet.
    pub(super) fn new(says: Says) -> Self {
        Self {
            says: watch::Sender::new(says),
            calls: Arc::default(),
            ending: None,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn endpoint(&self) -> EndpointAddress {
        let path = self.folder.path().join("agent.sock");
        format!("unix://{}", path.display()).parse().unwrap()
    }

    pub(super) fn start(&mut self) {
        let listener = UnixListener::bind(self.endpoint().path()).unwrap();
        let stop = CancellationToken::new();
        let service = SpiffeWorkloadApiServer::new(Service {
            says: self.says.clone(),
            calls: self.calls.clone(),
        });
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        self.ending = Some(stop.drop_guard());
    }

    /// Sets what it says from now on, to those too who have asked before.
    pub(super) fn say(&self, says: Says) {
        self.says.send_replace(says);
    }

    pub(super) fn answer(&self, answer: X509svidResponse) {
        self.say(Says::Answer(Box::new(answer)));
    }

    /// Calls that carried the header.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Pin<Box<dyn Stream<Item = Result<X509svidResponse, Status>> + Send>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        if request
            .metadata()
            .get("workload.spiffe.io")
            .map(|value| value.as_bytes())
            != Some(b"true")
        {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut says = self.says.subscribe();
        says.mark_changed();
        let answers = unfold(Some(says), async |says| {
            let mut says = says?;
            says.changed().await.ok()?;
            let now = says.borrow_and_update().clone();
            match now {
                Says::Answer(answer) => Some((Ok(*answer), Some(says))),
                Says::Denied => Some((Err(Status::permission_denied("no identity issued")), None)),
                Says::Goodbye => None,
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
