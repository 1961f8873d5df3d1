//! Drains of single instances.

use std::time::Instant;

use causeway_federation::{
    registry::{InstanceKey, RegistryError},
    topology::Drain,
};
use causeway_routing::{balance::takes_traffic, snapshot::Instance};

use super::Table;
use crate::drains::{DrainedInstance, DrainedInstances, MAX_ABSENT_LOOKS, MAX_DRAINS};

impl Table {
    /// Begins with the drains that are known.
    pub(in super::super) fn draining(self, drains: DrainedInstances) -> Self {
        Self { drains, ..self }
    }

    /// Has nothing new go to an instance, or with `None` has it serve again, and says what is drained then.
    pub(in super::super) fn drain(
        &mut self,
        now: Instant,
        key: &InstanceKey,
        drain: Option<Drain>,
        even_the_last: bool,
    ) -> Result<DrainedInstances, RegistryError> {
        let member = self.member(key);
        match drain {
            None => {
                let is_known = self.drains.remove(key).is_some() || self.member(key).is_some();
                is_known
                    .then_some(())
                    .ok_or_else(|| RegistryError::NotFound(key.clone()))?;
            }
            Some(drain) => {
                let member = member.ok_or_else(|| RegistryError::NotFound(key.clone()))?;
                let is_given = takes_traffic(&member.instance) && self.has_weight(&member.instance);
                if !even_the_last && is_given && !self.others_take_traffic(key) {
                    return Err(RegistryError::LastHealthy(key.clone()));
                }
                self.make_room(key)?;
                self.drains.insert(key.clone(), DrainedInstance::new(drain));
            }
        }
        self.reconcile(now, key);
        Ok(self.drains.clone())
    }

    /// Tells whether another instance of its service takes traffic, and is of an arm that has a weight.
    fn others_take_traffic(&self, key: &InstanceKey) -> bool {
        let all = self.members.get(&key.service).into_iter().flatten();
        let mut others = all.filter(|(id, _)| **id != key.id);
        others.any(|(_, member)| takes_traffic(&member.instance) && self.has_weight(&member.instance))
    }

    /// Tells whether an instance is of an arm that has a weight, or its service has no arms.
    fn has_weight(&self, instance: &Instance) -> bool {
        let arms = self.arms.get(&instance.service);
        arms.is_none_or(|arms| arms.iter().any(|arm| instance.tags.matches(arm)))
    }

    /// Gives the drain of an instance that is there.
    pub(super) fn drain_of(&mut self, key: &InstanceKey) -> Option<Drain> {
        let drained = self.drains.get_mut(key)?;
        self.is_back |= std::mem::take(&mut drained.absent_looks) > 0;
        Some(drained.drain.clone())
    }

    /// Looks, as is done once an hour, which drained instances are gone, and forgets the drains of those that have been for long. Gives all
    /// drains if anything is to be written.
    pub(in super::super) fn look_at_drains(&mut self) -> Option<DrainedInstances> {
        let mut drains = std::mem::take(&mut self.drains);
        let mut changed = std::mem::take(&mut self.is_back);
        drains.retain(|key, drained| {
            if self.member(key).is_some() {
                return true;
            }
            changed = true;
            drained.absent_looks += 1;
            drained.absent_looks < MAX_ABSENT_LOOKS
        });
        self.drains = drains;
        changed.then(|| self.drains.clone())
    }

