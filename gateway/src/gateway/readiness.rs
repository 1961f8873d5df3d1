//! The checks behind `/readyz` and `causeway check`. A gateway that is cut off is still ready: it serves its own zone; so
//! only what keeps local clients from being served fails, and the rest warns.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use causeway_zone_sync::{catalog::Age, name::ZoneName, service::Disk};
use tokio::sync::watch;

use super::{GatewayConfig, certificate, sync_status::SyncView};
use crate::{
    admin::{Check, Readiness},
    attach::AttachStatus,
    egress::Egress,
    reload::ReloadState,
    renewal::Renewal,
    snapshot::{Health, Link, Snapshots},
    sources::Troubles,
    telemetry::ForbiddenTotals,
    topology::AppliedTopology,
};

pub fn checks(
    config: &GatewayConfig,
    snapshots: &Snapshots,
    egress: &Egress,
    sync: &SyncView,
    attachment: Option<watch::Receiver<AttachStatus>>,
    troubles: &Troubles,
    draining: &Arc<AtomicBool>,
) -> Readiness {
    let troubles = troubles.clone();
    let (draining, reload, identity) = (draining.clone(), config.reload.clone(), config.identity.clone());
    let (linked, healthy, known) = (snapshots.clone(), snapshots.clone(), snapshots.clone());
    let (egress, sync) = (egress.clone(), sync.clone());
    let applied = config.applied.clone();
    let (permitted, metrics) = (snapshots.clone(), config.metrics.clone());
    let renewal = config.renewal.as_ref().map(Renewal::status);
    let (believing, trusted) = (config.identity.clone(), config.trust.clone());
    let ruling = config.topology.clone();
    let readiness = Readiness::default()
        .with(move || running(draining.load(Ordering::Relaxed)))
        .with(move || topology(&reload, applied.as_ref()))
        .with(move || {
            let renewal = renewal.as_ref().map(|status| status.borrow().clone());
            certificate::check(&identity, renewal.as_ref(), SystemTime::now())
        })
        .with(move || {
            let topology = ruling.borrow().clone();
            crate::trust::check(&believing, trusted.as_ref(), &topology, SystemTime::now())
        })
        .with(move || listeners(&egress))
        .with_sum(move || tunnels(&linked))
        .with_sum(move || catalog(&known))
        .with(move || disk(&sync))
        .with(move || instances(&healthy))
        .with(move || permissions(&permitted, metrics.forbidden_totals()))
        .with(move || sources(&troubles));
    match attachment {
        Some(attachment) => readiness.with(move || registry(&attachment.borrow())),
        None => readiness,
    }
}

fn running(draining: bool) -> Check {
    if draining {
        return Check::fail(
            "gateway",
            "running",
            "it is draining",
            "it was told to end; start it again if that was wrong",
        );
    }
    Check::ok("gateway", "running", "it takes connections")
}

fn topology(reload: &watch::Receiver<ReloadState>, applied: Option<&AppliedTopology>) -> Check {
    if let Some(applied) = applied {
        return crate::topology::check(&applied.view());
    }
    match &reload.borrow().refused {
        None => Check::ok("gateway", "topology", "the file is in force"),
        Some(refusal) => Check::warn(
            "gateway",
            "topology",
            format!(
                "the file is bad and the topology before it stays in force: {}",
                refusal.summary
            ),
            "`causeway validate` shows every mistake; a corrected file is taken up at once",
        ),
    }
}

fn listeners(egress: &Egress) -> Check {
    let failures = egress.bind_failures();
    let Some(first) = failures.first() else {
        return Check::ok("clients", "listeners", "every service can be connected to");
    };
    let text = format!(
        "cannot listen on {} ({}): {}",
        first.address, first.serves, first.error
    );
    let text = match failures.len() {
        1 => text,
        count => format!("{text}; and {} more", count - 1),
    };
    let hint = "is the port taken, or under 1024 without the privilege? a routed range needs `ip route add local RANGE dev lo`";
    Check::warn("clients", "listeners", text, hint)
}

fn tunnels(snapshots: &Snapshots) -> Check {
    let snapshot = snapshots.load();
    let up: BTreeSet<&ZoneName> = snapshot
        .links
        .iter()
        .filter(|(_, link)| **link == Link::Up)
        .map(|(id, _)| &id.zone)
        .collect();
    let missing: Vec<&str> = snapshot
        .topology
        .zones
        .iter()
        .filter(|(name, zone)| **name != snapshot.zone && !up.contains(name) && reachable(&snapshot, zone))
        .map(|(name, _)| name.as_str())
        .collect();
    if missing.is_empty() {
        return Check::ok(
            "zones",
            "tunnels",
            format!("{} other zones are connected", up.len()),
        );
    }
    Check::warn(
        "zones",
        "tunnels",
        format!("no working tunnel to {}", missing.join(", ")),
        "is that gateway running, is its UDP port open, does its address resolve here? the log says why a dial failed",
    )
}

