//! The sum of it all, and whether every promise held.

use super::Stage;
use crate::{
    demo::{DemoError, story},
    output::{Tone, Word},
};

/// `true` when every promise held.
pub(super) fn tell(stage: &mut Stage) -> Result<bool, DemoError> {
    let Stage {
        federation,
        story,
        tally,
        ..
    } = stage;
    story.chapter(
        "The sum of it",
        "Two promises: a connection that no instance has been given is never lost to a dead zone, and no instance is ever \
         given bytes that another was given.",
    )?;
    let rows = tally.servers.iter().map(|((service, zone, tags), count)| {
        vec![Word::from(service), zone.into(), tags.into(), Word::from(count)]
    });
    story.table(&["SERVICE", "SERVED BY", "TAGS", "REQUESTS"], rows.collect())?;
    story.blank()?;
    let repeated = federation.given.repeated();
    let total = tally.total.clone();
    let mut rows = vec![
        row("requests sent", total.sent, None),
        row("served", total.served, None),
        row("moved to another place in time", total.moved, None),
        row("failed", total.failed, Some(0)),
        row("given to two instances", repeated, Some(0)),
        row(
            "lost in flight with the zone that had them",
            total.lost_in_flight,
            None,
        ),
        vec!["longest wait".into(), story::time(total.longest_wait).into()],
    ];
    let times = [
        ("time to move off the cut zone", tally.time_to_move),
        ("time to return to it", tally.time_to_return),
    ];
    for (what, took) in times {
        rows.extend(took.map(|took| vec![what.into(), story::time(took).into()]));
    }
    story.table(&["", "TOTAL"], rows)?;
    story.blank()?;
    if repeated > 0 {
        tally.breaks(format!(
            "{} given to two instances",
            story::count(repeated, "request")
        ));
    }
    if total.failed > 0 {
        tally.breaks(format!(
            "{} failed that no instance had been given",
            story::count(total.failed, "request")
        ));
    }
    for broken in &tally.broken {
        story.bad(&format!("broken: {broken}"))?;
    }
    if tally.broken.is_empty() {
        story.done("every promise held")?;
    }
    Ok(tally.broken.is_empty())
}

fn row(what: &str, count: usize, wanted: Option<usize>) -> Vec<Word> {
    let tone = match wanted {
        None => Tone::Plain,
        Some(wanted) if wanted == count => Tone::Good,
        Some(_) => Tone::Bad,
    };
    vec![what.into(), Word(count.to_string(), tone)]
}
