//! The tree to the raw file: every key of the format, its type and its own limits.
//!
//! What depends on another part of the file (does this zone exist?) is left to `check`.
//!
//! Adding a key: name it in its [`MapKind`] here, read it, give it a field in `raw` and `model`, carry it over in
//! `resolve`, list it in `topology.schema.json` (a test compares the two; `causeway schema` prints it), tell of its change in
//! `diff`, which nothing else reminds of, add it to `EVERY_KEY` in tests/topology.rs and to docs/topology.md, and, until it has an
//! effect, to `waiting` of the raw file, which that test counts and README.md names. Its own limits are read here, in the same
//! words as in the schema and the page; a value beyond them goes into tests/invalid/values.yaml.
//! `BLESS=1 INSTA_UPDATE=always cargo test --workspace --test topology` writes messages and model anew: read the difference.
//! `causeway get` shows it once gateway/api/src/admin/view/ does.

mod caller;
mod defaults;
mod policy;
mod ports;
mod promise;
mod retry;
mod route;
mod service;
mod shift;
mod source;
mod sticky;
mod tags;
mod trust_domain;
mod zone;

pub(super) use tags::is_tag;

pub(super) use defaults::{DefaultKeys, defaults, merged};

use std::time::Duration;

use super::{
    diagnostic::{Diagnostic, Sink, Span},
    fields::{Fields, Listed, MapKind, Spanned, check_limit, items, map},
    model::{Dns, Tls},
    permissions::Permissions,
    raw::File,
    scalar,
    tree::Node,
};
use crate::name::ZoneName;

/// The format's only version.
const VERSION: u32 = 1;
pub(super) const MAX_ZONES: usize = 1024;
pub(super) const MAX_SERVICES: usize = 10_000;
const DEFAULT_DOMAIN: &str = "mesh";
const DEFAULT_TTL: Duration = Duration::from_secs(5);
const TTL_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

const FILE: MapKind = MapKind {
    what: "a topology",
    keys: &[
        "version",
        "trust_domain",
        "trust_domains",
        "dns",
        "tls",
        "apply_from",
        "permissions",
        "promises",
        "zones",
        "defaults",
        "services",
    ],
    meant: &[],
};
const DNS: MapKind = MapKind {
    what: "`dns`",
    keys: &["domain", "ttl"],
    meant: &[],
};

const TLS: MapKind = MapKind {
    what: "`tls`",
    keys: &["require_post_quantum"],
    meant: &[],
};

/// Every kind of map in the file, for the test that compares them with the schema.
#[cfg(test)]
pub(super) const KINDS: &[(&str, &MapKind)] = &[
    ("", &FILE),
    ("dns", &DNS),
    ("permissions", &caller::PERMISSIONS),
    ("caller", &caller::CALLER),
    ("route_caller", &caller::ROUTE_CALLER),
    ("promise", &promise::PROMISE),
    ("tls", &TLS),
    ("trust_domain", &trust_domain::TRUST_DOMAIN),
    ("zone", &zone::ZONE),
    ("gateway", &zone::GATEWAY),
    ("drain", &zone::DRAIN),
    ("vips", &zone::VIPS),
    ("sources", &source::SOURCES),
    ("dns_source", &source::DNS_SOURCE),
    ("instance", &zone::INSTANCE),
    ("service", &service::SERVICE),
    ("port", &ports::PORT),
    ("defaults_entry", &defaults::DEFAULTS),
    ("health", &policy::HEALTH),
    ("arm", &service::ARM),
    ("tier", &service::TIER),
    ("shift", &shift::SHIFT),
    ("spill", &policy::SPILL),
    ("failback", &policy::FAILBACK),
    ("retry", &retry::RETRY),
    ("outlier", &policy::OUTLIER),
    ("limits", &policy::LIMITS),
    ("connections", &policy::CONNECTIONS),
    ("sticky", &sticky::STICKY),
    ("route", &route::ROUTE),
    ("match", &route::MATCH),
    ("grpc_match", &route::GRPC),
    ("rewrite", &route::REWRITE),
    ("header_changes", &route::CHANGES),
    ("redirect", &route::REDIRECT),
    ("answer", &route::ANSWER),
    ("mirror", &route::MIRROR),
];

/// A file of a watched folder: instances, written as in a topology.
const INSTANCE_FILE: MapKind = MapKind {
    what: "a file of instances",
    keys: &["instances"],
    meant: &[
        ("services", "services are declared in the topology"),
        ("zones", "the instances are those of the gateway's own zone"),
    ],
};

/// Reads what can be read of a file of instances.
pub(super) fn instance_file(root: &Node, sink: &Sink) -> Option<Vec<super::raw::Instance>> {
    let start = root.span.start..root.span.start;
    let fields = Fields::open(root, &start, &INSTANCE_FILE, sink)?;
    fields.required("instances", zone::instances)
}

