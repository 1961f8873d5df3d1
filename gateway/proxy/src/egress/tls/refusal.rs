//! Reasons that a client of the TLS listener is refused: the word, what can be done, and the alert that it is told by where
//! rustls does not send one itself.

use std::{io, time::Duration};

use causeway_identity::{NoCaller, TlsError, handshake_word};
use rustls::{AlertDescription, Error as TlsFailure};

/// Reason that a client did not get as far as a service.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsRefusal {
    #[error("cannot use the own identity")]
    Identity(#[from] TlsError),
    #[error("the handshake took longer than {0:?}")]
    Slow(Duration),
    #[error("the limit of connections or handshakes is reached")]
    Overloaded,
    #[error("no descriptors are left but those that are kept for the gateway itself")]
    NoDescriptors,
    #[error("few descriptors are left, and the client's user or address has its share of them")]
    Crowded,
    #[error("the client names no server (SNI)")]
    NoName,
    #[error("`{0}` is no service of the mesh")]
    UnknownName(String),
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
}

impl TlsRefusal {
    /// The word for logs and metrics.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Identity(_) => "own_identity",
            Self::Slow(_) => "slow",
            Self::Overloaded => "overloaded",
            Self::NoDescriptors => "no_descriptors",
            Self::Crowded => "crowded",
            Self::NoName => "no_name",
            Self::UnknownName(_) => "unknown_name",
            Self::Handshake(error) => handshake_word(error),
        }
    }

    /// Says what happened, for people.
    pub(super) fn cause(&self) -> String {
        let Self::Handshake(error) = self else {
            return self.to_string();
        };
        let failure = error.get_ref().and_then(|inner| inner.downcast_ref());
        match failure {
            Some(TlsFailure::InvalidCertificate(cause)) => {
                NoCaller::of(cause).map_or_else(|| error.to_string(), ToString::to_string)
            }
            _ => error.to_string(),
        }
    }

    /// Says what somebody can do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self.word() {
            "own_identity" => "the key must be one that can sign: ECDSA, Ed25519 or RSA",
            "overloaded" => "clients come faster than they can be taken; give the zone another gateway",
            "no_descriptors" | "crowded" => "raise the hard limit on open files (LimitNOFILE=, `ulimit -Hn`)",
            "no_name" => {
                "the client must send the mesh name of the service as server name, such as orders.mesh"
            }
            "unknown_name" => {
                "is the service in the topology and exported to this zone? the name ends in the mesh domain, as orders.mesh does"
            }
            "no_certificate" => "this listener takes clients that show a certificate, and no others",
            "unknown_issuer" => "the client needs a certificate of a CA that is in this gateway's ca.pem",
            "expired" => "issue a new certificate for the client, and compare the clocks",
            "not_yet_valid" => "compare the clocks of the client, this host and the CA",
            "revoked" => "issue a new certificate for the client, or look into who handles its key",
            "bad_certificate" => {
                "the client's certificate must be one for clients (clientAuth), and not a CA's"
            }
            "bad_identity" => "a caller's certificate has one URI name, its SPIFFE id",
            "wrong_trust_domain" => "compare trust_domain in the topology with the client's certificate",
            "wrong_zone" => "a path that begins with /zone/ names the zone that speaks for it; connect there",
            "wrong_alpn" => "services with protocol: http speak http/1.1, those with grpc speak h2",
            "tls_version" => "the client must speak TLS 1.3",
            _ => "is it a TLS client, and does it believe this gateway's certificate?",
        }
    }

    /// The fatal alert that has to be sent by hand, as a record in the clear (RFC 8446 §5.1 and §6): nothing was agreed on.
    pub(super) fn alert(&self) -> Option<[u8; 7]> {
        let description = match self {
            Self::NoName => AlertDescription::MissingExtension,
            Self::UnknownName(_) => AlertDescription::UnrecognisedName,
            Self::Identity(_) => AlertDescription::InternalError,
            Self::Slow(_) | Self::Overloaded | Self::NoDescriptors | Self::Crowded | Self::Handshake(_) => {
                return None;
            }
        };
        Some([21, 3, 3, 0, 2, 2, description.into()])
    }
}
