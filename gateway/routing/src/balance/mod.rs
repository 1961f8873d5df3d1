//! The choice among instances of one zone: power of two choices on outstanding connections and latency, weights
//! respected (Mitzenmacher 2001; the latency average follows the "peak EWMA" of Finagle).
//!
//! Pure: time and randomness are arguments, and nothing here dials. Which zone serves is `route`'s decision.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use causeway_federation::name::Tags;
use rand::Rng;

use crate::{
    snapshot::{Health, Instance},
    sticky::StickyKey,
};

mod list;
mod load;
mod pool;
#[cfg(test)]
mod tests;

pub use list::{InstanceList, Unusable};
pub(crate) use load::{FIRST_PART, part_after};
pub use load::{InstanceLoad, LoadGuard};

use pool::WeightPool;

/// Most draws that are put back because an instance is at its slow start.
const MAX_PUT_BACK: usize = 32;
/// Most instances that are passed over in panic because they have just failed to accept.
const MAX_PASSED_OVER: usize = 64;

/// Tells whether an instance may be given connections at all.
#[must_use]
pub fn takes_traffic(instance: &Instance) -> bool {
    instance.counts_as_healthy() && instance.weight > 0
}

/// Tells whether an instance may be given connections where none is that takes traffic otherwise. One that was not checked yet, or is drained, may not.
#[must_use]
pub fn takes_traffic_in_panic(instance: &Instance) -> bool {
    instance.health == Health::Unhealthy && instance.drain.is_none() && instance.weight > 0
}

/// The choice among the instances of one service for one connection. Picks each instance once.
#[derive(Debug)]
pub struct Choice<'a> {
    list: &'a InstanceList,
    selector: &'a Tags,
    /// `None`: each pick by itself.
    key: Option<StickyKey>,
    pool: WeightPool<'a>,
    picked: Vec<u32>,
    /// Those of `picked` that are picked all the same once there is no other.
    last: Vec<u32>,
    /// None takes traffic, and so those are picked that are ill.
    in_panic: bool,
    /// Time in which the share of an instance that is new or healthy again grows.
    slow_start: Option<Duration>,
}

impl<'a> Choice<'a> {
    /// Among the instances that carry `selector`.
    #[must_use]
    pub fn new(list: &'a InstanceList, selector: &'a Tags) -> Self {
        Self {
            list,
            selector,
            key: None,
            pool: list.pool(selector),
            picked: Vec::new(),
            last: Vec::new(),
            in_panic: false,
            slow_start: None,
        }
    }

    /// Picks by this key, if there is one, whatever the load: the same instances in the same order, as long as they take traffic.
    #[must_use]
    pub fn keyed(self, key: Option<StickyKey>) -> Self {
        Self { key, ..self }
    }

    /// Has the share of an instance grow for as long after it is new or healthy again.
    #[must_use]
    pub fn with_slow_start(self, slow_start: Option<Duration>) -> Self {
        Self { slow_start, ..self }
    }

    /// Has those picked that are ill, if none takes traffic and the service `panics`. Those that have just failed to accept are left alone.
    #[must_use]
    pub fn with_panic(mut self, panics: bool) -> Self {
        let ill = [Err(Unusable::NoneHealthy), Err(Unusable::Drained)];
        if panics && ill.contains(&self.list.usable(self.selector)) {
            self.in_panic = true;
            self.pool = WeightPool::exact(self.list.ill(self.selector));
        }
        self
    }

    /// Leaves out the instances with these numbers.
    #[must_use]
    pub fn besides(mut self, numbers: &[u64]) -> Self {
        let places = self.places(numbers);
        self.picked.extend(places);
        self
    }

    /// Picks the instances with these numbers after the others.
    #[must_use]
    pub fn after(mut self, numbers: &[u64]) -> Self {
        let mut places = self.places(numbers);
        places.retain(|place| !self.picked.contains(place));
        self.picked.extend(&places);
        self.last = places;
        self
    }

    fn places(&self, numbers: &[u64]) -> Vec<u32> {
        if numbers.is_empty() {
            return Vec::new();
        }
        let all = (0u32..).zip(self.list.iter());
        let with = all.filter(|(_, instance)| numbers.contains(&instance.number()));
        with.map(|(place, _)| place).collect()
    }