/// Two zones without a way in cannot have a tunnel between them.
fn reachable(snapshot: &crate::snapshot::Snapshot, other: &causeway_zone_sync::topology::Zone) -> bool {
    let own = snapshot.topology.zones.get(&snapshot.zone);
    !other.gateways.is_empty() || own.is_some_and(|zone| !zone.gateways.is_empty())
}

fn catalog(snapshots: &Snapshots) -> Check {
    let snapshot = snapshots.load();
    let total = snapshot.catalog.entries().count();
    let stale = snapshot
        .catalog
        .entries()
        .filter(|entry| entry.age != Age::Fresh)
        .count();
    let others: Vec<_> = snapshot
        .catalog
        .entries()
        .filter(|entry| entry.record.topology != snapshot.topology.fingerprint)
        .map(|entry| entry.record.origin.to_string())
        .collect();
    if !others.is_empty() {
        return Check::warn(
            "zones",
            "catalog",
            format!("these run another topology file: {}", others.join(", ")),
            "give every zone the same file, or the same way to get one (`causeway apply`); `causeway get zones -o wide` shows which differ",
        );
    }
    match stale {
        0 => Check::ok("zones", "catalog", format!("{total} gateways are heard")),
        _ => Check::warn(
            "zones",
            "catalog",
            format!("{stale} of {total} gateways have not been heard lately"),
            "`causeway get exports` shows the age of everything",
        ),
    }
}

fn disk(sync: &SyncView) -> Check {
    match sync.status().map(|status| status.disk) {
        Some(Disk::Failing) => Check::warn(
            "gateway",
            "disk",
            "the catalog cannot be written to disk; a restart would serve an older one",
            "is the --data folder full or read-only?",
        ),
        Some(Disk::Working | Disk::Absent) | None => {
            Check::ok("gateway", "disk", "what must outlive a restart is written")
        }
    }
}

fn registry(attachment: &AttachStatus) -> Check {
    let lost = match attachment.attachments {
        0 | 1 => String::new(),
        count => format!(", attached {count} times since the start"),
    };
    match &attachment.attached {
        Ok(attached) => Check::ok(
            "zone sync",
            "registry",
            format!(
                "attached to {}, revision {}, with the gateways {}{lost}",
                attached.server,
                attached.revision,
                attached.gateways.join(", ")
            ),
        ),
        Err(detached) => {
            let since = humantime::format_duration(Duration::from_secs(detached.since.elapsed().as_secs()));
            Check::warn(
                "zone sync",
                "registry",
                format!(
                    "detached since {since}{lost}; what was known is served on; {}",
                    detached.failure
                ),
                "is `causeway zone-sync` running at one of the --zone-sync addresses, and its etcd? registrations are refused until then",
            )
        }
    }
}

fn instances(snapshots: &Snapshots) -> Check {
    let snapshot = snapshots.load();
    let all = || snapshot.instances.values().flat_map(|list| list.iter());
    let unhealthy = all()
        .filter(|instance| instance.health == Health::Unhealthy)
        .count();
    let total = all().count();
    match unhealthy {
        0 => Check::ok(
            "clients",
            "instances",
            format!("{total} of this zone, none unhealthy"),
        ),
        _ => Check::warn(
            "clients",
            "instances",
            format!("{unhealthy} of {total} instances of this zone are unhealthy"),
            "`causeway get instances -o wide` shows why each failed its check",
        ),
    }
}

fn permissions(snapshots: &Snapshots, totals: ForbiddenTotals) -> Check {
    let snapshot = snapshots.load();
    let (topology, ForbiddenTotals { ended, dry_run }) = (&snapshot.topology, totals);
    let naming = topology
        .services
        .values()
        .filter(|service| service.names_callers());
    let (naming, default) = (naming.count(), topology.permissions.default.as_str());
    let text = format!("services that name their callers: {naming}; default: {default}");
    if topology.permissions.dry_run {
        return Check::warn(
            "clients",
            "permissions",
            format!("{text}; dry run: {dry_run} connections since the start would have been refused"),
            "the log names caller and rule of each kind; take `dry_run` away once nothing is named that should pass",
        );
    }
    let text = match ended {
        0 => text,
        _ => format!("{text}; {ended} connections refused or closed since the start"),
    };
    Check::ok("clients", "permissions", text)
}

fn sources(troubles: &Troubles) -> Check {
    let troubles = troubles.list();
    match troubles.as_slice() {
        [] => Check::ok("clients", "sources", "what the folder and DNS say is taken up"),
        [(place, trouble), more @ ..] => {
            let more = match more.len() {
                0 => String::new(),
                count => format!(" (and {count} more)"),
            };
            Check::warn(
                "clients",
                "sources",
                format!("{place}: {trouble}{more}"),
                "the gateway's log has the details, with lines and hints",
            )
        }
    }
}
