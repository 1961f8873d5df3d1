//! Listeners of virtual addresses: taken, removed, drained, cut.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::net::TcpStream;

use super::topology;
use crate::{
    egress::EgressConfig,
    target::Target,
    testbed::{self, Recorder, Zone, until},
};

async fn home() -> (Zone, Recorder) {
    let here = Recorder::start("here").await;
    let home = Zone::start("home", &topology(), vec![here.instance(1, &[])]);
    (home, here)
}

#[tokio::test]
async fn an_address_that_is_taken_is_reported_disturbs_no_other_and_is_bound_once_it_is_free() {
    let (home, _here) = home().await;
    let taken = std::net::TcpListener::bind(testbed::vip()).unwrap();
    let address = taken.local_addr().unwrap();
    home.bindings.send_modify(|bindings| {
        let target = Target::service(testbed::service("orders"));
        Arc::make_mut(bindings).insert(address, target);
    });
    until("the failure is reported", || {
        !home.egress.bind_failures().is_empty()
    })
    .await;
    assert_eq!(home.egress.bind_failures()[0].address, address);
    assert_eq!(home.client().await.greeting().await.unwrap(), "here");
    drop(taken);
    until("the address is bound", || home.egress.bind_failures().is_empty()).await;
    let mut client = testbed::Client(testbed::connect(address).await);
    assert_eq!(client.greeting().await.unwrap(), "here");
}

#[tokio::test]
async fn a_binding_that_is_removed_stops_accepting_and_keeps_what_is_open() {
    let (home, _here) = home().await;
    let mut client = home.client().await;
    client.greeting().await.unwrap();
    home.bindings.send_replace(Arc::new(BTreeMap::new()));
    refused(&home).await;
    client.echo("still there").await;
}

#[tokio::test]
async fn draining_stops_accepting_and_a_cut_resets_and_empties() {
    let (home, _here) = home().await;
    let mut client = home.client().await;
    client.greeting().await.unwrap();
    home.egress.drain();
    refused(&home).await;
    client.echo("still there").await;
    let open = home.egress.open_connections();
    assert!(!open.emptied(Duration::from_millis(20)).await);
    let left = open.list();
    assert_eq!((left.len(), left[0].client), (1, client.0.local_addr().ok()));
    home.egress.cut();
    assert!(open.emptied(Duration::from_secs(5)).await);
    let error = client.rest().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_cut_reaches_a_client_that_still_waits_for_an_instance() {
    let home = Zone::start("home", &topology(), vec![]);
    let mut client = home.client().await;
    until("the client has been accepted", || {
        home.egress.open_connections().count() == 1
    })
    .await;
    home.egress.cut();
    assert!(client.rest().await.is_err());
}

#[tokio::test]
async fn clients_beyond_the_limit_are_reset() {
    let here = Recorder::start("here").await;
    let config = EgressConfig {
        max_connections: 2,
        ..EgressConfig::new(1)
    };
    let home = Zone::with_config("home", &topology(), vec![here.instance(1, &[])], config);
    let mut first = home.client().await;
    let mut second = home.client().await;
    first.greeting().await.unwrap();
    second.greeting().await.unwrap();
    assert!(home.client().await.greeting().await.is_err());
    drop(first);
    until("there is room again", || {
        home.egress.open_connections().count() == 1
    })
    .await;
    assert_eq!(home.client().await.greeting().await.unwrap(), "here");
}

async fn refused(home: &Zone) {
    let wait = async {
        while let Ok(socket) = TcpStream::connect(home.vip).await {
            drop(socket);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), wait)
        .await
        .expect("the address is refused");
}
