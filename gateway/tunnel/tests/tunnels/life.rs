//! Tests of how tunnels come, stall, move and end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use causeway_identity::ca::Ca;
use causeway_proto::tunnel::{StreamHeader, Sync, stream_header::Kind, stream_reply::Outcome};
use causeway_routing::snapshot::Link;
use causeway_tunnel::{Stream, Tunnel, read_reply};
use tokio::{net::UdpSocket, runtime::Handle};

use crate::support::{
    DAY, DOMAIN, Detour, Gate, Log, connect_header, east_and_plant, echo, id, none, one, pair, topology,
    until,
};

#[tokio::test]
async fn a_name_with_a_dead_address_is_reached_by_its_living_one() {
    let ca = Ca::new(DOMAIN).unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let known = [("east", none()), ("plant", none())];
    let east = Gate::new(ca.issue(&id("east"), DAY).unwrap(), &known);
    let addresses = vec![
        "no-such-host.invalid:7800".to_owned(),
        silent.local_addr().unwrap().to_string(),
        format!("localhost:{}", east.address().port()),
    ];
    let zones = [("east", vec![addresses]), ("plant", none())];
    let plant = Gate::new(ca.issue(&id("plant"), DAY).unwrap(), &zones);
    echo(&plant.tunnel_to("east").await, b"hello").await;
    assert_eq!(plant.set.count(&id("east")), 1);
}

#[tokio::test]
async fn a_zone_that_cannot_be_reached_is_told_once() {
    let log = Log::capture();
    let ca = Ca::new(DOMAIN).unwrap();
    let zones = [("east", one("no-such-host.invalid:7800")), ("plant", none())];
    let _plant = Gate::new(ca.issue(&id("plant"), DAY).unwrap(), &zones);
    let line = log
        .says("cannot reach a gateway; trying on", &[("zone", "east")])
        .await;
    assert_eq!(line["why"], "resolve");
}

#[tokio::test]
async fn a_gateway_that_restarts_on_its_port_is_dialled_again() {
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = pair(&ca).await;
    let address = east.address();
    east.tunnels.close().await;
    plant.no_tunnel_to("east").await;
    drop(east);
    let known = [("east", none()), ("plant", none())];
    let rebind = || std::net::UdpSocket::bind(address).ok().map(drop);
    until("the port to be free", rebind).await;
    let east = Gate::on(
        address,
        ca.issue(&id("east"), DAY).unwrap(),
        &known,
        &[Handle::current()],
    );
    echo(&plant.tunnel_to("east").await, b"again").await;
    echo(&east.tunnel_to("plant").await, b"again").await;
}

#[tokio::test]
async fn a_gateway_that_drains_tells_its_peers_and_is_chosen_where_there_is_no_other() {
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = pair(&ca).await;
    let tunnel = plant.tunnel_to("east").await;
    let Stream { mut send, mut recv } = tunnel.open(&connect_header()).await.unwrap();
    read_reply(&mut recv).await.unwrap();

    east.tunnels.drain(Duration::from_secs(5));
    let draining = || (plant.set.links().get(&id("east")) == Some(&Link::Draining)).then_some(());
    until("the peer to know", draining).await;
    let chosen = plant.set.choose(&id("east"), 0).unwrap();
    echo(&chosen, b"nowhere else").await;

    // What is under way goes on, and so does zone sync.
    send.write_all(b"finish me").await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"finish me");
    let sync = StreamHeader {
        kind: Some(Kind::Sync(Sync {})),
    };
    let Stream {
        send: _send,
        mut recv,
    } = tunnel.open(&sync).await.unwrap();
    assert!(matches!(read_reply(&mut recv).await.unwrap(), Outcome::Ready(_)));
    east.tunnels.close().await;
    plant.no_tunnel_to("east").await;
}

