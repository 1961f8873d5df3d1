//! Reading what a route changes of a request, and what a gateway answers itself.

use super::{
    super::super::{
        diagnostic::{Diagnostic, Sink},
        fields::{Fields, MapKind},
        routes::{RouteAnswer, RouteRedirect, RouteRewrite},
        scalar::{self, shortened},
        tree::{Node, Value},
    },
    conditions::compared_path,
    headers::authority,
};

pub(in super::super) const REWRITE: MapKind = MapKind {
    what: "`rewrite`",
    keys: &["host", "path_prefix"],
    meant: &[(
        "path",
        "write `path_prefix: /`, which takes the place of the path that `match` names",
    )],
};
pub(in super::super) const REDIRECT: MapKind = MapKind {
    what: "`redirect`",
    keys: &["status", "host", "path_prefix"],
    meant: &[
        (
            "path",
            "write `path_prefix: /`, which takes the place of the path that `match` names",
        ),
        ("code", "write `status: 308`"),
        ("location", "write `host: shop.example` and `path_prefix: /new`"),
    ],
};
pub(in super::super) const ANSWER: MapKind = MapKind {
    what: "`answer`",
    keys: &["status", "body"],
    meant: &[("code", "write `status: 200`"), ("text", "write `body: \"…\"`")],
};

/// Longest body of an answer in bytes: a line or a small page, and not a website.
const MAX_BODY_BYTES: usize = 8 * 1024;
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];
/// Keeps the method, and is not remembered by clients.
const DEFAULT_REDIRECT: u16 = 307;
const DEFAULT_STATUS: u16 = 200;
/// Statuses of answers that have no body (RFC 9110, 15).
const BODILESS: [u16; 3] = [204, 205, 304];

/// `replaced` tells whether there is a path that another can take the place of; `None`: that could not be read.
pub(super) fn rewrite(node: &Node, replaced: Option<bool>, sink: &Sink) -> Option<RouteRewrite> {
    let fields = Fields::open(node, &node.span, &REWRITE, sink)?;
    let rewrite = RouteRewrite {
        host: fields.optional("host", authority),
        path_prefix: fields.optional("path_prefix", |node, sink| new_prefix(node, replaced, sink)),
    };
    changes_something(&fields, node, sink);
    Some(rewrite)
}

pub(super) fn redirect(node: &Node, replaced: Option<bool>, sink: &Sink) -> Option<RouteRedirect> {
    let fields = Fields::open(node, &node.span, &REDIRECT, sink)?;
    let status = fields.optional("status", |node, sink| {
        let status = scalar::number(node, "a status", 100..=999u16, sink)?;
        if !REDIRECTS.contains(&status.value) {
            let message = format!("{} is not the status of a redirect", status.value);
            let found = Diagnostic::error("bad-value", &status.span, message);
            sink.push(found.hint("it is one of 301, 302, 303, 307 and 308; 307 and 308 keep the method"));
            return None;
        }
        Some(status.value)
    });
    let redirect = RouteRedirect {
        status: status.unwrap_or(DEFAULT_REDIRECT),
        host: fields.optional("host", authority),
        path_prefix: fields.optional("path_prefix", |node, sink| new_prefix(node, replaced, sink)),
    };
    changes_something(&fields, node, sink);
    Some(redirect)
}

/// A redirect without either would lead to itself.
fn changes_something(fields: &Fields<'_>, node: &Node, sink: &Sink) {
    if !fields.has("host") && !fields.has("path_prefix") && !fields.has_strays() {
        let message = "this leads to where the request was for already";
        let found = Diagnostic::error("missing-key", &node.span, message);
        sink.push(found.hint("give it a `host`, a `path_prefix` or both"));
    }
}

/// Path that takes the place of the one that is matched; without a slash at its end.
fn new_prefix(node: &Node, replaced: Option<bool>, sink: &Sink) -> Option<String> {
    compared_path(node, "the beginning of a path", sink)?;
    let path = scalar::path(node, "the beginning of a path", sink)?;
    if path.contains("//") || path.contains('\\') {
        let message = format!("`{}` has an empty segment or a `\\`", shortened(&path));
        let found = Diagnostic::error("bad-path", &node.span, message);
        sink.push(found.hint("write one `/` between two segments"));
        return None;
    }
    if replaced == Some(false) {
        let message = "`path_prefix` takes the place of the path that `match` names, and it names none";
        let found = Diagnostic::error("replaces-nothing", &node.span, message);
        sink.push(found.hint("write `match: { path_prefix: /beta }`, or `/` for every path"));
        return None;
    }
    Some(path.trim_end_matches('/').to_owned())
}

pub(super) fn answer(node: &Node, sink: &Sink) -> Option<RouteAnswer> {
    let fields = Fields::open(node, &node.span, &ANSWER, sink)?;
    let status = fields.optional("status", |node, sink| {
        scalar::number(node, "a status", 200..=599u16, sink).map(|status| status.value)
    });
    let answer = RouteAnswer {
        status: status.unwrap_or(DEFAULT_STATUS),
        body: fields.optional("body", body).unwrap_or_default(),
    };
    if let Some(span) = fields.key_span("body")
        && BODILESS.contains(&answer.status)
        && !answer.body.is_empty()
    {
        let message = format!("an answer with status {} has no body", answer.status);
        sink.push(
            Diagnostic::error("bad-value", &span, message).hint("remove the body, or give another status"),
        );
    }
    Some(answer)
}

fn body(node: &Node, sink: &Sink) -> Option<String> {
    if let Value::Text { text, .. } = &node.value
        && text.len() > MAX_BODY_BYTES
    {
        let message = format!(
            "the body has {} bytes; at most {MAX_BODY_BYTES} are allowed",
            text.len()
        );
        let found = Diagnostic::error("too-large", &node.span, message);
        sink.push(found.hint("have an instance answer what is longer"));
        return None;
    }
    scalar::text(node, "a body", sink).map(|read| read.value)
}
