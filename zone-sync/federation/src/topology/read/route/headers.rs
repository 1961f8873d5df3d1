//! Reading names and values of header fields, and changes of them. What frames a message, ends with a connection or is the gateway's own
//! word is nobody else's to change.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::{
    diagnostic::{Diagnostic, Sink, Span},
    fields::{Fields, MapKind, check_limit, items, map},
    routes::HeaderChanges,
    scalar::{self, MAX_TEXT_BYTES, shortened},
    tree::{MapEntry, Node, Value},
};

/// Fields that one key changes.
const MAX_CHANGES: usize = 32;
/// Longest name of a field in bytes.
const MAX_NAME_BYTES: usize = 256;
pub(super) const HEADER_VALUE_HINT: &str = "use visible characters, and spaces between them";

pub(in super::super) const CHANGES: MapKind = MapKind {
    what: "a change of headers",
    keys: &["set", "add", "remove"],
    meant: &[
        ("append", "write `add: { x-name: value }`"),
        ("delete", "write `remove: [x-name]`"),
    ],
};

/// Message whose headers are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderSide {
    Request,
    Response,
}

/// Reason that a field is not an operator's to change, and what to do instead.
fn kept(name: &str, side: HeaderSide) -> Option<(&'static str, &'static str)> {
    const REMOVE: &str = "remove it here";
    // Many programs read one as the other.
    match name.replace('_', "-").as_str() {
        "host" if side == HeaderSide::Request => Some((
            "says whom the request is for, and has a key of its own",
            "write `rewrite: { host: internal.example }`",
        )),
        "content-length" | "transfer-encoding" | "trailer" | "expect" => Some((
            "says where a message ends and when its body comes, which only the messages themselves know",
            REMOVE,
        )),
        name if ends_with_connection(name) => {
            Some(("ends with each connection, and is none of the next one's", REMOVE))
        }
        name if name.starts_with("causeway-") || name == "via" => {
            Some(("is the gateway's own word, by which it is known", REMOVE))
        }
        name if name.starts_with("x-forwarded-") && side == HeaderSide::Request => Some((
            "is the gateway's own word on the client, which an instance believes",
            REMOVE,
        )),
        _ => None,
    }
}

/// As the gateway takes them out (RFC 9110, 7.6.1).
fn ends_with_connection(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "te" | "upgrade" | "http2-settings"
    ) || name.starts_with("proxy-")
}

/// Header names are compared in lower case (RFC 9110, 5.1).
pub(in super::super) fn field_name(text: &str, span: &Span, sink: &Sink) -> Option<String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(token) {
        let message = format!("`{}` is not a header's name", shortened(text));
        let found = Diagnostic::error("bad-header", span, message);
        sink.push(found.hint("use letters, digits and `-`, such as `x-canary`"));
        return None;
    }
    Some(text.to_ascii_lowercase())
}

/// Name of a field that a route asks for.
pub(super) fn asked_for(entry: &MapEntry, sink: &Sink) -> Option<String> {
    let name = field_name(&entry.key, &entry.key_span, sink)?;
    let (why, hint) = match name.as_str() {
        "host" => ("has a key of its own", "write `host: shop.example`"),
        name if ends_with_connection(name) => (
            "ends with each connection, and no route sees it",
            "ask for another",
        ),
        _ => return Some(name),
    };
    let message = format!("`{name}` {why}");
    sink.push(Diagnostic::error("bad-header", &entry.key_span, message).hint(hint));
    None
}

pub(super) fn is_of_value(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte == b' '
}

pub(super) fn given_twice(name: &str, span: &Span) -> Diagnostic {
    let message = format!("`{name}` is given twice");
    Diagnostic::error("duplicate-key", span, message).hint("keep one of the two")
}

