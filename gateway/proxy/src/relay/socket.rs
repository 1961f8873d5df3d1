//! Interface that a relay needs of the socket on its side: a TCP socket, or one that speaks TLS over TCP.

use std::{future::Future, io};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

/// A socket whose two directions are used apart, within one task. Which one it is is known when a relay is compiled, so that
/// a plain one costs nothing more.
pub(crate) trait Socket {
    type Reader<'a>: Reader
    where
        Self: 'a;
    type Writer<'a>: AsyncWrite + Unpin + Send
    where
        Self: 'a;

    fn split(&mut self) -> (Self::Reader<'_>, Self::Writer<'_>);

    /// Has it send RST, and no FIN, when it is dropped.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn reset_on_drop(&self) -> io::Result<()>;
}

impl<S: Socket> Socket for Box<S> {
    type Reader<'a>
        = S::Reader<'a>
    where
        S: 'a;
    type Writer<'a>
        = S::Writer<'a>
    where
        S: 'a;

    fn split(&mut self) -> (S::Reader<'_>, S::Writer<'_>) {
        (**self).split()
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        (**self).reset_on_drop()
    }
}

/// The direction that is read from.
pub(crate) trait Reader: AsyncRead + Unpin + Send {
    /// Waits until the connection has failed, as when the other side resets it. Reads nothing.
    fn failed(&self) -> impl Future<Output = ()> + Send;
}

impl Socket for TcpStream {
    type Reader<'a> = ReadHalf<'a>;
    type Writer<'a> = WriteHalf<'a>;

    fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        Self::split(self)
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        self.set_zero_linger()
    }
}

impl Reader for ReadHalf<'_> {
    async fn failed(&self) {
        // A readiness that cannot be waited for is a failure too.
        let _ = self.ready(Interest::ERROR).await;
    }
}
