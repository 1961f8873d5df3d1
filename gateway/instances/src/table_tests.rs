//! Whatever happens in whatever order, what is published is what the registry, the topology and the checks say.

use std::{net::SocketAddr, time::Duration};

use causeway_federation::topology::parse;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;

fn service(n: u8) -> ServiceName {
    ServiceName::new(["orders", "users", "extra"][usize::from(n % 3)]).unwrap()
}

fn registration(n: u8, seconds: u64) -> Registration {
    Registration {
        service: service(n),
        id: SocketAddr::from(([10, 0, 0, 1], 80 + u16::from(n / 3 % 3))).to_string(),
        // Now and then the same id is at another address.
        address: SocketAddr::from(([10, 0, 0, 1 + n / 128], 80)),
        tags: Default::default(),
        weight: 1,
        capacity_per_second: None,
        time_to_live: (seconds > 0).then(|| Duration::from_secs(seconds)),
        provenance: causeway_federation::registry::Provenance::ThisHost,
    }
}

/// `extra` is never declared; the others are checked or not, and have a fixed instance or not.
fn topology(n: u8) -> Topology {
    let check = |bit: u8| {
        let kinds = [
            "",
            ", health: { tcp: true }",
            "",
            ", health: { http: /healthz, every: 1s, timeout: 500ms }",
        ];
        kinds[usize::from(n >> bit & 3)]
    };
    let fixed = match n >> 4 & 1 {
        0 => "",
        _ => "    instances: [{ service: orders, address: \"10.0.0.1:81\" }]\n",
    };
    let text = format!(
        "version: 1\ntrust_domain: acme.internal\nzones:\n  east:\n    gateways: []\n{fixed}services:\n  orders: {{ port: 80{} }}\n  users: {{ port: 81{} }}\n",
        check(0),
        check(2)
    );
    parse(&text, "test.yaml").unwrap().topology
}

fn assert_consistent(table: &mut Table) {
    let published = table.publish(Duration::ZERO);
    let listed: Vec<_> = published.values().flat_map(|list| list.iter()).collect();
    let entries: Vec<_> = table.registry.instances().collect();
    assert_eq!(listed.len(), entries.len());
    let mut checked = 0;
    for (instance, entry) in listed.iter().zip(entries) {
        assert_eq!(
            (&instance.service, &instance.id),
            (&entry.registration.service, &entry.registration.id)
        );
        assert_eq!(instance.address, entry.registration.address);
        let key = entry.registration.key();
        let check = table.member(&key).unwrap().check;
        match (table.services.get(&key.service), check) {
            (None, None) => assert_eq!(instance.health, Health::Unknown),
            (Some(None), None) => assert_eq!(instance.health, Health::Healthy),
            (Some(Some(_)), Some(id)) => {
                assert_eq!(instance.health, table.checks.state(id).unwrap().health());
                assert_eq!(table.by_check.get(&id), Some(&key));
                checked += 1;
            }
            (asked, running) => panic!("{key}: {asked:?} but {running:?}"),
        }
    }
    assert_eq!((table.checks.len(), table.by_check.len()), (checked, checked));
    assert!(published.values().all(|list| !list.is_empty()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_published_is_what_is_known(steps in proptest::collection::vec((0u8..7, any::<u8>(), 0u64..20), 1..60)) {
        let mut table = Table::new(ZoneName::new("east").unwrap(), Sharing::alone());
        let (mut now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
        let mut under_way = Vec::new();
        for (action, n, seconds) in steps {
            match action {
                0 | 1 => { table.put(now, &InstanceSource::Registered, registration(n, seconds)).unwrap(); }
                2 => { let _ = table.deregister(now, &registration(n, 0).key()); }
                3 => table.apply_topology(now, &topology(n)),
                4 => { now += Duration::from_secs(seconds); table.expire(now); }
                5 => under_way.extend(table.poll_order(now)),
                _ => if let Some(order) = under_way.pop() {
                    let outcome = if n % 2 == 0 { ProbeResult::Passed } else { ProbeResult::Failed("refused".to_owned()) };
                    table.handle_result(now, &order, outcome, &mut rng);
                },
            }
            assert_consistent(&mut table);
        }
    }
}

#[test]
fn a_change_leaves_the_lists_of_other_services_as_they_were() {
    let mut table = Table::new(ZoneName::new("east").unwrap(), Sharing::alone());
    let now = Instant::now();
    table.apply_topology(now, &topology(0));
    table
        .put(now, &InstanceSource::Registered, registration(0, 0))
        .unwrap();
    table
        .put(now, &InstanceSource::Registered, registration(1, 0))
        .unwrap();
    let before = table.publish(Duration::ZERO);
    assert!(!table.is_dirty());
    table
        .put(now, &InstanceSource::Registered, registration(1, 0))
        .unwrap();
    assert!(!table.is_dirty(), "a renewal publishes nothing");
    table.deregister(now, &registration(1, 0).key()).unwrap();
    let after = table.publish(Duration::ZERO);
    assert!(Arc::ptr_eq(&before[&service(0)][0], &after[&service(0)][0]));
    assert!(!after.contains_key(&service(1)));
}
