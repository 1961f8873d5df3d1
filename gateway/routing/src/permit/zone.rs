//! Callers of one zone as a whole: whether any of them may call a service.

use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::{CallerSelector, DefaultPermission, Topology, Who},
};

use super::Rule;

/// Finds the rule by which nobody in `zone` may call `service`, whoever it is; `None`: somebody may, or permissions are only reported.
#[must_use]
pub fn shuts_out(topology: &Topology, service: &ServiceName, zone: &ZoneName) -> Option<Rule> {
    if topology.permissions.dry_run {
        return None;
    }
    let known = topology.services.get(service)?;
    let denied = known
        .deny
        .iter()
        .position(|entry| !entry.is_of_requests() && means_all(&entry.callers, zone));
    if let Some(index) = denied {
        return Some(Rule::Deny(service.clone(), index));
    }
    match &known.allow {
        Some(allow) => {
            let mut allow = allow.iter();
            let admits = allow.any(|entry| means_some(topology, &entry.callers, zone));
            (!admits).then(|| Rule::NotAllowed(service.clone()))
        }
        None => (topology.permissions.default == DefaultPermission::Deny).then_some(Rule::Default),
    }
}

/// Tells whether every caller of a zone is meant.
fn means_all(callers: &CallerSelector, zone: &ZoneName) -> bool {
    callers.who == Who::Anyone
        && callers.zone.as_ref().is_none_or(|named| named == zone)
        && callers.tags.is_empty()
        && callers.identity.is_none()
}

/// Tells whether there can be a caller in a zone that is meant.
fn means_some(topology: &Topology, callers: &CallerSelector, zone: &ZoneName) -> bool {
    let may_run = match &callers.who {
        Who::Service(caller) => topology.may_run(caller, zone),
        Who::Anyone | Who::Anonymous => true,
    };
    may_run && callers.zone.as_ref().is_none_or(|named| named == zone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::{self, service};

    #[test]
    fn a_zone_is_shut_out_when_no_entry_can_mean_a_caller_of_it() {
        let zones = "  east: {}\n  west: {}";
        let rule = |keys: &str, zone: &str| {
            let services = format!(
                "  orders: {{ port: 80, protocol: http, {keys} }}\n  web: {{ port: 81, run_in: [east] }}"
            );
            let topology = testbed::topology(zones, &services);
            let rule = shuts_out(&topology, &service("orders"), &testbed::zone(zone));
            rule.map(|rule| rule.to_string()).unwrap_or_default()
        };
        assert_eq!(rule("early: false", "west"), "");
        assert_eq!(rule("deny: [web, '*@west']", "west"), "services.orders.deny[1]");
        assert_eq!(rule("deny: ['*@west']", "east"), "");
        assert_eq!(
            rule("allow: [web]", "west"),
            "services.orders.allow",
            "web runs in east alone"
        );
        assert_eq!(rule("allow: [web]", "east"), "");
        assert_eq!(rule("allow: [batch@east]", "west"), "services.orders.allow");
        assert_eq!(
            rule("allow: [batch]", "west"),
            "",
            "who is not declared may run anywhere"
        );
        assert_eq!(
            rule("deny: [{ service: '*', path: /admin }]", "west"),
            "",
            "there are other requests"
        );
    }
}
