//! TLS for tunnels, as quinn's own does it, and two things that quinn's keeps to itself: which key exchange group and
//! cipher suite were agreed on, and the right alert for a peer that lacks the group that is demanded.
//!
//! The cryptography is rustls's and the packet keys are quinn's; here one is handed to the other. Retry packets are
//! left to quinn's implementation.

use std::{any::Any, io, sync::Arc};

use quinn::{
    ConnectError, ConnectionId, Side, TransportErrorCode,
    crypto::{
        self, ExportKeyingMaterialError, KeyPair, Keys, UnsupportedVersion,
        rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
    },
};
use quinn_proto::{TransportError, transport_parameters::TransportParameters};
use rustls::{
    AlertDescription, CipherSuite, Error as TlsFailure, NamedGroup, PeerIncompatible,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName},
    quic::{Connection, KeyChange, Secrets, Suite, Version},
};

/// QUIC version 1 (RFC 9000); no other is spoken between gateways.
const QUIC_V1: u32 = 1;

/// Key exchange and cipher that the two sides of a tunnel agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    pub group: NamedGroup,
    pub cipher: CipherSuite,
}

impl Negotiated {
    /// Tells whether somebody who records the tunnel now could not read it with a quantum computer later.
    #[must_use]
    pub fn is_post_quantum(&self) -> bool {
        self.group == NamedGroup::X25519MLKEM768
    }

    /// `X25519MLKEM768`, or the number of a group that rustls has no name for.
    #[must_use]
    pub fn group_name(&self) -> String {
        format!("{:?}", self.group)
    }

    /// `TLS13_AES_128_GCM_SHA256`
    #[must_use]
    pub fn cipher_name(&self) -> String {
        format!("{:?}", self.cipher)
    }

    /// Reads it from a connection whose handshake is done.
    #[must_use]
    pub fn of(connection: &quinn::Connection) -> Option<Self> {
        let data = connection.handshake_data()?.downcast::<Agreed>().ok()?;
        data.negotiated
    }
}

/// Value that [`quinn::Connection::handshake_data`] holds for a tunnel.
struct Agreed {
    /// `None` until the handshake is done.
    negotiated: Option<Negotiated>,
}

/// For dialling.
pub(super) struct TunnelClient {
    tls: Arc<rustls::ClientConfig>,
    initial: Suite,
    quinns: Arc<QuicClientConfig>,
}

/// For accepting.
pub(super) struct TunnelServer {
    tls: Arc<rustls::ServerConfig>,
    initial: Suite,
    quinns: Arc<QuicServerConfig>,
}

/// The suite that the first packets of every connection are protected with (RFC 9001 §5.2).
fn initial_suite(provider: &CryptoProvider) -> Option<Suite> {
    let aes_128 = provider
        .cipher_suites
        .iter()
        .find(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    aes_128?.tls13()?.quic_suite()
}

fn demands_post_quantum(provider: &CryptoProvider) -> bool {
    let mut groups = provider.kx_groups.iter().map(|group| group.name());
    groups.all(|group| group == NamedGroup::X25519MLKEM768)
}

/// Reason that a TLS configuration serves no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeConfigError {
    #[error("the cryptography lacks AES-128-GCM, which QUIC begins with")]
    NoSuite,
    #[error("quinn cannot use the TLS configuration")]
    Quinn(#[from] NoInitialCipherSuite),
}

impl TunnelClient {
    pub(super) fn new(tls: rustls::ClientConfig) -> Result<Self, HandshakeConfigError> {
        let tls = Arc::new(tls);
        Ok(Self {
            initial: initial_suite(tls.crypto_provider()).ok_or(HandshakeConfigError::NoSuite)?,
            quinns: Arc::new(QuicClientConfig::try_from(tls.clone())?),
            tls,
        })
    }
}

impl TunnelServer {
    pub(super) fn new(tls: rustls::ServerConfig) -> Result<Self, HandshakeConfigError> {
        let tls = Arc::new(tls);
        Ok(Self {
            initial: initial_suite(tls.crypto_provider()).ok_or(HandshakeConfigError::NoSuite)?,
            quinns: Arc::new(QuicServerConfig::try_from(tls.clone())?),
            tls,
        })
    }
}

impl crypto::ClientConfig for TunnelClient {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        if version != QUIC_V1 {
            return Err(ConnectError::UnsupportedVersion);
        }
        let bad_name = || ConnectError::InvalidServerName(server_name.to_owned());
        let name = ServerName::try_from(server_name)
            .map_err(|_| bad_name())?
            .to_owned();
        let inner = rustls::quic::ClientConnection::new(self.tls.clone(), Version::V1, name, encoded(params));
        Ok(Box::new(Session {
            // It fails only where the configuration lacks TLS 1.3 or a suite, which `new` has seen to.
            inner: Connection::Client(inner.map_err(|_| ConnectError::UnsupportedVersion)?),
            initial: self.initial,
            demands_post_quantum: demands_post_quantum(self.tls.crypto_provider()),
            has_data: false,
            next: None,
            for_retries: Some((self.quinns.clone(), server_name.to_owned(), *params)),
        }))
    }
}

