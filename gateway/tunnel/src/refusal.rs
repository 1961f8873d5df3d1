//! Reasons that a tunnel is refused, in words, close codes and TLS alerts, and how both sides tell from a closed connection
//! what happened. Nothing here closes or logs anything.

use causeway_telemetry::Side;
use quinn::{ConnectionError, TransportErrorCode, VarInt};

/// Longest reason text in bytes that is sent in a close, or shown from one.
pub const MAX_REASON_BYTES: usize = 200;
/// First byte of QUIC's transport error codes that carry a TLS alert (RFC 9001 §4.8).
const CRYPTO_ERROR: u64 = 0x100;

/// The TLS alert for a handshake that found nothing in common (RFC 8446 §6.2).
const HANDSHAKE_FAILURE: u8 = 40;
/// The end of rustls's reason where it was the key exchange that had nothing in common.
const NO_GROUP: &[u8] = b"NoKxGroupsInCommon";

/// Reason that one gateway would not have a tunnel with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelRefusal {
    /// No certificate was presented.
    NoCertificate,
    /// The certificate leads to no trusted root.
    UnknownIssuer,
    Expired,
    NotYetValid,
    /// The certificate was revoked.
    Revoked,
    /// The certificate is broken, is a CA's, or is for another purpose.
    BadCertificate,
    /// The peer speaks no protocol that this side speaks (ALPN).
    WrongAlpn,
    /// The topology requires a post-quantum key exchange, and the peer or its tunnel has none.
    NotPostQuantum,
    /// The TLS or QUIC handshake failed in another way.
    Handshake,
    /// The certificate does not name exactly one gateway.
    BadIdentity,
    WrongTrustDomain,
    /// The certificate names another zone than the one that was dialled.
    WrongZone,
    /// The topology has no such zone.
    UnknownZone,
    /// The peer claims this gateway's own zone.
    OwnZone,
    /// The peer speaks another version of the tunnel protocol.
    ProtocolVersion,
    /// The peer said something that is not of the protocol.
    Garbage,
    /// The peer did not say hello in time.
    NoHello,
    /// Limits on tunnels or handshakes are reached, or the peer is shutting down.
    Busy,
}

impl TunnelRefusal {
    pub const ALL: [Self; 18] = [
        Self::NoCertificate,
        Self::UnknownIssuer,
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::BadCertificate,
        Self::WrongAlpn,
        Self::NotPostQuantum,
        Self::Handshake,
        Self::BadIdentity,
        Self::WrongTrustDomain,
        Self::WrongZone,
        Self::UnknownZone,
        Self::OwnZone,
        Self::ProtocolVersion,
        Self::Garbage,
        Self::NoHello,
        Self::Busy,
    ];

