//! The emulated link is itself a measuring instrument, so it is checked first.

use std::time::{Duration, Instant};

use tokio::{net::UdpSocket, time::timeout};

use super::*;

/// A gateway that answers every datagram with itself, a front to it, and a client.
async fn echo_behind_a_front(network: &Network) -> (SocketAddr, UdpSocket) {
    let gateway = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = gateway.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = gateway.recv_from(&mut buffer).await {
            let _ = gateway.send_to(&buffer[..length], from).await;
        }
    });
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let front = network.connect(("east", "west"), any, address).await.unwrap();
    (front, client(front).await)
}

async fn client(front: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(front).await.unwrap();
    client
}

async fn round_trip(client: &UdpSocket, text: &str, patience: Duration) -> Option<String> {
    client.send(text.as_bytes()).await.unwrap();
    let mut buffer = [0; 2048];
    let length = timeout(patience, client.recv(&mut buffer)).await.ok()?.unwrap();
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_clear_link_passes_datagrams_both_ways_and_keeps_senders_apart() {
    let network = Network::new().unwrap();
    let (front, first) = echo_behind_a_front(&network).await;
    let second = client(front).await;
    assert_eq!(round_trip(&first, "first", LONG).await.as_deref(), Some("first"));
    assert_eq!(
        round_trip(&second, "second", LONG).await.as_deref(),
        Some("second")
    );
}

#[tokio::test]
async fn a_delay_is_taken_in_each_direction() {
    let network = Network::new().unwrap();
    let (_front, client) = echo_behind_a_front(&network).await;
    network.set("west", "east", Conditions::delayed(Duration::from_millis(20)));
    let started = Instant::now();
    assert!(round_trip(&client, "slow", LONG).await.is_some());
    assert!(started.elapsed() >= Duration::from_millis(40));
}

#[tokio::test]
async fn a_cut_link_is_silent_until_it_heals() {
    let network = Network::new().unwrap();
    let (_front, client) = echo_behind_a_front(&network).await;
    assert!(round_trip(&client, "before", LONG).await.is_some());
    network.set_all("west", Conditions::cut());
    assert_eq!(round_trip(&client, "during", SHORT).await, None);
    network.set_all("west", Conditions::clear());
    assert_eq!(round_trip(&client, "after", LONG).await.as_deref(), Some("after"));
}

#[tokio::test]
async fn one_direction_can_be_cut_by_itself() {
    let network = Network::new().unwrap();
    let gateway = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let address = gateway.local_addr().unwrap();
    let front = network.connect(("east", "west"), any, address).await.unwrap();
    let client = client(front).await;
    network.set_direction("west", "east", Conditions::cut());
    assert_eq!(round_trip(&client, "heard", SHORT).await, None);
    let mut buffer = [0; 2048];
    let (length, from) = timeout(LONG, gateway.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&buffer[..length], b"heard");
    network.set_direction("west", "east", Conditions::clear());
    gateway.send_to(b"answered", from).await.unwrap();
    let length = timeout(LONG, client.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..length], b"answered");
}

#[tokio::test]
async fn a_front_for_all_tells_zones_apart_by_their_addresses() {
    let network = Network::new().unwrap();
    let gateway = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = gateway.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = gateway.recv_from(&mut buffer).await {
            let _ = gateway.send_to(&buffer[..length], from).await;
        }
    });
    let senders = BTreeMap::from([
        (IpAddr::from([127, 0, 0, 1]), "east".to_owned()),
        (IpAddr::from([127, 0, 0, 2]), "north".to_owned()),
    ]);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let opened = network.connect_all(&senders, "west", any, address).await;
    let front = opened.unwrap();
    let east = client(front).await;
    let from = async |sender: [u8; 4]| {
        let socket = UdpSocket::bind(SocketAddr::from((sender, 0))).await.unwrap();
        socket.connect(front).await.unwrap();
        socket
    };
    let (north, stranger) = (from([127, 0, 0, 2]).await, from([127, 0, 0, 3]).await);
    network.set("west", "north", Conditions::cut());
    assert!(round_trip(&east, "east", LONG).await.is_some());
    assert_eq!(round_trip(&north, "north", SHORT).await, None);
    assert_eq!(round_trip(&stranger, "stranger", SHORT).await, None);
}

#[tokio::test]
async fn datagrams_under_way_are_lost_with_the_link() {
    let network = Network::new().unwrap();
    let (_front, client) = echo_behind_a_front(&network).await;
    network.set("east", "west", Conditions::delayed(Duration::from_millis(100)));
    assert_eq!(round_trip(&client, "under way", SHORT).await, None);
    network.set("east", "west", Conditions::cut());
    assert_eq!(
        round_trip(&client, "later", Duration::from_millis(200)).await,
        None
    );
}

#[tokio::test]
async fn loss_takes_its_share_of_the_datagrams() {
    let network = Network::new().unwrap();
    let (_front, client) = echo_behind_a_front(&network).await;
    let loss = Conditions {
        loss: 0.5,
        ..Conditions::default()
    };
    network.set("east", "west", loss);
    let mut answered = 0;
    for number in 0..200 {
        if round_trip(&client, &number.to_string(), Duration::from_millis(10))
            .await
            .is_some()
        {
            answered += 1;
        }
    }
    // Half of the way there and half of the way back: a quarter, with room for chance and for a busy machine.
    assert!((15..=90).contains(&answered), "{answered} of 200 were answered");
}

#[tokio::test]
async fn another_pair_of_zones_is_not_disturbed() {
    let network = Network::new().unwrap();
    let (_front, client) = echo_behind_a_front(&network).await;
    network.set("east", "north", Conditions::cut());
    assert!(round_trip(&client, "undisturbed", LONG).await.is_some());
}
