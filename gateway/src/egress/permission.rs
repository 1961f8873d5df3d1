//! Asks whether a client may call what it connected to, before anybody else is asked: to fail early, and for instances of
//! this zone to decide. And asks again, for connections that are open, when the answer may have changed.

use std::{sync::Arc, time::Instant};

use causeway_zone_sync::name::ServiceName;

use super::{Shared, connection::Arrival};
use crate::{
    callers::{Ends, Found},
    permit::{Permission, Rule, Verdict, decide},
    relay::{Hold, Withdrawn},
    snapshot::Snapshot,
};

/// A client that may go on.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) found: Found,
    pub(super) rule: Rule,
}

/// A client that may not.
#[derive(Debug)]
pub(super) struct Forbidden {
    pub(super) found: Found,
    pub(super) rule: Rule,
}

/// Finds out who the client is and whether it may call. Its caller stays known for as long as the connection is open.
pub(super) fn admit(shared: &Shared, arrival: &Arrival) -> Result<Admitted, Forbidden> {
    let (service, hold) = (&arrival.target.service, arrival.opened.hold());
    let ends = Ends {
        client: arrival.client,
        local: arrival.local,
    };
    loop {
        let snapshot = shared.snapshots.load_full();
        let found = shared.config.callers.find(&snapshot, ends);
        let found = found.showing(arrival.identity.as_ref());
        let verdict = decide(&snapshot.topology, &found.caller, service);
        hold.set_caller(found.clone());
        // A change that came meanwhile may have been too early to see this caller, and must not be missed.
        if is_current(shared, &snapshot) {
            return settle(shared, service, found, verdict);
        }
    }
}

fn is_current(shared: &Shared, snapshot: &Snapshot) -> bool {
    let now = shared.snapshots.load();
    Arc::ptr_eq(&now.topology, &snapshot.topology) && Arc::ptr_eq(&now.callers, &snapshot.callers)
}

fn settle(
    shared: &Shared,
    service: &ServiceName,
    found: Found,
    verdict: Verdict,
) -> Result<Admitted, Forbidden> {
    let (reports, now) = (&shared.reports, Instant::now());
    let rule = verdict.rule;
    match verdict.permission {
        Permission::Permitted => Ok(Admitted { found, rule }),
        Permission::DryRun => {
            reports.dry_run(now, &found, None, service, &rule);
            Ok(Admitted { found, rule })
        }
        Permission::Forbidden => {
            reports.refused(now, &found, service, &rule);
            Err(Forbidden { found, rule })
        }
    }
}

/// Ends every open connection whose caller is not permitted any more, and leaves the others alone.
pub(super) fn recheck(shared: &Shared, snapshot: &Snapshot) {
    for hold in shared.open.holds() {
        recheck_one(shared, snapshot, &hold);
    }
}

fn recheck_one(shared: &Shared, snapshot: &Snapshot, hold: &Hold) {
    let connection = &hold.connection;
    let (Some(before), Some(client), Some(local)) = (hold.caller(), connection.client, connection.local)
    else {
        return;
    };
    let found = shared
        .config
        .callers
        .find_again(snapshot, Ends { client, local }, &before);
    let verdict = decide(&snapshot.topology, &found.caller, &connection.service);
    if !verdict.passes() {
        let rule = verdict.rule;
        shared
            .reports
            .closed(Instant::now(), &found.caller, None, &connection.service, &rule);
        hold.withdraw(Withdrawn {
            outcome: "forbidden",
            rule: Some(rule),
        });
    }
    if found != before {
        hold.set_caller(found);
    }
}