    /// The word for metrics and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::BadCertificate => "bad_certificate",
            Self::WrongAlpn => "wrong_alpn",
            Self::NotPostQuantum => "not_post_quantum",
            Self::Handshake => "handshake",
            Self::BadIdentity => "bad_identity",
            Self::WrongTrustDomain => "wrong_trust_domain",
            Self::WrongZone => "wrong_zone",
            Self::UnknownZone => "unknown_zone",
            Self::OwnZone => "own_zone",
            Self::ProtocolVersion => "protocol_version",
            Self::Garbage => "garbage",
            Self::NoHello => "no_hello",
            Self::Busy => "busy",
        }
    }

    /// Says what an operator can do about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::NoCertificate => "a gateway presents its certificate; something else may be calling",
            Self::UnknownIssuer => "both gateways need a certificate from a CA that is in the other's ca.pem",
            Self::Expired => "issue a new certificate, and compare the clocks of both hosts",
            Self::NotYetValid => "compare the clocks of both hosts",
            Self::Revoked => {
                "if that gateway is to come back, issue a new certificate for it; if not, end it and look into who holds its key"
            }
            Self::BadCertificate => "issue a gateway certificate with `causeway ca issue`",
            Self::WrongAlpn | Self::ProtocolVersion => {
                "run versions of causeway that speak the same protocol"
            }
            Self::NotPostQuantum => {
                "the topology says tls: { require_post_quantum: true }: run a version that speaks X25519MLKEM768, or take it back"
            }
            Self::Handshake => "check that a gateway answers at this address",
            Self::BadIdentity => "a gateway's certificate has one URI name, its SPIFFE id",
            Self::WrongTrustDomain => "compare trust_domain in the topology with the certificates",
            Self::WrongZone => {
                "the topology lists this address under another zone than its certificate names"
            }
            Self::UnknownZone => "add the zone to the topology, or stop its gateway",
            Self::OwnZone => "an address of this zone is listed under another, or two zones share a name",
            Self::Garbage => "the peer breaks the protocol; compare the versions",
            Self::NoHello => "the peer is overloaded, or is no gateway",
            Self::Busy => "the peer takes no more tunnels for now",
        }
    }

    /// The code that closes a connection after its handshake, for refusals that are decided there.
    #[must_use]
    pub fn code(self) -> Close {
        match self {
            Self::BadIdentity => Close(0x10),
            Self::WrongTrustDomain => Close(0x11),
            Self::WrongZone => Close(0x12),
            Self::UnknownZone => Close(0x13),
            Self::OwnZone => Close(0x14),
            Self::ProtocolVersion => Close(0x15),
            Self::Garbage => Close(0x16),
            Self::NoHello => Close(0x17),
            Self::Busy => Close(0x18),
            Self::NotPostQuantum => Close(0x19),
            // Decided in the handshake and told by a TLS alert; a code exists so that the table is whole.
            Self::NoCertificate => Close(0x20),
            Self::UnknownIssuer => Close(0x21),
            Self::Expired => Close(0x22),
            Self::NotYetValid => Close(0x23),
            Self::BadCertificate => Close(0x24),
            Self::WrongAlpn => Close(0x25),
            Self::Handshake => Close(0x26),
            Self::Revoked => Close(0x27),
        }
    }

    fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|r| u64::from(r.code().0) == code)
    }

    /// The refusal that a TLS alert (RFC 8446 §6.2) stands for between gateways.
    fn from_alert(alert: u8) -> Self {
        match alert {
            42 | 43 | 51 => Self::BadCertificate,
            44 => Self::Revoked,
            45 => Self::Expired,
            // What a gateway sends for a validity that has not begun; see `causeway_identity::is_not_yet_valid`.
            46 => Self::NotYetValid,
            48 => Self::UnknownIssuer,
            71 => Self::NotPostQuantum,
            116 => Self::NoCertificate,
            120 => Self::WrongAlpn,
            _ => Self::Handshake,
        }
    }
}

/// An application close code of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close(u32);

impl Close {
    /// The tunnel is not needed: another address of the same gateway answered first, or the topology changed.
    pub const UNNEEDED: Self = Self(0);
    /// The gateway shuts down.
    pub const SHUTDOWN: Self = Self(1);
    /// The peer's zone left the topology.
    pub const ZONE_LEFT: Self = Self(2);
    /// The peer has restarted: this tunnel was to the process before.
    pub const RESTARTED: Self = Self(3);

    #[must_use]
    pub(super) fn code(self) -> VarInt {
        VarInt::from_u32(self.0)
    }
}

/// End of a connection, or the reason that it did not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// One side closed it in good order.
    Closed { by: Side, why: String },
    /// Silence, or a peer that no longer knows the connection.
    Lost(Loss),
    Refused {
        by: Side,
        refusal: TunnelRefusal,
        detail: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    TimedOut,
    /// The peer restarted.
    Reset,
    /// This host ran out of something.
    Local,
}

impl Loss {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::TimedOut => "timeout",
            Self::Reset => "reset",
            Self::Local => "local",
        }
    }
}

