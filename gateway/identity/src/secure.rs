//! The way between a zone-sync and the gateways of its zone, where others can reach it: TLS 1.3 with the gateways' own
//! identities on both sides. Who holds a certificate of another zone is refused. The certificates in use are those of the
//! moment of the handshake, so a renewed one needs no restart; a connection ends when the other side is revoked
//! ([`super::guarded`]).

use std::{io, sync::Arc, time::Duration};

use causeway_federation::name::GatewayId;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::{Guarded, LeafError, LiveIdentity, SpiffeId, TlsError, handshake_word, identify};

/// ALPN protocol id that gRPC is spoken over.
const ALPN: &[u8] = b"h2";
/// For a handshake; what takes longer is no neighbour.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Rustls wants a name; peers are known by their identity, and the name is not sent.
const NAME: &str = "zone-sync.invalid";
/// The first byte of a TLS connection: a handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// Reason why a connection was not taken up.
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    #[error("cannot use the own identity")]
    Identity(#[from] TlsError),
    #[error("the handshake took longer than {HANDSHAKE_LIMIT:?}")]
    Slow,
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the peer showed no certificate of a gateway")]
    Nobody(#[source] LeafError),
    #[error("the peer is {peer} of {trust_domain}, and only gateways of the own trust domain are welcome")]
    OtherDomain { peer: GatewayId, trust_domain: String },
    #[error("the peer is {peer}, and only gateways of the own zone are welcome")]
    Stranger { peer: GatewayId },
}

impl SecureError {
    /// The word for logs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Identity(_) => "own_identity",
            Self::Slow => "slow",
            Self::Handshake(error) => handshake_word(error),
            Self::Nobody(_) => "bad_identity",
            Self::OtherDomain { .. } => "wrong_trust_domain",
            Self::Stranger { .. } => "wrong_zone",
        }
    }
}

/// Makes connections secure with the identity of a gateway.
#[derive(Debug, Clone)]
pub struct Secure(LiveIdentity);

impl Secure {
    #[must_use]
    pub fn new(identity: LiveIdentity) -> Self {
        Self(identity)
    }

    /// With whose certificates, and whom they believe.
    #[must_use]
    pub fn identity(&self) -> LiveIdentity {
        self.0.clone()
    }

    /// The server's side. Returns who the client is.
    ///
    /// # Errors
    /// When the handshake fails, or the client is no gateway of the own zone.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<(Guarded<TlsStream<TcpStream>>, SpiffeId), SecureError> {
        let mut config = self.0.current().server_tls()?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let handshake = TlsAcceptor::from(Arc::new(config)).accept(stream);
        let done = timeout(HANDSHAKE_LIMIT, handshake).await;
        let stream = done
            .map_err(|_| SecureError::Slow)?
            .map_err(SecureError::Handshake)?;
        let (peer, chain) = self.check(stream.get_ref().1.peer_certificates())?;
        let guarded = Guarded::new(
            TlsStream::Server(stream),
            self.0.clone(),
            peer.gateway.to_string(),
            chain,
        );
        Ok((guarded, peer))
    }

    /// The client's side.
    ///
    /// # Errors
    /// When the handshake fails, or the server is not of the own zone.
    pub async fn connect(&self, stream: TcpStream) -> Result<Guarded<TlsStream<TcpStream>>, SecureError> {
        let mut config = self.0.current().client_tls()?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let name =
            ServerName::try_from(NAME).map_err(|error| SecureError::Handshake(io::Error::other(error)))?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let done = timeout(HANDSHAKE_LIMIT, handshake).await;
        let stream = done
            .map_err(|_| SecureError::Slow)?
            .map_err(SecureError::Handshake)?;
        let (peer, chain) = self.check(stream.get_ref().1.peer_certificates())?;
        Ok(Guarded::new(
            TlsStream::Client(stream),
            self.0.clone(),
            peer.gateway.to_string(),
            chain,
        ))
    }

    /// The chain was verified in the handshake; here it is who the leaf names. Answers with the chain as well.
    fn check(
        &self,
        chain: Option<&[CertificateDer<'static>]>,
    ) -> Result<(SpiffeId, Vec<CertificateDer<'static>>), SecureError> {
        let chain = chain.unwrap_or_default();
        let leaf = chain.first();
        let leaf = leaf.ok_or(SecureError::Nobody(LeafError::Malformed))?;
        let id = identify(leaf).map_err(SecureError::Nobody)?;
        if id.trust_domain != self.0.trust_domain() {
            return Err(SecureError::OtherDomain {
                peer: id.gateway,
                trust_domain: id.trust_domain,
            });
        }
        if id.gateway.zone != self.0.gateway().zone {
            return Err(SecureError::Stranger { peer: id.gateway });
        }
        Ok((id, chain.to_vec()))
    }
}

/// Tells whether the client begins with TLS. Waits for its first byte.
pub async fn begins_with_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    match timeout(HANDSHAKE_LIMIT, stream.peek(&mut first)).await {
        Ok(seen) => Ok(seen? == 1 && first[0] == HANDSHAKE),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
