//! Estimate of what instances can take, from how they answer: the knee of throughput and latency. While answers take about as long as they
//! ever do nothing is known, and there is no bound. Once they take much longer, or say that there is too much to do, what is answered well is
//! taken for the capacity: less than that is given away until what waits is worked off, then all but a little of it, and from time to time
//! a step more, to find whether it can be taken. A bound that helps nothing, or that nobody needs, goes. Pure.

mod carried;

use std::time::Duration;

pub use carried::{CarriedBound, CarriedEstimate, CarriedPhase};

/// Fewest answers that are judged together, and the longest time in which they are gathered.
const FEWEST_ANSWERS: f64 = 20.0;
const GATHERED_FOR: f64 = 10.0;
/// Multiples of the low-water mark of latency: above the first instances are taken for congested, below the second for calm; and seconds that
/// are left to chance besides.
const CONGESTED: f64 = 2.5;
const CALM: f64 = 1.4;
const JITTER: f64 = 0.005;
/// Share of answers beyond the usual one that say that there is too much to do, from which on instances are taken for congested.
const REFUSED: f64 = 0.1;
/// Judgements in a row from which something follows.
const IN_A_ROW: u32 = 2;
/// Part of the capacity that is given away while nothing is tried.
const HELD: f64 = 0.95;
/// Seconds in which what waits is to be worked off, and the parts of the capacity that are given away meanwhile.
const WORKED_OFF_IN: f64 = 3.0;
const DRAINED: (f64, f64) = (0.3, 0.7);
const LONGEST_DRAIN: Duration = Duration::from_secs(30);
/// Time after which what is given away now is what comes.
const FELT_AFTER: Duration = Duration::from_secs(3);
/// Part of what is given away that is answered, or less, once nothing waits any more; and the judgements that must say so.
const WORKED_OFF: f64 = 1.15;
const SETTLED: u32 = 4;
/// Latency after it as a part of that before, from which on the load is to blame for it.
const HELPED: f64 = 0.75;
/// Factor by which the low-water mark rises at most at once.
const MOST_RISE: f64 = 2.0;
/// Steps up, the time for which each is tried, and pauses before the next one.
const STEPS: (f64, f64) = (0.08, 0.4);
const TRIED_FOR: Duration = Duration::from_secs(4);
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(40));
/// Part of what is given away from which on a bound is needed, and the time after which one that is not is forgotten.
const NEEDED: f64 = 0.8;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);
/// Latency, as a part of the low-water mark, from which on instances are taken for faster than before.
const FASTER: f64 = 0.75;
/// A step that failed proves what was held before it to be right, unless less than this part of it was answered.
const PROVEN: f64 = 0.9;
/// Least that is given away: so much a second, or this part of the most that was answered lately.
const LEAST: (f64, f64) = (1.0, 0.1);
/// Part that is left after a second of the most that was answered.
const REMEMBERED: f64 = 0.998;
/// Weights of what is below a low-water mark, and above it.
const FALLS_BY: f64 = 0.3;
const RISES_BY: f64 = 0.002;

/// Answers as they were seen in one look.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SeenAnswers {
    /// Those of a second that were well.
    pub well_per_second: f64,
    /// Those of a second that said that there is too much to do, or did not come.
    pub refused_per_second: f64,
    /// Median time of those that were well, in seconds.
    pub latency: f64,
    /// Requests that have no answer yet.
    pub in_flight: f64,
}

/// Estimate for instances with the same tags.
#[derive(Debug, Clone, Default)]
pub(super) struct CapacityEstimate {
    looked: Option<Duration>,
    gathered: GatheredAnswers,
    /// Low-water marks of latency, and of the share of refusals.
    low: Option<f64>,
    usual: f64,
    /// Judgements in a row that found congestion, and the sum of what was answered well in them.
    congested: (u32, f64),
    /// The most that was answered in a second lately.
    peak: f64,
    bound: Option<CapacityBound>,
}

/// Sums of answers that are not judged yet.
#[derive(Debug, Clone, Copy, Default)]
struct GatheredAnswers {
    seconds: f64,
    well: f64,
    refused: f64,
    latency: f64,
}

/// Answers that are judged together.
#[derive(Debug, Clone, Copy)]
struct JudgedAnswers {
    well_per_second: f64,
    /// `None`: none was well.
    latency: Option<f64>,
    /// Share (0 to 1).
    refused: f64,
}

