//! Reading what a request has to have for a route to match.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    super::{
        super::{
            diagnostic::{Diagnostic, Sink, Span},
            fields::{Fields, MapKind, Spanned, check_limit, items, map},
            raw::{Conditions, Pattern},
            routes::{PathMatch, RouteMatch},
            scalar::{self, MAX_TEXT_BYTES, shortened},
            tree::{MapEntry, Node, Value},
        },
        caller,
        service::report_empty,
    },
    headers::{self, HEADER_VALUE_HINT},
};
use crate::request_path::{ComparedPath, PathFault};

const MAX_METHODS: usize = 16;
const MAX_METHOD_BYTES: usize = 32;
/// Header fields, and parameters of a query, that one route asks for.
const MAX_CONDITIONS: usize = 16;
const MAX_PATTERN_BYTES: usize = 512;
const MAX_GRPC_BYTES: usize = 256;

pub(in super::super) const MATCH: MapKind = MapKind {
    what: "`match`",
    keys: &[
        "methods",
        "path",
        "path_prefix",
        "path_regex",
        "grpc",
        "host",
        "port",
        "header",
        "query",
        "caller",
    ],
    meant: &[
        ("callers", "write `caller: web`, or `caller: [web, batch@east]`"),
        ("method", "write `methods: [GET]`"),
        ("headers", "write `header: { x-canary: \"1\" }`"),
        ("prefix", "write `path_prefix: /beta`"),
        ("regex", "write `path_regex: '^/v[0-9]+/'`"),
        ("hosts", "a route is for one `host`; write a route for each"),
        (
            "ports",
            "a route is for one `port`, or for all; write a route for each",
        ),
        ("service", "write `grpc: { service: package.Service }`"),
    ],
};
pub(in super::super) const GRPC: MapKind = MapKind {
    what: "`grpc`",
    keys: &["service", "method"],
    meant: &[],
};
/// Keys of which a match has one at most.
const PATHS: [&str; 4] = ["path", "path_prefix", "path_regex", "grpc"];

/// `None`: one of them could not be read, so that nothing can be concluded from the rest.
pub(super) fn conditions(node: &Node, sink: &Sink) -> Option<Conditions> {
    let fields = Fields::open(node, &node.span, &MATCH, sink)?;
    let of_requests = of_requests(&fields, &node.span, "`match`", sink);
    let host = given_or_none(&fields, "host", headers::host);
    let port = given_or_none(&fields, "port", scalar::port_name);
    let headers = given_or_none(&fields, "header", fields_asked_for);
    let query = given_or_none(&fields, "query", query);
    let callers = given_or_none(&fields, "caller", caller::callers_of_route);
    if fields.has_strays() {
        return None;
    }
    let Conditions { matches, pattern, .. } = of_requests?;
    let (callers, port) = (callers?.unwrap_or_default(), port?);
    Some(Conditions {
        matches: RouteMatch {
            host: host?,
            port: port.as_ref().map(|port| port.value.clone()),
            headers: headers?.unwrap_or_default(),
            query: query?.unwrap_or_default(),
            callers: callers.iter().map(|caller| caller.value.clone()).collect(),
            ..matches
        },
        pattern,
        callers,
        port,
    })
}

/// Methods and path, of a route or of a permission, which `what` names. `None` as for [`conditions`].
pub(in super::super) fn of_requests(
    fields: &Fields<'_>,
    at: &Span,
    what: &str,
    sink: &Sink,
) -> Option<Conditions> {
    let given: Vec<_> = PATHS.iter().filter(|key| fields.has(key)).collect();
    if given.len() > 1 {
        let message =
            format!("{what} has at most one of the keys `path`, `path_prefix`, `path_regex` and `grpc`");
        let found = Diagnostic::error("one-of", at, message);
        sink.push(found.hint(match what {
            "`match`" => "keep one of them, or write a route for each",
            _ => "keep one of them, or write an entry for each",
        }));
    }
    let methods = given_or_none(fields, "methods", methods);
    let exact = given_or_none(fields, "path", |node, sink| {
        compared_path(node, "a path", sink).map(PathMatch::Exact)
    });
    let prefix = given_or_none(fields, "path_prefix", |node, sink| {
        let path = compared_path(node, "the beginning of a path", sink)?;
        Some(PathMatch::Prefix(path.trim_end_matches('/').to_owned()))
    });
    let pattern = given_or_none(fields, "path_regex", pattern);
    let grpc = given_or_none(fields, "grpc", grpc);
    if given.len() > 1 {
        return None;
    }
    Some(Conditions {
        matches: RouteMatch {
            methods: methods?.unwrap_or_default(),
            path: exact?.or(prefix?).or(grpc?),
            ..RouteMatch::default()
        },
        pattern: pattern?,
        callers: Vec::new(),
        port: None,
    })
}

/// The inner `None`: the key is not there; the outer one: it could not be read.
fn given_or_none<'a, T>(
    fields: &Fields<'a>,
    key: &str,
    read: impl FnOnce(&'a Node, &'a Sink) -> Option<T>,
) -> Option<Option<T>> {
    match fields.has(key) {
        true => fields.optional(key, read).map(Some),
        false => Some(None),
    }
}

