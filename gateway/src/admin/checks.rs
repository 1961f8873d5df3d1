//! Is the gateway well? [`Readiness`] holds the checks that decide whether it should get traffic; `diagnose` looks at
//! what it knows of the federation and says what an operator would want to know.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::view::{LinkView, ServiceView, ZoneView};
use crate::telemetry::ProcessReading;

/// Share of the file descriptor limit from which an operator is warned.
const OPEN_FILES_WARN_SHARE: f64 = 0.8;
/// For how long after the latest refusal of zone sync an operator is warned of it, in seconds.
const REFUSED_LATELY_SECONDS: f64 = 60.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// Works, but somebody should look.
    Warn,
    Fail,
}

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Checks with the same group are shown together.
    pub group: String,
    /// What was looked at.
    pub name: String,
    pub status: Status,
    /// What was found; may be empty when all is well.
    pub message: String,
    /// What can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Check {
    #[must_use]
    pub fn ok(group: &str, name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Status::Ok, group, name.into(), message.into(), None)
    }

    #[must_use]
    pub fn warn(
        group: &str,
        name: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(
            Status::Warn,
            group,
            name.into(),
            message.into(),
            Some(hint.into()),
        )
    }

    #[must_use]
    pub fn fail(
        group: &str,
        name: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(
            Status::Fail,
            group,
            name.into(),
            message.into(),
            Some(hint.into()),
        )
    }

    fn new(status: Status, group: &str, name: String, message: String, hint: Option<String>) -> Self {
        let group = group.to_owned();
        Self {
            group,
            name,
            status,
            message,
            hint,
        }
    }
}

type ReadCheck = Arc<dyn Fn() -> Check + Send + Sync>;

/// Who is told the outcome of a readiness check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Everywhere,
    /// Only `/readyz`: `causeway check` says the same item by item.
    InSum,
}

/// The checks behind `/readyz`, in the order in which they are shown. Each reads state and returns at once.
#[derive(Clone, Default)]
pub struct Readiness(Vec<(Shown, ReadCheck)>);

impl Readiness {
    /// Adds a check; builds like a list.
    #[must_use]
    pub fn with(mut self, check: impl Fn() -> Check + Send + Sync + 'static) -> Self {
        self.0.push((Shown::Everywhere, Arc::new(check)));
        self
    }

    /// Adds a check that sums up, in one line of `/readyz?verbose`, what `diagnose` says of each zone.
    #[must_use]
    pub fn with_sum(mut self, check: impl Fn() -> Check + Send + Sync + 'static) -> Self {
        self.0.push((Shown::InSum, Arc::new(check)));
        self
    }

    /// Everything that decides whether the gateway is ready.
    #[must_use]
    pub fn read(&self) -> Vec<Check> {
        self.0.iter().map(|(_, check)| check()).collect()
    }

    /// What stands beside the diagnosis of each zone, without saying anything twice.
    #[must_use]
    pub(super) fn read_apart(&self) -> Vec<Check> {
        let apart = self.0.iter().filter(|(shown, _)| *shown == Shown::Everywhere);
        apart.map(|(_, check)| check()).collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Readiness({} checks)", self.0.len())
    }
}

/// What the state says about the federation as this zone sees it.
pub(super) fn diagnose(zones: &[ZoneView], services: &[ServiceView], process: &ProcessReading) -> Vec<Check> {
    let mut checks: Vec<Check> = zones.iter().filter(|zone| !zone.own).map(zone_link).collect();
    checks.extend(zones.iter().flat_map(zone_records));
    checks.extend(services.iter().map(service_home));
    checks.extend(open_files(process));
    checks
}

fn zone_link(zone: &ZoneView) -> Check {
    let group = "tunnels";
    let name = format!("zone {}", zone.name);
    let tunnels: usize = zone.links.iter().map(|link| link.tunnels).sum();
    match zone.state.as_str() {
        "up" => Check::ok(group, name, format!("{tunnels} up")),
        "draining" => Check::warn(
            group,
            name,
            "draining: it takes no new connections",
            "is it being restarted?",
        ),
        "stalled" => Check::warn(
            group,
            name,
            "no answers on any tunnel",
            "is the zone or the network to it overloaded or cut off? see `causeway get tunnels`",
        ),
        _ if zone.gateways.is_empty() => Check::warn(
            group,
            name,
            "no tunnel; this zone has no addresses and must dial in",
            "is its gateway running, and does its topology hold this zone's addresses?",
        ),
        _ => Check::warn(
            group,
            name,
            "no tunnel",
            "is its gateway running, is 7800/udp open on the way, do both trust the same CA?",
        ),
    }
}

