//! Reading the routes of a service that speaks HTTP.
//!
//! `conditions` reads what a request has to have, `headers` names and changes of header fields, `actions` what else becomes of it.

mod actions;
pub(super) mod conditions;
pub(super) mod headers;

use std::time::Duration;

use super::{
    super::{
        diagnostic::{Diagnostic, Sink},
        fields::{Fields, MapKind, Spanned},
        raw::{Conditions, Route},
        routes::{Mirror, RouteAction},
        scalar::{self, shortened},
        tree::Node,
    },
    service::{criticality, split},
    sticky::sticky,
    tags::tags,
};
use crate::name::Tags;
use headers::{HeaderSide, changes};
#[cfg(test)]
pub(super) use {
    actions::{ANSWER, REDIRECT, REWRITE},
    conditions::{GRPC, MATCH},
    headers::CHANGES,
};

const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Longest name of a route in bytes: it stands in the access log and as a label of metrics.
const MAX_NAME_BYTES: usize = 63;

pub(super) const ROUTE: MapKind = MapKind {
    what: "a route",
    keys: &[
        "name",
        "match",
        "split",
        "sticky",
        "criticality",
        "timeout",
        "rewrite",
        "request_headers",
        "response_headers",
        "redirect",
        "answer",
        "mirror",
    ],
    meant: &[
        ("path_prefix", "write `match: { path_prefix: /beta }`"),
        ("path", "write `match: { path: /beta }`"),
        (
            "headers",
            "write `match: { header: … }`, or `request_headers: { set: … }` to change them",
        ),
        ("tags", "write `split: [{ tags: … }]`"),
    ],
};
pub(super) const MIRROR: MapKind = MapKind {
    what: "`mirror`",
    keys: &["service", "tags", "percent"],
    meant: &[("to", "write `service: shadow`, `tags: { version: v3 }`, or both")],
};
/// Keys that say what an instance is given, so that they have no effect where none is asked.
const OF_FORWARDING: [&str; 7] = [
    "split",
    "sticky",
    "criticality",
    "timeout",
    "rewrite",
    "request_headers",
    "mirror",
];

pub(super) fn route(node: &Node, sink: &Sink) -> Option<Spanned<Route>> {
    let fields = Fields::open(node, &node.span, &ROUTE, sink)?;
    let conditions = match fields.has("match") {
        true => fields.optional("match", conditions::conditions),
        false => Some(Conditions::default()),
    };
    let replaced = conditions.as_ref().map(Conditions::has_replaced);
    let route = Route {
        name: fields.optional("name", name),
        split: fields.optional("split", split),
        sticky: fields.optional("sticky", sticky),
        criticality: fields.optional("criticality", criticality),
        timeout: fields.optional("timeout", timeout),
        rewrite: fields
            .optional("rewrite", |node, sink| actions::rewrite(node, replaced, sink))
            .unwrap_or_default(),
        request_headers: fields
            .optional("request_headers", |node, sink| {
                changes(node, HeaderSide::Request, sink)
            })
            .unwrap_or_default(),
        response_headers: fields
            .optional("response_headers", |node, sink| {
                changes(node, HeaderSide::Response, sink)
            })
            .unwrap_or_default(),
        action: action(&fields, replaced, sink),
        mirror: mirror_of(&fields),
        conditions,
    };
    Some(Spanned {
        value: route,
        span: node.span.clone(),
    })
}

fn name(node: &Node, sink: &Sink) -> Option<Spanned<String>> {
    let how = "use up to 63 of a-z, A-Z, 0-9 and `._-`, beginning with a letter or digit";
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let value = scalar::token(node, "a route's name", how, MAX_NAME_BYTES, allowed, sink)?;
    if !value.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        let message = format!("`{value}` is not a route's name");
        sink.push(Diagnostic::error("bad-value", &node.span, message).hint(how));
        return None;
    }
    let span = node.span.clone();
    Some(Spanned { value, span })
}

pub(super) fn timeout(node: &Node, sink: &Sink) -> Option<Duration> {
    let read = scalar::duration(node, "a timeout", Duration::from_millis(1)..=MAX_TIMEOUT, sink);
    read.map(|timeout| timeout.value)
}

/// Reads what the gateway does with a request. `replaced` tells whether there is a path that another can take the place of; `None`:
/// that could not be read.
fn action(fields: &Fields<'_>, replaced: Option<bool>, sink: &Sink) -> RouteAction {
    let redirect = fields.optional("redirect", |node, sink| actions::redirect(node, replaced, sink));
    let answer = fields.optional("answer", actions::answer);
    if let (Some(_), Some(span)) = (fields.key_span("redirect"), fields.key_span("answer")) {
        let message = "a route has one of `redirect` and `answer`";
        sink.push(Diagnostic::error("one-of", &span, message).hint("keep one of the two"));
    }
    if fields.has("redirect") || fields.has("answer") {
        for key in OF_FORWARDING {
            if let Some(span) = fields.key_span(key) {
                let message = format!(
                    "`{key}` says what an instance is given, and the gateway itself answers what this route matches"
                );
                let found = Diagnostic::error("nothing-forwarded", &span, message);
                sink.push(found.hint("remove it, or the `redirect` or `answer`"));
            }
        }
    }
    let redirect = redirect.map(RouteAction::Redirect);
    redirect.or(answer.map(RouteAction::Answer)).unwrap_or_default()
}

/// At its key.
fn mirror_of(fields: &Fields<'_>) -> Option<Spanned<Mirror>> {
    let value = fields.optional("mirror", mirror)?;
    let span = fields.key_span("mirror")?;
    Some(Spanned { value, span })
}

fn mirror(node: &Node, sink: &Sink) -> Option<Mirror> {
    let fields = Fields::open(node, &node.span, &MIRROR, sink)?;
    let percent = fields.optional("percent", |node, sink| {
        let read = scalar::text(node, "a percentage", sink)?;
        let percent = scalar::plain_decimal(&read.value).filter(|percent| (0.0..=100.0).contains(percent));
        if percent.is_none() {
            let message = format!("`{}` is not a percentage", shortened(&read.value));
            let found = Diagnostic::error("bad-percent", &read.span, message);
            sink.push(found.hint("write a number from 0 to 100"));
        }
        percent
    });
    if !fields.has("service") && !fields.has("tags") {
        if !fields.has_strays() {
            let message = "this mirror says nothing of where the copies go";
            let hint = "name a `service`, the `tags` of instances, or both";
            sink.push(Diagnostic::error("missing-key", &node.span, message).hint(hint));
        }
        return None;
    }
    let service = match fields.has("service") {
        true => Some(fields.optional("service", scalar::service_name)?.value),
        false => None,
    };
    let tags = match fields.has("tags") {
        true => fields.optional("tags", tags)?,
        false => Tags::default(),
    };
    Some(Mirror {
        service,
        tags,
        percent: percent.unwrap_or(100.0),
    })
}
