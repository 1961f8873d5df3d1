//! Gentle traffic from every zone to every service, while a person plays with what is left running.

use std::time::Duration;

use tokio::time::interval;

use super::Stage;
use crate::demo::{DemoError, traffic::Traffic};

/// Time between two requests of a zone to a service.
const EVERY: Duration = Duration::from_millis(500);
/// Zones with a service that send requests.
const MOST_PAIRS: usize = 40;
/// Time after which outcomes, which nobody reads here, are forgotten.
const FORGET: Duration = Duration::from_secs(5);

/// Sends requests until `played` resolves. A name that cannot be resolved now gets none.
pub(super) async fn play(stage: &Stage, played: impl Future<Output = ()>) -> Result<(), DemoError> {
    let mut traffic = Vec::new();
    for (zone, service) in stage.pairs().into_iter().take(MOST_PAIRS) {
        if let Ok(client) = stage.federation.client(&zone, &service).await {
            traffic.push(Traffic::start(client, EVERY));
        }
    }
    let rate = traffic.len() as f64 / EVERY.as_secs_f64();
    stage.story.say(&format!(
        "Meanwhile every zone sends requests to every service, {rate:.0} a second in all."
    ))?;
    let forget = async {
        let mut ticks = interval(FORGET);
        loop {
            ticks.tick().await;
            for some in &traffic {
                some.take();
            }
            stage.federation.records.forget();
            stage.federation.given.forget();
        }
    };
    tokio::select! {
        () = played => {}
        () = forget => {}
    }
    for some in traffic {
        some.stop().await;
    }
    Ok(())
}