impl crypto::ServerConfig for TunnelServer {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        match version {
            QUIC_V1 => Ok(initial_keys(&self.initial, dst_cid, Side::Server)),
            _ => Err(UnsupportedVersion),
        }
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.quinns.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        let inner = rustls::quic::ServerConnection::new(self.tls.clone(), Version::V1, encoded(params));
        match inner {
            Ok(inner) => Box::new(Session {
                inner: Connection::Server(inner),
                initial: self.initial,
                demands_post_quantum: demands_post_quantum(self.tls.crypto_provider()),
                has_data: false,
                next: None,
                for_retries: None,
            }),
            // It fails only where the configuration lacks TLS 1.3 or a suite, which `new` has seen to; quinn's does then too.
            Err(_) => self.quinns.clone().start_session(version, params),
        }
    }
}

/// One handshake and the keys that come of it.
struct Session {
    inner: Connection,
    initial: Suite,
    /// Is set when every group that is spoken is a post-quantum one.
    demands_post_quantum: bool,
    /// Is set once quinn was told that [`Agreed`] can be asked for.
    has_data: bool,
    next: Option<Secrets>,
    /// Arguments that a session of quinn's is started with, to check a Retry packet; only on the side that dials.
    for_retries: Option<(Arc<QuicClientConfig>, String, TransportParameters)>,
}

impl Session {
    fn side(&self) -> Side {
        match self.inner {
            Connection::Client(_) => Side::Client,
            Connection::Server(_) => Side::Server,
        }
    }

    /// The close code and reason for a handshake that failed here.
    fn failure(&self, error: &TlsFailure) -> TransportError {
        let reason = error.to_string();
        let lacks_group = matches!(
            error,
            TlsFailure::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon)
        );
        let code = match self.inner.alert() {
            // RFC 8446 §6.2: for a peer that cannot what is demanded, where the usual alert would not say so.
            Some(_) if lacks_group && self.demands_post_quantum => {
                TransportErrorCode::crypto(AlertDescription::InsufficientSecurity.into())
            }
            Some(alert) => TransportErrorCode::crypto(alert.into()),
            None => TransportErrorCode::PROTOCOL_VIOLATION,
        };
        TransportError {
            code,
            frame: None,
            reason,
        }
    }
}

impl crypto::Session for Session {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        initial_keys(&self.initial, dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let group = self.inner.negotiated_key_exchange_group();
        let cipher = self.inner.negotiated_cipher_suite();
        let negotiated = group.zip(cipher).map(|(group, cipher)| Negotiated {
            group: group.name(),
            cipher: cipher.suite(),
        });
        self.has_data
            .then(|| Box::new(Agreed { negotiated }) as Box<dyn Any>)
    }

    /// A `Vec<CertificateDer>`, as with quinn's own.
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let chain = self.inner.peer_certificates()?;
        let owned: Vec<CertificateDer<'static>> = chain.iter().map(|one| one.clone().into_owned()).collect();
        Some(Box::new(owned))
    }

    /// Early data is never used: a tunnel carries nothing before both sides are known.
    fn early_crypto(&self) -> Option<(Box<dyn crypto::HeaderKey>, Box<dyn crypto::PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        (self.side() == Side::Client).then_some(false)
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        if let Err(error) = self.inner.read_hs(buf) {
            return Err(self.failure(&error));
        }
        let fresh = !self.has_data && (self.inner.alpn_protocol().is_some() || !self.is_handshaking());
        self.has_data |= fresh;
        Ok(fresh)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(encoded) = self.inner.quic_transport_parameters() else {
            return Ok(None);
        };
        let read = TransportParameters::read(self.side(), &mut io::Cursor::new(encoded));
        Ok(Some(read?))
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let keys = match self.inner.write_hs(buf)? {
            KeyChange::Handshake { keys } => keys,
            KeyChange::OneRtt { keys, next } => {
                self.next = Some(next);
                keys
            }
        };
        Some(boxed(keys))
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn crypto::PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair {
            local: Box::new(keys.local),
            remote: Box::new(keys.remote),
        })
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some((quinns, name, params)) = &self.for_retries else {
            return false;
        };
        let session = crypto::ClientConfig::start_session(quinns.clone(), QUIC_V1, name, params);
        session.is_ok_and(|session| session.is_valid_retry(orig_dst_cid, header, payload))
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let exported = self.inner.export_keying_material(output, label, Some(context));
        exported.map(drop).map_err(|_| ExportKeyingMaterialError)
    }
}

fn initial_keys(suite: &Suite, dst_cid: &ConnectionId, side: Side) -> Keys {
    let side = match side {
        Side::Client => rustls::Side::Client,
        Side::Server => rustls::Side::Server,
    };
    boxed(suite.keys(dst_cid, side, Version::V1))
}

fn boxed(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair {
            local: Box::new(keys.local.header),
            remote: Box::new(keys.remote.header),
        },
        packet: KeyPair {
            local: Box::new(keys.local.packet),
            remote: Box::new(keys.remote.packet),
        },
    }
}

fn encoded(params: &TransportParameters) -> Vec<u8> {
    let mut bytes = Vec::new();
    params.write(&mut bytes);
    bytes
}
