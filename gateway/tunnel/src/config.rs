//! Settings that an operator may give tunnels, and the QUIC settings that follow.

use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use causeway_host::{handed::HandedSockets, tasks::Tasks};
use causeway_identity::{KeyExchange, LiveIdentity, TlsError};
use quinn::{
    AckFrequencyConfig, ClientConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
    congestion::CubicConfig,
};

use super::{
    bbr::BbrFactory,
    budget::MemoryBudget,
    demand::{FIRST_TUNNELS, SPARE_FOR},
    endpoint_keys::EndpointKeys,
    handshake::{HandshakeConfigError, TunnelClient, TunnelServer},
    succession::Predecessor,
};

/// Interval of keep-alives on an otherwise silent tunnel.
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// A tunnel that hears nothing for this long is gone, with every connection on it. Long before, nothing new is entrusted to it;
/// see `liveness`.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle timeouts that make sense: no shorter than the silence after which nothing new is entrusted to a tunnel, and no longer
/// than anybody waits.
pub const IDLE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(600);
/// Streams that a peer may have open on one tunnel once it needs as many; see [`allowed_streams`].
pub const MAX_STREAMS: u32 = 16_384;
/// Streams that a peer may open on a new tunnel. quinn allocates about 80 bytes for each in advance.
const FIRST_STREAMS: u32 = 256;
/// Unidirectional streams that a peer may have open: its control stream, and room for later versions.
const MAX_CONTROL_STREAMS: u32 = 4;
/// Unread bytes of one stream: 1 Gbit/s over 128 ms.
pub(super) const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Unread bytes of one tunnel: bounds what a peer can make this gateway hold.
pub(super) const TUNNEL_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// Bytes sent and not acknowledged that a new tunnel holds; see [`send_window_bytes`].
const MIN_SEND_WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// Most bytes sent and not acknowledged that a tunnel holds, whatever its path.
const MAX_SEND_WINDOW_BYTES: u64 = 64 * 1024 * 1024;
/// The same where streams are counted: no writer waits for it before it waits for its own share, so that a stream which has
/// written little is not kept waiting by those that have written much.
pub(super) const COUNTED_SEND_WINDOW_BYTES: u64 = MAX_SEND_WINDOW_BYTES + 16 * 1024 * 1024;
/// Least bytes that all streams together may hold where they are counted; see [`shared_window_bytes`].
const MIN_SHARED_WINDOW_BYTES: u64 = 16 * 1024 * 1024;
/// Round trip that is assumed before one was measured: between data centers, 333 ms (RFC 9002) makes a lost handshake
/// packet cost a whole second.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Largest UDP payload that is probed for: an Ethernet frame of 1,500 bytes less the IPv6 and UDP headers.
const MAX_DATAGRAM_BYTES: u16 = 1452;
/// Packets that the peer may receive before it must acknowledge.
const ACK_EVERY_PACKETS: u32 = 20;
/// Longest that the peer may keep an acknowledgement back.
pub(super) const MAX_ACK_DELAY: Duration = Duration::from_millis(10);
/// Connections whose first packets wait to be looked at.
const MAX_INCOMING: usize = 4096;
/// Bytes that wait with one of these.
const INCOMING_BUFFER_BYTES: u64 = 64 * 1024;
/// Bytes that wait with all of these.
const INCOMING_BUFFERS_BYTES: u64 = 16 * 1024 * 1024;

/// Congestion controller for a gateway's own sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// Halves what is under way at each loss: on a long path that loses 1 % it collapses.
    Cubic,
    /// Follows what the path delivers; see `bbr`.
    #[default]
    Bbr,
}

