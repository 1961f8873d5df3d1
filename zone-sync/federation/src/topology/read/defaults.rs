//! Defaults: keys that services have unless they say otherwise, for all of them, for those of a class, or for those whose name fits.
//!
//! They are put into a service's map before it is read, each key whole and with its place in the file, so that all that reads and checks
//! services knows nothing of them.

use std::{cell::Cell, collections::BTreeSet, rc::Rc};

use super::{
    super::{
        diagnostic::{Diagnostic, Sink, Span},
        fields::{Fields, MapKind, check_limit, list},
        scalar::{self, shortened},
        tree::{MapEntry, Node, Value},
    },
    service::{self, OF_REQUESTS},
};

/// Entries of `defaults`.
const MAX_DEFAULTS: usize = 64;
const MAX_PATTERN_BYTES: usize = 64;
/// Keys that say which services an entry is for.
const SELECTORS: [&str; 2] = ["name", "class"];

pub(super) const DEFAULTS: MapKind = MapKind {
    what: "an entry of `defaults`",
    keys: &[
        "name",
        "class",
        "protocol",
        "health",
        "split",
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
    ],
    meant: &[
        ("port", "each service has a port of its own"),
        ("ports", "each service has ports of its own"),
        ("routes", "each service has routes of its own"),
        ("shift", "each service is shifted by itself"),
        (
            "services",
            "write `name: \"shop-*\"`, or `class: internal` here and in the services",
        ),
        ("tags", "services are told apart by `name` and `class`"),
    ],
};

/// One entry: keys, and the services that they are for.
pub(in super::super) struct DefaultKeys<'a> {
    /// May have `*` for any characters.
    name: Option<String>,
    class: Option<String>,
    keys: Vec<&'a MapEntry>,
    span: Span,
    is_used: Cell<bool>,
}

/// Service to be read, and the place in `defaults` of each key that it has from there.
pub(in super::super) struct MergedService {
    pub entry: MapEntry,
    pub sources: Vec<(String, usize)>,
}

pub(in super::super) fn defaults<'a>(node: &'a Node, sink: &'a Sink) -> Option<Vec<DefaultKeys<'a>>> {
    let nodes = list(node, "`defaults`", MAX_DEFAULTS, sink)?;
    check_limit(nodes.len(), MAX_DEFAULTS, "`defaults`", &node.span, sink);
    Some(nodes.iter().filter_map(|node| one(node, sink)).collect())
}

fn one<'a>(node: &'a Node, sink: &'a Sink) -> Option<DefaultKeys<'a>> {
    let fields = Fields::open(node, &node.span, &DEFAULTS, sink)?;
    let name = given(&fields, "name", pattern)?;
    let class = given(&fields, "class", service::class)?;
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let keys = entries
        .iter()
        .filter(|entry| !SELECTORS.contains(&entry.key.as_str()));
    let keys: Vec<&MapEntry> = keys
        .filter(|entry| DEFAULTS.keys.contains(&entry.key.as_str()))
        .collect();
    if keys.is_empty() && !fields.has_strays() {
        let message = "this entry has no keys for services";
        let found = Diagnostic::warning("no-defaults", &node.span, message);
        sink.push(found.hint("add some, such as `health: { tcp: true }`, or remove it"));
    }
    service::read_defaults(node, sink);
    Some(DefaultKeys {
        name,
        class,
        keys,
        span: node.span.clone(),
        is_used: Cell::new(false),
    })
}

/// The outer `None`: it could not be read, so that nobody knows whom the entry is for.
fn given<T>(
    fields: &Fields<'_>,
    key: &str,
    read: impl FnOnce(&Node, &Sink) -> Option<T>,
) -> Option<Option<T>> {
    match fields.has(key) {
        true => fields.optional(key, read).map(Some),
        false => Some(None),
    }
}

fn pattern(node: &Node, sink: &Sink) -> Option<String> {
    let how = "write a name with `*` for any characters, such as `\"shop-*\"`";
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-*".contains(&byte);
    scalar::token(node, "a pattern for names", how, MAX_PATTERN_BYTES, allowed, sink)
}

/// Tells whether a name fits a pattern.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut rest = rest;
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

fn text_of<'e>(mut entries: impl Iterator<Item = &'e MapEntry>, key: &str) -> Option<&'e str> {
    match &entries.find(|entry| entry.key == key)?.value.value {
        Value::Text { text, .. } => Some(text),
        _ => None,
    }
}

/// Tells whether requests are looked at, at any port of a service with these keys, and with this protocol for ports that say none.
fn looks_into(own: &[MapEntry], protocol: Option<&str>) -> bool {
    let is_http = |protocol: Option<&str>| matches!(protocol, Some("http" | "grpc"));
    let ports = own.iter().find(|entry| entry.key == "ports");
    let Some(Value::Map(ports)) = ports.map(|ports| &ports.value.value) else {
        return is_http(protocol);
    };
    ports.iter().any(|port| match &port.value.value {
        Value::Map(keys) => is_http(text_of(keys.iter(), "protocol").or(protocol)),
        _ => is_http(protocol),
    })
}

