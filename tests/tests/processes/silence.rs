//! Costs of a peer's silence: a pause loses no connection, a restart keeps none waiting, and a gateway that is gone for
//! good is given up in time. The instances live in the test and outlast the gateways.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    instance::{Behaviour, Instance},
    link::Conditions,
    load::{ConnectionOutcome, Load, Report},
    measured::measured,
    talk::{Client, say},
    wait::until_true,
};
use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::sync::Mutex;

const PORT: u16 = 9000;
/// Connections that are open over a pause.
const OPEN: usize = 20;
const PAUSE: Duration = Duration::from_secs(5);
/// Longest time that an open connection waits for a gateway that is gone: the default of `--tunnel-idle-timeout`, and a
/// little for a busy machine.
const GIVEN_UP: Duration = Duration::from_secs(12);
/// Longest wait of a new connection once the gateway that restarted is ready.
const LONGEST_WAIT: Duration = Duration::from_millis(300);
const CONNECTIONS_PER_SECOND: u32 = 200;
/// Connections before the restart and after it.
const BEFORE: u64 = 200;
const AFTER: u64 = 600;

/// Waits are measured here, so these tests run one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// east has the clients, and west alone serves them.
struct Pair {
    federation: Federation,
    service: SocketAddr,
    _instance: Instance,
}

impl Pair {
    async fn start(plan: impl FnOnce(Plan) -> Plan) -> Self {
        let instance = Instance::start("west", Behaviour::Name).await.unwrap();
        let plan = plan(Plan::new().zone("east")).zone("west");
        let plan = plan.instance("orders", instance.address(), "{}").service(
            "orders",
            &format!("port: {PORT}, protocol: tcp, failover: [{{ zone: west }}]"),
        );
        let federation = plan.start().await.unwrap();
        federation.wait_export("east", "west", "orders").await;
        let service = federation.service_address("east", "orders", PORT).await;
        let pair = Self {
            federation,
            service,
            _instance: instance,
        };
        pair.wait_served().await;
        pair
    }

    async fn wait_served(&self) {
        until_true("west serves", PATIENCE, async || {
            say(self.service, "who")
                .await
                .is_ok_and(|answer| answer == "west who")
        })
        .await;
    }

    fn signal(&mut self, signal: Signal) {
        let west = self.federation.zone_mut("west").gateway();
        west.signal(signal).unwrap();
    }

    async fn open(&self) -> Vec<Client> {
        let open = async || {
            let mut client = Client::connect(self.service).await.unwrap();
            assert_eq!(client.say("hello").await.unwrap(), "west hello");
            client
        };
        join_all((0..OPEN).map(|_| open())).await
    }
}

/// Has every client say something at once; `end` ends the pause that they say it into.
async fn survivors(clients: &mut [Client], end: impl FnOnce()) -> usize {
    let begun = Instant::now();
    let ending = async {
        until_true("the pause is over", 2 * PAUSE, async || begun.elapsed() >= PAUSE).await;
        end();
    };
    let talking = clients
        .iter_mut()
        .map(async |client| client.say("still there?").await);
    let (answers, ()) = tokio::join!(join_all(talking), ending);
    measured(&format!("the last answer after {:?}", begun.elapsed()));
    let good = |answer: &&anyhow::Result<String>| answer.as_ref().is_ok_and(|it| it == "west still there?");
    answers.iter().filter(good).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_stopped_for_five_seconds_keeps_every_connection() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut pair = Pair::start(|plan| plan).await;
    let mut clients = pair.open().await;
    pair.signal(Signal::STOP);
    let survived = survivors(&mut clients, || pair.signal(Signal::CONT)).await;
    assert_eq!(survived, OPEN);
    pair.wait_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_for_five_seconds_keeps_every_connection() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let pair = Pair::start(Plan::linked).await;
    let mut clients = pair.open().await;
    let network = pair.federation.network();
    network.set_all("west", Conditions::cut());
    let survived = survivors(&mut clients, || network.set_all("west", Conditions::clear())).await;
    assert_eq!(survived, OPEN);
    pair.wait_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_a_gateway_that_is_gone_for_good_waits_ten_seconds_at_most() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let pair = Pair::start(Plan::linked).await;
    let mut clients = pair.open().await;
    pair.federation.network().set_all("west", Conditions::cut());
    let begun = Instant::now();
    // One `say` gives up after ten seconds by itself; the connection is over once a second one fails at once.
    let mut client = clients.remove(0);
    let given_up = || begun.elapsed() < GIVEN_UP;
    while given_up()
        && client
            .say("anybody?")
            .await
            .is_ok_and(|answer| !answer.is_empty())
    {}
    let over = Instant::now();
    let _ = client.say("really nobody?").await;
    assert!(
        over.elapsed() < Duration::from_secs(2),
        "the connection is still open"
    );
    measured(&format!("gone for good: reset after {:?}", over - begun));
    assert!(begun.elapsed() < GIVEN_UP + Duration::from_secs(2));
}

/// The longest wait after `ready` of a connection that was served, and how many were not though `west` was ready.
fn waits_after(report: &Report, ready: Instant) -> (Duration, usize) {
    let mut longest = Duration::ZERO;
    let mut failed = 0;
    for attempt in &report.attempts {
        let ended = attempt.started + attempt.waited;
        match attempt.outcome {
            ConnectionOutcome::Served { .. } => {
                longest = longest.max(ended.saturating_duration_since(ready.max(attempt.started)));
            }
            _ if attempt.started > ready => failed += 1,
            _ => {}
        }
    }
    (longest, failed)
}

async fn restart_under_load(mut pair: Pair, case: &str) {
    let load = Load {
        service: pair.service,
        connections_per_second: CONNECTIONS_PER_SECOND,
        patience: Duration::from_secs(5),
    };
    let running = load.start();
    until_true("the load has begun", PATIENCE, async || running.begun() >= BEFORE).await;
    pair.federation.zone_mut("west").kill().unwrap();
    pair.federation.start_zone("west").unwrap();
    pair.federation.ready("west").await;
    let ready = Instant::now();
    let begun = running.begun();
    until_true("the load has gone on", PATIENCE, async || {
        running.begun() >= begun + AFTER
    })
    .await;
    let report = running.stop().await;
    let (longest, failed) = waits_after(&report, ready);
    measured(&format!(
        "{case}: {report}\n{case}: longest wait once west was back {longest:?}"
    ));
    assert_eq!(failed, 0, "{case}: {report}");
    assert!(longest < LONGEST_WAIT, "{case}: {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_restarts_keeps_new_connections_waiting_no_longer_than_it_takes() {
    let _alone = ONE_AT_A_TIME.lock().await;
    restart_under_load(Pair::start(|plan| plan).await, "restarted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_restarts_and_dials_nobody_is_noticed_as_soon() {
    let _alone = ONE_AT_A_TIME.lock().await;
    restart_under_load(Pair::start(Plan::dials_only).await, "restarted, is dialled").await;
}
