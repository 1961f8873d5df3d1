//! One client's connection, from accept to the access log line.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use causeway_zone_sync::name::{CallerIdentity, GatewayId, Tags, ZoneName};
use tokio::io::AsyncWriteExt;

use super::{
    Shared,
    ask::{Path, RemotePath},
    client::ClientSocket,
    connect::{Connected, Unconnected, connect},
    permission::{Admitted, Forbidden, admit},
};
use crate::{
    ingress::{Dialled, linger},
    permit::{Caller, Rule},
    relay::{self, End, Hold, Meters, OpenGuard, Relayed},
    target::Target,
    telemetry::{AccessRecord, Role},
};

/// What an access log line says when the gateway of another zone forbids, and this one did not.
const REFUSED_BY_PEER: &str = "forbidden";

/// Who the client is and what it asked for.
pub(super) struct Arrival {
    pub(super) socket: ClientSocket,
    pub(super) client: SocketAddr,
    /// The address that it connected to.
    pub(super) local: SocketAddr,
    pub(super) target: Target,
    /// Who it is by the certificate that it showed.
    pub(super) identity: Option<CallerIdentity>,
    pub(super) opened: OpenGuard,
    pub(super) begun: Instant,
    pub(super) thread: usize,
}

/// What is known of a connection at its end.
struct Ending {
    tags: Tags,
    to_zone: Option<ZoneName>,
    peer: Option<GatewayId>,
    instance: Option<String>,
    outcome: &'static str,
    attempts: u32,
    ready_after: Option<Duration>,
    bytes_up: u64,
    bytes_down: u64,
    caller: Arc<Caller>,
    rule: Option<Rule>,
}

impl Ending {
    /// Of a connection that no instance has.
    fn unserved(target: &Target, outcome: &'static str, caller: Arc<Caller>, rule: Option<Rule>) -> Self {
        Self {
            tags: target.tags.clone(),
            to_zone: None,
            peer: None,
            instance: None,
            outcome,
            attempts: 0,
            ready_after: None,
            bytes_up: 0,
            bytes_down: 0,
            caller,
            rule,
        }
    }

    /// Takes up why this gateway ended it, if it did.
    fn withdrawn(&mut self, hold: &Hold) {
        if let ("cut", Some(why)) = (self.outcome, hold.withdrawn()) {
            self.outcome = why.outcome;
            self.rule = why.rule.clone();
        }
    }
}

pub(super) async fn serve(shared: Arc<Shared>, arrival: Arrival) {
    let service = arrival.target.service.as_str();
    shared.metrics.connection_opened(Role::Egress.word(), service);
    let _ = arrival.socket.tcp().set_nodelay(true);
    // Boxed, so that a connection does not carry the state of its setup for the rest of its life.
    let Admitted { found, rule } = match admit(&shared, &arrival) {
        Ok(admitted) => admitted,
        Err(forbidden) => return forbid(&shared, arrival, forbidden),
    };
    let connecting = Box::pin(connect(&shared, &arrival, found.caller.clone()));
    let connected = connecting.await;
    let mut ending = Ending::unserved(&arrival.target, "served", found.caller, Some(rule));
    match connected {
        Ok(connected) => carry(&shared, arrival, connected, ending).await,
        Err(Unconnected { outcome, attempts }) => {
            (ending.outcome, ending.attempts) = (outcome, attempts);
            if outcome == REFUSED_BY_PEER {
                // What decided is in the other gateway's topology, and in its log.
                ending.rule = None;
            }
            reject(&shared, arrival, ending);
        }
    }
}

/// Permissions forbid the connection, which has been told already.
fn forbid(shared: &Shared, arrival: Arrival, forbidden: Forbidden) {
    let Forbidden { found, rule } = forbidden;
    let ending = Ending::unserved(&arrival.target, "forbidden", found.caller, Some(rule));
    arrival.socket.reset();
    finish(shared, &arrival.target, arrival.client, arrival.begun, ending);
}

/// Nobody took the connection: the client is reset, since a FIN would look like an empty answer.
fn reject(shared: &Shared, arrival: Arrival, mut ending: Ending) {
    let Arrival {
        socket,
        client,
        target,
        begun,
        opened,
        ..
    } = arrival;
    socket.reset();
    ending.withdrawn(opened.hold());
    let (outcome, attempts, caller) = (ending.outcome, ending.attempts, &ending.caller);
    // What this gateway itself took back has been told with its rule.
    let told = opened.hold().withdrawn().is_some();
    let quiet = || {
        shared
            .quiet
            .lock()
            .admit(begun, (target.service.clone(), outcome))
    };
    if outcome == "client_gone" {
        tracing::debug!(%target, %client, attempts, "a client left before an instance was reached");
    } else if let Some(repeats) = (!told).then(quiet).flatten() {
        tracing::warn!(%target, %client, %caller, outcome, attempts, repeats, "no instance could be reached");
    }
    finish(shared, &target, client, begun, ending);
}

