//! The services of the topology, and who has instances of them.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use causeway_federation::{
    catalog::{Age, Catalog, CatalogEntry},
    name::{ServiceName, Tags, ZoneName},
    topology::{
        DefaultPermission, PermissionEntry, Permissions, Probe, Service, ServicePort, Tier, TierTag, TierZone,
    },
};
use causeway_routing::{snapshot::Snapshot, target::Bindings};
use serde::{Deserialize, Serialize};

use super::{EjectionView, age_word, ejections, link_word, shift_in_words};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    pub name: String,
    /// The primary one.
    pub port: u16,
    /// `tcp`, `http`, `grpc`, `tls` or `udp`, of the primary port.
    pub protocol: String,
    /// Ports that have names, the primary one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortView>,
    /// The virtual addresses that mesh DNS answers here.
    pub vips: Vec<IpAddr>,
    /// Instances of this zone.
    pub local: Count,
    /// Exports of the other zones to this one.
    pub zones: Vec<ServiceZone>,
    /// That of the step, while the service is under a shift.
    pub split: Vec<ArmView>,
    /// Such as `shift: 25 % to {version=v2} (step 2 of 4), running`; `None`: it is under no shift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<String>,
    /// Such as `below 70% healthy; capacity is respected`; `None`: it does not spill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<String>,
    /// `critical`, `normal` or `sheddable`; empty: the gateway does not say.
    #[serde(default)]
    pub criticality: String,
    /// Of each zone of which it is known what it can take, as far as this gateway plans by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capacity: Vec<CapacityView>,
    /// Answers of each zone's instances, where capacity is measured by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<AnswersView>,
    pub failover: Vec<TierView>,
    /// `None`: every zone.
    pub export_to: Option<Vec<String>>,
    /// Zones that may run it; `None`: every zone.
    #[serde(default)]
    pub run_in: Option<Vec<String>>,
    /// Callers that may call, as the topology has it; `None`: the default of the federation.
    #[serde(default)]
    pub allow: Option<Vec<String>>,
    #[serde(default)]
    pub deny: Vec<String>,
    /// In a sentence, with the default and `dry_run` taken into account.
    #[serde(default)]
    pub callers: String,
    /// Such as `http /healthz every 2s`; `None`: registered instances count as healthy.
    pub health: Option<String>,
    pub early: bool,
    /// Such as `10m`; `None`: connections may be idle for any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// Such as `30s`; `None`: open connections may stay where they do not belong any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linger: Option<String>,
    /// Such as `1h`; `None`: connections may grow as old as they like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// Routes of its requests, in their order, such as `canary: any request with x-canary: 1 -> all to {version=v2}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// Such as `cookie session for 1h`, by which requests of one user are kept at one instance; `None`: each goes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
    /// Copies that its routes make, such as `canary: 5 % to shadow{version=v3}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// Its instances and zones that come after the others, as this gateway sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ejected: Vec<EjectionView>,
}

/// A named port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortView {
    pub name: String,
    pub port: u16,
    pub protocol: String,
    /// Port of an instance that it leads to; `None`: the one that the instance is registered with.
    pub target: Option<u16>,
}

impl PortView {
    fn of(port: &ServicePort) -> Option<Self> {
        Some(Self {
            name: port.name.as_ref()?.to_string(),
            port: port.number,
            protocol: port.protocol.word().to_owned(),
            target: port.target,
        })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub instances: u32,
    pub healthy: u32,
}

/// Capacity of a service in one zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CapacityView {
    pub zone: String,
    pub capacity_per_second: f64,
    /// Demand that the clients of all zones are meant to send there.
    pub planned_per_second: f64,
    /// It was measured, and is less than what is declared.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub measured: bool,
}

/// Answers of a service's instances in one zone to the clients of all zones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswersView {
    pub zone: String,
    /// Those that were well, a second.
    pub well_per_second: f64,
    /// Those that said that there is too much to do, or did not come.
    pub refused_per_second: f64,
    /// Median time to those that were well.
    pub latency_ms: f64,
    /// Requests without an answer.
    pub in_flight: f64,
    /// Capacity that was measured; `None`: nothing was seen that bounds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_per_second: Option<f64>,
}

