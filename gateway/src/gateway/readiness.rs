//! The checks behind `/readyz` and `causeway check`. A gateway that is cut off is still ready: it serves its own zone; so
//! only what keeps local clients from being served fails, and the rest warns. Each check owns what it looks at; the order in
//! which they are shown is the list's that they are put into.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use causeway_control::{TopologySource, renewal::RenewalStatus, trust::Trusted};
use causeway_federation::{catalog::Age, name::ZoneName};
use causeway_host::tasks::Tasks;
use causeway_identity::LiveIdentity;
use causeway_instances::{
    attach::{AttachStatus, AttachedServer},
    sources::Troubles,
};
use causeway_proxy::egress::Egress;
use causeway_proxy::{ForbiddenTotals, ProxyMetrics};
use causeway_routing::snapshot::{Health, Link, Snapshots};
use causeway_telemetry::Check;
use causeway_tunnel::SocketBuffers;
use tokio::sync::watch;

use super::certificate;

/// The certificate in use and its renewal.
pub(crate) fn certificate(
    identity: LiveIdentity,
    renewal: Option<watch::Receiver<RenewalStatus>>,
) -> impl Fn() -> Check + Send + Sync {
    move || {
        let renewal = renewal.as_ref().map(|status| status.borrow().clone());
        certificate::check(&identity, renewal.as_ref(), SystemTime::now())
    }
}

/// Checks who is believed, here and by the topology.
pub(crate) fn trust(
    identity: LiveIdentity,
    trusted: Option<Trusted>,
    topology: TopologySource,
) -> impl Fn() -> Check + Send + Sync {
    move || {
        let topology = topology.current();
        causeway_control::trust::check(&identity, trusted.as_ref(), &topology, SystemTime::now())
    }
}

