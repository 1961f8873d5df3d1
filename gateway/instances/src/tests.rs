//! The whole of it: a topology, registrations, real probes on loopback, and what is published.

use std::{collections::BTreeSet, net::SocketAddr};

use causeway_federation::{registry::Provenance, topology::parse};
use causeway_host::tasks::Tasks;
use causeway_routing::snapshot::Health;
use tokio::{net::TcpListener, sync::watch};

use super::*;

mod addresses;
mod drains;

/// Longest that a test waits for what must come; no test waits this long when it passes.
const LIMIT: Duration = Duration::from_secs(30);

/// One gateway's instances, and the topology that they follow.
struct Bench {
    instances: Instances,
    published: watch::Receiver<Published>,
    topology: watch::Sender<Arc<Topology>>,
    listeners: watch::Sender<OwnListeners>,
}

fn topology(instances: &[SocketAddr], services: &str) -> Arc<Topology> {
    let fixed: String = instances
        .iter()
        .map(|address| format!("      - {{ service: orders, address: \"{address}\" }}\n"))
        .collect();
    let fixed = if fixed.is_empty() {
        String::new()
    } else {
        format!("    instances:\n{fixed}")
    };
    with_zone_keys(&fixed, services)
}

/// A topology of zone east with further keys of that zone, each a line.
fn with_zone_keys(keys: &str, services: &str) -> Arc<Topology> {
    let text = format!(
        "version: 1\ntrust_domain: acme.internal\nzones:\n  east:\n    gateways: [\"127.0.0.1:7800\"]\n{keys}services:\n{services}"
    );
    let parsed = parse(&text, "test.yaml").unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    Arc::new(parsed.topology)
}

const UNCHECKED: &str = "  orders: { port: 80 }\n";
const CHECKED: &str =
    "  orders: { port: 80, health: { tcp: true, every: 100ms, timeout: 100ms, fall: 2, rise: 2 } }\n";

fn start_in(data_dir: Option<PathBuf>, topology: Arc<Topology>) -> Result<Bench, InstancesError> {
    let (sender, receiver) = watch::channel(topology);
    let zone = ZoneName::new("east").unwrap();
    let own = BTreeSet::from(["127.0.0.1:7810".parse().unwrap()]);
    let listeners = watch::Sender::new(Arc::new(own));
    let config = InstancesConfig {
        health: Default::default(),
        listeners: listeners.subscribe(),
        zone,
        data_dir,
        shared: None,
        tasks: Tasks::default(),
    };
    let instances = Instances::start(config, receiver, Arc::new(InstanceMetrics::default()))?;
    Ok(Bench {
        published: instances.subscribe(),
        instances,
        topology: sender,
        listeners,
    })
}

fn start(topology: Arc<Topology>) -> Bench {
    start_in(None, topology).unwrap()
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn registration(name: &str, id: &str, address: SocketAddr) -> Registration {
    Registration {
        service: service(name),
        id: id.to_owned(),
        address,
        tags: Default::default(),
        weight: 1,
        capacity_per_second: None,
        time_to_live: None,
        provenance: Provenance::ThisHost,
    }
}

/// An address that is never dialled in a test.
fn some_address(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], n))
}

impl Bench {
    /// The instances of `orders`, once they are as `wanted`.
    async fn orders(&self, wanted: impl Fn(&[Arc<Instance>]) -> bool) -> Vec<Arc<Instance>> {
        let orders = service("orders");
        let mut changes = self.published.clone();
        let of = |published: &Published| published.get(&orders).map_or_else(Vec::new, |list| list.to_vec());
        let reached = changes.wait_for(|published| wanted(&of(published)));
        let reached = tokio::time::timeout(LIMIT, reached).await;
        let Ok(reached) = reached else {
            panic!("still {:?}", of(&self.published.borrow()));
        };
        of(&reached.unwrap())
    }

    async fn health(&self, id: &str, health: Health) -> Arc<Instance> {
        let is = |i: &Arc<Instance>| i.id == id && i.health == health;
        let orders = self.orders(|orders| orders.iter().any(is)).await;
        orders.into_iter().find(is).unwrap()
    }
}

