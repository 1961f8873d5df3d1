//! Tests of which instances a connection is tried with.

use std::{collections::BTreeSet, net::SocketAddr};

use rand::SeedableRng as _;

use super::*;
use crate::testbed::{self, Recorder};

/// Nobody who checks instances.
#[derive(Debug)]
struct Nobody;

impl ConnectFailures for Nobody {
    fn report(&self, _: &ServiceName, _: &str) {}
}

#[tokio::test]
async fn instances_where_none_may_be_take_no_try_from_one_that_can_be_connected_to() {
    let topology = testbed::topology("  east: {}", "  orders: { port: 8080, protocol: tcp }");
    let there = Recorder::start("there").await;
    let mut listeners = BTreeSet::new();
    let mut instances = vec![there.instance(1, &[])];
    for port in 1..=10 {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        listeners.insert(address);
        // Drawn before the good one, nearly always.
        let name = format!("forbidden-{port:02}");
        instances.push(testbed::instance(&name, address, 100, &[]));
    }
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    let mut snapshot = testbed::snapshot("east", &topology, instances, vec![], &[]);
    snapshot.listeners = Arc::new(listeners);
    let (service, tags) = (testbed::service("orders"), Tags::default());
    let passage = Passage {
        own: OwnSockets::default(),
        hops: 1,
        descriptors: Descriptors::default(),
    };
    for seed in 0..20 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let metrics = ProxyMetrics::default();
        let dialled = dial(&snapshot, &service, &tags, &metrics, &Nobody, &passage, &mut rng);
        assert_eq!(dialled.await.unwrap().instance.id, "there", "seed {seed}");
    }
}
