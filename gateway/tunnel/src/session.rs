//! A tunnel that is up, until its end: accepting streams, listening to the peer's control stream, watching for silence,
//! and telling the peer when this gateway drains.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use causeway_identity::SpiffeId;
use causeway_proto::tunnel::{
    ControlMessage, Draining, Hello, Siblings, Succeeded, Twin, control_message::Body,
};
use causeway_routing::snapshot::Link;
use causeway_telemetry::Side;
use quinn::{Connection, VarInt};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{Instrument as _, debug, debug_span, info, warn};

use super::{
    Tunnel,
    capabilities::Capabilities,
    clock,
    config::{COUNTED_SEND_WINDOW_BYTES, allowed_streams, send_window_bytes, shared_window_bytes},
    frame::{read_frame, write_frame},
    greeting::{Fault, close, unread},
    halves::{RecvHalf, SendHalf, Stream},
    liveness::{Liveness, Patience},
    refusal::{Close, Ended, TunnelRefusal},
    renew,
    shared::{Leaving, Party, TunnelShared},
    siblings::TOLD_EVERY,
    starts::Start,
    stream,
};

/// Most characters of a peer's name for its program that are kept.
const MAX_PROGRAM_CHARS: usize = 64;
/// Stops a unidirectional stream that nothing here reads.
const UNREAD_STREAM: VarInt = VarInt::from_u32(0x2);

/// A connection on which both hellos are exchanged.
pub(super) struct Greeted {
    pub(super) connection: Connection,
    pub(super) peer: SpiffeId,
    pub(super) hello: Hello,
    pub(super) control_send: SendHalf,
    pub(super) control_recv: RecvHalf,
}

/// Distinguishes what the session's name is made for from every other use of the connection's keys (RFC 8446 §7.5).
const SESSION_NAME: &[u8] = b"EXPORTER-causeway-session-name";

/// Names a tunnel in the logs of both gateways, which make the same of the keys that they share.
fn session_name(connection: &Connection) -> String {
    let mut bits = [0; 8];
    // It fails only for a length that TLS does not have; the name is for people, and nothing depends on it.
    let _ = connection.export_keying_material(&mut bits, SESSION_NAME, &[]);
    format!("{:016x}", u64::from_be_bytes(bits))
}

/// Serves the tunnel until it ends, for whatever reason. Removes it from the set at once when dropped, too.
pub(super) async fn run(shared: &Arc<TunnelShared>, greeted: Greeted, thread: usize, dialled: bool) {
    let session = session_name(&greeted.connection);
    // Off at the default level, where the lines of its beginning and its end say the name themselves.
    let span = debug_span!("tunnel", session);
    serve(shared, greeted, thread, dialled, &session)
        .instrument(span)
        .await;
}

async fn serve(shared: &Arc<TunnelShared>, greeted: Greeted, thread: usize, dialled: bool, session: &str) {
    let Greeted {
        connection,
        peer: identity,
        hello,
        control_send,
        control_recv,
    } = greeted;
    let peer = identity.gateway.clone();
    let party = Party::new(connection.remote_address(), &peer);
    let program: String = hello.program.chars().take(MAX_PROGRAM_CHARS).collect();
    let tunnel = Tunnel::new(connection.clone(), peer.clone(), thread, dialled)
        .with_start(hello.start_id, hello.succeeds)
        .with_clock(clock::seconds_ahead(hello.clock_milliseconds, SystemTime::now()))
        .with_program(program.clone())
        .with_capabilities(Capabilities::heard(hello.capabilities), &shared.config.memory);
    let tunnel = Arc::new(tunnel);
    let listed = Listed::new(Arc::clone(shared), Arc::clone(&tunnel));
    info!(session, %peer, address = %party.address, dialled, thread, program, "tunnel up");

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
            Fault::Refuse(TunnelRefusal::NotPostQuantum, detail.to_owned())
        }
        fault = renew::revoked(shared, &tunnel) => fault,
        fault = renew::expired(shared, &tunnel) => fault,
        () = renew::superseded(shared, &tunnel) => {
            connection.close(Close::UNNEEDED.code(), b"a newer tunnel took the place of this one");
            Fault::Lost(connection.closed().await)
        }
        never = watch(shared, &tunnel) => match never {},
        never = speak(shared, &tunnel, control_send) => match never {},
    };
    // Before it is gone from the set: whoever sees that asks why.
    shared
        .set
        .last_ends()
        .note(tunnel.peer(), &end_of(&tunnel, &fault));
    drop(listed);
    finish(shared, &tunnel, fault, &party, session);
}