#[tokio::test]
async fn what_is_fixed_or_stored_is_published_before_anything_happens() {
    let bench = start(topology(&[some_address(1), some_address(2)], UNCHECKED));
    let published = Arc::clone(&bench.published.borrow());
    let orders = &published[&service("orders")];
    let seen: Vec<_> = orders.iter().map(|i| (i.id.as_str(), i.health)).collect();
    assert_eq!(
        seen,
        [("10.0.0.1:1", Health::Healthy), ("10.0.0.1:2", Health::Healthy)]
    );
}

#[tokio::test]
async fn a_registration_comes_and_goes() {
    let bench = start(topology(&[], UNCHECKED));
    let accepted = bench
        .instances
        .register(registration("orders", "a", some_address(1)))
        .await;
    let expected = AcceptedRegistration {
        standing: RegistrationStanding::InForce,
        durability: Durability::NoStore,
    };
    assert_eq!(accepted, Ok(expected));
    bench.health("a", Health::Healthy).await;
    bench.instances.renew(&service("orders"), "a").await.unwrap();
    bench.instances.deregister(&service("orders"), "a").await.unwrap();
    bench.orders(<[_]>::is_empty).await;
    let again = bench.instances.renew(&service("orders"), "a").await;
    assert!(matches!(again, Err(RegistryError::NotFound(_))));
}

