//! Trust domains: each that a zone names has to be known, and where there are several, each needs a bundle, because every
//! gateway has to check those of the others.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::diagnostic::Diagnostic, Context, named};

pub(super) fn check(context: &Context<'_>) {
    distinct(context);
    let Some(own) = &context.file.trust_domain else {
        return;
    };
    let bundles: BTreeSet<&str> = context
        .file
        .trust_domains
        .iter()
        .map(|domain| domain.name.value.as_str())
        .collect();
    // By trust domain, its first zone.
    let mut used = BTreeMap::new();
    for zone in &context.file.zones {
        let domain = context.file.trust_domain_of(zone).unwrap_or(own);
        used.entry(domain.value.as_str()).or_insert((zone, &domain.span));
        if domain.value != own.value && !bundles.contains(domain.value.as_str()) {
            let known = bundles.iter().copied().chain([own.value.as_str()]);
            let message = format!("there is no trust domain `{}`", domain.value);
            let found = Diagnostic::error("unknown-trust-domain", &domain.span, message)
                .did_you_mean(context.sink.nearest(&domain.value, known))
                .hint("its CA's certificate belongs under `trust_domains`: `NAME: { bundle: … }`");
            context.sink.push(found);
        }
    }
    if used.len() > 1 && used.contains_key(own.value.as_str()) && !bundles.contains(own.value.as_str()) {
        let others: Vec<&str> = used
            .keys()
            .copied()
            .filter(|domain| *domain != own.value)
            .collect();
        let message = format!(
            "`{}` has no bundle, so gateways of {} cannot check its gateways",
            own.value,
            named(&others)
        );
        let hint = format!(
            "put its CA's certificate under `trust_domains`: `{}: {{ bundle: … }}`",
            own.value
        );
        context
            .sink
            .push(Diagnostic::error("no-bundle", &own.span, message).hint(hint));
    }
    for domain in context
        .file
        .trust_domains
        .iter()
        // One that cannot be read has been told of.
        .filter(|domain| domain.bundle.is_some() && !used.contains_key(domain.name.value.as_str()))
    {
        let message = format!(
            "no zone is of trust domain `{}`, so nobody is believed for it",
            domain.name.value
        );
        let hint = "give a zone `trust_domain`, or remove this";
        context
            .sink
            .push(Diagnostic::warning("unused-bundle", &domain.name.span, message).hint(hint));
    }
}

/// Names differ by more than their case and a final dot.
fn distinct(context: &Context<'_>) {
    let mut seen = BTreeMap::new();
    for domain in &context.file.trust_domains {
        if let Some(first) = seen.insert(&domain.name.value, &domain.name.span) {
            let message = format!("the trust domain `{}` is given twice", domain.name.value);
            let found = Diagnostic::error("duplicate-trust-domain", &domain.name.span, message)
                .related(first, "the first is here")
                .hint("put all certificates into one `bundle`");
            context.sink.push(found);
        }
    }
}