/// Keeps a tunnel in the set for as long as it lives.
struct Listed {
    shared: Arc<TunnelShared>,
    tunnel: Arc<Tunnel>,
}

impl Listed {
    fn new(shared: Arc<TunnelShared>, tunnel: Arc<Tunnel>) -> Self {
        let (start, before) = shared.set.take_up(Arc::clone(&tunnel));
        shared.draining_peers.forget(&host(&tunnel));
        for old in before {
            old.end_with_its_peer();
        }
        if start == Start::Former {
            let of_peer = shared.set.all();
            of_peer
                .iter()
                .filter(|one| one.peer() == tunnel.peer())
                .for_each(|one| one.tell_of_twin());
            shared.runs_twice(tunnel.peer(), tunnel.remote_address());
        }
        Self { shared, tunnel }
    }
}

/// Host at the other end.
fn host(tunnel: &Tunnel) -> IpAddr {
    tunnel.remote_address().ip()
}

impl Drop for Listed {
    fn drop(&mut self) {
        if self.tunnel.link() == Link::Draining {
            self.shared
                .draining_peers
                .note(host(&self.tunnel), Instant::now());
        }
        self.shared.set.remove(&self.tunnel);
    }
}

/// End of a tunnel as it is told.
fn end_of(tunnel: &Tunnel, fault: &Fault) -> Ended {
    match fault {
        Fault::Lost(error) => tunnel.read_end(error),
        Fault::Refuse(refusal, detail) => Ended::Refused {
            by: Side::Local,
            refusal: *refusal,
            detail: detail.clone(),
        },
    }
}

fn finish(shared: &TunnelShared, tunnel: &Tunnel, fault: Fault, party: &Party, session: &str) {
    let peer = &party.name;
    match fault {
        Fault::Refuse(refusal, detail) => {
            shared.refused(Side::Local, refusal, party, &detail);
            close(tunnel.connection(), refusal, &detail);
        }
        Fault::Lost(error) => match tunnel.read_end(&error) {
            Ended::Closed { by, why } => {
                // Whoever closes it need not say why.
                let why = Some(why).filter(|why| !why.is_empty());
                info!(session, %peer, ?by, why, "tunnel closed");
            }
            Ended::Lost(loss) => {
                warn!(session, %peer, address = %party.address, loss = loss.word(), "tunnel lost")
            }
            Ended::Refused { by, refusal, detail } => shared.refused(by, refusal, party, &detail),
        },
    }
}

