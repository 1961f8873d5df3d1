//! Decides whether a caller of another zone may call, and asks again, for connections that are open, when a topology has
//! changed.

use std::{collections::HashMap, sync::Arc, time::Instant};

use causeway_federation::name::ServiceName;
use causeway_proto::tunnel::Connect;
use causeway_routing::{
    callers::{FoundCaller, How},
    permit::{Caller, Permission, Rule, Verdict, decide, judged_by},
    snapshot::Snapshot,
};
use causeway_telemetry::{ConnectionId, ConnectionOutcome, StreamRefusal};
use causeway_tunnel::Tunnel;

use super::{
    IngressShared, PeerStreamGuard,
    refuse::{self, PermittedRequest, RefusedStream},
};
use crate::open::{ConnectionHandle, OpenConnectionGuard, Termination};

/// Checks a request and takes a place for its connection.
pub(super) fn admit(
    shared: &Arc<IngressShared>,
    tunnel: &Tunnel,
    connect: &Connect,
    id: ConnectionId,
) -> Result<
    (
        Arc<Snapshot>,
        PermittedRequest,
        OpenConnectionGuard,
        PeerStreamGuard,
    ),
    RefusedStream,
> {
    let from = &tunnel.peer().zone;
    let mut snapshot = shared.snapshots.load_full();
    let mut asked = refuse::check(connect, &snapshot, from)?;
    let (opened, counted) = shared.admit(tunnel, (&asked.service, asked.port.name.as_ref()), id)?;
    loop {
        let found = FoundCaller {
            caller: asked.caller.clone(),
            how: How::Vouched,
        };
        opened.handle().set_caller(found.clone());
        let now = shared.snapshots.load_full();
        if Arc::ptr_eq(&now.topology, &snapshot.topology) {
            if asked.verdict.permission == Permission::DryRun {
                let (service, rule) = (&asked.service, &asked.verdict.rule);
                shared
                    .reports
                    .dry_run(Instant::now(), id, &found, Some(tunnel.peer()), service, rule);
            }
            return Ok((now, asked, opened, counted));
        }
        // A change that came meanwhile may have been too early to see this caller, and must not be missed.
        snapshot = now;
        asked = refuse::check(connect, &snapshot, from)?;
    }
}

/// Refusal of a connection that was ended while its instance was being dialled.
pub(super) fn taken_back(handle: &ConnectionHandle) -> RefusedStream {
    let (Some(found), Some(why)) = (handle.caller(), handle.termination()) else {
        return RefusedStream::draining();
    };
    match &why.rule {
        Some(rule) => RefusedStream::forbidden(found.caller, &handle.connection.service, rule.clone()),
        None => RefusedStream::draining(),
    }
}

/// Decides as for a new connection of this caller. A service that has left the topology is no reason to end what is open.
fn now_decided(snapshot: &Snapshot, caller: &Caller, service: &ServiceName) -> Verdict {
    let known = snapshot.topology.services.get(service);
    if known.is_some_and(|known| !known.is_exported_to(&caller.zone)) {
        return Verdict {
            permission: Permission::Forbidden,
            rule: Rule::ExportTo(service.clone()),
        };
    }
    decide(&snapshot.topology, caller, service, None)
}

/// The rule that takes from an open connection what permits it as a whole: one about requests, of which it would let any pass, or about
/// the one that it left HTTP with.
fn taken_from_requests(snapshot: &Snapshot, caller: &Caller, handle: &ConnectionHandle) -> Option<Rule> {
    let topology = &snapshot.topology;
    if handle.is_judged() {
        let verdict = handle.decide(topology, caller);
        return (!verdict.passes()).then_some(verdict.rule);
    }
    let judge = judged_by(topology, caller, &handle.connection.service);
    judge.filter(|_| !topology.permissions.dry_run)
}

/// Ends every open connection whose caller is not permitted any more, and leaves the others alone.
pub(super) fn recheck(shared: &IngressShared, snapshot: &Snapshot) {
    // Thousands of connections share a few callers.
    let mut known: HashMap<(Arc<Caller>, ServiceName), Verdict> = HashMap::new();
    for handle in shared.open.handles() {
        let Some(FoundCaller { caller, .. }) = handle.caller() else {
            continue;
        };
        let connection = &handle.connection;
        let verdict = known
            .entry((caller.clone(), connection.service.clone()))
            .or_insert_with(|| now_decided(snapshot, &caller, &connection.service));
        let rule = match verdict.passes() {
            false => verdict.rule.clone(),
            true => match taken_from_requests(snapshot, &caller, &handle) {
                Some(rule) => rule,
                None => continue,
            },
        };
        let rule = &rule;
        shared.reports.closed(Instant::now(), connection, &caller, rule);
        handle.terminate(Termination {
            outcome: ConnectionOutcome::refused_here(match rule {
                Rule::ExportTo(_) => StreamRefusal::NotExported,
                rule if rule.is_vouching() => StreamRefusal::Unvouched,
                _ => StreamRefusal::Forbidden,
            }),
            rule: Some(rule.clone()),
        });
    }
}
