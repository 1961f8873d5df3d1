//! Asks whether a client may call what it connected to, before anybody else is asked: to fail early, and for instances of
//! this zone to decide. And asks again, for connections that are open, when the answer may have changed.

use std::{sync::Arc, time::Instant};

use causeway_federation::{name::CallerIdentity, request_path::PathFault, topology::Topology};
use causeway_routing::{
    callers::{FoundCaller, Index},
    permit::{Permission, RequestLine, Rule, Verdict, decide},
    snapshot::Snapshot,
};
use causeway_telemetry::{ConnectionOutcome, StreamRefusal};
use parking_lot::Mutex;

use super::EgressShared;
use crate::{
    callers::Endpoints,
    open::{ConnectionHandle, OpenConnection, Termination},
};

/// A client that may go on.
#[derive(Debug)]
pub(super) struct AdmittedClient {
    pub(super) found: FoundCaller,
    pub(super) rule: Rule,
}

/// A client that may not.
#[derive(Debug)]
pub(super) struct ForbiddenClient {
    pub(super) found: FoundCaller,
    pub(super) rule: Rule,
}

/// Finds out who the client is and whether it may call. Its caller stays known for as long as the connection is open.
pub(super) async fn admit(
    shared: &EgressShared,
    handle: &ConnectionHandle,
    endpoints: Endpoints,
    identity: Option<&CallerIdentity>,
) -> Result<AdmittedClient, ForbiddenClient> {
    let service = &handle.connection.service;
    loop {
        let snapshot = shared.snapshots.load_full();
        let found = shared.config.callers.find(&snapshot, endpoints).await;
        let found = found.showing(identity);
        let verdict = decide(&snapshot.topology, &found.caller, service, None);
        handle.set_caller(found.clone());
        // A change that came meanwhile may have been too early to see this caller, and must not be missed.
        if is_current(shared, &snapshot) {
            return settle(shared, &handle.connection, found, verdict);
        }
    }
}

/// Facts by which a request was permitted, for as long as they are the same.
#[derive(Debug, Clone)]
pub(super) struct AdmittedBefore {
    topology: Arc<Topology>,
    callers: Arc<Index>,
    found: FoundCaller,
    verdict: Verdict,
}

/// Does what [`admit`] does for the next request of an open connection. Who the client is is asked again only once
/// something has changed.
pub(super) async fn admit_again(
    shared: &EgressShared,
    handle: &ConnectionHandle,
    endpoints: Endpoints,
    identity: Option<&CallerIdentity>,
    before: &Mutex<Option<AdmittedBefore>>,
) -> Result<AdmittedClient, ForbiddenClient> {
    let service = &handle.connection.service;
    loop {
        let snapshot = shared.snapshots.load_full();
        let last = before.lock().clone();
        let same = last.clone().filter(|last| last.holds_in(&snapshot));
        let AdmittedBefore { found, verdict, .. } = match same {
            Some(same) => same,
            None => {
                let callers = &shared.config.callers;
                let last = last.as_ref().map(|last| &last.found);
                let found = callers.find_next(&snapshot, endpoints, last).await;
                let found = found.showing(identity);
                let next = AdmittedBefore {
                    topology: snapshot.topology.clone(),
                    callers: snapshot.callers.clone(),
                    verdict: decide(&snapshot.topology, &found.caller, service, None),
                    found,
                };
                before.lock().replace(next.clone());
                next
            }
        };
        handle.set_caller(found.clone());
        // As in `admit`.
        if is_current(shared, &snapshot) {
            return settle(shared, &handle.connection, found, verdict);
        }
    }
}

/// Asks whether a client that may call may do so with this request. `None`: permissions look at no request of its service.
///
/// # Errors
/// A path that is none, where permissions look at paths.
pub(super) fn admit_request(
    shared: &EgressShared,
    connection: &OpenConnection,
    found: &FoundCaller,
    (method, path): (&str, &str),
) -> Result<Option<Result<AdmittedClient, ForbiddenClient>>, PathFault> {
    let snapshot = shared.snapshots.load();
    let Some(service) = snapshot.topology.services.get(&connection.service) else {
        return Ok(None);
    };
    let Some(line) = RequestLine::read(service, method, path)? else {
        return Ok(None);
    };
    let verdict = decide(
        &snapshot.topology,
        &found.caller,
        &connection.service,
        Some(&line),
    );
    Ok(Some(settle(shared, connection, found.clone(), verdict)))
}

impl AdmittedBefore {
    fn holds_in(&self, snapshot: &Snapshot) -> bool {
        Arc::ptr_eq(&self.topology, &snapshot.topology) && Arc::ptr_eq(&self.callers, &snapshot.callers)
    }
}

fn is_current(shared: &EgressShared, snapshot: &Snapshot) -> bool {
    let now = shared.snapshots.load();
    Arc::ptr_eq(&now.topology, &snapshot.topology) && Arc::ptr_eq(&now.callers, &snapshot.callers)
}

fn settle(
    shared: &EgressShared,
    connection: &OpenConnection,
    found: FoundCaller,
    verdict: Verdict,
) -> Result<AdmittedClient, ForbiddenClient> {
    let (reports, now) = (&shared.reports, Instant::now());
    let (id, service, rule) = (connection.id, &connection.service, verdict.rule);
    match verdict.permission {
        Permission::Permitted => Ok(AdmittedClient { found, rule }),
        Permission::DryRun => {
            reports.dry_run(now, id, &found, None, service, &rule);
            Ok(AdmittedClient { found, rule })
        }
        Permission::Forbidden => {
            reports.refused(now, id, &found, service, &rule);
            Err(ForbiddenClient { found, rule })
        }
    }
}

/// Ends every open connection whose caller is not permitted any more, and leaves the others alone.
pub(super) fn recheck(shared: &EgressShared, snapshot: &Snapshot) {
    for handle in shared.open.handles() {
        recheck_one(shared, snapshot, &handle);
    }
}

fn recheck_one(shared: &EgressShared, snapshot: &Snapshot, handle: &ConnectionHandle) {
    let connection = &handle.connection;
    let (Some(before), Some(client), Some(local)) = (handle.caller(), connection.client, connection.local)
    else {
        return;
    };
    let found = shared
        .config
        .callers
        .find_again(snapshot, Endpoints { client, local }, &before);
    let verdict = handle.decide(&snapshot.topology, &found.caller);
    if !verdict.passes() {
        let rule = verdict.rule;
        shared
            .reports
            .closed(Instant::now(), connection, &found.caller, &rule);
        handle.terminate(Termination {
            outcome: ConnectionOutcome::refused_here(StreamRefusal::Forbidden),
            rule: Some(rule),
        });
    }
    if found != before {
        handle.set_caller(found);
    }
}
