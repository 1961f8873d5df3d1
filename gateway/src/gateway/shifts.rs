//! Carries shifts out: counts and judges this gateway's own requests, tells the others, and takes the steps of those shifts that this
//! gateway drives. What is to be done is decided in `causeway_routing::shift`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_control::topology::{AppliedTopology, Applying, SteerError};
use causeway_federation::{
    catalog::ShiftStepNumber,
    name::{GatewayId, ServiceName},
    topology::{ChangeableParts, Shift, ShiftRefusal, Topology},
};
use causeway_routing::{
    shift::{LocalShifts, ShiftVerdict, judge},
    snapshot::{Snapshot, Snapshots},
};
use causeway_zone_sync::service::ZoneSync;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{GatewayConfig, start::Foundation};

/// Time between two looks. What breaks a gate is taken back after so long at the latest.
const TICK: Duration = Duration::from_millis(250);
/// Figures are told so many times in a step, which says what the driver may not have heard of at its end.
const TOLD_IN_A_STEP: u32 = 20;
/// Longest time between two words on figures: each is a version of this gateway's record, for every other gateway.
const SLOWEST_WORD: Duration = Duration::from_secs(5);
/// Time after which what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Parts that it is made of.
struct ShiftTask {
    own: GatewayId,
    /// `None`: a file rules, and nothing is driven.
    applied: Option<AppliedTopology>,
    snapshots: Snapshots,
    zone_sync: ZoneSync,
}

/// Goes on with what the process before has counted and taken back.
pub(super) fn carry_shifts(config: &GatewayConfig, snapshot: &Snapshot) {
    let local = LocalShifts::carrying_on(&config.handed.findings.shifts, &snapshot.topology);
    snapshot.shifts.store(Arc::new(local));
}

/// Runs until it is dropped.
pub(super) fn keep_shifts(
    config: &GatewayConfig,
    known: &Foundation,
) -> impl Future<Output = ()> + Send + use<> {
    let task = ShiftTask {
        own: config.id().clone(),
        applied: config.topology.applied().cloned(),
        snapshots: known.snapshots.clone(),
        zone_sync: known.zone_sync.clone(),
    };
    task.run()
}

impl ShiftTask {
    /// Judges and drives beside each other: what is applied may take long, and what fails is taken back all the same.
    async fn run(self) {
        tokio::join!(self.keep_judging(), self.keep_driving());
    }

    /// Counts and judges this gateway's own requests, and tells the others.
    async fn keep_judging(&self) {
        let mut ticks = ticks();
        let mut followed: Option<Arc<Topology>> = None;
        let mut next_word = Instant::now();
        loop {
            ticks.tick().await;
            let snapshot = self.snapshots.load_full();
            let topology = &snapshot.topology;
            if followed
                .as_ref()
                .is_none_or(|followed| !Arc::ptr_eq(followed, topology))
            {
                let following = snapshot.shifts.load().following(topology);
                snapshot.shifts.store(Arc::new(following));
                followed = Some(topology.clone());
                next_word = Instant::now();
            }
            let took_back = take_back(&snapshot);
            if took_back || next_word <= Instant::now() {
                self.zone_sync.set_shifts(snapshot.shifts.load().told());
                next_word = Instant::now() + between_words(topology);
            }
        }
    }

    /// Takes the next steps of those shifts that this gateway drives.
    async fn keep_driving(&self) {
        let Some(applied) = &self.applied else { return };
        let mut ticks = ticks();
        let mut driven: BTreeMap<ServiceName, DrivenStep> = BTreeMap::new();
        loop {
            ticks.tick().await;
            let snapshot = self.snapshots.load_full();
            if snapshot.shifts.load().is_empty() {
                driven.clear();
                continue;
            }
            let own = |shift: &&Arc<Shift>| shift.by == self.own;
            let services = snapshot.topology.services.iter();
            let shifts: BTreeMap<&ServiceName, &Arc<Shift>> = services
                .filter_map(|(name, service)| Some((name, service.active_shift().filter(own)?)))
                .collect();
            driven.retain(|name, _| shifts.contains_key(name));
            for (name, shift) in shifts {
                let number = ShiftStepNumber::of(name, shift);
                let step = driven
                    .entry(name.clone())
                    .or_insert_with(|| DrivenStep::new(number));
                if step.number != number {
                    *step = DrivenStep::new(number);
                }
                self.drive(applied, &snapshot, (name, shift), step).await;
            }
        }
    }

