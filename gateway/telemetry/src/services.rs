//! The names of the topology that may become labels of metrics: services, their arms, zones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use causeway_federation::{
    name::{ServiceName, Tags, ZoneName},
    topology::{Service, Topology},
};
use parking_lot::Mutex;

use super::series::{NamedLabels, Series};

/// Stands for every name that the topology does not have.
const OTHER: &str = "other";

/// A service of the topology, or `other`.
pub type ServiceLabel = Arc<str>;
/// Tags of an arm of a split, as `version=v2`; `other` for tags of no arm, and nothing for any tags.
pub type ArmLabel = Arc<str>;
/// A zone of the topology, or `other`; nothing for none.
pub type ZoneLabel = Arc<str>;

/// Names that the topology has.
#[derive(Debug, Default)]
pub struct KnownNames {
    services: BTreeMap<ServiceLabel, Vec<(Tags, ArmLabel)>>,
    /// Labels of routes by service.
    routes: BTreeMap<ServiceLabel, BTreeSet<Arc<str>>>,
    zones: BTreeSet<ZoneLabel>,
}

impl KnownNames {
    fn of(topology: &Topology) -> Self {
        let routes = |service: &Service| service.routes.iter().map(|route| route.label.clone()).collect();
        let arms = |service: &Service| {
            let distinct: BTreeSet<&Tags> = service
                .all_arms()
                .map(|arm| &arm.tags)
                .filter(|tags| !tags.is_empty())
                .collect();
            let labelled = distinct
                .into_iter()
                .map(|tags| (tags.clone(), arm_text(tags).into()));
            labelled.collect()
        };
        let services = topology.services.iter();
        Self {
            services: services
                .map(|(name, service)| (name.as_str().into(), arms(service)))
                .collect(),
            routes: topology
                .services
                .iter()
                .map(|(name, service)| (name.as_str().into(), routes(service)))
                .collect(),
            zones: topology.zones.keys().map(|zone| zone.as_str().into()).collect(),
        }
    }

    /// Tells whether a label still stands for something.
    #[must_use]
    pub fn has_service(&self, label: &str) -> bool {
        label == OTHER || self.services.contains_key(label)
    }

    /// As [`KnownNames::has_service`], of a zone.
    #[must_use]
    pub fn has_zone(&self, label: &str) -> bool {
        label.is_empty() || label == OTHER || self.zones.contains(label)
    }

    /// As [`KnownNames::has_service`], of a route.
    #[must_use]
    pub fn has_route(&self, service: &str, label: &str) -> bool {
        let routes = self.routes.get(service);
        routes.is_some_and(|routes| routes.contains(label))
    }

    /// As [`KnownNames::has_service`], of an arm of a service.
    #[must_use]
    pub fn has_arm(&self, service: &str, label: &str) -> bool {
        let arms = self.services.get(service).map_or(&[][..], Vec::as_slice);
        label.is_empty() || label == OTHER || arms.iter().any(|(_, arm)| &**arm == label)
    }
}

fn arm_text(tags: &Tags) -> String {
    let pairs: Vec<String> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

type DropUnnamed = Box<dyn Fn(&KnownNames) + Send + Sync>;

/// Keeps the names that the topology has. Until it is told of them, and for any name that is not among them, a label says
/// `other`, so that no client can make series; and series of names that are gone are dropped.
pub struct ServiceLabels {
    known: ArcSwap<KnownNames>,
    other: Arc<str>,
    none: Arc<str>,
    followers: Mutex<Vec<DropUnnamed>>,
}

impl std::fmt::Debug for ServiceLabels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceLabels")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl Default for ServiceLabels {
    fn default() -> Self {
        Self {
            known: ArcSwap::default(),
            other: OTHER.into(),
            none: "".into(),
            followers: Mutex::default(),
        }
    }
}

impl ServiceLabels {
    /// Takes the names of a topology in the place of those before; call it with every new one.
    pub fn follow(&self, topology: &Topology) {
        self.take(KnownNames::of(topology));
    }

    /// Names services alone.
    pub fn set<'a>(&self, services: impl IntoIterator<Item = &'a ServiceName>) {
        let services = services.into_iter();
        self.take(KnownNames {
            services: services
                .map(|service| (service.as_str().into(), Vec::new()))
                .collect(),
            routes: BTreeMap::new(),
            zones: BTreeSet::new(),
        });
    }

    fn take(&self, known: KnownNames) {
        self.known.store(Arc::new(known));
        let known = self.known.load();
        for drop_unnamed in &*self.followers.lock() {
            drop_unnamed(&known);
        }
    }

    /// Has series of names that are gone dropped from now on.
    pub fn keep_up<L: NamedLabels, M: Clone + Send + Sync + 'static>(&self, series: Series<L, M>) {
        let follower: DropUnnamed = Box::new(move |known| series.drop_unnamed(known));
        self.followers.lock().push(follower);
    }

    #[must_use]
    pub fn label(&self, service: &str) -> ServiceLabel {
        let known = self.known.load();
        let found = known.services.get_key_value(service);
        found.map_or(&self.other, |(label, _)| label).clone()
    }

    /// Label of a zone; `None`: of none.
    #[must_use]
    pub fn zone(&self, zone: Option<&ZoneName>) -> ZoneLabel {
        let Some(zone) = zone else {
            return self.none.clone();
        };
        self.known
            .load()
            .zones
            .get(zone.as_str())
            .unwrap_or(&self.other)
            .clone()
    }

    /// Label of the tags that a service was asked for with.
    #[must_use]
    pub fn arm(&self, service: &str, tags: &Tags) -> ArmLabel {
        if tags.is_empty() {
            return self.none.clone();
        }
        let known = self.known.load();
        let arms = known.services.get(service).map_or(&[][..], Vec::as_slice);
        let arm = arms.iter().find(|(of, _)| of == tags);
        arm.map_or(&self.other, |(_, label)| label).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(services: &str) -> Topology {
        let text = format!(
            "version: 1\ntrust_domain: a.b\nzones: {{ east: {{ gateways: [] }}, west: {{ gateways: [] }} }}\nservices:\n{services}\n"
        );
        causeway_federation::topology::parse(&text, "test.yaml")
            .unwrap()
            .topology
    }

    #[test]
    fn a_name_outside_the_topology_is_other() {
        let services = ServiceLabels::default();
        assert_eq!(&*services.label("orders"), "other");
        services.set([&ServiceName::new("orders").unwrap()]);
        assert_eq!(&*services.label("orders"), "orders");
        assert_eq!(&*services.label("a"), "other");
    }

    #[test]
    fn arms_and_zones_are_those_of_the_topology() {
        let labels = ServiceLabels::default();
        labels.follow(&topology(
            "  orders: { port: 80, protocol: http, split: [{ tags: { version: v1 } }], routes: [{ name: a, match: { path: /a }, split: [{ tags: { version: v2, team: x } }] }] }",
        ));
        let arm = |tags: &[(&str, &str)]| labels.arm("orders", &tags.iter().copied().collect());
        assert_eq!(&*arm(&[]), "");
        assert_eq!(&*arm(&[("version", "v1")]), "version=v1");
        assert_eq!(&*arm(&[("team", "x"), ("version", "v2")]), "team=x,version=v2");
        assert_eq!(&*arm(&[("version", "made-up")]), "other");
        let zone = |name: &str| labels.zone(Some(&ZoneName::new(name).unwrap()));
        assert_eq!((&*zone("west"), &*zone("north")), ("west", "other"));
        assert_eq!(&*labels.zone(None), "");
    }
}
