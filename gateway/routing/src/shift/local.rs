//! Shifts as one gateway has a part in them: counts of its own requests, and what it has taken back.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use causeway_federation::{
    catalog::{ShiftFigures, ShiftStepNumber},
    name::{ServiceName, Tags},
    topology::{GateCondition, JudgedEnd, Shift, Topology},
};
use serde::{Deserialize, Serialize};

use super::broken;

/// The current ones, shared by all snapshots of a process.
pub type Shifts = Arc<ArcSwap<LocalShifts>>;

/// Shifts that are under way, by service.
#[derive(Debug, Clone, Default)]
pub struct LocalShifts(BTreeMap<ServiceName, LocalShift>);

/// A shift whose share this gateway has taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenBackShift {
    pub service: ServiceName,
    /// The condition that its own requests have met.
    pub why: String,
}

/// Part of one process in a shift, as another one goes on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedShift {
    pub service: ServiceName,
    /// Number of the step that the counts are of.
    pub step: u64,
    pub requests: u64,
    /// For each condition of the gate.
    pub against: Vec<u64>,
    pub taken_back: bool,
    /// Moments at which it was begun and resumed.
    pub begun: SystemTime,
    #[serde(default)]
    pub resumed: Option<SystemTime>,
}

#[derive(Debug, Clone)]
struct LocalShift {
    run: ShiftRun,
    counts: Arc<ArmCounts>,
    taken_back: bool,
}

/// Moments at which it was begun and resumed. A new run is somebody's word that what was taken back is to be tried again.
type ShiftRun = (SystemTime, Option<SystemTime>);

/// Ends of requests that this gateway has given to an arm, in one step.
#[derive(Debug)]
struct ArmCounts {
    step: ShiftStepNumber,
    to: Tags,
    gate: Vec<GateCondition>,
    requests: AtomicU64,
    /// For each condition.
    against: Vec<AtomicU64>,
}

impl ArmCounts {
    fn new(step: ShiftStepNumber, shift: &Shift) -> Self {
        let gate = shift.plan.abort_if.clone();
        Self {
            step,
            to: shift.plan.to.clone(),
            requests: AtomicU64::new(0),
            against: gate.iter().map(|_| AtomicU64::new(0)).collect(),
            gate,
        }
    }

    /// `None`: it counts against other conditions.
    fn carrying_on(from: &CarriedShift, shift: &Shift) -> Option<Self> {
        let begun = Self::new(ShiftStepNumber(from.step), shift);
        (from.against.len() == begun.against.len()).then(|| Self {
            requests: AtomicU64::new(from.requests),
            against: from.against.iter().copied().map(AtomicU64::new).collect(),
            ..begun
        })
    }