#[derive(Debug, Clone, Copy)]
struct CapacityBound {
    per_second: f64,
    phase: BoundPhase,
    /// Time at which the phase began.
    since: Duration,
    step: f64,
    pause: Duration,
    /// Time at which it was last needed.
    needed: Duration,
    /// Part of it that is given away now.
    given: f64,
}

#[derive(Debug, Clone, Copy)]
enum BoundPhase {
    /// Less is given away, until what waits is worked off.
    Draining {
        before: JudgedAnswers,
        settled: u32,
    },
    Holding,
    /// More is given away, to see what becomes of it.
    Trying,
}

impl GatheredAnswers {
    /// Adds those of one look; judges them all once they are enough.
    fn add(&mut self, passed: f64, seen: &SeenAnswers) -> Option<JudgedAnswers> {
        if self.seconds > GATHERED_FOR {
            *self = Self::default();
        }
        self.seconds += passed;
        self.well += seen.well_per_second * passed;
        self.refused += seen.refused_per_second * passed;
        self.latency += seen.latency * seen.well_per_second * passed;
        let all = self.well + self.refused;
        if all < FEWEST_ANSWERS {
            return None;
        }
        let judged = JudgedAnswers {
            well_per_second: self.well / self.seconds,
            latency: (self.well > 0.0).then(|| self.latency / self.well),
            refused: self.refused / all,
        };
        *self = Self::default();
        Some(judged)
    }
}

impl CapacityEstimate {
    /// Takes one look at `now`, of any clock that never goes back.
    pub(super) fn look(&mut self, now: Duration, seen: &SeenAnswers) {
        let Some(then) = self.looked.replace(now) else {
            return;
        };
        let passed = now.saturating_sub(then).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        self.peak = (self.peak * REMEMBERED.powf(passed)).max(seen.well_per_second);
        let judged = self.gathered.add(passed, seen);
        if let Some(judged) = &judged {
            self.learn(judged);
        }
        let answered = seen.well_per_second + seen.refused_per_second;
        self.bound = match self.bound.take() {
            None => judged
                .filter(|_| self.is_congested())
                .map(|judged| CapacityBound::begin(now, self.answered_well(), judged)),
            Some(bound) => self.step(now, bound, judged, answered),
        };
        let (low, least) = (self.low.unwrap_or_default(), LEAST.0.max(LEAST.1 * self.peak));
        if let Some(bound) = &mut self.bound {
            bound.per_second = bound.per_second.max(least);
            bound.given = bound.gives(seen, low).max(least);
        }
    }

    /// Requests that may be given away in a second; `None`: there is no bound.
    #[must_use]
    pub(super) fn per_second(&self) -> Option<f64> {
        self.bound.map(|bound| bound.given)
    }

    fn is_congested(&self) -> bool {
        self.congested.0 >= IN_A_ROW
    }

    /// Mean of what was answered well in a second since congestion was found.
    fn answered_well(&self) -> f64 {
        self.congested.1 / f64::from(self.congested.0.max(1))
    }

    /// Tells whether answers are within this multiple of what is usual.
    fn is_usual(&self, judged: &JudgedAnswers, multiple: f64) -> bool {
        let is_fast = |(low, latency): (f64, f64)| latency <= multiple * low + JITTER;
        self.low.zip(judged.latency).is_none_or(is_fast) && judged.refused <= self.usual + REFUSED
    }

    fn learn(&mut self, judged: &JudgedAnswers) {
        if !self.is_usual(judged, CONGESTED) {
            self.congested = (self.congested.0 + 1, self.congested.1 + judged.well_per_second);
            return;
        }
        self.congested = (0, 0.0);
        let moved = |mark: f64, found: f64| {
            let weight = if found < mark { FALLS_BY } else { RISES_BY };
            mark + (found - mark) * weight
        };
        if let Some(latency) = judged.latency {
            self.low = Some(self.low.map_or(latency, |low| moved(low, latency)));
        }
        self.usual = moved(self.usual, judged.refused);
    }

