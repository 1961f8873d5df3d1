//! WebSocket between programs that speak it: a handshake, frames and an end, here and in another zone.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use causeway_routing::snapshot::Instance;
use tokio::task::spawn_blocking;
use tungstenite::{
    Error, Message, accept, client,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{speaking_http, two_zones};
use crate::testbed::{self, Zone, connect, until};

/// Bytes of a message that no buffer on the way holds whole.
const LARGE: usize = 1024 * 1024;

/// An instance that takes one connection, and answers each message with itself and a close with a close.
fn echoing() -> Arc<Instance> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn_blocking(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut socket = accept(socket).unwrap();
        loop {
            match socket.read() {
                Ok(message) if message.is_text() || message.is_binary() => socket.send(message).unwrap(),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
    testbed::instance("chat", address, 1, &[])
}

fn talk(vip: SocketAddr) {
    let socket = TcpStream::connect(vip).unwrap();
    let (mut socket, answer) = client("ws://orders.mesh/chat", socket).unwrap();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["via"], "1.1 causeway");
    for message in [
        Message::text("hello"),
        Message::binary(vec![7; LARGE]),
        Message::text("GET / HTTP/1.1\r\n\r\n"),
    ] {
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message);
    }
    socket.send(Message::Ping("are you there".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("are you there".into()));
    let bye = CloseFrame {
        code: CloseCode::Normal,
        reason: "bye".into(),
    };
    socket.close(Some(bye.clone())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Close(Some(bye)));
    let end = socket.read().unwrap_err();
    assert!(
        matches!(end, Error::ConnectionClosed),
        "both have said that they close: {end}"
    );
}

/// Talks from a thread of its own, once the zone takes clients.
async fn talk_to(zone: &Zone) {
    drop(connect(zone.vip).await);
    let vip = zone.vip;
    spawn_blocking(move || talk(vip)).await.unwrap();
}

#[tokio::test]
async fn programs_talk_over_websocket() {
    let home = Zone::start("home", &speaking_http("early: false"), vec![echoing()]);
    talk_to(&home).await;
    until("it is closed", || home.egress.open_connections().count() == 0).await;
}

#[tokio::test]
async fn programs_of_two_zones_talk_over_websocket() {
    let (home, east) = two_zones(&speaking_http("early: false"), vec![echoing()]).await;
    talk_to(&home).await;
    let none = || home.egress.open_connections().count() + east.ingress.open_connections().count() == 0;
    until("it is closed on both sides", none).await;
}
