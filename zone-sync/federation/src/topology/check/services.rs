//! Splits that take nothing, tags that nothing carries, keys that wait for a version.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        capacity_rule::CapacityRule,
        diagnostic::{Diagnostic, Span},
        fields::{Listed, Spanned},
        model::{Protocol, SplitArm},
        raw::Service,
    },
    Context,
};
use crate::name::{ServiceName, Tags};

pub(super) fn check(context: &Context<'_>) {
    let carried = carried(context);
    for service in &context.file.services {
        let tags = carried.get(&service.name.value).map_or(&[][..], Vec::as_slice);
        if tags.is_empty() {
            let message = match context.around.registered {
                None => format!("no zone has an instance of `{}` in this file", service.name.value),
                Some(_) => format!(
                    "no zone has an instance of `{}`, in this file or registered",
                    service.name.value
                ),
            };
            let hint = "add one under a zone's `instances`, or register it there with `causeway register`";
            context
                .sink
                .push(Diagnostic::warning("no-instances", &service.name.span, message).hint(hint));
        }
        let routed = service
            .routes
            .iter()
            .filter_map(|route| route.value.split.as_ref());
        if let Some(split) = &service.split {
            weights(context, split, "so the service takes no traffic at all");
            arms(context, &split.items, tags);
        }
        if let Some(shift) = service
            .shift
            .as_ref()
            .filter(|shift| shift.value.state.is_active())
        {
            let to = &shift.value.plan.to;
            if !tags.is_empty() && !tags.iter().any(|instance| instance.matches(to)) {
                context
                    .sink
                    .push(nowhere_found(context, &shift.span, to, tags, false));
            }
        }
        for split in routed {
            weights(context, split, "so nobody serves what its route matches");
            arms(context, &split.items, tags);
        }
        protocol(context, service);
        connections(context, service);
        capacity(context, service);
    }
    not_in_force(context);
}

/// Distinct tag sets of the fixed instances of each service, of those that DNS is asked for, and of those that are known to be
/// registered.
fn carried<'a>(context: &Context<'a>) -> BTreeMap<&'a ServiceName, Vec<&'a Tags>> {
    let mut carried: BTreeMap<&ServiceName, BTreeSet<&Tags>> = BTreeMap::new();
    for instance in context.file.zones.iter().flat_map(|zone| &zone.instances) {
        if let Some(service) = &instance.service {
            carried.entry(&service.value).or_default().insert(&instance.tags);
        }
    }
    for source in context.file.zones.iter().flat_map(|zone| &zone.dns_sources) {
        let (service, tags) = (&source.value.service, &source.value.tags);
        carried.entry(service).or_default().insert(tags);
    }
    for (service, tags) in context.around.registered.into_iter().flatten() {
        carried.entry(service).or_default().extend(tags);
    }
    carried
        .into_iter()
        .map(|(service, tags)| (service, tags.into_iter().collect()))
        .collect()
}

/// Without `spill` nobody looks at what instances can take.
fn capacity(context: &Context<'_>, service: &Service) {
    if service.policies.spill.is_some() {
        return;
    }
    let instances = context.file.zones.iter().flat_map(|zone| &zone.instances);
    let mut own = instances.filter(|instance| {
        let of = instance.service.as_ref().map(|of| &of.value);
        of == Some(&service.name.value)
    });
    let Some(capacity) = own.find_map(|instance| instance.capacity.as_ref()) else {
        return;
    };
    let name = &service.name.value;
    let message = format!("`capacity` says nothing here: `{name}` has no `spill`");
    let found = Diagnostic::warning("capacity-without-spill", &capacity.span, message);
    let hint =
        "add `spill: {}` to the service, which keeps every zone within its capacity; or remove the key";
    context
        .sink
        .push(found.related(&service.name.span, "the service").hint(hint));
}

fn weights(context: &Context<'_>, split: &Listed<Spanned<SplitArm>>, so: &str) {
    if split.complete && !split.items.is_empty() && split.items.iter().all(|arm| arm.value.weight == 0) {
        let message = format!("every arm of this split has weight 0, {so}");
        let hint = "give at least one arm a weight; without the key it is 1";
        context
            .sink
            .push(Diagnostic::error("split-takes-nothing", &split.span, message).hint(hint));
    }
}

fn arms(context: &Context<'_>, split: &[Spanned<SplitArm>], carried: &[&Tags]) {
    for (index, arm) in split.iter().enumerate() {
        let tags = &arm.value.tags;
        if let Some(earlier) = split[..index].iter().find(|other| other.value.tags == *tags) {
            let message = format!("two arms of this split pick the same tags {tags}");
            let found = Diagnostic::warning("duplicate-arm", &arm.span, message)
                .related(&earlier.span, "first given here")
                .hint("their weights add up; write one arm");
            context.sink.push(found);
        }
        let nowhere = !carried.iter().any(|instance| instance.matches(tags));
        // A service without any instance in the file is reported as a whole.
        if arm.value.weight > 0 && nowhere && !carried.is_empty() {
            context.sink.push(nowhere_found(
                context,
                &arm.span,
                tags,
                carried,
                is_alone(split, index),
            ));
        }
    }
}

/// Tells whether no other arm takes what this one does not.
fn is_alone(split: &[Spanned<SplitArm>], index: usize) -> bool {
    let mut others = split.iter().enumerate().filter(|(place, _)| *place != index);
    others.all(|(_, arm)| arm.value.weight == 0)
}

