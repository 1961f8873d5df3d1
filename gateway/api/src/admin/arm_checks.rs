//! Findings about arms of splits that no zone can serve now, although instances with other tags are well.

use std::collections::BTreeMap;

use causeway_federation::name::ServiceName;
use causeway_routing::{route::standing, snapshot::Snapshot};
use causeway_telemetry::{Check, Status};

/// Group of the findings that are about services.
const GROUP: &str = "services";

/// Looks at the arms of each service from this zone, as `route` does, and puts what it finds in the place of milder findings.
pub(super) fn tell_of_arms(snapshot: &Snapshot, checks: &mut [Check]) {
    let services = snapshot.topology.services.iter();
    let found: BTreeMap<&str, Check> = services
        .filter_map(|(name, service)| {
            let arms: Vec<_> = snapshot
                .split_of(name, service)
                .iter()
                .filter(|arm| arm.weight > 0)
                .collect();
            let lost = arms.iter().filter(|arm| {
                standing(snapshot, name, &arm.tags).is_some_and(|stands| stands.tier.is_none())
            });
            let lost: Vec<String> = lost.map(|arm| arm.tags.to_string()).collect();
            Some((name.as_str(), finding(name, &lost, arms.len())?))
        })
        .collect();
    for check in checks.iter_mut().filter(|check| check.group == GROUP) {
        if let Some(worse) = found.get(check.name.as_str())
            && (check.status == Status::Ok || worse.status == Status::Fail && check.status == Status::Warn)
        {
            *check = worse.clone();
        }
    }
}

/// Finding about a service with so many arms, of which some have no home.
fn finding(name: &ServiceName, lost: &[String], arms: usize) -> Option<Check> {
    let hint = format!(
        "`causeway explain {name}` says for each place why not; instances with other tags get nothing"
    );
    let hint = format!("{hint} unless its `split` says so");
    let lost_tags = lost.join(", ");
    match (lost.len(), arms) {
        (0, _) => None,
        (lost, all) if lost == all => {
            let message =
                format!("nobody can serve it now: no instance of {lost_tags} can be used in any zone");
            Some(Check::fail(GROUP, name.to_string(), message, hint))
        }
        _ => {
            let message =
                format!("no instance of {lost_tags} can be used in any zone; the other arms take its share");
            Some(Check::warn(GROUP, name.to_string(), message, hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_routing::testbed;

    use super::*;

    fn told(services: &str, tags: &[(&str, &str)], before: Check) -> Check {
        let topology = testbed::topology("  east: {}", services);
        let address = "10.0.0.1:80".parse().unwrap();
        let one = testbed::instance("a", address, 1, tags);
        let snapshot = testbed::snapshot("east", &topology, vec![one], Vec::new(), &[]);
        let mut checks = [before];
        tell_of_arms(&snapshot, &mut checks);
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
        let worse = Check::fail(GROUP, "orders", "no instance anywhere", "register one");
        assert_eq!(told(&split(0, 100), &[("v", "v1")], worse.clone()), worse);
    }
}
