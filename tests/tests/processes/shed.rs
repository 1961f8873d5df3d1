//! Capacity through real gateways: who is over it gives to who has room and sheds the rest, the sheddable first, and a gateway knows of the
//! clients of another zone.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan, Zone},
    http,
    instance::{Behaviour, Instance},
    measured::measured,
    pace::ask_at,
    process::run,
    wait::until_true,
};

const PORT: u16 = 9000;
/// Requests a second that the instance of `east` can take, and that of `west`.
const EAST: f64 = 40.0;
const WEST: f64 = 40.0;
/// Requests a second of clients in `east`: critical, normal and sheddable; together 2.5 times what it can take.
const RATES: [f64; 3] = [20.0, 30.0, 50.0];
/// Requests a second of clients in `west`: they leave room for 10 of another zone's.
const OF_WEST: f64 = 30.0;
const PATHS: [&str; 3] = ["/pay", "/", "/report"];
/// Time in which shares settle, and time for which is counted after it.
const SETTLES: Duration = Duration::from_secs(5);
const COUNTED: Duration = Duration::from_secs(10);
/// Factor that chance adds to a mean of 400 in nearly all runs, and a busy machine to that.
const BOUND: f64 = 1.25;

/// Answers of requests by the name of the instance, or by the word of the gateway.
type Answers = BTreeMap<String, usize>;

/// Asks so often in a second, whatever the answers take, and counts those that are asked for once the shares have settled.
async fn ask(address: SocketAddr, path: &'static str, per_second: f64) -> Answers {
    let asked = ask_at(per_second, (SETTLES, COUNTED), || async move {
        http::get(address, path).await.unwrap()
    });
    let mut answers = Answers::new();
    for (counts, answer) in asked.await {
        let word = match answer.status {
            200 if answer.body.contains("east") => "east",
            200 if answer.body.contains("west") => "west",
            503 if answer.body.contains("(shed)") => "shed",
            _ => panic!("{answer:?}"),
        };
        if counts {
            *answers.entry(word.to_owned()).or_default() += 1;
        }
    }
    answers
}

async fn start(own: &Instance, far: &Instance) -> Federation {
    let service = format!(
        "port: {PORT}, protocol: http, failover: [{{ zone: self }}, {{}}], spill: {{ capacity: respect }}, \
         routes: [{{ match: {{ path: /pay }}, criticality: critical }}, {{ match: {{ path: /report }}, criticality: sheddable }}]"
    );
    let plan = Plan::new().zone("east");
    let plan = plan.instance("orders", own.address(), &format!("{{}}, capacity: {EAST:.0}/s"));
    let plan = plan.zone("west");
    let plan = plan.instance("orders", far.address(), &format!("{{}}, capacity: {WEST:.0}/s"));
    let federation = plan.service("orders", &service).start().await.unwrap();
    for (from, zone) in [("east", "west"), ("west", "east")] {
        federation.wait_export(from, zone, "orders").await;
    }
    federation
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sheddable_goes_first_and_no_zone_gets_more_than_it_can_take() {
    let own = Instance::start("east", Behaviour::Http).await.unwrap();
    let far = Instance::start("west", Behaviour::Http).await.unwrap();
    let federation = start(&own, &far).await;
    let east = federation.service_address("east", "orders", PORT).await;
    let west = federation.service_address("west", "orders", PORT).await;
    let [critical, normal, sheddable, of_west] = [
        (east, PATHS[0], RATES[0]),
        (east, PATHS[1], RATES[1]),
        (east, PATHS[2], RATES[2]),
        (west, PATHS[1], OF_WEST),
    ]
    .map(|(address, path, rate)| tokio::spawn(ask(address, path, rate)));
    until_true("explain tells of what is shed", PATIENCE, async || {
        let explained = federation.explained("east", &["orders", "--path", "/report"]);
        explained
            .await
            .unwrap()
            .contains("is shed: there is no capacity for it")
    })
    .await;
    let (critical, normal) = (critical.await.unwrap(), normal.await.unwrap());
    let (sheddable, of_west) = (sheddable.await.unwrap(), of_west.await.unwrap());
    let told =
        format!("critical {critical:?}, normal {normal:?}, sheddable {sheddable:?}, of west {of_west:?}");
    measured(&format!("requests of {} s: {told}", COUNTED.as_secs()));

    assert_eq!(critical.get("shed"), None, "{told}");
    assert_eq!(of_west.get("shed"), None, "its own clients come first: {told}");
    let all = [&critical, &normal, &sheddable, &of_west];
    for (zone, capacity) in [("east", EAST), ("west", WEST)] {
        let given: usize = all.iter().filter_map(|answers| answers.get(zone)).sum();
        let most = capacity * COUNTED.as_secs_f64() * BOUND;
        assert!((given as f64) < most, "{zone} was given {given}: {told}");
    }
    let shed = |answers: &Answers| answers.get("shed").copied().unwrap_or_default() as f64;
    let sheddable_asked: usize = sheddable.values().sum();
    assert!(
        shed(&sheddable) > 0.8 * sheddable_asked as f64,
        "nothing is left for the sheddable: {told}"
    );
    everybody_is_told(federation.zone("east"), shed(&sheddable)).await;
}

/// Waits until metrics, the log, `check` and the events of the gateway that sheds tell what is shed, and why.
async fn everybody_is_told(gateway: &Zone, shed: f64) {
    gateway
        .wait_metric("causeway_requests_total", &[("outcome", "shed")], shed)
        .await;
    gateway
        .wait_metric("causeway_decisions_total", &[("reason", "shed")], 1.0)
        .await;
    gateway
        .wait_metric("causeway_capacity_per_second", &[("zone", "west")], WEST)
        .await;
    gateway
        .wait_log(&["WARN", "a limit of a service was reached", "orders", "capacity"])
        .await;
    let log = gateway.log();
    let mut lines = log.lines();
    assert!(
        !lines.any(|line| line.contains("no instance could be reached") && line.contains("shed")),
        "what is refused for want of capacity was not tried: {log}"
    );
    let check = run(["check", "--admin", &gateway.admin.to_string()]).unwrap();
    assert!(
        check.contains("all gateways of this zone carry together"),
        "{check}"
    );
    let events = http::get(gateway.admin, "/v1/events?kind=spill_begun,shed_begun")
        .await
        .unwrap();
    assert!(
        events
            .body
            .contains("a second are asked for in all zones, and healthy instances can take 80"),
        "{}",
        events.body
    );
}
