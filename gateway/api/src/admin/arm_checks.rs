//! Findings about arms of splits that no zone can serve now, although instances with other tags are well.

use causeway_federation::name::{ServiceName, Tags};
use causeway_routing::{route::standing, snapshot::Snapshot};
use causeway_telemetry::Check;

use super::view::{Count, ServiceView};

/// Group of the findings that are about services.
const GROUP: &str = "services";

/// Looks at the arms of each service from this zone, as `route` does, and puts what it finds in the place of milder findings; that of a panic in the
/// place of any. Of services without any healthy instance that can be reached, and without panic, enough is said elsewhere.
pub(super) fn tell_of_arms(snapshot: &Snapshot, services: &[ServiceView], checks: &mut [Check]) {
    for view in services {
        let Some((in_panic, found)) = found(snapshot, view) else {
            continue;
        };
        let gives_way = |check: &&mut Check| {
            let is_milder = in_panic || check.status < found.status;
            check.group == GROUP && check.name == view.name && is_milder
        };
        if let Some(check) = checks.iter_mut().find(gives_way) {
            *check = found;
        }
    }
}

/// Finds out about the arms of a service: whether instances that are ill serve, or which arms have no home.
fn found(snapshot: &Snapshot, view: &ServiceView) -> Option<(bool, Check)> {
    let name = ServiceName::new(&view.name).ok()?;
    let service = snapshot.topology.services.get(&name)?;
    let is_somewhere = reachable(view).healthy > 0;
    if !is_somewhere && !service.panics() {
        return None;
    }
    let mut lost = Vec::new();
    let mut arms = 0;
    for arm in snapshot
        .split_of(&name, service)
        .iter()
        .filter(|arm| arm.weight > 0)
    {
        let stands = standing(snapshot, &name, &arm.tags)?;
        if stands.in_panic {
            return Some((true, panic(view)));
        }
        arms += 1;
        lost.extend(stands.tier.is_none().then_some(&arm.tags));
    }
    match is_somewhere {
        true => finding(&name, &lost, arms).map(|found| (false, found)),
        false => None,
    }
}

/// Instances here, and in the zones that traffic can go to.
fn reachable(view: &ServiceView) -> Count {
    let zones = view.zones.iter().filter(|zone| zone.usable);
    zones.fold(view.local, |sum, zone| Count {
        instances: sum.instances.saturating_add(zone.instances),
        healthy: sum.healthy.saturating_add(zone.healthy),
    })
}

fn panic(view: &ServiceView) -> Check {
    let Count { instances, healthy } = reachable(view);
    let message = format!(
        "in panic: {healthy} of {instances} instances are healthy, and those that are ill are used all the same"
    );
    let hint = format!(
        "what do they hang on, and does the health check fit the service? `causeway get instances --service {name} --unhealthy` \
         shows those of a zone; with `panic: false` clients would be refused",
        name = view.name
    );
    Check::warn(GROUP, view.name.clone(), message, hint)
}