/// Settings of all tunnels of one gateway.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// UDP address to accept tunnels on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Identity in use. A renewed one counts for every handshake from then on; tunnels that are up stay up.
    pub identity: LiveIdentity,
    pub congestion: Congestion,
    pub keep_alive: Duration,
    /// Keys of the endpoints; those of the process before let its peers notice a restart at once.
    pub keys: EndpointKeys,
    pub idle_timeout: Duration,
    /// Streams that a peer may have open on one tunnel.
    pub max_streams: u32,
    /// Tunnels that are dialled to a gateway however little there is to carry; never more than data threads.
    pub first_tunnels: usize,
    /// Time for which there have been too many tunnels to a gateway before one goes.
    pub spare_tunnel_for: Duration,
    /// Tells whether the gateway keeps a registry that no other gateway of its zone has; peers are told.
    pub keeps_registry: bool,
    /// Bounds what peers may have unread here.
    pub memory: MemoryBudget,
    /// Every task that lives as long as the gateway.
    pub tasks: Tasks,
    /// Sockets of the process before, and those for the next.
    pub handed: HandedSockets,
    /// Process that this one takes the place of.
    pub predecessor: Option<Predecessor>,
}

/// Failure to make a QUIC configuration of an identity and settings.
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
            keys: EndpointKeys::ephemeral(),
            idle_timeout: IDLE_TIMEOUT,
            max_streams: MAX_STREAMS,
            first_tunnels: FIRST_TUNNELS,
            spare_tunnel_for: SPARE_FOR,
            keeps_registry: false,
            memory: MemoryBudget::default(),
            tasks: Tasks::default(),
            handed: HandedSockets::default(),
            predecessor: None,
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

    /// Streams that a peer may open on a new tunnel.
    pub(super) fn first_streams(&self) -> u32 {
        FIRST_STREAMS.min(self.max_streams)
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
            .max_concurrent_bidi_streams(VarInt::from_u32(self.first_streams()))
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
            Congestion::Bbr => transport.congestion_controller_factory(Arc::new(BbrFactory)),
        };
        Ok(transport)
    }
}

/// Streams that a peer may have open which has `open` by now and was allowed `allowed`, if those are to be more: four times as
/// many once a quarter is in use, so that it need not wait while it hears of it. They never become fewer, because quinn gives
/// nothing back of what it has allocated.
pub(super) fn allowed_streams(open: usize, allowed: u32, most: u32) -> Option<u32> {
    let open = u32::try_from(open).unwrap_or(u32::MAX);
    (allowed < most && open >= allowed / 4).then(|| allowed.saturating_mul(4).min(most))
}

/// Bytes that counted streams may hold together that the peer has not taken: six times what the path carries, within bounds. A single
/// stream has at most a quarter of it (see `ledger`), which is what one needs to fill the path.
pub(super) fn shared_window_bytes(congestion_window_bytes: u64) -> u64 {
    congestion_window_bytes
        .saturating_mul(6)
        .clamp(MIN_SHARED_WINDOW_BYTES, TUNNEL_WINDOW_BYTES.into())
}

/// Bytes that a tunnel may hold that are sent and not acknowledged: twice what its path carries, within bounds.
pub(super) fn send_window_bytes(congestion_window_bytes: u64) -> u64 {
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

    #[test]
    fn streams_are_allowed_before_they_are_needed_and_no_more_than_the_most() {
        assert_eq!(allowed_streams(63, 256, 1000), None);
        assert_eq!(allowed_streams(64, 256, 1000), Some(1000));
        assert_eq!(allowed_streams(64, 256, 16_384), Some(1024));
        assert_eq!(allowed_streams(usize::MAX, 16_384, 16_384), None);
        assert_eq!(allowed_streams(1, 1, u32::MAX), Some(4));
    }

    #[test]
    fn counted_streams_wait_for_their_share_before_they_fill_what_all_share() {
        assert_eq!(shared_window_bytes(0), MIN_SHARED_WINDOW_BYTES);
        assert_eq!(shared_window_bytes(5_000_000), 30_000_000);
        assert!(shared_window_bytes(u64::MAX) < COUNTED_SEND_WINDOW_BYTES);
    }
}
