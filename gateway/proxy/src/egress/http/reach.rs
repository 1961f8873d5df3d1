//! A connection to an instance for one request: one that is kept, where the decision for this request leads to it, or a new one.

use std::{pin::pin, sync::Arc, time::Instant};

use causeway_federation::topology::{Criticality, SplitArm};
use causeway_host::descriptors::DescriptorPromise;
use causeway_routing::{
    balance::InstanceList,
    limits::UseKind,
    outlier::avoided,
    permit::Caller,
    retry::FailedTries,
    route::{Request as RouteRequest, route},
    snapshot::Snapshot,
    sticky::StickyKey,
};
use causeway_telemetry::{ActiveSpan, ConnectionOutcome};
use http::{Request, Version};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::timeout_at;

use super::{
    body::RequestBody,
    kept::{CallChoice, CallWish, OpeningUpstream, OpeningWait},
    serve::{HttpArrival, HttpConnection},
    shared::SharedUpstream,
    upstream::{HttpUpstream, pick_instance},
};
use crate::{
    dial::DescriptorClaim,
    egress::{
        ask::Lending,
        connect::{ConnectedUpstream, NoUpstream, search},
        early::EarlyBytes,
        order::SearchOrder,
    },
    http::{
        early::early_head,
        limits::{OPENING_WAIT, ROOM_WAIT},
    },
};

/// Request that a connection is wanted for.
pub(super) struct ReachOrder {
    /// Version that the service's instances speak.
    pub(super) version: Version,
    pub(super) caller: Arc<Caller>,
    /// Split of the route that rules it, in the place of the service's own.
    pub(super) split: Option<Arc<[SplitArm]>>,
    /// That of the route, in the place of the service's own.
    pub(super) criticality: Option<Criticality>,
    /// Decides in the place of chance.
    pub(super) key: Option<StickyKey>,
    /// Every decision for this request is drawn from it.
    pub(super) seed: u64,
    /// Requests of the service that were under way when it began.
    pub(super) open: u64,
    /// Candidates that were asked for it so far, kept connections among them.
    pub(super) attempts: u32,
    /// A connection that was used before will do.
    pub(super) may_be_used: bool,
    /// It may be made twice, and has no body.
    pub(super) is_harmless: bool,
    /// It asks for another protocol, after which the connection is its own.
    pub(super) changes_protocol: bool,
    /// Tries that have failed.
    pub(super) tried: FailedTries,
    /// Moment at which the request is given up.
    pub(super) deadline: Option<Instant>,
}

/// Connection that a request can go out on.
pub(super) struct ReachedUpstream {
    pub(super) upstream: HttpUpstream,
    /// Another request went out on it before.
    pub(super) was_used: bool,
}

/// Finds a connection to an instance.
pub(super) async fn reach(
    connection: &HttpConnection,
    order: &mut ReachOrder,
    request: &Request<RequestBody>,
    trace: Option<&ActiveSpan>,
) -> Result<ReachedUpstream, NoUpstream> {
    let opening = match order.version {
        _ if !order.may_be_used || order.changes_protocol => None,
        Version::HTTP_2 => match share(connection, order).await {
            Some(SharedPlace::Use(upstream)) => return Ok(used(upstream, order)),
            Some(SharedPlace::Open(opening)) => Some(opening),
            Some(SharedPlace::Full) => {
                return Err(NoUpstream::unasked(
                    ConnectionOutcome::InstanceFull,
                    order.attempts,
                ));
            }
            None => None,
        },
        _ => match take_up(connection, order).await {
            Some(upstream) => return Ok(used(upstream, order)),
            None => None,
        },
    };
    let connected = find(connection, order, request, trace).await?;
    let upstream = open(connection, order, connected).await;
    drop(opening);
    let upstream =
        upstream.ok_or_else(|| NoUpstream::unasked(ConnectionOutcome::InstanceReset, order.attempts))?;
    Ok(ReachedUpstream {
        was_used: upstream.facts.is_warm,
        upstream,
    })
}

