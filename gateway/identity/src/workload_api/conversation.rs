//! One call to an agent: dialling its socket, asking who this process is, and hearing its answers until it ends.
//!
//! No pings are sent on the connection: agents end one on which a ping comes more often than every five minutes (the default of
//! grpc-go, which SPIRE is built with). An agent that hangs is found out by asking anew after a time of silence.

use std::{io, time::Duration};

use causeway_proto::workload::{
    X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Code, Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint, Uri},
};

use super::EndpointAddress;

/// For dialling a socket of this host.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Until the first answer, which an agent gives without delay (SPIFFE Workload API §4.3).
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Largest answer in bytes, as for the files of an identity: a few SVIDs, hundreds of roots and long revocation lists.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Host as HTTP/2 wants one; the socket says which agent it is.
const HOST: &str = "http://localhost";
/// Every call must carry it (SPIFFE Workload Endpoint §3).
const HEADER: (&str, &str) = ("workload.spiffe.io", "true");

/// Reason why an agent does not say who this process is.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    #[error("cannot connect to its socket")]
    Connect(#[source] io::Error),
    #[error("it does not take connections")]
    Full,
    #[error("it does not speak HTTP/2")]
    Handshake(#[source] tonic::transport::Error),
    #[error("it did not answer within {ANSWER_LIMIT:?}")]
    Silent,
    #[error("it has no identity for this process ({})", .0.message().escape_debug())]
    Denied(Status),
    #[error("it does not serve the Workload API ({})", .0.message().escape_debug())]
    NotServed(Status),
    #[error("the call failed: {}: {}", .0.code(), .0.message().escape_debug())]
    Broken(Status),
    #[error("it ended the call")]
    Ended,
    /// It said something before, and nothing since for a long time.
    #[error("it has not said anything for a while")]
    Quiet,
}

impl AgentError {
    /// Advice on what to do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::Full => "is the agent running, and may this user open its socket?",
            Self::Denied(_) => {
                "register this process there: `spire-server entry create -parentID AGENT-ID -selector unix:user:USER \
                 -spiffeID spiffe://TRUST-DOMAIN/zone/ZONE/gateway/NAME`; it is asked again every half minute"
            }
            Self::NotServed(_) | Self::Handshake(_) => {
                "is this the socket of the Workload API, and not of another API of the agent?"
            }
            Self::Silent | Self::Broken(_) | Self::Ended | Self::Quiet => "the agent's log says more",
        }
    }
}

impl From<Status> for AgentError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied(status),
            Code::Unimplemented => Self::NotServed(status),
            _ => Self::Broken(status),
        }
    }
}

/// A call that an agent has not ended.
pub(super) struct Conversation {
    answers: Streaming<X509svidResponse>,
    answered: bool,
}

impl Conversation {
    pub(super) async fn begin(endpoint: &EndpointAddress) -> Result<Self, AgentError> {
        let channel = connect(endpoint).await?;
        let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let mut request = Request::new(X509svidRequest {});
        let (name, value) = HEADER;
        request
            .metadata_mut()
            .insert(name, MetadataValue::from_static(value));
        let call = timeout(ANSWER_LIMIT, client.fetch_x509svid(request)).await;
        let answers = call.map_err(|_| AgentError::Silent)??.into_inner();
        Ok(Self {
            answers,
            answered: false,
        })
    }

    /// The next answer. After the first one, silence is not an error before `patience` is over.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<X509svidResponse, AgentError> {
        let (limit, silence) = match self.answered {
            true => (patience, AgentError::Quiet),
            false => (ANSWER_LIMIT, AgentError::Silent),
        };
        let answer = timeout(limit, self.answers.message()).await;
        let answer = answer.map_err(|_| silence)??.ok_or(AgentError::Ended)?;
        self.answered = true;
        Ok(answer)
    }
}

async fn connect(endpoint: &EndpointAddress) -> Result<Channel, AgentError> {
    let stream = timeout(CONNECT_LIMIT, UnixStream::connect(endpoint.path())).await;
    let stream = stream
        .map_err(|_| AgentError::Full)?
        .map_err(AgentError::Connect)?;
    let mut stream = Some(TokioIo::new(stream));
    // Once only: when the connection is lost the call is over, and the next one dials anew.
    let dialled = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or(io::ErrorKind::NotConnected);
        async { stream.map_err(io::Error::from) }
    });
    Endpoint::from_static(HOST)
        .connect_with_connector(dialled)
        .await
        .map_err(AgentError::Handshake)
}
