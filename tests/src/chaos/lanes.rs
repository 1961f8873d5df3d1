//! The load in one zone: each lane has instances of its own and asks one thing after another, so that what it
//! asked for last is what must be there.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{sync::watch, task::JoinSet};

use super::{
    ledger::{Content, Key, RequestOutcome},
    load::{Phase, Registry, until_phase},
};

/// Services of the topology that instances are registered for.
const SERVICES: [&str; 3] = ["orders", "web", "batch"];
const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];
/// Lanes of the kind that changes instances one after another.
const STEADY_LANES: u64 = 2;
/// Instances of such a lane.
const STEADY_INSTANCES: usize = 15;
/// Between two changes of such a lane.
const STEADY_EVERY: Duration = Duration::from_millis(100);
/// Between registering and deregistering the instance that flaps.
const FLAP_EVERY: Duration = Duration::from_millis(60);
/// Instances that come and go together, and how often.
const BULK: usize = 50;
const BULK_EVERY: Duration = Duration::from_secs(3);
/// Instances that nobody renews: a new one each time.
const LAPSE_EVERY: Duration = Duration::from_secs(1);
const LAPSE_TTL: u32 = 1;
/// Instances that are renewed. Their time to live is several times what a fault lasts.
const RENEWED: usize = 5;
const RENEW_EVERY: Duration = Duration::from_secs(2);
const RENEW_TTL: u32 = 60;

/// Starts every lane that changes something.
pub(super) fn start_changing(
    lanes: &mut JoinSet<()>,
    registry: &Registry,
    phase: &watch::Receiver<Phase>,
    rng: &mut SmallRng,
) {
    for lane in 0..STEADY_LANES {
        let rng = SmallRng::from_rng(rng);
        lanes.spawn(steady(registry.clone(), phase.clone(), lane, rng));
    }
    lanes.spawn(flap(registry.clone(), phase.clone()));
    lanes.spawn(bulk(registry.clone(), phase.clone(), SmallRng::from_rng(rng)));
    lanes.spawn(lapse(registry.clone(), phase.clone()));
}

fn key(registry: &Registry, service: &str, id: String) -> Key {
    Key {
        zone: registry.zone.clone(),
        service: service.to_owned(),
        id,
    }
}

fn content(rng: &mut SmallRng) -> Content {
    Content {
        address: format!("127.0.0.1:{}", rng.random_range(20_000..60_000)),
        weight: rng.random_range(1..100),
        version: VERSIONS[rng.random_range(0..VERSIONS.len())].to_owned(),
    }
}

fn fixed(weight: u64) -> Content {
    Content {
        address: "127.0.0.1:19999".to_owned(),
        weight,
        version: VERSIONS[0].to_owned(),
    }
}

/// Registers, changes and deregisters instances at random.
async fn steady(registry: Registry, mut phase: watch::Receiver<Phase>, lane: u64, mut rng: SmallRng) {
    let mut generations = [0; STEADY_INSTANCES];
    while !until_phase(&mut phase, Phase::Renewing, STEADY_EVERY).await {
        let slot = rng.random_range(0..STEADY_INSTANCES);
        let id = format!("steady-{lane}-{slot}-{}", generations[slot]);
        let key = key(&registry, SERVICES[slot % SERVICES.len()], id);
        if registry.is_retired(&key) {
            generations[slot] += 1;
        } else if rng.random_range(0..3) > 0 {
            registry.put(&key, &content(&mut rng), None).await;
        } else {
            registry.remove(&key).await;
        }
    }
}

/// One instance that comes and goes as fast as it can.
async fn flap(registry: Registry, mut phase: watch::Receiver<Phase>) {
    let (mut generation, mut weight) = (0, 0);
    while !until_phase(&mut phase, Phase::Renewing, FLAP_EVERY).await {
        let key = key(&registry, SERVICES[0], format!("flap-{generation}"));
        weight += 1;
        if registry.is_retired(&key) {
            generation += 1;
        } else if weight % 2 == 1 {
            registry.put(&key, &fixed(weight), None).await;
        } else {
            registry.remove(&key).await;
        }
    }
}

/// Many instances that come at once, and go at once the next time.
async fn bulk(registry: Registry, mut phase: watch::Receiver<Phase>, mut rng: SmallRng) {
    let mut round = 0;
    let mut keys = Vec::new();
    while !until_phase(&mut phase, Phase::Renewing, BULK_EVERY).await {
        if round % 2 == 0 {
            let id = |number| format!("bulk-{round}-{number}");
            keys = (0..BULK)
                .map(|number| key(&registry, SERVICES[number % SERVICES.len()], id(number)))
                .collect();
            let list: Vec<_> = keys.iter().map(|key| (key.clone(), content(&mut rng))).collect();
            registry.put_all(&list).await;
        } else {
            keys.retain(|key| !registry.is_retired(key));
            registry.remove_all(&keys).await;
        }
        round += 1;
    }
}

/// Instances whose lease runs out.
async fn lapse(registry: Registry, mut phase: watch::Receiver<Phase>) {
    let mut number = 0;
    while !until_phase(&mut phase, Phase::Renewing, LAPSE_EVERY).await {
        let key = key(&registry, SERVICES[1], format!("lapse-{number}"));
        registry.put(&key, &fixed(1), Some(LAPSE_TTL)).await;
        registry.lapses(&key);
        number += 1;
    }
}

/// Instances whose lease is renewed, to the end.
pub(super) async fn renew(registry: Registry, mut phase: watch::Receiver<Phase>) {
    let mut generations = [0; RENEWED];
    let mut registered = [false; RENEWED];
    loop {
        for slot in 0..RENEWED {
            let id = format!("renewed-{slot}-{}", generations[slot]);
            let key = key(&registry, SERVICES[2], id);
            if registry.is_retired(&key) {
                generations[slot] += 1;
                registered[slot] = false;
            } else if registered[slot] {
                registered[slot] = registry.renew(&key).await;
            } else {
                let outcome = registry.put(&key, &fixed(2), Some(RENEW_TTL)).await;
                registered[slot] = outcome == RequestOutcome::Acknowledged;
            }
        }
        if until_phase(&mut phase, Phase::Over, RENEW_EVERY).await {
            return;
        }
    }
}
