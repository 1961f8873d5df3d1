//! Interim answers, bodies that are asked for, and connections that leave HTTP.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use causeway_host::tasks::Tasks;
use causeway_routing::snapshot::Instance;
use causeway_telemetry::{AccessLog, LineWriter};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{speaking_http, two_zones};
use crate::{
    egress::{EgressConfig, tests::one_id::Written},
    testbed::{self, Zone, connect, until},
};

/// Longest wait for bytes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c, websocket\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A socket that is spoken to by hand.
pub(super) struct Wire {
    socket: TcpStream,
    unread: String,
}

impl Wire {
    pub(super) async fn to(zone: &Zone) -> Self {
        Self::new(connect(zone.vip).await)
    }

    fn new(socket: TcpStream) -> Self {
        let unread = String::new();
        Self { socket, unread }
    }

    pub(super) async fn say(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads up to this text, and with it.
    pub(super) async fn hear(&mut self, end: &str) -> String {
        let reading = async {
            let mut buffer = [0; 4096];
            loop {
                if let Some(at) = self.unread.find(end) {
                    let rest = self.unread.split_off(at + end.len());
                    return std::mem::replace(&mut self.unread, rest);
                }
                let read = self.socket.read(&mut buffer).await.unwrap();
                assert!(read > 0, "it ended before {end:?}: {:?}", self.unread);
                self.unread
                    .push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            }
        };
        let heard = timeout(PATIENCE, reading).await;
        heard.unwrap_or_else(|_| panic!("no {end:?}"))
    }

    pub(super) async fn head(&mut self) -> String {
        self.hear("\r\n\r\n").await
    }

    /// Leaves in a way that the other side hears of.
    pub(super) fn reset(self) {
        self.socket.set_zero_linger().unwrap();
    }

    /// Reads to its end.
    pub(super) async fn rest(&mut self) -> std::io::Result<String> {
        let mut rest = std::mem::take(&mut self.unread);
        let reading = timeout(PATIENCE, self.socket.read_to_string(&mut rest));
        reading.await.expect("an end in time")?;
        Ok(rest)
    }
}

/// An instance that does this on each connection.
pub(super) async fn instance<F: Future<Output = ()> + Send + 'static>(
    script: impl Fn(Wire) -> F + Send + 'static,
) -> Arc<Instance> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(script(Wire::new(socket)));
        }
    });
    testbed::instance("scripted", address, 1, &[])
}

/// An instance that changes to another protocol, in which it says hello and then what it hears in brackets.
pub(super) async fn echoing() -> Arc<Instance> {
    instance(|mut wire| async move {
        let head = wire.head().await;
        assert!(head.contains("\r\nconnection: upgrade\r\n") && head.contains("\r\nupgrade: websocket\r\n"));
        assert!(
            head.contains("sec-websocket-version: 13\r\n") && !head.contains("h2c"),
            "{head}"
        );
        wire.say(&format!("{SWITCHING}hello.")).await;
        loop {
            let mut heard = [0; 100];
            match wire.socket.read(&mut heard).await {
                Ok(count @ 1..) => {
                    let heard = std::str::from_utf8(&heard[..count]).unwrap().to_owned();
                    wire.say(&format!("[{heard}]")).await;
                }
                _ => return,
            }
        }
    })
    .await
}

pub(super) async fn upgraded(zone: &Zone) -> Wire {
    let mut client = Wire::to(zone).await;
    client.say(UPGRADE).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\n") && head.contains("\r\nupgrade: websocket\r\n"));
    assert!(head.contains("\r\nsec-websocket-accept: x\r\n"), "{head}");
    assert_eq!(client.hear("hello.").await, "hello.");
    client
}

#[tokio::test]
async fn a_connection_that_changes_its_protocol_carries_bytes() {
    let written = Written::default();
    let access = LineWriter::start("access log", written.clone(), &Tasks::default()).unwrap();
    let home = Zone::with_access_log(
        "home",
        &speaking_http("early: false"),
        vec![echoing().await],
        EgressConfig::new(1),
        AccessLog::Text(access),
    );
    let mut client = upgraded(&home).await;
    for text in ["one", "GET / HTTP/1.1\n\n", "\u{0}\u{1}"] {
        client.say(text).await;
        client.hear(&format!("[{text}]")).await;
    }
    assert!(written.lines().is_empty(), "it is under way");
    client.socket.shutdown().await.unwrap();
    assert_eq!(client.rest().await.unwrap(), "");
    until("its line is written", || written.lines().len() == 1).await;
    assert!(
        written.lines()[0].contains(" home->home served "),
        "{:?}",
        written.lines()
    );
    until("it is closed", || home.egress.open_connections().count() == 0).await;
}

#[tokio::test]
async fn it_may_be_in_another_zone() {
    let (home, east) = two_zones(&speaking_http("early: false"), vec![echoing().await]).await;
    let mut client = upgraded(&home).await;
    client.say("over there").await;
    client.hear("[over there]").await;
    drop(client);
    let none = || home.egress.open_connections().count() + east.ingress.open_connections().count() == 0;
    until("it is closed on both sides", none).await;
}

