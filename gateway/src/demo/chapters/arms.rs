//! The arms of a split as the demo measures them.

use causeway_federation::{
    name::{ServiceName, Tags, ZoneName},
    topology::{Service, Topology},
};

use super::Stage;
use crate::demo::{DemoError, client::DemoOutcome, share, story};

/// Columns of a bar.
const BAR: usize = 30;

/// A service whose split can be measured from one zone: every arm has a home, and every instance is of one arm at most.
#[derive(Debug, Clone)]
pub(super) struct Split {
    pub(super) client: ZoneName,
    pub(super) service: ServiceName,
    pub(super) arms: Vec<(Tags, u32)>,
}

/// The first service that has a split over several tags, from the first zone that reaches all of its arms.
pub(super) fn find(stage: &Stage) -> Result<Option<Split>, DemoError> {
    find_where(stage, |_| true)
}

/// The first such service that is `wanted`.
pub(super) fn find_where(
    stage: &Stage,
    wanted: impl Fn(&Service) -> bool,
) -> Result<Option<Split>, DemoError> {
    let topology = &stage.federation.topology;
    for (client, service) in stage.pairs() {
        let declared = topology.services.get(&service);
        let Some(declared) = declared.filter(|declared| wanted(declared)) else {
            continue;
        };
        let arms: Vec<_> = declared
            .split
            .iter()
            .map(|arm| (arm.tags.clone(), arm.weight))
            .collect();
        let instances = reachable(stage, &client, &service)?;
        let arms_of = |tags: &Tags| arms.iter().filter(|(arm, _)| tags.matches(arm)).count();
        let measurable = arms.len() > 1
            && instances.iter().all(|tags| arms_of(tags) <= 1)
            && arms
                .iter()
                .all(|(arm, _)| instances.iter().any(|tags| tags.matches(arm)));
        if measurable {
            return Ok(Some(Split {
                client,
                service,
                arms,
            }));
        }
    }
    Ok(None)
}

/// The tags of every instance that connections from `client` to `service` may get to.
fn reachable(stage: &Stage, client: &ZoneName, service: &ServiceName) -> Result<Vec<Tags>, DemoError> {
    let draws = stage.draws(client, service)?;
    let topology: &Topology = &stage.federation.topology;
    let zones = topology
        .zones
        .iter()
        .filter(|(name, _)| draws.iter().flatten().any(|zone| zone == *name));
    let instances = zones.flat_map(|(_, zone)| &zone.instances);
    Ok(instances
        .filter(|instance| instance.service == *service)
        .map(|instance| instance.tags.clone())
        .collect())
}

/// Compares what each arm took with what it should take, line by line; and whether all of it is plausible.
pub(super) fn measure(arms: &[(Tags, u32)], outcomes: &[&DemoOutcome]) -> (String, bool) {
    let count = outcomes.len() as u64;
    let moved = outcomes.iter().filter(|outcome| outcome.moved).count() as u64;
    let sum: u32 = arms.iter().map(|(_, weight)| weight).sum();
    let widest = arms
        .iter()
        .map(|(tags, _)| story::tags(tags).chars().count())
        .max();
    let (mut text, mut plausible) = (String::new(), true);
    for (index, (tags, weight)) in arms.iter().enumerate() {
        let took = outcomes.iter().filter(|outcome| is_of(outcome, tags)).count() as u64;
        let declared = f64::from(*weight) / f64::from(sum.max(1));
        let measured = took as f64 / count.max(1) as f64;
        let range = share::plausible_with_moves(count, declared, moved);
        let fits = range.contains(&took);
        plausible &= fits;
        text.push_str(&format!(
            "{:<width$}  {}  {:>5.1} %  {took:>4} of {count}, {} {} to {}\n",
            story::tags(tags),
            story::coloured(&story::bar(measured, BAR), index),
            100.0 * measured,
            if fits {
                "chance allows"
            } else {
                "chance allows only"
            },
            range.start(),
            range.end(),
            width = widest.unwrap_or(0),
        ));
    }
    (text, plausible)
}

/// Tells whether an instance of this arm answered.
pub(super) fn is_of(outcome: &DemoOutcome, arm: &Tags) -> bool {
    outcome
        .answer
        .as_ref()
        .is_ok_and(|answer| answer.tags.matches(arm))
}
