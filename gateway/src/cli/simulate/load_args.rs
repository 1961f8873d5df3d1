//! Loads that the command line names.

use std::{collections::BTreeMap, str::FromStr};

use causeway_federation::{
    name::{ServiceName, Tags, ZoneName},
    topology::{Criticality, Topology},
};
use causeway_routing::simulate::{Load, ZoneExports, divided, even_loads};

use crate::cli::Failure;

/// Load of each service from each zone, where none is given.
pub(super) const MADE_UP: f64 = 100.0;

/// One `--load`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LoadArg {
    /// `None`: from each zone.
    from: Option<ZoneName>,
    service: ServiceName,
    /// `None`: the same of each that the service and its routes have.
    criticality: Option<Criticality>,
    per_second: f64,
}

impl FromStr for LoadArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = "write SERVICE=RATE or ZONE/SERVICE=RATE, such as east/orders=900, or with a criticality orders:critical=90";
        let (name, rate) = text.split_once('=').ok_or(how)?;
        let per_second: f64 = rate.trim_end_matches("/s").parse().map_err(|_| how)?;
        if !(per_second.is_finite() && per_second >= 0.0) {
            return Err(how.to_owned());
        }
        let (from, service) = match name.split_once('/') {
            Some((zone, service)) => (
                Some(ZoneName::new(zone).map_err(|error| error.to_string())?),
                service,
            ),
            None => (None, name),
        };
        let (service, criticality) = match service.split_once(':') {
            None => (service, None),
            Some((service, word)) => {
                let known = Criticality::ALL.into_iter().find(|one| one.word() == word);
                let known = known.ok_or("a criticality is critical, normal or sheddable")?;
                (service, Some(known))
            }
        };
        let service = ServiceName::new(service).map_err(|error| error.to_string())?;
        Ok(Self {
            from,
            service,
            criticality,
            per_second,
        })
    }
}

/// Loads that are recorded, those that are given in their place, one for a zone before one for each; without any, the same of everything.
pub(super) fn loads(
    topology: &Topology,
    exports: &ZoneExports,
    recorded: Option<Vec<Load>>,
    given: &[LoadArg],
) -> Result<Vec<Load>, Failure> {
    if given.is_empty() {
        return Ok(recorded.unwrap_or_else(|| even_loads(topology, exports, MADE_UP)));
    }
    for load in given {
        let zone = load
            .from
            .as_ref()
            .filter(|zone| !topology.zones.contains_key(*zone));
        if let Some(zone) = zone {
            return Err(Failure::usage(format!("the topology has no zone {zone}")));
        }
        if !topology.services.contains_key(&load.service) {
            return Err(Failure::usage(format!(
                "the topology has no service {}",
                load.service
            )));
        }
    }
    let mut loads = recorded.unwrap_or_default();
    // Without a load of its own a zone that may not call has none.
    let callable = even_loads(topology, exports, 0.0);
    for service in topology.services.keys() {
        for zone in topology.zones.keys() {
            let of_service = given.iter().filter(|one| one.service == *service);
            let of_zone = of_service.clone().filter(|one| one.from.as_ref() == Some(zone));
            let chosen: Vec<&LoadArg> = match of_zone.clone().next() {
                Some(_) => of_zone.collect(),
                None => of_service.filter(|one| one.from.is_none()).collect(),
            };
            if chosen.is_empty() {
                continue;
            }
            loads.retain(|load| load.service != *service || load.from != *zone);
            let may_call = callable
                .iter()
                .any(|load| load.service == *service && load.from == *zone);
            if may_call || chosen.iter().any(|one| one.from.is_some()) {
                loads.extend(of(topology, zone, service, &chosen));
            }
        }
    }
    Ok(loads)
}

/// The last of each criticality counts.
fn of(topology: &Topology, zone: &ZoneName, service: &ServiceName, chosen: &[&LoadArg]) -> Vec<Load> {
    let last: BTreeMap<Option<Criticality>, f64> = chosen
        .iter()
        .map(|one| (one.criticality, one.per_second))
        .collect();
    let loads = last
        .into_iter()
        .flat_map(|(criticality, per_second)| match criticality {
            None => divided(topology, zone, service, per_second),
            Some(criticality) => vec![Load {
                from: zone.clone(),
                service: service.clone(),
                tags: Tags::default(),
                criticality,
                per_second,
            }],
        });
    loads.collect()
}

#[cfg(test)]
mod tests {
    use causeway_federation::topology::parse;
    use causeway_routing::simulate::fixed_exports;

    use super::*;

    const TEXT: &str = "\
version: 1
trust_domain: acme.internal
zones:
  east: { gateways: [], instances: [{ service: orders, address: 10.0.0.1:80, capacity: 150/s }] }
  west: { gateways: [], instances: [{ service: ledger, address: 10.0.0.2:80 }] }
services:
  orders: { port: 80, protocol: http, routes: [{ match: { path: /pay }, criticality: critical }] }
  ledger: { port: 81, deny: ['*@east'] }
";

    fn chosen(recorded: Option<Vec<Load>>, given: &[&str]) -> Result<Vec<String>, Failure> {
        let topology = parse(TEXT, "").unwrap().topology;
        let given: Vec<LoadArg> = given.iter().map(|text| text.parse().unwrap()).collect();
        let loads = loads(&topology, &fixed_exports(&topology), recorded, &given)?;
        let word = |load: Load| {
            let criticality = load.criticality.word();
            format!("{}/{}:{criticality}={}", load.from, load.service, load.per_second)
        };
        Ok(loads.into_iter().map(word).collect())
    }

    #[test]
    fn a_load_of_one_zone_counts_before_one_of_all() {
        assert_eq!(
            chosen(None, &["orders=200", "east/orders=900/s"]).unwrap(),
            [
                "east/orders:critical=450",
                "east/orders:normal=450",
                "west/orders:critical=100",
                "west/orders:normal=100"
            ]
        );
        assert_eq!(
            chosen(None, &["west/orders:critical=7", "west/orders:normal=3"]).unwrap(),
            ["west/orders:critical=7", "west/orders:normal=3"]
        );
        let all = chosen(None, &[]).unwrap();
        assert_eq!(all.len(), 5, "who may not call ledger asks for nothing: {all:?}");
        assert_eq!(
            chosen(None, &["east/ledger=5"]).unwrap(),
            ["east/ledger:normal=5"]
        );
    }

    #[test]
    fn what_is_given_takes_the_place_of_what_was_recorded_there() {
        let recorded = |from: &str, service: &str| Load {
            from: ZoneName::new(from).unwrap(),
            service: ServiceName::new(service).unwrap(),
            tags: Tags::default(),
            criticality: Criticality::Sheddable,
            per_second: 1.0,
        };
        let all = vec![
            recorded("east", "orders"),
            recorded("west", "orders"),
            recorded("west", "ledger"),
        ];
        assert_eq!(chosen(Some(all.clone()), &[]).unwrap().len(), 3);
        assert_eq!(
            chosen(Some(all), &["west/orders:critical=7"]).unwrap(),
            [
                "east/orders:sheddable=1",
                "west/ledger:sheddable=1",
                "west/orders:critical=7"
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_or_is_not_there_is_refused() {
        for wrong in [
            "orders",
            "orders=fast",
            "orders=-1",
            "orders=inf",
            "/orders=1",
            "east/=1",
            "orders:urgent=1",
        ] {
            assert!(wrong.parse::<LoadArg>().is_err(), "{wrong}");
        }
        for unknown in ["south/orders=1", "basket=1"] {
            assert!(chosen(None, &[unknown]).is_err(), "{unknown}");
        }
    }
}
