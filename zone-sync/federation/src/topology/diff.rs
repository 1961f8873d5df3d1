//! Changes between two topologies, in words an operator reads.
//!
//! It compares what the files mean, not how they are written: comments, order and spelled-out defaults do not count.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde_json::{Value, json};

use super::{
    edit::drain_in_words,
    model::{
        ConnectionPolicy, DnsQuestion, GatewayAddresses, Service, SplitArm, Tier, TierTag, TierZone,
        Topology, Vips, Zone,
    },
    policy_words, ports, routes_in_words, shift_words,
};
use crate::{name::ZoneName, trust::CertificateHash};

/// Digits of a certificate's hash that tell it from every other.
const SHOWN_DIGITS: usize = 16;

/// The changes, in the order of the file: the federation, then its zones, then its services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    pub changes: Vec<TopologyChange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Removed,
    Changed,
}

/// One change. `before` and `after` are how a person would write the value; empty where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopologyChange {
    pub kind: ChangeKind,
    /// Subject of the change: `service orders: split`.
    pub subject: String,
    pub before: String,
    pub after: String,
}

impl Diff {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// `{ changes: [{ kind, subject, before, after }] }`; `before` and `after` are null where there is none.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let optional = |text: &String| (!text.is_empty()).then(|| text.clone());
        let changes = self.changes.iter().map(|change| {
            json!({
                "kind": change.kind.as_str(),
                "subject": change.subject,
                "before": optional(&change.before),
                "after": optional(&change.after),
            })
        });
        json!({ "changes": changes.collect::<Vec<_>>() })
    }

    fn push(&mut self, kind: ChangeKind, subject: String, before: String, after: String) {
        self.changes.push(TopologyChange {
            kind,
            subject,
            before,
            after,
        });
    }

    /// Notes a value that is not what it was.
    pub(super) fn compare(&mut self, subject: &str, before: String, after: String) {
        if before != after {
            self.push(ChangeKind::Changed, subject.to_owned(), before, after);
        }
    }

    /// Notes items that are gone and items that are new.
    fn compare_sets(&mut self, subject: &str, before: BTreeSet<String>, after: BTreeSet<String>) {
        for gone in before.difference(&after) {
            self.push(
                ChangeKind::Removed,
                subject.to_owned(),
                gone.clone(),
                String::new(),
            );
        }
        for new in after.difference(&before) {
            self.push(ChangeKind::Added, subject.to_owned(), String::new(), new.clone());
        }
    }
}

impl ChangeKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Added => "added",
            ChangeKind::Removed => "removed",
            ChangeKind::Changed => "changed",
        }
    }
}

/// `+ service web`, `- zone east: gateway gw:7800`, `~ service orders: port 80 -> 8080`.
impl fmt::Display for TopologyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.subject;
        match self.kind {
            ChangeKind::Added if self.after.is_empty() => write!(f, "+ {subject}"),
            ChangeKind::Added => write!(f, "+ {subject}: {}", self.after),
            ChangeKind::Removed if self.before.is_empty() => write!(f, "- {subject}"),
            ChangeKind::Removed => write!(f, "- {subject}: {}", self.before),
            ChangeKind::Changed => write!(f, "~ {subject}: {} -> {}", self.before, self.after),
        }
    }
}

