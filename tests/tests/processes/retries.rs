//! A different workload if the first does not answer within a given number of seconds: an instance, an arm of the split or a zone that
//! accepts requests and does not answer them, through real gateways.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_tests::{
    federation::{Federation, Plan},
    http,
    instance::{Behaviour, Instance},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// Time of one try.
const PER_TRY: Duration = Duration::from_secs(2);
/// Time for all else on a busy machine.
const ALLOWANCE: Duration = Duration::from_secs(3);
const REQUESTS: usize = 40;
/// A service's keys beside its port.
const KEYS: &str = "protocol: http, timeout: 8s, retry: { attempts: 1, per_try_timeout: 2s }";

/// An instance that takes requests and does not answer; it counts them.
async fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut all = Vec::new();
                while let Ok(1..) = socket.read_buf(&mut all).await {
                    if all.ends_with(b"\r\n\r\n") {
                        counted.fetch_add(1, Ordering::Relaxed);
                        all.clear();
                    }
                }
            });
        }
    });
    (address, requests)
}

/// Asks until a silent instance was given a request, and checks that every request is served, by `well`, after one try at most.
async fn served_elsewhere(address: SocketAddr, requests: &AtomicUsize, well: &str) {
    for _ in 0..REQUESTS {
        let (before, begun) = (requests.load(Ordering::Relaxed), Instant::now());
        let answer = http::get(address, "/").await.unwrap();
        let (tries, took) = (requests.load(Ordering::Relaxed) - before, begun.elapsed());
        assert!(answer.status == 200 && answer.body.contains(well), "{answer:?}");
        assert!(tries <= 1, "{well}: {tries}");
        if tries == 1 {
            assert!((PER_TRY..PER_TRY + ALLOWANCE).contains(&took), "{well}: {took:?}");
            return;
        }
        assert!(took < PER_TRY, "{well}: {took:?}");
    }
    panic!("{well}: the silent instance was never asked");
}

struct Scene {
    federation: Federation,
    well: Vec<Instance>,
    silent: Vec<Arc<AtomicUsize>>,
}

/// `one` has a silent instance beside one that is well, `arm` such an arm, `zone` such a zone, and `post` a silent instance alone.
async fn scene() -> Scene {
    let well = |name| Instance::start(name, Behaviour::Http);
    let well = vec![
        well("one-well").await.unwrap(),
        well("arm-well").await.unwrap(),
        well("zone-well").await.unwrap(),
    ];
    let mut silent_ones = Vec::new();
    for _ in 0..5 {
        silent_ones.push(silent().await);
    }
    let split = "split: [{ tags: { v: '1' }, weight: 99 }, { tags: { v: '2' } }]";
    let federation = Plan::new()
        .zone("home")
        .instance("one", silent_ones[0].0, "{}")
        .instance("one", well[0].address(), "{}")
        .instance("arm", silent_ones[1].0, "{ v: '1' }")
        .instance("arm", well[1].address(), "{ v: '2' }")
        .instance("post", silent_ones[3].0, "{}")
        .zone("east")
        .instance("zone", silent_ones[2].0, "{}")
        .instance("breaker", silent_ones[4].0, "{}")
        .zone("west")
        .instance("zone", well[2].address(), "{}")
        .instance("breaker", well[2].address(), "{}")
        .service("one", &format!("port: 8001, {KEYS}"))
        .service("arm", &format!("port: 8002, {KEYS}, {split}"))
        .service(
            "zone",
            &format!("port: 8003, {KEYS}, failover: [{{ zone: east }}, {{ zone: west }}]"),
        )
        .service("post", "port: 8004, protocol: http, timeout: 2s, retry: {}")
        .service(
            "breaker",
            "port: 8005, protocol: http, retry: { attempts: 1, per_try_timeout: 1s }, \
             outlier: { consecutive: 3, eject: 60s }, failover: [{ zone: east }, { zone: west }]",
        )
        .start()
        .await
        .unwrap();
    for zone in ["east", "west"] {
        federation.wait_export("home", zone, "zone").await;
        federation.wait_export("home", zone, "breaker").await;
    }
    Scene {
        federation,
        well,
        silent: silent_ones.into_iter().map(|(_, requests)| requests).collect(),
    }
}

#[tokio::test]
async fn what_accepts_and_does_not_answer_is_served_elsewhere_after_the_declared_seconds() {
    let scene = scene().await;
    for (number, service) in ["one", "arm", "zone"].into_iter().enumerate() {
        let port = 8001 + u16::try_from(number).unwrap();
        let address = scene.federation.service_address("home", service, port).await;
        served_elsewhere(address, &scene.silent[number], &format!("{service}-well")).await;
    }
    let address = scene.federation.service_address("home", "post", 8004).await;
    let begun = Instant::now();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"POST / HTTP/1.1\r\nhost: post\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    socket.write_all(request).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(
        answer.contains("causeway-reason: request_timeout\r\n"),
        "{answer}"
    );
    assert!((PER_TRY..PER_TRY + ALLOWANCE).contains(&begun.elapsed()));
    assert_eq!(scene.silent[3].load(Ordering::Relaxed), 1);
    let metrics = http::get(scene.federation.zone("home").admin, "/metrics")
        .await
        .unwrap();
    for service in ["one", "arm", "zone"] {
        let line = format!("causeway_retried_total{{service=\"{service}\",why=\"late\"}} 1");
        assert!(metrics.body.contains(&line), "{line}");
    }
    drop(scene.well);
}

#[tokio::test]
async fn after_so_many_that_were_not_answered_the_zone_is_not_asked_any_more() {
    let scene = scene().await;
    let address = scene.federation.service_address("home", "breaker", 8005).await;
    let mut waited = Vec::new();
    for _ in 0..10 {
        let begun = Instant::now();
        let answer = http::get(address, "/").await.unwrap();
        assert!(
            answer.status == 200 && answer.body.contains("zone-well"),
            "{answer:?}"
        );
        waited.push(begun.elapsed() >= Duration::from_secs(1));
    }
    let expected: Vec<bool> = (0..10).map(|request| request < 3).collect();
    assert_eq!(
        waited, expected,
        "three wait for a second, and the others for nothing"
    );
    assert_eq!(scene.silent[4].load(Ordering::Relaxed), 3);
    let admin = scene.federation.zone("home").admin;
    let metrics = http::get(admin, "/metrics").await.unwrap();
    let line = "causeway_ejected_total{service=\"breaker\",part=\"zone\"} 1";
    assert!(metrics.body.contains(line), "{line}");
    let explained = http::get(admin, "/v1/explain?service=breaker").await.unwrap();
    assert!(explained.body.contains("failed in a row"), "{}", explained.body);
    // Another process that takes over goes on with it.
    let mut federation = scene.federation;
    federation.succeed_zone("home").await.unwrap();
    let answer = http::get(address, "/").await.unwrap();
    assert!(answer.body.contains("zone-well"), "{answer:?}");
    assert_eq!(scene.silent[4].load(Ordering::Relaxed), 3);
    let explained = http::get(admin, "/v1/explain?service=breaker").await.unwrap();
    assert!(explained.body.contains("failed in a row"), "{}", explained.body);
    drop(scene.well);
}
