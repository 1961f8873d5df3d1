//! Decides whether a caller of another zone may call, and asks again, for connections that are open, when a topology has
//! changed.

use std::{collections::HashMap, sync::Arc, time::Instant};

use causeway_proto::tunnel::Connect;
use causeway_zone_sync::name::ServiceName;

use super::{
    PeerGuard, Shared,
    refuse::{self, Asked, Refused},
};
use crate::{
    callers::{Found, How},
    permit::{Caller, Permission, Rule, Verdict, decide},
    relay::{Hold, OpenGuard, Withdrawn},
    snapshot::Snapshot,
    tunnel::Tunnel,
};

/// Checks a request and takes a place for its connection.
pub(super) fn admit(
    shared: &Arc<Shared>,
    tunnel: &Tunnel,
    connect: &Connect,
) -> Result<(Arc<Snapshot>, Asked, OpenGuard, PeerGuard), Refused> {
    let from = &tunnel.peer().zone;
    let mut snapshot = shared.snapshots.load_full();
    let mut asked = refuse::check(connect, &snapshot, from)?;
    let (opened, counted) = shared.admit(tunnel, &asked.service)?;
    loop {
        let found = Found {
            caller: asked.caller.clone(),
            how: How::Vouched,
        };
        opened.hold().set_caller(found.clone());
        let now = shared.snapshots.load_full();
        if Arc::ptr_eq(&now.topology, &snapshot.topology) {
            if asked.verdict.permission == Permission::DryRun {
                let (service, rule) = (&asked.service, &asked.verdict.rule);
                shared
                    .reports
                    .dry_run(Instant::now(), &found, Some(tunnel.peer()), service, rule);
            }
            return Ok((now, asked, opened, counted));
        }
        // A change that came meanwhile may have been too early to see this caller, and must not be missed.
        snapshot = now;
        asked = refuse::check(connect, &snapshot, from)?;
    }
}

/// Why a connection was ended while its instance was being dialled.
pub(super) fn taken_back(hold: &Hold) -> Refused {
    let (Some(found), Some(why)) = (hold.caller(), hold.withdrawn()) else {
        return Refused::draining();
    };
    match &why.rule {
        Some(rule) => Refused::forbidden(found.caller, &hold.connection.service, rule.clone()),
        None => Refused::draining(),
    }
}

/// What a new connection of this caller would be told. A service that has left the topology is no reason to end what is open.
fn now_decided(snapshot: &Snapshot, caller: &Caller, service: &ServiceName) -> Verdict {
    let known = snapshot.topology.services.get(service);
    if known.is_some_and(|known| !known.is_exported_to(&caller.zone)) {
        return Verdict {
            permission: Permission::Forbidden,
            rule: Rule::ExportTo(service.clone()),
        };
    }
    decide(&snapshot.topology, caller, service)
}

/// Ends every open connection whose caller is not permitted any more, and leaves the others alone.
pub(super) fn recheck(shared: &Shared, snapshot: &Snapshot) {
    // Thousands of connections share a few callers.
    let mut known: HashMap<(Arc<Caller>, ServiceName), Verdict> = HashMap::new();
    for hold in shared.open.holds() {
        let Some(Found { caller, .. }) = hold.caller() else {
            continue;
        };
        let connection = &hold.connection;
        let verdict = known
            .entry((caller.clone(), connection.service.clone()))
            .or_insert_with(|| now_decided(snapshot, &caller, &connection.service));
        if verdict.passes() {
            continue;
        }
        let (peer, service, rule) = (connection.peer.as_ref(), &connection.service, &verdict.rule);
        shared
            .reports
            .closed(Instant::now(), &caller, peer, service, rule);
        hold.withdraw(Withdrawn {
            outcome: match rule {
                Rule::ExportTo(_) => "not_exported",
                rule if rule.is_vouching() => "unvouched",
                _ => "forbidden",
            },
            rule: Some(rule.clone()),
        });
    }
}
