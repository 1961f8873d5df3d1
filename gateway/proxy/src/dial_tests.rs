//! Tests of which instances a connection is tried with.

use std::{collections::BTreeSet, net::SocketAddr};

use arc_swap::ArcSwap;
use causeway_federation::{registry::Provenance, topology::Topology};
use parking_lot::Mutex;
use rand::SeedableRng as _;

use super::*;
use crate::{
    testbed::{self, Recorder},
    warm::WarmConnections,
};

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Reported(Mutex<Vec<(ServiceName, String)>>);

impl ConnectFailures for Reported {
    fn report(&self, service: &ServiceName, id: &str) {
        self.0.lock().push((service.clone(), id.to_owned()));
    }
}

/// Way of a connection that comes to its second gateway.
fn passage() -> Passage {
    Passage {
        own: OwnSockets::default(),
        hops: 2,
        descriptors: Descriptors::default(),
        claim: DescriptorClaim {
            holder: ShareHolder::Named("zone west".into()),
            promised: None,
        },
        besides: Vec::new(),
        key: None,
        avoid: Vec::new(),
        port: None,
        warm: None,
    }
}

fn topology() -> Arc<Topology> {
    testbed::topology("  east: {}", "  orders: { port: 8080, protocol: tcp }")
}

/// Dials an instance of `orders` with these tags.
async fn dial_orders(
    snapshot: &Snapshot,
    tags: &Tags,
    passage: &Passage,
    reported: &Reported,
    seed: u64,
) -> Result<InstanceConnection, DialError> {
    let (service, metrics) = (testbed::service("orders"), ProxyMetrics::default());
    let mut rng = SmallRng::seed_from_u64(seed);
    dial(snapshot, &service, tags, &metrics, reported, passage, &mut rng).await
}

#[tokio::test]
async fn instances_where_none_may_be_take_no_try_from_one_that_can_be_connected_to() {
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
    let mut snapshot = testbed::snapshot("east", &topology(), instances, vec![], &[]);
    snapshot.listeners = Arc::new(listeners);
    let (tags, passage, reported) = (Tags::default(), passage(), Reported::default());
    for seed in 0..20 {
        let dialled = dial_orders(&snapshot, &tags, &passage, &reported, seed).await;
        assert_eq!(dialled.unwrap().instance.id, "there", "seed {seed}");
    }
}

#[tokio::test]
async fn an_instance_that_does_not_accept_is_reported_for_a_check() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let instance = testbed::instance("closed", closed.local_addr().unwrap(), 1, &[]);
    drop(closed);
    let snapshot = testbed::snapshot("east", &topology(), vec![instance], vec![], &[]);
    let reported = Reported::default();
    let dialled = dial_orders(&snapshot, &Tags::default(), &passage(), &reported, 1).await;
    assert!(dialled.is_err());
    let expected = (testbed::service("orders"), "closed".to_owned());
    assert_eq!(*reported.0.lock(), [expected]);
}

#[tokio::test]
async fn a_want_of_descriptors_is_not_held_against_an_instance() {
    let there = Recorder::start("there").await;
    let instance = there.instance(1, &[]);
    let snapshot = testbed::snapshot("east", &topology(), vec![instance], vec![], &[]);
    let (reported, tags) = (Reported::default(), Tags::default());
    let descriptors = Descriptors::limited_to(0);
    let passage = Passage {
        descriptors: descriptors.clone(),
        ..passage()
    };
    let dialled = dial_orders(&snapshot, &tags, &passage, &reported, 1).await;
    assert!(matches!(dialled, Err(DialError::NoDescriptor(NoShare::NoneFree))));
    assert!(reported.0.lock().is_empty() && there.given().is_empty());
    // The balancer takes it as if it had never been asked.
    descriptors.set_limit(1_000_000);
    dial_orders(&snapshot, &tags, &passage, &reported, 1)
        .await
        .unwrap();
}

#[tokio::test]
async fn connections_that_wait_for_a_stream_give_way_when_descriptors_run_out() {
    let there = Recorder::start("there").await;
    let instance = there.instance(1, &[]);
    let snapshot = testbed::snapshot("east", &topology(), vec![instance.clone()], vec![], &[]);
    let warm = WarmConnections::new(Arc::new(ArcSwap::from_pointee(Snapshot::clone(&snapshot))));
    let access = WarmAccess {
        warm: warm.clone(),
        holder: ShareHolder::Named("zone west".into()),
        hops: 2,
        thread: 0,
        takes: false,
    };
    let (reported, tags) = (Reported::default(), Tags::default());
    let first = dial_orders(&snapshot, &tags, &passage(), &reported, 1)
        .await
        .unwrap();
    warm.give_back(
        access.place(&instance, instance.address),
        first.own,
        first.socket,
        first.held,
    );
    assert_eq!(warm.count(), 1);
    let without = Passage {
        descriptors: Descriptors::limited_to(0),
        warm: Some(access),
        ..passage()
    };
    let dialled = dial_orders(&snapshot, &tags, &without, &reported, 1).await;
    assert!(matches!(dialled, Err(DialError::NoDescriptor(NoShare::NoneFree))));
    assert_eq!(warm.count(), 0);
}