fn used(upstream: HttpUpstream, order: &mut ReachOrder) -> ReachedUpstream {
    order.attempts += 1;
    ReachedUpstream {
        upstream,
        was_used: true,
    }
}

/// Searches for an instance, as for a connection.
async fn find(
    connection: &HttpConnection,
    order: &mut ReachOrder,
    request: &Request<RequestBody>,
    trace: Option<&ActiveSpan>,
) -> Result<ConnectedUpstream, NoUpstream> {
    let HttpConnection { shared, arrival, .. } = connection;
    let service = &arrival.target.service;
    let waiting = shared
        .take_place(service, UseKind::Pending)
        .map_err(|outcome| NoUpstream::unasked(outcome, order.attempts))?;
    // One that is searched for at the same time has none.
    let promise = connection.promised.lock().take();
    let search_order = SearchOrder {
        thread: connection.thread,
        connection: connection.id(),
        target: &arrival.target,
        port: arrival.port.clone(),
        split: order.split.clone(),
        criticality: order.criticality,
        key: order.key,
        caller: order.caller.clone(),
        come_through: connection.come_through(order.open).await,
        cut: connection.opened.handle().cut(),
        seed: order.seed,
        early: match order.is_harmless {
            true => EarlyBytes::of_request(early_head(request, true).unwrap_or_default()),
            false => EarlyBytes::default(),
        },
        lending: Lending {
            gives_back: order.version == Version::HTTP_11 && !order.changes_protocol,
            // Whoever may be given one request alone has a connection that cannot be about to close.
            takes_warm: order.is_harmless && order.may_be_used,
        },
        claim: DescriptorClaim {
            holder: connection.holder.clone(),
            promised: promise.as_ref().map(DescriptorPromise::ticket),
        },
        tried: order.tried.clone(),
        deadline: order.deadline,
        trace,
    };
    let found = Box::pin(search(shared, search_order, connection.socket.failed())).await;
    drop(waiting);
    match found {
        Ok(connected) => {
            order.attempts += connected.attempts;
            Ok(connected)
        }
        Err(no) => {
            *connection.promised.lock() = promise;
            Err(NoUpstream {
                attempts: order.attempts + no.attempts,
                ..no
            })
        }
    }
}

/// Takes a connection that is ready into use, and has it shared if it can be.
async fn open(
    connection: &HttpConnection,
    order: &ReachOrder,
    connected: ConnectedUpstream,
) -> Option<HttpUpstream> {
    let (shared, service) = (&connection.shared, &connection.arrival.target.service);
    let cut = connection.opened.handle().cut();
    let caller = order.caller.clone();
    if order.version != Version::HTTP_2 {
        return HttpUpstream::open(shared, service, caller, connected, cut).await;
    }
    let room = connection.kept.room_to_tell();
    let upstream = SharedUpstream::open(shared, service, caller, connected, cut, room).await?;
    let call = upstream.call();
    connection.kept.share(upstream);
    Some(call)
}

/// Question to `route`. `None`: the port has left the topology, and no connection there is taken up.
fn question(connection: &HttpConnection, order: &ReachOrder, snapshot: &Snapshot) -> Option<RouteRequest> {
    let HttpArrival { target, port, .. } = &connection.arrival;
    snapshot.topology.port_of(&target.service, port.as_ref())?;
    let question = RouteRequest::new(target.clone())
        .at_port(port.clone())
        .with_split(order.split.clone())
        .with_criticality(order.criticality)
        .with_key(order.key);
    Some(question)
}

