//! More than there is capacity for: what each zone would take, and what would be shed, as `causeway simulate` says it. Worked out and not
//! played: traffic of this demo comes in bursts, which say nothing about seconds.

use std::{collections::BTreeSet, sync::Arc};

use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::{CapacityRule, Topology},
};
use causeway_routing::{
    capacity::MeasuredCapacities,
    simulate::{Load, divided, fixed_exports, simulate},
};

use super::Stage;
use crate::{
    demo::{DemoError, story},
    output::Word,
};

/// Parts of all the capacity that clients ask for.
const CALM: f64 = 0.6;
const CROWDED: f64 = 1.2;
/// Any: one gives the same outcome each time.
const SEED: u64 = 1;
/// Part (0 to 1) by which drawn shares may be off.
const DRAWN: f64 = 0.03;

/// Tells nothing when no service that spills declares what all of its instances can take, in several zones.
pub(super) fn tell(stage: &mut Stage) -> Result<(), DemoError> {
    let mut topology = stage.federation.topology.clone();
    let spills = topology.services.values_mut();
    // In the demo it is ignored: see `federation`.
    spills
        .filter_map(|service| service.spill.as_mut())
        .for_each(|spill| spill.capacity = CapacityRule::Respect);
    let Some((service, capacities)) = find(&topology) else {
        return Ok(());
    };
    let all: f64 = capacities.iter().map(|(_, capacity)| capacity).sum();
    let about = format!(
        "The instances of {service} in {} declare {all:.0} requests a second (`capacity`). No zone is given more than its part: what is over \
         goes where there is room, and what fits nowhere is shed, the sheddable first. This is worked out, as `causeway simulate` does.",
        story::count(capacities.len(), "zone"),
    );
    stage.story.chapter("More than there is capacity for", &about)?;
    let topology = Arc::new(topology);
    let nobody = BTreeSet::new();
    let lost = BTreeSet::from([capacities[capacities.len() - 1].0.clone()]);
    let mut rows = Vec::new();
    for (part, lost, told) in [
        (CALM, &nobody, "60 % is asked for"),
        (CALM, &lost, "and the last zone is lost"),
        (CROWDED, &nobody, "120 % is asked for"),
    ] {
        // Each zone's clients ask for the same; those of a lost zone have gone with it.
        let load = |(zone, _): &(ZoneName, f64)| {
            let per_second = all * part / capacities.len() as f64;
            divided(&topology, zone, &service, per_second)
        };
        let loads: Vec<Load> = capacities.iter().flat_map(load).collect();
        let simulated = simulate(
            &topology,
            &fixed_exports(&topology),
            &MeasuredCapacities::default(),
            &loads,
            lost,
            SEED,
        );
        let mut row: Vec<Word> = vec![told.to_owned().into()];
        for (zone, capacity) in &capacities {
            let to = simulated
                .flows
                .iter()
                .filter(|flow| flow.to.as_ref() == Some(zone));
            let given: f64 = to.map(|flow| flow.per_second).sum();
            row.push(format!("{given:.0} of {capacity:.0}").into());
            if given > capacity * (1.0 + DRAWN) {
                stage.tally.breaks(format!(
                    "{zone} would be given more of {service} than it can take"
                ));
            }
        }
        let shed = simulated.flows.iter().filter(|flow| flow.is_shed);
        let shed: f64 = shed.map(|flow| flow.per_second).sum();
        row.push(format!("{shed:.0}").into());
        rows.push(row);
    }
    let zones = capacities.iter().map(|(zone, _)| zone.as_str().to_uppercase());
    let header: Vec<String> = [String::new()]
        .into_iter()
        .chain(zones)
        .chain(["SHED".to_owned()])
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    Ok(stage.story.table(&header, rows)?)
}

/// The first service whose capacity is respected and declared by every instance, with that of each zone.
fn find(topology: &Topology) -> Option<(ServiceName, Vec<(ZoneName, f64)>)> {
    topology.services.iter().find_map(|(name, service)| {
        if !causeway_routing::capacity::is_respected(service) {
            return None;
        }
        let mut capacities = Vec::new();
        for (zone, declared) in &topology.zones {
            let own: Vec<_> = declared
                .instances
                .iter()
                .filter(|one| one.service == *name)
                .collect();
            let capacity: Option<u64> = own.iter().map(|one| one.capacity_per_second).sum();
            if !own.is_empty() {
                capacities.push((zone.clone(), capacity? as f64));
            }
        }
        (capacities.len() > 1).then(|| (name.clone(), capacities))
    })
}
