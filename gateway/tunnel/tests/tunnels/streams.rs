//! Tests of what a tunnel carries, and what a bad stream does to it: nothing.

use std::{net::UdpSocket, sync::Arc};

use causeway_identity::ca::Ca;
use causeway_proto::tunnel::{RefusalReason, stream_reply::Outcome};
use causeway_tunnel::{Stream, Tunnel, read_reply};

use crate::support::{DAY, DOMAIN, Gate, Log, RawPeer, echo, id, none, pair};

#[tokio::test]
async fn one_tunnel_carries_streams_both_ways_and_reaches_a_zone_that_only_dials() {
    let (east, plant) = pair(&Ca::new(DOMAIN).unwrap()).await;
    let big = vec![7; 3_000_000];
    echo(&plant.tunnel_to("east").await, &big).await;
    echo(&east.tunnel_to("plant").await, &big).await;
    assert!(plant.tunnel_to("east").await.dialled());
    assert!(!east.tunnel_to("plant").await.dialled());
    assert_eq!(plant.set.all().len(), 1);
    assert_eq!(east.set.all().len(), 1);
}

#[test]
fn every_data_thread_keeps_a_tunnel_of_its_own() {
    let main = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut ends = Vec::new();
    let handles: Vec<_> = (0..2)
        .map(|_| {
            let (end, wait) = tokio::sync::oneshot::channel::<()>();
            let (tell, handle) = std::sync::mpsc::channel();
            ends.push(end);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                tell.send(runtime.handle().clone()).unwrap();
                let _ = runtime.block_on(wait);
            });
            handle.recv().unwrap()
        })
        .collect();
    main.block_on(async {
        let ca = Ca::new(DOMAIN).unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let zones = [("east", none()), ("plant", none())];
        let east = Gate::on(listen, ca.issue(&id("east"), DAY).unwrap(), &zones, &handles);
        let zones = [("east", crate::support::one(east.address())), ("plant", none())];
        let plant = Gate::on(listen, ca.issue(&id("plant"), DAY).unwrap(), &zones, &handles);
        crate::support::until("two tunnels", || {
            (plant.set.count(&id("east")) == 2).then_some(())
        })
        .await;
        for thread in 0..2 {
            let tunnel = plant.set.choose(&id("east"), thread).unwrap();
            assert_eq!(tunnel.thread(), thread);
            echo(&tunnel, b"hello").await;
        }
        plant.tunnels.close().await;
        east.tunnels.close().await;
    });
}

/// Opens a stream, writes raw bytes as its start, and expects a refusal.
async fn refused_with(tunnel: &Tunnel, bytes: &[u8]) -> RefusalReason {
    let Stream { mut send, mut recv } = tunnel.open_bare().await.unwrap();
    send.write_all(bytes).await.unwrap();
    let _ = send.finish();
    match read_reply(&mut recv).await.unwrap() {
        Outcome::Refusal(refusal) => {
            assert!(!refusal.message.is_empty());
            let unknown = refusal.reason() == RefusalReason::UnknownKind;
            assert_eq!(refusal.retryable, unknown, "{refusal:?}");
            refusal.reason()
        }
        Outcome::Ready(_) => panic!("{bytes:?} was accepted"),
    }
}

#[tokio::test]
async fn a_bad_header_disturbs_only_its_own_stream() {
    let log = Log::capture();
    let (east, plant) = pair(&Ca::new(DOMAIN).unwrap()).await;
    let tunnel = plant.tunnel_to("east").await;
    let Stream { mut send, mut recv } = tunnel.open(&crate::support::connect_header()).await.unwrap();
    read_reply(&mut recv).await.unwrap();

    assert_eq!(
        refused_with(&tunnel, &[0xff, 0xff, 1, 2, 3]).await,
        RefusalReason::HeaderTooLong
    );
    assert_eq!(
        refused_with(&tunnel, &[0, 2, 0xff, 0xff]).await,
        RefusalReason::BadHeader
    );
    assert_eq!(refused_with(&tunnel, &[0, 9, 1]).await, RefusalReason::BadHeader);
    log.says(
        "refused a stream",
        &[("reason", "header_too_long"), ("peer", "plant/gw1")],
    )
    .await;
    log.says(
        "refused a stream",
        &[("reason", "bad_header"), ("peer", "plant/gw1")],
    )
    .await;
    for reason in ["header_too_long", "bad_header"] {
        let labels = format!("side=\"local\",reason=\"{reason}\"");
        east.counts(&format!("causeway_stream_refused_total{{{labels}}}"))
            .await;
    }

    send.write_all(b"still here").await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"still here");
    assert_eq!(plant.set.count(&id("east")), 1);
}

#[tokio::test]
async fn a_stream_of_a_kind_that_only_a_later_program_knows_is_sent_elsewhere() {
    let log = Log::capture();
    let (_east, plant) = pair(&Ca::new(DOMAIN).unwrap()).await;
    let tunnel = plant.tunnel_to("east").await;
    // A header whose kind is field 9 of a later version, with two bytes in it, and one without any.
    for header in [&[0, 4, 0x4a, 2, 1, 2][..], &[0, 0]] {
        assert_eq!(refused_with(&tunnel, header).await, RefusalReason::UnknownKind);
    }
    log.says(
        "refused a stream",
        &[("reason", "unknown_kind"), ("peer", "plant/gw1")],
    )
    .await;
    echo(&tunnel, b"undisturbed").await;
}

#[tokio::test]
async fn each_side_of_a_tunnel_knows_what_the_other_can_do() {
    let (east, plant) = pair(&Ca::new(DOMAIN).unwrap()).await;
    for tunnel in [plant.tunnel_to("east").await, east.tunnel_to("plant").await] {
        assert!(tunnel.capabilities().has("connect") && tunnel.capabilities().has("sync"));
        assert!(!tunnel.capabilities().has("unheard-of"));
    }
}

#[tokio::test]
async fn datagrams_of_garbage_on_the_tunnel_port_are_harmless() {
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = pair(&ca).await;
    let noise = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..2000_usize {
        // Looks like long and short QUIC headers of every length, and like nothing at all.
        let datagram: Vec<u8> = (0..n % 1400).map(|i| (i * 31 + n * 17) as u8).collect();
        noise.send_to(&datagram, east.address()).unwrap();
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    echo(&plant.tunnel_to("east").await, b"through the noise").await;
    let late = RawPeer::new(ca.issue(&id("plant"), DAY).unwrap().client_tls().unwrap());
    assert!(late.connect(east.address()).await.is_ok());
}

#[tokio::test]
async fn streams_under_way_are_counted_until_they_end() {
    let (east, plant) = pair(&Ca::new(DOMAIN).unwrap()).await;
    let tunnel = plant.tunnel_to("east").await;
    let mut open = Vec::new();
    for _ in 0..50 {
        let Stream { send, mut recv } = tunnel.open(&crate::support::connect_header()).await.unwrap();
        read_reply(&mut recv).await.unwrap();
        open.push((send, recv));
    }
    let far = Arc::clone(&east.tunnel_to("plant").await);
    let under_way = || far.streams().load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(under_way(), 50);
    drop(open);
    crate::support::until("the streams to end", || (under_way() == 0).then_some(())).await;
}