fn methods(node: &Node, sink: &Sink) -> Option<BTreeSet<String>> {
    let read = items(node, "`methods`", MAX_METHODS, sink, method)?;
    report_empty(node, "`methods`", "leave it out for every method", sink);
    read.complete.then(|| read.items.into_iter().collect())
}

/// A method of HTTP, which is written in capitals.
pub(in super::super) fn method(node: &Node, sink: &Sink) -> Option<String> {
    let how = "write it in capitals, such as `GET`";
    let capital = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
    scalar::token(node, "an HTTP method", how, MAX_METHOD_BYTES, capital, sink)
}

/// A path in the form in which it is compared.
pub(super) fn compared_path(node: &Node, what: &str, sink: &Sink) -> Option<String> {
    let path = scalar::path(node, what, sink)?;
    let refuse = |message: String, hint: &str| {
        sink.push(Diagnostic::error("bad-path", &node.span, message).hint(hint));
    };
    if path.contains(['?', '#']) {
        let message = format!("`{}` is more than a path", shortened(&path));
        refuse(
            message,
            "leave out what follows the path; `query` asks for parameters",
        );
        return None;
    }
    let compared = ComparedPath::read(&path).map(|path| String::from_utf8(path.into_owned()));
    match compared {
        Ok(Ok(compared)) => Some(compared),
        Ok(Err(_)) => {
            let message = format!("`{}` is no text once it is decoded", shortened(&path));
            refuse(message, "write it in UTF-8");
            None
        }
        Err(fault) => {
            let message = format!("no request has the path `{}`: {fault}", shortened(&path));
            let hint = match fault {
                PathFault::DotSegment => "write the path that it leads to",
                PathFault::BadEncoding => "write `%25` for a `%`",
                PathFault::ControlByte | PathFault::TooLong => "write another path",
            };
            refuse(message, hint);
            None
        }
    }
}

fn pattern(node: &Node, sink: &Sink) -> Option<Pattern> {
    let how = "write a regular expression of at most 512 visible characters, such as `'^/v[0-9]+/'`";
    let visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let text = scalar::token(
        node,
        "a regular expression",
        how,
        MAX_PATTERN_BYTES,
        visible,
        sink,
    )?;
    Some(Pattern {
        text: Spanned {
            value: text,
            span: node.span.clone(),
        },
        compiled: OnceCell::new(),
    })
}

fn grpc(node: &Node, sink: &Sink) -> Option<PathMatch> {
    let fields = Fields::open(node, &node.span, &GRPC, sink)?;
    let service = fields.required("service", |node, sink| {
        let how = "write the full name, such as `package.Service`";
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._".contains(&byte);
        scalar::token(node, "a gRPC service", how, MAX_GRPC_BYTES, allowed, sink)
    });
    let method = given_or_none(&fields, "method", |node, sink| {
        let how = "write its name alone, such as `Get`";
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        scalar::token(
            node,
            "a method of a gRPC service",
            how,
            MAX_GRPC_BYTES,
            allowed,
            sink,
        )
    });
    Some(PathMatch::Grpc {
        service: service?,
        method: method?,
    })
}

fn fields_asked_for(node: &Node, sink: &Sink) -> Option<BTreeMap<String, String>> {
    let entries = map(node, &node.span, "`header`", sink)?;
    check_limit(entries.len(), MAX_CONDITIONS, "`header`", &node.span, sink);
    let read = |entry: &MapEntry| {
        let name = headers::asked_for(entry, sink);
        let value = scalar::token(
            &entry.value,
            "a header's value",
            HEADER_VALUE_HINT,
            MAX_TEXT_BYTES,
            headers::is_of_value,
            sink,
        );
        name.zip(value)
    };
    collected(entries, read, sink)
}

fn query(node: &Node, sink: &Sink) -> Option<BTreeMap<String, String>> {
    let entries = map(node, &node.span, "`query`", sink)?;
    check_limit(entries.len(), MAX_CONDITIONS, "`query`", &node.span, sink);
    let read = |entry: &MapEntry| {
        if entry.key.is_empty() || entry.key.len() > MAX_TEXT_BYTES {
            let message = format!("`{}` is not the name of a parameter", shortened(&entry.key));
            let found = Diagnostic::error("bad-value", &entry.key_span, message);
            sink.push(found.hint("write it decoded, 1 to 1024 bytes"));
            return None;
        }
        let value = match &entry.value.value {
            Value::Text { text, .. } if text.is_empty() => Some(String::new()),
            _ => scalar::token(
                &entry.value,
                "a parameter's value",
                "write it decoded, at most 1024 bytes; `\"\"` for none",
                MAX_TEXT_BYTES,
                |byte| !byte.is_ascii_control(),
                sink,
            ),
        };
        Some(entry.key.clone()).zip(value)
    };
    collected(entries, read, sink)
}

/// `None`: one of them could not be read, or there are two of a name.
fn collected(
    entries: &[MapEntry],
    read: impl Fn(&MapEntry) -> Option<(String, String)>,
    sink: &Sink,
) -> Option<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for entry in entries.iter().take(MAX_CONDITIONS) {
        if let Some((name, value)) = read(entry) {
            if all.contains_key(&name) {
                sink.push(headers::given_twice(&name, &entry.key_span));
            }
            all.insert(name, value);
        }
    }
    (all.len() == entries.len()).then_some(all)
}
