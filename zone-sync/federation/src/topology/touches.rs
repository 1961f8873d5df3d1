//! Parts of a federation that a change of its topology touches, so that who may change some of it can be held to that. Pure.
//!
//! A service's block is its own but for what others depend on: the ports, which services share in a zone with one virtual address; `run_in`,
//! by which others believe that a caller is this service; and `criticality`, which compares services with each other. Those are the federation's,
//! like the zones with all that stands in them, and so are the names of the services.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::model::{Service, Topology};
use crate::name::ServiceName;

/// Most places that a refusal names.
const MAX_TOLD: usize = 5;

/// Parts in which two topologies differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TouchedParts {
    /// Services whose own blocks differ.
    pub services: BTreeSet<ServiceName>,
    /// Places of all that differs and is no service's own, such as `zone west` or `run_in of service orders`.
    pub federation: BTreeSet<String>,
}

/// Parts of a topology that somebody may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeableParts {
    Everything,
    /// The blocks of these services, as far as they are the services' own.
    Blocks(BTreeSet<ServiceName>),
}

/// Reason why a change is not for whoever wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeyondRights {
    /// Places that it touches and may not.
    pub touched: Vec<String>,
    /// Services of which it would have been allowed.
    pub services: BTreeSet<ServiceName>,
}

impl fmt::Display for BeyondRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<&str> = self.touched.iter().take(MAX_TOLD).map(String::as_str).collect();
        let more = match self.touched.len().saturating_sub(MAX_TOLD) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let services: Vec<&str> = self.services.iter().map(ServiceName::as_str).collect();
        write!(
            f,
            "this changes {}{more}, and of whoever asks nothing may be changed but {} of {}",
            shown.join(", "),
            if services.len() == 1 {
                "the block"
            } else {
                "the blocks"
            },
            services.join(", "),
        )
    }
}

impl std::error::Error for BeyondRights {}

impl ChangeableParts {
    /// Decides whether so much may be changed.
    ///
    /// # Errors
    /// Names what may not.
    pub fn allow(&self, touched: &TouchedParts) -> Result<(), BeyondRights> {
        let Self::Blocks(services) = self else {
            return Ok(());
        };
        let others = touched.services.difference(services);
        let beyond: Vec<String> = touched
            .federation
            .iter()
            .cloned()
            .chain(others.map(|service| format!("service {service}")))
            .collect();
        match beyond.is_empty() {
            true => Ok(()),
            false => Err(BeyondRights {
                touched: beyond,
                services: services.clone(),
            }),
        }
    }
}

/// Finds the parts in which `after` differs from `before`, by what they mean and not by how they are written.
#[must_use]
pub fn touches(before: &Topology, after: &Topology) -> TouchedParts {
    // Taken apart, so that nobody adds a key without a decision about it.
    let Topology {
        fingerprint: _,
        generation: _,
        trust_domain,
        trust_domains,
        dns,
        tls,
        apply_from,
        permissions,
        promises,
        zones,
        services,
        // Worked out from the services.
        not_in_force: _,
        names_callers: _,
    } = after;
    let mut touched = TouchedParts::default();
    for (place, same) in [
        ("trust_domain", before.trust_domain == *trust_domain),
        ("trust_domains", before.trust_domains == *trust_domains),
        ("dns", before.dns == *dns),
        ("tls", before.tls == *tls),
        ("apply_from", before.apply_from == *apply_from),
        ("permissions", before.permissions == *permissions),
        ("promises", before.promises == *promises),
    ] {
        if !same {
            touched.federation.insert(place.to_owned());
        }
    }
    for zone in differing(&before.zones, zones) {
        touched.federation.insert(format!("zone {zone}"));
    }
    for name in differing(&before.services, services) {
        match (before.services.get(name), services.get(name)) {
            (Some(before), Some(after)) => service(&mut touched, name, before, after),
            // With it go, or come, its ports and all else that is not its own.
            (None, _) => drop(touched.federation.insert(format!("service {name}, which is new"))),
            (_, None) => drop(
                touched
                    .federation
                    .insert(format!("service {name}, which is gone")),
            ),
        }
    }
    touched
}

fn differing<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> BTreeSet<&'a K> {
    let names = before.keys().chain(after.keys());
    names.filter(|name| before.get(name) != after.get(name)).collect()
}

