//! A zone is cut off while requests go on, and comes back.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::{Tier, TierZone},
};

use super::{DRAWS, PATIENCE, Stage, converge, timeline};
use crate::demo::{DemoError, client::DemoOutcome, story, tally::RequestSum, traffic::Traffic};

/// Plan of who loses what: connections from `client` to `service` go to `cut`, and another zone could serve them as well.
#[derive(Debug, Clone)]
struct Plan {
    client: ZoneName,
    service: ServiceName,
    cut: ZoneName,
    /// As the file has it, when it had to be edited so that the client's own zone does not serve everything itself.
    failover: Option<Vec<Tier>>,
}

/// Time in which the packets were dropped, and no longer.
struct Cut {
    began: Instant,
    ended: Instant,
}

pub(super) async fn tell(stage: &mut Stage) -> Result<(), DemoError> {
    let Some(plan) = natural(stage)?.map_or_else(|| edited(stage), |plan| Ok(Some(plan)))? else {
        let none = "No service of this file can be served by two zones, so there is nothing that could move. Skipped.";
        stage.story.chapter("A zone is cut off", none)?;
        return Ok(());
    };
    let Plan {
        client, service, cut, ..
    } = &plan;
    let about = format!(
        "An application in {client} sends {:.0} requests a second to {service}, which {cut} serves. Then every packet to \
         and from {cut} is dropped without a word, and later let through again. Nobody is told.",
        1.0 / stage.pace.every.as_secs_f64(),
    );
    stage.story.chapter("A zone is cut off", &about)?;
    prefer(stage, &plan).await?;
    let caller = stage.federation.client(client, service).await?;
    let traffic = Traffic::start(caller, stage.pace.every);
    let times = play(stage, &plan, &traffic).await;
    // Whatever happened, nothing stays cut.
    stage.federation.set_cut(cut, false);
    let mut outcomes = traffic.stop().await;
    let times = times?;
    let sum = stage
        .tally
        .settle(&mut outcomes, &stage.federation.records, Some(cut))
        .await;
    stage.tally.time_to_move = first_moved(&outcomes, &times, cut);
    show(stage, &plan, &times, &outcomes, &sum)?;
    restore(stage, plan).await?;
    // The chapters that follow begin with every tunnel up, not only those of this client.
    converge::wait(&stage.federation).await
}

/// The pair of client and service that most depends on one other zone as things are.
fn natural(stage: &Stage) -> Result<Option<Plan>, DemoError> {
    let mut best: Option<(usize, Plan)> = None;
    for (client, service) in stage.pairs() {
        let draws = stage.draws(&client, &service)?;
        let mut leading: BTreeMap<&ZoneName, usize> = BTreeMap::new();
        for first in draws.iter().filter_map(|zones| zones.first()) {
            *leading.entry(first).or_default() += 1;
        }
        let Some((cut, times)) = leading.into_iter().max_by_key(|(_, times)| *times) else {
            continue;
        };
        let spare = draws.iter().all(|zones| zones.iter().any(|zone| zone != cut));
        let better = best.as_ref().is_none_or(|(most, _)| times > *most);
        if *cut != client && spare && 2 * times > DRAWS && better {
            let (cut, failover) = (cut.clone(), None);
            best = Some((
                times,
                Plan {
                    client,
                    service,
                    cut,
                    failover,
                },
            ));
        }
    }
    Ok(best.map(|(_, plan)| plan))
}

/// A service that two zones serve, each its own clients first.
fn edited(stage: &Stage) -> Result<Option<Plan>, DemoError> {
    for (client, service) in stage.pairs() {
        let draws = stage.draws(&client, &service)?;
        let mut zones = stage.zones().into_iter();
        let cut = zones.find(|zone| {
            let everywhere = draws.iter().all(|zones| zones.contains(zone));
            *zone != client && everywhere && draws.iter().all(|zones| zones.iter().any(|other| other != zone))
        });
        let declared = stage.federation.topology.services.get(&service);
        if let (Some(cut), Some(declared)) = (cut, declared) {
            let failover = Some(declared.failover.clone());
            return Ok(Some(Plan {
                client,
                service,
                cut,
                failover,
            }));
        }
    }
    Ok(None)
}

/// Edits the file where needed, so that the zone which will be cut off goes first.
async fn prefer(stage: &mut Stage, plan: &Plan) -> Result<(), DemoError> {
    let Some(file) = &plan.failover else {
        return Ok(());
    };
    let Plan {
        client, service, cut, ..
    } = plan;
    let Some(mut first) = file.first().cloned() else {
        return Ok(());
    };
    first.tags.clear();
    let mut any = first.clone();
    first.zone = Some(TierZone::Named(cut.clone()));
    any.zone = None;
    let took = stage.federation.edit(|topology| {
        if let Some(declared) = topology.services.get_mut(service) {
            declared.failover = vec![first, any];
        }
    });
    let took = story::time(took.await?);
    stage.story.act(&format!(
        "{client} has {service} itself, and would notice nothing. So the file is edited first, for this chapter: \
         failover: [{{ zone: {cut} }}, {{}}]. In force everywhere after {took}."
    ))?;
    Ok(())
}

