//! From a finished TLS handshake to a tunnel: who the peer is, whether it is wanted here, and the hellos on the control
//! streams. A peer's hello proves that it accepted this side too.

use std::time::{Duration, SystemTime};

use causeway_federation::{name::ZoneName, topology::Topology};
use causeway_identity::{LeafError, SpiffeId, identify};
use causeway_proto::tunnel::{ControlMessage, Hello, PROTOCOL, control_message::Body};
use causeway_telemetry::Side;
use quinn::{Connection, ConnectionError};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, interval, timeout};

use super::siblings::OWN_REGISTRY;
use super::{
    capabilities, clock,
    frame::{ReadFrameError, WriteFrameError, read_frame, write_frame},
    halves::{LinkError, ReadError, RecvHalf, SendHalf},
    handshake::Negotiated,
    refusal::{Ended, MAX_REASON_BYTES, TunnelRefusal},
    shared::{Party, TunnelShared},
};

/// Longest time that a peer may take for its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Tunnels that one gateway may have open to this one: 64 data threads with four addresses each.
const MAX_TUNNELS_PER_PEER: usize = 256;
/// Longest time that a close is held back until the peer can read its reason; see [`confirmed`].
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two looks at that.
const CONFIRM_EVERY: Duration = Duration::from_millis(5);

/// Reason that a connection will not be a tunnel.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is gone already.
    Lost(ConnectionError),
    /// This side refuses.
    Refuse(TunnelRefusal, String),
}

/// Reads who the peer is from its certificate. The chain was verified in the handshake.
pub(super) fn identity_of(connection: &Connection) -> Result<SpiffeId, LeafError> {
    identify(chain_of(connection).first().ok_or(LeafError::Malformed)?)
}

/// The chain that the peer presented, leaf first.
pub(super) fn chain_of(connection: &Connection) -> Vec<CertificateDer<'static>> {
    let chain = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    chain.map(|chain| *chain).unwrap_or_default()
}

/// Decides whether the peer is wanted: `dialled` is the zone that was dialled, or `None` if the peer dialled.
pub(super) fn judge(
    own: &SpiffeId,
    peer: Result<SpiffeId, LeafError>,
    topology: &Topology,
    dialled: Option<&ZoneName>,
) -> Result<SpiffeId, (TunnelRefusal, String)> {
    let peer = peer.map_err(|error| (TunnelRefusal::BadIdentity, error.to_string()))?;
    let wanted = topology.trust_domain_of(&peer.gateway.zone);
    if peer.trust_domain != wanted {
        let detail = format!("{peer} is not of {wanted}");
        return Err((TunnelRefusal::WrongTrustDomain, detail));
    }
    let zone = &peer.gateway.zone;
    if let Some(dialled) = dialled
        && dialled != zone
    {
        return Err((
            TunnelRefusal::WrongZone,
            format!("dialled zone {dialled}, reached {peer}"),
        ));
    }
    if *zone == own.gateway.zone {
        return Err((
            TunnelRefusal::OwnZone,
            format!("{peer} is of this gateway's own zone"),
        ));
    }
    if !topology.zones.contains_key(zone) {
        return Err((
            TunnelRefusal::UnknownZone,
            format!("zone {zone} is not in the topology"),
        ));
    }
    Ok(peer)
}

impl TunnelShared {
    /// Applies [`judge`] to a connection.
    pub(super) fn admit_peer(
        &self,
        connection: &Connection,
        dialled: Option<&ZoneName>,
    ) -> Result<SpiffeId, Fault> {
        let topology = self.topology.borrow().clone();
        let peer = judge(
            self.config.identity.id(),
            identity_of(connection),
            &topology,
            dialled,
        )
        .map_err(|(refusal, detail)| Fault::Refuse(refusal, detail))?;
        let agreed = Negotiated::of(connection);
        if topology.tls.require_post_quantum && !agreed.is_some_and(|agreed| agreed.is_post_quantum()) {
            let detail = format!("{peer} agreed to a key exchange that is not post-quantum");
            return Err(Fault::Refuse(TunnelRefusal::NotPostQuantum, detail));
        }
        if self.set.count(&peer.gateway) >= MAX_TUNNELS_PER_PEER {
            let detail = format!("{peer} has {MAX_TUNNELS_PER_PEER} tunnels here");
            return Err(Fault::Refuse(TunnelRefusal::Busy, detail));
        }
        let identity = &self.config.identity;
        identity.shook_hands(&chain_of(connection), SystemTime::now());
        Ok(peer)
    }

