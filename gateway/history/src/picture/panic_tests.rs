//! Panic, as it is told: it is no loss of all homes, and its end is told over a restart.

use std::sync::Arc;

use causeway_federation::{catalog::Age, topology::Topology};
use causeway_routing::{
    snapshot::{Health, Instance},
    testbed,
};

use super::{
    open_tests::{recorded, words},
    tests::{BOTH, kinds, next, picture},
    *,
};

fn asked(panic: bool) -> Arc<Topology> {
    testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        &format!(
            "  orders: {{ port: 80, protocol: http, health: {{ http: / }}, panic: {panic}, failover: [{{ zone: self }}, {{ zone: east }}] }}"
        ),
    )
}

/// Instances here with this health, and so many healthy ones of two in the next tier, whose zone takes no part in panic.
fn seen(topology: &Arc<Topology>, own: &[Health], east: u32) -> Snapshot {
    let one = |(place, health): (usize, &Health)| {
        let instance = testbed::instance(&format!("i{place}"), "127.0.0.1:80".parse().unwrap(), 1, &[]);
        let instance = Arc::into_inner(instance).unwrap();
        Arc::new(Instance {
            health: *health,
            ..instance
        })
    };
    let own = own.iter().enumerate().map(one).collect();
    let entry = testbed::entry("east", Age::Fresh, false, &[(&[], 2, east)]);
    testbed::snapshot("home", topology, own, vec![entry], BOTH)
}

use Health::{Healthy, Unhealthy};

#[test]
fn a_panic_is_told_in_the_place_of_a_lost_home_and_its_instances_are_said_to_serve() {
    let topology = asked(true);
    let well = picture(seen(&topology, &[Healthy, Healthy], 0));
    let half = next(&well, seen(&topology, &[Unhealthy, Healthy], 0));
    let told = events(&well, &half);
    assert_eq!(words(&told), ["instance_unhealthy"]);
    assert!(
        told[0].text.ends_with("is unhealthy, and gets no traffic"),
        "{told:?}"
    );
    let panic = next(&half, seen(&topology, &[Unhealthy, Unhealthy], 0));
    let told = events(&half, &panic);
    assert_eq!(words(&told), ["instance_unhealthy", "panic_begun"]);
    assert!(told[0].text.contains("gets traffic all the same"), "{told:?}");
    assert_eq!(
        told[1].text,
        "orders is in panic: none of its instances is healthy in any zone, and those that are ill are used (home)"
    );
    let because = told[1].because.as_deref().unwrap();
    assert!(
        because.starts_with("own zone home: no instance with the tags is healthy"),
        "{because}"
    );
    let same = next(&panic, seen(&topology, &[Unhealthy, Unhealthy], 0));
    assert!(events(&panic, &same).is_empty(), "once");
    let back = next(&same, seen(&topology, &[Healthy, Unhealthy], 0));
    let told = events(&same, &back);
    assert_eq!(words(&told), ["instance_healthy", "panic_ended"]);
    assert_eq!(
        told[1].text,
        "orders is in panic no more: healthy instances serve it, of tier 1 (home)"
    );
    let gone = next(&same, seen(&topology, &[], 0));
    assert_eq!(kinds(&same, &gone)[2..], ["home_lost", "panic_ended"]);
    let again = next(&gone, seen(&topology, &[Unhealthy], 0));
    assert_eq!(kinds(&gone, &again)[1..], ["home_found", "panic_begun"]);
}

#[test]
fn without_panic_a_home_is_lost() {
    let topology = asked(false);
    let well = picture(seen(&topology, &[Healthy], 0));
    let ill = next(&well, seen(&topology, &[Unhealthy], 0));
    let told = events(&well, &ill);
    assert_eq!(words(&told), ["instance_unhealthy", "home_lost"]);
    assert!(told[0].text.ends_with("gets no traffic"), "{told:?}");
}

#[test]
fn a_failover_that_ends_in_panic_is_told_to_have_ended_when_the_first_tier_is_well() {
    let topology = asked(true);
    let well = picture(seen(&topology, &[Healthy], 2));
    let over = next(&well, seen(&topology, &[Unhealthy], 2));
    assert_eq!(kinds(&well, &over), ["instance_unhealthy", "failover_begun"]);
    let panic = next(&over, seen(&topology, &[Unhealthy], 0));
    assert_eq!(kinds(&over, &panic), ["panic_begun"]);
    let east = next(&panic, seen(&topology, &[Unhealthy], 2));
    assert_eq!(kinds(&panic, &east), ["panic_ended"]);
    let home = next(&panic, seen(&topology, &[Healthy], 2));
    assert_eq!(
        kinds(&panic, &home),
        ["instance_healthy", "panic_ended", "failover_ended"]
    );
}

#[test]
fn a_panic_is_told_once_and_ended_once_over_a_restart() {
    let topology = asked(true);
    let well = picture(seen(&topology, &[Healthy], 0));
    let panic = next(&well, seen(&topology, &[Unhealthy], 0));
    let left = events(&well, &panic);
    let early = {
        let snapshot = seen(&topology, &[Unhealthy], 0);
        let plans = Plans::default().following(&snapshot, false);
        Picture {
            plans,
            ..picture(snapshot)
        }
    };
    let settled = next(&early, seen(&topology, &[Unhealthy], 0));
    assert_eq!(kinds(&early, &settled), ["panic_begun"]);
    let mut open = recorded(&left);
    assert!(open.admit(events(&early, &settled)).is_empty(), "it was told");
    let back = next(&settled, seen(&topology, &[Healthy], 0));
    let ended = open.admit(events(&settled, &back));
    assert_eq!(words(&ended), ["instance_healthy", "panic_ended"]);
    let mut open = recorded(&left);
    assert!(words(&open.reconcile(&back)).contains(&"panic_ended"));
}
