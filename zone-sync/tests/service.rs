//! Zone sync over real gRPC: two and more nodes in one process, joined by in-memory byte streams.

use std::{sync::Arc, time::Duration};

use causeway_zone_sync::{
    catalog::{Age, Catalog, Export},
    name::{GatewayId, GatewayName, ServiceName, ZoneName},
    replica::Ages,
    service::{SyncConfig, ZoneSync},
};
use tokio::{sync::watch, time::timeout};

fn gateway(zone: &str) -> GatewayId {
    GatewayId::new(ZoneName::new(zone).unwrap(), GatewayName::new("gw1").unwrap())
}

fn export(service: &str, healthy: u32) -> Export {
    Export {
        service: ServiceName::new(service).unwrap(),
        tags: [("version", "v1")].into_iter().collect(),
        instances: 9,
        healthy,
        weight: u64::from(healthy),
        capacity_per_second: None,
    }
}

async fn node(zone: &str) -> ZoneSync {
    let config = SyncConfig {
        origin: gateway(zone),
        data_dir: None,
        ages: Ages::default(),
    };
    ZoneSync::start(config).await.unwrap().0
}

/// Waits until the catalog is as wanted.
async fn until(catalog: &mut watch::Receiver<Arc<Catalog>>, wanted: impl FnMut(&Arc<Catalog>) -> bool) {
    timeout(Duration::from_secs(20), catalog.wait_for(wanted))
        .await
        .expect("the catalog did not come to hold what was waited for")
        .unwrap();
}

fn healthy(catalog: &Catalog, zone: &str, service: &str) -> Option<u32> {
    let entry = catalog.entry(&gateway(zone))?;
    let export = export(service, 0);
    entry
        .record
        .exports
        .get(&export.service, &export.tags)
        .map(|e| e.healthy)
}

#[tokio::test]
async fn two_nodes_tell_each_other_what_they_export() {
    let (east, west) = (node("east").await, node("west").await);
    east.set_exports(vec![export("orders", 3)]);
    west.set_exports(vec![export("web", 2)]);
    let (a, b) = tokio::io::duplex(64 * 1024);
    let opener = tokio::spawn({
        let east = east.clone();
        async move { east.open_session(gateway("west"), a).await }
    });
    let accepter = tokio::spawn({
        let west = west.clone();
        async move { west.accept_session(gateway("east"), b).await }
    });
    until(&mut west.catalog(), |c| healthy(c, "east", "orders") == Some(3)).await;
    until(&mut east.catalog(), |c| healthy(c, "west", "web") == Some(2)).await;
    east.set_exports(vec![export("orders", 1)]);
    until(&mut west.catalog(), |c| healthy(c, "east", "orders") == Some(1)).await;
    assert_eq!(
        west.catalog().borrow().entry(&gateway("east")).unwrap().age,
        Age::Fresh
    );
    east.shutdown().await;
    opener.await.unwrap().unwrap();
    timeout(Duration::from_secs(5), accepter)
        .await
        .unwrap()
        .unwrap()
        .ok();
}