/// Reads what can be read of the file; `None` when it is not even a map.
pub(super) fn file(root: &Node, sink: &Sink) -> Option<File> {
    let start = root.span.start..root.span.start;
    let fields = Fields::open(root, &start, &FILE, sink)?;
    fields.required("version", version);
    let trust_domain = fields.required("trust_domain", |node, sink| {
        scalar::domain(node, "a trust domain", sink)
    });
    let given = fields
        .optional("defaults", defaults::defaults)
        .unwrap_or_default();
    Some(File {
        trust_domain,
        trust_domains: fields
            .optional("trust_domains", trust_domain::trust_domains)
            .unwrap_or_default(),
        dns: fields.optional("dns", dns).unwrap_or_else(default_dns),
        tls: fields.optional("tls", tls).unwrap_or_default(),
        apply_from: fields.optional("apply_from", apply_from),
        permissions: fields
            .optional("permissions", caller::permissions)
            .unwrap_or(Permissions::UNSET),
        promises: fields.optional("promises", promise::promises).unwrap_or_default(),
        zones: fields.required("zones", zones).unwrap_or_default(),
        services: fields
            .optional("services", |node, sink| services(node, &given, sink))
            .unwrap_or_default(),
    })
}

fn version(node: &Node, sink: &Sink) -> Option<()> {
    let read = scalar::number(node, "a version", 1..=u32::MAX, sink)?;
    if read.value != VERSION {
        let message = format!(
            "version {} of the format is not known to this program",
            read.value
        );
        let hint = format!("it reads version {VERSION}");
        sink.push(Diagnostic::error("unknown-version", &read.span, message).hint(hint));
    }
    Some(())
}

fn default_dns() -> Dns {
    Dns {
        domain: DEFAULT_DOMAIN.to_owned(),
        ttl: DEFAULT_TTL,
    }
}

fn dns(node: &Node, sink: &Sink) -> Option<Dns> {
    let fields = Fields::open(node, &node.span, &DNS, sink)?;
    let domain = fields.optional("domain", |node, sink| scalar::domain(node, "a mesh domain", sink));
    let ttl = fields.optional("ttl", |node, sink| {
        scalar::duration(node, "a time to live", TTL_RANGE, sink)
    });
    Some(Dns {
        domain: domain.map_or_else(|| DEFAULT_DOMAIN.to_owned(), |domain| domain.value),
        ttl: ttl.map_or(DEFAULT_TTL, |ttl| ttl.value),
    })
}

fn tls(node: &Node, sink: &Sink) -> Option<Tls> {
    let fields = Fields::open(node, &node.span, &TLS, sink)?;
    let required = fields.optional("require_post_quantum", scalar::truth);
    Some(Tls {
        require_post_quantum: required.unwrap_or_default(),
    })
}

/// A topology that nobody may follow could only be replaced by hand, gateway by gateway.
fn apply_from(node: &Node, sink: &Sink) -> Option<Listed<Spanned<ZoneName>>> {
    let zones = items(node, "`apply_from`", MAX_ZONES, sink, scalar::zone_name)?;
    if zones.items.is_empty() && zones.complete {
        let message = "nobody could apply another topology after this one";
        let hint = "name the zones that may, or remove the line: every zone may";
        sink.push(Diagnostic::error("nobody-applies", &zones.span, message).hint(hint));
    }
    Some(zones)
}

fn zones(node: &Node, sink: &Sink) -> Option<Vec<super::raw::Zone>> {
    let entries = map(node, &node.span, "`zones`", sink)?;
    check_limit(entries.len(), MAX_ZONES, "`zones`", &first_line(node), sink);
    if entries.is_empty() {
        let found = Diagnostic::error("no-zones", &node.span, "a federation has at least one zone");
        sink.push(found.hint("add a zone: `east: { gateways: [gw.east.acme.internal:7800] }`"));
    }
    let entries = entries.iter().take(MAX_ZONES);
    Some(entries.filter_map(|entry| zone::zone(entry, sink)).collect())
}

fn services(node: &Node, given: &[DefaultKeys<'_>], sink: &Sink) -> Option<Vec<super::raw::Service>> {
    let entries = map(node, &node.span, "`services`", sink)?;
    check_limit(entries.len(), MAX_SERVICES, "`services`", &first_line(node), sink);
    let entries = entries.iter().take(MAX_SERVICES);
    let read = |entry| service::service(&defaults::merged(entry, given).entry, sink);
    let services = entries.filter_map(read).collect();
    defaults::unused(given, sink);
    Some(services)
}

fn first_line(node: &Node) -> Span {
    node.span.start..node.span.start
}
