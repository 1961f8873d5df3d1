//! Addresses at which nothing is taken for an instance, when it is registered and when it is probed.

use super::*;

#[tokio::test]
async fn a_loopback_address_is_taken_from_elsewhere_only_while_the_topology_allows_it() {
    let (address, public): (SocketAddr, _) = ("127.0.0.1:9000".parse().unwrap(), some_address(1));
    let from = |provenance, id: &str, address| Registration {
        provenance,
        ..registration("orders", id, address)
    };
    let (here, elsewhere) = (Provenance::ThisHost, Provenance::Elsewhere);
    let bench = start(topology(&[], UNCHECKED));
    let refused = bench.instances.register(from(elsewhere, "a", address)).await;
    let error = refused.unwrap_err();
    assert_eq!(error.word(), "forbidden_address");
    assert!(error.to_string().contains("loopback_instances"), "{error}");
    let (replaced, _) = bench
        .instances
        .replace(InstanceSource::Dns, vec![from(elsewhere, "a", address)])
        .await
        .unwrap();
    assert_eq!(replaced.refused.len(), 1);
    for good in [from(elsewhere, "b", public), from(here, "c", address)] {
        bench.instances.register(good).await.unwrap();
    }
    let allowed = with_zone_keys("    loopback_instances: true\n", UNCHECKED);
    bench.topology.send_replace(allowed);
    let accepted = bench.instances.register(from(elsewhere, "a", address)).await;
    accepted.unwrap();
    let kept = bench.orders(|orders| orders.len() == 3).await;
    assert_eq!(kept[0].provenance, elsewhere);
    assert_eq!(kept[2].provenance, here);
}

#[tokio::test]
async fn what_may_not_be_connected_to_is_not_probed_either() {
    let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = instance.local_addr().unwrap();
    // The topology's own instances are not asked when they are taken up.
    let bench = start(topology(&[address], CHECKED));
    bench.health(&address.to_string(), Health::Healthy).await;
    instance.accept().await.unwrap();
    bench.listeners.send_replace(OwnListeners::new([address].into()));
    bench.health(&address.to_string(), Health::Unhealthy).await;
    let (orders, id) = (service("orders"), address.to_string());
    let failure = bench.instances.last_failure(&orders, &id);
    let reason = failure.await.unwrap().reason;
    assert!(
        reason.contains("is where this gateway itself listens"),
        "{reason}"
    );
}

#[tokio::test]
async fn what_would_come_back_to_the_gateway_is_not_taken_for_an_instance() {
    let bench = start(topology(&[], UNCHECKED));
    let service = service("orders");
    let good: SocketAddr = "127.0.0.1:9000".parse().unwrap();
    bench
        .instances
        .register(registration("orders", "a", good))
        .await
        .unwrap();
    let own = bench.listeners.borrow().iter().next().copied().unwrap();
    for address in [
        own,
        "127.64.0.9:80".parse().unwrap(),
        "169.254.169.254:80".parse().unwrap(),
    ] {
        let refused = bench
            .instances
            .register(registration("orders", "a", address))
            .await;
        assert_eq!(refused.unwrap_err().word(), "forbidden_address", "{address}");
    }
    // Nor from a list of everything, in which it leaves what was there.
    let source = InstanceSource::named("consul").unwrap();
    let list = vec![
        registration("orders", "b", good),
        registration("orders", "c", good),
    ];
    bench.instances.replace(source.clone(), list).await.unwrap();
    let list = vec![registration("orders", "b", own)];
    let (replaced, _) = bench.instances.replace(source, list).await.unwrap();
    assert_eq!((replaced.removed, replaced.refused.len()), (1, 1));
    assert_eq!(replaced.refused[0].1.word(), "forbidden_address");
    let held = bench.instances.status(Some(&service)).await.unwrap();
    let held: Vec<_> = held
        .iter()
        .map(|status| (status.instance.id.as_str(), status.instance.address))
        .collect();
    assert_eq!(held, [("a", good), ("b", good)]);
}
