//! Reading one service: its ports and protocol, split, failover, export and callers.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use super::{
    super::{
        diagnostic::{Diagnostic, Sink},
        fields::{Fields, Listed, MapKind, Spanned, items},
        model::{Criticality, ForwardedFields, Protocol, RouteLimits, SplitArm, TierTag, TierZone},
        raw::{Policies, Service, Tier},
        scalar::{self, OWN},
        tree::{MapEntry, Node, Value},
    },
    MAX_ZONES, caller, policy, ports, retry, route, shift, sticky,
    tags::{pairs, tags},
    zone::weight,
};
use crate::name::ServiceName;

pub(super) const MAX_ARMS: usize = 32;
const MAX_TIERS: usize = 32;
const MAX_ROUTES: usize = 128;
const DEFAULT_WEIGHT: u32 = 1;
const MAX_CLASS_BYTES: usize = 63;
/// Shorter ones end connections that merely wait for an answer.
const IDLE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);

pub(super) const SERVICE: MapKind = MapKind {
    what: "a service",
    keys: &[
        "class",
        "port",
        "ports",
        "protocol",
        "health",
        "split",
        "shift",
        "failover",
        "spill",
        "failback",
        "panic",
        "slow_start",
        "criticality",
        "criticality_from",
        "export_to",
        "run_in",
        "allow",
        "deny",
        "timeout",
        "retry",
        "outlier",
        "limits",
        "forwarded",
        "sticky",
        "early",
        "idle_timeout",
        "connections",
        "routes",
    ],
    meant: &[
        (
            "instances",
            "instances stand in their zone: `zones: { east: { instances: [...] } }`",
        ),
        ("exports", "write `export_to: [zone]`"),
        ("tiers", "write `failover: [...]`"),
        (
            "zones",
            "write `run_in: [zone]` for where it may run, `export_to: [zone]` for who may call it",
        ),
        ("callers", "write `allow: [web]`, `deny: [batch]`"),
        ("permissions", "write `allow: [web]`, `deny: [batch]`"),
    ],
};
pub(super) const ARM: MapKind = MapKind {
    what: "an arm of a split",
    keys: &["tags", "weight"],
    meant: &[("zone", "a split picks tags; `failover` picks zones")],
};
pub(super) const TIER: MapKind = MapKind {
    what: "a tier",
    keys: &["zone", "tags"],
    meant: &[("zones", "a tier names one zone, or the `tags` of several")],
};

/// Keys that say nothing of a service whose requests are not looked at.
pub(super) const OF_REQUESTS: [&str; 5] = ["timeout", "retry", "outlier", "forwarded", "criticality_from"];

const PROTOCOLS: [(&str, Protocol); 4] = [
    ("tcp", Protocol::Tcp),
    ("http", Protocol::Http),
    ("grpc", Protocol::Grpc),
    ("tls", Protocol::Tls),
];
/// Known, so that it can be said that it is not in force; offered to nobody.
const LATER_PROTOCOLS: [(&str, Protocol); 1] = [("udp", Protocol::Udp)];

pub(super) fn service(entry: &MapEntry, sink: &Sink) -> Option<Service> {
    let name = scalar::checked_name(&entry.key, &entry.key_span, "a service's name", sink);
    let fields = Fields::open(&entry.value, &entry.key_span, &SERVICE, sink);
    let mut service = empty(Spanned {
        value: name?,
        span: entry.key_span.clone(),
    });
    let Some(fields) = fields else {
        return Some(service);
    };
    fields.optional("class", class);
    let protocol = read_keys(&mut service, &fields);
    ports::ports(&mut service, &fields, protocol);
    Some(service)
}

/// Word by which `defaults` know a service.
pub(super) fn class(node: &Node, sink: &Sink) -> Option<String> {
    let how = "use up to 63 of a-z, 0-9 and `-`";
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    scalar::token(node, "a class of services", how, MAX_CLASS_BYTES, allowed, sink)
}

/// Reads the keys of an entry of `defaults`, to say at once what is wrong with them.
pub(super) fn read_defaults(node: &Node, sink: &Sink) {
    let quiet = Sink::default();
    if let Some(fields) = Fields::open(node, &node.span, &SERVICE, &quiet) {
        let fields = fields.reporting_to(sink);
        let name = ServiceName::new("defaults").map(|value| Spanned {
            value,
            span: node.span.clone(),
        });
        if let Ok(name) = name {
            read_keys(&mut empty(name), &fields);
        }
    }
}

