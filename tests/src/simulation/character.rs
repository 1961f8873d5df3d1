//! Decisions of one seed before the first event: how many zones, how they are linked, what goes wrong and how often.
//! Every seed has a character of its own, because faults that are all equally likely hide each other.

use std::time::Duration;

use causeway_zone_sync::replica::Ages;
use rand::{Rng, rngs::SmallRng};

use super::{clock::RIGHT_RATE, faults::Fault};

/// Shape in which the zones are linked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Everyone with everyone.
    Mesh,
    /// Everyone with each of the first two zones only.
    Hubs,
    /// A ring, and each other pair with this probability.
    Sparse(f64),
}

#[derive(Debug, Clone)]
pub struct Character {
    /// Number of gateways in each zone.
    pub zones: Vec<usize>,
    pub shape: Shape,
    /// Distinct exports that a zone may have.
    pub services: u32,
    /// Number of faults and changes, and how far apart they are.
    pub steps: usize,
    pub gap: Duration,
    pub weights: Vec<(Fault, u32)>,
    pub latency: Duration,
    /// Time that each single message may be late on top of that, and each timer.
    pub lateness: Duration,
    /// Longest time until an end learns that its session is dead.
    pub notice: Duration,
    /// Messages that may be on their way in one direction of a session before its writer has to wait.
    pub window: usize,
    /// Rate at which clocks run off, in millionths.
    pub drift: u64,
    pub ages: Ages,
    pub liars: usize,
    /// The newest protocols that the programs of the run speak.
    pub programs: &'static [u32],
}

/// Events that the faults of one run may take, about: what keeps a run short whatever the number of zones.
const EVENT_BUDGET: usize = 12_000;

fn pick<T: Copy>(rng: &mut SmallRng, values: &[T]) -> T {
    values[rng.random_range(0..values.len())]
}

impl Character {
    #[must_use]
    pub fn draw(rng: &mut SmallRng) -> Self {
        let count = match rng.random_range(0..100) {
            0..60 => rng.random_range(3..=5),
            60..87 => rng.random_range(6..=10),
            87..98 => rng.random_range(11..=20),
            _ => rng.random_range(21..=50),
        };
        let doubled = pick(rng, &[0.0, 0.0, 0.3]);
        let zones: Vec<_> = (0..count)
            .map(|_| 1 + usize::from(rng.random_bool(doubled)))
            .collect();
        let shape = match rng.random_range(0..4) {
            0 | 1 if count <= 12 => Shape::Mesh,
            2 => Shape::Hubs,
            _ => Shape::Sparse((3.0 / f64::from(count)).min(0.5)),
        };
        let gap = Duration::from_millis(pick(rng, &[5, 50, 300, 1000, 3000]));
        let ms = Duration::from_millis;
        Self {
            steps: steps(zones.iter().sum(), gap),
            zones,
            shape,
            services: pick(rng, &[1, 5, 5, 30]),
            gap,
            weights: weights(rng),
            latency: ms(pick(rng, &[0, 1, 20, 80, 300])),
            lateness: ms(pick(rng, &[0, 1, 10, 200])),
            notice: ms(pick(rng, &[10, 500, 3000, 3000, 30_000])),
            window: pick(rng, &[1, 2, 4, 4, 16]),
            programs: pick(
                rng,
                &[&[2][..], &[2], &[2], &[1], &[1, 2], &[2, 3], &[1, 2, 2, 3]],
            ),
            drift: pick(rng, &[0, 0, 200, 100_000, 250_000]).min(RIGHT_RATE / 2),
            ages: ages(rng),
            liars: pick(rng, &[0, 0, 1, 1, 2]).min(usize::try_from(count).map_or(0, |count| count - 2)),
        }
    }

    /// The longest gap between two steps of the clock that is furthest off, as a factor in thousandths: what is 1 s on
    /// such a clock may be this many milliseconds.
    #[must_use]
    pub fn slowness(&self) -> u32 {
        u32::try_from(1000 * RIGHT_RATE / (RIGHT_RATE - self.drift)).unwrap_or(2000)
    }
}

fn steps(gateways: usize, gap: Duration) -> usize {
    // Each pair says something about twice a second; there are at least about two pairs for each gateway.
    let a_second = gateways * gateways.min(6);
    let seconds = EVENT_BUDGET / a_second.max(1);
    let most = seconds * 1000 / usize::try_from(gap.as_millis()).unwrap_or(1).max(1);
    most.clamp(25, 160)
}

fn ages(rng: &mut SmallRng) -> Ages {
    let seconds = Duration::from_secs;
    let (fresh, withdrawn) = pick(rng, &[(5, 300), (5, 300), (5, 20), (3, 8)]);
    Ages {
        fresh: seconds(fresh),
        withdrawn: seconds(withdrawn),
    }
}

/// Some faults never happen in a run, and the others not equally often.
fn weights(rng: &mut SmallRng) -> Vec<(Fault, u32)> {
    let drawn = Fault::ALL.map(|(fault, common)| {
        let absent = rng.random_bool(0.35) && !fault.is_change();
        (
            fault,
            if absent {
                0
            } else {
                common * rng.random_range(1..=8)
            },
        )
    });
    drawn.into_iter().collect()
}
