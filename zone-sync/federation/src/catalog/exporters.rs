//! The gateways that export each service: an index over a catalog's records that is brought up to date with each of them,
//! so that a decision about one service looks at its exporters and not at the whole federation.
//!
//! Readers hold one catalog while the next is made. The index is therefore cut into shards: a change copies the shards that
//! it lies in, and most changes (of health, weight, age) lie in none.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use super::Exports;
use crate::name::{GatewayId, ServiceName};

/// Parts of the index. With ten thousand services a copy of one is forty pointers.
const SHARDS: usize = 256;

type Shard = HashMap<ServiceName, Arc<Vec<GatewayId>>>;

/// Gateways by service, each list in order. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Exporters {
    hasher: RandomState,
    shards: Arc<Vec<Arc<Shard>>>,
}

impl Default for Exporters {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: Arc::new(vec![Arc::default(); SHARDS]),
        }
    }
}

impl Exporters {
    /// The gateways that export `service`, with whatever tags, in order.
    pub(super) fn of(&self, service: &ServiceName) -> &[GatewayId] {
        let shard = self.shards.get(self.shard(service));
        shard
            .and_then(|shard| shard.get(service))
            .map_or(&[], |gateways| gateways.as_slice())
    }

    /// Takes up that `origin` exports `after` instead of `before`.
    pub(super) fn update(&mut self, origin: &GatewayId, before: &Exports, after: &Exports) {
        for service in after.services_beyond(before) {
            self.edit(&service, |gateways| {
                if let Err(place) = gateways.binary_search(origin) {
                    gateways.insert(place, origin.clone());
                }
            });
        }
        for service in before.services_beyond(after) {
            self.edit(&service, |gateways| {
                if let Ok(place) = gateways.binary_search(origin) {
                    gateways.remove(place);
                }
            });
        }
    }

    /// Edits the list of one service, and forgets a service that nobody exports.
    fn edit(&mut self, service: &ServiceName, edit: impl FnOnce(&mut Vec<GatewayId>)) {
        let at = self.shard(service);
        let Some(shard) = Arc::make_mut(&mut self.shards).get_mut(at) else {
            return;
        };
        let shard = Arc::make_mut(shard);
        let gateways = Arc::make_mut(shard.entry(service.clone()).or_default());
        edit(gateways);
        if gateways.is_empty() {
            shard.remove(service);
        }
    }

    fn shard(&self, service: &ServiceName) -> usize {
        // Below SHARDS, so it fits.
        usize::try_from(self.hasher.hash_one(service) % SHARDS as u64).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::{
        catalog::{Age, Catalog, CatalogEntry, Export, Exports, Record},
        name::{GatewayId, GatewayName, ServiceName, ZoneName},
    };

    fn service(number: u16) -> ServiceName {
        ServiceName::new(&format!("s{number:04}")).unwrap()
    }

    fn export(number: u16) -> Export {
        Export {
            service: service(number / 2),
            tags: [("v", (number % 2).to_string())].into_iter().collect(),
            instances: 1,
            healthy: 1,
            weight: 1,
            capacity_per_second: None,
        }
    }

    fn entry(zone: u8, exports: Exports) -> CatalogEntry {
        let zone = ZoneName::new(&format!("z{zone}")).unwrap();
        let record = Record {
            origin: GatewayId::new(zone, GatewayName::new("gw").unwrap()),
            incarnation: 1,
            version: 1,
            exports,
            draining: false,
            topology: crate::edition::Fingerprint::default(),
            topology_generation: 0,
            trust: Default::default(),
            trust_ended: 0,
            shifts: Default::default(),
            signed: None,
        };
        CatalogEntry {
            record: record.into(),
            age: Age::Fresh,
            via: None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_exporters_of_a_service_are_those_whose_records_have_it(
            start in prop::collection::vec(prop::collection::vec(0u16..600, 0..400), 4),
            edits in prop::collection::vec((0u8..4, 0u16..600, 0u8..8), 0..60),
        ) {
            let mut catalog = Catalog::default();
            for (zone, exports) in start.iter().enumerate() {
                catalog.insert(entry(zone.try_into().unwrap(), exports.iter().map(|n| export(*n)).collect()));
            }
            for (zone, number, edit) in edits {
                // A reader holds each catalog while the next is made.
                let held = catalog.clone();
                let known = |catalog: &Catalog| -> Vec<_> {
                    let gateways = catalog.exporters(&service(number / 2));
                    gateways.map(|e| e.record.origin.clone()).collect()
                };
                let before = known(&held);
                let origin = entry(zone, Exports::default()).record.origin.clone();
                let mut exports = catalog.entry(&origin).map(|e| e.record.exports.clone()).unwrap_or_default();
                let edited = export(number);
                match edit {
                    0 => drop(catalog.remove(&origin)),
                    1..4 => {
                        exports.remove(&edited.service, &edited.tags);
                        catalog.insert(entry(zone, exports));
                    }
                    _ => {
                        exports.insert(edited);
                        catalog.insert(entry(zone, exports));
                    }
                }
                prop_assert_eq!(known(&held), before);
            }
            for number in 0..300 {
                let service = service(number);
                let has = |entry: &&CatalogEntry| entry.record.exports.of(&service).next().is_some();
                let expected: Vec<_> = catalog.entries().filter(has).map(|e| e.record.origin.clone()).collect();
                let found: Vec<_> = catalog.exporters(&service).map(|e| e.record.origin.clone()).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
