//! A connection that ends as soon as the certificate at its other end is revoked, or its root trusted no more, and shortly after
//! the end of that certificate, unless its holder has shown a later one here meanwhile.

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
    pub fn new(io: S, identity: LiveIdentity, peer: String, chain: Vec<CertificateDer<'static>>) -> Self {
        identity.shook_hands(&chain, SystemTime::now());
        Self::until(io, wait(identity, peer, chain))
    }

    /// Guards a connection that ends once `distrusted` is ready, for the reason that it gives.
    pub fn until(io: S, distrusted: impl Future<Output = String> + Send + 'static) -> Self {
        Self {
            io,
            distrusted: Box::pin(distrusted),
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
    let mut outlived = std::pin::pin!(identity.outlived(&chain));
    loop {
        if let Some((distrust, why)) = distrust(&identity.current(), &chain, SystemTime::now()) {
            tracing::warn!(peer, reason = distrust.word(), "ended a connection: {why}");
            identity.ended(1);
            return why;
        }
        tokio::select! {
            () = identity.changed() => {}
            () = &mut outlived => {
                let why = "the certificate that it was opened with has ended, and no later one was shown";
                tracing::info!(peer, reason = "expired", "ended a connection: {why}");
                return why.to_owned();
            }
        }
    }
}

/// Reason that a chain that was believed once is not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// A certificate of it was revoked.
    Revoked,
    /// The root that it leads to is trusted no more.
    UnknownIssuer,
}

impl Distrust {
    /// The word for logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::UnknownIssuer => "unknown_issuer",
        }
    }
}

/// Says why a chain that was believed once is not any more, for programs and for people. Not that its time is over.
pub fn distrust(
    identity: &Identity,
    chain: &[CertificateDer<'static>],
    now: SystemTime,
) -> Option<(Distrust, String)> {
    if let Some(serial) = identity.revoked(chain) {
        let why = format!("the peer's certificate with serial number {serial} was revoked");
        return Some((Distrust::Revoked, why));
    }
    match identity.check_peer(chain, now) {
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            let why = "the peer's issuer is no longer among the trust roots".to_owned();
            Some((Distrust::UnknownIssuer, why))
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, time::Duration};

    use causeway_federation::name::GatewayId;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::{
        IdentityFolder, REVOCATIONS_FILE, RefreshOutcome, Secure,
        ca::{self, Ca, LEAF_VALIDITY},
    };

    /// Time that is promised for a revocation.
    const A_SECOND: Duration = Duration::from_secs(1);

    fn gateway(name: &str) -> GatewayId {
        GatewayId::new("east".parse().unwrap(), name.parse().unwrap())
    }

    #[tokio::test]
    async fn a_connection_ends_when_the_other_side_is_revoked_and_there_is_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("ca");
        ca::init(&authority, "acme.internal").unwrap();
        let [server, client] = ["gw1", "gw2"].map(|name| {
            let out = folder.path().join(name);
            ca::issue(&authority, &gateway(name), &out, LEAF_VALIDITY).unwrap();
            IdentityFolder::open(&out).unwrap()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepting, dialling) = (Secure::new(server.identity()), Secure::new(client.identity()));
        let connect = async || {
            let dialled = TcpStream::connect(address).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            tokio::join!(accepting.accept(accepted), dialling.connect(dialled))
        };
        let (accepted, dialled) = connect().await;
        let ((mut accepted, peer), mut dialled) = (accepted.unwrap(), dialled.unwrap());
        assert_eq!(peer.gateway, gateway("gw2"));
        dialled.write_all(b"hello").await.unwrap();
        dialled.flush().await.unwrap();
        accepted.read_exact(&mut [0; 5]).await.unwrap();

        let revoked = client.identity().current().serial().unwrap();
        let now = SystemTime::now();
        let list = Ca::load(&authority)
            .unwrap()
            .revocation_list(&BTreeMap::from([(revoked, now)]), 1, now);
        let reading = tokio::spawn(async move { accepted.read_u8().await });
        fs::write(folder.path().join("gw1").join(REVOCATIONS_FILE), list.unwrap()).unwrap();
        assert_eq!(server.reload(now), RefreshOutcome::Taken);
        let ended = timeout(A_SECOND, reading).await.unwrap().unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(connect().await.0.is_err(), "and the next handshake is refused");
    }
}
