//! Slow start through real gateways: an instance that is healthy again, and a zone that is, come to their shares over the declared time.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    instance::{Behaviour, Instance},
    measured::measured,
    process, talk,
    wait::until_true,
};

const PORT: u16 = 9000;
const START: Duration = Duration::from_secs(10);
/// Time after which a gateway takes what it finds for new.
const SETTLES: Duration = Duration::from_secs(11);
/// Connections of which a share is taken. Four standard deviations of a half are then 0.12.
const CONNECTIONS: usize = 300;
const BOUND: f64 = 0.12;

/// Share of new connections that are answered by this name.
async fn share(orders: SocketAddr, name: &str) -> f64 {
    let mut count = 0usize;
    for _ in 0..CONNECTIONS {
        let answer = talk::say(orders, "who").await.unwrap();
        count += usize::from(answer.starts_with(name));
    }
    count as f64 / CONNECTIONS as f64
}

async fn explains(federation: &Federation, line: &str) {
    until_true(&format!("explain says {line:?}"), PATIENCE, async || {
        let admin = federation.zone("east").admin.to_string();
        process::run(["explain", "orders", "--admin", &admin]).is_ok_and(|told| told.contains(line))
    })
    .await;
}

/// Shares until one is as large as `full`, each with the time at which it was begun to be taken and the one at which it was had.
async fn course(orders: SocketAddr, name: &str, full: f64) -> Vec<(Duration, Duration, f64)> {
    let healthy = Instant::now();
    let mut course: Vec<(Duration, Duration, f64)> = Vec::new();
    while healthy.elapsed() < START || course.last().is_none_or(|(.., share)| *share < full - BOUND) {
        assert!(healthy.elapsed() < START + PATIENCE, "{course:?}");
        let began = healthy.elapsed();
        let share = share(orders, name).await;
        course.push((began, healthy.elapsed(), share));
    }
    course
}

fn told(course: &[(Duration, Duration, f64)]) -> String {
    let one = |(at, _, share): &(Duration, Duration, f64)| {
        format!("{:.1} s: {:.0} %", at.as_secs_f64(), share * 100.0)
    };
    course.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_and_a_tier_that_are_healthy_again_come_to_their_shares_slowly() {
    let far = Instance::start("west", Behaviour::Name).await.unwrap();
    let stays = Instance::start("stays", Behaviour::Name).await.unwrap();
    let returns = Instance::start("returns", Behaviour::Name).await.unwrap();
    let service = format!(
        "port: {PORT}, protocol: tcp, health: {{ tcp: true, every: 200ms, timeout: 200ms }}, \
         failover: [{{ zone: self }}, {{ zone: west }}], slow_start: {}s",
        START.as_secs(),
    );
    let plan = Plan::new().zone("east");
    let plan = plan
        .instance("orders", stays.address(), "{}")
        .instance("orders", returns.address(), "{}");
    let plan = plan.zone("west").instance("orders", far.address(), "{}");
    let federation = plan.service("orders", &service).start().await.unwrap();
    let running = Instant::now();
    federation.wait_export("east", "west", "orders").await;
    let orders = federation.service_address("east", "orders", PORT).await;
    explains(&federation, "2 of 2 instances can serve: 100 % of the traffic").await;
    until_true("what is found now is new", PATIENCE, async || {
        running.elapsed() > SETTLES
    })
    .await;

    // One of two: a tenth of its share at first, and half of it all at the end.
    let address = returns.address();
    drop(returns);
    explains(&federation, "1 of 2 instances can serve").await;
    let returned = Instance::start_at("returns", Behaviour::Name, address)
        .await
        .unwrap();
    explains(&federation, "2 of 2 instances can serve").await;
    let of_instance = course(orders, "returns", 0.5).await;
    measured(&format!(
        "share of one of two instances at its slow start of 10 s: {}",
        told(&of_instance)
    ));
    for (_, had, share) in &of_instance {
        // The check may have been half a second before `explain`.
        let part = ((had.as_secs_f64() + 1.0) / START.as_secs_f64()).clamp(0.1, 1.0);
        assert!(
            *share <= part / (1.0 + part) + BOUND,
            "{share} at {had:?}: {}",
            told(&of_instance)
        );
    }

    // The whole tier: the other zone keeps what it does not take yet.
    let addresses = [address, stays.address()];
    drop((returned, stays));
    explains(&federation, "0 of 2 instances can serve: 0 % of the traffic").await;
    assert_eq!(share(orders, "west").await, 1.0);
    let mut again = Vec::new();
    for address in addresses {
        again.push(
            Instance::start_at("again", Behaviour::Name, address)
                .await
                .unwrap(),
        );
    }
    explains(&federation, "2 of 2 instances can serve").await;
    let of_tier = course(orders, "again", 1.0).await;
    measured(&format!(
        "share of a tier at its slow start of 10 s: {}",
        told(&of_tier)
    ));
    for (_, had, share) in &of_tier {
        let most = (had.as_secs_f64() + 1.0) / START.as_secs_f64();
        assert!(*share <= most + BOUND, "{share} at {had:?}: {}", told(&of_tier));
    }
}
