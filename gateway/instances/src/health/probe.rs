//! One probe: connects to an instance, asks, and judges the answer. The timeout covers all of it.
//!
//! A probe opens a connection of its own each time, as a client would: a kept connection would go on answering after
//! the instance has stopped accepting. It follows no redirects, and reads a bounded part of an answer's body.

use std::{error::Error, future, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use causeway_federation::topology::Probe;
use causeway_host::descriptors::Descriptors;
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::ProbeResult;

/// Most bytes of an answer's body that are read. The status has decided by then; reading lets a well-behaved server
/// finish its answer instead of finding the connection reset.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Most bytes of an answer's status line and headers.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Most bytes of a gRPC health answer, which is one small number.
const MAX_GRPC_ANSWER_BYTES: usize = 4 << 10;
/// Longest reason that is kept, in characters: an instance's own words can be any length.
const MAX_REASON_CHARS: usize = 200;
const USER_AGENT: &str = concat!("causeway-health/", env!("CARGO_PKG_VERSION"));

/// Reason why a probe did not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeFailure {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// Says nothing about the instance.
    #[error("this gateway has no socket left to ask with")]
    NoSocket(#[source] io::Error),
    #[error("no proper HTTP answer")]
    Http(#[source] hyper::Error),
    #[error("`{0}` is not a path that can be asked for")]
    BadPath(String),
    #[error("answered {0}")]
    Status(u16),
    #[error("the gRPC health service answered {code:?}: {message}")]
    Grpc { code: tonic::Code, message: String },
    #[error("reports {0}")]
    NotServing(&'static str),
}

impl ProbeFailure {
    /// The failure with its causes, on one line of printable characters, at most 200 of them.
    #[must_use]
    pub(crate) fn reason(&self) -> String {
        let mut whole = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            whole = format!("{whole}: {error}");
            cause = error.source();
        }
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        whole.chars().map(printable).take(MAX_REASON_CHARS).collect()
    }

    /// Tells what this failure says about the instance.
    #[must_use]
    pub(crate) fn outcome(&self) -> ProbeResult {
        match self {
            Self::NoSocket(_) => ProbeResult::NotAsked(self.reason()),
            _ => ProbeResult::Failed(self.reason()),
        }
    }

    fn connect(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Self::NoSocket(error),
            _ => Self::Connect(error),
        }
    }
}

/// Asks the instance at `address` once, over HTTP for the host `host`.
///
/// # Errors
/// What was wrong with the answer, or that there was none within `timeout`.
pub(crate) async fn probe(
    address: SocketAddr,
    host: &str,
    probe: &Probe,
    timeout: Duration,
) -> Result<(), ProbeFailure> {
    let asked = async {
        let connecting = open_socket(address)?.connect(address);
        let socket = connecting.await.map_err(ProbeFailure::connect)?;
        match probe {
            Probe::Tcp => Ok(()),
            Probe::Http { path } => http(socket, host, path).await,
            Probe::Grpc { service } => grpc(socket, address, service).await,
        }
    };
    // The HTTP machinery is large; a box keeps every task that probes small.
    match tokio::time::timeout(timeout, Box::pin(asked)).await {
        Ok(result) => result,
        Err(_) => Err(ProbeFailure::Timeout(timeout)),
    }
}

/// Opens a socket to ask with, unless it would take a descriptor that is kept for what the gateway needs to go on.
fn open_socket(address: SocketAddr) -> Result<TcpSocket, ProbeFailure> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(ProbeFailure::connect)?;
    match Descriptors::default().may_hold(&socket) {
        true => Ok(socket),
        false => Err(ProbeFailure::NoSocket(Errno::MFILE.into())),
    }
}

async fn http(socket: TcpStream, host: &str, path: &str) -> Result<(), ProbeFailure> {
    let request = http::Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| ProbeFailure::BadPath(path.to_owned()))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(ProbeFailure::Http)?;
    let exchange = async {
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(ProbeFailure::Http)?;
        let status = answer.status();
        if !(status.is_success() || status.is_redirection()) {
            return Err(ProbeFailure::Status(status.as_u16()));
        }
        read_some(answer.into_body()).await
    };
    alongside(exchange, connection).await
}

/// Reads a body to its end or to [`MAX_BODY_BYTES`], whichever comes first.
async fn read_some(mut body: Incoming) -> Result<(), ProbeFailure> {
    let mut left = MAX_BODY_BYTES;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(ProbeFailure::Http)?;
        let read = frame.data_ref().map_or(0, Bytes::len);
        left = left.saturating_sub(read);
        if left == 0 {
            break;
        }
    }
    Ok(())
}

async fn grpc(socket: TcpStream, address: SocketAddr, service: &str) -> Result<(), ProbeFailure> {
    let origin = http::Uri::builder()
        .scheme("http")
        .authority(address.to_string())
        .path_and_query("/")
        .build()
        .map_err(|_| ProbeFailure::BadPath(address.to_string()))?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(16 << 10)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(ProbeFailure::Http)?;
    let carrier = tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let mut client =
        HealthClient::with_origin(carrier, origin).max_decoding_message_size(MAX_GRPC_ANSWER_BYTES);
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let exchange = async {
        let answer = client.check(request).await;
        let answer = answer.map_err(|status| ProbeFailure::Grpc {
            code: status.code(),
            message: status.message().to_owned(),
        })?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            other => Err(ProbeFailure::NotServing(other.as_str_name())),
        }
    };
    alongside(exchange, connection).await
}

/// Runs `exchange` while `connection` moves its bytes. The end of the connection is not an end of the exchange, which
/// may still have an answer to read from what has arrived.
async fn alongside<T, E>(
    exchange: impl Future<Output = T>,
    connection: impl Future<Output = Result<(), E>>,
) -> T {
    let moving = async {
        // The exchange reports what went wrong with the connection better than the connection does.
        let _ = connection.await;
        future::pending().await
    };
    tokio::select! {
        done = exchange => done,
        never = moving => never,
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
