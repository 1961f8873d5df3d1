//! Reading tags: on zones and instances, and as selectors.

use super::super::{
    diagnostic::{Diagnostic, Sink, Span},
    fields::{check_limit, map},
    scalar::{self, MAX_TAG_BYTES, OWN},
    tree::Node,
};
use crate::name::{MAX_TAGS, Tags};

/// Tells whether a tag's key and value may hold this byte; the characters of Kubernetes labels, so that those can be taken over.
fn allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._/-".contains(&byte)
}

/// Tells whether a text can be the key or the value of a tag.
pub(in super::super) fn is_tag(text: &str) -> bool {
    (1..=MAX_TAG_BYTES).contains(&text.len()) && text.bytes().all(allowed)
}

/// Key and value pairs with the place of each value.
pub(super) fn pairs(node: &Node, sink: &Sink) -> Option<Vec<(String, String, Span)>> {
    let entries = map(node, &node.span, "`tags`", sink)?;
    check_limit(entries.len(), MAX_TAGS, "`tags`", &node.span, sink);
    let how = "use up to 63 of a-z, A-Z, 0-9 and `._/-`";
    let pairs = entries.iter().take(MAX_TAGS).filter_map(|entry| {
        let key = &entry.key;
        if key.is_empty() || key.len() > MAX_TAG_BYTES || !key.bytes().all(allowed) {
            let message = format!("`{}` cannot be the key of a tag", scalar::shortened(key));
            sink.push(Diagnostic::error("bad-tag", &entry.key_span, message).hint(how));
            return None;
        }
        let value = scalar::token(&entry.value, "a tag's value", how, MAX_TAG_BYTES, allowed, sink)?;
        Some((key.clone(), value, entry.value.span.clone()))
    });
    Some(pairs.collect())
}

/// Tags with plain values. `self` is refused: it only has a meaning in failover tiers.
pub(super) fn tags(node: &Node, sink: &Sink) -> Option<Tags> {
    let pairs = pairs(node, sink)?;
    for (key, _, span) in pairs.iter().filter(|(_, value, _)| value == OWN) {
        let message = format!("`{key}: {OWN}` has a meaning only in the tiers of `failover`");
        sink.push(Diagnostic::error("bad-tag", span, message).hint("write the value itself"));
    }
    Some(pairs.into_iter().map(|(key, value, _)| (key, value)).collect())
}
