//! Copies of requests through real gateways: another service of another zone sees what a route forwards, whole and marked, and the client sees
//! nothing of it, however the copy fares.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use causeway_tests::{
    federation::{PATIENCE, Plan},
    instance::{Behaviour, Instance},
    wait::until_true,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const BODY: usize = 50_000;

/// An instance that keeps what it is sent. It answers if `answers` says so.
async fn shadow(answers: bool) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let kept = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let number = {
                let mut kept = kept.lock().unwrap();
                kept.push(Vec::new());
                kept.len() - 1
            };
            let kept = kept.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = socket.read(&mut bytes).await {
                    let is_whole = {
                        let mut kept = kept.lock().unwrap();
                        kept[number].extend_from_slice(&bytes[..read]);
                        is_whole(&kept[number])
                    };
                    if answers && is_whole {
                        let _ = socket
                            .write_all(b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno")
                            .await;
                    }
                }
            });
        }
    });
    (address, requests)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        length.map_or(0, |length| length.parse().unwrap()) == body.len()
    })
}

/// Sends a request and returns its answer and the time that it took.
async fn ask(service: SocketAddr, head: &str, body: &[u8]) -> (String, Duration) {
    let begun = Instant::now();
    let mut client = TcpStream::connect(service).await.unwrap();
    let head = format!(
        "{head} HTTP/1.1\r\nHost: orders.mesh\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(body).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, client.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    (answer, begun.elapsed())
}

#[tokio::test]
async fn another_service_sees_copies_and_the_client_nothing_of_them() {
    let orders = Instance::start("orders", Behaviour::Http).await.unwrap();
    let (answering, seen) = shadow(true).await;
    let (silent, unanswered) = shadow(false).await;
    let routes = "[{ match: { path_prefix: /copied }, mirror: { service: shadow } }, \
        { match: { path_prefix: /silent }, mirror: { service: silent } }, \
        { match: { path_prefix: /forbidden }, mirror: { service: closed } }, \
        { match: { path_prefix: /never }, mirror: { service: shadow, percent: 0 } }]";
    let plan = Plan::new()
        .zone("east")
        .instance("orders", orders.address(), "{}")
        .instance("silent", silent, "{}")
        .instance("closed", silent, "{}")
        .zone("west")
        .instance("shadow", answering, "{}");
    let plan = plan
        .service("orders", &format!("port: 9000, protocol: http, routes: {routes}"))
        .service("shadow", "port: 9001, protocol: http")
        .service("silent", "port: 9002, protocol: http")
        .service("closed", "port: 9003, protocol: http, allow: [nobody-at-all]");
    let federation = plan.start().await.unwrap();
    federation.wait_export("east", "west", "shadow").await;
    let address = federation.service_address("east", "orders", 9000).await;
    let east = federation.zone("east");

    let (answer, _) = ask(address, "POST /copied", &vec![b'x'; BODY]).await;
    assert!(
        answer.starts_with("HTTP/1.1 ") && answer.contains("orders"),
        "{answer}"
    );
    assert!(!answer.starts_with("HTTP/1.1 500"), "{answer}");
    until_true("the copy has come", PATIENCE, async || {
        seen.lock().unwrap().iter().any(|one| is_whole(one))
    })
    .await;
    {
        let seen = seen.lock().unwrap();
        let text = String::from_utf8_lossy(&seen[0]);
        assert!(text.starts_with("POST /copied HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("host: orders.mesh-shadow\r\n"), "{text}");
        assert!(text.ends_with(&"x".repeat(BODY)));
    }
    let why = |why: &'static str| [("service", "orders"), ("why", why)];
    east.wait_metric("causeway_mirrored_total", &why("answered"), 1.0)
        .await;

    // Whatever becomes of copies, no request waits.
    for path in ["GET /silent", "GET /forbidden", "GET /never"] {
        let (answer, took) = ask(address, path, b"").await;
        assert!(answer.contains("orders"), "{path}: {answer}");
        assert!(took < Duration::from_secs(5), "{path}: {took:?}");
    }
    until_true("the silent one has its copy", PATIENCE, async || {
        !unanswered.lock().unwrap().is_empty()
    })
    .await;
    east.wait_metric("causeway_mirrored_total", &why("forbidden"), 1.0)
        .await;
    assert_eq!(seen.lock().unwrap().len(), 1, "nothing is copied twice");
}
