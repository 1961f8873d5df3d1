//! The promises of a failover, under 200 new connections a second from a third zone: a connection that no instance has
//! been given is never lost to a dead zone, and no instance is ever given what another was given.
//!
//! The instances live in the test and outlast the gateways, so each can say exactly what it was given.

use std::{net::SocketAddr, time::Duration};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    instance::{Behaviour, Instance},
    link::Conditions,
    load::{Load, Report},
    measured::measured,
    talk::say,
    verdict::{Testimony, Verdict},
    wait::until_true,
};
use rustix::process::Signal;
use tokio::sync::Mutex;

const PORT: u16 = 9000;
const CONNECTIONS_PER_SECOND: u32 = 200;
/// Connections before the failure and after it: one second and three.
const BEFORE: u64 = 200;
const AFTER: u64 = 600;
/// No connection that is served may wait longer than this, when the zone goes silent.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Waits are measured here, so these tests run one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

struct Failover {
    federation: Federation,
    west: Instance,
    north: Instance,
    service: SocketAddr,
}

impl Failover {
    /// east has the clients; west serves, and north is next in line.
    async fn start() -> Self {
        let west = Instance::start("west", Behaviour::Name).await.unwrap();
        let north = Instance::start("north", Behaviour::Name).await.unwrap();
        let plan = Plan::new()
            .zone("east")
            .zone("west")
            .instance("orders", west.address(), "{}");
        let plan = plan
            .zone("north")
            .instance("orders", north.address(), "{}")
            .linked();
        let service = format!("port: {PORT}, protocol: tcp, failover: [{{ zone: west }}, {{ zone: north }}]");
        let federation = plan.service("orders", &service).start().await.unwrap();
        federation.wait_export("east", "west", "orders").await;
        federation.wait_export("east", "north", "orders").await;
        let service = federation.service_address("east", "orders", PORT).await;
        let failover = Self {
            federation,
            west,
            north,
            service,
        };
        failover.wait_west_serves().await;
        failover
    }

    async fn wait_west_serves(&self) {
        until_true("west serves", PATIENCE, async || {
            say(self.service, "who")
                .await
                .is_ok_and(|answer| answer == "west who")
        })
        .await;
    }

    /// Loads the service and lets `fail` happen in the middle of it.
    async fn load(&mut self, fail: impl FnOnce(&mut Federation)) -> Report {
        let load = Load {
            service: self.service,
            connections_per_second: CONNECTIONS_PER_SECOND,
            patience: Duration::from_secs(5),
        };
        let running = load.start();
        until_true("the load has begun", PATIENCE, async || running.begun() >= BEFORE).await;
        fail(&mut self.federation);
        until_true("the load has gone on", PATIENCE, async || {
            running.begun() >= BEFORE + AFTER
        })
        .await;
        running.stop().await
    }

    fn judge(&self, case: &str, report: &Report) -> Verdict {
        let testimony = |instance: &Instance| Testimony {
            instance: instance.name().to_owned(),
            lines: instance.lines(),
            empty_connections: instance.empty_connections(),
        };
        let verdict = Verdict::new(report, &[testimony(&self.west), testimony(&self.north)]);
        measured(&format!("{case}: {report}\n{case}: {verdict}"));
        assert!(
            verdict.promises_kept(),
            "{case}: {report}\n{verdict}: {verdict:?}"
        );
        assert!(
            report.served().contains_key("west") && report.served().contains_key("north"),
            "{report}"
        );
        verdict
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_serving_gateway_loses_no_connection() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut failover = Failover::start().await;
    let report = failover
        .load(|federation| federation.zone_mut("west").kill().unwrap())
        .await;
    failover.judge("killed", &report);
    failover.federation.start_zone("west").unwrap();
    failover.wait_west_serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cutting_the_serving_zone_off_loses_no_connection_and_keeps_waits_short() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut failover = Failover::start().await;
    let report = failover
        .load(|federation| federation.network().set_all("west", Conditions::cut()))
        .await;
    failover.judge("cut off", &report);
    assert!(report.longest_wait() < LONGEST_WAIT, "{report}");
    failover.federation.network().set_all("west", Conditions::clear());
    failover.wait_west_serves().await;
    // What was under way when the link broke may arrive only now; it must not be a second delivery.
    failover.judge("cut off, then healed", &report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_the_serving_gateway_loses_no_connection_and_keeps_waits_short() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut failover = Failover::start().await;
    let signal =
        |federation: &mut Federation, signal| federation.zone_mut("west").gateway().signal(signal).unwrap();
    let report = failover.load(|federation| signal(federation, Signal::STOP)).await;
    failover.judge("stopped", &report);
    assert!(report.longest_wait() < LONGEST_WAIT, "{report}");
    signal(&mut failover.federation, Signal::CONT);
    failover.wait_west_serves().await;
    failover.judge("stopped, then continued", &report);
}
