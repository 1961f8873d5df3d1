//! A shift with a gate: a move that is taken back by itself when what it moves to begins to fail.
//!
//! Nothing is applied in the demo, so the chapter takes the part of the gateway that drives the shift: it judges as that one does, and puts
//! each state into force. Counting, and taking back, is the gateways' own.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_federation::{
    catalog::{ShiftFigures, ShiftStepNumber},
    name::GatewayId,
    topology::{GateCondition, Protocol, Shift, ShiftPlan},
};
use causeway_routing::{
    shift::{ShiftVerdict, judge},
    snapshot::Snapshot,
};

use super::{PATIENCE, Stage, arms};
use crate::demo::{DemoError, client::DemoOutcome, story, traffic::Traffic};

/// Percent for the arm that is moved to; it goes wrong at the second.
const STEPS: [u32; 3] = [5, 25, 100];
/// Requests to that arm after which the first step has gone well.
const WELL: u64 = 3;
/// One request of so many fails, once it goes wrong.
const FAILS_ONE_IN: u64 = 3;
/// Requests without which the gate says nothing.
const LEAST: u64 = 10;
/// Condition that aborts it.
const GATE: GateCondition = GateCondition::SuccessBelow { share: 90_000 };

/// Tells nothing when no service of HTTP has a split of two arms of which one has little.
pub(super) async fn tell(stage: &mut Stage) -> Result<(), DemoError> {
    let split = arms::find_where(stage, |service| {
        service.ports.primary.protocol.is_http() && service.split.len() == 2 && service.retry.is_none()
    })?;
    let Some(split) = split else { return Ok(()) };
    let arms::Split { client, service, .. } = &split;
    let to = split.arms.iter().min_by_key(|(_, weight)| *weight);
    let Some((to, _)) = to.cloned() else { return Ok(()) };
    let plan = ShiftPlan {
        to: to.clone(),
        steps: STEPS.to_vec(),
        // The chapter says when a step is over.
        every: Duration::from_secs(3600),
        abort_if: vec![GATE],
        min_requests: LEAST,
    };
    let driver = stage.federation.member(client)?.gateway.id().clone();
    let declared = stage.federation.topology.services.get(service);
    let begun = declared.map(|declared| Shift::begin(declared, plan, driver.clone(), SystemTime::now()));
    let Some(Ok(begun)) = begun else { return Ok(()) };
    let failure = match declared.map(|declared| declared.ports.primary.protocol) {
        Some(Protocol::Grpc) => "INTERNAL",
        _ => "a 500",
    };
    let about = format!(
        "As `causeway shift {service} --to {} --steps 5,25,100 --abort-if '{GATE}'` does it: the traffic of {service} moves step by step, and \
         every gateway counts what becomes of its own requests. At 25 % one in {FAILS_ONE_IN} of the new arm's answers is {failure}.",
        story::tags(&to)
    );
    stage.story.chapter("A shift that is aborted at 25 %", &about)?;
    let caller = stage.federation.client(client, service).await?;
    let traffic = Traffic::start(caller, stage.pace.every);
    let told = go(stage, &split, &traffic, begun).await;
    stage.federation.given.mend();
    let mut rest = traffic.stop().await;
    let records = &stage.federation.records;
    let sum = stage.tally.settle(&mut rest, records, None).await;
    let seen = rest.iter().filter(|outcome| arms::is_of(outcome, &to)).count();
    if told? {
        let (all, new) = (story::count(sum.sent, "request"), story::tags(&to));
        let text = format!("{all} in all, {seen} of them at {new}; the split is what it was before.");
        stage.story.done(&text)?;
    } else {
        let broken = "the shift was not aborted, or its share was not taken back".to_owned();
        stage.story.bad(&broken)?;
        stage.tally.breaks(broken);
    }
    Ok(())
}

/// Takes the shift to its end; `true` when it was taken back and aborted.
async fn go(
    stage: &mut Stage,
    split: &arms::Split,
    traffic: &Traffic,
    begun: Shift,
) -> Result<bool, DemoError> {
    let driver = begun.by.clone();
    put(stage, split, &begun).await?;
    let counted = |snapshot: &Snapshot, shift: &Shift| -> u64 {
        figures(snapshot, &driver, split, shift)
            .iter()
            .map(|(_, told)| told.requests)
            .sum()
    };
    let well = wait(stage, split, traffic, |snapshot| {
        counted(snapshot, &begun) >= WELL
    })
    .await?;
    if !well {
        return Ok(false);
    }
    let next = begun.advanced(SystemTime::now());
    put(stage, split, &next).await?;
    stage
        .federation
        .given
        .break_down(&split.service, &next.plan.to, FAILS_ONE_IN);
    let back = |snapshot: &Snapshot| snapshot.shifts.load().takes_back(&split.service, &next);
    if !wait(stage, split, traffic, back).await? {
        return Ok(false);
    }
    let zone = &split.client;
    let text = format!("the gateway of {zone} has taken its share back by itself");
    stage.story.act(&text)?;
    let snapshot = stage.federation.member(zone)?.snapshot();
    let verdict = judge(
        &next,
        SystemTime::now(),
        &figures(&snapshot, &driver, split, &next),
    );
    let ShiftVerdict::Abort(because) = verdict else {
        return Ok(false);
    };
    let Ok(aborted) = next.aborted(SystemTime::now(), &because) else {
        return Ok(false);
    };
    put(stage, split, &aborted).await?;
    stage.story.act(&format!("because {because}"))?;
    Ok(true)
}

fn figures(
    snapshot: &Snapshot,
    driver: &GatewayId,
    split: &arms::Split,
    shift: &Shift,
) -> Vec<(GatewayId, ShiftFigures)> {
    let step = ShiftStepNumber::of(&split.service, shift);
    snapshot.shift_figures(driver, &split.service, step)
}

/// Waits until something is so for the client's gateway, as long as requests come.
async fn wait(
    stage: &Stage,
    split: &arms::Split,
    traffic: &Traffic,
    is: impl Fn(&Snapshot) -> bool,
) -> Result<bool, DemoError> {
    let member = stage.federation.member(&split.client)?;
    let condition = |_: &[DemoOutcome]| is(&member.snapshot());
    Ok(traffic.until(PATIENCE, condition).await.is_some())
}

/// Puts a state of the shift into force everywhere, and tells so.
async fn put(stage: &mut Stage, split: &arms::Split, shift: &Shift) -> Result<(), DemoError> {
    let took = stage.federation.edit(|topology| {
        if let Some(service) = topology.services.get_mut(&split.service) {
            service.split = match shift.state.is_active() {
                true => shift.split(),
                false => shift.from.clone(),
            };
            service.shift = Some(Arc::new(shift.clone()));
        }
    });
    let took = story::time(took.await?);
    let text = match shift.state.is_active() {
        true => format!(
            "{} % to {}: in force everywhere after {took}",
            shift.percent(),
            story::tags(&shift.plan.to)
        ),
        false => format!("{}: in force everywhere after {took}", shift.state.word()),
    };
    Ok(stage.story.act(&text)?)
}
