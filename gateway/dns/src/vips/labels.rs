//! The tags that names can stand for, by their DNS label. They are read when a snapshot brings others, and only where it
//! does: a question, and a name that is looked after, then cost a look-up, however much other zones export.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use causeway_federation::{
    catalog::Record,
    name::{GatewayId, MAX_LABEL_BYTES, ServiceName, Tags},
    topology::Topology,
};
use causeway_routing::{
    snapshot::{InstanceList, Snapshot},
    target::Target,
};

/// Most keys of a service's tags that names stand for: of the topology, of the own instances, and of each gateway's exports.
const MAX_KEYS: usize = 64;
/// Most values of one key, of each of those, so that what one gateway exports does not fill memory or take the place of others.
const MAX_VALUES: usize = 1024;

/// The DNS label of a tag: `version-v2`. Characters that a label cannot hold become `-`. `None` if it would be too long.
#[must_use]
pub(crate) fn tag_label(key: &str, value: &str) -> Option<String> {
    let one = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => c,
        _ => '-',
    };
    let label: String = key.chars().chain(['-']).chain(value.chars()).map(one).collect();
    (label.len() <= MAX_LABEL_BYTES).then_some(label)
}

/// Tags of one service by their label. Those that have none are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TagLabels(BTreeMap<String, BTreeSet<(String, String)>>);

impl TagLabels {
    pub(super) fn add(&mut self, key: &str, value: &str) {
        let label = tag_label(key, value).filter(|label| label.len() == key.len() + 1 + value.len());
        if let Some(label) = label {
            let pairs = self.0.entry(label).or_default();
            pairs.insert((key.to_owned(), value.to_owned()));
        }
    }

    fn merge(&mut self, other: &Self) {
        for (label, pairs) in &other.0 {
            let mine = self.0.entry(label.clone()).or_default();
            mine.extend(pairs.iter().cloned());
        }
    }

    /// The tags that have this label; one, as a rule.
    pub(super) fn with_label(&self, label: &str) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.0.get(label).into_iter().flatten();
        pairs.map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// The tags that are known of each service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KnownTags(BTreeMap<ServiceName, Arc<TagLabels>>);

impl KnownTags {
    pub(super) fn with_label<'a>(
        &'a self,
        service: &ServiceName,
        label: &str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let labels = self.0.get(service).into_iter();
        labels.flat_map(move |labels| labels.with_label(label))
    }

    /// Tells whether some instance, export or split arm could bear all that `target` asks for.
    pub(super) fn has_all(&self, target: &Target) -> bool {
        target.tags.iter().all(|pair| {
            let label = tag_label(pair.0, pair.1);
            label.is_some_and(|label| {
                self.with_label(&target.service, &label)
                    .any(|known| known == pair)
            })
        })
    }
}

/// Distinct tags of one service from one side, before they have labels.
#[derive(Default)]
struct DistinctTags<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> DistinctTags<'a> {
    fn add(&mut self, tags: &'a Tags) {
        for (key, value) in tags.iter() {
            if key.len() + 1 + value.len() > MAX_LABEL_BYTES {
                continue;
            }
            if self.0.len() >= MAX_KEYS && !self.0.contains_key(key) {
                continue;
            }
            let values = self.0.entry(key).or_default();
            if values.len() < MAX_VALUES {
                values.insert(value);
            }
        }
    }

    fn labels(&self) -> TagLabels {
        let mut labels = TagLabels::default();
        for (key, values) in &self.0 {
            values.iter().for_each(|value| labels.add(key, value));
        }
        labels
    }
}

type LabelsByService = BTreeMap<ServiceName, TagLabels>;

/// Every tag that the topology, an own instance or another zone's export has, with what it was read from.
#[derive(Debug, Default)]
pub(super) struct TagIndex {
    topology: Option<Arc<Topology>>,
    declared: LabelsByService,
    own: BTreeMap<ServiceName, (InstanceList, TagLabels)>,
    exported: BTreeMap<GatewayId, (Arc<Record>, LabelsByService)>,
    known: Arc<KnownTags>,
    /// Instances and exports that were read so far.
    read: u64,
}

impl TagIndex {
    pub(super) fn known(&self) -> &Arc<KnownTags> {
        &self.known
    }

