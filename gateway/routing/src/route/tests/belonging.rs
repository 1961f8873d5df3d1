//! Open connections: which of them belong where they are, change by change.

use std::sync::Arc;

use causeway_federation::{
    catalog::{Age, Catalog, Export},
    topology::Topology,
};

use super::*;
use crate::{
    snapshot::{Health, Instance},
    testbed::{entry, gateway, instance, snapshot, tags, topology},
};

const ZONES: &str =
    "  home: { tags: { region: us } }\n  east: { tags: { region: us } }\n  west: { tags: { region: eu } }";
const TIERS: &str = "failover: [{ zone: self }, { zone: east }, { zone: west }]";
const V1: &[(&str, &str)] = &[("version", "v1")];
const V2: &[(&str, &str)] = &[("version", "v2")];

fn with(service: &str) -> Arc<Topology> {
    topology(
        ZONES,
        &format!("  orders:\n    port: 80\n    protocol: tcp\n    {service}"),
    )
}

fn here(id: &str, weight: u32, tags: &[(&str, &str)]) -> Arc<Instance> {
    instance(id, "127.0.0.1:1".parse().unwrap(), weight, tags)
}

fn ill(id: &str) -> Arc<Instance> {
    let mut one = here(id, 1, &[]);
    Arc::get_mut(&mut one).unwrap().health = Health::Unhealthy;
    one
}

/// `home` with these instances, and both other zones as `east` and `west` say.
fn seen(topology: &Arc<Topology>, instances: Vec<Arc<Instance>>, east: Seen, west: Seen) -> Snapshot {
    let entry = |name, seen: &Seen| {
        entry(
            name,
            seen.age,
            seen.draining,
            &[
                (&[], 2, seen.healthy),
                (V1, 1, seen.healthy),
                (V2, 1, seen.healthy),
            ],
        )
    };
    let links: Vec<_> = [("east", east.link), ("west", west.link)].into();
    let entries = vec![entry("east", &east), entry("west", &west)];
    snapshot("home", topology, instances, entries, &links)
}

struct Seen {
    healthy: u32,
    draining: bool,
    age: Age,
    link: Link,
}

const UP: Seen = Seen {
    healthy: 1,
    draining: false,
    age: Age::Fresh,
    link: Link::Up,
};
const ILL: Seen = Seen { healthy: 0, ..UP };
const DRAINING: Seen = Seen { draining: true, ..UP };
const CLOSING: Seen = Seen {
    link: Link::Draining,
    ..UP
};
const SILENT: Seen = Seen {
    link: Link::Stalled,
    ..UP
};
const OLD: Seen = Seen {
    age: Age::Suspect,
    ..UP
};

fn placed(place: &str, arm: &[(&str, &str)]) -> Placement {
    named(&orders(), place, arm)
}

/// A connection that asked for `target` and is at the gateway of a zone, or at an instance here.
fn named(target: &Target, place: &str, arm: &[(&str, &str)]) -> Placement {
    let (place, instance) = match place {
        "east" | "west" => (
            Destination::Remote {
                gateway: gateway(place),
            },
            None,
        ),
        id => (Destination::Local, Some(id)),
    };
    let candidate = Candidate {
        place,
        tags: tags(arm),
        arm: tags(arm),
        tier: None,
        in_panic: false,
    };
    Placement::new(target, &candidate, instance)
}

fn word(snapshot: &Snapshot, placed: &Placement) -> &'static str {
    belongs(snapshot, placed)
        .err()
        .map_or("belongs", Misplacement::word)
}

#[test]
fn where_a_new_one_is_put_although_it_drains_an_open_one_stays() {
    let topology =
        with("split: [{ tags: { version: v1 }, weight: 1 }, { tags: { version: v2 }, weight: 1 }]");
    let other_arm = || vec![here("b", 1, V2)];
    for (west, told) in [
        // It is taken after what drains, and so is no place to move to; nor does the other arm get the first one's share for it.
        (SILENT, "belongs"),
        (UP, "draining"),
        // Then the whole arm comes after the other.
        (DRAINING, "draining"),
    ] {
        let snapshot = seen(&topology, other_arm(), DRAINING, west);
        assert_eq!(word(&snapshot, &placed("east", V1)), told);
    }
}

#[test]
fn a_connection_that_failed_over_belongs_there_until_a_better_tier_is_well() {
    let topology = with(TIERS);
    let well = || vec![here("a", 1, &[])];
    for (instances, east, west, at_east, at_west) in [
        (vec![], UP, UP, "belongs", "better_tier"),
        (vec![], ILL, UP, "belongs", "belongs"),
        (vec![ill("a")], UP, UP, "belongs", "better_tier"),
        (well(), UP, UP, "better_tier", "better_tier"),
        // What is silent or old is taken last, and so draws nobody.
        (vec![], SILENT, UP, "belongs", "belongs"),
        (vec![], OLD, UP, "belongs", "belongs"),
        (vec![], SILENT, SILENT, "belongs", "belongs"),
        // It serves, though nobody new would be sent there.
        (vec![], ILL, ILL, "belongs", "belongs"),
    ] {
        let snapshot = seen(&topology, instances, east, west);
        let told = [
            word(&snapshot, &placed("east", &[])),
            word(&snapshot, &placed("west", &[])),
        ];
        assert_eq!(told, [at_east, at_west]);
    }
}

