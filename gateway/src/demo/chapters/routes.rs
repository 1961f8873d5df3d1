//! A route: requests that say something go elsewhere than those that do not.

use std::collections::BTreeMap;

use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::{Route, RouteAction, SplitArm},
};
use causeway_routing::{
    route::{Request, route},
    target::Target,
};
use rand::{SeedableRng, rngs::SmallRng};

use super::Stage;
use crate::{
    demo::{DemoError, ask::DemoRequest, client::DemoOutcome, story},
    output::{Tone, Word},
};

/// A route that leads requests to instances, from a zone where these can be reached.
struct ShownRoute {
    client: ZoneName,
    service: ServiceName,
    label: String,
    asks: DemoRequest,
    arms: Vec<SplitArm>,
}

/// Tells nothing when no service has a route that the demo can show.
pub(super) async fn tell(stage: &mut Stage) -> Result<(), DemoError> {
    let Some(shown) = find(stage)? else {
        return Ok(());
    };
    let ShownRoute {
        client,
        service,
        label,
        asks,
        arms,
    } = &shown;
    let to: Vec<String> = arms.iter().map(|arm| story::tags(&arm.tags)).collect();
    let about = format!(
        "The route {label} of {service} leads some requests to {}. An application in {client} sends {} of these, and as many \
         plain ones.",
        to.join(" and "),
        stage.pace.ordinary_requests
    );
    stage.story.chapter("A route by what a request says", &about)?;
    let plain = DemoRequest::default();
    let mut rows = Vec::new();
    for (asks, by) in [(&plain, "its split"), (asks, label.as_str())] {
        let caller = stage
            .federation
            .client(client, service)
            .await?
            .asking(asks.clone());
        let mut outcomes = caller.burst(stage.pace.ordinary_requests).await;
        let records = &stage.federation.records;
        stage.tally.settle(&mut outcomes, records, None).await;
        if *asks != plain {
            hold_to(stage, &shown, &outcomes);
        }
        rows.push(vec![
            asks.told().as_str().into(),
            by.into(),
            Word(versions(&outcomes), Tone::Good),
        ]);
    }
    Ok(stage.story.table(&["REQUEST", "GOES BY", "SERVED BY"], rows)?)
}

/// The first route with a split of its own that a request of the demo can match, from the first zone that reaches both it and the
/// service's own split.
fn find(stage: &Stage) -> Result<Option<ShownRoute>, DemoError> {
    let topology = &stage.federation.topology;
    for (client, service) in stage.pairs() {
        let Some(declared) = topology.services.get(&service) else {
            continue;
        };
        let name = format!("{service}.{}", topology.dns.domain);
        if DemoRequest::default().ruled_by(declared, &name).is_some() {
            continue;
        }
        for route in &declared.routes {
            let asks = DemoRequest::for_route(route);
            let asks = asks.filter(|asks| {
                let ruled_by = asks.ruled_by(declared, &name);
                ruled_by.is_some_and(|own| own.label == route.label)
            });
            let (Some(asks), Some(arms), RouteAction::Forward) = (asks, &route.split, &route.action) else {
                continue;
            };
            if is_reached(stage, &client, &service, None)?
                && is_reached(stage, &client, &service, Some(route))?
            {
                return Ok(Some(ShownRoute {
                    label: route.label.to_string(),
                    arms: arms.to_vec(),
                    client,
                    service,
                    asks,
                }));
            }
        }
    }
    Ok(None)
}

fn is_reached(
    stage: &Stage,
    client: &ZoneName,
    service: &ServiceName,
    by: Option<&Route>,
) -> Result<bool, DemoError> {
    let snapshot = stage.federation.member(client)?.snapshot();
    let split = by.and_then(|route| route.split.clone());
    let request = Request::new(Target::service(service.clone())).with_split(split);
    Ok(route(&snapshot, &request, SmallRng::seed_from_u64(1))
        .first()
        .is_some())
}

/// Every request that the route is for has to be served by an instance of its split.
fn hold_to(stage: &mut Stage, shown: &ShownRoute, outcomes: &[DemoOutcome]) {
    let answers = outcomes.iter().filter_map(|outcome| outcome.answer.as_ref().ok());
    let strays = answers.filter(|answer| !shown.arms.iter().any(|arm| answer.tags.matches(&arm.tags)));
    let strays = strays.count();
    if strays > 0 {
        let ShownRoute { service, label, .. } = shown;
        let told = format!(
            "{} of the route {label} of {service} went elsewhere",
            story::count(strays, "request")
        );
        stage.tally.breaks(told);
    }
}

/// `version=v1 in east 12, version=v2 in west 8`.
fn versions(outcomes: &[DemoOutcome]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for answer in outcomes.iter().filter_map(|outcome| outcome.answer.as_ref().ok()) {
        let server = format!("{} in {}", story::tags(&answer.tags), answer.zone);
        *counts.entry(server).or_default() += 1;
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(server, count)| format!("{server} {count}"))
        .collect();
    counts.join(", ")
}
