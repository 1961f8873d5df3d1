//! Failover tiers that can never be reached, or not from everywhere.

use std::collections::BTreeSet;

use super::{
    super::{
        diagnostic::{Diagnostic, Span},
        fields::Spanned,
        model::{TierTag, TierZone},
        raw::{Service, Tier, Zone},
    },
    Context, named,
};
use crate::name::ZoneName;

const NEVER: &str = "unreachable-tier";

pub(super) fn check(context: &Context<'_>) {
    for service in &context.file.services {
        let Some(tiers) = &service.failover else { continue };
        order(context, tiers);
        let callers = callers(context, service);
        for tier in tiers {
            zone_tags(context, tier);
            own_tags(context, tier, &callers);
            exported(context, service, tier);
        }
    }
}

/// A tier after one that takes any zone, or after its own double, is never asked.
fn order(context: &Context<'_>, tiers: &[Spanned<Tier>]) {
    let mut any_zone: Option<&Span> = None;
    for (index, tier) in tiers.iter().enumerate() {
        let earlier = tiers[..index]
            .iter()
            .find(|other| other.value.is_like(&tier.value));
        let found = match (any_zone, earlier) {
            (Some(any), _) => Diagnostic::warning(NEVER, &tier.span, "this tier can never be reached")
                .related(any, "this tier already takes any zone")
                .hint("move the tier that takes any zone to the end"),
            (None, Some(other)) => Diagnostic::warning(NEVER, &tier.span, "this tier is given twice")
                .related(&other.span, "first given here")
                .hint("remove one of the two"),
            (None, None) => {
                if tier.value.zone.is_none() && tier.value.tags.is_empty() {
                    any_zone = Some(&tier.span);
                }
                continue;
            }
        };
        context.sink.push(found.label("never reached"));
    }
}

/// Tags of zones stand only in the file, so a tier whose tags no zone carries is certain to be empty.
fn zone_tags(context: &Context<'_>, tier: &Spanned<Tier>) {
    let wanted: Vec<(&str, &str)> = fixed_tags(&tier.value).collect();
    if wanted.is_empty() {
        return;
    }
    let carries = |zone: &Zone| {
        wanted
            .iter()
            .all(|(key, value)| zone.tags.value(key) == Some(value))
    };
    let wanted_text: Vec<String> = wanted
        .iter()
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    let wanted_text = wanted_text.join(", ");
    let message = match &tier.value.zone {
        Some(TierZone::Named(name)) => match context.zones.get(name) {
            Some(zone) if !carries(zone) => format!("zone `{name}` is not tagged `{wanted_text}`"),
            _ => return,
        },
        _ if context.file.zones.iter().any(carries) => return,
        _ => format!("no zone is tagged `{wanted_text}`"),
    };
    let found = Diagnostic::warning(NEVER, &tier.span, message)
        .label("never reached")
        .hint("the tags of a tier are those of zones, not of instances");
    context.sink.push(found);
}

fn fixed_tags(tier: &Tier) -> impl Iterator<Item = (&str, &str)> {
    tier.tags.iter().filter_map(|(key, tag)| match tag {
        TierTag::Is(value) => Some((key.as_str(), value.as_str())),
        TierTag::Own => None,
    })
}

/// A tier by the caller's own tag says nothing to a caller whose zone has no such tag.
fn own_tags(context: &Context<'_>, tier: &Spanned<Tier>, callers: &[&Zone]) {
    for (key, _) in tier.value.tags.iter().filter(|(_, tag)| **tag == TierTag::Own) {
        let lacking = callers.iter().filter(|zone| zone.tags.value(key).is_none());
        let lacking: Vec<&str> = lacking.map(|zone| zone.name.value.as_str()).collect();
        if lacking.is_empty() {
            continue;
        }
        let (plural, verb) = if lacking.len() == 1 {
            ("", "has")
        } else {
            ("s", "have")
        };
        let message = format!(
            "`{key}: self` means nothing in zone{plural} {}, which {verb} no tag `{key}`",
            named(&lacking)
        );
        let found = Diagnostic::warning("own-tag-missing", &tier.span, message).hint(format!(
            "calls from there skip this tier; give the zone{plural} a tag `{key}`"
        ));
        context.sink.push(found);
    }
}

/// The zones that may call this service from elsewhere: all, or those that it is exported to.
fn callers<'a>(context: &Context<'a>, service: &Service) -> Vec<&'a Zone> {
    let exported: Option<BTreeSet<&ZoneName>> = exported_to(service);
    let zones = context.file.zones.iter();
    zones
        .filter(|zone| {
            exported
                .as_ref()
                .is_none_or(|names| names.contains(&zone.name.value))
        })
        .collect()
}

fn exported_to(service: &Service) -> Option<BTreeSet<&ZoneName>> {
    let zones = service.export_to.as_ref()?;
    Some(zones.items.iter().map(|zone| &zone.value).collect())
}

/// Checks that somebody else than the serving zone may call: else the tier can only ever stand for the own zone.
fn exported(context: &Context<'_>, service: &Service, tier: &Spanned<Tier>) {
    let (Some(exported), Some(list)) = (exported_to(service), &service.export_to) else {
        return;
    };
    if !list.complete {
        return;
    }
    let message = match &tier.value.zone {
        Some(TierZone::Named(zone)) if exported.iter().all(|caller| *caller == zone) => {
            format!("no other zone may call what zone `{zone}` serves")
        }
        None if exported.is_empty() => "no zone may call what another zone serves".to_owned(),
        _ => return,
    };
    let found = Diagnostic::warning(NEVER, &tier.span, message)
        .label("never reached from another zone")
        .related(&list.span, "the service is exported to these zones only")
        .hint("add the calling zones to `export_to`, or remove the tier");
    context.sink.push(found);
}