#[tokio::test]
async fn a_zone_that_leaves_the_topology_loses_its_tunnels_on_either_side() {
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = pair(&ca).await;
    east.topology.send_replace(topology(&[("east", none())]));
    east.no_tunnel_to("plant").await;
    plant.no_tunnel_to("east").await;

    let (east, plant) = pair(&ca).await;
    plant.topology.send_replace(topology(&[("plant", none())]));
    plant.no_tunnel_to("east").await;
    east.no_tunnel_to("plant").await;
}

#[tokio::test]
async fn an_entry_that_comes_to_the_topology_is_dialled_at_once_and_left_when_it_goes() {
    let ca = Ca::new(DOMAIN).unwrap();
    let known = [("east", none()), ("plant", none())];
    let east = Gate::new(ca.issue(&id("east"), DAY).unwrap(), &known);
    let plant = Gate::new(ca.issue(&id("plant"), DAY).unwrap(), &known);
    plant
        .topology
        .send_replace(topology(&[("east", one(east.address())), ("plant", none())]));
    plant.tunnel_to("east").await;
    plant.topology.send_replace(topology(&known));
    plant.no_tunnel_to("east").await;
}

#[tokio::test]
async fn a_silent_tunnel_stalls_recovers_and_is_gone_when_the_silence_lasts() {
    let ca = Ca::new(DOMAIN).unwrap();
    let known = [("east", none()), ("plant", none())];
    let east = Gate::new(ca.issue(&id("east"), DAY).unwrap(), &known);
    let detour = Detour::to(east.address()).await;
    let zones = [("east", one(detour.address)), ("plant", none())];
    let plant = Gate::new(ca.issue(&id("plant"), DAY).unwrap(), &zones);
    let first = plant.tunnel_to("east").await;
    let link = |state| (plant.set.links().get(&id("east")) == Some(&state)).then_some(());

    detour.cut(true);
    until("a stall", || link(Link::Stalled)).await;
    detour.cut(false);
    until("a recovery", || link(Link::Up)).await;
    echo(&first, b"the same tunnel").await;

    detour.cut(true);
    plant.no_tunnel_to("east").await;
    detour.cut(false);
    let second = plant.tunnel_to("east").await;
    assert!(!Arc::ptr_eq(&first, &second));
    echo(&second, b"a new tunnel").await;
}

#[tokio::test]
async fn of_equal_tunnels_the_one_with_the_fewest_streams_is_chosen() {
    let ca = Ca::new(DOMAIN).unwrap();
    let (_east, plant) = east_and_plant(&ca, |config| {
        config.first_tunnels = 4;
    });
    until("a tunnel of each thread", || {
        (plant.set.count(&id("east")) == 4).then_some(())
    })
    .await;
    for _ in 0..8 {
        // The control runtime has no thread of its own among them.
        let chosen = plant.set.choose(&id("east"), usize::MAX).unwrap();
        chosen.streams().fetch_add(1, Ordering::Relaxed);
    }
    let streams = |tunnel: &Arc<Tunnel>| tunnel.streams().load(Ordering::Relaxed);
    assert_eq!(plant.set.all().iter().map(streams).collect::<Vec<_>>(), [2; 4]);
}

#[tokio::test]
async fn both_gateways_give_a_tunnel_one_name_in_their_logs() {
    let log = Log::capture();
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = pair(&ca).await;
    let told = |message: &str| -> Vec<String> {
        let lines = log.lines().into_iter();
        let lines = lines.filter(|line| line["message"] == message);
        lines.map(|line| line["session"].clone()).collect()
    };
    until("both say that it is up", || {
        (told("tunnel up").len() == 2).then_some(())
    })
    .await;
    let up = told("tunnel up");
    assert_eq!(up[0].len(), 16);
    assert_eq!(up[0], up[1]);
    assert_ne!(up[0], "0".repeat(16));
    east.tunnels.close().await;
    plant.no_tunnel_to("east").await;
    until("it is said to be closed", || {
        told("tunnel closed").pop().filter(|name| *name == up[0])
    })
    .await;
}
