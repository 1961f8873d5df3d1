//! Is the gateway well? [`Readiness`] holds the checks that decide whether it should get traffic; `diagnose` looks at
//! what it knows of the federation and says what an operator would want to know.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use causeway_telemetry::Check;

use super::{
    view::{LinkView, ServiceView, ZoneView},
    zone_checks::{clocks, drained_zones},
};
use crate::admin::ProcessReading;

/// Share of the file descriptor limit from which an operator is warned.
const OPEN_FILES_WARN_SHARE: f64 = 0.8;
/// For how long after the latest refusal of zone sync an operator is warned of it, in seconds.
pub const REFUSED_LATELY_SECONDS: f64 = 60.0;

type ReadCheck = Arc<dyn Fn() -> Check + Send + Sync>;

/// Places where the outcome of a readiness check is shown.
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

    /// Runs those that stand beside the diagnosis of each zone, without saying anything twice.
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

/// Checks from the state how the federation is doing, as this zone sees it.
pub(super) fn diagnose(zones: &[ZoneView], services: &[ServiceView], process: &ProcessReading) -> Vec<Check> {
    let mut checks = diagnose_zones(zones);
    let revoked = RevokedZones::of(zones);
    checks.extend(services.iter().map(|service| service_home(service, &revoked)));
    checks.extend(services.iter().filter_map(service_ejected));
    checks.extend(open_files(process));
    checks
}

/// Checks how the way to one other zone is doing.
#[must_use]
pub fn diagnose_zone(zone: &ZoneView) -> Vec<Check> {
    diagnose_zones(std::slice::from_ref(zone))
}

fn diagnose_zones(zones: &[ZoneView]) -> Vec<Check> {
    let mut checks: Vec<Check> = zones.iter().filter(|zone| !zone.own).map(zone_link).collect();
    checks.extend(zones.iter().flat_map(zone_records));
    checks.extend(clocks(zones));
    checks.extend(drained_zones(zones));
    checks
}

fn zone_link(zone: &ZoneView) -> Check {
    let group = "tunnels";
    let name = format!("zone {}", zone.name);
    let tunnels: usize = zone.links.iter().map(|link| link.tunnels).sum();
    let unanswered: usize = zone.links.iter().map(|link| link.unanswered).sum();
    match zone.state.as_str() {
        "up" if unanswered > 0 => Check::warn(
            group,
            name,
            format!(
                "{tunnels} up, and the latest {unanswered} connections that were asked for got no answer in time"
            ),
            "is its gateway overloaded, or do streams that nobody reads hold the tunnels? compare `causeway get tunnels` there",
        ),
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
        _ => zone_down(zone, name),
    }
}

/// A zone that cannot be reached is a failure, unless others pass on what it tells: then it lives, and may be one that only
/// dials, as this one does.
fn zone_down(zone: &ZoneView, name: String) -> Check {
    let said = lately_said(zone);
    let message = match &said {
        Some(said) => format!("no tunnel; {said}"),
        None if zone.gateways.is_empty() => {
            "no tunnel; this zone has no addresses and must dial in".to_owned()
        }
        None => "no tunnel".to_owned(),
    };
    let hint = match &said {
        // Somebody was there and said why.
        Some(_) if refused(zone) && said_busy(zone) => {
            "does it drain, or has it just ended, or does it take all the handshakes that it can? it is dialled again"
        }
        Some(_) if refused(zone) => "the log of both sides says more of this word, with what to do",
        _ if zone.gateways.is_empty() => {
            "is its gateway running, and does its topology hold this zone's addresses?"
        }
        _ if said_timeout(zone) => {
            "is its gateway running, is 7800/udp open on the way, and do IP packets of 1,228 bytes (UDP with 1,200) pass it, which a tunnel needs?"
        }
        _ => "is its gateway running, is 7800/udp open on the way, do both trust the same CA?",
    };
    let is_passed_on = zone.links.iter().any(|link| link.age.as_deref() == Some("fresh"));
    match is_passed_on && !refused(zone) {
        true => Check::warn("tunnels", name, message, hint),
        false => Check::fail("tunnels", name, message, hint),
    }
}

