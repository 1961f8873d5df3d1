//! Decisions by a key: one user goes one way, and no more of them move than have to.

use std::{collections::BTreeMap, sync::Arc};

use causeway_federation::{
    catalog::{Age, CatalogEntry},
    topology::Topology,
};

use super::*;
use crate::{
    sticky::StickyKey,
    testbed::{Exported, entry, snapshot, tags, topology},
};

const USERS: u32 = 2_000;
const VERSIONS: &[Exported<'_>] = &[(&[("version", "v1")], 1, 1), (&[("version", "v2")], 1, 1)];

fn with(service: &str) -> Arc<Topology> {
    let zones = "  home: {}\n  east: {}\n  west: {}\n  north: {}";
    topology(zones, &format!("  orders: {{ port: 80, {service} }}"))
}

fn share(second: u32) -> Arc<Topology> {
    with(&format!(
        "split: [{{ tags: {{ version: v1 }}, weight: {} }}, {{ tags: {{ version: v2 }}, weight: {second} }}]",
        100 - second
    ))
}

/// First candidate of each user.
fn first(topology: &Arc<Topology>, entries: Vec<CatalogEntry>) -> BTreeMap<u32, Candidate> {
    let links: Vec<String> = entries
        .iter()
        .map(|entry| entry.record.origin.to_string())
        .collect();
    let links: Vec<_> = links.iter().map(|origin| (origin.as_str(), Link::Up)).collect();
    let snapshot = snapshot("home", topology, vec![], entries, &links);
    let of_user = |user: u32| {
        let key = StickyKey::of_mark(&user.to_be_bytes());
        let request = Request::new(orders()).with_key(Some(key));
        // Chance has no say.
        let drawn = [1, 2].map(|seed| {
            route(&snapshot, &request, SmallRng::seed_from_u64(seed))
                .first()
                .cloned()
        });
        assert_eq!(drawn[0], drawn[1]);
        (user, drawn.into_iter().flatten().next().unwrap())
    };
    (0..USERS).map(of_user).collect()
}

#[test]
fn a_greater_share_only_draws_users() {
    let of = |second| {
        let all = first(&share(second), vec![entry("east", Age::Fresh, false, VERSIONS)]);
        let v2 = tags(&[("version", "v2")]);
        all.into_iter()
            .filter(|(_, candidate)| candidate.arm == v2)
            .map(|(user, _)| user)
            .collect()
    };
    let shares: Vec<std::collections::BTreeSet<u32>> = [0, 5, 50, 95, 100].map(of).into();
    for (pair, wanted) in shares.windows(2).zip([5, 50, 95, 100]) {
        assert!(pair[0].is_subset(&pair[1]), "at {wanted}");
        // Five deviations of a binomial of 2,000 are 5.6 of a hundred at most.
        let percent = f64::from(u32::try_from(pair[1].len()).unwrap()) * 100.0 / f64::from(USERS);
        assert!((percent - f64::from(wanted)).abs() < 5.6, "{percent} at {wanted}");
    }
    assert!(shares[0].is_empty() && shares[4].len() == USERS as usize);
}

#[test]
fn a_gateway_that_leaves_moves_nobody_to_another_zone_and_a_zone_only_its_own() {
    let topology = with("failover: [{}]");
    let gateway = |name: &str| entry(name, Age::Fresh, false, &[(&[], 2, 2)]);
    let all = || {
        vec![
            gateway("east/gw1"),
            gateway("east/gw2"),
            gateway("north"),
            gateway("west"),
        ]
    };
    let before = first(&topology, all());
    let zone = |candidate: &Candidate| candidate.zone(&testbed::zone("home")).clone();
    let mut moved = 0;
    for (user, candidate) in first(&topology, all().into_iter().skip(1).collect()) {
        assert_eq!(zone(&candidate), zone(&before[&user]));
        moved += u32::from(candidate != before[&user]);
    }
    assert!(
        (USERS / 8..USERS / 4).contains(&moved),
        "half of a third: {moved}"
    );
    for (user, candidate) in first(&topology, all().into_iter().take(3).collect()) {
        if zone(&before[&user]) != testbed::zone("west") {
            assert_eq!(candidate, before[&user]);
        }
    }
    // Two gateways of one zone are not two zones.
    let east = before
        .values()
        .filter(|candidate| zone(candidate) == testbed::zone("east"));
    let east = u32::try_from(east.count()).unwrap();
    assert!((USERS / 4..USERS * 5 / 12).contains(&east), "a third: {east}");
}
