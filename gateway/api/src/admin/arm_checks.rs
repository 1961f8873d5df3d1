//! Findings about arms of splits that no zone can serve now, although instances with other tags are well.

use std::collections::{BTreeMap, BTreeSet};

use causeway_federation::name::{ServiceName, Tags};
use causeway_routing::{route::standing, snapshot::Snapshot};
use causeway_telemetry::{Check, Status};

use super::view::ServiceView;

/// Group of the findings that are about services.
const GROUP: &str = "services";

/// Looks at the arms of each service from this zone, as `route` does, and puts what it finds in the place of milder findings. Of services without
/// any healthy instance that can be reached enough is said elsewhere.
pub(super) fn tell_of_arms(snapshot: &Snapshot, services: &[ServiceView], checks: &mut [Check]) {
    let is_somewhere = |service: &ServiceView| {
        service.local.healthy > 0 || service.zones.iter().any(|zone| zone.usable && zone.healthy > 0)
    };
    let somewhere: BTreeSet<&str> = services
        .iter()
        .filter(|service| is_somewhere(service))
        .map(|service| service.name.as_str())
        .collect();
    for (name, worse) in homeless(snapshot, &somewhere) {
        let milder = |check: &&mut Check| {
            let is_milder = match check.status {
                Status::Ok => true,
                Status::Warn => worse.status == Status::Fail,
                Status::Fail => false,
            };
            check.group == GROUP && check.name == name && is_milder
        };
        if let Some(check) = checks.iter_mut().find(milder) {
            *check = worse;
        }
    }
}

/// Findings about services of these names.
fn homeless<'s>(snapshot: &'s Snapshot, names: &BTreeSet<&str>) -> BTreeMap<&'s str, Check> {
    let services = snapshot.topology.services.iter();
    services
        .filter(|(name, _)| names.contains(name.as_str()))
        .filter_map(|(name, service)| {
            let arms: Vec<_> = snapshot
                .split_of(name, service)
                .iter()
                .filter(|arm| arm.weight > 0)
                .collect();
            let lost = arms.iter().filter(|arm| {
                standing(snapshot, name, &arm.tags).is_some_and(|stands| stands.tier.is_none())
            });
            let lost: Vec<&Tags> = lost.map(|arm| &arm.tags).collect();
            Some((name.as_str(), finding(name, &lost, arms.len())?))
        })
        .collect()
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
    use std::time::Duration;

    use causeway_routing::testbed;

    use super::*;
    use crate::admin::view;

    fn told(services: &str, tags: &[(&str, &str)], before: Check) -> Check {
        let topology = testbed::topology("  east: {}\n  west: {}", services);
        let address = "10.0.0.1:80".parse().unwrap();
        let one = testbed::instance("a", address, 1, tags);
        let snapshot = testbed::snapshot("east", &topology, vec![one], Vec::new(), &[]);
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
