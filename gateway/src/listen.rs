//! What the listeners of this program share, whatever is served on them: byte streams of any kind, a connection as a gRPC
//! server takes it, and unix sockets that are never open to others. Who is let in, and how many, each decides by itself.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixListener,
};
use tonic::transport::server::Connected;

/// After a failed accept (no file descriptors left, say), so that the loop does not spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A byte stream of any kind.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that was let in, for a gRPC server: its byte stream, who is at the other end, and the place that it holds
/// among those that are served at once.
pub(crate) struct Admitted<S, F, P> {
    stream: S,
    from: F,
    _place: P,
}

impl<S, F, P> Admitted<S, F, P> {
    /// Calls on this connection find `from` among their extensions; `place` is free again when it is dropped.
    pub fn new(stream: S, from: F, place: P) -> Self {
        Self {
            stream,
            from,
            _place: place,
        }
    }
}

impl<S, F: Clone + Send + Sync + 'static, P> Connected for Admitted<S, F, P> {
    type ConnectInfo = F;

    fn connect_info(&self) -> F {
        self.from.clone()
    }
}

impl<S: AsyncRead + Unpin, F: Unpin, P: Unpin> AsyncRead for Admitted<S, F, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin, P: Unpin> AsyncWrite for Admitted<S, F, P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Binds beside the path, narrows the mode and renames: the socket is never open to others, not for a moment, and one
/// that a killed process left behind is replaced. Whether another process serves it is for the caller to ask before.
pub(crate) fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}