#[tokio::test]
async fn what_comes_behind_a_refused_change_is_a_request() {
    let refusing = instance(|mut wire| async move {
        for _ in 0..3 {
            wire.head().await;
            wire.say(OK).await;
        }
    });
    let home = Zone::start("home", &speaking_http("early: false"), vec![refusing.await]);
    let mut client = Wire::to(&home).await;
    let two = format!("{UPGRADE}GET /two HTTP/1.1\r\nHost: a\r\n\r\n");
    client.say(&two).await;
    for _ in 0..2 {
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        client.hear("ok").await;
    }
    client.say(&format!("{UPGRADE}GET /two HTTP/1.1\n\n")).await;
    let rest = client.rest().await.unwrap();
    assert!(
        rest.contains("ok") && rest.contains("HTTP/1.1 400 Bad Request\r\n"),
        "{rest}"
    );
}

#[tokio::test]
async fn http_2_by_upgrade_is_not_offered() {
    let plain = instance(|mut wire| async move {
        let head = wire.head().await;
        assert!(
            !head.contains("upgrade") && !head.contains("http2-settings"),
            "{head}"
        );
        wire.say(OK).await;
    });
    let home = Zone::start("home", &speaking_http("early: false"), vec![plain.await]);
    let mut client = Wire::to(&home).await;
    client
        .say("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_change_that_nobody_asked_for_is_no_answer() {
    let eager = instance(|mut wire| async move {
        wire.head().await;
        wire.say(SWITCHING).await;
        let _ = wire.rest().await;
    });
    let home = Zone::start("home", &speaking_http("early: false"), vec![eager.await]);
    let mut client = Wire::to(&home).await;
    client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{head}");
}

#[tokio::test]
async fn a_changed_connection_ends_when_nothing_moves_and_when_it_is_cut() {
    let topology = speaking_http("idle_timeout: 2s");
    let home = Zone::start("home", &topology, vec![echoing().await]);
    let mut client = upgraded(&home).await;
    assert!(client.rest().await.is_err(), "it is reset");
    until("it is closed", || home.egress.open_connections().count() == 0).await;
    let mut client = upgraded(&home).await;
    home.egress.cut();
    assert!(client.rest().await.is_err(), "it is reset");
    until("it is closed", || home.egress.open_connections().count() == 0).await;
}

#[tokio::test]
async fn interim_answers_come_before_the_answer() {
    let hinting = instance(|mut wire| async move {
        wire.head().await;
        wire.say("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nkeep-alive: 5\r\ncontent-length: 20\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        wire.hear("more").await;
        wire.say(&format!(
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </b.css>\r\n\r\n{OK}"
        ))
        .await;
        wire.head().await;
        wire.say(OK).await;
    });
    let home = Zone::start("home", &speaking_http("early: false"), vec![hinting.await]);
    let mut client = Wire::to(&home).await;
    client
        .say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
        .await;
    assert_eq!(
        client.head().await,
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"
    );
    client.say("more").await;
    assert_eq!(client.head().await, "HTTP/1.1 102 Processing\r\n\r\n");
    assert_eq!(
        client.head().await,
        "HTTP/1.1 103 Early Hints\r\nlink: </b.css>\r\n\r\n"
    );
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    client.hear("ok").await;
    client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_interim_answer() {
    let hinting = instance(|mut wire| async move {
        wire.head().await;
        wire.say(&format!("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n{OK}"))
            .await;
    });
    let home = Zone::start("home", &speaking_http("early: false"), vec![hinting.await]);
    let mut client = Wire::to(&home).await;
    client.say("GET / HTTP/1.0\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.0 200 OK\r\n"));
}

const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

#[tokio::test]
async fn a_body_is_asked_for_when_the_instance_asks() {
    let asking = instance(|mut wire| async move {
        let head = wire.head().await;
        assert!(head.contains("expect: 100-continue\r\n"), "{head}");
        wire.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        wire.hear("body").await;
        wire.say(OK).await;
    });
    let home = Zone::start("home", &speaking_http("early: false"), vec![asking.await]);
    let mut client = Wire::to(&home).await;
    client.say(EXPECTING).await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.say("body").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn an_answer_without_the_body_closes_and_asks_for_none() {
    let refusing = instance(|mut wire| async move {
        wire.head().await;
        wire.say("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno")
            .await;
        assert!(wire.rest().await.unwrap_or_default().is_empty());
    });
    let home = Zone::start("home", &speaking_http("early: false"), vec![refusing.await]);
    let mut client = Wire::to(&home).await;
    client.say(EXPECTING).await;
    let answer = client.rest().await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{answer}");
    assert!(
        answer.contains("\r\nconnection: close\r\n") && answer.ends_with("\r\n\r\nno"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_comes_in_the_end_for_an_instance_that_does_not_ask() {
    let waiting = instance(|mut wire| async move {
        wire.head().await;
        wire.hear("body").await;
        wire.say(OK).await;
    });
    let home = Zone::start("home", &speaking_http("early: false"), vec![waiting.await]);
    let mut client = Wire::to(&home).await;
    client.say(EXPECTING).await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.say("body").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}