pub(super) fn changes(node: &Node, side: HeaderSide, sink: &Sink) -> Option<HeaderChanges> {
    let fields = Fields::open(node, &node.span, &CHANGES, sink)?;
    let values = |key| {
        let read = fields.optional(key, |node, sink| values(node, key, side, sink));
        read.unwrap_or_default()
    };
    let changes = HeaderChanges {
        set: values("set"),
        add: values("add"),
        remove: fields
            .optional("remove", |node, sink| removed(node, side, sink))
            .unwrap_or_default(),
    };
    if matches!(&node.value, Value::Map(entries) if entries.is_empty()) {
        let message = "this changes nothing";
        let hint = "write `set: { x-name: value }`, `add: …` or `remove: [x-name]`";
        sink.push(Diagnostic::error("missing-key", &node.span, message).hint(hint));
    }
    let named = changes
        .set
        .keys()
        .chain(changes.add.keys())
        .chain(&changes.remove);
    let mut seen = BTreeSet::new();
    for name in named {
        if !seen.insert(name) {
            let message = format!("`{name}` stands in two of `set`, `add` and `remove`");
            let found = Diagnostic::error("duplicate-key", &node.span, message);
            sink.push(found.hint("keep one; `set` puts its value in the place of what is there"));
        }
    }
    Some(changes)
}

fn values(node: &Node, key: &str, side: HeaderSide, sink: &Sink) -> Option<BTreeMap<String, String>> {
    let what = format!("`{key}`");
    let entries = map(node, &node.span, &what, sink)?;
    check_limit(entries.len(), MAX_CHANGES, &what, &node.span, sink);
    let mut values = BTreeMap::new();
    for entry in entries.iter().take(MAX_CHANGES) {
        let name = changed(&entry.key, &entry.key_span, side, sink);
        let value = scalar::token(
            &entry.value,
            "a header's value",
            HEADER_VALUE_HINT,
            MAX_TEXT_BYTES,
            is_of_value,
            sink,
        );
        let Some((name, value)) = name.zip(value) else {
            continue;
        };
        if value.trim() != value {
            let message = format!("`{}` is not a header's value", shortened(&value));
            sink.push(Diagnostic::error("bad-value", &entry.value.span, message).hint(HEADER_VALUE_HINT));
        }
        if values.contains_key(&name) {
            sink.push(given_twice(&name, &entry.key_span));
        }
        values.insert(name, value);
    }
    Some(values)
}

fn removed(node: &Node, side: HeaderSide, sink: &Sink) -> Option<BTreeSet<String>> {
    let names = items(node, "`remove`", MAX_CHANGES, sink, |node, sink| {
        let read = scalar::text(node, "a header's name", sink)?;
        changed(&read.value, &read.span, side, sink)
    })?;
    Some(names.items.into_iter().collect())
}

/// Name of a field that may be changed.
fn changed(text: &str, span: &Span, side: HeaderSide, sink: &Sink) -> Option<String> {
    let name = field_name(text, span, sink)?;
    let Some((why, hint)) = kept(&name, side) else {
        return Some(name);
    };
    let message = format!("`{name}` cannot be changed: it {why}");
    sink.push(Diagnostic::error("kept-header", span, message).hint(hint));
    None
}

/// Host that a request asks for, lower case, without a port.
pub(super) fn host(node: &Node, sink: &Sink) -> Option<String> {
    let read = scalar::text(node, "a host", sink)?;
    if let Some(host) = scalar::as_host(&read.value) {
        return Some(host);
    }
    let (message, hint) = match host_and_port(&read.value) {
        Some(_) => (
            format!("`{}` is a host with a port", shortened(&read.value)),
            "write the host alone: it is compared whatever the port",
        ),
        None => (
            format!("`{}` is not a host", shortened(&read.value)),
            "write a name or an IP address, such as `shop.example`",
        ),
    };
    sink.push(Diagnostic::error("bad-domain", &read.span, message).hint(hint));
    None
}

/// Host that is written into a message, with a port or without.
pub(super) fn authority(node: &Node, sink: &Sink) -> Option<String> {
    let read = scalar::text(node, "a host", sink)?;
    let authority = scalar::as_host(&read.value)
        .filter(|host| !host.contains(':'))
        .or_else(|| host_and_port(&read.value));
    if authority.is_none() {
        let message = format!("`{}` is not a host", shortened(&read.value));
        let found = Diagnostic::error("bad-domain", &read.span, message);
        sink.push(found.hint("write a name or an IP address, with a port if need be: `shop.example:8443`"));
    }
    authority
}

fn host_and_port(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port
        .parse()
        .ok()
        .filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()))?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(bare) => {
            let address: std::net::Ipv6Addr = bare.parse().ok()?;
            Some(format!("[{address}]:{port}"))
        }
        None => scalar::as_host(host)
            .filter(|host| !host.contains(':'))
            .map(|host| format!("{host}:{port}")),
    }
}
