//! The decision, as a table and as invariants.

use std::sync::Arc;

use causeway_federation::topology::{Topology, parse};
use proptest::prelude::*;

use super::*;
use crate::testbed::{service, tags, zone};

fn topology(permissions: &str, orders: &str) -> Arc<Topology> {
    let text = format!(
        "version: 1\ntrust_domain: test.internal\npermissions: {{ {permissions} }}\n\
         zones: {{ east: {{ gateways: [] }}, west: {{ gateways: [] }} }}\n\
         services:\n  orders: {{ port: 80, {orders} }}\n  web: {{ port: 81, run_in: [east] }}\n"
    );
    match parse(&text, "test.yaml") {
        Ok(parsed) => Arc::new(parsed.topology),
        Err(findings) => panic!("{findings:?}\n{text}"),
    }
}

fn caller(text: &str) -> Caller {
    let (name, at) = text.split_once('@').unwrap();
    match name {
        "anonymous" => Caller::anonymous(zone(at)),
        name if name.starts_with("spiffe") => Caller {
            identity: Some(name.parse().unwrap()),
            ..Caller::anonymous(zone(at))
        },
        name => Caller::service(zone(at), service(name), Tags::default()),
    }
}

fn asked(topology: &Topology, text: &str) -> (Permission, String) {
    let verdict = permit(topology, &caller(text), &service("orders"), None);
    (verdict.permission, verdict.rule.to_string())
}

#[test]
fn deny_beats_allow_and_what_is_not_allowed_is_forbidden() {
    use Permission::{Forbidden, Permitted};
    let topology = topology(
        "",
        "allow: [web, batch@east, anonymous@east, 'spiffe://test.internal/app/*'], deny: ['*@west', 'spiffe://test.internal/app/bad']",
    );
    let expected = [
        ("web@east", Permitted, "services.orders.allow[0]"),
        ("web@west", Forbidden, "services.orders.deny[0]"),
        ("batch@east", Permitted, "services.orders.allow[1]"),
        ("other@east", Forbidden, "services.orders.allow"),
        ("anonymous@east", Permitted, "services.orders.allow[2]"),
        ("anonymous@west", Forbidden, "services.orders.deny[0]"),
        (
            "spiffe://test.internal/app/web@east",
            Permitted,
            "services.orders.allow[3]",
        ),
        (
            "spiffe://test.internal/app/bad@east",
            Forbidden,
            "services.orders.deny[1]",
        ),
        (
            "spiffe://test.internal/other@east",
            Forbidden,
            "services.orders.allow",
        ),
    ];
    for (text, permission, rule) in expected {
        assert_eq!(asked(&topology, text), (permission, rule.to_owned()), "{text}");
    }
}

#[test]
fn an_entry_means_only_callers_that_have_all_that_it_names() {
    let topology = topology("", "allow: [{ service: web, zone: east, tags: { env: prod } }]");
    let with = |text: &str, pairs: &[(&str, &str)]| {
        let caller = Caller {
            tags: tags(pairs),
            ..caller(text)
        };
        permit(&topology, &caller, &service("orders"), None).passes()
    };
    assert!(with("web@east", &[("env", "prod"), ("more", "of-it")]));
    assert!(!with("web@east", &[("env", "test")]));
    assert!(!with("web@west", &[("env", "prod")]));
    assert!(!with("batch@east", &[("env", "prod")]));
}

#[test]
fn without_allow_the_default_of_the_federation_decides() {
    use Permission::{DryRun, Forbidden, Permitted};
    let default = "permissions.default".to_owned();
    assert_eq!(asked(&topology("", ""), "web@east"), (Permitted, default.clone()));
    let denying = topology("default: deny", "");
    assert_eq!(asked(&denying, "web@east"), (Forbidden, default.clone()));
    let reporting = topology("default: deny, dry_run: true", "");
    assert_eq!(asked(&reporting, "web@east"), (DryRun, default));
    let nobody = topology("", "allow: []");
    assert_eq!(
        asked(&nobody, "web@east"),
        (Forbidden, "services.orders.allow".to_owned())
    );
}