/// Returns the protocol of ports that say none; `None`: it could not be read.
fn read_keys(service: &mut Service, fields: &Fields<'_>) -> Option<Spanned<Protocol>> {
    let spoken = match fields.has("protocol") {
        true => fields.optional("protocol", protocol),
        false => Some(Spanned {
            value: Protocol::Tcp,
            span: service.name.span.clone(),
        }),
    };
    service.health = fields.optional("health", policy::health);
    service.split = fields.optional("split", split);
    service.shift = fields.optional("shift", shift::shift);
    service.failover = fields.optional("failover", failover);
    service.export_to = fields.optional("export_to", |node, sink| {
        items(node, "`export_to`", MAX_ZONES, sink, scalar::zone_name)
    });
    service.run_in = fields.optional("run_in", |node, sink| {
        items(node, "`run_in`", MAX_ZONES, sink, scalar::zone_name)
    });
    service.allow = fields.optional("allow", |node, sink| caller::callers(node, "`allow`", sink));
    service.deny = fields.optional("deny", |node, sink| caller::callers(node, "`deny`", sink));
    service.forwarded = fields.optional("forwarded", forwarded);
    service.criticality = fields.optional("criticality", criticality);
    service.criticality_from = fields.optional("criticality_from", |node, sink| {
        caller::named_callers(node, "`criticality_from`", sink)
    });
    service.early = fields.optional("early", scalar::truth).unwrap_or(false);
    service.idle_timeout = fields.optional("idle_timeout", idle_timeout);
    service.connections = fields.optional("connections", policy::connections);
    let routes = |node, sink| items(node, "`routes`", MAX_ROUTES, sink, route::route);
    service.routes = fields
        .optional("routes", routes)
        .map(|routes| routes.items)
        .unwrap_or_default();
    let limits = fields.optional("limits", policy::limits).unwrap_or_default();
    service.policies = policies(fields, limits.0);
    service.of_requests = given(fields, &OF_REQUESTS);
    service.of_requests.extend(limits.1);
    service.early_at = fields.key_span("early").filter(|_| service.early);
    spoken
}

const FORWARDED: [(&str, ForwardedFields); 3] = [
    ("append", ForwardedFields::Append),
    ("replace", ForwardedFields::Replace),
    ("off", ForwardedFields::Off),
];

fn idle_timeout(node: &Node, sink: &Sink) -> Option<Duration> {
    scalar::duration(node, "an idle timeout", IDLE_TIMEOUTS, sink).map(|time| time.value)
}

fn empty(name: Spanned<ServiceName>) -> Service {
    Service {
        name,
        ports: Vec::new(),
        has_all_ports: true,
        health: None,
        split: None,
        shift: None,
        failover: None,
        export_to: None,
        run_in: None,
        allow: None,
        deny: None,
        forwarded: None,
        criticality: None,
        criticality_from: None,
        early: false,
        early_at: None,
        idle_timeout: None,
        connections: None,
        routes: Vec::new(),
        policies: Policies::default(),
        of_requests: Vec::new(),
        waiting: Vec::new(),
    }
}

fn policies(fields: &Fields<'_>, limits: RouteLimits) -> Policies {
    Policies {
        spill: at_key(fields, "spill", fields.optional("spill", policy::spill)),
        failback: fields.optional("failback", policy::failback),
        slow_start: fields.optional("slow_start", policy::slow_start),
        panic: at_key(fields, "panic", fields.optional("panic", scalar::truth)),
        timeout: fields.optional("timeout", route::timeout),
        retry: fields.optional("retry", retry::retry),
        outlier: fields.optional("outlier", policy::outlier),
        limits,
        sticky: at_key(fields, "sticky", fields.optional("sticky", sticky::sticky)),
    }
}

/// A value with the place of its key.
fn at_key<T>(fields: &Fields<'_>, key: &str, value: Option<T>) -> Option<Spanned<T>> {
    let (value, span) = value.zip(fields.key_span(key))?;
    Some(Spanned { value, span })
}

/// Those of `keys` that are given.
fn given(fields: &Fields<'_>, keys: &[&'static str]) -> Vec<Spanned<&'static str>> {
    let given = keys.iter().copied().filter_map(|key| {
        let span = fields.key_span(key)?;
        Some(Spanned { value: key, span })
    });
    given.collect()
}

