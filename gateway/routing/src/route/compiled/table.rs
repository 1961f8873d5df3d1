//! Every service as it was compiled for one snapshot. A service is compiled when it is first asked for; the table of the next snapshot
//! goes on with what no change has touched.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use causeway_federation::{
    catalog::{Catalog, CatalogEntry},
    name::{GatewayId, ServiceName, ZoneName},
    topology::Topology,
};

use super::CompiledService;
use crate::{
    route::Request,
    snapshot::{Link, Published, Snapshot},
};

/// Services on one page. A change copies the pages that it lies in and the pointers to all others: about as many of the one as of the
/// other with ten thousand services.
const PAGE: usize = 64;

/// `None` within: the service is not one of those that are compiled.
type Slot = OnceLock<Option<Arc<CompiledService>>>;
type Page = Arc<[Slot]>;

/// Compiled services of one snapshot; empty for any other. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct CompiledServices(Option<Arc<CompiledTable>>);

#[derive(Debug)]
struct CompiledTable {
    of: CompiledSources,
    /// Places of the services of the topology.
    places: Arc<HashMap<ServiceName, usize>>,
    pages: Vec<Page>,
}

/// Everything of a snapshot that homes are worked out from and that does not change in place. Held, so that no other has its address.
#[derive(Debug, Clone)]
struct CompiledSources {
    zone: ZoneName,
    topology: Arc<Topology>,
    instances: Published,
    catalog: Arc<Catalog>,
    links: Arc<BTreeMap<GatewayId, Link>>,
}

impl CompiledSources {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            zone: snapshot.zone.clone(),
            topology: snapshot.topology.clone(),
            instances: snapshot.instances.clone(),
            catalog: snapshot.catalog.clone(),
            links: snapshot.links.clone(),
        }
    }

    fn are_of(&self, snapshot: &Snapshot) -> bool {
        Arc::ptr_eq(&self.catalog, &snapshot.catalog)
            && Arc::ptr_eq(&self.topology, &snapshot.topology)
            && Arc::ptr_eq(&self.instances, &snapshot.instances)
            && Arc::ptr_eq(&self.links, &snapshot.links)
            && self.zone == snapshot.zone
    }

    /// Collects the services that may stand otherwise than they did `before`, of one topology and zone.
    fn touched_since(&self, before: &Self) -> BTreeSet<ServiceName> {
        let mut touched = BTreeSet::new();
        if !Arc::ptr_eq(&self.instances, &before.instances) {
            touched.extend(differing_lists(&before.instances, &self.instances));
            touched.extend(differing_lists(&self.instances, &before.instances));
        }
        for (old, new) in before.catalog.differences(&self.catalog) {
            match (old, new) {
                (Some(old), Some(new))
                    if old.age == new.age && old.record.draining == new.record.draining =>
                {
                    let changes = old.record.exports.changes(&new.record.exports);
                    touched.extend(changes.into_iter().map(|((service, _), _)| service));
                }
                _ => touched.extend([old, new].into_iter().flatten().flat_map(services_of)),
            }
        }
        if self.links != before.links {
            let linked = before.links.keys().chain(self.links.keys());
            let differ = linked.filter(|gateway| self.links.get(*gateway) != before.links.get(*gateway));
            // Of a record that has changed as well, it is above.
            let entries = differ.filter_map(|gateway| self.catalog.entry(gateway));
            touched.extend(entries.flat_map(services_of));
        }
        touched
    }
}

fn services_of(entry: &CatalogEntry) -> impl Iterator<Item = ServiceName> {
    entry.record.exports.iter().map(|export| export.service.clone())
}

/// Services of one that have another list in the other.
fn differing_lists<'a>(one: &'a Published, other: &'a Published) -> impl Iterator<Item = ServiceName> + 'a {
    let differ = one
        .iter()
        .filter(|(name, list)| !other.get(*name).is_some_and(|known| known.is_same(list)));
    differ.map(|(name, _)| name.clone())
}

impl CompiledTable {
    fn new(of: CompiledSources, places: Option<Arc<HashMap<ServiceName, usize>>>) -> Self {
        let places = places.unwrap_or_else(|| {
            let services = of.topology.services.keys().cloned();
            Arc::new(services.zip(0..).collect())
        });
        let page = || -> Page { (0..PAGE).map(|_| Slot::new()).collect() };
        let pages = (0..places.len().div_ceil(PAGE)).map(|_| page()).collect();
        Self { of, places, pages }
    }

    fn following(&self, of: CompiledSources) -> Self {
        let touched = of.touched_since(&self.of);
        let mut by_page: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for place in touched.iter().filter_map(|service| self.places.get(service)) {
            by_page.entry(place / PAGE).or_default().push(place % PAGE);
        }
        let mut pages = self.pages.clone();
        for (number, touched) in by_page {
            let Some(page) = pages.get_mut(number) else {
                continue;
            };
            let mut slots: Vec<Slot> = page.to_vec();
            for place in touched {
                slots[place] = Slot::new();
            }
            *page = slots.into();
        }
        Self {
            of,
            places: self.places.clone(),
            pages,
        }
    }
}

impl CompiledServices {
    /// The table of a snapshot, which goes on with what has not changed since this one.
    #[must_use]
    pub fn following(&self, snapshot: &Snapshot) -> Self {
        let of = CompiledSources::of(snapshot);
        let next = match &self.0 {
            Some(before) if before.of.zone == of.zone && Arc::ptr_eq(&before.of.topology, &of.topology) => {
                before.following(of)
            }
            _ => CompiledTable::new(of, None),
        };
        Self(Some(Arc::new(next)))
    }

    /// Tells whether a service is compiled already.
    #[cfg(test)]
    pub(in crate::route) fn has(&self, service: &ServiceName) -> bool {
        let place = |table: &Arc<CompiledTable>| table.places.get(service).copied();
        let slot = self.0.as_ref().zip(self.0.as_ref().and_then(place));
        slot.is_some_and(|(table, place)| table.pages[place / PAGE][place % PAGE].get().is_some())
    }

    /// The service that a request asks for. `None`: the decision on it is not found here.
    #[inline]
    pub(in crate::route) fn service<'s>(
        &'s self,
        snapshot: &'s Snapshot,
        request: &Request,
    ) -> Option<&'s CompiledService> {
        let target = &request.target;
        if request.explain || !target.is_whole() {
            return None;
        }
        let table = self.0.as_ref().filter(|table| table.of.are_of(snapshot))?;
        if snapshot.ejections.load().has_places_of(&target.service) {
            return None;
        }
        let place = *table.places.get(&target.service)?;
        let slot = table.pages.get(place / PAGE)?.get(place % PAGE)?;
        let known = match slot.get() {
            Some(known) => known,
            None => {
                let compiled = CompiledService::new(snapshot, &target.service);
                // Whoever was faster has worked out the same.
                drop(slot.set(compiled.map(Arc::new)));
                slot.get()?
            }
        };
        known.as_deref()
    }
}
