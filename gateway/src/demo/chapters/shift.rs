//! A move from one set of tags to another, by weights that are edited while traffic goes on.

use std::time::Instant;

use causeway_zone_sync::name::Tags;

use super::{PATIENCE, Stage, arms};
use crate::demo::{DemoError, client::Outcome, story, traffic::Traffic};

/// Percent for the arm that is moved to: the way there, and back at once.
const STEPS: [u32; 4] = [5, 50, 100, 0];

/// One step: the weights that were in force, and from when on.
struct Step {
    arms: Vec<(Tags, u32)>,
    since: Instant,
    until: Instant,
    taken_up: String,
}

/// Tells nothing when no service has a split of two arms.
pub(super) async fn tell(stage: &mut Stage) -> Result<(), DemoError> {
    let Some(split) = arms::find(stage)?.filter(|split| split.arms.len() == 2) else {
        return Ok(());
    };
    let arms::Split {
        client,
        service,
        arms,
    } = &split;
    // To the arm that has less of the traffic now.
    let to = usize::from(arms[1].1 <= arms[0].1);
    let about = format!(
        "{service} moves from {} to {} while an application in {client} sends {} requests a second: the weights in the \
         file are edited to 5 %, 50 % and 100 %, and then all the way back. Every gateway takes each edit up at once.",
        story::tags(&arms[1 - to].0),
        story::tags(&arms[to].0),
        (1.0 / stage.pace.every.as_secs_f64()).round(),
    );
    stage.story.chapter("A move by weights, and back", &about)?;
    let caller = stage.federation.client(client, service).await?;
    let traffic = Traffic::start(caller, stage.pace.every);
    let mut steps = Vec::new();
    for percent in STEPS {
        steps.push(step(stage, &split, to, percent, &traffic).await?);
    }
    let outcomes = traffic.stop().await;
    show(stage, &steps, &outcomes).await?;
    edit(stage, &split, arms).await.map(drop)
}

async fn step(
    stage: &mut Stage,
    split: &arms::Split,
    to: usize,
    percent: u32,
    traffic: &Traffic,
) -> Result<Step, DemoError> {
    let mut arms = split.arms.clone();
    arms[to].1 = percent;
    arms[1 - to].1 = 100 - percent;
    let taken_up = edit(stage, split, &arms).await?;
    let since = Instant::now();
    let wanted = stage.pace.step_requests;
    let enough =
        |outcomes: &[Outcome]| outcomes.iter().filter(|outcome| outcome.started >= since).count() >= wanted;
    if traffic.until(PATIENCE, enough).await.is_none() {
        stage.tally.breaks(format!("traffic stopped at {percent} %"));
    }
    Ok(Step {
        arms,
        since,
        until: Instant::now(),
        taken_up,
    })
}

/// Puts weights into force everywhere. Gives how long that took.
async fn edit(stage: &mut Stage, split: &arms::Split, arms: &[(Tags, u32)]) -> Result<String, DemoError> {
    let took = stage.federation.edit(|topology| {
        if let Some(service) = topology.services.get_mut(&split.service) {
            for (arm, (_, weight)) in service.split.iter_mut().zip(arms) {
                arm.weight = *weight;
            }
        }
    });
    Ok(story::time(took.await?))
}

async fn show(stage: &mut Stage, steps: &[Step], outcomes: &[Outcome]) -> Result<(), DemoError> {
    let records = &stage.federation.records;
    let sum = stage.tally.settle(outcomes, records, None).await;
    for step in steps {
        let measured: Vec<_> = outcomes
            .iter()
            .filter(|outcome| (step.since..step.until).contains(&outcome.started) && outcome.answer.is_ok())
            .collect();
        let weights: Vec<_> = step.arms.iter().map(|(_, weight)| weight.to_string()).collect();
        let weights = weights.join("/");
        let text = format!("weights {weights}: in force everywhere after {}", step.taken_up);
        stage.story.act(&text)?;
        let (text, plausible) = arms::measure(&step.arms, &measured, records);
        stage.story.block(&text)?;
        if !plausible {
            let broken = format!("with weights {weights} the measured shares are not the declared ones");
            stage.story.bad(&broken)?;
            stage.tally.breaks(broken);
        }
    }
    let text = format!(
        "{} during the move, {} failed, longest wait {}.",
        story::count(sum.sent, "request"),
        sum.failed,
        story::time(sum.longest_wait)
    );
    let told = if sum.failed == 0 {
        stage.story.done(&text)
    } else {
        stage.story.bad(&text)
    };
    Ok(told?)
}