/// Works out what `after` changes with regard to `before`.
#[must_use]
pub fn diff(before: &Topology, after: &Topology) -> Diff {
    let mut diff = Diff::default();
    diff.compare(
        "trust domain",
        before.trust_domain.clone(),
        after.trust_domain.clone(),
    );
    bundles(&mut diff, before, after);
    diff.compare("dns: domain", before.dns.domain.clone(), after.dns.domain.clone());
    diff.compare("dns: ttl", duration(before.dns.ttl), duration(after.dns.ttl));
    let required = |topology: &Topology| topology.tls.require_post_quantum.to_string();
    diff.compare("tls: require_post_quantum", required(before), required(after));
    diff.compare(
        "apply_from",
        zones(before.apply_from.as_ref()),
        zones(after.apply_from.as_ref()),
    );
    let default = |topology: &Topology| topology.permissions.default.as_str().to_owned();
    diff.compare("permissions: default", default(before), default(after));
    let dry_run = |topology: &Topology| topology.permissions.dry_run.to_string();
    diff.compare("permissions: dry_run", dry_run(before), dry_run(after));
    let promises = |topology: &Topology| topology.promises.iter().map(ToString::to_string).collect();
    diff.compare_sets("promise", promises(before), promises(after));
    let names: BTreeSet<_> = before.zones.keys().chain(after.zones.keys()).collect();
    for name in names {
        let subject = format!("zone {name}");
        match (before.zones.get(name), after.zones.get(name)) {
            (Some(before), Some(after)) => zone(&mut diff, &subject, before, after),
            (before, _) => whole(&mut diff, subject, before.is_some()),
        }
    }
    let names: BTreeSet<_> = before.services.keys().chain(after.services.keys()).collect();
    for name in names {
        let subject = format!("service {name}");
        match (before.services.get(name), after.services.get(name)) {
            (Some(before), Some(after)) => service(&mut diff, &subject, before, after),
            (before, _) => whole(&mut diff, subject, before.is_some()),
        }
    }
    diff
}

/// Compares which roots are believed for which trust domain, by the first digits of their hashes.
fn bundles(diff: &mut Diff, before: &Topology, after: &Topology) {
    let names = before.trust_domains.keys().chain(after.trust_domains.keys());
    for name in names.collect::<BTreeSet<_>>() {
        let roots = |topology: &Topology| -> BTreeSet<String> {
            let bundle = topology.trust_domains.get(name);
            let roots = bundle.into_iter().flat_map(|bundle| bundle.roots());
            let short = |hash: &CertificateHash| hash.to_string().chars().take(SHOWN_DIGITS).collect();
            roots.map(|(hash, _)| short(hash)).collect()
        };
        diff.compare_sets(&format!("trust domain {name}: root"), roots(before), roots(after));
    }
}

fn whole(diff: &mut Diff, subject: String, was_there: bool) {
    let kind = if was_there {
        ChangeKind::Removed
    } else {
        ChangeKind::Added
    };
    diff.push(kind, subject, String::new(), String::new());
}

fn zone(diff: &mut Diff, subject: &str, before: &Zone, after: &Zone) {
    diff.compare(
        &format!("{subject}: trust domain"),
        before.trust_domain.clone(),
        after.trust_domain.clone(),
    );
    diff.compare(
        &format!("{subject}: tags"),
        before.tags.to_string(),
        after.tags.to_string(),
    );
    let gateways = |zone: &Zone| zone.gateways.iter().map(gateway).collect();
    diff.compare_sets(&format!("{subject}: gateway"), gateways(before), gateways(after));
    let instances = |zone: &Zone| -> BTreeSet<String> {
        let instances = zone.instances.iter();
        instances
            .map(|instance| {
                let tags = instance.tags.to_string();
                let capacity = instance.capacity_per_second;
                let capacity = capacity
                    .map(|rate| format!(" capacity {rate}/s"))
                    .unwrap_or_default();
                let (service, address, weight) = (&instance.service, instance.address, instance.weight);
                format!("{service} at {address} {tags} weight {weight}{capacity}")
            })
            .collect()
    };
    diff.compare_sets(
        &format!("{subject}: instance"),
        instances(before),
        instances(after),
    );
    let sources = |zone: &Zone| -> BTreeSet<String> {
        let sources = zone.dns_sources.iter();
        sources
            .map(|source| {
                let weight = match source.question {
                    DnsQuestion::Srv { weighted: true, .. } => "weight from SRV".to_owned(),
                    _ => format!("weight {}", source.weight),
                };
                format!(
                    "{} from {} {} {weight}",
                    source.service, source.question, source.tags
                )
            })
            .collect()
    };
    diff.compare_sets(&format!("{subject}: DNS source"), sources(before), sources(after));
    diff.compare(&format!("{subject}: vips"), vips(&before.vips), vips(&after.vips));
    diff.compare(
        &format!("{subject}: loopback_instances"),
        before.loopback_instances.to_string(),
        after.loopback_instances.to_string(),
    );
    diff.compare(
        &format!("{subject}: drain"),
        drain_in_words(before),
        drain_in_words(after),
    );
}

fn gateway(gateway: &GatewayAddresses) -> String {
    gateway.addresses.join(" or ")
}

