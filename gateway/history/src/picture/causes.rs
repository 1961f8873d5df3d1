//! Causes of events of where services go, in the words of `explain`, and by health and capacity where traffic is divided.

use causeway_federation::name::{ServiceName, ZoneName};
use causeway_routing::{
    capacity::ZoneRoom,
    route::{Reason, ReasonSubject, Why},
};

use super::Picture;

/// Most zones whose capacity is named.
const MAX_ROOMS: usize = 8;

/// Place in which the cause of an event lies.
#[derive(Debug, Clone, Copy)]
pub(super) enum CausePlace<'p> {
    /// The first of these zones, by what `explain` says of it.
    Zones(&'p [ZoneName]),
    /// Health and capacity of those among whom the traffic is divided.
    Shares,
}

/// The cause in words; empty: none is known.
pub(super) fn cause(
    why: &[Reason],
    (service, place): (&ServiceName, CausePlace<'_>),
    after: &Picture,
) -> String {
    match place {
        CausePlace::Zones(zones) => of_zones(why, zones, after),
        CausePlace::Shares => of_shares(why, service, after),
    }
}

/// Reason that `explain` gives for the first of these zones.
fn of_zones(why: &[Reason], zones: &[ZoneName], after: &Picture) -> String {
    let of = |reason: &&Reason| match &reason.subject {
        ReasonSubject::OwnZone(zone) | ReasonSubject::Zone(zone) => zones.contains(zone),
        ReasonSubject::Gateway(gateway) => zones.contains(&gateway.zone),
        ReasonSubject::Service(_) | ReasonSubject::Arm { .. } | ReasonSubject::Tier(_) => false,
    };
    let Some(reason) = why.iter().find(of) else {
        return String::new();
    };
    let text = reason.why.to_string();
    let text = text.strip_prefix("passed over: ").unwrap_or(&text);
    let text = format!("{}: {text}", reason.subject);
    match (&reason.subject, reason.why) {
        (ReasonSubject::Gateway(gateway), Why::NoTunnel) => match after.absences.get(gateway) {
            Some(why) => format!("{text}: {why}"),
            None => text,
        },
        _ => text,
    }
}

/// Demand and capacity, where capacity is declared, and how many instances of the tiers can serve.
fn of_shares(why: &[Reason], service: &ServiceName, after: &Picture) -> String {
    let mut parts: Vec<String> = demand(service, after).into_iter().collect();
    let tiers = why
        .iter()
        .filter_map(|reason| match (&reason.subject, reason.why) {
            (ReasonSubject::Tier(tier), Why::TierShare { health, .. }) => Some((*tier, health)),
            _ => None,
        });
    let is_told = parts.is_empty();
    // Of tiers that are well enough is said only where it is all that there is to say.
    let told = tiers.filter(|(tier, health)| health.healthy < health.instances || (is_told && *tier == 1));
    parts.extend(told.map(|(tier, health)| {
        let (healthy, instances) = (health.healthy, health.instances);
        format!("tier {tier}: {healthy} of {instances} instances can serve")
    }));
    parts.join("; ")
}

/// Demand for a service in all zones, and what the zones that declare it can take.
fn demand(service: &ServiceName, after: &Picture) -> Option<String> {
    let plan = after.snapshot.capacity.plan();
    let demanded = rate(plan.demanded(service)?);
    let rooms: Vec<_> = plan.rooms_of(service).collect();
    let sum: f64 = rooms.iter().map(|(_, room)| room.capacity_per_second).sum();
    let room = |(zone, room): &(&ZoneName, &ZoneRoom)| format!("{zone} {}", rate(room.capacity_per_second));
    let mut named: Vec<String> = rooms.iter().take(MAX_ROOMS).map(room).collect();
    named.extend((rooms.len() > MAX_ROOMS).then(|| "…".to_owned()));
    let each = named.join(", ");
    (!rooms.is_empty()).then(|| {
        format!(
            "{demanded} a second are asked for in all zones, and healthy instances can take {} ({each})",
            rate(sum)
        )
    })
}

/// A number of requests a second that a person reads.
fn rate(per_second: f64) -> String {
    match per_second < 9.95 {
        true => format!("{per_second:.1}"),
        false => format!("{per_second:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use causeway_federation::{name::Tags, topology::Criticality};
    use causeway_routing::{
        capacity::{DemandedRate, ZoneDemands, plan},
        snapshot::Instance,
        testbed,
    };

    use crate::picture::{
        events,
        tests::{next, picture},
    };

    #[test]
    fn what_is_refused_is_so_because_more_is_asked_for_than_can_be_taken() {
        let topology = testbed::topology(
            "  home: {}\n  east: {}",
            "  orders: { port: 80, protocol: http, spill: { capacity: respect }, failover: [{ zone: self }] }",
        );
        let asked = |per_second: f64| {
            let one = testbed::instance("a", "127.0.0.1:80".parse().unwrap(), 1, &[]);
            let one = Instance {
                capacity_per_second: Some(40),
                ..Arc::into_inner(one).unwrap()
            };
            let snapshot = testbed::snapshot("home", &topology, vec![Arc::new(one)], Vec::new(), &[]);
            let demand = DemandedRate {
                service: testbed::service("orders"),
                tags: Tags::default(),
                criticality: Criticality::Normal,
                per_second,
            };
            let demands = ZoneDemands::from([(snapshot.zone.clone(), vec![demand])]);
            snapshot.capacity.publish(plan(&snapshot, &demands));
            snapshot
        };
        let well = picture(asked(10.0));
        let over = next(&well, asked(100.0));
        let told = events(&well, &over);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].text, "60 % of orders is refused for want of capacity");
        assert_eq!(
            told[0].because.as_deref(),
            Some("100 a second are asked for in all zones, and healthy instances can take 40 (home 40)")
        );
        let ended = events(&over, &next(&over, asked(8.0)));
        let because = ended[0].because.as_deref().unwrap();
        assert!(because.starts_with("8.0 a second are asked for"), "{because}");
    }
}
