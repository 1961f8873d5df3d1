//! What the choice among instances owes to weight, load and latency.

use std::collections::BTreeMap;

use causeway_zone_sync::{name::ServiceName, registry::Source};
use rand::{SeedableRng, rngs::SmallRng};

use super::*;

fn instance(id: &str, weight: u32, tags: &[(&str, &str)]) -> Arc<Instance> {
    Arc::new(Instance {
        id: id.to_owned(),
        service: ServiceName::new("orders").unwrap(),
        address: "127.0.0.1:1".parse().unwrap(),
        tags: tags.iter().copied().collect(),
        weight,
        capacity_per_second: None,
        time_to_live: None,
        source: Source::Topology,
        health: Health::Healthy,
        load: Arc::default(),
    })
}

fn shares(instances: &[Arc<Instance>]) -> BTreeMap<String, usize> {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut count = BTreeMap::new();
    for _ in 0..10_000 {
        let picked = pick(instances, &Tags::default(), &[], &mut rng).unwrap();
        *count.entry(picked.id.clone()).or_default() += 1;
    }
    count
}

#[test]
fn idle_instances_share_by_weight() {
    let shares = shares(&[instance("a", 95, &[]), instance("b", 5, &[])]);
    assert!((9_350..9_650).contains(&shares["a"]), "{shares:?}");
}

#[test]
fn the_busier_of_two_gets_less() {
    let both = [instance("busy", 1, &[]), instance("idle", 1, &[])];
    let guards: Vec<_> = (0..8).map(|_| LoadGuard::new(both[0].load.clone())).collect();
    let with_load = shares(&both);
    assert!(with_load["idle"] > 7_000, "{with_load:?}");
    drop(guards);
    let without = shares(&both);
    assert!((4_800..5_200).contains(&without["idle"]), "{without:?}");
}

#[test]
fn a_slow_instance_gets_less_and_noise_does_not_count() {
    let both = [instance("a", 1, &[]), instance("b", 1, &[])];
    observe(&both[0].load, Duration::from_micros(90));
    observe(&both[1].load, Duration::from_micros(30));
    assert!((4_800..5_200).contains(&shares(&both)["a"]));
    observe(&both[0].load, Duration::from_millis(200));
    assert!(shares(&both)["a"] < 3_000);
}

#[test]
fn a_peak_counts_at_once_and_fades() {
    let load = Load::default();
    observe(&load, Duration::from_millis(100));
    assert_eq!(load.latency_micros.load(Ordering::Relaxed), 100_000);
    for _ in 0..200 {
        observe(&load, Duration::from_micros(100));
    }
    assert_eq!(load.latency_micros.load(Ordering::Relaxed), 100);
}

#[test]
fn only_healthy_instances_with_weight_and_tags_that_were_not_tried() {
    let mut unhealthy = instance("u", 1, &[("version", "v2")]);
    Arc::get_mut(&mut unhealthy).unwrap().health = Health::Unhealthy;
    let mut unknown = instance("n", 1, &[("version", "v2")]);
    Arc::get_mut(&mut unknown).unwrap().health = Health::Unknown;
    let all = [
        unhealthy,
        unknown,
        instance("zero", 0, &[("version", "v2")]),
        instance("v1", 9, &[("version", "v1")]),
        instance("good", 1, &[("version", "v2")]),
    ];
    let selector: Tags = [("version", "v2")].into_iter().collect();
    let mut rng = SmallRng::seed_from_u64(1);
    assert_eq!(pick(&all, &selector, &[], &mut rng).unwrap().id, "good");
    assert!(pick(&all, &selector, &[all[4].clone()], &mut rng).is_none());
}
