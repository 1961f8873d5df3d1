//! The end of a gateway: it waits for connections until its deadline or a second signal, then cuts what is left and names it.

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use causeway_tests::{
    dns,
    federation::{Federation, Plan},
    instance::{Behaviour, Instance},
    load::Load,
    measured::measured,
    talk::{Client, say},
    wait::{until, until_true},
};
use rustix::process::Signal;

const PORT: u16 = 9000;
/// Longest that a gateway may take to end once it is told to end at once.
const AT_ONCE: Duration = Duration::from_secs(10);
/// Time before the end of a process in which it may refuse: it has stopped accepting, and ends.
const AT_DEADLINE: Duration = Duration::from_millis(1_000);

/// East asks west, and a connection that nobody means to end is open.
async fn with_an_open_connection(drain: &str, service: &str) -> (Federation, Instance, Client, SocketAddr) {
    let instance = Instance::start("west", Behaviour::Name).await.unwrap();
    let plan = Plan::new()
        .argument("--drain")
        .argument(drain)
        .zone("east")
        .zone("west")
        .instance("orders", instance.address(), "{}");
    let federation = plan.service("orders", service).start().await.unwrap();
    federation.wait_export("east", "west", "orders").await;
    let address = federation.service_address("east", "orders", PORT).await;
    let mut held = Client::connect(address).await.unwrap();
    assert_eq!(held.say("one").await.unwrap(), "west one");
    (federation, instance, held, address)
}

#[tokio::test]
async fn what_is_open_at_the_drain_deadline_is_cut_and_named() {
    let service = format!("port: {PORT}, protocol: tcp");
    let (mut federation, _instance, mut held, _) = with_an_open_connection("1s", &service).await;
    let east = federation.zone_mut("east");
    east.gateway().signal(Signal::TERM).unwrap();
    let status = east.gateway().wait(AT_ONCE).await;
    assert!(status.success(), "{status}");
    assert!(
        held.say("two").await.is_err(),
        "the connection outlived its gateway"
    );
    let log = federation.zone("east").log();
    let named = log.lines().find(|line| line.contains("cut a connection"));
    assert!(named.is_some_and(|line| line.contains("orders")), "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_a_gateway_at_once() {
    let service = format!("port: {PORT}, protocol: tcp");
    let (mut federation, _instance, _held, _) = with_an_open_connection("1h", &service).await;
    let begun = Instant::now();
    federation
        .zone_mut("east")
        .gateway()
        .signal(Signal::TERM)
        .unwrap();
    federation.zone("east").wait_log(&["draining"]).await;
    let east = federation.zone_mut("east");
    assert!(
        east.gateway().ended().is_none(),
        "it did not wait for the connection"
    );
    east.gateway().signal(Signal::INT).unwrap();
    let status = east.gateway().wait(AT_ONCE).await;
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < AT_ONCE);
    assert!(federation.zone("east").log().contains("cut a connection"));
}

#[tokio::test]
async fn a_gateway_that_cannot_start_says_why_and_nothing_else_is_an_error() {
    let plan = Plan::new()
        .zone("east")
        .service("orders", &format!("port: {PORT}"));
    let mut federation = plan.prepare().await.unwrap();
    // Each is bound after other parts have started, which are then ended.
    let zone = federation.zone("east");
    for taken in [zone.dns, zone.admin, zone.registry] {
        let _taken = TcpListener::bind(taken).unwrap();
        let before = federation.zone("east").log().len();
        federation.start_zone("east").unwrap();
        let east = federation.zone_mut("east");
        let status = east.gateway().wait(AT_ONCE).await;
        assert!(!status.success());
        let log = east.log();
        let errors: Vec<_> = log[before..]
            .lines()
            .filter(|line| line.contains("ERROR") || line.contains("error"))
            .collect();
        assert_eq!(errors.len(), 1, "{log}");
        assert!(errors[0].contains("cannot start the gateway"), "{errors:?}");
        assert!(log[before..].contains(&taken.to_string()), "{log}");
    }
}

#[tokio::test]
async fn an_early_service_gets_the_first_bytes_with_the_request() {
    let service = format!("port: {PORT}, protocol: tcp, early: true");
    let (_federation, instance, mut held, address) = with_an_open_connection("1s", &service).await;
    assert_eq!(held.say("two").await.unwrap(), "west two");
    assert_eq!(say(address, "other").await.unwrap(), "west other");
    let mut lines = instance.lines();
    lines.sort();
    assert_eq!(lines, ["one", "other", "two"]);
}

/// Services beside the one that is asked, so that a start has something to do.
const MANY: usize = 1_000;
/// Longest time in which a gateway that was ended and started again accepts nobody. A promise: 150 ms from the end of the process, of
/// an optimised build on an idle machine.
const LONGEST_GAP: Duration = Duration::from_secs(5);

#[tokio::test]
async fn whoever_comes_while_a_gateway_drains_is_served_and_refused_only_until_the_next_has_started() {
    let instance = Instance::start("west", Behaviour::Name).await.unwrap();
    let plan = Plan::new().argument("--drain").argument("3s");
    let mut plan = plan
        .zone("east")
        .zone("west")
        .instance("orders", instance.address(), "{}")
        .service("orders", &format!("port: {PORT}, protocol: tcp"));
    for number in 0..MANY {
        plan = plan.service(&format!("other-{number}"), "port: 9001, protocol: tcp");
    }
    let mut federation = plan.start().await.unwrap();
    federation.wait_export("east", "west", "orders").await;
    let address = federation.service_address("east", "orders", PORT).await;
    let mut held = Client::connect(address).await.unwrap();
    assert_eq!(held.say("one").await.unwrap(), "west one");

    let load = Load {
        service: address,
        connections_per_second: 200,
        patience: Duration::from_secs(10),
    }
    .start();
    until_true("the load runs", AT_ONCE, async || load.begun() > 20).await;
    let signalled = Instant::now();
    let east = federation.zone_mut("east");
    east.gateway().signal(Signal::TERM).unwrap();
    // Other zones are told, and it serves on; so does mesh DNS.
    east.wait_log(&["draining"]).await;
    let before = load.begun();
    until_true("the load goes on", AT_ONCE, async || load.begun() > before + 100).await;
    let named = dns::addresses(east.dns, "orders.mesh.").await.unwrap();
    assert_eq!(named, [address.ip()]);
    assert_eq!(held.say("two").await.unwrap(), "west two");
    let status = east.gateway().wait(AT_ONCE).await;
    assert!(status.success(), "{status}");
    let ended = Instant::now();
    federation.start_zone("east").unwrap();
    let back = until("a client is served again", AT_ONCE, async || {
        say(address, "back").await.ok().map(|_| Instant::now())
    })
    .await;
    let report = load.stop().await;

    let lost: Vec<_> = report.failed().collect();
    let first = lost.iter().map(|attempt| attempt.started).min();
    let early = lost
        .iter()
        .filter(|attempt| attempt.started + AT_DEADLINE < ended);
    measured(&format!(
        "a gateway with {MANY} services that was ended and started again: {} of {} connections were refused, of which the first {:?} before \
         the end of the process; it ended {:?} after SIGTERM and served {:?} after its end",
        lost.len(),
        report.attempts.len(),
        first.map(|first| ended.saturating_duration_since(first)),
        ended - signalled,
        back - ended,
    ));
    assert_eq!(early.count(), 0, "refused while it drained: {report}");
    assert!(back - ended < LONGEST_GAP, "{:?}", back - ended);
}
