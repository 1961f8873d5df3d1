//! A split: the declared shares against those that are measured.

use super::{Stage, arms};
use crate::demo::{DemoError, story};

/// Tells nothing when no service has a split over several tags.
pub(super) async fn tell(stage: &mut Stage) -> Result<(), DemoError> {
    let Some(split) = arms::find(stage)? else {
        return Ok(());
    };
    let arms::Split {
        client,
        service,
        arms,
    } = &split;
    let sum: u32 = arms.iter().map(|(_, weight)| weight).sum();
    let declared: Vec<_> = arms
        .iter()
        .map(|(tags, weight)| {
            let share = 100.0 * f64::from(*weight) / f64::from(sum.max(1));
            format!("{share:.0} % to {}", story::tags(tags))
        })
        .collect();
    let about = format!(
        "The file splits {service} by tags: {}. An application in {client} sends {} requests.",
        declared.join(", "),
        stage.pace.split_requests
    );
    stage.story.chapter("A split by tags", &about)?;
    let caller = stage.federation.client(client, service).await?;
    let mut outcomes = caller.burst(stage.pace.split_requests).await;
    let records = &stage.federation.records;
    stage.tally.settle(&mut outcomes, records, None).await;
    let served: Vec<_> = outcomes.iter().filter(|outcome| outcome.answer.is_ok()).collect();
    let (text, plausible) = arms::measure(arms, &served);
    stage.story.block(&text)?;
    if !plausible {
        let broken = format!("the measured split of {service} is not the declared one");
        stage.story.bad(&broken)?;
        stage.tally.breaks(broken);
    }
    Ok(())
}
