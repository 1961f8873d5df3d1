//! Reading by what the requests of one user are kept together.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use super::{
    super::{
        diagnostic::{Diagnostic, Sink},
        fields::{Fields, MapKind},
        scalar::{self, shortened},
        sticky::Sticky,
        tree::Node,
    },
    route::headers::field_name,
};

pub(super) const STICKY: MapKind = MapKind {
    what: "`sticky`",
    keys: &["by", "name", "ttl", "path"],
    meant: &[
        ("cookie", "write `by: cookie, name: session`"),
        ("header", "write `by: header, name: x-user`"),
        ("max_age", "write `ttl: 1h`"),
    ],
};

const WORDS: [&str; 3] = ["cookie", "header", "caller"];
const MAX_COOKIE_BYTES: usize = 64;
const TTLS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(400 * 24 * 3600);

pub(super) fn sticky(node: &Node, sink: &Sink) -> Option<Arc<Sticky>> {
    let fields = Fields::open(node, &node.span, &STICKY, sink)?;
    let by = fields.required("by", |node, sink| {
        let read = scalar::text(node, "a mark", sink)?;
        let known = WORDS.into_iter().find(|word| *word == read.value);
        if known.is_none() {
            let message = format!("`{}` is not what keeps requests together", shortened(&read.value));
            let found = Diagnostic::error("unknown-word", &read.span, message)
                .hint(format!("it is one of {}", WORDS.join(", ")))
                .did_you_mean(sink.nearest(&read.value, WORDS));
            sink.push(found);
        }
        known
    })?;
    let none_of = |keys: &[&str]| {
        for key in keys {
            if let Some(span) = fields.key_span(key) {
                let message = format!("`{key}` means nothing with `by: {by}`");
                sink.push(Diagnostic::error("nothing-sticks", &span, message).hint("remove it"));
            }
        }
    };
    Some(Arc::new(match by {
        "cookie" => Sticky::Cookie {
            name: fields.required("name", cookie)?,
            ttl: fields
                .optional("ttl", |node, sink| {
                    scalar::duration(node, "a cookie's age", TTLS, sink)
                })
                .map(|ttl| ttl.value),
            path: fields
                .optional("path", cookie_path)
                .unwrap_or_else(|| "/".to_owned()),
        },
        "header" => {
            none_of(&["ttl", "path"]);
            Sticky::Header(fields.required("name", |node, sink| {
                let read = scalar::text(node, "a header's name", sink)?;
                field_name(&read.value, &read.span, sink)
            })?)
        }
        _ => {
            none_of(&["name", "ttl", "path"]);
            Sticky::Caller
        }
    }))
}

/// A name that every program reads as one (RFC 6265, 4.1.1).
fn cookie(node: &Node, sink: &Sink) -> Option<String> {
    let how = "use up to 64 letters, digits and `-_.`";
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    scalar::token(node, "a cookie's name", how, MAX_COOKIE_BYTES, allowed, sink)
}

fn cookie_path(node: &Node, sink: &Sink) -> Option<String> {
    let path = scalar::path(node, "a cookie's path", sink)?;
    if path.contains(';') || path.bytes().any(|byte| !byte.is_ascii_graphic()) {
        let message = format!("`{}` is not a cookie's path", shortened(&path));
        let found = Diagnostic::error("bad-path", &node.span, message);
        sink.push(found.hint("write visible ASCII without `;`"));
        return None;
    }
    Some(path)
}
