//! The raw file, once it has no errors, to the model that the program reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};

use super::{
    fields::Spanned,
    model::{FixedInstance, JudgedRequests, Service, SplitArm, Tier, TierZone, Topology, Vips, Zone},
    permissions::PermissionEntry,
    ports::{ServicePort, ServicePorts},
    promises::{Promise, PromisedLoss, PromisedRest},
    raw,
    routes::Route,
    shift::Shift,
};
use crate::{
    edition::Fingerprint,
    name::{ServiceName, Tags, ZoneName},
};

/// `127.64.0.0/10`: loopback addresses that nothing else is likely to use.
pub(super) fn default_range() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 64, 0, 0), 10))
}

/// `None` when something was left out that has to be there; that has been reported then.
pub(super) fn topology(file: raw::File, text: &str) -> Option<Topology> {
    let not_in_force = not_in_force(&file);
    let trust_domain = file.trust_domain?.value;
    let zones = file.zones.into_iter().map(|raw| zone(raw, &trust_domain));
    let zones: Option<BTreeMap<ZoneName, Zone>> = zones.collect();
    let bundles = file.trust_domains.into_iter();
    let bundles: Option<BTreeMap<_, _>> = bundles
        .map(|domain| Some((domain.name.value, domain.bundle?)))
        .collect();
    let services: Option<BTreeMap<ServiceName, Service>> = file.services.into_iter().map(service).collect();
    let services = services?;
    Some(Topology {
        names_callers: services.values().any(Service::names_callers),
        fingerprint: Fingerprint::of(text),
        generation: 0,
        trust_domain,
        trust_domains: bundles?,
        dns: file.dns,
        tls: file.tls,
        apply_from: file
            .apply_from
            .map(|zones| values(zones.items).into_iter().collect()),
        permissions: file.permissions,
        promises: file.promises.into_iter().map(|raw| promise(raw.value)).collect(),
        zones: zones?,
        services,
        not_in_force,
    })
}

fn promise(promise: raw::Promise) -> Promise {
    Promise {
        lose: match promise.lose {
            raw::PromisedNames::Word(loss) => loss,
            raw::PromisedNames::Named(zones) => PromisedLoss::Zones(values(zones).into_iter().collect()),
        },
        keep: match promise.keep {
            raw::PromisedNames::Word(None) => PromisedRest::All,
            raw::PromisedNames::Word(Some(least)) => PromisedRest::Criticality(least),
            raw::PromisedNames::Named(services) => {
                PromisedRest::Services(values(services).into_iter().collect())
            }
        },
    }
}

fn not_in_force(file: &raw::File) -> BTreeSet<String> {
    let waiting = file.services.iter().flat_map(|service| &service.waiting);
    waiting.map(|key| key.value.to_owned()).collect()
}

fn zone(zone: raw::Zone, trust_domain: &str) -> Option<(ZoneName, Zone)> {
    let gateways = zone.gateways.iter().map(raw::Gateway::to_model).collect();
    let instances: Option<Vec<FixedInstance>> = zone.instances.into_iter().map(instance).collect();
    let vips = match zone.vips {
        None => Vips::Loopback {
            range: default_range(),
        },
        Some(raw::Vips::Loopback(range)) => Vips::Loopback { range: range.value },
        Some(raw::Vips::Routed(ranges)) => Vips::Routed {
            ranges: values(ranges),
        },
        Some(raw::Vips::Address(address)) => Vips::Address {
            address: address.value,
        },
    };
    let named = zone.trust_domain.map(|domain| domain.value);
    let model = Zone {
        trust_domain: named.unwrap_or_else(|| trust_domain.to_owned()),
        tags: zone.tags,
        gateways,
        instances: instances?,
        dns_sources: values(zone.dns_sources),
        vips,
        loopback_instances: zone.loopback_instances,
        drain: zone.drain,
    };
    Some((zone.name.value, model))
}

pub(super) fn instance(instance: raw::Instance) -> Option<FixedInstance> {
    Some(FixedInstance {
        service: instance.service?.value,
        address: instance.address?.value,
        tags: instance.tags,
        weight: instance.weight,
        capacity_per_second: instance.capacity.map(|capacity| capacity.value),
    })
}