    /// Picks an instance that was not picked before. `None` when there is no other.
    pub fn pick(&mut self, now: Duration, rng: &mut impl Rng) -> Option<&'a Arc<Instance>> {
        if self.in_panic {
            return self.pick_in_panic(now, rng);
        }
        if let Some(key) = self.key {
            return self.pick_by(key, now);
        }
        // Both draws are by weight, so that without load the shares are exactly the weights; the second one wins only when
        // the first is the busier of the two.
        let first = match self.draw(now, rng) {
            Some(first) => first,
            None => {
                self.release_last();
                self.draw(now, rng)?
            }
        };
        self.picked.push(first);
        let second = self.draw_second(now, rng);
        let instance = self.list.at(first)?;
        if let Some((place, other)) = second.and_then(|place| Some((place, self.list.at(place)?)))
            && self.is_better(other, instance, now)
        {
            self.picked.pop();
            self.picked.push(place);
            return Some(other);
        }
        Some(instance)
    }
}

impl<'a> Choice<'a> {
    /// Draws by the weights of those that were not picked, an instance at its slow start by a part of its own.
    fn draw(&mut self, now: Duration, rng: &mut impl Rng) -> Option<u32> {
        let mut drawn = self.pool.draw(self.list, &self.picked, rng)?;
        if self.slow_start.is_none() {
            return Some(drawn);
        }
        for _ in 0..MAX_PUT_BACK {
            let part = self
                .list
                .at(drawn)
                .map_or(1.0, |instance| self.part(instance, now));
            if part >= 1.0 || rng.random::<f64>() < part {
                break;
            }
            drawn = self.pool.draw(self.list, &self.picked, rng)?;
        }
        Some(drawn)
    }

    /// Draws one more to compare with. One at its slow start is compared by its part of the time only: idle as it is, it would win each time.
    fn draw_second(&mut self, now: Duration, rng: &mut impl Rng) -> Option<u32> {
        let drawn = self.pool.draw(self.list, &self.picked, rng)?;
        let part = self
            .list
            .at(drawn)
            .map_or(1.0, |instance| self.part(instance, now));
        (part >= 1.0 || rng.random::<f64>() < part).then_some(drawn)
    }

    /// Part (0 to 1) of its weight that an instance has now.
    fn part(&self, instance: &Instance, now: Duration) -> f64 {
        let slow_start = self.slow_start;
        slow_start.map_or(1.0, |slow_start| instance.load.part(now, slow_start))
    }

    fn is_better(&self, one: &Instance, other: &Instance, now: Duration) -> bool {
        match (one.load.is_resting(now), other.load.is_resting(now)) {
            (false, true) => true,
            (true, false) => false,
            _ => self.cost(one, now) < self.cost(other, now),
        }
    }

    /// Estimates what one more connection would wait: latency times the connections per unit of weight.
    fn cost(&self, instance: &Instance, now: Duration) -> f64 {
        let outstanding = f64::from(instance.load.outstanding.load(Ordering::Relaxed));
        let weight = f64::from(instance.weight) * self.part(instance, now);
        instance.load.latency(now) * (1.0 + outstanding / weight)
    }

    fn pick_in_panic(&mut self, now: Duration, rng: &mut impl Rng) -> Option<&'a Arc<Instance>> {
        for _ in 0..MAX_PASSED_OVER {
            let place = match self.key {
                Some(key) => self.first_by(key, now),
                None => self.pool.draw(self.list, &self.picked, rng),
            };
            let place = match place {
                Some(place) => place,
                None if !self.last.is_empty() => {
                    self.release_last();
                    continue;
                }
                None => return None,
            };
            self.picked.push(place);
            let instance = self.list.at(place)?;
            if !instance.load.is_resting(now) {
                return Some(instance);
            }
        }
        None
    }

    fn pick_by(&mut self, key: StickyKey, now: Duration) -> Option<&'a Arc<Instance>> {
        let place = match self.first_by(key, now) {
            Some(place) => place,
            None => {
                self.release_last();
                self.first_by(key, now)?
            }
        };
        self.picked.push(place);
        self.list.at(place)
    }

    /// The place that the key draws of those that were not picked; one that has just failed to accept comes after the others.
    fn first_by(&self, key: StickyKey, now: Duration) -> Option<u32> {
        let takers = (!self.in_panic).then(|| self.list.takers(self.selector));
        let ill = self.in_panic.then(|| self.list.ill(self.selector));
        let groups = takers.into_iter().flatten().chain(ill.into_iter().flatten());
        let places = groups.flat_map(|group| group.places.iter().zip(&group.numbers));
        let left = places.filter(|(place, _)| !self.picked.contains(place));
        let drawn = left.filter_map(|(place, number)| {
            let instance = self.list.at(*place)?;
            let draw = key.draw(*number, f64::from(instance.weight) * self.part(instance, now));
            Some((instance.load.is_resting(now), draw, *place))
        });
        let least = drawn.min_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
        least.map(|(_, _, place)| place)
    }

    fn release_last(&mut self) {
        let last = std::mem::take(&mut self.last);
        self.picked.retain(|place| !last.contains(place));
    }
}
