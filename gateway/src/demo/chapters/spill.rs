//! A zone that loses instances: what it keeps, what the next tier gets, and how the traffic comes back.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use causeway_federation::{
    name::{ServiceName, Tags, ZoneName},
    topology::{Protocol, SplitArm, Topology},
};
use causeway_routing::route::{healthy_below, tier_health, tier_shares};

use super::{PATIENCE, Stage};
use crate::demo::{DemoError, share::plausible_with_moves, story};

/// Of `failback`, for this chapter, so that nobody waits for a minute.
const HOLD: Duration = Duration::from_secs(1);
const RAMP: Duration = Duration::from_secs(4);
/// Width of a bar that is full.
const BAR: usize = 40;

/// A zone, and the service of which it has several instances.
struct Scene {
    zone: ZoneName,
    service: ServiceName,
    /// Places of the service's instances among those of the zone.
    instances: Vec<usize>,
}

/// Tells nothing when no service that spills has several instances in a zone of its clients, and a place to spill to.
pub(super) async fn tell(stage: &mut Stage) -> Result<(), DemoError> {
    let Some(scene) = find(stage) else {
        return Ok(());
    };
    let Scene {
        zone,
        service,
        instances,
    } = &scene;
    let lost = instances.len() / 2;
    let about = format!(
        "{lost} of the {} instances of {service} in {zone} stop answering, and come back. The file says what {zone} keeps \
         meanwhile (`spill`), and how fast it takes its traffic up again (`failback`; here {} and {}).",
        instances.len(),
        story::time(HOLD),
        story::time(RAMP),
    );
    stage.story.chapter("A zone loses instances", &about)?;
    let file = stage.federation.topology.clone();
    stage
        .federation
        .edit(|topology| {
            if let Some(policy) = topology
                .services
                .get_mut(service)
                .and_then(|one| one.failback.as_mut())
            {
                (policy.hold, policy.ramp) = (HOLD, RAMP);
            }
            if let Some(zone) = topology.zones.get_mut(zone) {
                for place in &instances[..lost] {
                    zone.instances[*place].address = nowhere(*place);
                }
            }
        })
        .await?;
    let outcome = play(stage, &scene, instances.len() - lost, &file).await;
    // Whatever happened, the file is as it was.
    stage.federation.edit(|topology| *topology = file).await?;
    outcome
}