    /// Opens this side's control stream.
    pub(super) async fn say_hello(&self, connection: &Connection) -> Result<SendHalf, Fault> {
        let mut send = SendHalf::of(connection.open_uni().await.map_err(Fault::Lost)?);
        send.hurry();
        let mut capabilities = capabilities::OWN.map(str::to_owned).to_vec();
        capabilities.extend(self.config.keeps_registry.then(|| OWN_REGISTRY.to_owned()));
        let hello = Hello {
            protocol: PROTOCOL,
            program: concat!("causeway ", env!("CARGO_PKG_VERSION")).to_owned(),
            start_id: self.start_id,
            capabilities,
            succeeds: self.succeeds,
            clock_milliseconds: clock::milliseconds(SystemTime::now()),
        };
        let message = ControlMessage {
            body: Some(Body::Hello(hello)),
        };
        write_frame(&mut send, &message)
            .await
            .map_err(|error| unwritten(connection, &error))?;
        Ok(send)
    }

    /// Tells the peer why it is refused, and counts and logs it here.
    pub(super) async fn turn_away(&self, connection: &Connection, fault: Fault, party: &Party) {
        match fault {
            Fault::Lost(error) => self.never_up(&Ended::of(&error), party),
            Fault::Refuse(refusal, detail) => {
                self.refused(Side::Local, refusal, party, &detail);
                confirmed(connection).await;
                close(connection, refusal, &detail);
            }
        }
    }
}

/// Waits for the peer's control stream and the hello on it.
pub(super) async fn hear_hello(connection: &Connection) -> Result<(RecvHalf, Hello), Fault> {
    let heard = timeout(HELLO_TIMEOUT, async {
        let mut recv = RecvHalf::of(connection.accept_uni().await.map_err(Fault::Lost)?);
        let message: ControlMessage = read_frame(&mut recv).await.map_err(unread)?;
        Ok((recv, message))
    });
    let (recv, message) = heard
        .await
        .map_err(|_| Fault::Refuse(TunnelRefusal::NoHello, "no hello in time".to_owned()))??;
    match message.body {
        Some(Body::Hello(hello)) if hello.protocol == PROTOCOL => Ok((recv, hello)),
        Some(Body::Hello(hello)) => {
            let detail = format!(
                "the peer speaks protocol {}, this side {PROTOCOL}",
                hello.protocol
            );
            Err(Fault::Refuse(TunnelRefusal::ProtocolVersion, detail))
        }
        _ => {
            let detail = "the first control message is not a hello".to_owned();
            Err(Fault::Refuse(TunnelRefusal::Garbage, detail))
        }
    }
}

/// Says what a control stream that cannot be read means for the tunnel.
pub(super) fn unread(error: ReadFrameError) -> Fault {
    match error {
        ReadFrameError::Broken(ReadError::Lost(LinkError(error))) => Fault::Lost(error),
        error => Fault::Refuse(TunnelRefusal::Garbage, format!("control stream: {error}")),
    }
}

fn unwritten(connection: &Connection, error: &WriteFrameError) -> Fault {
    match connection.close_reason() {
        Some(reason) => Fault::Lost(reason),
        None => Fault::Refuse(TunnelRefusal::Garbage, format!("control stream: {error}")),
    }
}

/// Closes a connection with a refusal's code and a reason that fits one packet.
pub(super) fn close(connection: &Connection, refusal: TunnelRefusal, detail: &str) {
    let end = detail.len().min(MAX_REASON_BYTES);
    connection.close(refusal.code().code(), &detail.as_bytes()[..end]);
}

/// Waits, on the side that dialled, until the peer has confirmed the handshake. Before that, a close travels in a handshake
/// packet, which may not carry an application's code and reason (RFC 9000 §10.2.3): the peer would not learn why.
async fn confirmed(connection: &Connection) {
    if connection.side() == quinn::Side::Server {
        return;
    }
    let until = Instant::now() + CONFIRM_TIMEOUT;
    let mut ticks = interval(CONFIRM_EVERY);
    while Instant::now() < until
        && connection.close_reason().is_none()
        && connection.stats().frame_rx.handshake_done == 0
    {
        ticks.tick().await;
    }
}
