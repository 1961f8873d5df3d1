//! The number of tunnels to a gateway follows what they carry.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use causeway_identity::ca::Ca;
use causeway_proto::tunnel::stream_reply::Outcome;
use causeway_tunnel::{Stream, Tunnel, read_reply};
use tokio::runtime::Handle;

use crate::support::{DAY, DOMAIN, Gate, connect_header, east_and_plant, echo, id, none, one, until};

async fn hold(tunnel: &Tunnel) -> Stream {
    let opened = tokio::time::timeout(Duration::from_secs(20), async {
        let mut stream = tunnel.open(&connect_header()).await.unwrap();
        let reply = read_reply(&mut stream.recv).await.unwrap();
        assert!(matches!(reply, Outcome::Ready(_)));
        stream
    });
    opened.await.expect("a stream in time")
}

async fn say(stream: &mut Stream, text: &str) {
    stream.send.write_all(text.as_bytes()).await.unwrap();
    let mut answer = vec![0; text.len()];
    stream.recv.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, text.as_bytes());
}

#[tokio::test]
async fn tunnels_come_with_many_streams_and_go_without_breaking_one() {
    let ca = Ca::new(DOMAIN).unwrap();
    let (_east, plant) = east_and_plant(&ca, |config| {
        (config.first_tunnels, config.spare_tunnel_for) = (1, Duration::from_millis(500));
    });
    let first = plant.tunnel_to("east").await;
    // The data path counts the streams that it opens.
    first.streams().fetch_add(40, Ordering::Relaxed);
    let second = until("a second tunnel", || {
        plant
            .set
            .all()
            .into_iter()
            .find(|tunnel| !Arc::ptr_eq(tunnel, &first))
    })
    .await;
    let mut last = hold(&second).await;
    second.streams().fetch_add(1, Ordering::Relaxed);
    first.streams().fetch_sub(40, Ordering::Relaxed);
    until("the second tunnel to retire", || {
        second.is_retiring().then_some(())
    })
    .await;
    say(&mut last, "what is open on it goes on").await;
    assert!(!first.is_retiring());
    drop(last);
    second.streams().fetch_sub(1, Ordering::Relaxed);
    until("the second tunnel to go", || {
        (plant.set.count(&id("east")) == 1).then_some(())
    })
    .await;
    assert!(second.ended().is_some());
    echo(&first, b"the first one stays").await;
}

#[tokio::test]
async fn a_peer_may_open_as_many_streams_as_it_needs_and_no_more_than_the_most() {
    let ca = Ca::new(DOMAIN).unwrap();
    let known = [("east", none()), ("plant", none())];
    let here = [Handle::current()];
    let east = Gate::with(ca.issue(&id("east"), DAY).unwrap(), &known, &here, |config| {
        config.max_streams = 600;
    });
    let zones = [("east", one(east.address())), ("plant", none())];
    let plant = Gate::new(ca.issue(&id("plant"), DAY).unwrap(), &zones);
    let tunnel = plant.tunnel_to("east").await;
    let mut held = Vec::new();
    for _ in 0..600 {
        held.push(hold(&tunnel).await);
    }
    let header = connect_header();
    let mut waits = std::pin::pin!(tunnel.open(&header));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waits).await;
    assert!(early.is_err(), "one more than the most");
    // quinn tells of new room once an eighth is free.
    held.truncate(400);
    let late = tokio::time::timeout(Duration::from_secs(20), &mut waits).await;
    late.expect("room again").unwrap();
}

/// Carries so much in both directions that the stream is bulk.
async fn download(stream: &mut Stream) {
    let bytes = vec![7; 3 * 1024 * 1024];
    let reading = async {
        let mut left = bytes.len();
        while left > 0 {
            let chunk = stream.recv.read_chunk(64 * 1024).await.unwrap();
            left -= chunk.expect("more").len();
        }
    };
    let (sent, ()) = tokio::join!(stream.send.write_all(&bytes), reading);
    sent.unwrap();
}

#[tokio::test]
async fn control_and_small_streams_keep_away_from_tunnels_with_bulk_and_one_more_is_dialled_where_all_have_some()
 {
    let ca = Ca::new(DOMAIN).unwrap();
    let (_east, plant) = east_and_plant(&ca, |config| {
        (config.first_tunnels, config.spare_tunnel_for) = (2, Duration::from_millis(500));
    });
    let [first, second] = until("two tunnels", || plant.set.all().try_into().ok()).await;
    let mut busy = hold(&first).await;
    download(&mut busy).await;
    until("it is bulk", || first.carries_bulk().then_some(())).await;
    let peer = id("east");
    for thread in [first.thread(), second.thread(), usize::MAX] {
        let small = plant.set.choose(&peer, thread).unwrap();
        assert!(Arc::ptr_eq(&small, &second), "thread {thread}");
    }
    let control = plant.set.choose_for_control(&peer).unwrap();
    assert!(Arc::ptr_eq(&control, &second));
    // What sits there already moves.
    plant.set.until_crowded_out(&first, Duration::ZERO).await;

    let mut busy_too = hold(&second).await;
    download(&mut busy_too).await;
    let third = until("a tunnel without bulk", || {
        let all = plant.set.all();
        (all.len() == 3).then(|| all.into_iter().find(|tunnel| !tunnel.carries_bulk()))?
    })
    .await;
    let control = plant.set.choose_for_control(&peer).unwrap();
    assert!(Arc::ptr_eq(&control, &third));
    assert!(Arc::ptr_eq(
        &plant.set.choose(&peer, first.thread()).unwrap(),
        &third
    ));
    drop((busy, busy_too));
    until("as many as before", || {
        (plant.set.count(&peer) == 2).then_some(())
    })
    .await;
}
