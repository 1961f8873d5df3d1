//! Asks whether a client may call what it connected to, before anybody else is asked: to fail early, and for instances of
//! this zone to decide. And asks again, for connections that are open, when the answer may have changed.

use std::{sync::Arc, time::Instant};

use causeway_routing::{
    callers::FoundCaller,
    permit::{Permission, Rule, Verdict, decide},
    snapshot::Snapshot,
};
use causeway_telemetry::{ConnectionOutcome, StreamRefusal};

use super::{EgressShared, connection::ClientConnection};
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
    connection: &ClientConnection,
) -> Result<AdmittedClient, ForbiddenClient> {
    let (arrival, handle) = (&connection.arrival, connection.opened.handle());
    let service = &arrival.target.service;
    let identity = arrival.certificate.as_ref().map(|shown| &shown.identity);
    let endpoints = Endpoints {
        client: arrival.client,
        local: arrival.local,
    };
    loop {
        let snapshot = shared.snapshots.load_full();
        let found = shared.config.callers.find(&snapshot, endpoints).await;
        let found = found.showing(identity);
        let verdict = decide(&snapshot.topology, &found.caller, service);
        handle.set_caller(found.clone());
        // A change that came meanwhile may have been too early to see this caller, and must not be missed.
        if is_current(shared, &snapshot) {
            return settle(shared, &handle.connection, found, verdict);
        }
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
    let verdict = decide(&snapshot.topology, &found.caller, &connection.service);
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