/// The last word, while it is news.
fn lately_said(zone: &ZoneView) -> Option<String> {
    let word = zone.last_word.as_ref()?;
    let lately = word.seconds_ago < REFUSED_LATELY_SECONDS;
    let reason = &word.reason;
    lately.then(|| match word.side.as_deref() {
        Some("peer") => format!("it refuses this gateway: {reason}"),
        Some(_) => format!("this gateway refuses it: {reason}"),
        None => format!("nobody was reached: {reason}"),
    })
}

/// The word of a gateway that takes no tunnels for a while, which it does not log for each peer.
fn said_busy(zone: &ZoneView) -> bool {
    zone.last_word.as_ref().is_some_and(|word| word.reason == "busy")
}

/// Nobody has answered, for whatever reason.
fn said_timeout(zone: &ZoneView) -> bool {
    zone.last_word
        .as_ref()
        .is_some_and(|word| word.reason == "timeout")
}

/// One of the two was there and refused the other.
fn refused(zone: &ZoneView) -> bool {
    lately_said(zone).is_some() && zone.last_word.as_ref().is_some_and(|word| word.side.is_some())
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
                "suspect exports are used as before while the tunnel to their gateway answers",
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

/// Warns of what one of the two refused within the last minute; refusals repeat for as long as their cause is there.
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

/// Zones without a tunnel whose last word was that one of the two is revoked: nothing of what they serve is known any more.
#[derive(Debug, Default)]
struct RevokedZones<'a> {
    /// They are.
    these: Vec<&'a str>,
    /// They say that this one is.
    say_so: Vec<&'a str>,
}

impl<'a> RevokedZones<'a> {
    fn of(zones: &'a [ZoneView]) -> Self {
        let mut revoked = Self::default();
        for zone in zones.iter().filter(|zone| zone.state == "down") {
            let word = zone.last_word.as_ref().filter(|word| word.reason == "revoked");
            match word.map(|word| word.side.as_deref()) {
                Some(Some("peer")) => revoked.say_so.push(&zone.name),
                Some(_) => revoked.these.push(&zone.name),
                None => {}
            }
        }
        revoked
    }
}

