//! The bytes of callers over TLS: whole, given to one instance alone, and ended as their owners end them.

use std::{collections::BTreeMap, io, sync::Arc};

use causeway_proto::tunnel::stream_header::Kind;
use causeway_tunnel::{IncomingStream, StreamHandler as _};
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{Scene, WEB, topology, with_service};
use crate::testbed::{self, Handler, Recorder, Zone, until};

#[tokio::test]
async fn an_end_of_either_side_is_carried_as_one_and_a_loss_as_a_reset() {
    for far in [false, true] {
        let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = testbed::instance("a", instance.local_addr().unwrap(), 1, &[]);
        let (scene, east) = match far {
            false => (Scene::local(&topology()).await, None),
            true => {
                let (scene, east) = Scene::remote(&topology()).await;
                (scene, Some(east))
            }
        };
        let serving = east.as_ref().unwrap_or(&scene.home);
        serving.change(|snapshot| {
            snapshot.instances = Arc::new(BTreeMap::from([(testbed::service("orders"), vec![at].into())]));
        });
        // The client ends first, and the instance answers all the same.
        let (client, accepted) = tokio::join!(scene.client(WEB), instance.accept());
        let (mut client, mut accepted) = (client, accepted.unwrap().0);
        client.0.write_all(b"question").await.unwrap();
        client.0.shutdown().await.unwrap();
        let mut asked = Vec::new();
        accepted.read_to_end(&mut asked).await.unwrap();
        accepted.write_all(b"answer").await.unwrap();
        drop(accepted);
        assert_eq!(
            (asked.as_slice(), client.rest().await.unwrap()),
            (&b"question"[..], b"answer".to_vec())
        );
        until("it has ended", || {
            scene.home.egress.open_connections().count() == 0
        })
        .await;
        // The instance ends first: the client is told, and its own bytes still come through.
        let (client, accepted) = tokio::join!(scene.client(WEB), instance.accept());
        let (mut client, mut accepted) = (client, accepted.unwrap().0);
        accepted.shutdown().await.unwrap();
        assert!(client.rest().await.unwrap().is_empty());
        client.0.write_all(b"late").await.unwrap();
        client.0.shutdown().await.unwrap();
        let mut late = Vec::new();
        accepted.read_to_end(&mut late).await.unwrap();
        assert_eq!(late, b"late");
        // A connection that ends without the word for it was cut short, and nobody may take that for its end.
        let (client, accepted) = tokio::join!(scene.client(WEB), instance.accept());
        let (mut client, mut accepted) = (client, accepted.unwrap().0);
        client.0.write_all(b"half").await.unwrap();
        let mut half = [0; 4];
        accepted.read_exact(&mut half).await.unwrap();
        client.0.get_mut().0.shutdown().await.unwrap();
        let error = accepted.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "far: {far}");
    }
}

#[tokio::test]
async fn much_in_both_directions_arrives_whole() {
    const BYTES: usize = 6 * 1024 * 1024;
    let (scene, _east) = Scene::remote(&topology()).await;
    let mut client = scene.client(WEB).await;
    client.greeting().await.unwrap();
    let sent: Vec<u8> = (0..BYTES).map(|at| (at ^ (at >> 8)) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(client.0);
    let (mut back, told) = (Vec::new(), sent.clone());
    let writing = tokio::spawn(async move {
        writer.write_all(&told).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    reader.read_to_end(&mut back).await.unwrap();
    writing.await.unwrap();
    assert!(back == sent, "{} bytes came back", back.len());
}

#[tokio::test]
async fn bytes_stay_unread_until_an_instance_is_ready_and_only_that_one_is_given_them() {
    let (scene, _east) = Scene::remote(&topology()).await;
    let given = Arc::new(Mutex::new(None));
    let seen = given.clone();
    let silent = Handler(move |stream: IncomingStream| {
        let seen = seen.clone();
        async move {
            let mut stream = stream;
            // What would have come of the client's bytes, and then the reset of one that lost.
            let read = stream.recv.read_chunk(1024).await;
            *seen.lock() = Some(read.is_ok());
        }
        .boxed()
    });
    let topology = with_service("failover: [{ zone: west }, { zone: east }]");
    scene.home.change(|snapshot| snapshot.topology = topology);
    scene.home.join("west", silent).await;
    let mut client = scene.client(WEB).await;
    client.0.write_all(b"hello").await.unwrap();
    assert_eq!(client.greeting().await.unwrap(), "there");
    client.expect(b"hello").await;
    assert_eq!(scene.here.given(), [b"hello"]);
    until("the loser has been told", || given.lock().is_some()).await;
    assert_eq!(*given.lock(), Some(false), "the loser was given nothing");
}

#[tokio::test]
async fn first_bytes_of_an_early_service_travel_with_the_header() {
    let there = Recorder::start("there").await;
    let early = with_service("early: true\n    failover: [{ zone: east }]");
    let east = Zone::start("east", &early, vec![there.instance(1, &[])]);
    let scene = Scene::start(&early, Recorder::start("here").await, false);
    let taken = east.ingress.clone();
    let was_early = Arc::new(Mutex::new(false));
    let seen = was_early.clone();
    let watching = Handler(move |stream: IncomingStream| {
        if let Kind::Connect(connect) = &stream.kind {
            *seen.lock() = connect.early;
        }
        taken.handle(stream)
    });
    scene.home.join("east", watching).await;
    // They are awaited for a moment only, so the first client may be too late with them.
    for number in 1..=100 {
        let mut client = scene.client(WEB).await;
        client.0.write_all(b"hello").await.unwrap();
        assert_eq!(client.greeting().await.unwrap(), "there");
        client.expect(b"hello").await;
        assert_eq!(there.given(), vec![b"hello"; number]);
        if *was_early.lock() {
            return;
        }
    }
    panic!("no client's bytes ever travelled with the header");
}

#[tokio::test]
async fn whoever_comes_over_tls_is_led_to_the_primary_port() {
    let topology = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { ports: { admin: 9090, raw: { port: 70, primary: true } } }",
    );
    let scene = Scene::local(&topology).await;
    assert_eq!(scene.client(WEB).await.greeting().await.unwrap(), "here");
    let handle = scene.home.egress.open_connections().handles().next().unwrap();
    let port = handle.connection.port.as_ref();
    assert_eq!(port.map(|port| port.as_str()), Some("raw"));
}
