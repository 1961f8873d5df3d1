//! Ordinary traffic: from every zone to every service.

use std::collections::BTreeMap;

use causeway_federation::name::{ServiceName, ZoneName};

use super::Stage;
use crate::{
    demo::{
        DemoError,
        client::{DemoClient, DemoOutcome},
        story,
        tally::RequestSum,
    },
    output::{Tone, Word},
};

pub(super) async fn tell(stage: &mut Stage) -> Result<(), DemoError> {
    let about = format!(
        "An application in every zone resolves every service at its zone's mesh DNS and sends {} requests to the virtual \
         address that it is told, each over a new connection. It knows nothing of zones.",
        stage.pace.ordinary_requests
    );
    stage.story.chapter("Ordinary traffic", &about)?;
    let mut rows = Vec::new();
    for (zone, service) in stage.pairs() {
        rows.push(visit(stage, &zone, &service).await?);
    }
    if rows.is_empty() {
        return Ok(stage
            .story
            .say("The file declares no service that could be called.")?);
    }
    let header = ["FROM", "ASKS FOR", "IS TOLD", "SERVED BY", "LONGEST WAIT"];
    Ok(stage.story.table(&header, rows)?)
}

async fn visit(stage: &mut Stage, zone: &ZoneName, service: &ServiceName) -> Result<Vec<Word>, DemoError> {
    let reachable = stage
        .draws(zone, service)?
        .iter()
        .all(|candidates| !candidates.is_empty());
    if !reachable {
        let why = match stage.federation.topology.services.get(service) {
            Some(declared) if !declared.is_exported_to(zone) => "not exported to this zone",
            _ => "nobody serves it to this zone",
        };
        let text = |text: &str| Word(text.to_owned(), Tone::Plain);
        return Ok(vec![
            text(zone.as_str()),
            text(service.as_str()),
            text(""),
            text(why),
            text(""),
        ]);
    }
    let client = stage.federation.client(zone, service).await?;
    let (sum, served) = ask(stage, &client).await;
    Ok(vec![
        zone.into(),
        client.name.as_str().into(),
        client.virtual_address.into(),
        served,
        story::time(sum.longest_wait).into(),
    ])
}

/// Sends ordinary traffic, and says in a cell who served it.
pub(super) async fn ask(stage: &mut Stage, client: &DemoClient) -> (RequestSum, Word) {
    let mut outcomes = client.burst(stage.pace.ordinary_requests).await;
    let sum = stage
        .tally
        .settle(&mut outcomes, &stage.federation.records, None)
        .await;
    let served = match sum.failed {
        0 => Word(servers(&outcomes), Tone::Good),
        failed => Word(format!("{failed} failed; {}", servers(&outcomes)), Tone::Bad),
    };
    (sum, served)
}

/// `east 12, west 8`.
fn servers(outcomes: &[DemoOutcome]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for zone in outcomes.iter().filter_map(DemoOutcome::served_by) {
        *counts.entry(zone.as_str()).or_default() += 1;
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(zone, count)| format!("{zone} {count}"))
        .collect();
    counts.join(", ")
}