/// Gives a service the keys that it does not have, of later entries before those of earlier ones.
pub(in super::super) fn merged(entry: &MapEntry, defaults: &[DefaultKeys<'_>]) -> MergedService {
    let unchanged = || MergedService {
        entry: entry.clone(),
        sources: Vec::new(),
    };
    let own = match &entry.value.value {
        Value::Map(own) => own.as_slice(),
        _ => return unchanged(),
    };
    let class = text_of(own.iter(), "class");
    let applying = defaults.iter().enumerate().rev().filter(|(_, one)| {
        let by_name = one.name.as_ref().is_none_or(|pattern| fits(pattern, &entry.key));
        by_name
            && one
                .class
                .as_ref()
                .is_none_or(|wanted| class == Some(wanted.as_str()))
    });
    let mut has: BTreeSet<&str> = own.iter().map(|entry| entry.key.as_str()).collect();
    let mut taken: Vec<(usize, &MapEntry)> = Vec::new();
    for (number, one) in applying {
        one.is_used.set(true);
        for key in &one.keys {
            if has.insert(&key.key) {
                taken.push((number, key));
            }
        }
    }
    let taken_entries = taken.iter().map(|(_, entry)| *entry);
    let protocol = text_of(own.iter(), "protocol").or_else(|| text_of(taken_entries, "protocol"));
    // They would be warned of, one by one, where nobody has written them.
    let looks_into = looks_into(own, protocol);
    taken.retain(|(_, entry)| looks_into || !OF_REQUESTS.contains(&entry.key.as_str()));
    if taken.is_empty() {
        return unchanged();
    }
    let entries = own
        .iter()
        .cloned()
        .chain(taken.iter().map(|(_, entry)| (*entry).clone()));
    MergedService {
        entry: MapEntry {
            key: entry.key.clone(),
            key_span: entry.key_span.clone(),
            value: Rc::new(entry.value.with_entries(entries.collect())),
        },
        sources: taken
            .iter()
            .map(|(number, entry)| (entry.key.clone(), *number))
            .collect(),
    }
}

/// Warns of entries that are for no service.
pub(super) fn unused(defaults: &[DefaultKeys<'_>], sink: &Sink) {
    for one in defaults.iter().filter(|one| !one.is_used.get()) {
        let whom = match (&one.name, &one.class) {
            (Some(name), Some(class)) => format!("`{}` of class `{class}`", shortened(name)),
            (Some(name), None) => format!("`{}`", shortened(name)),
            (None, Some(class)) => format!("class `{class}`"),
            (None, None) => "any name".to_owned(),
        };
        let message = format!("no service is of {whom}, so these defaults are nobody's");
        let found = Diagnostic::warning("unused-defaults", &one.span, message);
        sink.push(found.hint("classes stand in the services: `orders: { class: internal, port: 80 }`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::read::service::SERVICE;

    #[test]
    fn every_key_of_a_service_that_several_can_share_has_a_default() {
        let shared = |keys: &[&'static str]| -> Vec<&'static str> {
            let own = ["name", "class", "port", "ports", "routes", "shift"];
            keys.iter().copied().filter(|key| !own.contains(key)).collect()
        };
        assert_eq!(shared(DEFAULTS.keys), shared(SERVICE.keys));
    }

    #[test]
    fn defaults_about_requests_are_for_services_with_any_port_at_which_they_are_looked_at() {
        let text = "version: 1
trust_domain: acme.internal
zones: { east: { gateways: [] } }
defaults: [{ timeout: 3s }]
services:
  one: { ports: { raw: 70, web: { port: 80, protocol: http } } }
  all: { protocol: grpc, ports: { calls: 81, more: { port: 82, protocol: tcp } } }
  none: { protocol: http, ports: { raw: { port: 71, protocol: tcp } } }
  bytes: { ports: { raw: 72 } }
";
        let parsed = crate::topology::parse(text, "a.yaml").unwrap();
        let services = parsed.topology.services.iter();
        let limited = services.filter(|(_, service)| service.timeout.is_some());
        let limited: Vec<&str> = limited.map(|(name, _)| name.as_str()).collect();
        assert_eq!(limited, ["all", "one"]);
        assert!(parsed.warnings.iter().all(|warning| warning.code != "needs-http"));
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("orders", "orders", true),
            ("orders", "orders-v2", false),
            ("shop-*", "shop-", true),
            ("shop-*", "shop-orders", true),
            ("shop-*", "shopping", false),
            ("*-db", "orders-db", true),
            ("*-db", "db", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxc", false),
            ("*", "anything", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