    fn count(&self, end: JudgedEnd) {
        // Those against a condition first, so that a reader in between sees too many of them rather than too few.
        for (condition, against) in self.gate.iter().zip(&self.against) {
            if condition.counts(end) {
                against.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn figures(&self, taken_back: bool) -> ShiftFigures {
        let against = self.against.iter();
        ShiftFigures {
            step: self.step,
            against: against.map(|count| count.load(Ordering::Relaxed)).collect(),
            requests: self.requests.load(Ordering::Relaxed),
            taken_back,
        }
    }
}

impl LocalShift {
    fn figures(&self) -> ShiftFigures {
        self.counts.figures(self.taken_back)
    }
}

fn run(shift: &Shift) -> ShiftRun {
    (shift.begun, shift.resumed)
}

impl LocalShifts {
    /// Counts the end of a request to an instance that was asked for by `tags`.
    pub fn count(&self, service: &ServiceName, tags: &Tags, end: JudgedEnd) {
        let Some(LocalShift { counts, .. }) = self.0.get(service) else {
            return;
        };
        if tags.matches(&counts.to) {
            counts.count(end);
        }
    }

    /// Counts a request of the service that no instance took, or that was shed, as a failure, whichever arm it would have been for: what goes
    /// wrong for clients while a shift is under way ends it.
    pub fn count_unserved(&self, service: &ServiceName) {
        if let Some(LocalShift { counts, .. }) = self.0.get(service) {
            counts.count(JudgedEnd {
                failed: true,
                took: Duration::ZERO,
            });
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether the share of this shift is taken back here.
    #[must_use]
    pub fn takes_back(&self, service: &ServiceName, shift: &Shift) -> bool {
        let known = self.0.get(service);
        known.is_some_and(|known| known.taken_back && known.run == run(shift))
    }

    /// Those of `topology`: counts begin anew with each step, and what was taken back stays so until somebody resumes the shift.
    #[must_use]
    pub fn following(&self, topology: &Topology) -> Self {
        let services = topology.services.iter();
        let active = services.filter_map(|(name, service)| Some((name, service.active_shift()?)));
        let local = active.map(|(name, shift)| {
            let (step, run) = (ShiftStepNumber::of(name, shift), run(shift));
            let known = self.0.get(name);
            let counts = known.filter(|known| known.counts.step == step);
            let local = LocalShift {
                run,
                counts: counts.map_or_else(
                    || Arc::new(ArmCounts::new(step, shift)),
                    |known| known.counts.clone(),
                ),
                taken_back: known.is_some_and(|known| known.taken_back && known.run == run),
            };
            (name.clone(), local)
        });
        Self(local.collect())
    }

    /// Takes back what its own requests have broken the gate of; `None`: nothing is new.
    #[must_use]
    pub fn judged(&self, topology: &Topology) -> Option<(Self, Vec<TakenBackShift>)> {
        let mut after = self.clone();
        let mut taken = Vec::new();
        for (name, local) in after.0.iter_mut().filter(|(_, local)| !local.taken_back) {
            let service = topology.services.get(name);
            let shift = service.and_then(|service| service.active_shift());
            let shift = shift.filter(|shift| run(shift) == local.run);
            if let Some(why) = shift.and_then(|shift| broken(&shift.plan, &local.figures())) {
                local.taken_back = true;
                taken.push(TakenBackShift {
                    service: name.clone(),
                    why,
                });
            }
        }
        (!taken.is_empty()).then_some((after, taken))
    }

    /// Figures to be told to the others, those first that matter most: of what was taken back.
    #[must_use]
    pub fn told(&self) -> Vec<ShiftFigures> {
        let mut told: Vec<ShiftFigures> = self.0.values().map(LocalShift::figures).collect();
        told.sort_by_key(|figures| !figures.taken_back);
        told
    }

    /// Collects what another process is to go on with.
    #[must_use]
    pub fn carried(&self) -> Vec<CarriedShift> {
        let all = self.0.iter().map(|(service, local)| {
            let figures = local.figures();
            CarriedShift {
                service: service.clone(),
                step: figures.step.0,
                requests: figures.requests,
                against: figures.against,
                taken_back: figures.taken_back,
                begun: local.run.0,
                resumed: local.run.1,
            }
        });
        all.collect()
    }

    /// Begins with what another process has counted and taken back, as far as `topology` has the same shifts.
    #[must_use]
    pub fn carrying_on(carried: &[CarriedShift], topology: &Topology) -> Self {
        let known = carried.iter().filter_map(|from| {
            let service = topology.services.get(&from.service)?;
            let shift = service.active_shift()?;
            let counts = ArmCounts::carrying_on(from, shift)?;
            let local = LocalShift {
                run: (from.begun, from.resumed),
                counts: Arc::new(counts),
                taken_back: from.taken_back,
            };
            Some((from.service.clone(), local))
        });
        Self(known.collect()).following(topology)
    }

    /// Figures of this gateway on the present step of a service's shift.
    #[must_use]
    pub fn of(&self, service: &ServiceName) -> Option<ShiftFigures> {
        self.0.get(service).map(LocalShift::figures)
    }
}
