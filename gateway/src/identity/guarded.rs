//! A connection that ends as soon as the certificate at its other end is revoked, or its root trusted no more. What ended
//! merely by its date is left alone: it was good when the connection began.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::SystemTime,
};

use futures_util::future::BoxFuture;
use rustls::{CertificateError, Error};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Identity, LiveIdentity};

/// Reads fail once the peer is not to be believed any more. Whoever holds the connection reads all the time, so that ends it.
pub struct Guarded<S> {
    io: S,
    /// Gives the reason when it ends.
    distrusted: BoxFuture<'static, String>,
    ended: Option<String>,
}

impl<S> Guarded<S> {
    /// Guards a connection to `peer`, who proved itself by `chain`.
    pub(crate) fn new(
        io: S,
        identity: LiveIdentity,
        peer: String,
        chain: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self {
            io,
            distrusted: Box::pin(wait(identity, peer, chain)),
            ended: None,
        }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.ended.is_none()
            && let Poll::Ready(why) = self.distrusted.as_mut().poll(cx)
        {
            self.ended = Some(why);
        }
        match &self.ended {
            None => Ok(()),
            Some(why) => Err(io::Error::new(io::ErrorKind::PermissionDenied, why.clone())),
        }
    }
}

async fn wait(mut identity: LiveIdentity, peer: String, chain: Vec<CertificateDer<'static>>) -> String {
    loop {
        if let Some((word, why)) = distrust(&identity.current(), &chain, SystemTime::now()) {
            tracing::warn!(peer, reason = word, "ended a connection: {why}");
            return why;
        }
        identity.changed().await;
    }
}

/// Why a chain that was believed once is not any more: a word, and for people.
fn distrust(
    identity: &Identity,
    chain: &[CertificateDer<'static>],
    now: SystemTime,
) -> Option<(&'static str, String)> {
    if let Some(serial) = identity.revoked(chain) {
        let why = format!("the peer's certificate with serial number {serial} was revoked");
        return Some(("revoked", why));
    }
    match identity.check_peer(chain, now) {
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            let why = "the peer's issuer is no longer among the trust roots".to_owned();
            Some(("unknown_issuer", why))
        }
        _ => None,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.ended.is_some() {
            return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
