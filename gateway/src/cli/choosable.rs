//! Flags that each kind of item is chosen by, and signs that somebody should look at one.

use causeway_api::admin::view::{
    ExportView, GenerationView, InstanceView, RecordView, ServiceView, ShiftView, TopologyView, TunnelView,
    ZoneView,
};
use causeway_federation::name::Tags;

use super::{
    choose::{
        Choosable,
        ChoosableBy::{self, Column, Health, Name, Service, Tag, Zone},
    },
    zone_state::{self, GatewaysUp},
};

/// Tells whether `name` is a zone or one of its gateways: `west` or `west/gw1`.
fn is_peer(name: &str, zone: &str, gateway: &str) -> bool {
    match name.split_once('/') {
        None => name == zone,
        Some(both) => both == (zone, gateway),
    }
}

impl Choosable for ZoneView {
    const KIND: &'static str = "zone";
    const BY: &'static [ChoosableBy] = &[Name, Zone, Tag, Health, Column];

    fn has_name(&self, name: &str) -> bool {
        self.name == name
    }

    fn is_of_zone(&self, zone: &str, _own: &str) -> bool {
        self.name == zone
    }

    fn carries(&self, tags: &Tags) -> bool {
        self.tags.matches(tags)
    }

    fn is_unhealthy(&self) -> bool {
        let all_up = GatewaysUp::of(self).is_none_or(|gateways| gateways.are_all());
        !matches!(zone_state::word(self), "own" | "up") || !all_up
    }
}

impl Choosable for ServiceView {
    const KIND: &'static str = "service";
    const BY: &'static [ChoosableBy] = &[Name, Zone, Service, Tag, Health, Column];

    fn has_name(&self, name: &str) -> bool {
        self.name == name
    }

    /// Tells whether it has instances there.
    fn is_of_zone(&self, zone: &str, own: &str) -> bool {
        let elsewhere = self.zones.iter().any(|one| one.zone == zone && one.instances > 0);
        elsewhere || (zone == own && self.local.instances > 0)
    }

    fn is_of_service(&self, service: &str) -> bool {
        self.name == service
    }

    fn carries(&self, tags: &Tags) -> bool {
        self.split.iter().any(|arm| arm.tags.matches(tags))
    }

    fn is_unhealthy(&self) -> bool {
        let ill = |zone: &causeway_api::admin::view::ServiceZone| {
            zone.healthy < zone.instances || (!zone.usable && zone.instances > 0)
        };
        let usable = self.zones.iter().filter(|zone| zone.usable);
        let healthy = self.local.healthy + usable.map(|zone| zone.healthy).sum::<u32>();
        healthy == 0
            || self.local.healthy < self.local.instances
            || self.zones.iter().any(ill)
            || !self.ejected.is_empty()
    }
}

impl Choosable for ShiftView {
    const KIND: &'static str = "shift";
    const BY: &'static [ChoosableBy] = &[Name, Service, Tag, Health, Column];

    fn has_name(&self, name: &str) -> bool {
        self.service == name
    }

    fn is_of_service(&self, service: &str) -> bool {
        self.service == service
    }

    fn carries(&self, tags: &Tags) -> bool {
        self.to.matches(tags)
    }

    fn is_unhealthy(&self) -> bool {
        matches!(self.state.as_str(), "paused" | "aborted") || self.driver_gone || self.taken_back
    }
}

impl Choosable for InstanceView {
    const KIND: &'static str = "instance";
    const BY: &'static [ChoosableBy] = &[Name, Service, Tag, Health, Column];

    fn has_name(&self, name: &str) -> bool {
        let is_whole = name
            .split_once('/')
            .is_some_and(|(service, id)| service == self.service && id == self.id);
        is_whole || name == self.id || name == self.address.to_string()
    }

    fn is_of_service(&self, service: &str) -> bool {
        self.service == service
    }

    fn carries(&self, tags: &Tags) -> bool {
        self.tags.matches(tags)
    }

    fn is_unhealthy(&self) -> bool {
        self.health != "healthy" || !self.declared || self.ejected.is_some()
    }
}

impl Choosable for TunnelView {
    const KIND: &'static str = "peer with a tunnel";
    const BY: &'static [ChoosableBy] = &[Name, Zone, Health, Column];

    fn has_name(&self, name: &str) -> bool {
        is_peer(name, &self.zone, &self.gateway)
    }

    fn is_of_zone(&self, zone: &str, _own: &str) -> bool {
        self.zone == zone
    }

    fn is_unhealthy(&self) -> bool {
        self.state != "up"
    }
}

impl Choosable for ExportView {
    const KIND: &'static str = "exported service";
    const BY: &'static [ChoosableBy] = &[Name, Zone, Service, Tag, Health, Column];

    fn has_name(&self, name: &str) -> bool {
        self.service == name
    }

    fn is_of_zone(&self, zone: &str, _own: &str) -> bool {
        self.zone == zone
    }

    fn is_of_service(&self, service: &str) -> bool {
        self.service == service
    }

    fn carries(&self, tags: &Tags) -> bool {
        self.tags.matches(tags)
    }

    fn is_unhealthy(&self) -> bool {
        let reached =
            matches!(self.link.as_str(), "own" | "up") && matches!(self.age.as_str(), "own" | "fresh");
        self.healthy < self.instances || !reached
    }
}

impl Choosable for RecordView {
    const KIND: &'static str = "zone or gateway";
    const BY: &'static [ChoosableBy] = &[Name, Zone, Health, Column];

    fn has_name(&self, name: &str) -> bool {
        let (zone, gateway) = self.origin.split_once('/').unwrap_or((&self.origin, ""));
        is_peer(name, zone, gateway)
    }

    fn is_of_zone(&self, zone: &str, _own: &str) -> bool {
        self.has_name(zone)
    }

    fn is_unhealthy(&self) -> bool {
        !matches!(self.age.as_str(), "own" | "fresh") || self.draining || !self.same_topology
    }
}

impl Choosable for GenerationView {
    const KIND: &'static str = "generation";
    const BY: &'static [ChoosableBy] = &[];

    fn has_name(&self, _name: &str) -> bool {
        false
    }
}

impl Choosable for TopologyView {
    const KIND: &'static str = "topology";
    const BY: &'static [ChoosableBy] = &[];

    fn has_name(&self, _name: &str) -> bool {
        false
    }
}