pub(crate) fn running(draining: Arc<AtomicBool>) -> impl Fn() -> Check + Send + Sync {
    move || {
        let draining = draining.load(Ordering::Relaxed);
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
}

/// The gateway goes on without a task that has ended, and is not ready any more: what it still does may be wrong by then.
pub(crate) fn tasks(tasks: Tasks) -> impl Fn() -> Check + Send + Sync {
    move || {
        let ended = tasks.ended();
        let Some((first, more)) = ended.first.split_first() else {
            return Check::ok("gateway", "tasks", "every task runs");
        };
        let others: Vec<&str> = more.iter().map(|task| task.name.as_ref()).collect();
        let others = match others.as_slice() {
            [] => String::new(),
            others => format!("; and: {}", others.join(", ")),
        };
        Check::fail(
            "gateway",
            "tasks",
            format!("task `{}` has ended: {}{others}", first.name, first.ending),
            "start the gateway again: it goes on with what was in force; its log says what happened before that",
        )
    }
}

pub(crate) fn topology(source: TopologySource) -> impl Fn() -> Check + Send + Sync {
    move || {
        let refused = match &source {
            TopologySource::Applied(applied) => return causeway_control::topology::check(&applied.view()),
            TopologySource::File(file) => file.state().borrow().refused.clone(),
            TopologySource::Held(_) => None,
        };
        match refused {
            None => Check::ok("gateway", "topology", "the file is in force"),
            Some(refusal) => Check::warn(
                "gateway",
                "topology",
                format!(
                    "the file is bad and the topology before it stays in force: {}",
                    std::iter::once(refusal.summary)
                        .chain(refusal.lines)
                        .collect::<Vec<_>>()
                        .join("; ")
                ),
                "`causeway validate` shows every mistake; a corrected file is taken up at once",
            ),
        }
    }
}

/// Keys of the topology that nothing acts on: who wrote them may believe otherwise.
pub(crate) fn keys(topology: TopologySource) -> impl Fn() -> Check + Send + Sync {
    move || {
        let topology = topology.current();
        let keys: Vec<&str> = topology.not_in_force.iter().map(String::as_str).collect();
        match keys.as_slice() {
            [] => Check::ok("gateway", "topology keys", "every key is in force"),
            keys => Check::warn(
                "gateway",
                "topology keys",
                format!("accepted, and not in force in this version: {}", keys.join(", ")),
                "`causeway validate` shows where they stand; until a later version the gateway acts as if they were not there",
            ),
        }
    }
}

pub(crate) fn listeners(egress: Egress) -> impl Fn() -> Check + Send + Sync {
    move || {
        let mut failures = egress.bind_failures();
        let all = failures.len();
        failures.retain(|failure| !failure.lacks_descriptors);
        let Some(first) = failures.first() else {
            let text = match all {
                0 => "every service can be connected to",
                _ => "every service can be connected to for which there is a descriptor",
            };
            return Check::ok("clients", "listeners", text);
        };
        let text = format!(
            "cannot listen on {} ({}): {}",
            first.address, first.serves, first.error
        );
        let text = match failures.len() {
            1 => text,
            count => format!("{text}; and {} more", count - 1),
        };
        Check::warn("clients", "listeners", text, first.advice)
    }
}

/// Warns for a minute after clients were refused because a limit of their service was reached.
pub(crate) fn limits(egress: Egress) -> impl Fn() -> Check + Send + Sync {
    move || {
        let reached = egress.limits_reached();
        let words: Vec<String> = reached
            .iter()
            .map(|(service, limit)| format!("{service}: {limit}"))
            .collect();
        match words.as_slice() {
            [] => Check::ok(
                "clients",
                "limits",
                "no limit of a service was reached within the last minute",
            ),
            words => Check::warn(
                "clients",
                "limits",
                format!(
                    "clients were refused within the last minute: {}",
                    words.join(", ")
                ),
                "`limits` of the service say how much all gateways of this zone carry together, and `capacity` of its instances how much they take: raise them if they can take more, or add instances",
            ),
        }
    }
}

pub(crate) fn tunnels(snapshots: Snapshots) -> impl Fn() -> Check + Send + Sync {
    move || {
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
            .filter(|(name, zone)| {
                **name != snapshot.zone && !up.contains(name) && reachable(&snapshot, zone)
            })
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
}

/// Two zones without a way in cannot have a tunnel between them.
fn reachable(
    snapshot: &causeway_routing::snapshot::Snapshot,
    other: &causeway_federation::topology::Zone,
) -> bool {
    let own = snapshot.topology.zones.get(&snapshot.zone);
    !other.gateways.is_empty() || own.is_some_and(|zone| !zone.gateways.is_empty())
}

/// Buffers that the kernel has given the sockets of tunnels.
pub(crate) fn buffers(given: SocketBuffers) -> impl Fn() -> Check + Send + Sync {
    move || {
        let megabytes = |bytes: usize| format!("{:.1} MB", bytes as f64 / 1e6);
        let SocketBuffers { receive, send } = given;
        let text = format!(
            "sockets of tunnels have {} to receive and {} to send",
            megabytes(receive),
            megabytes(send)
        );
        match given.are_enough() {
            true => Check::ok("zones", "buffers", text),
            false => Check::warn(
                "zones",
                "buffers",
                format!("{text}; at high rates packets are lost in them"),
                format!(
                    "`{}` (and in /etc/sysctl.d/), then start the gateway again",
                    SocketBuffers::remedy()
                ),
            ),
        }
    }
}

pub(crate) fn catalog(snapshots: Snapshots) -> impl Fn() -> Check + Send + Sync {
    move || {
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
}

pub(crate) fn registry(attachment: watch::Receiver<AttachStatus>) -> impl Fn() -> Check + Send + Sync {
    move || {
        let attachment = attachment.borrow();
        let lost = match attachment.attachments {
            0 | 1 => String::new(),
            count => format!(", attached {count} times since the start"),
        };
        match &attachment.attached {
            Ok(AttachedServer {
                server,
                trouble: Some(trouble),
                ..
            }) => Check::warn(
                "zone sync",
                "registry",
                format!("attached to {server}{lost}, and nothing can be registered: {trouble}"),
                "is etcd running, and has it room (quota, disk)? the log of `causeway zone-sync` says more; what is known is served on",
            ),
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
                let since =
                    humantime::format_duration(Duration::from_secs(detached.since.elapsed().as_secs()));
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
}

pub(crate) fn instances(snapshots: Snapshots) -> impl Fn() -> Check + Send + Sync {
    move || {
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
}

pub(crate) fn permissions(
    snapshots: Snapshots,
    metrics: Arc<ProxyMetrics>,
) -> impl Fn() -> Check + Send + Sync {
    move || {
        let totals = metrics.forbidden_totals();
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
}

pub(crate) fn sources(troubles: Troubles) -> impl Fn() -> Check + Send + Sync {
    move || {
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
}

#[cfg(test)]
mod tests {
    use causeway_telemetry::Status;

    use super::*;

    #[test]
    fn small_buffers_are_warned_about_with_what_to_do() {
        let check = buffers(SocketBuffers::WANTED)();
        assert_eq!((check.status, check.hint), (Status::Ok, None));
        let default = 212_992;
        let check = buffers(SocketBuffers {
            receive: default,
            send: SocketBuffers::WANTED.send,
        })();
        assert_eq!(check.status, Status::Warn);
        assert!(
            check.message.contains("0.2 MB to receive and 8.4 MB to send"),
            "{}",
            check.message
        );
        assert!(
            check
                .hint
                .unwrap()
                .contains("sysctl -w net.core.rmem_max=8388608")
        );
    }
}