fn nowhere_found(
    context: &Context<'_>,
    span: &Span,
    tags: &Tags,
    carried: &[&Tags],
    is_alone: bool,
) -> Diagnostic {
    let message = match context.around.registered {
        None => format!("no instance in this file carries {tags}"),
        Some(_) => format!("no instance carries {tags}, in this file or registered"),
    };
    let pairs: BTreeSet<String> = carried
        .iter()
        .flat_map(|tags| tags.iter().map(|(key, value)| format!("{key}: {value}")))
        .collect();
    let meant = tags.iter().find_map(|(key, value)| {
        let pair = format!("{key}: {value}");
        if pairs.contains(&pair) {
            return None;
        }
        context.sink.nearest(&pair, pairs.iter().map(String::as_str))
    });
    Diagnostic::warning("tags-nowhere", span, message)
        .did_you_mean(meant)
        .hint(match is_alone {
            true => "until such an instance is registered, nobody serves what this split is for",
            false => "until such an instance is registered, the other arms take this share",
        })
}

fn protocol(context: &Context<'_>, service: &Service) {
    for protocol in service.ports.iter().filter_map(|port| port.protocol.as_ref()) {
        if protocol.value == Protocol::Udp {
            // It would be carried as TCP, and nobody would be told.
            let message = "`protocol: udp` is not in force in this version: nothing would carry this service";
            let found = Diagnostic::error("udp-not-in-force", &protocol.span, message).hint(
                "leave the service out until a version that carries UDP; its clients go on as they do now",
            );
            context.sink.push(found);
        }
    }
    let Some(protocols) = service.protocols() else {
        return;
    };
    let any_http = protocols.iter().any(|protocol| protocol.value.is_http());
    if !any_http {
        without_requests(context, service);
    }
    let bytes = protocols.iter().find(|protocol| !protocol.value.is_http());
    let entries = [&service.allow, &service.deny].into_iter().flatten();
    let mut entries = entries.flat_map(|entries| &entries.items);
    if let Some(bytes) = bytes
        && let Some(entry) = entries.find(|entry| entry.value.is_of_requests())
    {
        let message = match any_http {
            false => "methods and paths are those of HTTP requests, and this service is not `http` or `grpc`",
            true => {
                "methods and paths are those of HTTP requests, and not every port of this service is `http` or `grpc`"
            }
        };
        let hint = match any_http {
            false => "set `protocol: http` or `protocol: grpc`, or leave methods and paths out of the entry",
            true => {
                "nobody could say what passes through the other port: make that a service of its own, or leave methods and paths out of the entry"
            }
        };
        let mut found = Diagnostic::error("permissions-need-http", &entry.span, message).hint(hint);
        if any_http {
            found = found.related(&bytes.span, "its bytes are not looked into");
        }
        context.sink.push(found);
    }
}

/// Keys about requests of a service at none of whose ports requests are looked at.
fn without_requests(context: &Context<'_>, service: &Service) {
    if let Some(route) = service.routes.first() {
        let message = "routes look into HTTP requests, and this service is not `http` or `grpc`";
        let found = Diagnostic::error("routes-need-http", &route.span, message)
            .hint("set `protocol: http` or `protocol: grpc`, or remove the routes");
        context.sink.push(found);
    }
    if let Some(sticky) = &service.policies.sticky
        && sticky.value.is_of_requests()
    {
        let message = "cookies and headers are those of requests, and this service is not `http` or `grpc`";
        let found = Diagnostic::error("sticky-needs-http", &sticky.span, message)
            .hint("set `protocol: http` or `protocol: grpc`, or write `sticky: { by: caller }`");
        context.sink.push(found);
    }
    if let Some(spill) = &service.policies.spill
        && spill.value.capacity == CapacityRule::Measured
    {
        let message =
            "`capacity: measured` goes by the answers to requests, and this service is not `http` or `grpc`";
        let found = Diagnostic::warning("needs-http", &spill.span, message)
            .hint("nothing is measured; set `protocol: http` or `protocol: grpc`, or declare what instances can take");
        context.sink.push(found);
    }
    for key in &service.of_requests {
        let message = format!(
            "`{}` is about requests, and this service is not `http` or `grpc`",
            key.value
        );
        let found = Diagnostic::warning("needs-http", &key.span, message)
            .hint("it has no effect; set `protocol: http` or `protocol: grpc`, or remove it");
        context.sink.push(found);
    }
}

/// A gRPC call is routed by itself, and no connection of gRPC becomes anything else.
fn connections(context: &Context<'_>, service: &Service) {
    let protocols = service.protocols().unwrap_or_default();
    let mut protocols = protocols.iter();
    let is_grpc = protocols.len() > 0 && protocols.all(|protocol| protocol.value == Protocol::Grpc);
    if let Some(policy) = &service.connections
        && is_grpc
        && policy.value.linger.is_some()
    {
        let message =
            "`linger` means nothing with `protocol: grpc`: each call goes where it belongs by itself";
        let found = Diagnostic::error("nothing-lingers", &policy.span, message);
        let hint = "remove it; `max_age` has clients connect anew";
        context.sink.push(found.hint(hint));
    }
}

/// One warning for each key that nothing acts on yet, at its first use, with the number of its uses.
fn not_in_force(context: &Context<'_>) {
    let mut uses: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for service in &context.file.services {
        for key in &service.waiting {
            uses.entry(key.value).or_default().push(&key.span);
        }
    }
    for (key, spans) in uses {
        let Some(first) = spans.first() else { continue };
        let times = match spans.len() {
            1 => String::new(),
            times => format!(" ({times} uses)"),
        };
        let message = format!("`{key}` is accepted but not yet in force in this version{times}");
        let hint = "the file stays valid; the key takes effect with a later version";
        context
            .sink
            .push(Diagnostic::warning("not-in-force", first, message).hint(hint));
    }
}
