//! Reading `trust_domains`: the bundles by which gateways of different trust domains know each other.

use super::super::{
    diagnostic::{Diagnostic, Sink},
    fields::{Fields, MapKind, check_limit, map},
    raw::TrustDomain,
    scalar,
    tree::{MapEntry, Node},
};
use crate::trust::Bundle;

const MAX_TRUST_DOMAINS: usize = 64;

pub(super) const TRUST_DOMAIN: MapKind = MapKind {
    what: "an entry of `trust_domains`",
    keys: &["bundle"],
    meant: &[
        ("roots", "the certificates of its CAs are its `bundle`"),
        ("ca", "the certificates of its CAs are its `bundle`"),
        (
            "zones",
            "zones name their trust domain: `plant: { trust_domain: … }`",
        ),
    ],
};

pub(super) fn trust_domains(node: &Node, sink: &Sink) -> Option<Vec<TrustDomain>> {
    let entries = map(node, &node.span, "`trust_domains`", sink)?;
    let first_line = node.span.start..node.span.start;
    check_limit(
        entries.len(),
        MAX_TRUST_DOMAINS,
        "`trust_domains`",
        &first_line,
        sink,
    );
    let entries = entries.iter().take(MAX_TRUST_DOMAINS);
    Some(entries.filter_map(|entry| trust_domain(entry, sink)).collect())
}

fn trust_domain(entry: &MapEntry, sink: &Sink) -> Option<TrustDomain> {
    let name = scalar::domain_key(&entry.key, &entry.key_span, "a trust domain", sink)?;
    let fields = Fields::open(&entry.value, &entry.key_span, &TRUST_DOMAIN, sink);
    let bundle = fields.and_then(|fields| {
        fields.required("bundle", |node, sink| {
            bundle(node, &name.value, &entry.key_span, sink)
        })
    });
    Some(TrustDomain { name, bundle })
}

/// `at` is what findings point to: a bundle is many lines, and none of them is to be read by a person.
fn bundle(node: &Node, trust_domain: &str, at: &std::ops::Range<usize>, sink: &Sink) -> Option<Bundle> {
    let text = scalar::text(node, "a bundle", sink)?;
    match Bundle::read(&text.value, trust_domain) {
        Ok(bundle) => Some(bundle),
        Err(error) => {
            let message = format!("the bundle of `{trust_domain}` cannot be used: {error}");
            sink.push(Diagnostic::error("bad-bundle", at, message).hint(error.hint()));
            None
        }
    }
}
