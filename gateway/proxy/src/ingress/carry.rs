//! Bytes of a stream and its instance, from `ready` to the end.

use std::{sync::Arc, time::Instant};

use causeway_telemetry::{AccessRecord, ConnectionOutcome, Role};
use causeway_tunnel::{RecvHalf, SendHalf, Stream, Tunnel};
use tokio_util::sync::CancellationToken;

use super::{AcceptedStream, IngressShared, judge::RequestJudge, trace::IngressTrace};
use crate::{
    dial::InstanceConnection,
    relay::{self, RelayCounters, RelayLimits, Relayed, linger},
    warm::{WarmConnections, WarmPlace},
};

/// Moves bytes between an instance and a stream, with a look at requests of HTTP. What the stream gives back is
/// lent on. Not an `async fn`, which would hold what is moved out of its arguments twice, for as long as the connection is open.
fn relay_judged<'a>(
    dialled: InstanceConnection,
    judge: Option<Box<RequestJudge>>,
    (send, recv): (&'a mut SendHalf, &'a mut RecvHalf),
    (meters, limits): (RelayCounters, RelayLimits),
    cut: &'a CancellationToken,
    returns_to: Option<Box<(WarmPlace, WarmConnections)>>,
) -> impl Future<Output = Relayed> + Send + 'a {
    let InstanceConnection {
        own,
        mut socket,
        held,
        load,
        ..
    } = dialled;
    async move {
        let (relayed, left) = match judge {
            Some(judge) => Box::pin(judge.relay((own, socket), (send, recv), meters, limits, cut)).await,
            None => {
                let relayed = relay::stream(&mut socket, send, recv, meters, limits, cut).await;
                (relayed, Some((own, socket)))
            }
        };
        drop(load);
        let returns_to = returns_to.filter(|_| relayed.end == relay::RelayEnd::GivenBack);
        match (returns_to, left) {
            (Some(returns_to), Some((own, socket))) => {
                let (place, warm) = *returns_to;
                warm.give_back(place, own, socket, held);
            }
            (_, left) => drop((left, held)),
        }
        relayed
    }
}

/// Moves bytes between an instance and the gateway that asked, to the end.
pub(super) fn carry(
    shared: Arc<IngressShared>,
    accepted: AcceptedStream,
    (tunnel, begun): (Arc<Tunnel>, Instant),
    stream: Stream,
    trace: Option<Box<IngressTrace>>,
) -> impl Future<Output = ()> + Send {
    let AcceptedStream {
        service,
        dialled,
        ready_after,
        rule,
        opened,
        counted,
        returns_to,
    } = accepted;
    let instance = dialled.instance.clone();
    let Stream { mut send, mut recv } = stream;
    shared.metrics.connection_opened(Role::Ingress, service.as_str());
    let meter = shared.metrics.byte_counters(Role::Ingress, service.as_str());
    let meters = RelayCounters {
        sent: meter.down,
        received: meter.up,
    };
    let judge = RequestJudge::of(&shared, &service, &opened, tunnel.peer(), dialled.is_warm).map(Box::new);
    // How long a connection may be idle is for the gateway to say that its client connected to.
    let limits = RelayLimits {
        stall: shared.config.stall_limit,
        half_closed: shared.config.half_closed_limit,
        idle: None,
        gives_back: returns_to.is_some(),
        hears_out: true,
    };
    async move {
        let cut = opened.handle().cut();
        let halves = (&mut send, &mut recv);
        let relayed = relay_judged(dialled, judge, halves, (meters, limits), cut, returns_to).await;
        let handle = opened.handle();
        let (outcome, rule) = match handle.termination() {
            Some(why) if relayed.end == relay::RelayEnd::Cut => (why.outcome, why.rule.clone()),
            _ => (outcome(relayed.end), Some(rule)),
        };
        let record = AccessRecord {
            role: Role::Ingress,
            service,
            port: handle.connection.port.clone(),
            tags: instance.tags.clone(),
            client: None,
            from_zone: tunnel.peer().zone.clone(),
            to_zone: Some(shared.snapshots.load().zone.clone()),
            peer: Some(tunnel.peer().clone()),
            instance: Some(instance.id.clone()),
            attempts: 1,
            ready_after: Some(ready_after),
            duration: begun.elapsed(),
            outcome,
            bytes_up: relayed.received,
            bytes_down: relayed.sent,
            caller: handle.caller().map(|found| found.caller),
            rule,
            route: None,
            panic: false,
            request: None,
            trace_id: trace.as_ref().map(|trace| trace.id()),
            connection: handle.connection.id,
        };
        shared.finish(&record);
        if let Some(trace) = trace {
            trace.end(&record);
        }
        drop(counted);
        Box::pin(linger(relayed.end, &send)).await;
        drop(opened);
    }
}

fn outcome(end: relay::RelayEnd) -> ConnectionOutcome {
    match end {
        relay::RelayEnd::Finished | relay::RelayEnd::GivenBack | relay::RelayEnd::Spent => {
            ConnectionOutcome::Served
        }
        relay::RelayEnd::SocketReset => ConnectionOutcome::InstanceReset,
        relay::RelayEnd::PeerReset => ConnectionOutcome::ClientReset,
        relay::RelayEnd::PeerCut => ConnectionOutcome::PeerCut,
        relay::RelayEnd::LostRace => ConnectionOutcome::LostRace,
        relay::RelayEnd::TunnelLost => ConnectionOutcome::TunnelLost,
        relay::RelayEnd::Cut => ConnectionOutcome::Cut,
        relay::RelayEnd::Stalled => ConnectionOutcome::Stalled,
        relay::RelayEnd::Idle => ConnectionOutcome::Idle,
        relay::RelayEnd::HalfClosed => ConnectionOutcome::HalfClosed,
    }
}
