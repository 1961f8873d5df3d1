//! Counts and measures of a gateway, and what follows from them for its clients, go on in the process that takes its place: a return
//! by the ramp, ejections, limits, measured capacity, and the figures of a shift.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance},
    measured::measured,
    pace::ask_at,
    process::run,
    talk::{Client, say},
    wait::{until, until_true},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const PORT: u16 = 9000;

/// One zone with one service and these instances of it.
async fn one_zone(keys: &str, instances: &[SocketAddr]) -> Federation {
    let mut plan = Plan::new().argument("--drain").argument("60s").zone("east");
    for address in instances {
        plan = plan.instance("orders", *address, "{}");
    }
    let plan = plan.service("orders", &format!("port: {PORT}, {keys}"));
    plan.start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_by_the_ramp_goes_on_and_neither_jumps_nor_begins_anew() {
    const HOLD: Duration = Duration::from_secs(2);
    const CONNECTIONS: usize = 100;
    let (own, far) = (
        Instance::start("east", Behaviour::Name).await.unwrap(),
        Instance::start("west", Behaviour::Name).await.unwrap(),
    );
    // A ramp that is far from its end when this test is over.
    let service = format!(
        "port: {PORT}, protocol: tcp, health: {{ tcp: true, every: 200ms, timeout: 200ms }}, \
         failover: [{{ zone: self }}, {{ zone: west }}], failback: {{ hold: {}s, ramp: 600s }}",
        HOLD.as_secs()
    );
    let plan = Plan::new().argument("--drain").argument("60s").zone("east");
    let plan = plan.instance("orders", own.address(), "{}").zone("west");
    let plan = plan.instance("orders", far.address(), "{}");
    let mut federation = plan.service("orders", &service).start().await.unwrap();
    federation.wait_export("east", "west", "orders").await;
    let orders = federation.service_address("east", "orders", PORT).await;
    let answered_by = async |zone: &str| say(orders, "who").await.is_ok_and(|said| said.starts_with(zone));
    until_true("the own zone serves", PATIENCE, async || {
        answered_by("east").await
    })
    .await;
    let served_since = Instant::now();
    until_true("it has served for a hold", PATIENCE, async || {
        served_since.elapsed() > HOLD + Duration::from_secs(1)
    })
    .await;
    let address = own.address();
    drop(own);
    until_true("the other zone serves", PATIENCE, async || {
        answered_by("west").await
    })
    .await;
    federation
        .zone("east")
        .wait_log(&["an instance is unhealthy", "service=orders"])
        .await;
    let _own = Instance::start_at("east", Behaviour::Name, address)
        .await
        .unwrap();
    let begun = "a tier is healthier than it was";
    federation.zone("east").wait_log(&[begun]).await;
    for _ in 0..2 {
        federation.succeed_zone("east").await.unwrap();
        let mut east = 0;
        for _ in 0..CONNECTIONS {
            east += usize::from(answered_by("east").await);
        }
        measured(&format!(
            "{east} of {CONNECTIONS} connections went back at once after a hand-over"
        ));
        assert!(
            east < CONNECTIONS / 2,
            "{east} of {CONNECTIONS}: {}",
            federation.zone("east").log()
        );
    }
    let log = federation.zone("east").log();
    assert_eq!(log.matches(begun).count(), 1, "{log}");
    assert!(!log.contains("has fallen ill on its way back"), "{log}");
}

/// An HTTP server that answers each request with 503, and counts them.
async fn failing_instance() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let counting = count.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(fail(socket, counting.clone()));
        }
    });
    (address, count)
}

