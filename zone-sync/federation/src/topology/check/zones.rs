//! Zones that nobody exports to, that cannot reach each other, or that say the same thing twice.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use super::{
    super::{
        diagnostic::{Diagnostic, Sink, Span},
        fields::Spanned,
        raw::{Instance, Vips, Zone},
        resolve::default_range,
    },
    Context, named,
};
use crate::name::ZoneName;

pub(super) fn check(context: &Context<'_>) {
    nobody_exports_to(context);
    no_way_between(context);
    gateways(context);
    instances(context);
    dns_sources(context);
}

fn nobody_exports_to(context: &Context<'_>) {
    let services = &context.file.services;
    if services.is_empty() || services.iter().any(|service| service.export_to.is_none()) {
        return;
    }
    let lists = services.iter().filter_map(|service| service.export_to.as_ref());
    if lists.clone().any(|zones| !zones.complete) {
        return;
    }
    let reached: BTreeSet<&ZoneName> = lists
        .clone()
        .flat_map(|zones| &zones.items)
        .map(|zone| &zone.value)
        .collect();
    for zone in context
        .file
        .zones
        .iter()
        .filter(|zone| !reached.contains(&zone.name.value))
    {
        let message = format!("no service is exported to zone `{}`", zone.name.value);
        let hint = "its clients reach only what runs there; add it to a service's `export_to`";
        context
            .sink
            .push(Diagnostic::warning("not-exported-to", &zone.name.span, message).hint(hint));
    }
}

/// Of two zones, at least one has to be reachable from outside.
fn no_way_between(context: &Context<'_>) {
    let shut: Vec<_> = context
        .file
        .zones
        .iter()
        .filter(|zone| zone.gateways.is_empty())
        .collect();
    let [first, others @ ..] = shut.as_slice() else {
        return;
    };
    if others.is_empty() {
        return;
    }
    let names: Vec<&str> = shut.iter().map(|zone| zone.name.value.as_str()).collect();
    let message = format!(
        "zones {} have no gateway address, so no tunnel can join them",
        named(&names)
    );
    let mut found = Diagnostic::warning("no-way-between", &first.name.span, message)
        .hint("of two zones at least one needs an address that the other can dial");
    // The first few are enough to find the rest.
    for other in others.iter().take(3) {
        found = found.related(&other.name.span, "dials out only as well");
    }
    context.sink.push(found);
}

fn gateways(context: &Context<'_>) {
    let mut seen: HashMap<&str, &Span> = HashMap::new();
    let gateways = context.file.zones.iter().flat_map(|zone| &zone.gateways);
    for address in gateways.flat_map(|gateway| &gateway.addresses) {
        if let Some(first) = seen.insert(&address.value, &address.span) {
            let message = format!("the address `{}` is given to two gateways", address.value);
            let found = Diagnostic::error("duplicate-address", &address.span, message)
                .related(first, "first given here")
                .hint("one address leads to one gateway; give each its own");
            context.sink.push(found);
        }
    }
}

fn instances(context: &Context<'_>) {
    for zone in &context.file.zones {
        distinct(&zone.instances, context.sink);
        for address in zone
            .instances
            .iter()
            .filter_map(|instance| instance.address.as_ref())
        {
            not_virtual(context, zone, address);
        }
    }
}

/// An instance is at an address of its own; at a virtual one the gateway would connect to itself.
fn not_virtual(context: &Context<'_>, zone: &Zone, address: &Spanned<SocketAddr>) {
    let ip = address.value.ip().to_canonical();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let ranges = match &zone.vips {
        None => vec![default_range()],
        Some(Vips::Loopback(range)) => vec![range.value],
        Some(Vips::Routed(ranges)) => ranges.iter().map(|range| range.value).collect(),
        // What the port says there is for the gateway to find out.
        Some(Vips::Address(_)) => Vec::new(),
    };
    let found = if link_local {
        let message = format!(
            "`{}` is a link-local address, which no instance can have",
            address.value
        );
        Diagnostic::error("link-local-instance", &address.span, message)
            .hint("it means something else on every host; give the instance's own address")
    } else if let Some(range) = ranges.iter().find(|range| range.contains(&ip)) {
        let message = format!(
            "`{}` is a virtual address of zone `{}`",
            address.value, zone.name.value
        );
        Diagnostic::error("virtual-instance", &address.span, message).hint(format!(
            "the gateway gives out the addresses of {range} for services; give the instance's own address"
        ))
    } else {
        return;
    };
    context.sink.push(found);
}

/// One service has one instance at an address.
pub(super) fn distinct(instances: &[Instance], sink: &Sink) {
    let mut seen = BTreeMap::new();
    for instance in instances {
        let (Some(service), Some(address)) = (&instance.service, &instance.address) else {
            continue;
        };
        if let Some(first) = seen.insert((&service.value, address.value), &address.span) {
            let message = format!("`{}` has two instances at {}", service.value, address.value);
            let found = Diagnostic::error("duplicate-instance", &address.span, message)
                .related(first, "first given here")
                .hint("remove one; to give an instance more traffic, raise its `weight`");
            sink.push(found);
        }
    }
}

/// One service asks one thing once.
fn dns_sources(context: &Context<'_>) {
    for zone in &context.file.zones {
        let mut seen = BTreeMap::new();
        for source in &zone.dns_sources {
            let (service, question) = (&source.value.service, &source.value.question);
            if let Some(first) = seen.insert((service, question), &source.span) {
                let message = format!("`{service}` asks for `{question}` twice");
                let found = Diagnostic::error("duplicate-source", &source.span, message)
                    .related(first, "first asked here")
                    .hint("remove one");
                context.sink.push(found);
            }
        }
    }
}
