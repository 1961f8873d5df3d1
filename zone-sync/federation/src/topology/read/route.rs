//! Reading HTTP routes.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{
        diagnostic::{Diagnostic, Sink},
        fields::{Fields, MapKind, Spanned, check_limit, map},
        model::Mirror,
        raw::Route,
        scalar::{self, MAX_TEXT_BYTES},
        tree::Node,
    },
    service::split,
    tags::tags,
};

const MAX_HEADERS: usize = 16;
const MAX_METHOD_BYTES: usize = 32;
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

pub(super) const ROUTE: MapKind = MapKind {
    what: "a route",
    keys: &["match", "split", "timeout", "mirror"],
    meant: &[("path_prefix", "write `match: { path_prefix: /beta }`")],
};
pub(super) const MATCH: MapKind = MapKind {
    what: "`match`",
    keys: &["path_prefix", "header", "method"],
    meant: &[("path", "write `path_prefix: /beta`")],
};
pub(super) const MIRROR: MapKind = MapKind {
    what: "`mirror`",
    keys: &["tags", "percent"],
    meant: &[],
};

pub(super) fn route(node: &Node, sink: &Sink) -> Option<Spanned<Route>> {
    let fields = Fields::open(node, &node.span, &ROUTE, sink)?;
    let mut route = Route {
        path_prefix: None,
        headers: BTreeMap::new(),
        method: None,
        split: fields.optional("split", split),
        timeout: fields.optional("timeout", timeout),
        mirror: fields.optional("mirror", mirror),
    };
    fields.optional("match", |node, sink| conditions(&mut route, node, sink));
    Some(Spanned {
        value: route,
        span: node.span.clone(),
    })
}

fn timeout(node: &Node, sink: &Sink) -> Option<Duration> {
    let read = scalar::duration(node, "a timeout", Duration::from_millis(1)..=MAX_TIMEOUT, sink);
    read.map(|timeout| timeout.value)
}

fn conditions(route: &mut Route, node: &Node, sink: &Sink) -> Option<()> {
    let fields = Fields::open(node, &node.span, &MATCH, sink)?;
    route.path_prefix = fields.optional("path_prefix", |node, sink| {
        scalar::path(node, "the beginning of a path", sink)
    });
    route.headers = fields.optional("header", headers).unwrap_or_default();
    route.method = fields.optional("method", |node, sink| {
        let how = "write it in capitals, such as `GET`";
        let capital = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
        scalar::token(node, "an HTTP method", how, MAX_METHOD_BYTES, capital, sink)
    });
    Some(())
}

/// Header names are compared in lower case (RFC 9110 §5.1).
fn headers(node: &Node, sink: &Sink) -> Option<BTreeMap<String, String>> {
    let entries = map(node, &node.span, "`header`", sink)?;
    check_limit(entries.len(), MAX_HEADERS, "`header`", &node.span, sink);
    let how = "use visible characters and single spaces";
    let visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let mut headers = BTreeMap::new();
    for entry in entries.iter().take(MAX_HEADERS) {
        let name = entry.key.to_ascii_lowercase();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            let message = format!("`{}` is not a header's name", scalar::shortened(&entry.key));
            sink.push(Diagnostic::error("bad-value", &entry.key_span, message));
            continue;
        }
        if let Some(value) = scalar::token(
            &entry.value,
            "a header's value",
            how,
            MAX_TEXT_BYTES,
            visible,
            sink,
        ) {
            headers.insert(name, value);
        }
    }
    Some(headers)
}

fn mirror(node: &Node, sink: &Sink) -> Option<Mirror> {
    let fields = Fields::open(node, &node.span, &MIRROR, sink)?;
    let percent = fields.optional("percent", |node, sink| {
        let read = scalar::text(node, "a percentage", sink)?;
        let percent = scalar::plain_decimal(&read.value).filter(|percent| (0.0..=100.0).contains(percent));
        if percent.is_none() {
            let message = format!("`{}` is not a percentage", scalar::shortened(&read.value));
            let found = Diagnostic::error("bad-percent", &read.span, message);
            sink.push(found.hint("write a number from 0 to 100"));
        }
        percent
    });
    Some(Mirror {
        tags: fields.required("tags", tags)?,
        percent: percent.unwrap_or(100.0),
    })
}
