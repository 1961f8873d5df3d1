//! Tunnels: mTLS QUIC connections between gateways. This module owns their whole life: endpoints, dialling, identity
//! checks, the control stream, liveness. It does not know what a stream carries; it hands each to a [`StreamHandler`].

use std::sync::Arc;

use causeway_proto::tunnel::stream_header::Kind;
use futures_util::future::BoxFuture;

mod accept;
mod appetite;
mod ask;
mod bbr;
mod budget;
mod burst;
mod capabilities;
mod class;
mod clock;
mod config;
mod credit;
mod demand;
mod dial;
mod documents;
mod echo;
mod endpoint_keys;
mod frame;
mod greeting;
mod halves;
mod handshake;
mod last_end;
mod last_word;
mod ledger;
mod liveness;
mod metrics;
mod own_addresses;
mod pieces;
mod probe;
mod race;
mod refusal;
mod renew;
mod session;
mod set;
mod shared;
mod siblings;
mod socket;
mod start;
mod starts;
mod steering;
mod stream;
mod succession;
#[cfg(feature = "test-util")]
pub mod testbed;
mod tunnel;
mod tunnel_totals;

pub use ask::{AskError, ask};
pub use budget::{BudgetLack, MEMORY_BUDGET_BYTES, MemoryBudget};
pub use capabilities::{Capabilities, DEMAND, OPENED, PAGE, PORTS};
pub use class::Class;
pub use config::{
    ConfigError, Congestion, IDLE_TIMEOUT, IDLE_TIMEOUTS, KEEP_ALIVE, MAX_STREAMS, TunnelConfig,
};
pub use documents::{ReadDocumentError, ask_for_documents, read_document, refuse_documents, send_documents};
pub use echo::echo;
pub use endpoint_keys::{EndpointKeys, EndpointKeysError};
pub use frame::{
    ReadFrameError, ReplyError, WriteFrameError, read_frame, read_reply, stream_refusal, write_frame,
    write_refusal,
};
pub use halves::{
    HalfEnded, LinkError, ReadError, ReadExactError, RecvHalf, SendHalf, Stream, StreamCode, WriteError,
};
pub use handshake::{HandshakeConfigError, Negotiated};
pub use last_end::LastEnds;
pub use last_word::{LastWord, LastWords};
pub use liveness::Silence;
pub use metrics::TunnelMetrics;
pub use probe::{ProbeReport, probe};
pub use refusal::{Close, Ended, Loss, TunnelRefusal};
pub use set::TunnelSet;
pub use socket::SocketBuffers;
pub use start::{Tunnels, TunnelsStartError};
pub use succession::{DatagramRelay, MAX_PREDECESSORS, Predecessor, Succession, ThreadPlaces};
pub use tunnel::{LinkStats, StreamOpenError, Tunnel};
pub use tunnel_totals::TunnelCount;

/// A stream that a peer opened, its header read and nothing else.
#[derive(Debug)]
pub struct IncomingStream {
    /// Says what it is for.
    pub kind: Kind,
    pub send: SendHalf,
    pub recv: RecvHalf,
    pub tunnel: Arc<Tunnel>,
}

/// Takes the streams that peers open. Each call runs as a task of its own on the tunnel's data thread.
pub trait StreamHandler: Send + Sync + 'static {
    fn handle(&self, stream: IncomingStream) -> BoxFuture<'static, ()>;
}
