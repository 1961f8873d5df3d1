//! A TLS connection that remembers why it broke. With TLS 1.3 a server that does not accept the client's certificate says
//! so only after the handshake, in an alert that HTTP/2 turns into a broken connection without a reason.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Words of the other side's alert about the certificate that it was shown.
pub(super) type JoinVerdict = Arc<OnceLock<&'static str>>;

pub(super) struct Watched<S> {
    stream: S,
    verdict: JoinVerdict,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S) -> (Self, JoinVerdict) {
        let verdict = JoinVerdict::default();
        let watched = Self {
            stream,
            verdict: verdict.clone(),
        };
        (watched, verdict)
    }

    fn see<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled
            && let Some(words) = words(error)
        {
            let _ = self.verdict.set(words);
        }
        polled
    }
}

/// Words of an alert on a certificate that has ended by the other side's clock.
pub(super) const EXPIRED: &str = "it has expired";

/// Says in words what an alert says of a certificate; `None`: the error is about something else.
pub(super) fn words(error: &io::Error) -> Option<&'static str> {
    let rustls::Error::AlertReceived(alert) = error.get_ref()?.downcast_ref()? else {
        return None;
    };
    Some(match alert {
        AlertDescription::CertificateExpired => EXPIRED,
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::UnknownCA => "it is of another CA",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => "it is not acceptable",
        _ => return None,
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.see(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.see(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.see(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.see(polled)
    }
}