#[tokio::test]
async fn an_instance_that_has_failed_a_connection_is_not_given_it_again() {
    let (one, two) = (Recorder::start("one").await, Recorder::start("two").await);
    let instances = vec![one.instance(1, &[]), two.instance(1, &[])];
    let snapshot = testbed::snapshot("east", &topology(), instances.clone(), vec![], &[]);
    let (reported, tags) = (Reported::default(), Tags::default());
    let besides = |failed: &[usize]| Passage {
        key: None,
        besides: failed.iter().map(|place| instances[*place].number()).collect(),
        ..passage()
    };
    for seed in 0..10 {
        let dialled = dial_orders(&snapshot, &tags, &besides(&[0]), &reported, seed).await;
        assert_eq!(dialled.unwrap().instance.id, "two");
    }
    let dialled = dial_orders(&snapshot, &tags, &besides(&[0, 1]), &reported, 1).await;
    assert!(matches!(dialled, Err(DialError::NoInstance { .. })));
}

#[tokio::test]
async fn what_this_gateway_itself_listens_on_is_never_connected_to_as_an_instance() {
    let (own, there) = (Recorder::start("own").await, Recorder::start("there").await);
    let instances = vec![own.instance(1, &[("v", "1")]), there.instance(1, &[("v", "2")])];
    let mut snapshot = testbed::snapshot("east", &topology(), instances, vec![], &[]);
    snapshot.listeners = Arc::new([own.address].into());
    let (reported, first) = (Reported::default(), testbed::tags(&[("v", "1")]));
    let refused = dial_orders(&snapshot, &first, &passage(), &reported, 1).await;
    let refused = refused.unwrap_err();
    let DialError::Connect { source, .. } = refused else {
        panic!("{refused}")
    };
    let expected = format!("{0} is where this gateway itself listens ({0})", own.address);
    assert_eq!(source.to_string(), expected);
    // Another one takes what it may not have.
    for _ in 0..10 {
        let dialled = dial_orders(&snapshot, &Tags::default(), &passage(), &reported, 1).await;
        assert_eq!(dialled.unwrap().instance.id, "there");
    }
    assert!(own.given().is_empty());
}

#[tokio::test]
async fn a_loopback_address_from_elsewhere_is_never_connected_to_unless_the_topology_allows_it() {
    let there = Recorder::start("there").await;
    let mut instance = Arc::into_inner(there.instance(1, &[])).unwrap();
    instance.provenance = Provenance::Elsewhere;
    let instance = Arc::new(instance);
    for allowed in [false, true] {
        let zones = format!("  east: {{ loopback_instances: {allowed} }}");
        let topology = testbed::topology(&zones, "  orders: { port: 80, protocol: tcp }");
        let snapshot = testbed::snapshot("east", &topology, vec![instance.clone()], vec![], &[]);
        let reported = Reported::default();
        let dialled = dial_orders(&snapshot, &Tags::default(), &passage(), &reported, 1).await;
        assert_eq!(dialled.is_ok(), allowed);
    }
}

#[tokio::test]
async fn another_port_of_an_instance_says_nothing_of_the_one_that_it_is_registered_with() {
    let there = Recorder::start("there").await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let instance = there.instance(1, &[]);
    let snapshot = testbed::snapshot("east", &topology(), vec![instance.clone()], vec![], &[]);
    let (reported, tags) = (Reported::default(), Tags::default());
    let elsewhere = Passage {
        port: Some(port),
        ..passage()
    };
    let refused = dial_orders(&snapshot, &tags, &elsewhere, &reported, 1).await;
    assert!(matches!(refused, Err(DialError::Connect { .. })));
    assert!(reported.0.lock().is_empty() && there.given().is_empty());
    assert!(
        !instance.load.is_resting(uptime()),
        "the balancer holds it against the instance"
    );
}

#[tokio::test]
async fn no_port_of_an_instance_is_where_the_gateway_listens() {
    let there = Recorder::start("there").await;
    let admin = Recorder::start("admin").await;
    let mut snapshot = testbed::snapshot("east", &topology(), vec![there.instance(1, &[])], vec![], &[]);
    snapshot.listeners = Arc::new(BTreeSet::from([admin.address]));
    let own = Passage {
        port: Some(admin.address.port()),
        ..passage()
    };
    let refused = dial_orders(&snapshot, &Tags::default(), &own, &Reported::default(), 1).await;
    assert!(refused.is_err() && admin.given().is_empty());
}