/// Another zone's instances. Where a zone has several gateways that tell of the same instances, the most counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceZone {
    pub zone: String,
    pub instances: u32,
    pub healthy: u32,
    /// `fresh`, `suspect` or `withdrawn`.
    pub age: String,
    /// `up`, `stalled`, `draining` or `down`.
    pub link: String,
    /// Tells whether traffic can go there now: a zone that may run it and exports it to this one, a tunnel that takes
    /// streams, not withdrawn.
    pub usable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmView {
    pub tags: Tags,
    pub weight: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierView {
    /// `self` or a zone's name; absent: any zone.
    pub zone: Option<String>,
    /// Tags that the zone must carry; `self`: the caller's own value.
    pub tags: BTreeMap<String, String>,
}

/// Shows them one after another.
pub fn services(snapshot: &Snapshot, bindings: &Bindings, now: Duration, mut show: impl FnMut(&ServiceView)) {
    // Once for all of them, as there may be 10,000.
    let mut vips = BTreeMap::<&ServiceName, Vec<IpAddr>>::new();
    for (vip, bound) in bindings.iter().filter(|(_, bound)| bound.target.is_whole()) {
        vips.entry(&bound.target.service).or_default().push(vip.ip());
    }
    let plan = snapshot.capacity.plan();
    let mut rooms = BTreeMap::<&ServiceName, Vec<CapacityView>>::new();
    for (service, zone, room) in plan.rooms() {
        rooms.entry(service).or_default().push(CapacityView {
            zone: zone.to_string(),
            capacity_per_second: room.capacity_per_second,
            planned_per_second: room.planned_per_second,
            measured: room.is_measured,
        });
    }
    let measured = snapshot.capacity.measured();
    let mut answers = BTreeMap::<&ServiceName, Vec<AnswersView>>::new();
    for (service, zone, bound, seen) in measured.of_zones() {
        answers.entry(service).or_default().push(AnswersView {
            zone: zone.to_string(),
            well_per_second: seen.well_per_second,
            refused_per_second: seen.refused_per_second,
            latency_ms: seen.latency * 1000.0,
            in_flight: seen.in_flight,
            capacity_per_second: bound,
        });
    }
    for (name, service) in &snapshot.topology.services {
        let vips = vips.remove(name).unwrap_or_default();
        show(&ServiceView {
            ejected: ejections(snapshot, name, now),
            capacity: rooms.remove(name).unwrap_or_default(),
            answers: answers.remove(name).unwrap_or_default(),
            ..service_view(snapshot, vips, name, service)
        });
    }
}

fn service_view(
    snapshot: &Snapshot,
    mut vips: Vec<IpAddr>,
    name: &ServiceName,
    service: &Service,
) -> ServiceView {
    vips.dedup();
    let zones = snapshot
        .topology
        .zones
        .keys()
        .filter(|zone| **zone != snapshot.zone);
    ServiceView {
        name: name.to_string(),
        port: service.ports.primary.number,
        protocol: service.ports.primary.protocol.word().to_owned(),
        ports: service.ports.iter().filter_map(PortView::of).collect(),
        vips,
        local: local(snapshot, name),
        zones: zones
            .filter_map(|zone| in_zone(snapshot, zone, name, service))
            .collect(),
        split: service
            .split
            .iter()
            .map(|arm| ArmView {
                tags: arm.tags.clone(),
                weight: arm.weight,
            })
            .collect(),
        shift: shift_in_words(snapshot, name),
        spill: service.spill_in_words(),
        criticality: service.criticality.word().to_owned(),
        capacity: Vec::new(),
        answers: Vec::new(),
        failover: service.failover.iter().map(tier).collect(),
        export_to: service
            .export_to
            .as_ref()
            .map(|zones| zones.iter().map(ToString::to_string).collect()),
        run_in: service
            .run_in
            .as_ref()
            .map(|zones| zones.iter().map(ToString::to_string).collect()),
        allow: service.allow.as_deref().map(listed),
        deny: listed(&service.deny),
        callers: callers(&snapshot.topology.permissions, service),
        health: service.health.as_ref().map(|check| {
            let every = humantime::format_duration(check.every);
            match &check.probe {
                Probe::Tcp => format!("tcp every {every}"),
                Probe::Http { path } => format!("http {path} every {every}"),
                Probe::Grpc { service } if service.is_empty() => format!("grpc every {every}"),
                Probe::Grpc { service } => format!("grpc {service} every {every}"),
            }
        }),
        early: service.early,
        idle_timeout: service.idle_timeout.map(duration),
        linger: service.connections.linger.map(duration),
        max_age: service.connections.max_age.map(duration),
        routes: service.routes.iter().map(ToString::to_string).collect(),
        sticky: service.sticky.as_ref().map(ToString::to_string),
        mirrors: mirrors(service),
        ejected: Vec::new(),
    }
}

fn mirrors(service: &Service) -> Vec<String> {
    let routes = service.routes.iter();
    let mirrors = routes.filter_map(|route| Some(format!("{}: {}", route.label, route.mirror.as_ref()?)));
    mirrors.collect()
}

fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn listed(callers: &[PermissionEntry]) -> Vec<String> {
    callers.iter().map(ToString::to_string).collect()
}

/// `web,batch@east but not *@west`, `everyone`, `nobody`; with `(dry run)` behind it where that is so.
fn callers(permissions: &Permissions, service: &Service) -> String {
    let mut text = match (&service.allow, permissions.default) {
        (Some(allow), _) if allow.is_empty() => "nobody".to_owned(),
        (Some(allow), _) => listed(allow).join(","),
        (None, DefaultPermission::Allow) => "everyone".to_owned(),
        (None, DefaultPermission::Deny) => "nobody".to_owned(),
    };
    if !service.deny.is_empty() && text != "nobody" {
        text.push_str(" but not ");
        text.push_str(&listed(&service.deny).join(","));
    }
    if permissions.dry_run && text != "everyone" {
        text.push_str(" (dry run)");
    }
    text
}

fn local(snapshot: &Snapshot, name: &ServiceName) -> Count {
    let list = snapshot.instances.get(name).map_or(&[][..], |list| &**list);
    let healthy = list
        .iter()
        .filter(|instance| instance.counts_as_healthy())
        .count();
    Count {
        instances: u32::try_from(list.len()).unwrap_or(u32::MAX),
        healthy: u32::try_from(healthy).unwrap_or(u32::MAX),
    }
}

/// `None` when no gateway of the zone exports it.
fn in_zone(
    snapshot: &Snapshot,
    zone: &ZoneName,
    name: &ServiceName,
    service: &Service,
) -> Option<ServiceZone> {
    let exported = service.is_exported_to(&snapshot.zone) && service.may_run_in(zone);
    let views = snapshot
        .catalog
        .zone(zone)
        .filter_map(|entry| from_gateway(snapshot, entry, name, exported));
    // The gateway that traffic could go to tells the zone's state; among those, the one that has the most to offer.
    views.max_by_key(|view| (view.usable, view.healthy, view.instances))
}

fn from_gateway(
    snapshot: &Snapshot,
    entry: &CatalogEntry,
    name: &ServiceName,
    exported: bool,
) -> Option<ServiceZone> {
    let all = Tags::default();
    let mut exports = Catalog::exports(entry, name, &all).peekable();
    exports.peek()?;
    let (instances, healthy) = exports.fold((0, 0), |(instances, healthy), export| {
        (
            export.instances.saturating_add(instances),
            export.healthy.saturating_add(healthy),
        )
    });
    let link = snapshot.links.get(&entry.record.origin).copied();
    Some(ServiceZone {
        zone: entry.record.origin.zone.to_string(),
        instances,
        healthy,
        age: age_word(entry.age).to_owned(),
        link: link_word(link).to_owned(),
        usable: exported && link.is_some() && entry.age != Age::Withdrawn,
    })
}

fn tier(tier: &Tier) -> TierView {
    let zone = tier.zone.as_ref().map(|zone| match zone {
        TierZone::Own => "self".to_owned(),
        TierZone::Named(name) => name.to_string(),
    });
    let tag = |(key, value): (&String, &TierTag)| {
        let value = match value {
            TierTag::Own => "self".to_owned(),
            TierTag::Is(value) => value.clone(),
        };
        (key.clone(), value)
    };
    TierView {
        zone,
        tags: tier.tags.iter().map(tag).collect(),
    }
}