/// An address at which nobody listens, so that health checks of an instance there fail: another one for each.
fn nowhere(place: usize) -> SocketAddr {
    let port = u16::try_from(place % 100).unwrap_or_default() + 1;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

async fn play(stage: &mut Stage, scene: &Scene, healthy: usize, file: &Topology) -> Result<(), DemoError> {
    let Scene { zone, service, .. } = scene;
    if !until_healthy(stage, scene, healthy).await? {
        stage
            .tally
            .breaks(format!("the lost instances of {service} were not noticed"));
        return Ok(());
    }
    let share = share_of(stage, scene)?;
    let requests = stage.pace.split_requests;
    let (kept, moved) = at_home(stage, scene, requests).await?;
    let text = format!(
        "{zone} keeps {:.0} % of its traffic, where the file and {healthy} healthy instances make it {:.0} %: {}",
        percent(kept, requests),
        share * 100.0,
        story::bar(percent(kept, requests) / 100.0, BAR)
    );
    let likely = plausible_with_moves(requests as u64, share, moved as u64);
    match likely.contains(&(kept as u64)) {
        true => stage.story.done(&text)?,
        false => {
            stage.story.bad(&text)?;
            stage.tally.breaks(format!("{service} did not spill as declared"));
        }
    }
    let addresses = file
        .zones
        .get(zone)
        .map(|zone| zone.instances.clone())
        .unwrap_or_default();
    let heal = stage.federation.edit(|topology| {
        if let Some(zone) = topology.zones.get_mut(zone) {
            zone.instances = addresses;
        }
    });
    heal.await?;
    if !until_healthy(stage, scene, scene.instances.len()).await? {
        stage
            .tally
            .breaks(format!("the instances of {service} did not come back"));
        return Ok(());
    }
    stage.story.act("The instances answer again.")?;
    ramp(stage, scene).await
}

/// Shows what the zone takes, until that is everything.
async fn ramp(stage: &mut Stage, scene: &Scene) -> Result<(), DemoError> {
    let (begun, requests) = (Instant::now(), stage.pace.step_requests);
    loop {
        let at = begun.elapsed();
        let (kept, moved) = at_home(stage, scene, requests).await?;
        let share = percent(kept, requests) / 100.0;
        let line = format!(
            "{:>5.1} s  {:>3.0} %  {}\n",
            at.as_secs_f64(),
            share * 100.0,
            story::bar(share, BAR)
        );
        stage.story.block(&line)?;
        if kept + moved >= requests {
            let text = format!(
                "{} has all of its traffic again after {}.",
                scene.zone,
                story::time(at)
            );
            return Ok(stage.story.done(&text)?);
        }
        if at > PATIENCE {
            stage
                .tally
                .breaks(format!("the traffic of {} did not come back", scene.zone));
            return Ok(());
        }
        tokio::time::sleep(RAMP / 8).await;
    }
}

/// Number of so many requests that the zone serves itself, and of those that were moved to another place in time.
async fn at_home(stage: &mut Stage, scene: &Scene, requests: usize) -> Result<(usize, usize), DemoError> {
    let caller = stage.federation.client(&scene.zone, &scene.service).await?;
    let mut outcomes = caller.burst(requests).await;
    let records = &stage.federation.records;
    stage.tally.settle(&mut outcomes, records, None).await;
    let own = outcomes
        .iter()
        .filter(|outcome| outcome.served_by() == Some(&scene.zone));
    let moved = outcomes.iter().filter(|outcome| outcome.moved);
    Ok((own.count(), moved.count()))
}

fn percent(part: usize, all: usize) -> f64 {
    part as f64 * 100.0 / all.max(1) as f64
}

/// Share that the zone's own tier gets of what its clients ask for.
fn share_of(stage: &Stage, scene: &Scene) -> Result<f64, DemoError> {
    let snapshot = stage.federation.member(&scene.zone)?.snapshot();
    let tiers = tier_health(&snapshot, &scene.service, &Tags::default());
    let declared = snapshot.topology.services.get(&scene.service);
    let shares = tier_shares(&tiers, declared.map_or(0.0, healthy_below), &[]);
    Ok(shares.first().copied().unwrap_or_default())
}

async fn until_healthy(stage: &Stage, scene: &Scene, healthy: usize) -> Result<bool, DemoError> {
    let member = stage.federation.member(&scene.zone)?;
    let reached = member.until(PATIENCE, |snapshot| {
        let tiers = tier_health(snapshot, &scene.service, &Tags::default());
        tiers.first().is_some_and(|tier| {
            tier.healthy == healthy as u64 && tier.instances == scene.instances.len() as u64
        })
    });
    Ok(reached.await)
}

/// The first zone that comes first for its own clients of a service that spills without a split, and has a place to spill to.
fn find(stage: &Stage) -> Option<Scene> {
    let topology = &stage.federation.topology;
    stage.pairs().into_iter().find_map(|(zone, service)| {
        let declared = topology.services.get(&service)?;
        let any = |arm: &SplitArm| arm.tags.is_empty();
        let is_plain = declared.ports.primary.protocol == Protocol::Http && declared.split.iter().all(any);
        let spills = declared.spill.is_some() && declared.failback.is_some() && declared.health.is_some();
        let of_service = topology.zones.get(&zone)?.instances.iter().enumerate();
        let instances: Vec<usize> = of_service
            .filter(|(_, instance)| instance.service == service)
            .map(|(place, _)| place)
            .collect();
        let snapshot = stage.federation.member(&zone).ok()?.snapshot();
        let tiers = tier_health(&snapshot, &service, &Tags::default());
        let others = tiers.get(1..)?.iter().any(|tier| tier.healthy > 0);
        let is_alone = tiers.first()?.instances == instances.len() as u64;
        (is_plain && spills && instances.len() > 1 && others && is_alone).then_some(Scene {
            zone,
            service,
            instances,
        })
    })
}