async fn restore(stage: &mut Stage, plan: Plan) -> Result<(), DemoError> {
    if let Some(failover) = plan.failover {
        let edit = stage.federation.edit(|topology| {
            if let Some(declared) = topology.services.get_mut(&plan.service) {
                declared.failover = failover;
            }
        });
        edit.await?;
    }
    Ok(())
}

/// Cuts the zone off and lets it back, and tells what happens as it happens.
async fn play(stage: &mut Stage, plan: &Plan, traffic: &Traffic) -> Result<Cut, DemoError> {
    let settled = stage.pace.settled_requests;
    let Plan { client, cut, .. } = plan;
    let by_cut = |outcome: &DemoOutcome| outcome.served_by() == Some(cut);
    let enough =
        |outcomes: &[DemoOutcome]| outcomes.iter().filter(|outcome| by_cut(outcome)).count() >= settled;
    if traffic.until(PATIENCE, enough).await.is_none() {
        stage
            .tally
            .breaks(format!("{cut} served nothing although it goes first"));
    }
    let began = Instant::now();
    stage.federation.set_cut(cut, true);
    stage
        .story
        .act(&format!("Every packet to and from {cut} is dropped."))?;
    let moved = first_after(traffic, began, |outcome| !by_cut(outcome)).await;
    if moved.is_none() {
        stage.tally.breaks(format!("no other zone took over from {cut}"));
    }
    let gone = stage.federation.member(client)?.until(PATIENCE, |snapshot| {
        snapshot.links.keys().all(|id| id.zone != *cut)
    });
    match gone.await {
        true => stage.story.done(&format!(
            "{client} gave its tunnels to {cut} up after {}: what they still carried has ended.",
            story::time(began.elapsed())
        ))?,
        false => stage
            .tally
            .breaks(format!("{client} never gave its tunnels to {cut} up")),
    }
    let ended = Instant::now();
    stage.federation.set_cut(cut, false);
    stage
        .story
        .act(&format!("The packets of {cut} are let through again."))?;
    let back = first_after(traffic, ended, by_cut).await;
    match back {
        Some(took) => stage.story.done(&format!(
            "{cut} gave its first answer again after {}.",
            story::time(took)
        ))?,
        None => stage.tally.breaks(format!("traffic never returned to {cut}")),
    }
    stage.tally.time_to_return = back;
    let again = Instant::now();
    let enough = |outcomes: &[DemoOutcome]| {
        outcomes.iter().filter(|outcome| outcome.started >= again).count() >= settled
    };
    traffic.until(PATIENCE, enough).await;
    Ok(Cut { began, ended })
}

/// From `moment` to the first answer to a request that began after it and that `wanted` holds for.
async fn first_after(
    traffic: &Traffic,
    moment: Instant,
    wanted: impl Fn(&DemoOutcome) -> bool,
) -> Option<Duration> {
    let mut first = None;
    let answered = |outcomes: &[DemoOutcome]| {
        let after = outcomes
            .iter()
            .filter(|outcome| outcome.started >= moment && outcome.answer.is_ok());
        first = after
            .filter(|outcome| wanted(outcome))
            .map(DemoOutcome::ended)
            .min();
        first.is_some()
    };
    traffic.until(PATIENCE, answered).await?;
    first.map(|answered| answered.saturating_duration_since(moment))
}

/// From the cut to the first answer of another zone to a request that would have gone to the zone that was cut off.
fn first_moved(outcomes: &[DemoOutcome], times: &Cut, cut: &ZoneName) -> Option<Duration> {
    let after = outcomes
        .iter()
        .filter(|outcome| outcome.started >= times.began && outcome.moved);
    let elsewhere = after.filter(|outcome| outcome.served_by().is_some_and(|zone| zone != cut));
    let first = elsewhere.map(DemoOutcome::ended).min()?;
    Some(first.saturating_duration_since(times.began))
}

fn show(
    stage: &Stage,
    plan: &Plan,
    cut: &Cut,
    outcomes: &[DemoOutcome],
    sum: &RequestSum,
) -> Result<(), DemoError> {
    let story = &stage.story;
    story.blank()?;
    let marks = [(cut.began, "cut"), (cut.ended, "let through")];
    story.block(&timeline::draw(outcomes, &stage.zones(), &marks))?;
    story.blank()?;
    if let Some(took) = stage.tally.time_to_move {
        let (cut, took) = (&plan.cut, story::time(took));
        story.done(&format!("The first request that {cut} did not answer had its answer from another zone {took} after the cut."))?;
    }
    let text = format!(
        "{}: {} moved to another zone in time, {} lost in flight (an instance in {} had been given them), {} failed. \
         Longest wait {}.",
        story::count(sum.sent, "request"),
        sum.moved,
        sum.lost_in_flight,
        plan.cut,
        sum.failed,
        story::time(sum.longest_wait),
    );
    let told = if sum.failed == 0 {
        story.done(&text)
    } else {
        story.bad(&text)
    };
    Ok(told?)
}