fn vips(vips: &Vips) -> String {
    match vips {
        Vips::Loopback { range } => format!("loopback {range}"),
        Vips::Routed { ranges } => {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            format!("routed {}", ranges.join(", "))
        }
        Vips::Address { address } => format!("address {address}"),
    }
}

fn service(diff: &mut Diff, subject: &str, before: &Service, after: &Service) {
    for (key, before, after) in ports::in_words(&before.ports, &after.ports) {
        diff.compare(&format!("{subject}: {key}"), before, after);
    }
    let health = |service: &Service| policy_words::health(service.health.as_ref());
    diff.compare(&format!("{subject}: health"), health(before), health(after));
    shift_words::compare(diff, subject, before, after);
    let mut compare = |key: &str, text: &dyn Fn(&Service) -> String| {
        diff.compare(&format!("{subject}: {key}"), text(before), text(after));
    };
    compare("failover", &|service| {
        let tiers: Vec<String> = service.failover.iter().map(tier).collect();
        tiers.join(", then ")
    });
    compare("export_to", &|service| zones(service.export_to.as_ref()));
    compare("run_in", &|service| zones(service.run_in.as_ref()));
    compare("allow", &allow);
    compare("deny", &|service| listed(&service.deny));
    compare("forwarded", &|service| service.forwarded.word().to_owned());
    compare("early", &|service| service.early.to_string());
    compare("idle_timeout", &|service| {
        service.idle_timeout.map_or_else(|| "none".to_owned(), duration)
    });
    compare("connections", &|service| connections(&service.connections));
    compare("spill", &|service| policy_words::spill(service.spill.as_ref()));
    compare("failback", &|service| {
        policy_words::failback(service.failback.as_ref())
    });
    compare("slow_start", &|service| {
        service.slow_start.map_or_else(|| "none".to_owned(), duration)
    });
    compare("panic", &|service| service.panic.to_string());
    compare("criticality", &|service| service.criticality.word().to_owned());
    compare("criticality_from", &|service| listed(&service.criticality_from));
    compare("timeout", &|service| {
        service.timeout.map_or_else(|| "none".to_owned(), duration)
    });
    compare("retry", &|service| policy_words::retry(service.retry.as_deref()));
    compare("outlier", &|service| {
        policy_words::outlier(service.outlier.as_ref())
    });
    compare("sticky", &|service| told(service.sticky.as_deref()));
    compare("limits", &|service| policy_words::limits(&service.limits));
    routes(diff, subject, before, after);
}

/// Tells of routes one by one, and of their order if that alone has changed.
fn routes(diff: &mut Diff, subject: &str, before: &Service, after: &Service) {
    let (subject, before, after) = (
        format!("{subject}: route"),
        routes_in_words::all(before),
        routes_in_words::all(after),
    );
    let sets = |routes: &[String]| routes.iter().cloned().collect::<BTreeSet<_>>();
    let count = diff.changes.len();
    diff.compare_sets(&subject, sets(&before), sets(&after));
    if diff.changes.len() == count {
        diff.compare(&format!("{subject}s"), before.join("; "), after.join("; "));
    }
}

/// `linger 30s, max_age none`.
fn connections(policy: &ConnectionPolicy) -> String {
    let time = |time: Option<Duration>| time.map_or_else(|| "none".to_owned(), duration);
    format!("linger {}, max_age {}", time(policy.linger), time(policy.max_age))
}

fn allow(service: &Service) -> String {
    match &service.allow {
        None => "the default".to_owned(),
        Some(callers) => listed(callers),
    }
}

fn listed(callers: &[impl ToString]) -> String {
    let callers: Vec<String> = callers.iter().map(ToString::to_string).collect();
    match callers.is_empty() {
        true => "nobody".to_owned(),
        false => callers.join(", "),
    }
}

fn zones(zones: Option<&BTreeSet<ZoneName>>) -> String {
    let Some(zones) = zones else {
        return "every zone".to_owned();
    };
    let zones: Vec<&str> = zones.iter().map(ZoneName::as_str).collect();
    match zones.is_empty() {
        true => "no zone".to_owned(),
        false => zones.join(", "),
    }
}

