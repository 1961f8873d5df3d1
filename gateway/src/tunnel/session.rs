//! A tunnel that is up, until its end: accepting streams, listening to the peer's control stream, watching for silence,
//! and telling the peer when this gateway drains.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_proto::tunnel::{ControlMessage, Draining, Hello, control_message::Body};
use causeway_zone_sync::name::GatewayId;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::{
    Tunnel,
    config::send_window_bytes,
    frame::{read_frame, write_frame},
    greeting::{Fault, close, unread},
    liveness::{Liveness, allowed_silence},
    refusal::{Close, Ended, Refusal},
    renew,
    shared::{Party, Shared},
    stream,
};
use crate::{identity::SpiffeId, telemetry::Side};

/// Stops a unidirectional stream that nothing here reads.
const UNREAD_STREAM: VarInt = VarInt::from_u32(0x2);

/// A connection on which both hellos are exchanged.
pub(super) struct Greeted {
    pub(super) connection: Connection,
    pub(super) peer: SpiffeId,
    pub(super) hello: Hello,
    pub(super) control_send: SendStream,
    pub(super) control_recv: RecvStream,
}

/// Serves the tunnel until it ends, for whatever reason. Removes it from the set at once when dropped, too.
pub(super) async fn run(shared: &Arc<Shared>, greeted: Greeted, thread: usize, dialled: bool) {
    let Greeted {
        connection,
        peer: identity,
        hello,
        control_send,
        control_recv,
    } = greeted;
    let peer = identity.gateway.clone();
    let party = Party::new(connection.remote_address(), &peer);
    let tunnel = Arc::new(Tunnel::new(connection.clone(), peer.clone(), thread, dialled));
    let listed = Listed::new(Arc::clone(shared), Arc::clone(&tunnel));
    info!(%peer, address = %party.address, dialled, thread, program = %hello.program, "tunnel up");

    let fault = tokio::select! {
        error = connection.closed() => Fault::Lost(error),
        fault = listen(shared, &tunnel, control_recv) => fault,
        () = accept_streams(shared, &tunnel) => Fault::Lost(connection.closed().await),
        () = stop_unknown_streams(&connection) => Fault::Lost(connection.closed().await),
        () = shared.zone_left(&identity) => {
            connection.close(Close::ZONE_LEFT.code(), b"the zone left the topology, or its trust domain");
            Fault::Lost(connection.closed().await)
        }
        () = shared.too_weak(&tunnel) => {
            let detail = "this tunnel was agreed without a post-quantum key exchange, which the topology requires now";
            Fault::Refuse(Refusal::NotPostQuantum, detail.to_owned())
        }
        fault = renew::revoked(shared, &tunnel) => fault,
        () = renew::superseded(shared, &tunnel) => {
            connection.close(Close::UNNEEDED.code(), b"a newer tunnel took the place of this one");
            Fault::Lost(connection.closed().await)
        }
        never = watch(shared, &tunnel) => match never {},
        never = announce_drain(shared, &peer, control_send) => match never {},
    };
    drop(listed);
    finish(shared, &connection, fault, &party);
}

/// Keeps a tunnel in the set for as long as it lives.
struct Listed {
    shared: Arc<Shared>,
    tunnel: Arc<Tunnel>,
}

impl Listed {
    fn new(shared: Arc<Shared>, tunnel: Arc<Tunnel>) -> Self {
        shared.set.add(Arc::clone(&tunnel));
        Self { shared, tunnel }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.set.remove(&self.tunnel);
    }
}

fn finish(shared: &Shared, connection: &Connection, fault: Fault, party: &Party) {
    let peer = &party.name;
    match fault {
        Fault::Refuse(refusal, detail) => {
            shared.refused(Side::Local, refusal, party, &detail);
            close(connection, refusal, &detail);
        }
        Fault::Lost(error) => match Ended::of(&error) {
            Ended::Closed { by, why } => info!(%peer, ?by, why, "tunnel closed"),
            Ended::Lost(loss) => warn!(%peer, address = %party.address, loss = loss.word(), "tunnel lost"),
            Ended::Refused { by, refusal, detail } => shared.refused(by, refusal, party, &detail),
        },
    }
}

async fn accept_streams(shared: &Arc<Shared>, tunnel: &Arc<Tunnel>) {
    while let Ok((send, recv)) = tunnel.connection().accept_bi().await {
        tokio::spawn(stream::receive(
            Arc::clone(shared),
            Arc::clone(tunnel),
            send,
            recv,
        ));
    }
}

/// A later version may open more unidirectional streams; this one has no use for them and lets none fill its windows.
async fn stop_unknown_streams(connection: &Connection) {
    while let Ok(mut recv) = connection.accept_uni().await {
        let _ = recv.stop(UNREAD_STREAM);
    }
}

/// Reads the peer's control messages until the tunnel must end.
async fn listen(shared: &Shared, tunnel: &Tunnel, mut recv: RecvStream) -> Fault {
    loop {
        let message: ControlMessage = match read_frame(&mut recv).await {
            Ok(message) => message,
            Err(error) => return unread(error),
        };
        match message.body {
            Some(Body::Draining(Draining {
                deadline_milliseconds,
            })) => {
                info!(peer = %tunnel.peer(), deadline_milliseconds, "the peer is draining");
                shared.set.set_draining(tunnel);
            }
            Some(Body::Hello(_)) => {
                return Fault::Refuse(Refusal::Garbage, "control stream: a second hello".to_owned());
            }
            // A kind of message that a later version has: it must not depend on being understood.
            None => debug!(peer = %tunnel.peer(), "ignored an unknown control message"),
        }
    }
}

/// Marks the tunnel stalled while it is silent, and lets its send window follow its path.
async fn watch(shared: &Shared, tunnel: &Tunnel) -> std::convert::Infallible {
    let keep_alive = shared.config.keep_alive;
    let connection = tunnel.connection();
    let received = |connection: &Connection| connection.stats().udp_rx.datagrams;
    let mut liveness = Liveness::new(Instant::now(), received(connection));
    let mut window = 0;
    let mut ticks = interval((keep_alive / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let stats = connection.stats();
        let allowed = allowed_silence(keep_alive, stats.path.rtt);
        let stalled = liveness.observe(Instant::now(), stats.udp_rx.datagrams, allowed);
        shared.set.set_stalled(tunnel, stalled);
        let wanted = send_window_bytes(stats.path.cwnd);
        if wanted != window {
            connection.set_send_window(wanted);
            window = wanted;
        }
    }
}

/// Tells the peer once this gateway drains. Holds the control stream open: its end would end the tunnel.
async fn announce_drain(
    shared: &Shared,
    peer: &GatewayId,
    mut control: SendStream,
) -> std::convert::Infallible {
    let within = shared.draining().await;
    let draining = Draining {
        deadline_milliseconds: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
    };
    let message = ControlMessage {
        body: Some(Body::Draining(draining)),
    };
    if let Err(error) = write_frame(&mut control, &message).await {
        debug!(%peer, %error, "could not tell a peer that this gateway drains");
    }
    std::future::pending().await
}