async fn accept_streams(shared: &Arc<TunnelShared>, tunnel: &Arc<Tunnel>) {
    let mut allowed = shared.config.first_streams();
    while let Ok(halves) = tunnel.connection().accept_bi().await {
        let open = tunnel.accepted_streams().load(Ordering::Relaxed) + 1;
        if let Some(more) = allowed_streams(open, allowed, shared.config.max_streams) {
            tunnel.connection().set_max_concurrent_bi_streams(more.into());
            allowed = more;
        }
        tokio::spawn(stream::receive(
            Arc::clone(shared),
            Arc::clone(tunnel),
            Stream::of(halves),
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
async fn listen(shared: &TunnelShared, tunnel: &Tunnel, mut recv: RecvHalf) -> Fault {
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
                shared.draining_peers.note(host(tunnel), Instant::now());
            }
            Some(Body::Succeeded(Succeeded {})) => {
                info!(peer = %tunnel.peer(), "another process takes the place of the peer's");
                shared.set.set_succeeded(tunnel);
            }
            Some(Body::Consumed(news)) => {
                if let Some(credit) = tunnel.credit() {
                    credit.heard(&news);
                }
            }
            Some(Body::Twin(Twin {})) => shared.has_twin(tunnel.peer()),
            Some(Body::Siblings(Siblings { apart })) => shared.hear_of_siblings(tunnel.peer(), &apart),
            Some(Body::Hello(_)) => {
                return Fault::Refuse(
                    TunnelRefusal::Garbage,
                    "control stream: a second hello".to_owned(),
                );
            }
            // A kind of message that a later version has: it must not depend on being understood.
            None => debug!(peer = %tunnel.peer(), "ignored an unknown control message"),
        }
    }
}

/// Takes down how long the tunnel is silent, and lets its send window follow its path.
async fn watch(shared: &TunnelShared, tunnel: &Tunnel) -> std::convert::Infallible {
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
        let patience = Patience::of(keep_alive, stats.path.rtt);
        let silence = liveness.observe(Instant::now(), stats.udp_rx.datagrams, patience);
        let before = tunnel.is_unheard();
        shared.set.set_silence(tunnel, silence);
        match (before, tunnel.is_unheard()) {
            (false, true) => {
                warn!(peer = %tunnel.peer(), address = %tunnel.remote_address(), "nothing is heard on a tunnel; what is open on it waits");
            }
            (true, false) => info!(peer = %tunnel.peer(), "a tunnel is heard again"),
            _ => {}
        }
        window = follow_path(tunnel, stats.path.cwnd, window);
        if let Some(credit) = tunnel.credit() {
            credit.settle(Instant::now(), stats.path.rtt);
        }
    }
}

/// Lets what the tunnel holds follow what its path carries: `window` is what it was told last. Returns what it is told now.
fn follow_path(tunnel: &Tunnel, congestion_window: u64, window: u64) -> u64 {
    let connection = tunnel.connection();
    let wanted = match tunnel.credit() {
        Some(_) => shared_window_bytes(congestion_window),
        None => send_window_bytes(congestion_window),
    };
    if wanted != window {
        match tunnel.credit() {
            Some(credit) => {
                connection.set_send_window(COUNTED_SEND_WINDOW_BYTES);
                credit.resize(wanted);
            }
            None => connection.set_send_window(wanted),
        }
    }
    wanted
}

/// Tells the peer once this process is to end, and all along what was taken of its streams. Holds the control stream open: its
/// end would end the tunnel.
async fn speak(shared: &TunnelShared, tunnel: &Tunnel, mut control: SendHalf) -> std::convert::Infallible {
    let peer = tunnel.peer();
    let mut leaving = std::pin::pin!(shared.leaving());
    let (mut told, mut told_of_twin) = (false, false);
    let mut siblings = interval(TOLD_EVERY);
    siblings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let news = async {
            match tunnel.credit() {
                Some(credit) => credit.news().await,
                None => std::future::pending().await,
            }
        };
        let body = tokio::select! {
            way = &mut leaving, if !told => {
                told = true;
                match way {
                    Leaving::Drains(within) => Body::Draining(Draining {
                        deadline_milliseconds: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
                    }),
                    Leaving::Succeeded => Body::Succeeded(Succeeded {}),
                }
            }
            _ = siblings.tick() => match shared.set.apart_from(tunnel) {
                apart if apart.is_empty() => continue,
                apart => Body::Siblings(Siblings { apart }),
            },
            () = tunnel.has_twin(), if !told_of_twin => {
                told_of_twin = true;
                Body::Twin(Twin {})
            }
            news = news => Body::Consumed(news),
        };
        let message = ControlMessage { body: Some(body) };
        if let Err(error) = write_frame(&mut control, &message).await {
            debug!(%peer, %error, "could not write to the control stream");
            return std::future::pending().await;
        }
    }
}