    /// Forgets the drain of an instance that is gone, the one that has been for longest, if there is no room else.
    fn make_room(&mut self, key: &InstanceKey) -> Result<(), RegistryError> {
        if self.drains.len() < MAX_DRAINS || self.drains.contains_key(key) {
            return Ok(());
        }
        let gone = self.drains.iter().filter(|(key, _)| self.member(key).is_none());
        let longest = gone.max_by_key(|(_, drained)| drained.absent_looks);
        let longest = longest.map(|(key, _)| key.clone());
        let longest = longest.ok_or(RegistryError::TooManyDrains)?;
        self.drains.remove(&longest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Sharing;
    use causeway_federation::{
        name::{ServiceName, Tags, ZoneName},
        registry::{InstanceSource, Provenance, Registration},
        topology::{Topology, parse},
    };

    fn topology() -> Topology {
        let text = "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [], instances: [{ service: orders, address: '10.0.0.1:80' }] } }\nservices: { orders: { port: 80 } }\n";
        parse(text, "").unwrap().topology
    }

    fn key(id: &str) -> InstanceKey {
        crate::key(&ServiceName::new("orders").unwrap(), id)
    }

    fn register(table: &mut Table, id: &str, source: &InstanceSource) {
        let registration = Registration {
            service: ServiceName::new("orders").unwrap(),
            id: id.to_owned(),
            address: id.parse().unwrap(),
            tags: Tags::default(),
            weight: 1,
            capacity_per_second: None,
            time_to_live: None,
            provenance: Provenance::Elsewhere,
        };
        table.put(Instant::now(), source, registration).unwrap();
    }

    fn taking(table: &mut Table) -> Vec<String> {
        let published = table.publish(std::time::Duration::ZERO);
        let taking = published["orders"]
            .iter()
            .filter(|instance| takes_traffic(instance));
        taking
            .map(|instance: &std::sync::Arc<Instance>| instance.id.clone())
            .collect()
    }

    const ALL: [&str; 3] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];

    /// A table with a fixed instance, a registered one and one of a source.
    fn table() -> Table {
        let mut table = Table::new(ZoneName::new("east").unwrap(), Sharing::alone());
        table.apply_topology(Instant::now(), &topology());
        register(&mut table, ALL[1], &InstanceSource::Registered);
        register(&mut table, ALL[2], &InstanceSource::named("consul").unwrap());
        table
    }

    #[test]
    fn an_instance_is_drained_wherever_it_came_from_and_the_last_only_by_force() {
        let (mut table, now) = (table(), Instant::now());
        let drain = Some(Drain { by: None });
        assert_eq!(taking(&mut table), ALL);
        table.drain(now, &key(ALL[0]), drain.clone(), false).unwrap();
        table.drain(now, &key(ALL[2]), drain.clone(), false).unwrap();
        assert_eq!(taking(&mut table), [ALL[1]]);
        let refused = table.drain(now, &key(ALL[1]), drain.clone(), false);
        assert_eq!(refused, Err(RegistryError::LastHealthy(key(ALL[1]))));
        // Whom it drains already it drains again, with another deadline say.
        assert!(table.drain(now, &key(ALL[0]), drain.clone(), false).is_ok());
        let all = table.drain(now, &key(ALL[1]), drain.clone(), true).unwrap();
        assert_eq!(all.len(), 3);
        assert!(taking(&mut table).is_empty());
        table.drain(now, &key(ALL[0]), None, false).unwrap();
        assert_eq!(taking(&mut table), [ALL[0]]);
        let unknown = table.drain(now, &key("10.0.0.9:80"), drain, true);
        assert_eq!(unknown, Err(RegistryError::NotFound(key("10.0.0.9:80"))));
        assert!(table.drain(now, &key("10.0.0.9:80"), None, false).is_err());
    }

    #[test]
    fn an_instance_of_an_arm_without_a_weight_is_nobody_to_take_over() {
        let split = |weights: [u32; 2]| {
            let arms = weights.iter().zip(["v1", "v2"]);
            let arms = arms
                .map(|(weight, version)| format!("{{ tags: {{ version: {version} }}, weight: {weight} }}"));
            let arms: Vec<String> = arms.collect();
            let text = format!(
                "version: 1\ntrust_domain: a.b\nzones: {{ east: {{ gateways: [], instances: [{{ service: orders, address: '10.0.0.1:80', tags: {{ version: v1 }} }}, {{ service: orders, address: '10.0.0.2:80', tags: {{ version: v2 }} }}] }} }}\nservices: {{ orders: {{ port: 80, split: [{}] }} }}\n",
                arms.join(", ")
            );
            parse(&text, "").unwrap().topology
        };
        let mut table = Table::new(ZoneName::new("east").unwrap(), Sharing::alone());
        let (now, drain) = (Instant::now(), Some(Drain { by: None }));
        table.apply_topology(now, &split([0, 100]));
        let refused = table.drain(now, &key(ALL[1]), drain.clone(), false);
        assert_eq!(refused, Err(RegistryError::LastHealthy(key(ALL[1]))));
        assert!(
            table.drain(now, &key(ALL[0]), drain.clone(), false).is_ok(),
            "nobody is sent to it anyway"
        );
        table.drain(now, &key(ALL[0]), None, false).unwrap();
        table.apply_topology(now, &split([1, 99]));
        assert!(table.drain(now, &key(ALL[1]), drain, false).is_ok());
    }

    #[test]
    fn the_drain_of_an_instance_that_is_gone_is_forgotten_after_a_week_and_of_one_that_comes_back_kept() {
        let (mut table, now) = (table(), Instant::now());
        for id in ALL {
            table
                .drain(now, &key(id), Some(Drain { by: None }), true)
                .unwrap();
        }
        assert_eq!(table.look_at_drains(), None, "all are there");
        table.deregister(now, &key(ALL[1])).unwrap();
        for _ in 1..MAX_ABSENT_LOOKS {
            assert_eq!(table.look_at_drains().unwrap().len(), 3);
        }
        // Even if nobody looks while it is there.
        register(&mut table, ALL[1], &InstanceSource::Registered);
        let back = table.look_at_drains().unwrap();
        assert_eq!(back[&key(ALL[1])].absent_looks, 0, "a restart knows of it too");
        assert_eq!(table.look_at_drains(), None);
        table.deregister(now, &key(ALL[1])).unwrap();
        for _ in 1..MAX_ABSENT_LOOKS {
            assert_eq!(table.look_at_drains().unwrap().len(), 3);
        }
        let left = table.look_at_drains().unwrap();
        assert_eq!(left.into_keys().collect::<Vec<_>>(), [key(ALL[0]), key(ALL[2])]);
        register(&mut table, ALL[1], &InstanceSource::Registered);
        assert_eq!(taking(&mut table), [ALL[1]]);
    }

    #[test]
    fn of_drains_without_end_those_make_room_that_have_been_gone_for_longest() {
        let (mut table, now) = (table(), Instant::now());
        let drained = |absent_looks: u32| DrainedInstance {
            drain: Drain { by: None },
            absent_looks,
        };
        let many = (0..MAX_DRAINS as u32).map(|nth| (key(&format!("gone-{nth}")), drained(nth % 100)));
        table.drains = many.collect();
        let all = table
            .drain(now, &key(ALL[0]), Some(Drain { by: None }), true)
            .unwrap();
        assert_eq!(all.len(), MAX_DRAINS);
        assert!(!all.contains_key(&key("gone-9999")) && all.contains_key(&key("gone-9998")));
    }

    #[test]
    fn a_drain_outlives_its_instance_and_the_table() {
        let (mut table, now) = (table(), Instant::now());
        let drains = table
            .drain(now, &key(ALL[1]), Some(Drain { by: None }), false)
            .unwrap();
        table.deregister(now, &key(ALL[1])).unwrap();
        assert_eq!(taking(&mut table), [ALL[0], ALL[2]]);
        register(&mut table, ALL[1], &InstanceSource::Registered);
        assert_eq!(taking(&mut table), [ALL[0], ALL[2]]);
        let mut later = self::table().draining(drains);
        later.apply_topology(now, &topology());
        register(&mut later, ALL[1], &InstanceSource::Registered);
        let mut fresh =
            Table::new(ZoneName::new("east").unwrap(), Sharing::alone()).draining(later.drains.clone());
        fresh.apply_topology(now, &topology());
        register(&mut fresh, ALL[1], &InstanceSource::Registered);
        assert_eq!(taking(&mut fresh), [ALL[0]]);
    }
}
