//! Reading who may call: the entries of `allow` and `deny`, and `permissions`.

use super::super::{
    diagnostic::{Diagnostic, Sink},
    fields::{Fields, Listed, MapKind, Spanned, items},
    permissions::{CallerSelector, DefaultPermission, IdentitySelector, Permissions, Who},
    raw::{Conditions, Permitted},
    scalar,
    tree::{Node, Value},
};
use super::{route::conditions, service::report_empty, tags::tags};
use crate::name::CallerIdentity;

/// Entries of one `allow` or `deny`.
const MAX_CALLERS: usize = 1024;
/// Stands for every caller.
const ANYONE: &str = "*";
/// Stands for callers that nobody could name.
const ANONYMOUS: &str = "anonymous";
const SCHEME: &str = "spiffe://";

pub(super) const PERMISSIONS: MapKind = MapKind {
    what: "`permissions`",
    keys: &["default", "dry_run"],
    meant: &[
        (
            "allow",
            "callers are named by each service: `services: { orders: { allow: [...] } }`",
        ),
        (
            "deny",
            "callers are named by each service: `services: { orders: { deny: [...] } }`",
        ),
    ],
};
pub(super) const CALLER: MapKind = MapKind {
    what: "a caller",
    keys: &[
        "service",
        "zone",
        "tags",
        "identity",
        "methods",
        "path",
        "path_prefix",
        "path_regex",
        "grpc",
    ],
    meant: &[
        ("services", "an entry names one service; write an entry for each"),
        ("zones", "an entry names one zone; write an entry for each"),
        ("method", "write `methods: [GET]`"),
        ("prefix", "write `path_prefix: /api`"),
        ("regex", "write `path_regex: '^/v[0-9]+/'`"),
        ("host", "permissions look at methods and paths"),
        (
            "header",
            "permissions look at methods and paths; anybody can send any header",
        ),
    ],
};
pub(super) const ROUTE_CALLER: MapKind = MapKind {
    what: "a caller",
    keys: &WHO,
    meant: &[("methods", "write it beside `caller`, in `match`")],
};
/// Callers that one route is for.
const MAX_ROUTE_CALLERS: usize = 32;
/// Keys of a caller that say who it is.
const WHO: [&str; 4] = ["service", "zone", "tags", "identity"];

pub(super) fn permissions(node: &Node, sink: &Sink) -> Option<Permissions> {
    let fields = Fields::open(node, &node.span, &PERMISSIONS, sink)?;
    let unset = Permissions::UNSET;
    Some(Permissions {
        default: fields
            .optional("default", default_permission)
            .unwrap_or(unset.default),
        dry_run: fields.optional("dry_run", scalar::truth).unwrap_or(unset.dry_run),
    })
}

fn default_permission(node: &Node, sink: &Sink) -> Option<DefaultPermission> {
    let read = scalar::text(node, "the default", sink)?;
    match read.value.as_str() {
        "allow" => Some(DefaultPermission::Allow),
        "deny" => Some(DefaultPermission::Deny),
        other => {
            let message = format!("`{}` is not `allow` or `deny`", scalar::shortened(other));
            let found = Diagnostic::error("unknown-word", &read.span, message)
                .hint("write one of the two: what holds for services without `allow`")
                .did_you_mean(sink.nearest(other, ["allow", "deny"]));
            sink.push(found);
            None
        }
    }
}

/// `what` is the key, for messages.
pub(super) fn callers(node: &Node, what: &str, sink: &Sink) -> Option<Listed<Spanned<Permitted>>> {
    items(node, what, MAX_CALLERS, sink, caller)
}

fn caller(node: &Node, sink: &Sink) -> Option<Spanned<Permitted>> {
    let value = match &node.value {
        Value::Map(_) => mapping(node, sink)?,
        _ => Permitted {
            callers: short(node, sink)?,
            requests: Conditions::default(),
        },
    };
    let span = node.span.clone();
    Some(Spanned { value, span })
}

/// Callers of a route's requests: one, or a list of them.
pub(super) fn callers_of_route(node: &Node, sink: &Sink) -> Option<Vec<Spanned<CallerSelector>>> {
    match &node.value {
        Value::List(_) => {
            report_empty(node, "`caller`", "leave it out for every caller", sink);
            named_callers(node, "`caller`", sink)
        }
        _ => Some(vec![caller_of_route(node, sink)?]),
    }
}