fn service(touched: &mut TouchedParts, name: &ServiceName, before: &Service, after: &Service) {
    let Service {
        ports,
        run_in,
        criticality,
        criticality_from,
        health,
        split,
        shift,
        failover,
        spill,
        failback,
        panic,
        slow_start,
        export_to,
        allow,
        deny,
        timeout,
        retry,
        outlier,
        limits,
        forwarded,
        sticky,
        early,
        idle_timeout,
        connections,
        routes,
        // Worked out from `allow` and `deny`.
        judged: _,
    } = after;
    for (key, same) in [
        ("ports", before.ports == *ports),
        ("run_in", before.run_in == *run_in),
        ("criticality", before.criticality == *criticality),
        ("criticality_from", before.criticality_from == *criticality_from),
    ] {
        if !same {
            touched.federation.insert(format!("{key} of service {name}"));
        }
    }
    let is_same = before.health == *health
        && before.split == *split
        && before.shift == *shift
        && before.failover == *failover
        && before.spill == *spill
        && before.failback == *failback
        && before.panic == *panic
        && before.slow_start == *slow_start
        && before.export_to == *export_to
        && before.allow == *allow
        && before.deny == *deny
        && before.timeout == *timeout
        && before.retry == *retry
        && before.outlier == *outlier
        && before.limits == *limits
        && before.forwarded == *forwarded
        && before.sticky == *sticky
        && before.early == *early
        && before.idle_timeout == *idle_timeout
        && before.connections == *connections
        && before.routes == *routes;
    if is_same {
        return;
    }
    touched.services.insert(name.clone());
    if before.routes != *routes {
        // Which requests are copied, and how many, hangs on all routes before the one that copies them.
        let mirrors = routes.iter().filter_map(|route| route.mirror.as_ref());
        let others = mirrors.filter_map(|mirror| mirror.service.clone());
        touched.services.extend(others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::parse;

    const BASE: &str = "
version: 1
trust_domain: acme.internal
zones:
  east: { gateways: [gw.east:7800], instances: [{ service: orders, address: '10.0.0.1:80', tags: { version: v1 } }] }
  west: { gateways: [gw.west:7800] }
services:
  orders: { port: 80, protocol: http, class: shop, split: [{ tags: { version: v1 }, weight: 95 }], routes: [{ match: { path: /a }, timeout: 1s }] }
  audit: { port: 81, protocol: http }
";

    fn touched(from: &str, to: &str) -> TouchedParts {
        let after = BASE.replace(from, to);
        assert_ne!(after, BASE, "`{from}` is in the text");
        let read = |text: &str| parse(text, "").unwrap_or_else(|e| panic!("{e:?}")).topology;
        touches(&read(BASE), &read(&after))
    }

    fn orders() -> BTreeSet<ServiceName> {
        BTreeSet::from([ServiceName::new("orders").unwrap()])
    }

    #[test]
    fn what_is_a_service_s_own_touches_it_alone() {
        for (from, to) in [
            ("weight: 95", "weight: 5"),
            ("class: shop", "class: shop, allow: ['*@east']"),
            ("class: shop", "class: shop, deny: [audit]"),
            ("class: shop", "class: shop, export_to: [east]"),
            ("class: shop", "class: shop, failover: [{ zone: west }, {}]"),
            (
                "class: shop",
                "class: shop, spill: { healthy_below: 50%, capacity: respect }",
            ),
            ("class: shop", "class: shop, health: { tcp: true, every: 2s }"),
            ("class: shop", "class: shop, limits: { rate: 10/s }"),
            (
                "timeout: 1s",
                "timeout: 2s, mirror: { tags: { version: v1 }, percent: 5 }",
            ),
            ("timeout: 1s", "criticality: critical"),
        ] {
            let expected = TouchedParts {
                services: orders(),
                federation: BTreeSet::new(),
            };
            assert_eq!(touched(from, to), expected, "{to}");
            assert_eq!(ChangeableParts::Blocks(orders()).allow(&expected), Ok(()));
        }
    }

    #[test]
    fn what_others_depend_on_is_the_federation_s() {
        for (from, to, place) in [
            ("port: 80,", "port: 8080,", "ports of service orders"),
            (
                "protocol: http, class",
                "protocol: grpc, class",
                "ports of service orders",
            ),
            ("class: shop", "run_in: [east]", "run_in of service orders"),
            (
                "class: shop",
                "criticality: critical",
                "criticality of service orders",
            ),
            (
                "trust_domain: acme.internal",
                "trust_domain: evil.internal",
                "trust_domain",
            ),
            ("zones:\n", "dns: { domain: lan }\nzones:\n", "dns"),
            ("zones:\n", "tls: { require_post_quantum: true }\nzones:\n", "tls"),
            ("zones:\n", "apply_from: [east]\nzones:\n", "apply_from"),
            (
                "zones:\n",
                "permissions: { default: deny }\nzones:\n",
                "permissions",
            ),
            // An instance of the service itself: the zone's operator says what its gateways connect to.
            ("10.0.0.1:80", "127.0.0.1:22", "zone east"),
            ("[gw.west:7800]", "[gw.west:7800], drain: true", "zone west"),
            (
                "  audit:",
                "  carts: { port: 82 }\n  audit:",
                "service carts, which is new",
            ),
            (
                "  audit: { port: 81, protocol: http }\n",
                "",
                "service audit, which is gone",
            ),
        ] {
            let touched = touched(from, to);
            assert!(touched.federation.contains(place), "{to}: {touched:?}");
            let refused = ChangeableParts::Blocks(orders()).allow(&touched).unwrap_err();
            assert!(refused.to_string().contains(place), "{refused}");
            assert_eq!(ChangeableParts::Everything.allow(&touched), Ok(()));
        }
    }

    #[test]
    fn requests_are_copied_to_another_service_by_who_may_change_that_one_too() {
        let touched = touched("timeout: 1s", "mirror: { service: audit, percent: 5 }");
        let names: Vec<&str> = touched.services.iter().map(ServiceName::as_str).collect();
        assert_eq!(names, ["audit", "orders"]);
        let refused = ChangeableParts::Blocks(orders()).allow(&touched).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "this changes service audit, and of whoever asks nothing may be changed but the block of orders"
        );
    }

    #[test]
    fn how_it_is_written_touches_nothing() {
        let same = touched("class: shop", "class: shop, early: false");
        assert_eq!(same, TouchedParts::default());
        let class = touched("class: shop, ", "");
        assert_eq!(
            class,
            TouchedParts::default(),
            "a key that is only for `defaults`"
        );
    }
}
