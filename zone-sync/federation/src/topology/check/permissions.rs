//! Callers that an entry can never mean, services that nobody may call, and zones that may not run what they run.

use std::collections::BTreeSet;

use super::{
    super::{
        diagnostic::{Diagnostic, Span},
        fields::{Listed, Spanned},
        model::TierZone,
        permissions::{CallerSelector, DefaultPermission, PermissionEntry, Who},
        raw::{Permitted, Service, Zone},
    },
    Context,
};
use crate::name::{ServiceName, ZoneName};

pub(super) fn check(context: &Context<'_>) {
    for service in &context.file.services {
        run_in(context, service);
        tiers(context, service);
        reserved(context, service);
        let dead = entries(context, service);
        nobody(context, service, dead);
        let of_routes = service.routes.iter().flat_map(|route| route.value.callers());
        for caller in of_routes.chain(service.criticality_from.iter().flatten()) {
            never(context, &caller.value, &caller.span);
        }
    }
    instances(context);
}

/// Tells whether `zone` may run the service; true as well when the list could not be read to its end.
fn may_run(service: &Service, zone: &ZoneName) -> bool {
    service
        .run_in
        .as_ref()
        .is_none_or(|zones| !zones.complete || zones.items.iter().any(|known| known.value == *zone))
}

fn run_in(context: &Context<'_>, service: &Service) {
    let Some(zones) = &service.run_in else { return };
    if zones.complete && zones.items.is_empty() {
        let message = format!("no zone may run `{}`: `run_in` is empty", service.name.value);
        let hint = "name zones, or leave `run_in` out: every zone may";
        context
            .sink
            .push(Diagnostic::warning("runs-nowhere", &zones.span, message).hint(hint));
    }
}

/// Instances in a zone that may not have them get no traffic.
fn instances(context: &Context<'_>) {
    for zone in &context.file.zones {
        let fixed = zone
            .instances
            .iter()
            .filter_map(|instance| instance.service.as_ref());
        let fixed = fixed.map(|service| (&service.value, &service.span));
        let found = zone.dns_sources.iter();
        let found = found.map(|source| (&source.value.service, &source.span));
        for (name, span) in fixed.chain(found) {
            let Some(service) = context.services.get(name) else {
                continue;
            };
            if !may_run(service, &zone.name.value) {
                not_here(context, service, &zone.name.value, span);
            }
        }
    }
}

fn not_here(context: &Context<'_>, service: &Service, zone: &ZoneName, span: &Span) {
    let message = format!(
        "`{}` may not run in zone `{zone}`, so this gets no traffic",
        service.name.value
    );
    let mut found = Diagnostic::warning("may-not-run-here", span, message)
        .hint(format!("add `{zone}` to its `run_in`, or remove this"));
    if let Some(zones) = &service.run_in {
        found = found.related(&zones.span, "it may run in these zones only");
    }
    context.sink.push(found);
}

/// A tier that names a zone which may not run the service is always empty.
fn tiers(context: &Context<'_>, service: &Service) {
    for tier in service.failover.iter().flatten() {
        let Some(TierZone::Named(zone)) = &tier.value.zone else {
            continue;
        };
        if may_run(service, zone) || !context.zones.contains_key(zone) {
            continue;
        }
        let message = format!("`{}` may not run in zone `{zone}`", service.name.value);
        let mut found = Diagnostic::warning("unreachable-tier", &tier.span, message)
            .label("never reached")
            .hint(format!("add `{zone}` to `run_in`, or remove the tier"));
        if let Some(zones) = &service.run_in {
            found = found.related(&zones.span, "it may run in these zones only");
        }
        context.sink.push(found);
    }
}

/// An entry `anonymous` never means a service of that name.
fn reserved(context: &Context<'_>, service: &Service) {
    if service.name.value.as_str() == "anonymous" {
        let message = "in `allow` and `deny`, `anonymous` stands for callers that nobody could name, not for this service";
        let found = Diagnostic::warning("reserved-name", &service.name.span, message);
        context
            .sink
            .push(found.hint("choose another name if it calls other services"));
    }
}

/// Reports each entry that means nobody. Returns how many entries of `allow` let nobody in.
fn entries(context: &Context<'_>, service: &Service) -> usize {
    let none = Listed {
        items: Vec::new(),
        span: 0..0,
        complete: true,
    };
    let (allow, deny) = (
        service.allow.as_ref().unwrap_or(&none),
        service.deny.as_ref().unwrap_or(&none),
    );
    for entry in &deny.items {
        never(context, &entry.value.callers, &entry.span);
    }
    // What could not be compiled has been reported, and covers nothing.
    let compiled = deny
        .items
        .iter()
        .map(|entry| Some((entry.value.compiled()?, &entry.span)));
    let denied: Vec<(PermissionEntry, &Span)> = compiled.flatten().collect();
    let dead = allow.items.iter().filter(|entry| {
        never(context, &entry.value.callers, &entry.span) || shadowed(context, entry, &denied)
    });
    dead.count()
}

fn shadowed(context: &Context<'_>, entry: &Spanned<Permitted>, deny: &[(PermissionEntry, &Span)]) -> bool {
    let Some(permitted) = entry.value.compiled() else {
        return false;
    };
    let Some((_, by)) = deny.iter().find(|(denied, _)| denied.covers(&permitted)) else {
        return false;
    };
    let message = format!("`{permitted}` is denied, so this lets nobody in");
    let found = Diagnostic::warning("shadowed-caller", &entry.span, message)
        .related(by, "`deny` beats `allow`")
        .hint("remove one of the two");
    context.sink.push(found);
    true
}