    async fn drive(
        &self,
        applied: &AppliedTopology,
        snapshot: &Snapshot,
        (name, shift): (&ServiceName, &Shift),
        step: &mut DrivenStep,
    ) {
        if step.not_before.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let figures = snapshot.shift_figures(&self.own, name, step.number);
        // By how long the step has been seen here, and not by a clock that may be set.
        let now = shift.since + step.seen.elapsed();
        let verdict = judge(shift, now, &figures);
        if verdict == ShiftVerdict::Hold {
            return;
        }
        let steered = steer(applied, name, step.number, verdict.clone()).await;
        tell(name, shift, &verdict, &steered);
        // What is in force now is seen in the next snapshot, and until then it is not judged again.
        step.not_before = Some(Instant::now() + RETRY);
    }
}

/// One step of a shift that this gateway drives.
struct DrivenStep {
    number: ShiftStepNumber,
    /// Moment at which it was seen first.
    seen: Instant,
    /// `None`: nothing has been tried yet.
    not_before: Option<Instant>,
}

impl DrivenStep {
    fn new(number: ShiftStepNumber) -> Self {
        Self {
            number,
            seen: Instant::now(),
            not_before: None,
        }
    }
}

fn ticks() -> Interval {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Time between two words, by the shortest step.
fn between_words(topology: &Topology) -> Duration {
    let services = topology.services.values();
    let steps = services.filter_map(|service| Some(service.active_shift()?.plan.every));
    let shortest = steps.min().map_or(SLOWEST_WORD, |every| every / TOLD_IN_A_STEP);
    shortest.clamp(TICK, SLOWEST_WORD)
}

/// Takes back what this gateway's own requests have broken the gate of.
fn take_back(snapshot: &Snapshot) -> bool {
    let Some((after, taken)) = snapshot.shifts.load().judged(&snapshot.topology) else {
        return false;
    };
    snapshot.shifts.store(Arc::new(after));
    for taken in taken {
        tracing::warn!(service = %taken.service, "the requests of this gateway have broken the gate of a shift, and it has taken its share back: {}", taken.why);
    }
    true
}

/// Carries a verdict out, unless the shift is at another step by now.
async fn steer(
    applied: &AppliedTopology,
    service: &ServiceName,
    step: ShiftStepNumber,
    verdict: ShiftVerdict,
) -> Result<u64, SteerError> {
    let name = service.clone();
    // Nobody has asked for it now, whoever began the shift.
    let may = ChangeableParts::Blocks(BTreeSet::from([service.clone()]));
    let change = applied.steer(service.clone(), may, Applying::Now, move |service, _, now| {
        let shift = service.active_shift().ok_or(ShiftRefusal::NoShift)?;
        if ShiftStepNumber::of(&name, shift) != step {
            return Err(ShiftRefusal::NoShift);
        }
        next(shift, &verdict, now)
    });
    Ok(change.await?.edition.generation)
}

fn next(shift: &Shift, verdict: &ShiftVerdict, now: SystemTime) -> Result<Shift, ShiftRefusal> {
    match verdict {
        ShiftVerdict::Hold => Ok(shift.clone()),
        ShiftVerdict::Advance => Ok(shift.advanced(now)),
        ShiftVerdict::Finish => Ok(shift.done(now)),
        ShiftVerdict::Pause(because) => shift.paused(now, because),
        ShiftVerdict::Abort(because) => shift.aborted(now, because),
    }
}

fn tell(service: &ServiceName, shift: &Shift, verdict: &ShiftVerdict, steered: &Result<u64, SteerError>) {
    let (to, percent) = (&shift.plan.to, shift.percent());
    let generation = match steered {
        Ok(generation) => generation,
        // Somebody else was faster.
        Err(SteerError::Refused(_)) => return,
        Err(error) => {
            let error = error as &dyn std::error::Error;
            tracing::warn!(%service, %to, percent, error, "a shift stays as it is, because its next state cannot be applied");
            return;
        }
    };
    match verdict {
        ShiftVerdict::Hold => {}
        ShiftVerdict::Advance => {
            let next = shift.next_percent();
            tracing::info!(%service, %to, from = percent, percent = next, generation, "a shift has come to its next step");
        }
        ShiftVerdict::Finish => {
            tracing::info!(%service, %to, percent, generation, "a shift is done");
        }
        ShiftVerdict::Pause(because) => {
            tracing::warn!(%service, %to, percent, generation, "a shift is paused: {because}");
        }
        ShiftVerdict::Abort(because) => {
            tracing::warn!(%service, %to, percent, generation, "a shift is aborted, and the split is what it was before: {because}");
        }
    }
}
