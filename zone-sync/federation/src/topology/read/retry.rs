//! Reading when a request is tried again.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    super::{
        diagnostic::{Diagnostic, Sink},
        fields::{Fields, MapKind, items},
        retry::{GrpcCode, IDEMPOTENT_METHODS, Retry, RetryCondition},
        scalar,
        tree::Node,
    },
    policy::{count, share},
    route::{conditions::method, timeout},
};

pub(super) const RETRY: MapKind = MapKind {
    what: "`retry`",
    keys: &["attempts", "on", "per_try_timeout", "methods", "budget"],
    meant: &[
        (
            "timeout",
            "write `per_try_timeout: 2s`; `timeout` of the service is for all tries",
        ),
        ("retry_on", "write `on: [reset, 503]`"),
    ],
};

const DEFAULT_ATTEMPTS: u32 = 2;
const MAX_ATTEMPTS: u32 = 10;
const DEFAULT_BUDGET: f64 = 0.2;
const MAX_CONDITIONS: usize = 64;
const MAX_METHODS: usize = 32;
/// Statuses that can be a reason: those that say that something went wrong.
const STATUSES: std::ops::RangeInclusive<u16> = 400..=599;
const DEFAULT_CONDITIONS: [RetryCondition; 6] = [
    RetryCondition::ConnectFailure,
    RetryCondition::Reset,
    RetryCondition::Status(502),
    RetryCondition::Status(503),
    RetryCondition::Status(504),
    RetryCondition::Code(GrpcCode::Unavailable),
];
const WORDS: [(&str, RetryCondition); 2] = [
    ("connect-failure", RetryCondition::ConnectFailure),
    ("reset", RetryCondition::Reset),
];

pub(super) fn retry(node: &Node, sink: &Sink) -> Option<Arc<Retry>> {
    let fields = Fields::open(node, &node.span, &RETRY, sink)?;
    let attempts = fields.optional("attempts", |node, sink| count(node, MAX_ATTEMPTS, sink));
    let on = fields.optional("on", |node, sink| {
        items(node, "`on`", MAX_CONDITIONS, sink, condition)
    });
    let methods = fields.optional("methods", |node, sink| {
        items(node, "`methods`", MAX_METHODS, sink, method)
    });
    Some(Arc::new(Retry {
        attempts: attempts.unwrap_or(DEFAULT_ATTEMPTS),
        on: match on {
            Some(on) => on.items.into_iter().collect(),
            None => BTreeSet::from(DEFAULT_CONDITIONS),
        },
        per_try_timeout: fields.optional("per_try_timeout", timeout),
        methods: match methods {
            Some(methods) => methods.items.into_iter().collect(),
            None => IDEMPOTENT_METHODS.map(str::to_owned).into(),
        },
        budget: fields.optional("budget", share).unwrap_or(DEFAULT_BUDGET),
    }))
}

fn condition(node: &Node, sink: &Sink) -> Option<RetryCondition> {
    let read = scalar::text(node, "a reason to try again", sink)?;
    let word = read.value.as_str();
    let status = word.parse().ok().filter(|status| STATUSES.contains(status));
    let known = WORDS.iter().find(|(known, _)| *known == word);
    let code = GrpcCode::ALL.iter().find(|(known, _, _)| *known == word);
    let condition = known
        .map(|(_, condition)| *condition)
        .or_else(|| code.map(|(_, _, code)| RetryCondition::Code(*code)))
        .or_else(|| status.map(RetryCondition::Status));
    if condition.is_none() {
        let words = || {
            let codes = GrpcCode::ALL.into_iter().map(|(word, _, _)| word);
            WORDS.into_iter().map(|(word, _)| word).chain(codes)
        };
        let all: Vec<&str> = words().collect();
        let message = format!("`{}` is not a reason to try again", scalar::shortened(word));
        let hint = format!("it is a status from 400 to 599, or one of {}", all.join(", "));
        let found = Diagnostic::error("unknown-word", &read.span, message);
        sink.push(found.hint(hint).did_you_mean(sink.nearest(word, words())));
    }
    condition
}