#[test]
fn within_a_tier_the_own_zone_draws_and_another_does_not() {
    let topology = with("failover: [{ tags: { region: self } }, {}]");
    let snapshot = seen(&topology, vec![here("a", 1, &[])], UP, UP);
    assert_eq!(word(&snapshot, &placed("east", &[])), "better_tier");
    let snapshot = seen(&with("failover: [{}]"), vec![], UP, UP);
    assert_eq!(word(&snapshot, &placed("east", &[])), "belongs");
    assert_eq!(word(&snapshot, &placed("west", &[])), "belongs");
}

#[test]
fn an_arm_with_weight_keeps_its_connections_and_one_of_weight_0_none() {
    let split = |v1: u32, v2: u32| {
        with(&format!(
            "split: [{{ tags: {{ version: v1 }}, weight: {v1} }}, {{ tags: {{ version: v2 }}, weight: {v2} }}]"
        ))
    };
    let instances = || vec![here("a", 1, V1), here("b", 1, V2)];
    for (v1, v2, expected) in [
        (95, 5, ["belongs", "belongs", "belongs"]),
        (1, 99, ["belongs", "belongs", "belongs"]),
        (100, 0, ["belongs", "arm_weight_zero", "arm_weight_zero"]),
    ] {
        let snapshot = seen(&split(v1, v2), instances(), UP, UP);
        let told = [("a", V1), ("b", V2), ("east", V2)].map(|(place, arm)| {
            let only_elsewhere = seen(&split(v1, v2), vec![], UP, UP);
            match place {
                "east" => word(&only_elsewhere, &placed(place, arm)),
                _ => word(&snapshot, &placed(place, arm)),
            }
        });
        assert_eq!(told, expected, "{v1}:{v2}");
    }
    let nowhere = seen(&split(100, 0), vec![here("b", 1, V2)], ILL, ILL);
    assert_eq!(word(&nowhere, &placed("b", V2)), "belongs", "it would be lost");
}

#[test]
fn a_connection_of_an_arm_that_is_gone_belongs_to_any_whose_tags_its_instance_carries() {
    let one = with("split: [{ tags: { version: v1 }, weight: 1 }]");
    let instances = || vec![here("a", 1, V1), here("b", 1, V2)];
    let snapshot = seen(&one, instances(), UP, UP);
    let elsewhere = seen(&one, vec![], UP, UP);
    for (snapshot, place, arm, expected) in [
        // There was no split, and now all goes to v1.
        (&snapshot, "a", &[][..], "belongs"),
        (&snapshot, "b", &[][..], "arm_weight_zero"),
        (&elsewhere, "east", &[][..], "belongs"),
        // The arm of v2 was taken out.
        (&snapshot, "b", V2, "arm_weight_zero"),
        (&elsewhere, "east", V2, "arm_weight_zero"),
    ] {
        assert_eq!(word(snapshot, &placed(place, arm)), expected, "{place} {arm:?}");
    }
    // It is still there, with weight 0, beside one that takes whatever carries any tags.
    let wide = with("split: [{ weight: 1 }, { tags: { version: v2 }, weight: 0 }]");
    let elsewhere = seen(&wide, vec![], UP, UP);
    assert_eq!(word(&elsewhere, &placed("east", V2)), "arm_weight_zero");
    // The split was taken out.
    let snapshot = seen(&with("early: false"), instances(), UP, UP);
    assert_eq!(word(&snapshot, &placed("b", V2)), "belongs");
}

#[test]
fn what_drains_keeps_none_that_can_go_elsewhere() {
    let topology = with(TIERS);
    for (east, west, expected) in [
        (DRAINING, UP, "draining"),
        (CLOSING, UP, "draining"),
        (DRAINING, ILL, "belongs"),
        (UP, DRAINING, "belongs"),
    ] {
        let snapshot = seen(&topology, vec![], east, west);
        assert_eq!(word(&snapshot, &placed("east", &[])), expected);
    }
    for (instances, expected) in [
        (vec![here("a", 0, &[]), here("b", 1, &[])], "draining"),
        (vec![here("b", 1, &[])], "draining"),
        (vec![ill("a"), here("b", 1, &[])], "belongs"),
        // Its zone takes nothing any more, and another does.
        (vec![here("a", 0, &[])], "draining"),
    ] {
        let snapshot = seen(&topology, instances, UP, UP);
        assert_eq!(word(&snapshot, &placed("a", &[])), expected);
    }
    let alone = seen(&topology, vec![here("a", 0, &[])], ILL, ILL);
    assert_eq!(word(&alone, &placed("a", &[])), "belongs", "it would be lost");
}

