//! A client's socket: plain, or with TLS around it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::TcpStream,
    time::timeout,
};

use super::tls::TlsSocket;

/// Most of a client's bytes that travel with the header of a service marked `early`.
const MAX_EARLY_BYTES: usize = 16 * 1024;
/// Time that the first bytes of such a client are awaited before the header goes without them.
const EARLY_WAIT: Duration = Duration::from_millis(2);

pub(super) enum ClientSocket {
    Plain(TcpStream),
    /// Boxed: it is much larger, and rarer.
    Tls(Box<TlsSocket>),
}

impl ClientSocket {
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(socket) => socket.tcp(),
        }
    }

    /// Closes it with RST, since a FIN would look like an empty answer.
    pub(super) fn reset(self) {
        let _ = self.tcp().set_zero_linger();
    }

    /// Waits until the client has reset the connection. Reads nothing.
    pub(super) async fn failed(&self) {
        let _ = self.tcp().ready(Interest::ERROR).await;
    }

    /// Reads what has arrived of the client's first bytes. Nothing, for a client that waits for the server to speak.
    pub(super) async fn read_early(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(MAX_EARLY_BYTES);
        // An end or an error is met again by the relay.
        match self {
            Self::Plain(socket) => {
                let _ = timeout(EARLY_WAIT, socket.peek(&mut [0])).await;
                let _ = socket.try_read_buf(&mut bytes);
            }
            Self::Tls(socket) => {
                let mut first = socket.half().take(MAX_EARLY_BYTES as u64);
                let _ = timeout(EARLY_WAIT, first.read_buf(&mut bytes)).await;
            }
        }
        bytes.freeze()
    }
}