async fn fail(mut socket: TcpStream, count: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while let Ok(1..) = socket.read_buf(&mut head).await {
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        count.fetch_add(1, Ordering::Relaxed);
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        if socket.write_all(answer).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn what_is_ejected_stays_so() {
    let well = Instance::start("well", Behaviour::Http).await.unwrap();
    let (failing, asked) = failing_instance().await;
    let keys = "protocol: http, outlier: { consecutive: 3, eject: 600s }";
    let mut federation = one_zone(keys, &[well.address(), failing]).await;
    let orders = federation.service_address("east", "orders", PORT).await;
    until_true("it is ejected", PATIENCE, async || {
        let _ = http::get(orders, "/").await;
        federation.zone("east").log().contains("an instance is ejected")
    })
    .await;
    for _ in 0..2 {
        federation.succeed_zone("east").await.unwrap();
        let before = asked.load(Ordering::Relaxed);
        for _ in 0..20 {
            assert_eq!(http::get(orders, "/").await.unwrap().status, 200);
        }
        assert_eq!(asked.load(Ordering::Relaxed), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_is_not_given_twice() {
    const RATE: f64 = 50.0;
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let keys = format!("protocol: tcp, limits: {{ rate: {RATE}/s }}");
    let mut federation = one_zone(&keys, &[instance.address()]).await;
    let orders = federation.service_address("east", "orders", PORT).await;
    until_true("it serves", PATIENCE, async || say(orders, "x").await.is_ok()).await;
    until_true("the rate is used up", PATIENCE, async || {
        say(orders, "x").await.is_err()
    })
    .await;
    let (begun, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let asking = {
        let stop = stop.clone();
        tokio::spawn(async move {
            let (mut served, mut refused) = (0u32, 0u32);
            while !stop.load(Ordering::Relaxed) {
                match say(orders, "x").await {
                    Ok(_) => served += 1,
                    Err(_) => refused += 1,
                }
            }
            (served, refused)
        })
    };
    for _ in 0..3 {
        federation.succeed_zone("east").await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let (served, refused) = asking.await.unwrap();
    let most = RATE * begun.elapsed().as_secs_f64();
    measured(&format!(
        "three hand-overs with a rate of {RATE} a second: {served} served, {most:.0} allowed, {refused} refused"
    ));
    assert!(f64::from(served) <= most + RATE / 2.0, "{served} of {most}");
    assert!(served > 0 && refused > 0);
}

#[tokio::test]
async fn what_the_process_before_holds_counts_until_it_has_ended() {
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let keys = "protocol: tcp, limits: { connections: 2 }";
    let mut federation = one_zone(keys, &[instance.address()]).await;
    let orders = federation.service_address("east", "orders", PORT).await;
    let connected = async || {
        let mut client = Client::connect(orders).await.ok()?;
        client.say("held").await.ok()?;
        Some(client)
    };
    let mut held = vec![until("it serves", PATIENCE, connected).await];
    held.push(connected().await.unwrap());
    assert!(connected().await.is_none(), "two are there");
    federation.succeed_zone("east").await.unwrap();
    assert!(
        connected().await.is_none(),
        "the process before holds both: {}",
        federation.zone("east").log()
    );
    held.pop();
    // Of three processes each knows what those before it hold.
    held.push(until("one has ended", PATIENCE, connected).await);
    federation.succeed_zone("east").await.unwrap();
    assert!(connected().await.is_none(), "{}", federation.zone("east").log());
    held.clear();
    held.push(until("both have ended", PATIENCE, connected).await);
    held.push(until("both have ended", PATIENCE, connected).await);
    assert!(connected().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_instances_were_found_to_take_is_known_to_the_successor() {
    const METRIC: &str = "causeway_measured_capacity_per_second";
    const OF: [(&str, &str); 2] = [("service", "orders"), ("zone", "east")];
    // It finishes 80 requests a second.
    let busy = Behaviour::Busy {
        at_once: 4,
        takes: Duration::from_millis(50),
    };
    let instance = Instance::start("here", busy).await.unwrap();
    let keys = "protocol: http, spill: { capacity: measured }";
    let mut federation = one_zone(keys, &[instance.address()]).await;
    let orders = federation.service_address("east", "orders", PORT).await;
    let asked = |per_second: f64, seconds: u64| {
        let times = (Duration::ZERO, Duration::from_secs(seconds));
        tokio::spawn(ask_at(per_second, times, move || async move {
            let _ = http::get(orders, "/").await;
        }))
    };
    asked(40.0, 4).await.unwrap();
    let asking = asked(140.0, 60);
    federation.zone("east").wait_metric(METRIC, &OF, 1.0).await;
    // Nobody asks any more: who has nothing to go on with finds nothing.
    asking.abort();
    for _ in 0..2 {
        federation.succeed_zone("east").await.unwrap();
        federation.zone("east").wait_metric(METRIC, &OF, 1.0).await;
    }
}

#[tokio::test]
async fn a_shift_keeps_its_count_of_requests() {
    const REQUESTS: u64 = 30;
    let [old, new] = ["v1", "v2"].map(|name| async { Instance::start(name, Behaviour::Http).await.unwrap() });
    let (old, new) = (old.await, new.await);
    let plan = Plan::new().ruled_by_applied().zone("east");
    let plan = plan
        .instance("orders", old.address(), "{ version: v1 }")
        .instance("orders", new.address(), "{ version: v2 }")
        .service(
            "orders",
            &format!("port: {PORT}, protocol: http, split: [{{ tags: {{ version: v1 }} }}]"),
        );
    let mut federation = plan.start().await.unwrap();
    let orders = federation.service_address("east", "orders", PORT).await;
    until_true("it serves", PATIENCE, async || {
        http::get(orders, "/")
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let admin = federation.zone("east").admin.to_string();
    run([
        "shift",
        "orders",
        "--to",
        "version=v2",
        "--steps",
        "100",
        "--every",
        "1h",
        "--min-requests",
        "1000",
        "--admin",
        &admin,
    ])
    .unwrap();
    let counted = async |federation: &Federation| {
        let page = http::get(federation.zone("east").admin, "/v1/shifts")
            .await
            .ok()?;
        let page: Value = serde_json::from_str(&page.body).ok()?;
        page["items"][0]["requests"].as_u64()
    };
    until_true("the requests are counted", PATIENCE, async || {
        http::get(orders, "/").await.unwrap();
        counted(&federation)
            .await
            .is_some_and(|requests| requests >= REQUESTS)
    })
    .await;
    for _ in 0..2 {
        let before = counted(&federation).await.unwrap();
        federation.succeed_zone("east").await.unwrap();
        assert!(counted(&federation).await.unwrap() >= before, "after a hand-over");
        http::get(orders, "/").await.unwrap();
        until_true("it counts on", PATIENCE, async || {
            counted(&federation)
                .await
                .is_some_and(|requests| requests > before)
        })
        .await;
    }
}