/// Takes up a kept connection of HTTP/1.1, if the decision for this request leads to one that can be used.
async fn take_up(connection: &HttpConnection, order: &ReachOrder) -> Option<HttpUpstream> {
    let shared = &connection.shared;
    if !order.is_harmless {
        connection.kept.needs_ready();
    }
    loop {
        let upstream = {
            let snapshot = shared.snapshots.load_full();
            let question = question(connection, order, &snapshot)?;
            let decision = route(&snapshot, &question, SmallRng::seed_from_u64(order.seed));
            let candidate = decision.first()?.clone();
            let none = InstanceList::default();
            let service = &connection.arrival.target.service;
            let list = snapshot.instances.get(service).unwrap_or(&none);
            let declared = snapshot.topology.services.get(service);
            let slow_start = declared.and_then(|service| service.slow_start);
            let avoided = avoided(&snapshot, (service, connection.arrival.port.as_ref()), &candidate);
            let picked = pick_instance(
                (list, slow_start),
                &candidate,
                &avoided,
                order.key,
                &mut shared.rng(),
            );
            // One that costs a round trip whichever stream it goes on may have any instance of the other zone.
            let fits = |upstream: &HttpUpstream| {
                upstream.serves(&candidate, picked, &order.caller, order.key)
                    && !avoided.contains(&upstream.facts.instance)
                    && !(order.is_harmless && upstream.facts.is_lent)
                    && upstream.facts.exported == candidate.exported(service, &snapshot)
            };
            let upstream = connection.kept.take_idle(fits)?;
            shared.decided(&question, &decision);
            upstream
        };
        if let Some(upstream) = upstream.again().await {
            return Some(upstream);
        }
    }
}

/// Place for a request among connections of HTTP/2.
enum SharedPlace<'a> {
    Use(HttpUpstream),
    Open(OpeningUpstream<'a>),
    /// There was none, for as long as it may wait.
    Full,
}

/// Shares a connection of HTTP/2, or is to open one. `None`: no decision can be made for this request now.
async fn share<'a>(connection: &'a HttpConnection, order: &ReachOrder) -> Option<SharedPlace<'a>> {
    let (shared, kept) = (&connection.shared, &connection.kept);
    let (begun, mut waited) = (Instant::now(), OpeningWait::NotYet);
    let opening_until = begun + OPENING_WAIT;
    let room_until = order.deadline.unwrap_or(begun + ROOM_WAIT);
    loop {
        let mut room = pin!(kept.room());
        room.as_mut().enable();
        let until = {
            let snapshot = shared.snapshots.load_full();
            let question = question(connection, order, &snapshot)?;
            let decision = route(&snapshot, &question, SmallRng::seed_from_u64(order.seed));
            let candidate = decision.first()?.clone();
            let none = InstanceList::default();
            let service = &connection.arrival.target.service;
            let list = snapshot.instances.get(service).unwrap_or(&none);
            let declared = snapshot.topology.services.get(service);
            let slow_start = declared.and_then(|service| service.slow_start);
            let avoided = avoided(&snapshot, (service, connection.arrival.port.as_ref()), &candidate);
            let wish = CallWish {
                candidate: &candidate,
                exported: candidate.exported(service, &snapshot),
                caller: &order.caller,
                key: order.key,
                picked: pick_instance(
                    (list, slow_start),
                    &candidate,
                    &avoided,
                    order.key,
                    &mut shared.rng(),
                ),
                avoided: &avoided,
                list,
                waited,
            };
            match kept.choose(&wish, Instant::now()) {
                CallChoice::Use(upstream) => {
                    shared.decided(&question, &decision);
                    return Some(SharedPlace::Use(upstream));
                }
                CallChoice::Open(opening) => return Some(SharedPlace::Open(opening)),
                CallChoice::Wait => opening_until.min(room_until),
                CallChoice::WaitForRoom if room_until <= Instant::now() => return Some(SharedPlace::Full),
                CallChoice::WaitForRoom => room_until,
            }
        };
        let is_over = timeout_at(until.into(), room).await.is_err() || opening_until <= Instant::now();
        waited = match is_over {
            true => OpeningWait::Over,
            false => OpeningWait::Once,
        };
    }
}