    /// The bound after one look; `None`: there is none any more.
    fn step(
        &mut self,
        now: Duration,
        mut bound: CapacityBound,
        judged: Option<JudgedAnswers>,
        answered: f64,
    ) -> Option<CapacityBound> {
        let is_needed = answered >= NEEDED * bound.given;
        if is_needed {
            bound.needed = now;
        } else if now.saturating_sub(bound.needed) >= FORGOTTEN_AFTER {
            return None;
        }
        let lasted = now.saturating_sub(bound.since);
        match bound.phase {
            BoundPhase::Draining { before, settled } => match judged {
                Some(judged) => return self.drain(now, bound, (before, settled), judged),
                None if lasted >= LONGEST_DRAIN => bound.begins(now, BoundPhase::Holding),
                None => {}
            },
            BoundPhase::Holding | BoundPhase::Trying if self.is_congested() && judged.is_some() => {
                return judged.map(|judged| self.back_off(now, bound, judged));
            }
            BoundPhase::Holding => {
                let latency = judged.and_then(|judged| judged.latency);
                let is_faster =
                    latency.is_some_and(|latency| latency < FASTER * self.low.unwrap_or_default());
                if is_needed && (lasted >= bound.pause || is_faster) {
                    bound.begins(now, BoundPhase::Trying);
                }
            }
            BoundPhase::Trying if lasted >= TRIED_FOR && self.congested.0 == 0 => {
                if is_needed {
                    bound.per_second *= 1.0 + bound.step;
                    bound.step = (bound.step * 2.0).min(STEPS.1);
                    bound.pause = PAUSES.0;
                    bound.begins(now, BoundPhase::Trying);
                } else {
                    bound.begins(now, BoundPhase::Holding);
                }
            }
            BoundPhase::Trying => {}
        }
        Some(bound)
    }

    /// Goes on giving away less, or ends that.
    fn drain(
        &mut self,
        now: Duration,
        mut bound: CapacityBound,
        (before, settled): (JudgedAnswers, u32),
        judged: JudgedAnswers,
    ) -> Option<CapacityBound> {
        let lasted = now.saturating_sub(bound.since);
        let is_felt = lasted >= FELT_AFTER;
        let is_calm = self.is_usual(&judged, CALM) && is_felt;
        let is_worked_off = judged.well_per_second <= WORKED_OFF * bound.given && is_felt;
        let settled = if is_worked_off { settled + 1 } else { 0 };
        let has_settled = settled >= SETTLED;
        if !is_calm && !has_settled && lasted < LONGEST_DRAIN {
            bound.phase = BoundPhase::Draining { before, settled };
            return Some(bound);
        }
        self.congested = (0, 0.0);
        if !is_calm && has_settled {
            // Nothing waits, and so it is their way.
            let most = self.low.map_or(f64::INFINITY, |low| low.max(JITTER) * MOST_RISE);
            self.low = judged.latency.map(|latency| latency.min(most)).or(self.low);
            self.usual = judged.refused;
        }
        let is_less = |now: Option<f64>, then: Option<f64>| {
            now.zip(then).is_some_and(|(now, then)| now < HELPED * then)
        };
        let helped = is_less(judged.latency, before.latency) || judged.refused < HELPED * before.refused;
        bound.begins(now, BoundPhase::Holding);
        (is_calm || helped).then_some(bound)
    }

    /// Gives away less than what was found to be too much.
    fn back_off(&self, now: Duration, bound: CapacityBound, judged: JudgedAnswers) -> CapacityBound {
        let found = self.answered_well().min(bound.per_second);
        let is_step = matches!(bound.phase, BoundPhase::Trying);
        let is_proven = is_step && found > PROVEN * bound.per_second;
        let per_second = if is_proven { bound.per_second } else { found };
        CapacityBound {
            pause: if is_step {
                (bound.pause * 2).min(PAUSES.1)
            } else {
                bound.pause
            },
            ..CapacityBound::begin(now, per_second, judged)
        }
    }
}

impl CapacityBound {
    fn begin(now: Duration, per_second: f64, judged: JudgedAnswers) -> Self {
        Self {
            per_second,
            phase: BoundPhase::Draining {
                before: judged,
                settled: 0,
            },
            since: now,
            step: STEPS.0,
            pause: PAUSES.0,
            needed: now,
            given: per_second,
        }
    }

    fn begins(&mut self, now: Duration, phase: BoundPhase) {
        (self.phase, self.since) = (phase, now);
    }

    fn gives(&self, seen: &SeenAnswers, low: f64) -> f64 {
        let part = match self.phase {
            BoundPhase::Draining { .. } => {
                // By Little's law so many are in flight while nothing waits.
                let waiting = (seen.in_flight - CALM * low * self.per_second).max(0.0);
                (1.0 - waiting / WORKED_OFF_IN / self.per_second).clamp(DRAINED.0, DRAINED.1)
            }
            BoundPhase::Holding => HELD,
            BoundPhase::Trying => HELD * (1.0 + self.step),
        };
        self.per_second * part
    }
}