    /// Reads what is new in `snapshot`. Returns whether other tags are known now.
    pub(super) fn update(&mut self, snapshot: &Snapshot) -> bool {
        let before = self.read;
        let mut stale = BTreeSet::new();
        self.read_topology(snapshot, &mut stale);
        self.read_own(snapshot, &mut stale);
        self.read_exports(snapshot, &mut stale);
        if stale.is_empty() {
            return false;
        }
        let mut known = KnownTags::clone(&self.known);
        for service in stale {
            let labels = self.labels_of(&service, &snapshot.topology);
            match labels.0.is_empty() {
                true => drop(known.0.remove(&service)),
                false => drop(known.0.insert(service, labels.into())),
            }
        }
        let differs = *self.known != known;
        if differs {
            self.known = known.into();
        }
        tracing::trace!(read = self.read - before, differs, "read the tags of a snapshot");
        differs
    }

    fn read_topology(&mut self, snapshot: &Snapshot, stale: &mut BTreeSet<ServiceName>) {
        let topology = &snapshot.topology;
        if self
            .topology
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(held, topology))
        {
            return;
        }
        let mut distinct: BTreeMap<&ServiceName, DistinctTags<'_>> = BTreeMap::new();
        for (name, service) in &topology.services {
            let routed = service.routes.iter().flat_map(|route| {
                let mirror = route.mirror.iter().map(|mirror| &mirror.tags);
                let arms = route.split.iter().flat_map(|split| split.iter());
                arms.map(|arm| &arm.tags).chain(mirror)
            });
            let split = service.split.iter().map(|arm| &arm.tags);
            let of_service = distinct.entry(name).or_default();
            split.chain(routed).for_each(|tags| of_service.add(tags));
        }
        for fixed in topology.zones.values().flat_map(|zone| &zone.instances) {
            distinct.entry(&fixed.service).or_default().add(&fixed.tags);
        }
        stale.extend(self.known.0.keys().cloned());
        stale.extend(self.own.keys().cloned());
        // Who may run what may have changed.
        stale.extend(self.exported.values().flat_map(|(_, of)| of.keys().cloned()));
        self.declared = labels(&distinct);
        stale.extend(self.declared.keys().cloned());
        self.topology = Some(topology.clone());
    }

    fn read_own(&mut self, snapshot: &Snapshot, stale: &mut BTreeSet<ServiceName>) {
        self.own.retain(|service, _| {
            let stays = snapshot.instances.contains_key(service);
            if !stays {
                stale.insert(service.clone());
            }
            stays
        });
        for (service, list) in snapshot.instances.iter() {
            let held = self.own.get(service);
            if held.is_some_and(|(held, _)| std::ptr::eq::<[_]>(&**held, &**list)) {
                continue;
            }
            let mut distinct = DistinctTags::default();
            list.iter().for_each(|instance| distinct.add(&instance.tags));
            self.read += list.len() as u64;
            self.own
                .insert(service.clone(), (list.clone(), distinct.labels()));
            stale.insert(service.clone());
        }
    }

    fn read_exports(&mut self, snapshot: &Snapshot, stale: &mut BTreeSet<ServiceName>) {
        self.exported.retain(|origin, (_, of)| {
            let stays = snapshot.catalog.entry(origin).is_some();
            if !stays {
                stale.extend(of.keys().cloned());
            }
            stays
        });
        for record in snapshot.catalog.entries().map(|entry| &entry.record) {
            let held = self.exported.get(&record.origin);
            if held.is_some_and(|(held, _)| Arc::ptr_eq(held, record)) {
                continue;
            }
            stale.extend(held.into_iter().flat_map(|(_, of)| of.keys().cloned()));
            let mut distinct: BTreeMap<&ServiceName, DistinctTags<'_>> = BTreeMap::new();
            for export in record.exports.iter() {
                distinct.entry(&export.service).or_default().add(&export.tags);
            }
            self.read += record.exports.len() as u64;
            let of = labels(&distinct);
            stale.extend(of.keys().cloned());
            self.exported.insert(record.origin.clone(), (record.clone(), of));
        }
    }

    fn labels_of(&self, service: &ServiceName, topology: &Topology) -> TagLabels {
        let mut labels = self.declared.get(service).cloned().unwrap_or_default();
        let own = self.own.get(service).map(|(_, own)| own);
        let exported = self
            .exported
            .iter()
            .filter(|(origin, _)| topology.may_run(service, &origin.zone))
            .filter_map(|(_, (_, of))| of.get(service));
        own.into_iter()
            .chain(exported)
            .for_each(|more| labels.merge(more));
        labels
    }
}