impl Ended {
    /// Reads what a closed connection tells.
    #[must_use]
    pub(super) fn of(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TransportError(error) => Self::Refused {
                by: Side::Local,
                refusal: of_transport(error.code, error.reason.as_bytes()),
                detail: readable(error.reason.as_bytes()),
            },
            ConnectionError::ConnectionClosed(close) => match close.error_code {
                TransportErrorCode::NO_ERROR | TransportErrorCode::APPLICATION_ERROR => Self::Closed {
                    by: Side::Peer,
                    why: readable(&close.reason),
                },
                code => Self::Refused {
                    by: Side::Peer,
                    refusal: of_transport(code, &close.reason),
                    detail: readable(&close.reason),
                },
            },
            ConnectionError::ApplicationClosed(close) => {
                match TunnelRefusal::from_code(close.error_code.into_inner()) {
                    Some(refusal) => Self::Refused {
                        by: Side::Peer,
                        refusal,
                        detail: readable(&close.reason),
                    },
                    None => Self::Closed {
                        by: Side::Peer,
                        why: readable(&close.reason),
                    },
                }
            }
            ConnectionError::VersionMismatch => Self::Refused {
                by: Side::Peer,
                refusal: TunnelRefusal::Handshake,
                detail: "no common QUIC version".to_owned(),
            },
            ConnectionError::Reset => Self::Lost(Loss::Reset),
            ConnectionError::TimedOut => Self::Lost(Loss::TimedOut),
            ConnectionError::CidsExhausted => Self::Lost(Loss::Local),
            ConnectionError::LocallyClosed => Self::Closed {
                by: Side::Local,
                why: String::new(),
            },
        }
    }
}

fn of_transport(code: TransportErrorCode, reason: &[u8]) -> TunnelRefusal {
    let raw = u64::from(code);
    match u8::try_from(raw.wrapping_sub(CRYPTO_ERROR)) {
        // What a rustls server without the demanded group says. The text only picks the word.
        Ok(HANDSHAKE_FAILURE) if reason.ends_with(NO_GROUP) => TunnelRefusal::NotPostQuantum,
        Ok(alert) => TunnelRefusal::from_alert(alert),
        Err(_) if code == TransportErrorCode::CONNECTION_REFUSED => TunnelRefusal::Busy,
        Err(_) => TunnelRefusal::Garbage,
    }
}

/// A peer's text, bounded and without control characters, fit for a log.
fn readable(text: &[u8]) -> String {
    let text = &text[..text.len().min(MAX_REASON_BYTES)];
    let text = String::from_utf8_lossy(text);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use proptest::prelude::*;
    use quinn::{ApplicationClose, ConnectionClose};

    use super::*;

    #[test]
    fn every_refusal_has_its_own_word_and_code() {
        let words: BTreeSet<_> = TunnelRefusal::ALL.iter().map(|r| r.word()).collect();
        let codes: BTreeSet<_> = TunnelRefusal::ALL.iter().map(|r| r.code().0).collect();
        assert_eq!(words.len(), TunnelRefusal::ALL.len());
        assert_eq!(codes.len(), TunnelRefusal::ALL.len());
        for refusal in TunnelRefusal::ALL {
            assert_eq!(
                TunnelRefusal::from_code(u64::from(refusal.code().0)),
                Some(refusal)
            );
        }
        for close in [
            Close::UNNEEDED,
            Close::SHUTDOWN,
            Close::ZONE_LEFT,
            Close::RESTARTED,
        ] {
            assert_eq!(TunnelRefusal::from_code(u64::from(close.0)), None);
        }
    }

    #[test]
    fn a_peers_alert_is_told_as_the_peers_refusal() {
        let close = ConnectionClose {
            error_code: TransportErrorCode::crypto(116),
            frame_type: None,
            reason: Bytes::from_static(b"no\ncert"),
        };
        let ended = Ended::of(&ConnectionError::ConnectionClosed(close));
        let expected = Ended::Refused {
            by: Side::Peer,
            refusal: TunnelRefusal::NoCertificate,
            detail: "no cert".to_owned(),
        };
        assert_eq!(ended, expected);
    }

    proptest! {
        #[test]
        fn any_close_is_read_without_a_panic(code in 0u64..1 << 62, reason in prop::collection::vec(any::<u8>(), 0..400)) {
            let close = ApplicationClose { error_code: VarInt::from_u64(code).unwrap(), reason: reason.into() };
            let ended = Ended::of(&ConnectionError::ApplicationClosed(close));
            if let Ended::Closed { why: text, .. } | Ended::Refused { detail: text, .. } = ended {
                prop_assert!(!text.chars().any(char::is_control));
            }
        }
    }
}
