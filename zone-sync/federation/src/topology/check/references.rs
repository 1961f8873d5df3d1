//! Names that the file uses have to be names that it declares.

use super::{
    super::{
        diagnostic::{Diagnostic, Span},
        model::TierZone,
        permissions::{CallerSelector, Who},
    },
    Context,
};
use crate::name::{ServiceName, ZoneName};

pub(super) fn check(context: &Context<'_>) {
    for zone in context.file.apply_from.iter().flat_map(|zones| &zones.items) {
        zone_exists(context, &zone.value, &zone.span);
    }
    for zone in &context.file.zones {
        for service in zone
            .instances
            .iter()
            .filter_map(|instance| instance.service.as_ref())
        {
            service_exists(context, &service.value, &service.span);
        }
        for source in &zone.dns_sources {
            service_exists(context, &source.value.service, &source.span);
        }
    }
    for service in &context.file.services {
        for tier in service.failover.iter().flatten() {
            if let Some(TierZone::Named(zone)) = &tier.value.zone {
                zone_exists(context, zone, &tier.value.zone_span);
            }
        }
        for zone in service.export_to.iter().flat_map(|zones| &zones.items) {
            zone_exists(context, &zone.value, &zone.span);
        }
        for zone in service.run_in.iter().flat_map(|zones| &zones.items) {
            zone_exists(context, &zone.value, &zone.span);
        }
        let lists = [&service.allow, &service.deny].into_iter().flatten();
        for entry in lists.flat_map(|entries| &entries.items) {
            selected(context, &entry.value.callers, &entry.span);
        }
        let of_routes = service.routes.iter().flat_map(|route| route.value.callers());
        for caller in of_routes.chain(service.criticality_from.iter().flatten()) {
            selected(context, &caller.value, &caller.span);
        }
    }
}

fn selected(context: &Context<'_>, callers: &CallerSelector, span: &Span) {
    if let Some(zone) = &callers.zone {
        zone_exists(context, zone, span);
    }
    if let Who::Service(name) = &callers.who {
        caller_exists(context, name, span);
    }
}

pub(super) fn zone_exists(context: &Context<'_>, name: &ZoneName, span: &Span) {
    if context.zones.contains_key(name) {
        return;
    }
    let known = context.zones.keys().map(|zone| zone.as_str());
    let found = Diagnostic::error("unknown-zone", span, format!("there is no zone `{name}`"))
        .did_you_mean(context.sink.nearest(name.as_str(), known))
        .hint("zones are declared under `zones`");
    context.sink.push(found);
}

pub(super) fn service_exists(context: &Context<'_>, name: &ServiceName, span: &Span) {
    if context.services.contains_key(name) {
        return;
    }
    let known = context.services.keys().map(|service| service.as_str());
    let found = Diagnostic::error("unknown-service", span, format!("there is no service `{name}`"))
        .did_you_mean(context.sink.nearest(name.as_str(), known))
        .hint("services are declared under `services`");
    context.sink.push(found);
}

/// A caller need not be a service that others call, so an unknown one is only suspicious if it looks like a slip.
fn caller_exists(context: &Context<'_>, name: &ServiceName, span: &Span) {
    if context.services.contains_key(name) {
        return;
    }
    let known = context.services.keys().map(|service| service.as_str());
    if let Some(meant) = context.sink.nearest(name.as_str(), known) {
        let message = format!("no service `{name}` is declared, so no declared service is meant by this");
        let found = Diagnostic::warning("unknown-caller", span, message);
        context.sink.push(found.did_you_mean(Some(meant)));
    }
}