fn zone_records(zone: &ZoneView) -> Vec<Check> {
    let group = "zone sync";
    let told = zone
        .links
        .iter()
        .filter_map(|link| Some((link, link.age.as_deref()?)));
    let records = told.map(|(link, age)| {
        let name = format!("{}/{}", zone.name, link.gateway);
        if age != "fresh" {
            let message = format!("its exports are {age}");
            return Check::warn(
                group,
                name,
                message,
                "suspect exports are used only when nothing fresh is left",
            );
        }
        if link.same_topology == Some(false) {
            return Check::warn(
                group,
                name,
                "it runs another topology",
                "give every zone the same file, or the same way to get one (`causeway apply`)",
            );
        }
        Check::ok(group, name, record_line(link))
    });
    let refused = zone.links.iter().filter_map(|link| refused_lately(zone, link));
    records.chain(refused).collect()
}

fn record_line(link: &LinkView) -> String {
    let mut text = "fresh".to_owned();
    if let Some(version) = link.version {
        // Writing to a string cannot fail, here and below.
        let _ = write!(text, ", version {version}");
    }
    if let Some(via) = &link.via {
        let _ = write!(text, ", passed on by {via}");
    }
    if let Some(lag @ 1..) = link.exchange.lag_versions {
        let _ = write!(text, ", has yet to acknowledge {lag} versions of ours");
    }
    text
}

/// What one of the two refused within the last minute; refusals repeat for as long as their cause is there.
fn refused_lately(zone: &ZoneView, link: &LinkView) -> Option<Check> {
    let lately = link.exchange.refusals.iter().find(|refusal| {
        refusal
            .seconds_ago
            .is_some_and(|seconds| seconds < REFUSED_LATELY_SECONDS)
    })?;
    let (reason, count) = (&lately.reason, lately.count);
    let (message, hint) = match lately.side.as_str() {
        "peer" => (
            format!("it refuses what this zone tells: {reason} ({count} times)"),
            "it knows nothing new of this zone until that is mended; the log says which limit or rule was broken",
        ),
        _ => (
            format!("what it tells was refused: {reason} ({count} times)"),
            "its operator sees the same in its log; nothing new of that zone is known here until it is mended",
        ),
    };
    let name = format!("{}/{} refusals", zone.name, link.gateway);
    Some(Check::warn("zone sync", name, message, hint))
}

fn service_home(service: &ServiceView) -> Check {
    let group = "services";
    let name = service.name.clone();
    let elsewhere: u64 = service
        .zones
        .iter()
        .filter(|zone| zone.usable)
        .map(|zone| u64::from(zone.healthy))
        .sum();
    let local = &service.local;
    match (local.healthy, local.instances, elsewhere) {
        (0, 0, 0) => Check::fail(
            group,
            name,
            "no instance anywhere that this zone can reach",
            "register one with `causeway register`, or check the tunnels to the zones that serve it",
        ),
        (0, all, 0) => Check::fail(
            group,
            name,
            format!("none of {all} instances here is healthy, and no other zone serves it"),
            "see `causeway get instances`; does its health check fit the service?",
        ),
        (0, 0, _) => Check::ok(group, name, format!("{elsewhere} healthy in other zones")),
        (healthy, all, _) if healthy < all => Check::warn(
            group,
            name,
            format!("{healthy} of {all} instances here are healthy, {elsewhere} in other zones"),
            "see `causeway get instances`",
        ),
        (healthy, ..) => Check::ok(
            group,
            name,
            format!("{healthy} healthy here, {elsewhere} in other zones"),
        ),
    }
}

fn open_files(process: &ProcessReading) -> Option<Check> {
    let (open, limit) = (process.open_files?, process.open_files_limit?);
    let message = format!("{open} of {limit}");
    let name = "open files";
    if (open as f64) < limit as f64 * OPEN_FILES_WARN_SHARE {
        return Some(Check::ok("process", name, message));
    }
    let hint = "raise the limit (`ulimit -n`, LimitNOFILE=) before connections are refused";
    Some(Check::warn("process", name, message, hint))
}
