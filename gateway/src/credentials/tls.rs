//! TLS for the APIs where others than this host reach them: the server's side of a handshake, and the word for one that
//! failed. The identity in use at that moment is shown; certificates of clients are welcome and not demanded, because a
//! token does as well. A connection ends when the certificate that was shown on it is revoked.

use std::{io, sync::Arc, time::Duration};

use rustls::{AlertDescription, CertificateError, Error as TlsFailure, PeerIncompatible};
use rustls_pki_types::CertificateDer;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{Connection, Gate, Proof};
use crate::{
    identity::{Guarded, LiveIdentity, NoCaller, TlsError, identify_client, is_not_yet_valid},
    listen::Io,
};

/// For a handshake; what takes longer is no client.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Why a connection did not become one.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error("cannot use the own identity")]
    Identity(#[from] TlsError),
    #[error("the handshake took longer than {HANDSHAKE_LIMIT:?}")]
    Slow,
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
}

impl AcceptError {
    /// The word for logs and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Identity(_) => "own_identity",
            Self::Slow => "slow",
            Self::Handshake(error) => handshake_word(error),
        }
    }
}

/// A connection that was taken up, over TLS where that is asked for.
pub type Secured = Box<dyn Io>;

/// Takes connections up over TLS.
#[derive(Debug, Clone)]
pub struct Acceptor {
    identity: LiveIdentity,
    alpn: &'static [&'static [u8]],
}

impl Acceptor {
    /// `alpn`: what is spoken inside; a client that names other protocols only is refused.
    #[must_use]
    pub fn new(identity: LiveIdentity, alpn: &'static [&'static [u8]]) -> Self {
        Self { identity, alpn }
    }

    /// # Errors
    /// When the handshake fails; a certificate that leads to no trust root, has expired or is for another purpose fails it.
    pub async fn accept(&self, stream: TcpStream) -> Result<(Secured, Connection), AcceptError> {
        let from = stream.peer_addr().map_err(AcceptError::Handshake)?;
        let mut config = self.identity.current().api_tls()?;
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        let handshake = TlsAcceptor::from(Arc::new(config)).accept(stream);
        let done = timeout(HANDSHAKE_LIMIT, handshake).await;
        let stream = done
            .map_err(|_| AcceptError::Slow)?
            .map_err(AcceptError::Handshake)?;
        let chain = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .to_vec();
        let proof = self.proof(chain.first());
        let connection = Connection {
            proof,
            ..Connection::plain(from)
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

/// Takes a TCP connection of `api` up: in the clear without a `door`, else over TLS. `None`: it did not become a connection,
/// which the gate was told.
pub async fn enter(
    door: Option<(&Acceptor, &Gate)>,
    api: &'static str,
    stream: TcpStream,
    from: Connection,
) -> Option<(Secured, Connection)> {
    let Some((acceptor, gate)) = door else {
        return Some((Box::new(stream), from));
    };
    match acceptor.accept(stream).await {
        Ok(entered) => Some(entered),
        Err(error) => {
            gate.handshake_failed(api, &from, &error);
            None
        }
    }
}

/// Why a handshake failed, in the words that refusals of tunnels have.
pub fn handshake_word(error: &io::Error) -> &'static str {
    let failure = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<TlsFailure>());
    match failure {
        Some(TlsFailure::InvalidCertificate(cause)) => match cause {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
            // A root of the same name with another key is another CA all the same.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => "unknown_issuer",
            CertificateError::Revoked => "revoked",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not_yet_valid",
            cause if is_not_yet_valid(cause) => "not_yet_valid",
            cause => NoCaller::of(cause).map_or("bad_certificate", NoCaller::word),
        },
        Some(TlsFailure::NoCertificatesPresented) => "no_certificate",
        Some(TlsFailure::NoApplicationProtocol) => "wrong_alpn",
        Some(TlsFailure::PeerIncompatible(cause)) => match cause {
            PeerIncompatible::NoKxGroupsInCommon => "no_common_group",
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired => "tls_version",
            _ => "handshake",
        },
        Some(TlsFailure::AlertReceived(alert)) => match alert {
            AlertDescription::CertificateExpired => "expired",
            AlertDescription::UnknownCA => "unknown_issuer",
            AlertDescription::CertificateRevoked => "revoked",
            AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => "bad_certificate",
            _ => "handshake",
        },
        _ => "handshake",
    }
}