fn never(context: &Context<'_>, callers: &CallerSelector, span: &Span) -> bool {
    let Some((why, hint)) = impossible(context, callers) else {
        return false;
    };
    let message = format!("no caller can ever be `{callers}`: {why}");
    let found = Diagnostic::warning("caller-never-matches", span, message).hint(hint);
    context.sink.push(found);
    true
}

/// Reason why nobody can be what the entry asks for, and what to do about it.
fn impossible(context: &Context<'_>, entry: &CallerSelector) -> Option<(String, String)> {
    if entry.who == Who::Anonymous && (!entry.tags.is_empty() || entry.identity.is_some()) {
        let why = "of an anonymous caller only the zone is known";
        return Some((why.to_owned(), "leave out `tags` and `identity`".to_owned()));
    }
    if let Who::Service(name) = &entry.who {
        let found = outside(context, name, entry.zone.as_ref());
        if found.is_some() {
            return found;
        }
    }
    let identity = entry.identity.as_ref()?;
    identity_elsewhere(
        context,
        identity.trust_domain(),
        identity.zone(),
        entry.zone.as_ref(),
    )
}

/// A caller that may not run where the entry looks for it.
fn outside(context: &Context<'_>, name: &ServiceName, zone: Option<&ZoneName>) -> Option<(String, String)> {
    let service = context.services.get(name)?;
    match zone {
        Some(zone) if context.zones.contains_key(zone) && !may_run(service, zone) => Some((
            format!("`{name}` may not run in zone `{zone}`"),
            format!("add `{zone}` to the `run_in` of `{name}`, or name a zone that it has"),
        )),
        None if service
            .run_in
            .as_ref()
            .is_some_and(|zones| zones.complete && zones.items.is_empty()) =>
        {
            Some((
                format!("no zone may run `{name}`"),
                format!("add zones to the `run_in` of `{name}`"),
            ))
        }
        _ => None,
    }
}

/// Says whose gateways could vouch for an identity of `trust_domain`, if anybody's.
fn identity_elsewhere(
    context: &Context<'_>,
    trust_domain: &str,
    named: Option<&str>,
    zone: Option<&ZoneName>,
) -> Option<(String, String)> {
    if let (Some(named), Some(zone)) = (named, zone)
        && named != zone.as_str()
    {
        let why = format!("the identity is one of zone `{named}`, and only that zone may speak for it");
        return Some((why, "name the same zone in both, or leave `zone` out".to_owned()));
    }
    let speaks = |one: &&Zone| {
        let name = one.name.value.as_str();
        zone.is_none_or(|zone| zone.as_str() == name) && named.is_none_or(|named| named == name)
    };
    let zones = context.file.zones.iter().filter(speaks);
    let believed: Option<BTreeSet<&str>> = zones
        .map(|zone| Some(context.file.trust_domain_of(zone)?.value.as_str()))
        .collect();
    let believed = believed?;
    if believed.is_empty() || believed.contains(trust_domain) {
        return None;
    }
    let believed: Vec<&str> = believed.into_iter().collect();
    let why = format!("only identities of {} are believed", super::named(&believed));
    Some((why, format!("write `spiffe://{}/…`", believed[0])))
}

/// A service that lets nobody in, `dead` being the entries of its `allow` that let nobody in.
fn nobody(context: &Context<'_>, service: &Service, dead: usize) {
    let name = &service.name.value;
    let Some(allow) = &service.allow else {
        if context.file.permissions.default == DefaultPermission::Deny {
            let message = format!("nobody may call `{name}`: the default is `deny` and it has no `allow`");
            let hint = "name its callers: `allow: [web]`; `allow: [\"*\"]` lets everyone in";
            let found = Diagnostic::warning("nobody-may-call", &service.name.span, message);
            context.sink.push(found.hint(hint));
        }
        return;
    };
    if !allow.complete {
        return;
    }
    let message = match allow.items.len() {
        0 => format!("nobody may call `{name}`: `allow` is empty"),
        all if all == dead => format!("nobody may call `{name}`: no entry of `allow` lets anybody in"),
        _ if allow
            .items
            .iter()
            .all(|entry| shut_out(service, &entry.value.callers)) =>
        {
            format!(
                "nobody in another zone may call `{name}`: it is not exported to the zones of its callers"
            )
        }
        _ => return,
    };
    let hint = match context.file.permissions.default {
        DefaultPermission::Allow => {
            "name callers, or leave `allow` out to let any service of the federation call"
        }
        DefaultPermission::Deny => "name callers; `allow: [\"*\"]` lets everyone in",
    };
    context
        .sink
        .push(Diagnostic::warning("nobody-may-call", &allow.span, message).hint(hint));
}

/// Tells whether the entry means only callers in a zone that the service is not exported to.
fn shut_out(service: &Service, entry: &CallerSelector) -> bool {
    let (Some(zone), Some(exported)) = (&entry.zone, &service.export_to) else {
        return false;
    };
    exported.complete && !exported.items.iter().any(|known| known.value == *zone)
}