/// `95 of 100 to {version=v1}, 5 of 100 to {version=v2}`; `all` for the split that takes any instance.
pub(super) fn split(arms: &[SplitArm]) -> String {
    let total: u64 = arms.iter().map(|arm| u64::from(arm.weight)).sum();
    match arms {
        [only] if only.tags.is_empty() => "any instance".to_owned(),
        [only] => format!("all to {}", only.tags),
        arms => {
            let arms = arms
                .iter()
                .map(|arm| format!("{} of {total} to {}", arm.weight, arm.tags));
            arms.collect::<Vec<_>>().join(", ")
        }
    }
}

fn tier(tier: &Tier) -> String {
    let zone = match &tier.zone {
        Some(TierZone::Own) => "own zone".to_owned(),
        Some(TierZone::Named(zone)) => format!("zone {zone}"),
        None if tier.tags.is_empty() => "any zone".to_owned(),
        None => "zones".to_owned(),
    };
    let tags = tier.tags.iter().map(|(key, tag)| match tag {
        TierTag::Own => format!("{key}=self"),
        TierTag::Is(value) => format!("{key}={value}"),
    });
    let tags: Vec<String> = tags.collect();
    if tags.is_empty() {
        zone
    } else {
        format!("{zone} with {}", tags.join(","))
    }
}

pub(super) fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn told<T: fmt::Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "none".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const OLD: &str = "
version: 1
trust_domain: acme.internal
zones:
  east: { gateways: [gw.east:7800], instances: [{ service: orders, address: '10.0.0.1:80', tags: { version: v1 } }] }
  west: { gateways: [gw.west:7800] }
services:
  orders: { port: 8080, split: [{ tags: { version: v1 }, weight: 95 }, { tags: { version: v2 }, weight: 5 }] }
  ledger: { port: 5432 }
";

    fn changes(after: &str) -> Vec<String> {
        let before = parse(OLD, "old").unwrap().topology;
        let after = parse(after, "new").unwrap().topology;
        diff(&before, &after)
            .changes
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn comments_order_and_spelled_out_defaults_are_no_change() {
        let respelled = OLD.replace(
            "port: 5432",
            "port: 5432, protocol: tcp, failover: [{ zone: self }, {}]",
        );
        assert_eq!(
            changes(&format!("# A comment.\n{respelled}")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn changes_are_told_in_words() {
        let after = OLD
            .replace("zones:\n", "tls: { require_post_quantum: true }\nzones:\n")
            .replace("weight: 95", "weight: 50")
            .replace("weight: 5 }", "weight: 50 }")
            .replace("gw.west:7800", "gw1.west:7800, gw2.west:7800")
            .replace(
                "  ledger: { port: 5432 }",
                "  web: { port: 80, export_to: [east] }",
            )
            .replace("10.0.0.1:80", "10.0.0.2:80");
        let expected = [
            "~ tls: require_post_quantum: false -> true",
            "- zone east: instance: orders at 10.0.0.1:80 {version=v1} weight 1",
            "+ zone east: instance: orders at 10.0.0.2:80 {version=v1} weight 1",
            "- zone west: gateway: gw.west:7800",
            "+ zone west: gateway: gw1.west:7800",
            "+ zone west: gateway: gw2.west:7800",
            "- service ledger",
            "~ service orders: split: 95 of 100 to {version=v1}, 5 of 100 to {version=v2} -> \
             50 of 100 to {version=v1}, 50 of 100 to {version=v2}",
            "+ service web",
        ];
        assert_eq!(changes(&after), expected);
    }

    #[test]
    fn who_may_call_is_told_entry_by_entry() {
        let after = OLD
            .replace("zones:\n", "permissions: { default: deny, dry_run: true }\nzones:\n")
            .replace(
                "port: 5432",
                "port: 5432, run_in: [west], allow: [orders, { service: orders, tags: { version: v1 } }], deny: ['*@east']",
            );
        let expected = [
            "~ permissions: default: allow -> deny",
            "~ permissions: dry_run: false -> true",
            "~ service ledger: run_in: every zone -> west",
            "~ service ledger: allow: the default -> orders, orders{version=v1}",
            "~ service ledger: deny: nobody -> *@east",
        ];
        assert_eq!(changes(&after), expected);
    }
}
