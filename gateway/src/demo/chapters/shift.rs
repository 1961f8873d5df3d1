//! A move from one set of tags to another, by weights that are edited while traffic goes on.

use std::time::Instant;

use causeway_federation::name::Tags;

use super::{PATIENCE, Stage, arms};
use crate::demo::{DemoError, client::DemoOutcome, story, tally::RequestSum, traffic::Traffic};

/// Percent for the arm that is moved to: the way there, and back at once.
const STEPS: [u32; 4] = [5, 50, 100, 0];

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
    let mut sum = RequestSum::default();
    for percent in STEPS {
        sum.add(&step(stage, &split, (to, percent), &traffic).await?);
    }
    let mut rest = traffic.stop().await;
    sum.add(
        &stage
            .tally
            .settle(&mut rest, &stage.federation.records, None)
            .await,
    );
    edit(stage, &split, arms).await?;
    let text = format!(
        "{} during the move, {} failed, longest wait {}.",
        story::count(sum.sent, "request"),
        sum.failed,
        story::time(sum.longest_wait)
    );
    let told = match sum.failed {
        0 => stage.story.done(&text),
        _ => stage.story.bad(&text),
    };
    Ok(told?)
}

/// Gives `percent` to the arm `to`, and shows what it took of the requests that began afterwards. Gives their sum, with
/// those that ended while the edit was on its way.
async fn step(
    stage: &mut Stage,
    split: &arms::Split,
    (to, percent): (usize, u32),
    traffic: &Traffic,
) -> Result<RequestSum, DemoError> {
    let arms = edit_to(stage, split, (to, percent)).await?;
    let since = Instant::now();
    let wanted = stage.pace.step_requests;
    let is_measured = |outcome: &&DemoOutcome| outcome.started >= since && outcome.answer.is_ok();
    let enough = |outcomes: &[DemoOutcome]| outcomes.iter().filter(is_measured).count() >= wanted;
    let answered = traffic.until(PATIENCE, enough).await;
    let mut outcomes = traffic.take();
    let sum = stage
        .tally
        .settle(&mut outcomes, &stage.federation.records, None)
        .await;
    let measured: Vec<_> = outcomes.iter().filter(is_measured).collect();
    let (text, plausible) = arms::measure(&arms, &measured);
    stage.story.block(&text)?;
    if answered.is_none() || !plausible {
        let broken = format!(
            "with weights {} the measured shares are not the declared ones",
            slashed(&arms)
        );
        stage.story.bad(&broken)?;
        stage.tally.breaks(broken);
    }
    Ok(sum)
}

/// Gives `percent` to the arm `to` everywhere, the rest to the other, and tells so. Gives what each has then.
pub(super) async fn edit_to(
    stage: &mut Stage,
    split: &arms::Split,
    (to, percent): (usize, u32),
) -> Result<Vec<(Tags, u32)>, DemoError> {
    let mut arms = split.arms.clone();
    arms[to].1 = percent;
    arms[1 - to].1 = 100 - percent;
    let took = edit(stage, split, &arms).await?;
    let text = format!("weights {}: in force everywhere after {took}", slashed(&arms));
    stage.story.act(&text)?;
    Ok(arms)
}

/// `95/5`.
fn slashed(arms: &[(Tags, u32)]) -> String {
    let weights: Vec<_> = arms.iter().map(|(_, weight)| weight.to_string()).collect();
    weights.join("/")
}

/// Puts weights into force everywhere. Gives how long that took.
pub(super) async fn edit(
    stage: &mut Stage,
    split: &arms::Split,
    arms: &[(Tags, u32)],
) -> Result<String, DemoError> {
    let took = stage.federation.edit(|topology| {
        if let Some(service) = topology.services.get_mut(&split.service) {
            for (arm, (_, weight)) in service.split.iter_mut().zip(arms) {
                arm.weight = *weight;
            }
        }
    });
    Ok(story::time(took.await?))
}