#[test]
fn a_zone_speaks_only_for_what_may_run_in_it_and_for_identities_of_its_own() {
    let topology = topology("", "");
    let broken = |text: &str| vouch(&topology, &caller(text)).map(|verdict| verdict.rule.to_string());
    assert_eq!(broken("web@east"), None);
    assert_eq!(broken("web@west").as_deref(), Some("services.web.run_in"));
    assert_eq!(broken("undeclared@west"), None);
    assert_eq!(broken("anonymous@west"), None);
    assert_eq!(broken("spiffe://test.internal/app/web@west"), None);
    assert_eq!(broken("spiffe://test.internal/zone/west/web@west"), None);
    assert_eq!(
        broken("spiffe://test.internal/zone/east/web@west").as_deref(),
        Some("identity")
    );
    assert_eq!(
        broken("spiffe://other.internal/app/web@west").as_deref(),
        Some("trust_domain")
    );
}

#[test]
fn a_dry_run_reports_the_stricter_of_both_questions() {
    let topology = topology("dry_run: true", "deny: [batch]");
    let rule = |text: &str| decide(&topology, &caller(text), &service("orders"), None);
    assert_eq!(rule("web@west").rule, Rule::RunIn(service("web")));
    assert_eq!(rule("batch@west").rule, Rule::Deny(service("orders"), 0));
    assert_eq!(rule("web@east").permission, Permission::Permitted);
    assert!(rule("web@west").passes() && rule("batch@west").passes());
}

/// An entry as the file has it, over few names, so that entries and callers often meet.
fn entry() -> impl Strategy<Value = String> {
    let service = prop_oneof![Just("'*'"), Just("anonymous"), Just("web"), Just("batch")];
    let zone = prop_oneof![Just(""), Just(", zone: east"), Just(", zone: west")];
    let tag = prop_oneof![Just(""), Just(", tags: { env: prod }")];
    let identity = prop_oneof![Just(""), Just(", identity: 'spiffe://test.internal/app/*'")];
    (service, zone, tag, identity)
        .prop_map(|(service, zone, tag, identity)| format!("{{ service: {service}{zone}{tag}{identity} }}"))
}

fn any_caller() -> impl Strategy<Value = Caller> {
    let name = prop_oneof![
        Just("anonymous"),
        Just("web"),
        Just("batch"),
        Just("spiffe://test.internal/app/web")
    ];
    let place = prop_oneof![Just("east"), Just("west")];
    (name, place, any::<bool>()).prop_map(|(name, place, prod)| {
        let caller = caller(&format!("{name}@{place}"));
        match prod && caller.service.is_some() {
            true => Caller {
                tags: tags(&[("env", "prod")]),
                ..caller
            },
            false => caller,
        }
    })
}

proptest! {
    #[test]
    fn an_added_deny_never_permits_more_and_an_added_allow_never_fewer(
        allow in prop::collection::vec(entry(), 0..4), deny in prop::collection::vec(entry(), 0..4),
        more in entry(), caller in any_caller(), default in prop_oneof![Just("allow"), Just("deny")],
    ) {
        let passes = |allow: &[String], deny: &[String]| {
            let lists = format!("allow: [{}], deny: [{}]", allow.join(", "), deny.join(", "));
            permit(&topology(&format!("default: {default}"), &lists), &caller, &service("orders"), None).passes()
        };
        let now = passes(&allow, &deny);
        let more = std::slice::from_ref(&more);
        prop_assert!(now || !passes(&allow, &[&deny, more].concat()));
        prop_assert!(!now || passes(&[&allow, more].concat(), &deny));
        // Whoever a deny means is forbidden, whatever else is said.
        prop_assert!(!passes(&["'*'".to_owned()], &[&deny, &["'*'".to_owned()][..]].concat()));
    }

    #[test]
    fn the_order_of_entries_never_changes_who_may_call(
        allow in prop::collection::vec(entry(), 0..4), deny in prop::collection::vec(entry(), 0..4),
        caller in any_caller(),
    ) {
        let passes = |allow: &[String], deny: &[String]| {
            let lists = format!("allow: [{}], deny: [{}]", allow.join(", "), deny.join(", "));
            permit(&topology("", &lists), &caller, &service("orders"), None).passes()
        };
        let backwards = |list: &[String]| list.iter().rev().cloned().collect::<Vec<_>>();
        prop_assert_eq!(passes(&allow, &deny), passes(&backwards(&allow), &backwards(&deny)));
    }

    #[test]
    fn a_dry_run_lets_through_exactly_what_it_reports_and_what_is_permitted(
        allow in prop::collection::vec(entry(), 0..4), deny in prop::collection::vec(entry(), 0..4),
        caller in any_caller(),
    ) {
        let lists = format!("allow: [{}], deny: [{}]", allow.join(", "), deny.join(", "));
        let asked = |mode: &str| decide(&topology(mode, &lists), &caller, &service("orders"), None);
        let (real, dry) = (asked(""), asked("dry_run: true"));
        prop_assert!(dry.passes());
        prop_assert_eq!(real.passes(), dry.permission == Permission::Permitted);
    }
}