/// A list of callers, whatever they ask for; `None`: one cannot be read, or there is none.
pub(super) fn named_callers(node: &Node, what: &str, sink: &Sink) -> Option<Vec<Spanned<CallerSelector>>> {
    let read = items(node, what, MAX_ROUTE_CALLERS, sink, caller_of_route)?;
    (read.complete && !read.items.is_empty()).then_some(read.items)
}

fn caller_of_route(node: &Node, sink: &Sink) -> Option<Spanned<CallerSelector>> {
    let value = match &node.value {
        Value::Map(_) => selector(&Fields::open(node, &node.span, &ROUTE_CALLER, sink)?, node, sink)?,
        _ => short(node, sink)?,
    };
    let span = node.span.clone();
    Some(Spanned { value, span })
}

/// `web`, `batch@east`, `*@east`, `anonymous`, `spiffe://…`.
fn short(node: &Node, sink: &Sink) -> Option<CallerSelector> {
    let read = scalar::text(node, "a caller", sink)?;
    if read.value.starts_with(SCHEME) {
        let identity = identity(node, sink)?;
        return Some(CallerSelector {
            identity: Some(identity),
            ..CallerSelector::of(Who::Anyone)
        });
    }
    let (service, zone) = match read.value.split_once('@') {
        Some((service, zone)) => (service, Some(zone)),
        None => (read.value.as_str(), None),
    };
    let who = who(
        &Spanned {
            value: service.to_owned(),
            span: read.span.clone(),
        },
        sink,
    )?;
    let zone = match zone {
        Some(zone) => Some(scalar::checked_name(zone, &read.span, "a caller's zone", sink)?),
        None => None,
    };
    Some(CallerSelector {
        zone,
        ..CallerSelector::of(who)
    })
}

fn who(read: &Spanned<String>, sink: &Sink) -> Option<Who> {
    match read.value.as_str() {
        ANYONE => Some(Who::Anyone),
        ANONYMOUS => Some(Who::Anonymous),
        name => scalar::checked_name(name, &read.span, "a calling service", sink).map(Who::Service),
    }
}

fn mapping(node: &Node, sink: &Sink) -> Option<Permitted> {
    let fields = Fields::open(node, &node.span, &CALLER, sink)?;
    let requests = conditions::of_requests(&fields, &node.span, "an entry", sink);
    let callers = selector(&fields, node, sink)?;
    Some(Permitted {
        callers,
        requests: requests?,
    })
}

fn selector(fields: &Fields<'_>, node: &Node, sink: &Sink) -> Option<CallerSelector> {
    if !WHO.iter().any(|key| fields.has(key)) {
        if !fields.has_strays() {
            let message = "this entry names nobody";
            let hint = "name a `service`, `zone`, `tags` or `identity`; `\"*\"` means everyone";
            sink.push(Diagnostic::error("missing-key", &node.span, message).hint(hint));
        }
        return None;
    }
    // What is there and cannot be read must not widen the entry.
    let who = match fields.has("service") {
        true => fields.optional("service", |node, sink| {
            scalar::text(node, "a calling service", sink).and_then(|read| who(&read, sink))
        })?,
        false => Who::Anyone,
    };
    let zone = match fields.has("zone") {
        true => Some(fields.optional("zone", scalar::zone_name)?.value),
        false => None,
    };
    let tags = match fields.has("tags") {
        true => fields.optional("tags", tags)?,
        false => Default::default(),
    };
    let identity = match fields.has("identity") {
        true => Some(fields.optional("identity", identity)?),
        false => None,
    };
    Some(CallerSelector {
        who,
        zone,
        tags,
        identity,
    })
}

/// A SPIFFE id, or with `/*` at its end all below it.
fn identity(node: &Node, sink: &Sink) -> Option<IdentitySelector> {
    let read = scalar::text(node, "an identity", sink)?;
    let (base, below) = match read.value.strip_suffix("/*") {
        Some(base) => (base, true),
        None => (read.value.as_str(), false),
    };
    match base.parse::<CallerIdentity>() {
        Ok(base) => Some(IdentitySelector { base, below }),
        Err(error) => {
            let message = format!("`{}` is not a SPIFFE id: {error}", scalar::shortened(&read.value));
            let hint =
                "write `spiffe://acme.internal/app/web`, or `spiffe://acme.internal/app/*` for all below";
            sink.push(Diagnostic::error("bad-identity", &read.span, message).hint(hint));
            None
        }
    }
}
