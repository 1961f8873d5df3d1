//! Spill and failback through real gateways: what a tier that lost instances gives away, and how it comes back.

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
const INSTANCES: usize = 4;
const HOLD: Duration = Duration::from_secs(2);
const RAMP: Duration = Duration::from_secs(8);
/// Connections of which a share is taken. Four standard deviations of a half are then 0.1.
const CONNECTIONS: usize = 400;
const BOUND: f64 = 0.1;

struct Scene {
    federation: Federation,
    own: Vec<Instance>,
    _far: Instance,
    orders: SocketAddr,
}

impl Scene {
    async fn start() -> Self {
        let far = Instance::start("west", Behaviour::Name).await.unwrap();
        let mut own = Vec::new();
        let mut plan = Plan::new().zone("east");
        for _ in 0..INSTANCES {
            let instance = Instance::start("east", Behaviour::Name).await.unwrap();
            plan = plan.instance("orders", instance.address(), "{}");
            own.push(instance);
        }
        let service = format!(
            "port: {PORT}, protocol: tcp, health: {{ tcp: true, every: 200ms, timeout: 200ms }}, \
             failover: [{{ zone: self }}, {{ zone: west }}], \
             spill: {{ healthy_below: 100% }}, failback: {{ hold: {}s, ramp: {}s }}",
            HOLD.as_secs(),
            RAMP.as_secs(),
        );
        let plan = plan.zone("west").instance("orders", far.address(), "{}");
        let federation = plan.service("orders", &service).start().await.unwrap();
        federation.wait_export("east", "west", "orders").await;
        let orders = federation.service_address("east", "orders", PORT).await;
        Self {
            federation,
            own,
            _far: far,
            orders,
        }
    }

    /// Share of new connections that the own zone takes.
    async fn share_of_east(&self) -> f64 {
        let mut east = 0usize;
        for _ in 0..CONNECTIONS {
            let answer = talk::say(self.orders, "who").await.unwrap();
            east += usize::from(answer.starts_with("east "));
        }
        east as f64 / CONNECTIONS as f64
    }

    fn explained(&self) -> String {
        let admin = self.federation.zone("east").admin.to_string();
        process::run(["explain", "orders", "--admin", &admin]).unwrap()
    }

    async fn explains(&self, line: &str) {
        until_true(&format!("explain says {line:?}"), PATIENCE, async || {
            self.explained().contains(line)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_tier_takes_half_and_the_rest_comes_back_by_the_ramp() {
    let mut scene = Scene::start().await;
    scene
        .explains("4 of 4 instances can serve: 100 % of the traffic")
        .await;
    assert_eq!(
        scene.share_of_east().await,
        1.0,
        "nothing spills from a healthy tier"
    );

    // What has served for less than a hold returns at once.
    let served_since = Instant::now();
    until_true("the tier has served for a hold", PATIENCE, async || {
        served_since.elapsed() > HOLD + Duration::from_secs(1)
    })
    .await;

    let lost: Vec<SocketAddr> = scene
        .own
        .drain(..INSTANCES / 2)
        .map(|one| one.address())
        .collect();
    scene
        .explains("2 of 4 instances can serve: 50 % of the traffic")
        .await;
    let half = scene.share_of_east().await;
    assert!((half - 0.5).abs() <= BOUND, "{half}");

    for address in lost {
        scene.own.push(
            Instance::start_at("east", Behaviour::Name, address)
                .await
                .unwrap(),
        );
    }
    scene.explains("4 of 4 instances can serve").await;
    let healthy = Instant::now();
    let mut course = Vec::new();
    while course.last().is_none_or(|(_, share)| *share < 1.0) {
        assert!(healthy.elapsed() < HOLD + RAMP + PATIENCE, "{course:?}");
        let began = healthy.elapsed();
        course.push((began, scene.share_of_east().await));
    }
    let told: Vec<String> = course
        .iter()
        .map(|(at, share)| format!("{:.1} s: {:.0} %", at.as_secs_f64(), share * 100.0))
        .collect();
    measured(&format!("share of a tier on its way back: {}", told.join(", ")));
    for (at, share) in &course {
        // Each sample takes a while: it may have no more than what the ramp allows at its end, which is where the next begins.
        let after = course.iter().map(|(next, _)| *next).find(|next| next > at);
        let ramping = after
            .unwrap_or(healthy.elapsed())
            .saturating_sub(HOLD)
            .as_secs_f64();
        let most = 0.5 + ramping / RAMP.as_secs_f64();
        assert!(
            *share <= most + BOUND,
            "{share} at {at:?} is over {most}: {told:?}"
        );
    }
    assert!(
        healthy.elapsed() >= HOLD + RAMP / 2,
        "half of the traffic comes back in half of the ramp: {told:?}"
    );
    let east = scene.federation.zone("east");
    east.wait_log(&["INFO", "a tier is healthier than it was", "orders"])
        .await;
    east.wait_log(&["INFO", "takes all the traffic again", "orders"])
        .await;
}