#[test]
fn an_entry_with_methods_or_a_path_is_about_those_requests_alone() {
    use Permission::{Forbidden, Permitted};
    let text = "protocol: http, allow: [{ service: web, methods: [GET, HEAD], path_prefix: /api }, \
        { service: batch, path_regex: '^/v[0-9]+/jobs$' }, { service: jobs, grpc: { service: acme.Jobs, method: Run } }, admin], \
        deny: [{ service: '*', methods: [DELETE] }, { service: web, path: /api/secret }]";
    let topology = topology("", text);
    let of = |who: &str, method: &str, path: &str| {
        let orders = &topology.services[&service("orders")];
        let line = RequestLine::read(orders, method, path).unwrap();
        assert!(line.is_some());
        let verdict = permit(&topology, &caller(who), &service("orders"), line.as_ref());
        (verdict.permission, verdict.rule.to_string())
    };
    let (denied, allowed) = (
        |index: usize| (Forbidden, format!("services.orders.deny[{index}]")),
        |index: usize| (Permitted, format!("services.orders.allow[{index}]")),
    );
    let not_allowed = (Forbidden, "services.orders.allow".to_owned());
    for (who, method, path, expected) in [
        ("web@east", "GET", "/api", allowed(0)),
        ("web@east", "HEAD", "/api/orders", allowed(0)),
        ("web@east", "GET", "//a%70i;x/orders", allowed(0)),
        ("web@east", "GET", "/apis", not_allowed.clone()),
        ("web@east", "get", "/api", not_allowed.clone()),
        ("web@east", "POST", "/api", not_allowed.clone()),
        ("web@east", "DELETE", "/api", denied(0)),
        ("web@east", "GET", "/api/secret", denied(1)),
        ("web@east", "GET", "/api/%73ecret;v=1", denied(1)),
        ("web@east", "GET", "/api/secret/x", allowed(0)),
        ("batch@east", "POST", "/v12/jobs", allowed(1)),
        ("batch@east", "POST", "/v12/jobs/3", not_allowed.clone()),
        ("jobs@east", "POST", "/acme.Jobs/Run", allowed(2)),
        ("jobs@east", "POST", "/acme.Jobs/Stop", not_allowed.clone()),
        ("admin@west", "PUT", "/anything", allowed(3)),
        ("admin@west", "DELETE", "/anything", denied(0)),
        ("anonymous@east", "GET", "/api", not_allowed),
    ] {
        assert_eq!(of(who, method, path), expected, "{who} {method} {path}");
    }
    let orders = &topology.services[&service("orders")];
    assert!(RequestLine::read(orders, "GET", "/api/../x").is_err());
}

#[test]
fn a_connection_is_permitted_if_one_of_its_requests_may_be() {
    let topology = topology(
        "",
        "protocol: http, allow: [{ service: web, methods: [GET] }, admin], deny: [{ service: admin, path: /x }, { service: web, zone: west }]",
    );
    assert_eq!(
        asked(&topology, "web@east"),
        (Permission::Permitted, "services.orders.allow[0]".to_owned())
    );
    assert_eq!(
        asked(&topology, "admin@east"),
        (Permission::Permitted, "services.orders.allow[1]".to_owned())
    );
    assert_eq!(
        asked(&topology, "web@west"),
        (Permission::Forbidden, "services.orders.deny[1]".to_owned())
    );
    assert_eq!(
        asked(&topology, "other@east"),
        (Permission::Forbidden, "services.orders.allow".to_owned())
    );
    let judged = |text: &str| judged_by(&topology, &caller(text), &service("orders")).is_some();
    assert!(judged("web@east") && judged("admin@east"));
    assert!(!judged("other@east") && !judged("anonymous@east"));
}

#[test]
fn requests_are_looked_at_only_where_an_entry_asks_for_them() {
    let line = |orders: &str, path| {
        let topology = topology("", orders);
        RequestLine::read(&topology.services[&service("orders")], "GET", path).map(|line| line.is_some())
    };
    assert_eq!(line("protocol: http, allow: [web]", "/../x"), Ok(false));
    assert_eq!(
        line(
            "protocol: http, deny: [{ service: '*', methods: [PUT] }]",
            "/../x"
        ),
        Ok(true),
        "no entry asks for a path"
    );
    assert!(line("protocol: http, allow: [{ service: web, path: /x }]", "/../x").is_err());
}
