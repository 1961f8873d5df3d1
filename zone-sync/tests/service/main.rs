//! Zone sync over real gRPC: two and more nodes in one process, joined by in-memory byte streams.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail by panicking, in its own functions too"
)]

mod succession;

use std::{path::Path, sync::Arc, time::Duration};

use causeway_federation::{
    catalog::{Age, Catalog, Export},
    edition::{Edition, Fingerprint},
    name::{GatewayId, GatewayName, ServiceName, ZoneName},
    signing::keyed::{KeyedSigner, KeyedVerifier},
};
use causeway_host::tasks::Tasks;
use causeway_proto::sync::{
    Hello, Origin, Refused, SyncMessage, sync_message::Body, zone_sync_client::ZoneSyncClient,
};
use causeway_zone_sync::{
    replica::Ages,
    service::{Disk, RefusingSide, SyncConfig, SyncEvent, SyncSessionError, ZoneSync},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

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

async fn start(zone: &str, folder: Option<&Path>) -> (ZoneSync, mpsc::Receiver<SyncEvent>) {
    let config = SyncConfig {
        origin: gateway(zone),
        data_dir: folder.map(Path::to_owned),
        ages: Ages::default(),
        tasks: Tasks::default(),
        signer: Some(Arc::new(KeyedSigner::new([7; 32], &gateway(zone)))),
        verifier: Arc::new(KeyedVerifier::new([7; 32])),
    };
    ZoneSync::start(config).await.unwrap()
}

async fn node(zone: &str) -> ZoneSync {
    start(zone, None).await.0
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

/// A session between two nodes; both results when it has ended.
fn join(a: (&ZoneSync, &str), b: (&ZoneSync, &str)) -> (Ended, Ended) {
    let (left, right) = tokio::io::duplex(64 * 1024);
    let (from, to) = (a.0.clone(), gateway(b.1));
    let opened = tokio::spawn(async move { from.open_session(to, left).await });
    let (from, to) = (b.0.clone(), gateway(a.1));
    let accepted = tokio::spawn(async move { from.accept_session(to, right).await });
    (opened, accepted)
}

type Ended = JoinHandle<Result<(), SyncSessionError>>;

async fn ended(session: Ended) -> Result<(), SyncSessionError> {
    timeout(Duration::from_secs(20), session)
        .await
        .expect("the session did not end")
        .unwrap()
}

/// A peer of our own making, that can say anything.
async fn liar(io: DuplexStream) -> (mpsc::Sender<SyncMessage>, Result<Streaming<SyncMessage>, Status>) {
    let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake::<_, tonic::body::Body>(TokioIo::new(io))
        .await;
    let (sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let service = tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let (say, said) = mpsc::channel(1);
    let mut client = ZoneSyncClient::with_origin(service, http::Uri::from_static("http://liar"));
    let answers = client.sync(ReceiverStream::new(said)).await;
    (say, answers.map(tonic::Response::into_inner))
}

fn hello(zone: &str) -> SyncMessage {
    SyncMessage {
        body: Some(Body::Hello(Hello {
            protocol: 1,
            origin: Some(Origin {
                zone: zone.to_owned(),
                gateway: "gw1".to_owned(),
            }),
            known: vec![],
            newest_protocol: 0,
        })),
    }
}

async fn first_refusal(events: &mut mpsc::Receiver<SyncEvent>) -> (GatewayId, RefusingSide, &'static str) {
    loop {
        let event = timeout(Duration::from_secs(20), events.recv())
            .await
            .expect("nothing was refused");
        if let SyncEvent::Refused { peer, side, reason } = event.unwrap() {
            return (peer, side, reason);
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_or_garbage_is_refused_and_the_rest_goes_on() {
    for (size, reason) in [(200 * 1024, "message_too_large"), (100, "malformed")] {
        let (east, mut events) = start("east", None).await;
        let north = node("north").await;
        let sessions = join((&east, "east"), (&north, "north"));
        let (a, b) = tokio::io::duplex(64 * 1024);
        let accepter = east.clone();
        let session = tokio::spawn(async move { accepter.accept_session(gateway("west"), b).await });
        let (say, answers) = liar(a).await;
        say.send(hello("west")).await.unwrap();
        let body = (size > 1000).then(|| {
            Body::Refused(Refused {
                reason: "x".repeat(size),
                message: String::new(),
                ..Refused::default()
            })
        });
        say.send(SyncMessage { body }).await.unwrap();
        assert_eq!(
            first_refusal(&mut events).await,
            (gateway("west"), RefusingSide::Local, reason)
        );
        let mut answers = answers.unwrap();
        let mut last = None;
        while let Ok(Some(message)) = answers.message().await {
            last = message.body;
        }
        assert!(matches!(last, Some(Body::Refused(refused)) if refused.reason == reason));
        drop((say, answers));
        let result = ended(session).await;
        assert!(matches!(result, Err(SyncSessionError::Refused { reason: word, .. }) if word == reason));
        north.set_exports(vec![export("orders", 4)]);
        until(&mut east.catalog(), |c| healthy(c, "north", "orders") == Some(4)).await;
        assert!(!sessions.0.is_finished() && !sessions.1.is_finished());
    }
}

#[tokio::test]
async fn bytes_that_are_not_http_end_the_session_at_once() {
    let east = node("east").await;
    let (mut a, b) = tokio::io::duplex(64 * 1024);
    let accepter = east.clone();
    let session = tokio::spawn(async move { accepter.accept_session(gateway("west"), b).await });
    a.write_all(&[0x17; 4096]).await.unwrap();
    let end = ended(session).await;
    assert!(matches!(end, Err(SyncSessionError::Setup { .. })));
}

#[tokio::test]
async fn a_peer_that_says_it_is_another_is_refused_on_both_sides() {
    let (east, mut east_events) = start("east", None).await;
    let (west, mut west_events) = start("west", None).await;
    // The tunnel authenticated `north`; what speaks calls itself `west`.
    let (opened, accepted) = join((&west, "north"), (&east, "east"));
    assert_eq!(
        first_refusal(&mut east_events).await,
        (gateway("north"), RefusingSide::Local, "wrong_origin")
    );
    assert_eq!(
        first_refusal(&mut west_events).await,
        (gateway("east"), RefusingSide::Peer, "wrong_origin")
    );
    let end = ended(accepted).await;
    assert!(matches!(end, Err(SyncSessionError::Refused { .. })));
    assert!(matches!(
        ended(opened).await,
        Err(SyncSessionError::RefusedByPeer { .. })
    ));
    let status = east.status().await.unwrap();
    assert_eq!(status.peers[0].totals.refused, 1);
    assert_eq!(status.peers[0].totals.last_refusal, Some("wrong_origin"));
    assert!(east.catalog().borrow().entries().next().is_none());
}

#[tokio::test]
async fn a_newer_session_takes_the_place_of_an_older_one() {
    let (east, west) = (node("east").await, node("west").await);
    let older = join((&east, "east"), (&west, "west"));
    west.set_exports(vec![export("web", 1)]);
    until(&mut east.catalog(), |c| healthy(c, "west", "web") == Some(1)).await;
    let newer = join((&east, "east"), (&west, "west"));
    // Either end may see the other go before it hears of the newer one itself.
    let (a, b) = (ended(older.0).await, ended(older.1).await);
    assert!(
        [&a, &b]
            .into_iter()
            .any(|end| matches!(end, Err(SyncSessionError::Replaced { .. }))),
        "{a:?} {b:?}"
    );
    west.set_exports(vec![export("web", 2)]);
    until(&mut east.catalog(), |c| healthy(c, "west", "web") == Some(2)).await;
    assert!(!newer.0.is_finished() && !newer.1.is_finished());
}

#[tokio::test]
async fn a_dropped_session_ends_at_the_other_side_too() {
    let (east, west) = (node("east").await, node("west").await);
    let (opened, accepted) = join((&east, "east"), (&west, "west"));
    west.set_exports(vec![export("web", 1)]);
    until(&mut east.catalog(), |c| healthy(c, "west", "web") == Some(1)).await;
    opened.abort();
    // Whether that is an error depends on how far the peer got in closing; that it ends does not.
    let _ = ended(accepted).await;
    loop {
        let status = east.status().await.unwrap();
        if status.peers[0].connected_for.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_record_of_a_hundred_thousand_exports_arrives_and_a_stalled_peer_holds_up_nobody() {
    let (east, west) = (node("east").await, node("west").await);
    // `north` sets a session up and then reads nothing more.
    let (a, b) = tokio::io::duplex(1024);
    let accepter = east.clone();
    tokio::spawn(async move { accepter.accept_session(gateway("north"), b).await });
    let (say, answers) = liar(a).await;
    say.send(hello("north")).await.unwrap();
    let _sessions = join((&east, "east"), (&west, "west"));
    east.set_exports((0..100_000).map(|i| export(&format!("service-{i}"), 1)).collect());
    until(&mut west.catalog(), |c| {
        healthy(c, "east", "service-99999") == Some(1)
    })
    .await;
    let status = east.status().await.unwrap();
    let peer = |zone: &str| status.peers.iter().find(|p| p.peer == gateway(zone)).unwrap();
    assert!(peer("west").totals.bytes_sent > 3_000_000);
    let stalled = peer("north");
    assert!(
        stalled.totals.bytes_sent < 600_000,
        "{} bytes",
        stalled.totals.bytes_sent
    );
    assert!(stalled.connected_for.is_some());
    // And it goes on where it stopped once it reads again.
    let mut parts = 0;
    let mut answers = answers.unwrap();
    while parts < 2 || parts < 1000 {
        let message = timeout(Duration::from_secs(20), answers.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        if let Some(Body::Snapshot(part)) = message.body {
            parts = part.part + 1;
            if part.part + 1 == part.parts {
                break;
            }
        }
    }
    assert!(parts > 50, "{parts} parts");
}

#[tokio::test]
async fn the_catalog_is_served_at_once_after_a_restart_in_a_later_incarnation() {
    let folder = tempfile::tempdir().unwrap();
    let (east, _) = start("east", Some(folder.path())).await;
    let west = node("west").await;
    let _sessions = join((&east, "east"), (&west, "west"));
    west.set_exports((0..500).map(|i| export(&format!("web-{i}"), 2)).collect());
    until(&mut east.catalog(), |c| healthy(c, "west", "web-499") == Some(2)).await;
    let before = east.status().await.unwrap();
    east.shutdown().await;
    drop(east);

    let (east, _) = start("east", Some(folder.path())).await;
    let catalog = east.catalog().borrow().clone();
    assert_eq!(healthy(&catalog, "west", "web-499"), Some(2));
    assert_eq!(catalog.entry(&gateway("west")).unwrap().age, Age::Suspect);
    let status = east.status().await.unwrap();
    assert!(status.own.incarnation > before.own.incarnation);
    assert_eq!(status.disk, Disk::Working);
    // It is fresh again as soon as its origin confirms it.
    let _sessions = join((&east, "east"), (&west, "west"));
    until(&mut east.catalog(), |c| {
        c.entry(&gateway("west")).is_some_and(|e| e.age == Age::Fresh)
    })
    .await;
}

#[tokio::test]
async fn the_catalog_reaches_the_disk_without_a_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let (east, _) = start("east", Some(folder.path())).await;
    let west = node("west").await;
    let _sessions = join((&east, "east"), (&west, "west"));
    for round in 1..=9 {
        west.set_exports(vec![export("web", round)]);
        until(&mut east.catalog(), |c| healthy(c, "west", "web") == Some(round)).await;
    }
    // What a crash would leave: the file as it lies there, in the middle of everything.
    let found = async {
        loop {
            let copy = tempfile::tempdir().unwrap();
            std::fs::copy(
                folder.path().join("catalog.redb"),
                copy.path().join("catalog.redb"),
            )
            .unwrap();
            let (revived, _) = start("east", Some(copy.path())).await;
            let catalog = revived.catalog().borrow().clone();
            if healthy(&catalog, "west", "web") == Some(9) {
                return;
            }
        }
    };
    timeout(Duration::from_secs(20), found)
        .await
        .expect("the last version never reached the disk");
}

#[tokio::test]
async fn sync_goes_on_when_the_disk_fails() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "in the way").unwrap();
    let (east, _) = start("east", Some(&blocked)).await;
    assert_eq!(east.status().await.unwrap().disk, Disk::Failing);
    let west = node("west").await;
    let _sessions = join((&east, "east"), (&west, "west"));
    west.set_exports(vec![export("web", 1)]);
    until(&mut east.catalog(), |c| healthy(c, "west", "web") == Some(1)).await;
}

#[tokio::test]
async fn a_damaged_catalog_is_rebuilt_from_the_peers() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("catalog.redb"), [7; 9999]).unwrap();
    let (east, _) = start("east", Some(folder.path())).await;
    let west = node("west").await;
    let _sessions = join((&east, "east"), (&west, "west"));
    west.set_exports(vec![export("web", 1)]);
    until(&mut east.catalog(), |c| healthy(c, "west", "web") == Some(1)).await;
    east.shutdown().await;
    let (east, _) = start("east", Some(folder.path())).await;
    assert_eq!(healthy(&east.catalog().borrow(), "west", "web"), Some(1));
    let kept = std::fs::read_dir(folder.path()).unwrap();
    assert_eq!(
        kept.filter(|f| f
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains(".corrupt-"))
            .count(),
        1
    );
}

#[tokio::test]
async fn three_nodes_know_each_other_and_a_zone_outside_the_topology_is_refused() {
    let (east, mut events) = start("east", None).await;
    let (west, north) = (node("west").await, node("north").await);
    for (node, healthy) in [(&east, 1), (&west, 2), (&north, 3)] {
        node.set_exports(vec![export("orders", healthy)]);
    }
    let _a = join((&east, "east"), (&west, "west"));
    let b = join((&east, "east"), (&north, "north"));
    let _c = join((&north, "north"), (&west, "west"));
    for (node, other, wanted) in [(&east, "west", 2), (&west, "north", 3), (&north, "east", 1)] {
        until(&mut node.catalog(), |c| {
            healthy(c, other, "orders") == Some(wanted)
        })
        .await;
    }
    east.set_zones(Fingerprint([1; 32]), [gateway("east").zone, gateway("west").zone]);
    until(&mut east.catalog(), |c| c.entry(&gateway("north")).is_none()).await;
    assert_eq!(
        first_refusal(&mut events).await,
        (gateway("north"), RefusingSide::Local, "unknown_zone")
    );
    assert!(matches!(ended(b.0).await, Err(SyncSessionError::Refused { .. })));
    until(&mut west.catalog(), |c| {
        c.entry(&gateway("east"))
            .is_some_and(|e| e.record.topology == Fingerprint([1; 32]))
    })
    .await;
}

#[tokio::test]
async fn zones_without_a_session_know_each_other_through_a_third() {
    let nodes = [node("east").await, node("north").await, node("west").await];
    let names = ["east", "north", "west"];
    let trust = Edition {
        generation: 4,
        fingerprint: Fingerprint([9; 32]),
    };
    for (node, name) in nodes.iter().zip(names) {
        node.set_zones(Fingerprint([1; 32]), names.map(|name| gateway(name).zone));
        node.set_topology_generation(3);
        node.trust_changed(trust);
        node.set_exports(vec![export(name, 2)]);
    }
    let [east, north, west] = &nodes;
    let _a = join((east, "east"), (north, "north"));
    let _b = join((north, "north"), (west, "west"));
    until(&mut west.catalog(), |c| healthy(c, "east", "east") == Some(2)).await;
    until(&mut east.catalog(), |c| healthy(c, "west", "west") == Some(2)).await;
    let catalog = west.catalog().borrow().clone();
    let entry = catalog.entry(&gateway("east")).unwrap();
    assert_eq!(entry.via, Some(gateway("north")));
    assert_eq!((entry.age, entry.record.topology_generation), (Age::Fresh, 3));
    assert_eq!(entry.record.trust, trust);
    let status = west.status().await.unwrap();
    let peer = |zone: &str| status.peers.iter().find(|p| p.peer == gateway(zone)).unwrap();
    assert_eq!(peer("east").via, Some(gateway("north")));
    assert!(peer("east").heard_ago.unwrap() < Duration::from_secs(5));
    assert!(peer("east").connected_for.is_none());
    assert!(peer("north").relays.contains(&gateway("east").zone));
    assert_eq!((peer("north").protocol, peer("north").behind), (Some(2), Some(0)));
    east.set_exports(vec![export("east", 7)]);
    until(&mut west.catalog(), |c| healthy(c, "east", "east") == Some(7)).await;

    // Readers learn that a record comes from its origin again, although nothing else changes.
    let _c = join((east, "east"), (west, "west"));
    until(&mut west.catalog(), |c| {
        c.entry(&gateway("east")).unwrap().via.is_none()
    })
    .await;
}
