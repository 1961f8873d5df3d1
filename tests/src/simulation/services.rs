//! Exports of a zone in the simulation, and how they change.

use std::collections::BTreeMap;

use causeway_federation::{catalog::Export, name::ServiceName};
use rand::{Rng, rngs::SmallRng};

/// Exports of one bulk registration: enough for several parts of a snapshot, and several versions.
const BULK: u32 = 1200;
/// Length in bytes of the tag that makes them heavy.
const HEAVY_TAG: usize = 120;
/// Number that the bulk exports begin with.
const FIRST_BULK: u32 = 10_000;

#[derive(Debug, Clone, Default)]
pub struct Services {
    exports: BTreeMap<u32, Export>,
    most: u32,
}

fn export(number: u32, healthy: u32, heavy: bool) -> Export {
    let tag = if heavy {
        format!("{number:0>HEAVY_TAG$}")
    } else {
        format!("v{}", number % 3)
    };
    Export {
        service: ServiceName::new(&format!("s{}", number / 3)).expect("a letter and digits are a label"),
        tags: [("version", tag)].into_iter().collect(),
        instances: 9,
        healthy,
        weight: u64::from(healthy),
        capacity_per_second: Some(u64::from(number)).filter(|capacity| *capacity > 0),
    }
}

impl Services {
    pub fn draw(most: u32, rng: &mut SmallRng) -> Self {
        let mut services = Self {
            exports: BTreeMap::new(),
            most,
        };
        for _ in 0..rng.random_range(0..=most) {
            services.register(rng);
        }
        services
    }

    #[must_use]
    pub fn all(&self) -> Vec<Export> {
        self.exports.values().cloned().collect()
    }

    pub fn register(&mut self, rng: &mut SmallRng) {
        let number = rng.random_range(0..self.most);
        self.exports
            .insert(number, export(number, rng.random_range(0..=9), false));
    }

    pub fn deregister(&mut self, rng: &mut SmallRng) {
        let number = rng.random_range(0..self.most);
        self.exports.remove(&number);
    }

    /// One instance turns healthy or unhealthy.
    pub fn flap(&mut self, rng: &mut SmallRng) {
        let at = rng.random_range(0..self.exports.len().max(1));
        if let Some(export) = self.exports.values_mut().nth(at) {
            export.healthy = (export.healthy + 1) % 10;
            export.weight = u64::from(export.healthy);
        }
    }

    /// Very many come at once, or all of those go, or change.
    pub fn bulk(&mut self, rng: &mut SmallRng) {
        let is_there = self.exports.contains_key(&FIRST_BULK);
        if is_there && rng.random_bool(0.5) {
            self.exports.retain(|number, _| *number < FIRST_BULK);
            return;
        }
        let healthy = rng.random_range(0..=9);
        let many = (FIRST_BULK..FIRST_BULK + BULK).map(|number| (number, export(number, healthy, true)));
        self.exports.extend(many);
    }
}
