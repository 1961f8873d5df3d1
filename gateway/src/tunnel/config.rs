//! What an operator may set about tunnels, and the QUIC settings that follow.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{
    AckFrequencyConfig, ClientConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
    congestion::{BbrConfig, CubicConfig},
};

use super::handshake::{HandshakeConfigError, TunnelClient, TunnelServer};
use crate::identity::{KeyExchange, LiveIdentity, TlsError};

/// Interval of keep-alives on an otherwise silent tunnel.
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// A tunnel that hears nothing for this long is gone.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Streams that a peer may have open on one tunnel. quinn allocates about 100 bytes for each in advance.
pub const MAX_STREAMS: u32 = 16_384;
/// Unidirectional streams that a peer may have open: its control stream, and room for later versions.
const MAX_CONTROL_STREAMS: u32 = 4;
/// Unread bytes of one stream: 1 Gbit/s over 128 ms.
const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Unread bytes of one tunnel: bounds what a peer can make this gateway hold.
const TUNNEL_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// Bytes sent and not acknowledged that a new tunnel holds; see [`send_window_bytes`].
pub const MIN_SEND_WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// Most bytes sent and not acknowledged that a tunnel holds, whatever its path.
pub const MAX_SEND_WINDOW_BYTES: u64 = 64 * 1024 * 1024;
/// Round trip that is assumed before one was measured: between data centers, 333 ms (RFC 9002) makes a lost handshake
/// packet cost a whole second.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Largest UDP payload that is probed for: an Ethernet frame of 1,500 bytes less the IPv6 and UDP headers.
const MAX_DATAGRAM_BYTES: u16 = 1452;
/// Packets that the peer may receive before it must acknowledge.
const ACK_EVERY_PACKETS: u32 = 20;
/// Longest that the peer may keep an acknowledgement back.
const MAX_ACK_DELAY: Duration = Duration::from_millis(10);
/// Connections whose first packets wait to be looked at.
const MAX_INCOMING: usize = 4096;
/// Bytes that wait with one of these.
const INCOMING_BUFFER_BYTES: u64 = 64 * 1024;
/// Bytes that wait with all of these.
const INCOMING_BUFFERS_BYTES: u64 = 16 * 1024 * 1024;

/// Which congestion controller a gateway's own sending uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    #[default]
    Cubic,
    /// Does not collapse on a long path with 1 % loss. quinn marks its BBR (version 1) experimental.
    Bbr,
}

/// Settings of all tunnels of one gateway.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// UDP address to accept tunnels on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// What it is now counts for every handshake from then on; tunnels that are up stay up.
    pub identity: LiveIdentity,
    pub congestion: Congestion,
    pub keep_alive: Duration,
    pub idle_timeout: Duration,
    /// Streams that a peer may have open on one tunnel.
    pub max_streams: u32,
}

/// Why an identity and settings made no QUIC configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot set up TLS for tunnels")]
    Tls(#[from] TlsError),
    #[error("cannot set up QUIC packet protection")]
    Cipher(#[from] HandshakeConfigError),
    #[error("an idle timeout of {0:?} is out of range")]
    IdleTimeout(Duration),
}

impl TunnelConfig {
    /// The defaults.
    #[must_use]
    pub fn new(listen: SocketAddr, identity: impl Into<LiveIdentity>) -> Self {
        Self {
            listen,
            identity: identity.into(),
            congestion: Congestion::default(),
            keep_alive: KEEP_ALIVE,
            idle_timeout: IDLE_TIMEOUT,
            max_streams: MAX_STREAMS,
        }
    }

    pub(super) fn server(&self, exchange: KeyExchange) -> Result<ServerConfig, ConfigError> {
        let crypto = TunnelServer::new(self.identity.current().server_tls_with(exchange)?)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(self.transport()?));
        config.max_incoming(MAX_INCOMING);
        config.incoming_buffer_size(INCOMING_BUFFER_BYTES);
        config.incoming_buffer_size_total(INCOMING_BUFFERS_BYTES);
        Ok(config)
    }

    pub(super) fn client(&self, exchange: KeyExchange) -> Result<ClientConfig, ConfigError> {
        let crypto = TunnelClient::new(self.identity.current().client_tls_with(exchange)?)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(self.transport()?));
        Ok(config)
    }

    fn transport(&self) -> Result<TransportConfig, ConfigError> {
        let idle = IdleTimeout::try_from(self.idle_timeout)
            .map_err(|_| ConfigError::IdleTimeout(self.idle_timeout))?;
        let mut acknowledgements = AckFrequencyConfig::default();
        acknowledgements
            .ack_eliciting_threshold(ACK_EVERY_PACKETS.into())
            .max_ack_delay(Some(MAX_ACK_DELAY));
        let mut probing = MtuDiscoveryConfig::default();
        probing.upper_bound(MAX_DATAGRAM_BYTES);

        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(self.max_streams))
            .max_concurrent_uni_streams(MAX_CONTROL_STREAMS.into())
            .stream_receive_window(STREAM_WINDOW_BYTES.into())
            .receive_window(TUNNEL_WINDOW_BYTES.into())
            .send_window(MIN_SEND_WINDOW_BYTES)
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            .initial_rtt(INITIAL_RTT)
            .mtu_discovery_config(Some(probing))
            .ack_frequency_config(Some(acknowledgements))
            // Datagrams will carry UDP services; until then a peer that sends one breaks the protocol.
            .datagram_receive_buffer_size(None);
        match self.congestion {
            Congestion::Cubic => transport.congestion_controller_factory(Arc::new(CubicConfig::default())),
            Congestion::Bbr => transport.congestion_controller_factory(Arc::new(BbrConfig::default())),
        };
        Ok(transport)
    }
}

/// How much a tunnel may hold that is sent and not acknowledged: twice what its path carries, within bounds.
#[must_use]
pub fn send_window_bytes(congestion_window_bytes: u64) -> u64 {
    congestion_window_bytes
        .saturating_mul(2)
        .clamp(MIN_SEND_WINDOW_BYTES, MAX_SEND_WINDOW_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_send_window_follows_the_path_within_bounds() {
        assert_eq!(send_window_bytes(0), MIN_SEND_WINDOW_BYTES);
        assert_eq!(send_window_bytes(10_000_000), 20_000_000);
        assert_eq!(send_window_bytes(u64::MAX), MAX_SEND_WINDOW_BYTES);
    }
}