#[tokio::test]
async fn a_refused_registration_changes_nothing_and_does_not_stop_the_others() {
    let bench = start(topology(&[], UNCHECKED));
    let good = registration("orders", "a", some_address(1));
    let mut bad = good.clone();
    bad.id = String::new();
    let all = bench.instances.register_all(vec![bad, good]).await.unwrap();
    assert_eq!(
        all.each,
        [Err(RegistryError::EmptyId), Ok(RegistrationStanding::InForce)]
    );
    assert_eq!(bench.orders(|o| !o.is_empty()).await.len(), 1);
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends() {
    let bench = start(topology(&[], UNCHECKED));
    for id in ["short", "renewed"] {
        let mut leased = registration("orders", id, some_address(1));
        leased.time_to_live = Some(Duration::from_secs(1));
        bench.instances.register(leased).await.unwrap();
    }
    let instances = bench.instances.clone();
    let renewing = tokio::spawn(async move {
        loop {
            let _ = instances.renew(&service("orders"), "renewed").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    bench.orders(|o| o.len() == 2).await;
    let left = bench.orders(|o| o.len() == 1).await;
    assert_eq!(left[0].id, "renewed");
    renewing.abort();
    bench.orders(<[_]>::is_empty).await;
}

#[tokio::test]
async fn an_undeclared_service_gets_no_traffic_until_the_topology_declares_it() {
    let bench = start(topology(&[], "  other: { port: 81 }\n"));
    let accepted = bench
        .instances
        .register(registration("orders", "a", some_address(1)))
        .await;
    assert_eq!(accepted.unwrap().standing, RegistrationStanding::Undeclared);
    bench.health("a", Health::Unknown).await;
    let status = bench.instances.status(Some(&service("orders"))).await.unwrap();
    assert!(!status[0].declared);
    bench.topology.send_replace(topology(&[], UNCHECKED));
    bench.health("a", Health::Healthy).await;
}

#[tokio::test]
async fn health_follows_real_probes_and_load_outlives_every_change() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let id = address.to_string();
    let bench = start(topology(&[address], CHECKED));
    let first = bench.health(&id, Health::Healthy).await;
    first
        .load
        .outstanding
        .store(3, std::sync::atomic::Ordering::Relaxed);
    drop(listener);
    let fallen = bench.health(&id, Health::Unhealthy).await;
    assert!(Arc::ptr_eq(&first.load, &fallen.load));
    let failure = bench
        .instances
        .last_failure(&service("orders"), &id)
        .await
        .unwrap();
    assert!(failure.reason.contains("refused"), "{failure:?}");
    // The data path was refused meanwhile, at a time far ahead so that it does not fade by itself.
    let refused_at = std::time::Duration::from_secs(1_000_000);
    fallen.load.refused(refused_at);
    assert!(fallen.load.is_resting(refused_at));
    let _listener = TcpListener::bind(address).await.unwrap();
    let risen = bench.health(&id, Health::Healthy).await;
    assert!(
        !risen.load.is_resting(refused_at),
        "forgotten on becoming healthy"
    );
    assert_eq!(
        risen.load.outstanding.load(std::sync::atomic::Ordering::Relaxed),
        3
    );
    let status = bench.instances.status(None).await.unwrap();
    assert!(status[0].checked && status[0].last_failure.is_some());
}

#[tokio::test]
async fn an_instance_that_never_answered_is_unhealthy_after_one_check() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let slow = "  orders: { port: 80, health: { tcp: true, every: 1h, timeout: 1s, fall: 5, rise: 5 } }\n";
    let bench = start(topology(&[], slow));
    let registered = bench
        .instances
        .register(registration("orders", "a", address))
        .await;
    registered.unwrap();
    bench.health("a", Health::Unhealthy).await;
}

#[tokio::test]
async fn a_connect_failure_seen_by_the_data_path_is_checked_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let id = address.to_string();
    // The check of its own accord comes within the hour.
    let slow = "  orders: { port: 80, health: { tcp: true, every: 1h, timeout: 1s, fall: 1, rise: 1 } }\n";
    let bench = start(topology(&[address], slow));
    bench.health(&id, Health::Healthy).await;
    drop(listener);
    bench.instances.connect_failures().report(&service("orders"), &id);
    bench.health(&id, Health::Unhealthy).await;
}

#[tokio::test]
async fn a_topology_change_adds_removes_and_alters_instances() {
    let bench = start(topology(&[some_address(1), some_address(2)], UNCHECKED));
    bench
        .instances
        .register(registration("orders", "a", some_address(9)))
        .await
        .unwrap();
    let before = bench.orders(|o| o.len() == 3).await;
    bench
        .topology
        .send_replace(topology(&[some_address(2), some_address(3)], UNCHECKED));
    let changed = |o: &[Arc<Instance>]| o.iter().any(|i| i.address == some_address(3));
    let after = bench.orders(changed).await;
    let ids: Vec<_> = after.iter().map(|i| i.id.as_str()).collect();
    assert_eq!(ids, ["10.0.0.1:2", "10.0.0.1:3", "a"]);
    assert!(Arc::ptr_eq(&before[1].load, &after[0].load));
}

#[tokio::test]
async fn a_topology_change_that_alters_the_check_is_in_force_at_once() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let id = address.to_string();
    let bench = start(topology(&[address], UNCHECKED));
    bench.health(&id, Health::Healthy).await;
    bench.topology.send_replace(topology(&[address], CHECKED));
    bench.health(&id, Health::Unhealthy).await;
    bench.topology.send_replace(topology(&[address], UNCHECKED));
    bench.health(&id, Health::Healthy).await;
}

#[tokio::test]
async fn another_address_under_the_same_id_is_another_instance() {
    let bench = start(topology(&[], UNCHECKED));
    let registered = registration("orders", "a", some_address(1));
    bench.instances.register(registered.clone()).await.unwrap();
    let first = bench.health("a", Health::Healthy).await;
    let mut heavier = registered.clone();
    heavier.weight = 7;
    bench.instances.register(heavier).await.unwrap();
    let second = bench.orders(|o| o[0].weight == 7).await.remove(0);
    assert!(Arc::ptr_eq(&first.load, &second.load));
    bench
        .instances
        .register(registration("orders", "a", some_address(2)))
        .await
        .unwrap();
    let third = bench.orders(|o| o[0].address == some_address(2)).await.remove(0);
    assert!(!Arc::ptr_eq(&first.load, &third.load));
}