fn service_home(service: &ServiceView, revoked: &RevokedZones<'_>) -> Check {
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
        (0, 0, 0) if !revoked.say_so.is_empty() => Check::fail(
            group,
            name,
            format!(
                "no instance in any zone that lets this gateway in: it is revoked, say {}",
                revoked.say_so.join(", ")
            ),
            "let its zone in again with `causeway revoke zone NAME --readmit` at one of those, and join anew here",
        ),
        (0, 0, 0) if !revoked.these.is_empty() => Check::fail(
            group,
            name,
            format!(
                "no instance in any zone that is believed; revoked: {}",
                revoked.these.join(", ")
            ),
            "`causeway revoke zone NAME --readmit` lets a zone in again; else register instances elsewhere",
        ),
        // Nothing was lost: nobody has put an instance in, or all were taken out.
        (0, 0, 0) if service.zones.is_empty() => Check::warn(
            group,
            name,
            "no instance anywhere",
            "register one with `causeway register`",
        ),
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

/// Warns of what comes after the others because it fails.
fn service_ejected(service: &ServiceView) -> Option<Check> {
    /// More than so many say nothing more.
    const TOLD: usize = 3;
    let told: Vec<String> = service
        .ejected
        .iter()
        .take(TOLD)
        .map(ToString::to_string)
        .collect();
    let more = match service.ejected.len().saturating_sub(TOLD) {
        0 if told.is_empty() => return None,
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let hint = "what is ejected is asked after the others: look at its log; `causeway get instances -o wide` in its zone shows which number is which instance";
    let message = format!("ejected: {}{more}", told.join("; "));
    Some(Check::warn(
        "services",
        format!("{} ejected", service.name),
        message,
        hint,
    ))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{LastWordView, LinkView, ZoneView};

    fn zone(name: &str, state: &str, last_word: Option<&str>) -> ZoneView {
        ZoneView {
            name: name.to_owned(),
            own: false,
            state: state.to_owned(),
            tags: Default::default(),
            gateways: vec![vec!["10.0.0.1:7800".to_owned()]],
            links: Vec::new(),
            drain: None,
            last_word: last_word.map(|reason| LastWordView {
                side: None,
                reason: reason.to_owned(),
                seconds_ago: 1.0,
            }),
        }
    }

    #[test]
    fn a_dial_that_times_out_names_packets_that_do_not_pass_as_a_possibility() {
        let told = |word| zone_link(&zone("west", "down", Some(word))).hint.unwrap();
        assert!(told("timeout").contains("1,228 bytes"));
        assert!(!told("undiallable").contains("1,228 bytes"));
    }

    #[test]
    fn a_service_that_only_a_revoked_zone_served_names_that_zone() {
        let zones = [
            zone("east", "down", Some("timeout")),
            zone("north", "up", Some("revoked")),
            zone("west", "down", Some("revoked")),
        ];
        let service = serde_json::json!({
            "name": "orders", "port": 80, "protocol": "tcp", "vips": [], "local": {"instances": 0, "healthy": 0},
            "zones": [], "split": [], "failover": [], "export_to": null,
            "health": null, "early": false,
        });
        let service: ServiceView = serde_json::from_value(service).unwrap();
        let process = ProcessReading::default();
        let checks = diagnose(&zones, std::slice::from_ref(&service), &process);
        let told = checks.iter().find(|check| check.group == "services").unwrap();
        assert!(told.message.ends_with("revoked: west"), "{told:?}");
        let mut refusing = zones;
        refusing[2].last_word.as_mut().unwrap().side = Some("peer".to_owned());
        let told = service_home(&service, &RevokedZones::of(&refusing));
        assert!(told.message.ends_with("it is revoked, say west"), "{told:?}");
        let told = service_home(&service, &RevokedZones::default());
        assert_eq!(told.message, "no instance anywhere");
    }

    #[test]
    fn what_is_ejected_is_told_with_its_reason() {
        let ejected = |part: &str, instance: Option<&str>| {
            serde_json::json!({
                "part": part, "zone": "west", "instance": instance, "tags": {}, "seconds_ago": 3.2, "back_in_seconds": 26.8,
                "reason": "5 failures in a row (5 no answer in time)", "times": 1,
            })
        };
        let service = |ejected: Vec<serde_json::Value>| -> ServiceView {
            let service = serde_json::json!({
                "name": "orders", "port": 80, "protocol": "http", "vips": [], "local": {"instances": 1, "healthy": 1},
                "zones": [], "split": [], "failover": [], "export_to": null,
                "health": null, "early": false, "ejected": ejected,
            });
            serde_json::from_value(service).unwrap()
        };
        assert_eq!(service_ejected(&service(Vec::new())), None);
        let told = service_ejected(&service(vec![
            ejected("zone", None),
            ejected("instance", Some("#0a")),
        ]));
        assert_eq!(
            told.unwrap().message,
            "ejected: zone west: 5 failures in a row (5 no answer in time), 3s ago, back in 27s; \
             instance #0a of zone west: 5 failures in a row (5 no answer in time), 3s ago, back in 27s"
        );
        let told = service_ejected(&service(vec![ejected("zone", None); 5])).unwrap();
        assert!(told.message.ends_with("; and 2 more"), "{told:?}");
    }

    #[test]
    fn asks_without_an_answer_over_tunnels_that_are_up_are_told() {
        let zone = |unanswered| ZoneView {
            drain: None,
            name: "west".to_owned(),
            own: false,
            state: "up".to_owned(),
            tags: Default::default(),
            gateways: Vec::new(),
            links: vec![LinkView {
                tunnels: 2,
                unanswered,
                ..LinkView::default()
            }],
            last_word: None,
        };
        assert_eq!(zone_link(&zone(0)).message, "2 up");
        let told = zone_link(&zone(3));
        assert!(told.message.contains("the latest 3 connections"), "{told:?}");
        assert!(told.hint.is_some());
    }
}
