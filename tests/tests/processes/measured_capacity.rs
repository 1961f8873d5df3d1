//! Capacity that nobody declares, through real gateways: a zone whose instance has more to do than it can is given what it was found to take,
//! the rest goes to the next zone, and nobody waits for long.

use std::{
    fs,
    time::{Duration, Instant},
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance},
    measured::measured,
    pace::ask_at,
    process::{run, said},
    wait::until_true,
};
use serde_json::Value;

const PORT: u16 = 9000;
/// An instance finishes so many requests a second: four at once, for 50 ms each.
const AT_ONCE: usize = 4;
const TAKES: Duration = Duration::from_millis(50);
const CAPACITY: f64 = 80.0;
/// Requests a second of clients in `east`: half of what it can take, and then half as much again as it can.
const CALM: f64 = 40.0;
const MUCH: f64 = 120.0;
const CALM_FOR: Duration = Duration::from_secs(6);
/// Time in which what was too much is found and worked off, and time for which is counted after it.
const SETTLES: Duration = Duration::from_secs(25);
const COUNTED: Duration = Duration::from_secs(15);
/// Longest median time of an answer: without a bound the last would have waited for 20 s.
const MEDIAN: Duration = Duration::from_millis(800);

async fn start(own: &Instance, far: &Instance) -> Federation {
    let service = format!(
        "port: {PORT}, protocol: http, failover: [{{ zone: self }}, {{}}], spill: {{ capacity: measured }}"
    );
    let plan = Plan::new().zone("east").instance("orders", own.address(), "{}");
    let plan = plan.zone("west").instance("orders", far.address(), "{}");
    let federation = plan.service("orders", &service).start().await.unwrap();
    for (from, zone) in [("east", "west"), ("west", "east")] {
        federation.wait_export(from, zone, "orders").await;
    }
    federation
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_more_than_a_zone_can_take_goes_to_the_next_without_a_number() {
    let busy = Behaviour::Busy {
        at_once: AT_ONCE,
        takes: TAKES,
    };
    let own = Instance::start("east", busy).await.unwrap();
    let far = Instance::start("west", busy).await.unwrap();
    let federation = start(&own, &far).await;
    let address = federation.service_address("east", "orders", PORT).await;
    let ask = move || async move {
        let begun = Instant::now();
        let answer = http::get(address, "/").await.unwrap();
        (answer, begun.elapsed())
    };
    for (_, (answer, _)) in ask_at(CALM, (Duration::ZERO, CALM_FOR), ask).await {
        assert!(answer.body.contains("east"), "there is room: {answer:?}");
    }
    let asking = tokio::spawn(ask_at(MUCH, (SETTLES, COUNTED), ask));
    until_true("explain tells of what was measured", PATIENCE, async || {
        let explained = federation.explained("east", &["orders"]).await.unwrap();
        explained.contains("of the traffic, as its measured capacity allows")
    })
    .await;
    // West measures what its instance answers to clients of east: so it is told.
    let takes = TAKES.as_secs_f64() / 2.0;
    let gateway = federation.zone("west");
    gateway
        .wait_metric("causeway_measured_latency_seconds", &[("zone", "west")], takes)
        .await;
    let (mut east, mut west, mut times) = (0.0, 0.0, Vec::new());
    for (counts, (answer, took)) in asking.await.unwrap() {
        if counts {
            assert_eq!(answer.status, 200, "the other zone has room: {answer:?}");
            match answer.body.contains("east") {
                true => east += 1.0,
                false => west += 1.0,
            }
            times.push(took);
        }
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    let seconds = COUNTED.as_secs_f64();
    let told = format!(
        "east {:.0}/s, west {:.0}/s, median {median:?}",
        east / seconds,
        west / seconds
    );
    measured(&format!("capacity of {CAPACITY}/s that is measured: {told}"));
    assert!(east / seconds <= CAPACITY * 1.1, "{told}");
    assert!(east / seconds >= CAPACITY * 0.4, "{told}");
    assert!(median < MEDIAN, "{told}");
    let gateway = federation.zone("east");
    for name in [
        "causeway_measured_capacity_per_second",
        "causeway_capacity_per_second",
    ] {
        gateway.wait_metric(name, &[("zone", "east")], 1.0).await;
    }
    // East tells west what its instance can take.
    let gateway = federation.zone("west");
    let of_east = [("service", "orders"), ("zone", "east")];
    gateway
        .wait_metric("causeway_measured_capacity_per_second", &of_east, 1.0)
        .await;
    simulate_takes_what_was_recorded(&federation);
}

/// Compares the bound that a gateway records with what `simulate` gives its zone at most.
fn simulate_takes_what_was_recorded(federation: &Federation) {
    let zone = federation.zone("east");
    let recorded = run(["get", "loads", "-o", "yaml", "--admin", &zone.admin.to_string()]).unwrap();
    let value: Value = serde_saphyr::from_str(&recorded).unwrap();
    let capacities = value["capacities"].as_array().unwrap();
    let of_east = capacities.iter().find(|found| found["zone"] == "east");
    let bound = of_east.unwrap()["per_second"].as_f64().unwrap();
    let file = federation.folder().join("loads.yaml");
    fs::write(&file, recorded).unwrap();
    let (topology, file) = (zone.topology.display().to_string(), file.display().to_string());
    let load = format!("east/orders={}", CAPACITY * 3.0);
    let said = said([
        "simulate", &topology, "--loads", &file, "--load", &load, "-o", "json",
    ]);
    let said: Value = serde_json::from_str(&said.unwrap()).unwrap();
    let served = said["scenarios"][0]["served"].as_array().unwrap();
    let of_east = served.iter().find(|load| load["zone"] == "east").unwrap();
    let given = of_east["per_second"].as_f64().unwrap();
    measured(&format!(
        "bound of {bound:.1}/s that was recorded, and {given:.1}/s simulated"
    ));
    assert_eq!(of_east["is_measured"], true, "{of_east}");
    // Shares are drawn.
    assert!(
        (given - bound).abs() < bound * 0.05,
        "{of_east}, with a bound of {bound}"
    );
}