/// Finding about a service with so many arms, of which some have no home.
fn finding(name: &ServiceName, lost: &[&Tags], arms: usize) -> Option<Check> {
    let hint = format!(
        "`causeway explain {name}` says for each place why not; instances with other tags get nothing unless its \
         `split` says so"
    );
    let tags: Vec<String> = lost
        .iter()
        .filter(|tags| !tags.is_empty())
        .map(ToString::to_string)
        .collect();
    let which = match tags.is_empty() {
        true => "no instance".to_owned(),
        false => format!("no instance of {}", tags.join(", ")),
    };
    if lost.is_empty() {
        None
    } else if lost.len() == arms {
        let message = format!("nobody can serve it now: {which} can be used in any zone");
        Some(Check::fail(GROUP, name.to_string(), message, hint))
    } else {
        let message = format!("{which} can be used in any zone; the other arms take its share");
        Some(Check::warn(GROUP, name.to_string(), message, hint))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use causeway_routing::{
        snapshot::{Health, Instance},
        testbed,
    };

    use causeway_telemetry::Status;

    use super::*;
    use crate::admin::view;

    fn told(services: &str, tags: &[(&str, &str)], before: Check) -> Check {
        let address = "10.0.0.1:80".parse().unwrap();
        told_of(services, vec![testbed::instance("a", address, 1, tags)], before)
    }

    fn told_of(services: &str, instances: Vec<Arc<Instance>>, before: Check) -> Check {
        let topology = testbed::topology("  east: {}\n  west: {}", services);
        let snapshot = testbed::snapshot("east", &topology, instances, Vec::new(), &[]);
        let mut views = Vec::new();
        view::services(&snapshot, &Default::default(), Duration::ZERO, |view| {
            views.push(view.clone())
        });
        let mut checks = [before];
        tell_of_arms(&snapshot, &views, &mut checks);
        let [check] = checks;
        check
    }

    #[test]
    fn a_service_in_panic_is_served_and_warned_of() {
        let of = |health, weight| {
            let address = "10.0.0.1:80".parse().unwrap();
            let tags: &[(&str, &str)] = if weight == 0 {
                &[("v", "v2")]
            } else {
                &[("v", "v1")]
            };
            let one = testbed::instance(&format!("i{weight}"), address, 1, tags);
            Arc::new(Instance {
                health,
                ..Arc::into_inner(one).unwrap()
            })
        };
        let service = |panic| {
            format!(
                "  orders: {{ port: 80, protocol: http, health: {{ http: / }}, panic: {panic}, \
                 split: [{{ tags: {{ v: v1 }}, weight: 100 }}, {{ tags: {{ v: v2 }}, weight: 0 }}] }}"
            )
        };
        let failed = || Check::fail(GROUP, "orders", "none of 1 instances here is healthy", "look");
        let ill = || vec![of(Health::Unhealthy, 1)];
        let check = told_of(&service(true), ill(), failed());
        assert_eq!(check.status, Status::Warn, "{check:?}");
        assert!(
            check
                .message
                .starts_with("in panic: 0 of 1 instances are healthy"),
            "{check:?}"
        );
        assert_eq!(told_of(&service(false), ill(), failed()), failed());
        // One of an arm that nobody uses is well.
        let mixed = || vec![of(Health::Healthy, 0), of(Health::Unhealthy, 1)];
        let well = || Check::ok(GROUP, "orders", "1 healthy here");
        let check = told_of(&service(true), mixed(), well());
        assert!(
            check
                .message
                .starts_with("in panic: 1 of 2 instances are healthy"),
            "{check:?}"
        );
        assert_eq!(told_of(&service(false), mixed(), well()).status, Status::Fail);
    }

    #[test]
    fn a_service_whose_arms_have_no_home_is_not_well_because_of_other_instances() {
        let well = || Check::ok(GROUP, "orders", "1 healthy here");
        let split = |first: u32, second: u32| {
            format!(
                "  orders: {{ port: 80, split: [{{ tags: {{ v: v1 }}, weight: {first} }}, {{ tags: {{ v: v2 }}, weight: {second} }}] }}"
            )
        };
        let check = told(&split(0, 100), &[("v", "v1")], well());
        assert_eq!(check.status, Status::Fail, "{check:?}");
        assert!(check.message.contains("{v=v2}") && check.hint.unwrap().contains("causeway explain orders"));
        let milder = Check::warn(GROUP, "orders", "1 of 2 instances here are healthy", "look");
        assert_eq!(told(&split(0, 100), &[("v", "v1")], milder).status, Status::Fail);
        let check = told(&split(50, 50), &[("v", "v1")], well());
        assert_eq!(check.status, Status::Warn, "{check:?}");
        assert!(check.message.contains("the other arms take its share"));
        assert_eq!(told(&split(100, 0), &[("v", "v1")], well()), well());
        assert_eq!(told("  orders: { port: 80 }", &[], well()), well());
        let elsewhere = "  orders: { port: 80, failover: [{ zone: west }] }";
        let check = told(elsewhere, &[], well());
        assert_eq!(
            check.message,
            "nobody can serve it now: no instance can be used in any zone"
        );
        let never = Check::warn(GROUP, "cart", "no instance anywhere", "register one");
        let cart = format!("{}\n  cart: {{ port: 81 }}", split(100, 0));
        assert_eq!(told(&cart, &[("v", "v1")], never.clone()), never);
        let worse = Check::fail(GROUP, "orders", "no instance anywhere", "register one");
        assert_eq!(told(&split(0, 100), &[("v", "v1")], worse.clone()), worse);
    }
}
