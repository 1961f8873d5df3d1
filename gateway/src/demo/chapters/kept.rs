//! Connections that applications keep open while the weights are edited: requests of HTTP follow at once, and connections of TCP once
//! they have lingered for as long as their service says.

use std::time::{Duration, Instant};

use causeway_federation::topology::{ConnectionPolicy, Protocol, Service};
use futures_util::future::join_all;

use super::{PATIENCE, Stage, arms, shift};
use crate::demo::{
    DemoError,
    client::{DemoOutcome, KeptClient},
    story,
    tally::RequestSum,
};

/// Applications, each with a connection of its own.
const CLIENTS: usize = 10;
/// Percent for the second arm.
const STEPS: [u32; 4] = [5, 50, 100, 0];

/// Tells nothing when no service with a split of two arms says what becomes of its open connections.
pub(super) async fn tell(stage: &mut Stage) -> Result<(), DemoError> {
    let says = |declared: &Service| declared.connections != ConnectionPolicy::default();
    let requests = arms::find_where(stage, |declared| {
        says(declared) && declared.ports.primary.protocol.is_http()
    })?;
    let bytes = arms::find_where(stage, |declared| {
        declared.connections.linger.is_some() && declared.ports.primary.protocol == Protocol::Tcp
    })?;
    if let Some(split) = requests.filter(|split| split.arms.len() == 2) {
        follow_by_request(stage, &split).await?;
    }
    if let Some(split) = bytes.filter(|split| split.arms.len() == 2) {
        follow_after_linger(stage, &split).await?;
    }
    Ok(())
}

async fn follow_by_request(stage: &mut Stage, split: &arms::Split) -> Result<(), DemoError> {
    let arms::Split {
        client,
        service,
        arms,
    } = split;
    let declared = stage.federation.topology.services.get(service);
    let protocol = match declared.map(|declared| declared.ports.primary.protocol) {
        Some(Protocol::Grpc) => "gRPC",
        _ => "HTTP",
    };
    let about = format!(
        "{CLIENTS} applications in {client} call {service} over {protocol}, each on one connection that it keeps. The weights are \
         edited to 5 %, 50 % and 100 % for {}, and back.",
        story::tags(&arms[1].0)
    );
    stage
        .story
        .chapter("Requests on connections that stay open", &about)?;
    let mut clients = kept(stage, split).await?;
    let mut sum = RequestSum::default();
    for percent in STEPS {
        let weights = shift::edit_to(stage, split, (1, percent)).await?;
        let each = stage.pace.step_requests.div_ceil(CLIENTS);
        let asking = clients.iter_mut().map(|client| client.requests(each));
        let mut outcomes: Vec<DemoOutcome> = join_all(asking).await.into_iter().flatten().collect();
        sum.add(
            &stage
                .tally
                .settle(&mut outcomes, &stage.federation.records, None)
                .await,
        );
        let served: Vec<_> = outcomes.iter().filter(|outcome| outcome.answer.is_ok()).collect();
        let (text, plausible) = arms::measure(&weights, &served);
        stage.story.block(&text)?;
        if !plausible {
            let broken = format!("with {percent} % the shares on open connections are not the declared ones");
            stage.story.bad(&broken)?;
            stage.tally.breaks(broken);
        }
    }
    shift::edit(stage, split, arms).await?;
    let connections: usize = clients.iter().map(KeptClient::connections).sum();
    let text = format!(
        "{} on {}, {} failed.",
        story::count(sum.sent, "request"),
        story::count(connections, "connection"),
        sum.failed
    );
    match sum.failed {
        0 => stage.story.done(&text)?,
        _ => stage.story.bad(&text)?,
    }
    Ok(())
}

async fn follow_after_linger(stage: &mut Stage, split: &arms::Split) -> Result<(), DemoError> {
    let arms::Split {
        client,
        service,
        arms,
    } = split;
    let declared = stage.federation.topology.services.get(service);
    let linger = declared
        .and_then(|declared| declared.connections.linger)
        .unwrap_or_default();
    let about = format!(
        "{CLIENTS} applications in {client} talk to {service} over TCP, each on one connection. All weight goes to one arm, and \
         then to the other. Connections are ended {} after they belong elsewhere, a few at a time, and the applications connect anew.",
        story::time(linger)
    );
    stage.story.chapter("Connections that follow", &about)?;
    let mut clients = kept(stage, split).await?;
    // Each has its connection by the weights of the file.
    join_all(clients.iter_mut().map(KeptClient::request)).await;
    for percent in [100, 0] {
        shift::edit_to(stage, split, (1, percent)).await?;
        let to = &arms[usize::from(percent == 100)].0;
        let (begun, every) = (Instant::now(), stage.pace.every);
        let follow = clients.iter_mut().map(|client| {
            follow_to(client, begun, every, move |outcome: &DemoOutcome| {
                arms::is_of(outcome, to)
            })
        });
        let came: Vec<_> = join_all(follow).await;
        let late = came.iter().filter(|came| came.is_none()).count();
        let came: Vec<Duration> = came.into_iter().flatten().collect();
        let (first, last) = (came.iter().min().copied(), came.iter().max().copied());
        let text = format!(
            "{} at {}: the first after {}, the last after {}",
            story::count(came.len(), "connection"),
            story::tags(to),
            story::time(first.unwrap_or_default()),
            story::time(last.unwrap_or_default())
        );
        match late {
            0 => stage.story.done(&text)?,
            _ => {
                stage.story.bad(&text)?;
                stage.tally.breaks(format!(
                    "{} did not follow the weights",
                    story::count(late, "connection")
                ));
            }
        }
    }
    shift::edit(stage, split, arms).await?;
    Ok(())
}

async fn kept(stage: &Stage, split: &arms::Split) -> Result<Vec<KeptClient>, DemoError> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let client = stage.federation.client(&split.client, &split.service).await?;
        clients.push(KeptClient::new(client));
    }
    Ok(clients)
}

/// Talks until the connection is where it should be, and tells when since `begun` that was; `None`: it never was.
async fn follow_to(
    client: &mut KeptClient,
    begun: Instant,
    every: Duration,
    is_there: impl Fn(&DemoOutcome) -> bool,
) -> Option<Duration> {
    while begun.elapsed() < PATIENCE {
        // A connection that is being ended fails what is said on it just then.
        if is_there(&client.request().await) {
            return Some(begun.elapsed());
        }
        tokio::time::sleep(every).await;
    }
    None
}