fn service(service: raw::Service) -> Option<(ServiceName, Service)> {
    let failover = service.failover.map_or_else(default_failover, |tiers| {
        tiers.into_iter().map(|tier| tier_of(tier.value)).collect()
    });
    let export_to = service
        .export_to
        .map(|zones| values(zones.items).into_iter().collect());
    let run_in = service
        .run_in
        .map(|zones| values(zones.items).into_iter().collect());
    let routes = service.routes.into_iter().enumerate();
    let routes: Option<Vec<_>> = routes
        .map(|(number, route)| route_of(number, route.value))
        .collect();
    let allow = service.allow.map(|entries| compiled(entries.items));
    let allow = match allow {
        Some(entries) => Some(entries?),
        None => None,
    };
    let deny = service
        .deny
        .map_or_else(|| Some(Vec::new()), |entries| compiled(entries.items))?;
    let policies = service.policies;
    let declared = service
        .split
        .map_or_else(default_split, |arms| values(arms.items));
    let shift = service.shift.map(|shift| Shift {
        from: declared.clone(),
        ..shift.value
    });
    let model = Service {
        ports: ports(service.ports)?,
        health: service.health,
        split: match &shift {
            Some(shift) if shift.state.is_active() => shift.split(),
            _ => declared,
        },
        shift: shift.map(Arc::new),
        failover,
        spill: policies.spill.map(|spill| spill.value),
        failback: policies.failback,
        slow_start: policies.slow_start,
        panic: policies.panic.is_none_or(|panic| panic.value),
        criticality: service.criticality.unwrap_or_default(),
        criticality_from: values(service.criticality_from.unwrap_or_default()),
        export_to,
        run_in,
        judged: JudgedRequests::of(allow.iter().flatten().chain(&deny)),
        allow,
        deny,
        timeout: policies.timeout,
        retry: policies.retry,
        outlier: policies.outlier,
        limits: policies.limits,
        forwarded: service.forwarded.unwrap_or_default(),
        sticky: policies.sticky.map(|sticky| sticky.value),
        early: service.early,
        idle_timeout: service.idle_timeout,
        connections: service.connections.map(|policy| policy.value).unwrap_or_default(),
        routes: routes?,
    };
    Some((service.name.value, model))
}

/// The first one leads to where an instance is registered, each other to its own number.
fn ports(ports: Vec<raw::Port>) -> Option<ServicePorts> {
    let one = |(at, port): (usize, raw::Port)| {
        let number = port.number.value;
        Some(ServicePort {
            name: port.name.map(|name| name.value),
            number,
            protocol: port.protocol?.value,
            target: port.target.or((at > 0).then_some(number)),
        })
    };
    let mut ports = ports.into_iter().enumerate().map(one);
    Some(ServicePorts {
        primary: ports.next()??,
        others: ports.collect::<Option<_>>()?,
    })
}

fn compiled(entries: Vec<Spanned<raw::Permitted>>) -> Option<Vec<PermissionEntry>> {
    entries.iter().map(|entry| entry.value.compiled()).collect()
}

/// One arm that takes any instance.
fn default_split() -> Vec<SplitArm> {
    vec![SplitArm {
        tags: Tags::default(),
        weight: 1,
    }]
}

/// The caller's own zone, then any zone.
fn default_failover() -> Vec<Tier> {
    let tier = |zone| Tier {
        zone,
        tags: BTreeMap::new(),
    };
    vec![tier(Some(TierZone::Own)), tier(None)]
}

fn tier_of(tier: raw::Tier) -> Tier {
    Tier {
        zone: tier.zone,
        tags: tier.tags,
    }
}

fn route_of(number: usize, route: raw::Route) -> Option<Arc<Route>> {
    let label = match route.name {
        Some(name) => name.value,
        None => format!("routes[{number}]"),
    };
    Some(Arc::new(Route {
        label: label.into(),
        matches: route.conditions?.compiled()?,
        split: route.split.map(|arms| values(arms.items).into()),
        sticky: route.sticky,
        criticality: route.criticality,
        timeout: route.timeout,
        rewrite: route.rewrite,
        request_headers: route.request_headers,
        response_headers: route.response_headers,
        action: route.action,
        mirror: route.mirror.map(|mirror| mirror.value),
    }))
}

fn values<T>(items: Vec<Spanned<T>>) -> Vec<T> {
    items.into_iter().map(|item| item.value).collect()
}