async fn carry(shared: &Shared, arrival: Arrival, connected: Connected, mut ending: Ending) {
    let Arrival {
        mut socket,
        client,
        target,
        opened,
        begun,
        ..
    } = arrival;
    ending.ready_after = Some(begun.elapsed());
    let Connected {
        path,
        tags,
        attempts,
        early,
    } = connected;
    (ending.tags, ending.attempts) = (tags, attempts);
    let hold = opened.hold();
    match path {
        Path::Local(dialled) => {
            let given = (dialled, early);
            let relayed = carry_local(shared, &target, &mut socket, given, &mut ending, hold).await;
            drop(socket);
            ended(&mut ending, relayed, hold);
            finish(shared, &target, client, begun, ending);
        }
        Path::Remote(remote) => {
            ending.to_zone = Some(remote.counted.peer().zone.clone());
            ending.peer = Some(remote.counted.peer().clone());
            // The client's first bytes are with the winner already.
            drop(early);
            let RemotePath {
                stream,
                counted,
                early_bytes,
            } = remote;
            let Some((mut send, mut recv)) = stream.into_halves() else {
                return;
            };
            let meters = meters(shared, &target, early_bytes);
            let (send, recv) = (&mut send, &mut recv);
            let mut relayed = match &mut socket {
                ClientSocket::Plain(socket) => relay::stream(socket, send, recv, meters, hold.cut()).await,
                ClientSocket::Tls(socket) => {
                    relay::stream(&mut **socket, send, recv, meters, hold.cut()).await
                }
            };
            drop(socket);
            relayed.sent += early_bytes;
            ended(&mut ending, relayed, hold);
            finish(shared, &target, client, begun, ending);
            linger(relayed.end, send).await;
            drop(counted);
        }
    }
    drop(opened);
}

async fn carry_local(
    shared: &Shared,
    target: &Target,
    socket: &mut ClientSocket,
    (dialled, early): (Box<Dialled>, Bytes),
    ending: &mut Ending,
    hold: &Hold,
) -> Relayed {
    let Dialled {
        socket: mut instance,
        instance: taken,
        load,
    } = *dialled;
    ending.instance = Some(taken.id.clone());
    ending.to_zone = Some(shared.snapshots.load().zone.clone());
    if !early.is_empty() && instance.write_all(&early).await.is_err() {
        let _ = socket.tcp().set_zero_linger();
        return Relayed {
            sent: 0,
            received: 0,
            end: End::PeerReset,
        };
    }
    let early_bytes = early.len() as u64;
    drop(early);
    let meters = meters(shared, target, early_bytes);
    let mut relayed = match socket {
        ClientSocket::Plain(socket) => relay::sockets(socket, &mut instance, meters, hold.cut()).await,
        ClientSocket::Tls(socket) => relay::sockets(&mut **socket, &mut instance, meters, hold.cut()).await,
    };
    relayed.sent += early_bytes;
    drop((instance, load));
    relayed
}

/// Counts a connection's bytes from here on, and those that the instance has been given already.
fn meters(shared: &Shared, target: &Target, early_bytes: u64) -> Meters {
    let meter = shared.metrics.meter(Role::Egress.word(), target.service.as_str());
    meter.up.inc_by(early_bytes);
    Meters {
        sent: meter.up,
        received: meter.down,
    }
}

fn ended(ending: &mut Ending, relayed: Relayed, hold: &Hold) {
    ending.bytes_up = relayed.sent;
    ending.bytes_down = relayed.received;
    ending.outcome = match relayed.end {
        End::Finished => "served",
        End::SocketReset => "client_reset",
        End::PeerReset | End::LostRace => "instance_reset",
        End::TunnelLost => "tunnel_lost",
        End::Cut => "cut",
    };
    ending.withdrawn(hold);
}

fn finish(shared: &Shared, target: &Target, client: SocketAddr, begun: Instant, ending: Ending) {
    let record = AccessRecord {
        role: Role::Egress,
        service: target.service.clone(),
        tags: ending.tags,
        client: Some(client),
        from_zone: shared.snapshots.load().zone.clone(),
        to_zone: ending.to_zone,
        peer: ending.peer,
        instance: ending.instance,
        outcome: ending.outcome,
        attempts: ending.attempts,
        ready_after: ending.ready_after,
        duration: begun.elapsed(),
        bytes_up: ending.bytes_up,
        bytes_down: ending.bytes_down,
        caller: Some(ending.caller),
        rule: ending.rule,
    };
    let service = record.service.as_str();
    shared
        .metrics
        .connection_closed(Role::Egress.word(), service, record.outcome);
    shared.metrics.timed(&record);
    shared.access.write(&record);
}