fn labels(distinct: &BTreeMap<&ServiceName, DistinctTags<'_>>) -> LabelsByService {
    let labels = distinct.iter();
    let labels = labels.map(|(service, tags)| ((*service).clone(), tags.labels()));
    labels.filter(|(_, labels)| !labels.0.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use causeway_federation::catalog::{Age, Catalog, CatalogEntry, Export};
    use causeway_routing::testbed;

    use super::*;

    fn with_exports(tags: impl Iterator<Item = Tags>) -> Snapshot {
        let export = |tags| Export {
            service: testbed::service("orders"),
            tags,
            instances: 1,
            healthy: 1,
            weight: 1,
            capacity_per_second: None,
        };
        let entry = testbed::entry("west/gw1", Age::Fresh, false, &[]);
        let mut record = Record::clone(&entry.record);
        record.exports = tags.map(export).collect();
        let record = Arc::new(record);
        let topology = testbed::topology(
            "  east: { vips: { loopback: 127.64.0.0/10 } }\n  west: {}",
            "  orders: { port: 8080, protocol: tcp }",
        );
        testbed::snapshot(
            "east",
            &topology,
            Vec::new(),
            vec![CatalogEntry { record, ..entry }],
            &[],
        )
    }

    fn tags(text: &str) -> Target {
        let tags = text.split(',').map(|pair| pair.split_once('=').unwrap());
        Target {
            tags: tags.collect(),
            ..Target::service(testbed::service("orders"))
        }
    }

    #[test]
    fn each_export_is_read_once_however_often_a_snapshot_comes() {
        let numbered = |number: u32| tags(&format!("version=v1,n={number}")).tags;
        let mut snapshot = with_exports((0..100_000).map(numbered));
        let mut index = TagIndex::default();
        assert!(index.update(&snapshot));
        assert_eq!(index.read, 100_000);
        for generation in 2..10 {
            snapshot.generation = generation;
            snapshot.catalog = Arc::new(Catalog::clone(&snapshot.catalog));
            assert!(!index.update(&snapshot));
        }
        assert_eq!(index.read, 100_000);
        assert!(index.known().has_all(&tags("version=v1,n=10")));
    }

    #[test]
    fn a_key_with_many_values_takes_no_other_keys_place() {
        let pairs = (0..100_000u32).map(|number| tags(&format!("a={number},version=v{}", number % 3)).tags);
        let many_keys = (0..1000u32).map(|number| tags(&format!("k{number}=1")).tags);
        let mut index = TagIndex::default();
        index.update(&with_exports(pairs));
        assert!((0..3).all(|version| index.known().has_all(&tags(&format!("version=v{version}")))));
        let labels = |index: &TagIndex| index.known().0["orders"].0.len();
        assert_eq!(labels(&index), MAX_VALUES + 3);
        index.update(&with_exports(many_keys));
        assert_eq!(labels(&index), MAX_KEYS);
    }

    #[test]
    fn what_is_gone_is_not_known_and_what_a_zone_may_not_run_neither() {
        let mut index = TagIndex::default();
        let mut snapshot = with_exports([tags("version=v2").tags].into_iter());
        index.update(&snapshot);
        assert!(index.known().has_all(&tags("version=v2")));
        let mut topology = Topology::clone(&snapshot.topology);
        let orders = topology.services.get_mut("orders").unwrap();
        orders.run_in = Some([testbed::zone("east")].into_iter().collect());
        snapshot.topology = topology.into();
        assert!(index.update(&snapshot));
        assert!(!index.known().has_all(&tags("version=v2")));
        let mut snapshot = with_exports([tags("version=v2").tags].into_iter());
        assert!(index.update(&snapshot));
        snapshot.catalog = Arc::default();
        assert!(index.update(&snapshot));
        assert!(!index.known().has_all(&tags("version=v2")));
    }
}
