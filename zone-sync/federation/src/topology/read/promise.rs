//! Reading `promises`: what is lost, and what goes on.

use super::{
    super::{
        diagnostic::{Diagnostic, Sink},
        fields::{Fields, MapKind, Spanned, items},
        model::Criticality,
        promises::PromisedLoss,
        raw::{Promise, PromisedNames},
        scalar,
        tree::{Node, Value},
    },
    MAX_SERVICES, MAX_ZONES,
    service::report_empty,
};
use crate::name::{ServiceName, ZoneName};

/// Most promises of one file: each is worked out anew for each loss that it is about.
const MAX_PROMISES: usize = 64;

pub(super) const PROMISE: MapKind = MapKind {
    what: "a promise",
    keys: &["lose", "keep"],
    meant: &[
        ("fail", "write `lose: any zone`"),
        ("zone", "write `lose: east`"),
        ("service", "write `keep: [orders]`"),
        ("services", "write `keep: [orders]`"),
    ],
};

const LOSSES: [(&str, PromisedLoss); 3] = [
    ("any zone", PromisedLoss::AnyZone),
    ("any gateway", PromisedLoss::AnyGateway),
    ("any instance", PromisedLoss::AnyInstance),
];

pub(super) fn promises(node: &Node, sink: &Sink) -> Option<Vec<Spanned<Promise>>> {
    let read = items(node, "`promises`", MAX_PROMISES, sink, promise)?;
    Some(read.items)
}

fn promise(node: &Node, sink: &Sink) -> Option<Spanned<Promise>> {
    let fields = Fields::open(node, &node.span, &PROMISE, sink)?;
    let lose = fields.required("lose", lose);
    let keep = fields.required("keep", keep);
    Some(Spanned {
        value: Promise {
            lose: lose?,
            keep: keep?,
        },
        span: node.span.clone(),
    })
}

/// `any zone`, `east`, `[east, west]`; `[]`: nothing.
fn lose(node: &Node, sink: &Sink) -> Option<PromisedNames<PromisedLoss, ZoneName>> {
    if let Value::List(_) = &node.value {
        let read = items(node, "`lose`", MAX_ZONES, sink, scalar::zone_name)?;
        return read.complete.then_some(PromisedNames::Named(read.items));
    }
    let read = scalar::text(node, "a loss", sink)?;
    let known = LOSSES.into_iter().find(|(word, _)| *word == read.value);
    if let Some((_, loss)) = known {
        return Some(PromisedNames::Word(loss));
    }
    if read.value.contains(' ') {
        let message = format!("`{}` is no loss", scalar::shortened(&read.value));
        let hint = "write `any zone`, `any gateway`, `any instance`, a zone such as `east`, or `[east, west]` for both at once";
        let words = LOSSES.map(|(word, _)| word);
        let found = Diagnostic::error("unknown-word", &read.span, message).hint(hint);
        sink.push(found.did_you_mean(sink.nearest(&read.value, words)));
        return None;
    }
    let zone = scalar::zone_name(node, sink)?;
    Some(PromisedNames::Named(vec![zone]))
}

/// `all`, `critical`, `normal`, `[orders, ledger]`.
fn keep(node: &Node, sink: &Sink) -> Option<PromisedNames<Option<Criticality>, ServiceName>> {
    if let Value::List(_) = &node.value {
        let read = items(node, "`keep`", MAX_SERVICES, sink, scalar::service_name)?;
        report_empty(node, "`keep`", "a promise keeps something; name a service", sink);
        return (read.complete && !read.items.is_empty()).then_some(PromisedNames::Named(read.items));
    }
    let read = scalar::text(node, "what is kept", sink)?;
    match read.value.as_str() {
        "all" => Some(PromisedNames::Word(None)),
        "critical" => Some(PromisedNames::Word(Some(Criticality::Critical))),
        "normal" => Some(PromisedNames::Word(Some(Criticality::Normal))),
        other => {
            let shown = scalar::shortened(other);
            let hint = "write `critical`, `normal` (which is critical and normal), `all`, or a list of services: `[orders]`";
            let found = Diagnostic::error(
                "unknown-word",
                &read.span,
                format!("`{shown}` is nothing that a promise keeps"),
            );
            let meant = sink.nearest(other, ["critical", "normal", "all"]);
            sink.push(found.hint(hint).did_you_mean(meant));
            None
        }
    }
}
