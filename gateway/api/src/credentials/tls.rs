//! TLS for the APIs where others than this host reach them: the server's side of a handshake, and the word for one that
//! failed. The identity in use at that moment is shown; certificates of clients are welcome and not demanded, because a
//! token does as well. A connection ends when the certificate that was shown on it is revoked.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use causeway_host::{
    accept::{AcceptConnection, AcceptRefusal},
    listen::Io,
};
use causeway_identity::{Guarded, LiveIdentity, TlsError, handshake_word, identify_client};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::Gate;
use crate::actor::{AskingConnection, Proof};

/// For a handshake, or the first byte in the clear; what takes longer is no client.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Reason why a TCP connection did not become one over TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcceptError {
    #[error("cannot use the own identity")]
    Identity(#[from] TlsError),
    #[error("no handshake was made, or nothing was asked, within {HANDSHAKE_LIMIT:?}")]
    Slow,
    #[error("its host has as many connections as one may have")]
    Crowded,
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
}

impl AcceptError {
    /// The word for logs and metrics.
    #[must_use]
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Identity(_) => "own_identity",
            Self::Slow => "slow",
            Self::Crowded => "crowded",
            Self::Handshake(error) => handshake_word(error),
        }
    }
}

/// A connection that was taken up, over TLS where that is asked for.
pub(crate) type Secured = Box<dyn Io>;

/// Takes connections up over TLS.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor {
    identity: LiveIdentity,
    alpn: &'static [&'static [u8]],
}

impl Acceptor {
    /// `alpn`: what is spoken inside; a client that names other protocols only is refused.
    #[must_use]
    pub(crate) fn new(identity: LiveIdentity, alpn: &'static [&'static [u8]]) -> Self {
        Self { identity, alpn }
    }

    /// The time that it may take is for the caller to limit.
    ///
    /// # Errors
    /// When the handshake fails; a certificate that leads to no trust root, has expired or is for another purpose fails it.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<(Secured, AskingConnection), AcceptError> {
        let from = stream.peer_addr().map_err(AcceptError::Handshake)?;
        let own = stream.local_addr().map_err(AcceptError::Handshake)?;
        let mut config = self.identity.current().api_tls()?;
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        let handshake = TlsAcceptor::from(Arc::new(config)).accept(stream);
        let stream = handshake.await.map_err(AcceptError::Handshake)?;
        let chain = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .to_vec();
        let proof = self.proof(chain.first());
        let connection = AskingConnection {
            proof,
            ..AskingConnection::plain(from).at(own)
        };
        let secured: Secured = match &connection.proof {
            Proof::Identity(id) => {
                Box::new(Guarded::new(stream, self.identity.clone(), id.to_string(), chain))
            }
            _ => Box::new(stream),
        };
        Ok((secured, connection))
    }

    /// The chain was verified in the handshake; here it is whom the leaf names.
    fn proof(&self, leaf: Option<&CertificateDer<'_>>) -> Proof {
        let Some(leaf) = leaf else {
            return Proof::Nobody;
        };
        match identify_client(leaf) {
            Ok((domain, id)) if domain == self.identity.trust_domain() => Proof::Identity(id.into()),
            Ok((_, id)) => Proof::Useless {
                why: format!("{id} is not of {}", self.identity.trust_domain()).into(),
                word: "wrong_trust_domain",
            },
            Err(error) => Proof::Useless {
                why: error.to_string().into(),
                word: "bad_identity",
            },
        }
    }
}

/// Entrance of an API for TCP connections.
#[derive(Debug, Clone)]
pub(crate) struct ApiEntrance {
    /// Name of the API.
    pub api: &'static str,
    /// `None`: in the clear.
    pub acceptor: Option<Acceptor>,
    /// Is told of handshakes that fail.
    pub gate: Gate,
}

impl ApiEntrance {
    /// # Errors
    /// When the handshake fails.
    pub(crate) async fn enter(
        &self,
        stream: TcpStream,
        from: AskingConnection,
    ) -> Result<(Secured, AskingConnection), AcceptError> {
        match &self.acceptor {
            None => {
                // Whoever says nothing gives up its place soon.
                // What became of it meanwhile is met by whoever reads.
                let _ = stream.peek(&mut [0]).await;
                Ok((Box::new(stream), from))
            }
            Some(acceptor) => acceptor.accept(stream).await,
        }
    }

    /// Tells the gate why a connection from there is not served.
    pub(crate) fn refused(&self, from: Option<SocketAddr>, why: AcceptRefusal<AcceptError>) {
        // Who comes over a unix socket has no handshake, and no address.
        let Some(from) = from else { return };
        let error = match why {
            AcceptRefusal::Crowded => AcceptError::Crowded,
            AcceptRefusal::Slow => AcceptError::Slow,
            AcceptRefusal::Failed(error) => error,
        };
        self.gate
            .handshake_failed(self.api, &AskingConnection::plain(from), &error);
    }
}

impl AcceptConnection<TcpStream> for ApiEntrance {
    type Connection = (Secured, AskingConnection);
    type Error = AcceptError;

    async fn enter(
        &self,
        stream: TcpStream,
        from: Option<SocketAddr>,
    ) -> Result<(Secured, AskingConnection), AcceptError> {
        let from = match from {
            Some(from) => from,
            None => stream.peer_addr().map_err(AcceptError::Handshake)?,
        };
        let own = stream.local_addr().map_err(AcceptError::Handshake)?;
        Self::enter(self, stream, AskingConnection::plain(from).at(own)).await
    }

    fn refused(&self, from: Option<SocketAddr>, why: AcceptRefusal<AcceptError>) {
        Self::refused(self, from, why);
    }
}