#[test]
fn a_zone_that_the_topology_takes_out_keeps_none_that_another_can_serve() {
    for service in ["run_in: [home, west]", "failover: [{ zone: west }]"] {
        let snapshot = seen(&with(service), vec![], UP, UP);
        assert_eq!(word(&snapshot, &placed("east", &[])), "better_tier", "{service}");
        let snapshot = seen(&with(service), vec![], UP, ILL);
        assert_eq!(word(&snapshot, &placed("east", &[])), "belongs", "{service}");
    }
    let unknown = Target::service(testbed::service("unheard"));
    let snapshot = seen(&with(TIERS), vec![], UP, UP);
    assert_eq!(word(&snapshot, &named(&unknown, "east", &[])), "belongs");
}

#[test]
fn a_connection_that_named_its_zone_or_tags_is_measured_by_them() {
    let topology = with(&format!(
        "{TIERS}\n    split: [{{ tags: {{ version: v1 }}, weight: 1 }}, {{ tags: {{ version: v2 }}, weight: 0 }}]"
    ));
    let snapshot = seen(&topology, vec![here("a", 1, V1)], UP, UP);
    let west = Target {
        zone: Some(testbed::zone("west")),
        ..orders()
    };
    assert_eq!(word(&snapshot, &named(&west, "west", V1)), "belongs");
    assert_eq!(word(&snapshot, &placed("west", V1)), "better_tier");
    let v3 = Target {
        tags: tags(&[("version", "v3")]),
        ..orders()
    };
    let by_name = named(&v3, "a", &[("version", "v3")]);
    let snapshot = seen(&topology, vec![here("a", 1, &[("version", "v3")])], UP, UP);
    assert_eq!(word(&snapshot, &by_name), "belongs");
}

#[test]
fn whoever_is_put_where_the_decision_says_belongs_there() {
    let topology = with(TIERS);
    for (instances, east, west) in [
        (vec![here("a", 1, &[])], UP, UP),
        (vec![], UP, UP),
        (vec![], ILL, UP),
        (vec![], SILENT, UP),
        (vec![], OLD, SILENT),
        (vec![ill("a")], DRAINING, UP),
    ] {
        let snapshot = seen(&topology, instances, east, west);
        let first = decide(&snapshot, orders()).candidates.remove(0);
        let placed = Placement::new(&orders(), &first, Some("a"));
        assert_eq!(word(&snapshot, &placed), "belongs", "{first:?}");
    }
}

#[test]
fn a_zone_whose_instances_all_have_weight_0_keeps_none_that_another_can_serve() {
    let topology = with(TIERS);
    let mut snapshot = seen(&topology, vec![], UP, UP);
    let mut drained = entry("east", Age::Fresh, false, &[(&[], 2, 2)]);
    let mut record = (*drained.record).clone();
    let exports: Vec<_> = record.exports.iter().cloned().collect();
    record.exports = exports
        .into_iter()
        .map(|export| Export { weight: 0, ..export })
        .collect();
    drained.record = Arc::new(record);
    let west = entry("west", Age::Fresh, false, &[(&[], 2, 2)]);
    snapshot.catalog = Arc::new(Catalog::new([drained.clone(), west]));
    assert_eq!(word(&snapshot, &placed("east", &[])), "draining");
    snapshot.catalog = Arc::new(Catalog::new([drained]));
    assert_eq!(word(&snapshot, &placed("east", &[])), "belongs");
}

#[test]
fn a_connection_of_another_zone_leaves_an_instance_that_is_taken_out_for_one_with_its_tags() {
    let at = |id| Placement::at_instance(testbed::service("orders"), tags(V1), id);
    // Where this zone would put its own is not asked.
    let topology = with("failover: [{ zone: west }]");
    let both = |weight| vec![here("a", weight, V1), here("b", 1, V1), here("c", 1, V2)];
    for (instances, id, expected) in [
        (both(1), "a", Ok(())),
        (both(0), "a", Err(Misplacement::Draining)),
        (both(1), "gone", Err(Misplacement::Draining)),
        (vec![here("a", 0, V1), here("c", 1, V2)], "a", Ok(())),
        (vec![], "a", Ok(())),
    ] {
        let snapshot = seen(&topology, instances, UP, UP);
        assert_eq!(stays_here(&snapshot, &at(id)), expected);
    }
}

#[test]
fn the_arm_of_another_split_than_the_service_s_has_no_weight_to_lose() {
    let topology = with(&format!(
        "{TIERS}\n    split: [{{ tags: {{ version: v1 }}, weight: 1 }}]"
    ));
    let both = || vec![here("a", 1, V1), here("b", 1, V2)];
    let snapshot = seen(&topology, both(), UP, UP);
    assert_eq!(word(&snapshot, &placed("b", V2)), "arm_weight_zero");
    assert_eq!(word(&snapshot, &placed("b", V2).by_another_split()), "belongs");
    assert_eq!(
        word(&snapshot, &placed("east", V2).by_another_split()),
        "better_tier"
    );
    let snapshot = seen(&topology, vec![here("a", 1, V1), here("b", 0, V2)], UP, UP);
    assert_eq!(word(&snapshot, &placed("b", V2).by_another_split()), "draining");
}