#[tokio::test]
async fn registrations_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = || Some(folder.path().to_owned());
    let bench = start_in(data(), topology(&[], UNCHECKED)).unwrap();
    for id in ["a", "b"] {
        let accepted = bench
            .instances
            .register(registration("orders", id, some_address(1)))
            .await;
        assert_eq!(accepted.unwrap().durability, Durability::Durable);
    }
    let gone = bench.instances.deregister(&service("orders"), "b").await;
    assert_eq!(gone, Ok(Durability::Durable));
    bench.instances.shutdown().await;
    let stopped = bench.instances.renew(&service("orders"), "a").await;
    assert_eq!(stopped, Err(RegistryError::Stopped));

    let again = start_in(data(), topology(&[], UNCHECKED)).unwrap();
    let ids: Vec<_> = again.published.borrow()[&service("orders")]
        .iter()
        .map(|i| i.id.clone())
        .collect();
    assert_eq!(ids, ["a"]);
}

#[tokio::test]
async fn two_gateways_cannot_share_one_registry_file() {
    let folder = tempfile::tempdir().unwrap();
    let data = || Some(folder.path().to_owned());
    let _first = start_in(data(), topology(&[], UNCHECKED)).unwrap();
    let second = start_in(data(), topology(&[], UNCHECKED));
    assert!(matches!(second, Err(InstancesError::Store { .. })));
}

#[tokio::test]
async fn services_that_did_not_change_keep_their_instances() {
    let both = "  orders: { port: 80 }\n  other: { port: 81 }\n";
    let bench = start(topology(&[some_address(1)], both));
    let before = bench.orders(|o| o.len() == 1).await.remove(0);
    bench
        .instances
        .register(registration("other", "x", some_address(3)))
        .await
        .unwrap();
    let mut changes = bench.published.clone();
    let added = changes.wait_for(|p| p.contains_key(&service("other")));
    let after = Arc::clone(&*added.await.unwrap());
    assert!(Arc::ptr_eq(&before, &after[&service("orders")][0]));
}

#[tokio::test]
async fn a_named_source_hands_over_all_it_knows_and_it_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = || Some(folder.path().to_owned());
    let bench = start_in(data(), topology(&[], UNCHECKED)).unwrap();
    let consul = InstanceSource::named("consul").unwrap();
    let mine = registration("orders", "mine", some_address(1));
    bench.instances.register(mine).await.unwrap();
    // More than the task takes in at one go.
    let known = |from: u16, to: u16| {
        let each = (from..to).map(|n| registration("orders", &n.to_string(), some_address(n)));
        each.collect::<Vec<_>>()
    };
    let done = bench.instances.replace(consul.clone(), known(1, 2501)).await;
    let (replaced, durability) = done.unwrap();
    assert_eq!((replaced.added, durability), (2500, Durability::Durable));
    bench.orders(|orders| orders.len() == 2501).await;
    let (replaced, _) = bench.instances.replace(consul, known(2001, 2601)).await.unwrap();
    assert_eq!((replaced.added, replaced.removed), (100, 2000));
    bench.orders(|orders| orders.len() == 601).await;
    let refused = bench.instances.deregister(&service("orders"), "2001").await;
    assert!(
        matches!(refused, Err(RegistryError::HeldBy { .. })),
        "{refused:?}"
    );
    bench.instances.shutdown().await;

    let again = start_in(data(), topology(&[], UNCHECKED)).unwrap();
    let orders = again.orders(|orders| orders.len() == 601).await;
    let from = |source: &str| orders.iter().filter(|i| i.source.as_str() == source).count();
    assert_eq!((from("consul"), from("registered")), (600, 1));
}

#[tokio::test]
async fn what_comes_again_by_itself_is_not_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = || Some(folder.path().to_owned());
    let bench = start_in(data(), topology(&[], UNCHECKED)).unwrap();
    let from_dns = vec![registration("orders", "a", some_address(1))];
    bench
        .instances
        .replace(InstanceSource::Dns, from_dns)
        .await
        .unwrap();
    bench.orders(|orders| orders.len() == 1).await;
    bench.instances.shutdown().await;
    let again = start_in(data(), topology(&[], UNCHECKED)).unwrap();
    assert!(again.published.borrow().is_empty());
}
