//! Tunnels: mTLS QUIC connections between gateways. This module owns their whole life: endpoints, dialling, identity
//! checks, the control stream, liveness. It does not know what a stream carries; it hands each to a [`StreamHandler`].

use std::sync::Arc;

use causeway_proto::tunnel::StreamHeader;
use futures_util::future::BoxFuture;
use quinn::{RecvStream, SendStream};

mod accept;
mod ask;
mod backoff;
mod config;
mod dial;
mod documents;
mod frame;
mod greeting;
mod handshake;
mod liveness;
mod quiet;
mod race;
mod refusal;
mod renew;
mod session;
mod set;
mod shared;
mod socket;
mod start;
mod stream;

pub use ask::{AskError, ask};
pub use backoff::backoff;
pub use config::{ConfigError, Congestion, IDLE_TIMEOUT, KEEP_ALIVE, MAX_STREAMS, TunnelConfig};
pub use documents::{ReadDocumentError, ask_for_documents, read_document, refuse_documents, send_documents};
pub use frame::{
    ReadFrameError, ReplyError, WriteFrameError, read_frame, read_reply, refusal_word, write_frame,
    write_refusal,
};
pub use handshake::{HandshakeConfigError, Negotiated};
pub(crate) use quiet::Quiet;
pub use refusal::{Close, Ended, Loss, Refusal};
pub use set::{OpenError, Tunnel, TunnelSet};
pub use start::{StartError, Tunnels};

/// A stream that a peer opened, its header read and nothing else.
#[derive(Debug)]
pub struct IncomingStream {
    pub header: StreamHeader,
    pub send: SendStream,
    pub recv: RecvStream,
    pub tunnel: Arc<Tunnel>,
}

/// Takes the streams that peers open. Each call runs as a task of its own on the tunnel's data thread.
pub trait StreamHandler: Send + Sync + 'static {
    fn handle(&self, stream: IncomingStream) -> BoxFuture<'static, ()>;
}
