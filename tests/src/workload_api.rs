//! A SPIFFE Workload API server that was written for these tests: a stand-in for an agent, not SPIRE. It serves what a test has it
//! serve on a unix socket, to whoever asks: SVIDs of the test CA, refusals, broken streams, garbage. As the specification
//! wants, it refuses calls without the header `workload.spiffe.io: true`.

use std::{
    fs,
    path::{Path, PathBuf},
    pin::Pin,
};

use anyhow::Context;
use causeway_proto::workload::{
    X509svid, X509svidRequest, X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    net::UnixListener,
    runtime::{Builder, Runtime},
    sync::watch,
};
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream, wrappers::WatchStream};
use tonic::{Request, Response, Status, transport::Server};

use crate::authority::{Authority, Leaf, Validity};

/// Answer of an agent to everybody who asks or has asked.
#[derive(Clone)]
pub enum Says {
    Answer(Box<X509svidResponse>),
    /// It has no identity for the caller.
    Denied,
}

/// The stand-in for an agent of one host. Dropping it ends it, with every connection.
pub struct Agent {
    socket: PathBuf,
    says: watch::Sender<Says>,
    /// Its own, so that every connection dies with it.
    runtime: Option<Runtime>,
}

struct Service(watch::Sender<Says>);

impl Agent {
    /// One that is not started yet, and would know nobody.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            says: watch::Sender::new(Says::Denied),
            runtime: None,
        }
    }

    /// Address as `--spiffe-endpoint-socket` takes it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("make a runtime")?;
        let entered = runtime.enter();
        let listener = UnixListener::bind(&self.socket)
            .with_context(|| format!("listen on {}", self.socket.display()))?;
        drop(entered);
        let service = SpiffeWorkloadApiServer::new(Service(self.says.clone()));
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(serving);
        self.runtime = Some(runtime);
        Ok(())
    }

    /// Dies: its socket is gone, and every connection.
    ///
    /// # Errors
    /// When the socket cannot be taken away.
    pub fn die(&mut self) -> anyhow::Result<()> {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        fs::remove_file(&self.socket).context("take the socket away")
    }

    /// Sets what it says from now on, to those too who have asked before.
    pub fn say(&self, says: Says) {
        self.says.send_replace(says);
    }

    /// As [`Agent::say`], with these SVIDs.
    pub fn give(&self, svids: impl IntoIterator<Item = X509svid>) {
        let answer = X509svidResponse {
            svids: svids.into_iter().collect(),
            ..X509svidResponse::default()
        };
        self.say(Says::Answer(Box::new(answer)));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A new SVID for the gateway `gw1` of a zone.
///
/// # Errors
/// When the cryptography library refuses.
pub fn svid(authority: &Authority, zone: &str) -> anyhow::Result<X509svid> {
    let leaf = authority.leaf(zone, "gw1", Validity::Current)?;
    svid_of(authority, &authority.wish(zone, "gw1").uris[0], &leaf)
}

/// A certificate as an SVID of this id.
///
/// # Errors
/// When it is no PEM.
pub fn svid_of(authority: &Authority, id: &str, leaf: &Leaf) -> anyhow::Result<X509svid> {
    let certificate =
        |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).context("read a certificate");
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).context("read a key")?;
    Ok(X509svid {
        spiffe_id: id.to_owned(),
        x509_svid: certificate(&leaf.certificate)?.to_vec(),
        x509_svid_key: key.secret_der().to_vec(),
        bundle: certificate(authority.root_pem())?.to_vec(),
        hint: String::new(),
    })
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Pin<Box<dyn Stream<Item = Result<X509svidResponse, Status>> + Send>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let header = request.metadata().get("workload.spiffe.io");
        if header.is_none_or(|value| value.as_bytes() != b"true") {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let answers = WatchStream::new(self.0.subscribe()).map(|says| match says {
            Says::Answer(answer) => Ok(*answer),
            Says::Denied => Err(Status::permission_denied("no identity issued")),
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