fn spanned<T>(node: &Node, value: T) -> Option<Spanned<T>> {
    Some(Spanned {
        value,
        span: node.span.clone(),
    })
}

pub(super) fn protocol(node: &Node, sink: &Sink) -> Option<Spanned<Protocol>> {
    let later = word(node, "a protocol", LATER_PROTOCOLS, &Sink::default());
    later.or_else(|| word(node, "a protocol", PROTOCOLS, sink))
}

const CRITICALITIES: [(&str, Criticality); 3] = [
    ("critical", Criticality::Critical),
    ("normal", Criticality::Normal),
    ("sheddable", Criticality::Sheddable),
];

pub(super) fn criticality(node: &Node, sink: &Sink) -> Option<Criticality> {
    word(node, "a criticality", CRITICALITIES, sink).map(|read| read.value)
}

fn forwarded(node: &Node, sink: &Sink) -> Option<ForwardedFields> {
    word(node, "a way to say where a request came from", FORWARDED, sink).map(|read| read.value)
}

/// Reads one of a few words.
pub(super) fn word<T: Copy, const N: usize>(
    node: &Node,
    what: &str,
    words: [(&'static str, T); N],
    sink: &Sink,
) -> Option<Spanned<T>> {
    let read = scalar::text(node, what, sink)?;
    let known = words.iter().find(|(word, _)| *word == read.value);
    if known.is_none() {
        let words = words.map(|(word, _)| word);
        let message = format!("`{}` is not {what}", scalar::shortened(&read.value));
        let found = Diagnostic::error("unknown-word", &read.span, message)
            .hint(format!("it is one of {}", words.join(", ")))
            .did_you_mean(sink.nearest(&read.value, words));
        sink.push(found);
    }
    known.map(|(_, known)| read.map(|_| *known))
}

pub(super) fn split(node: &Node, sink: &Sink) -> Option<Listed<Spanned<SplitArm>>> {
    let arms = items(node, "`split`", MAX_ARMS, sink, arm)?;
    report_empty(node, "`split`", "leave it out to take any instance", sink);
    Some(arms)
}

fn arm(node: &Node, sink: &Sink) -> Option<Spanned<SplitArm>> {
    let fields = Fields::open(node, &node.span, &ARM, sink)?;
    let weight = match fields.has("weight") {
        true => fields.optional("weight", weight)?,
        false => DEFAULT_WEIGHT,
    };
    let tags = fields.optional("tags", tags).unwrap_or_default();
    spanned(node, SplitArm { tags, weight })
}

fn failover(node: &Node, sink: &Sink) -> Option<Vec<Spanned<Tier>>> {
    let tiers = items(node, "`failover`", MAX_TIERS, sink, tier)?;
    report_empty(
        node,
        "`failover`",
        "leave it out for the caller's own zone and then any zone",
        sink,
    );
    Some(tiers.items)
}

pub(super) fn report_empty(node: &Node, what: &str, hint: &str, sink: &Sink) {
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        let message = format!("{what} is empty");
        sink.push(Diagnostic::error("empty-list", &node.span, message).hint(hint));
    }
}

fn tier(node: &Node, sink: &Sink) -> Option<Spanned<Tier>> {
    let fields = Fields::open(node, &node.span, &TIER, sink)?;
    let zone = match fields.has("zone") {
        true => Some(fields.optional("zone", tier_zone)?),
        false => None,
    };
    let tags = match fields.has("tags") {
        true => fields.optional("tags", tier_tags)?,
        false => BTreeMap::new(),
    };
    let zone_span = zone.as_ref().map_or(node.span.clone(), |zone| zone.span.clone());
    spanned(
        node,
        Tier {
            zone: zone.map(|zone| zone.value),
            zone_span,
            tags,
        },
    )
}

fn tier_zone(node: &Node, sink: &Sink) -> Option<Spanned<TierZone>> {
    if matches!(&node.value, Value::Text { text, .. } if text == OWN) {
        return spanned(node, TierZone::Own);
    }
    scalar::zone_name(node, sink).map(|name| name.map(TierZone::Named))
}

fn tier_tags(node: &Node, sink: &Sink) -> Option<BTreeMap<String, TierTag>> {
    let pairs = pairs(node, sink)?.into_iter().map(|(key, value, _)| {
        let tag = if value == OWN {
            TierTag::Own
        } else {
            TierTag::Is(value)
        };
        (key, tag)
    });
    Some(pairs.collect())
}
