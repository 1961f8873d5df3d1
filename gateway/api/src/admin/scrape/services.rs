//! Services in a scrape: their instances, ejections and capacity.

use causeway_routing::snapshot::{Health, Snapshot};
use causeway_telemetry::{DescribedRegistry, labels::ByServiceHealth};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};

use super::Seconds;

/// One service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByServiceName {
    service: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByEjection {
    service: String,
    zone: String,
    part: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByServiceZone {
    service: String,
    zone: String,
}

/// Registers what is known of every service at this moment.
pub(super) fn register(registry: &mut DescribedRegistry, snapshot: &Snapshot) {
    instances(registry, snapshot);
    ejections(registry, snapshot);
    capacity(registry, snapshot);
    measured(registry, snapshot);
}

fn instances(registry: &mut DescribedRegistry, snapshot: &Snapshot) {
    let family: Family<ByServiceHealth, Gauge> = Family::default();
    let words = [
        (Health::Healthy, "healthy"),
        (Health::Unhealthy, "unhealthy"),
        (Health::Unknown, "unknown"),
    ];
    for (service, list) in snapshot.instances.iter() {
        for (health, word) in words {
            let labels = ByServiceHealth {
                service: service.to_string(),
                health: word,
            };
            let count = list.iter().filter(|instance| instance.health == health).count();
            family
                .get_or_create(&labels)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    registry.register("instances", "Instances of this zone", family);
    let drained: Family<ByServiceName, Gauge> = Family::default();
    for (service, list) in snapshot.instances.iter().filter(|(_, list)| list.has_drained()) {
        let count = list.iter().filter(|instance| instance.drain.is_some()).count();
        let labels = ByServiceName {
            service: service.to_string(),
        };
        let gauge = drained.get_or_create(&labels);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register(
        "instances_drained",
        "Instances of this zone that are drained: nothing new goes to them",
        drained,
    );
}

fn ejections(registry: &mut DescribedRegistry, snapshot: &Snapshot) {
    let family: Family<ByEjection, Gauge> = Family::default();
    for ejection in snapshot.ejections.load().list() {
        let labels = ByEjection {
            service: ejection.service.to_string(),
            zone: ejection.zone.to_string(),
            part: ejection.part.word(),
        };
        family.get_or_create(&labels).inc();
    }
    registry.register(
        "ejections_active",
        "Instances, or zones by the tags of their instances, that come after the others now because they fail",
        family,
    );
}

fn capacity(registry: &mut DescribedRegistry, snapshot: &Snapshot) {
    let (capacity, headroom): (Family<ByServiceZone, Seconds>, Family<ByServiceZone, Seconds>) =
        Default::default();
    for (service, zone, room) in snapshot.capacity.plan().rooms() {
        let labels = ByServiceZone {
            service: service.to_string(),
            zone: zone.to_string(),
        };
        capacity.get_or_create(&labels).set(room.capacity_per_second);
        let left = room.capacity_per_second - room.planned_per_second;
        headroom.get_or_create(&labels).set(left);
    }
    registry.register(
        "capacity_per_second",
        "Requests or connections a second that the healthy instances of a zone can take, where all of them say so or it was measured",
        capacity,
    );
    registry.register(
        "headroom_per_second",
        "Part of that capacity that nobody asks for",
        headroom,
    );
}

fn measured(registry: &mut DescribedRegistry, snapshot: &Snapshot) {
    let [capacity, latency, in_flight]: [Family<ByServiceZone, Seconds>; 3] = Default::default();
    for (service, zone, bound, seen) in snapshot.capacity.measured().of_zones() {
        let labels = ByServiceZone {
            service: service.to_string(),
            zone: zone.to_string(),
        };
        if let Some(bound) = bound {
            capacity.get_or_create(&labels).set(bound);
        }
        latency.get_or_create(&labels).set(seen.latency);
        in_flight.get_or_create(&labels).set(seen.in_flight);
    }
    registry.register(
        "measured_capacity_per_second",
        "Requests a second that the instances of a zone are found to take, where that is measured and anything bounds it",
        capacity,
    );
    registry.register(
        "measured_latency_seconds",
        "Median time to an answer of the instances of a zone, where capacity is measured",
        latency,
    );
    registry.register(
        "measured_in_flight",
        "Requests that the instances of a zone have not answered yet, where capacity is measured",
        in_flight,
    );
}
