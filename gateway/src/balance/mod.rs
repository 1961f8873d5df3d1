//! The choice among instances of one zone: power of two choices on outstanding connections and latency, weights
//! respected (Mitzenmacher 2001; the latency average follows the "peak EWMA" of Finagle).
//!
//! Pure: randomness is an argument, and nothing here dials. Which zone serves is `route`'s decision.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use causeway_zone_sync::name::Tags;
use rand::Rng;

use crate::snapshot::{Health, Instance, Load};

/// Latencies under this count as equal, in microseconds: they are noise of this host, and preferring the one that happens
/// to be 20 us faster would bend the weights.
const LATENCY_FLOOR_MICROS: u64 = 1_000;
/// A lower sample moves the average down by 1/8 of the distance; a higher one replaces it at once.
const LATENCY_DECAY: u64 = 8;

/// Whether an instance may be given connections at all.
#[must_use]
pub fn takes_traffic(instance: &Instance) -> bool {
    instance.health == Health::Healthy && instance.weight > 0
}

/// Picks an instance that carries `selector` and is not in `tried`. `None` when there is no other.
#[must_use]
pub fn pick<'a>(
    instances: &'a [Arc<Instance>],
    selector: &Tags,
    tried: &[Arc<Instance>],
    rng: &mut impl Rng,
) -> Option<&'a Arc<Instance>> {
    let eligible = |instance: &&Arc<Instance>| {
        takes_traffic(instance)
            && instance.tags.matches(selector)
            && !tried.iter().any(|other| other.id == instance.id)
    };
    let usable = || instances.iter().filter(eligible);
    let total: u64 = usable().map(|i| u64::from(i.weight)).sum();
    if total == 0 {
        return None;
    }
    // Both draws are by weight, so that without load the shares are exactly the weights; the second one wins only when
    // the first is the busier of the two.
    let first = at(usable(), rng.random_range(0..total))?;
    let second = at(usable(), rng.random_range(0..total))?;
    Some(if cost(second) < cost(first) { second } else { first })
}

/// The instance at `point` of the weights laid end to end.
fn at<'a>(instances: impl Iterator<Item = &'a Arc<Instance>>, mut point: u64) -> Option<&'a Arc<Instance>> {
    for instance in instances {
        let weight = u64::from(instance.weight);
        if point < weight {
            return Some(instance);
        }
        point -= weight;
    }
    None
}

/// What one more connection would wait: latency times the connections per unit of weight.
fn cost(instance: &Instance) -> f64 {
    let outstanding = f64::from(instance.load.outstanding.load(Ordering::Relaxed));
    let latency = instance
        .load
        .latency_micros
        .load(Ordering::Relaxed)
        .max(LATENCY_FLOOR_MICROS);
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a connect fit a float")]
    let latency = latency as f64;
    latency * (1.0 + outstanding / f64::from(instance.weight))
}

/// Takes a measured time to connect, or the time waited in vain, into the average.
pub fn observe(load: &Load, took: Duration) {
    let sample = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let average: &AtomicU64 = &load.latency_micros;
    let old = average.load(Ordering::Relaxed);
    let new = if sample >= old {
        sample
    } else {
        old - (old - sample).div_ceil(LATENCY_DECAY)
    };
    // Two threads may overwrite each other's sample: it is an average.
    average.store(new, Ordering::Relaxed);
}

/// Counts one connection to an instance for as long as it lives.
#[derive(Debug)]
pub struct LoadGuard(Arc<Load>);

impl LoadGuard {
    #[must_use]
    pub fn new(load: Arc<Load>) -> Self {
        load.outstanding.fetch_add(1, Ordering::Relaxed);
        Self(load)
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
