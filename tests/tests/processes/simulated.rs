//! Traffic as `causeway simulate` has said it beforehand, from what the gateways themselves have recorded: a zone is lost at 60 % of all capacity,
//! and then there is more to do than the others can.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance},
    measured::measured,
    process::{run, said},
    wait::until_true,
};
use serde_json::Value;
use tokio::{task::JoinSet, time::interval};

const PORT: u16 = 9000;
const ZONES: [&str; 3] = ["east", "north", "west"];
const LOST: &str = "west";
/// Requests a second that each zone can take.
const CAPACITY: f64 = 60.0;
const CRITICALITIES: [&str; 3] = ["critical", "normal", "sheddable"];
const PATHS: [&str; 3] = ["/pay", "/", "/report"];
/// Requests a second of the clients of each zone, by criticality: 60 % of all capacity, and those of `east` ask for more than it can take.
const RATES: [[f64; 3]; 3] = [[24.0, 32.0, 24.0], [4.0, 8.0, 4.0], [4.0, 4.0, 4.0]];
/// Factor by which the others ask for 120 % of the capacity that is left without the zone that is lost.
const MORE: f64 = 1.5;
/// Part by which a figure may be off, or four standard deviations of so many draws if that is more.
const OFF: f64 = 0.05;
/// Time over which loads are recorded at least.
const RECORDED: Duration = Duration::from_secs(4);
/// Answers after which shares have settled: of some seconds. And those that are then counted.
const SETTLES: usize = 250;
const COUNTED: usize = 500;
/// Phases of which nothing is counted are 0.
const AT_60: usize = 1;
const AT_120: usize = 2;

/// Zone of the clients, criticality, and the zone that serves them, or `shed`.
type Place = (&'static str, &'static str, String);

/// Figures of requests, or of requests a second.
type Figures = BTreeMap<Place, f64>;

/// Clients of all zones, which go on whatever the answers take.
#[derive(Clone, Default)]
struct Clients {
    phase: Arc<AtomicUsize>,
    answers: Arc<Mutex<BTreeMap<usize, Figures>>>,
}

impl Clients {
    /// Has the clients of a zone ask at these rates, until it is dropped.
    fn ask(&self, zone: &'static str, address: SocketAddr, rates: [f64; 3]) -> JoinSet<()> {
        let mut asking = JoinSet::new();
        for (place, rate) in rates.into_iter().enumerate() {
            let clients = self.clone();
            asking.spawn(async move {
                let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
                let mut asked = JoinSet::new();
                loop {
                    ticks.tick().await;
                    while asked.try_join_next().is_some() {}
                    let clients = clients.clone();
                    asked.spawn(async move {
                        let phase = clients.phase.load(Ordering::Relaxed);
                        let word = word(address, PATHS[place]).await;
                        let mut answers = clients.answers.lock().unwrap();
                        let figures = answers.entry(phase).or_default();
                        *figures.entry((zone, CRITICALITIES[place], word)).or_default() += 1.0;
                    });
                }
            });
        }
        asking
    }

    /// Counts from the moment at which as many answers as settle have come, until there are enough.
    async fn counted(&self, phase: usize) -> Figures {
        self.answers.lock().unwrap().clear();
        for (phase, enough) in [(0, SETTLES), (phase, COUNTED)] {
            self.phase.store(phase, Ordering::Relaxed);
            until_true("enough has been answered", PATIENCE, async || {
                let answers = self.answers.lock().unwrap();
                let counted = answers.get(&phase).into_iter().flat_map(BTreeMap::values);
                counted.sum::<f64>() >= enough as f64
            })
            .await;
        }
        self.phase.store(0, Ordering::Relaxed);
        self.answers.lock().unwrap().remove(&phase).unwrap()
    }
}

/// Zone of the instance that answers, or what the gateway says.
async fn word(address: SocketAddr, path: &str) -> String {
    match http::get(address, path).await {
        Ok(answer) if answer.status == 200 => answer.body.trim().to_owned(),
        Ok(answer) if answer.body.contains("(shed)") => "shed".to_owned(),
        other => format!("{other:?}"),
    }
}

async fn start(instances: &[Instance]) -> Federation {
    let service = format!(
        "port: {PORT}, protocol: http, failover: [{{ zone: self }}, {{}}], spill: {{ capacity: respect }}, \
         routes: [{{ match: {{ path: /pay }}, criticality: critical }}, {{ match: {{ path: /report }}, criticality: sheddable }}]"
    );
    let mut plan = Plan::new();
    for (zone, instance) in ZONES.iter().zip(instances) {
        plan = plan.zone(zone);
        plan = plan.instance(
            "orders",
            instance.address(),
            &format!("{{}}, capacity: {CAPACITY:.0}/s"),
        );
    }
    let federation = plan.service("orders", &service).start().await.unwrap();
    for from in ZONES {
        for zone in ZONES.into_iter().filter(|zone| *zone != from) {
            federation.wait_export(from, zone, "orders").await;
        }
    }
    federation
}

/// Records what the clients of all zones ask for; the files.
async fn recorded(federation: &Federation) -> Vec<String> {
    let mut files = Vec::new();
    for zone in ZONES {
        let admin = federation.zone(zone).admin;
        until_true("loads are recorded for long enough", PATIENCE, async || {
            let page = http::get(admin, "/v1/loads").await.unwrap();
            let page: Value = serde_json::from_str(&page.body).unwrap();
            let items = page["items"].as_array().unwrap();
            let over = |item: &Value| item["over_seconds"].as_f64().unwrap();
            items.len() == 3 && items.iter().all(|item| over(item) >= RECORDED.as_secs_f64())
        })
        .await;
        let file = federation.folder().join(format!("loads-{zone}.yaml"));
        let admin = admin.to_string();
        let text = run(["get", "loads", "-o", "yaml", "--admin", &admin]).unwrap();
        fs::write(&file, text).unwrap();
        files.push(file.display().to_string());
    }
    files
}

/// Word of `simulate` on the traffic without the zone that is lost, with recorded loads and others in their place.
fn simulated(federation: &Federation, files: &[String], others: &[String]) -> Value {
    let topology = federation.zone("east").topology.display().to_string();
    let mut arguments: Vec<&str> = vec!["simulate", &topology, "--fail", LOST, "-o", "json"];
    for file in files {
        arguments.extend(["--loads", file]);
    }
    for load in others {
        arguments.extend(["--load", load]);
    }
    let mut said: Value = serde_json::from_str(&said(arguments).unwrap()).unwrap();
    said["scenarios"][1].take()
}

fn figures_of(scenario: &Value) -> Figures {
    let mut figures = Figures::new();
    for flow in scenario["flows"].as_array().unwrap() {
        let known = |names: &[&'static str], key: &str| {
            let found = names.iter().find(|name| **name == flow[key].as_str().unwrap());
            *found.unwrap()
        };
        let to = match (&flow["to"], flow["is_shed"].as_bool()) {
            (Value::String(zone), _) => zone.clone(),
            (_, Some(true)) => "shed".to_owned(),
            _ => "nobody".to_owned(),
        };
        let key = (known(&ZONES, "from"), known(&CRITICALITIES, "criticality"), to);
        *figures.entry(key).or_default() += flow["per_second"].as_f64().unwrap();
    }
    figures
}

/// Sums by a part of the place.
fn sums(figures: &Figures, part: impl Fn(&Place) -> Option<String>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (place, figure) in figures {
        if let Some(part) = part(place) {
            *sums.entry(part).or_default() += figure;
        }
    }
    sums
}

/// Part of all requests that one that went to a place counts for.
type PartOf = fn(&Place) -> Option<String>;

/// Compares where requests have gone, as parts of all of them, with what was said beforehand; and says both.
fn compare(name: &str, found: &Figures, beforehand: &Figures) {
    let all = |figures: &Figures| figures.values().sum::<f64>();
    let (found_all, beforehand_all) = (all(found), all(beforehand));
    let parts: [(&str, PartOf); 4] = [
        ("clients of each zone", |(from, ..)| Some((*from).to_owned())),
        ("where they are served", |(.., to)| Some(to.clone())),
        ("from one zone to another", |(from, _, to)| {
            Some(format!("{from} to {to}"))
        }),
        ("what is shed", |(_, criticality, to)| {
            (to == "shed").then(|| (*criticality).to_owned())
        }),
    ];
    let mut wrong = Vec::new();
    for (what, part) in parts {
        let (found, beforehand) = (sums(found, part), sums(beforehand, part));
        let mut told = Vec::new();
        for key in found
            .keys()
            .chain(beforehand.keys().filter(|key| !found.contains_key(*key)))
        {
            let of =
                |sums: &BTreeMap<String, f64>, all: f64| sums.get(key).copied().unwrap_or_default() / all;
            let (is, said) = (of(&found, found_all), of(&beforehand, beforehand_all));
            let chance = 4.0 * (said * (1.0 - said) / found_all).sqrt();
            let line = format!("{key} {:.1} % ({:.1} %)", is * 100.0, said * 100.0);
            if (is - said).abs() > chance.max(OFF * said) {
                wrong.push(format!("{what}: {line}"));
            }
            told.push(line);
        }
        measured(&format!(
            "{name}, {what}, beforehand in brackets: {}",
            told.join(", ")
        ));
    }
    assert!(wrong.is_empty(), "{name}: {wrong:?}; {found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_is_lost_at_60_percent_and_120_percent_is_asked_for_as_simulate_has_said() {
    let mut instances = Vec::new();
    for zone in ZONES {
        instances.push(Instance::start(zone, Behaviour::Http).await.unwrap());
    }
    let mut federation = start(&instances).await;
    let clients = Clients::default();
    let mut addresses = BTreeMap::new();
    let mut asking = BTreeMap::new();
    for (zone, rates) in ZONES.into_iter().zip(RATES) {
        let address = federation.service_address(zone, "orders", PORT).await;
        addresses.insert(zone, address);
        asking.insert(zone, clients.ask(zone, address, rates));
    }
    let files = recorded(&federation).await;
    let scenario = simulated(&federation, &files, &[]);
    let beforehand = figures_of(&scenario);
    let by_load = sums(&beforehand, |(from, criticality, _)| {
        Some(format!("{from}/orders:{criticality}"))
    });
    for (zone, rates) in ZONES.into_iter().zip(RATES).filter(|(zone, _)| *zone != LOST) {
        for (criticality, rate) in CRITICALITIES.into_iter().zip(rates) {
            let recorded = by_load[&format!("{zone}/orders:{criticality}")];
            // Of so few requests one more or less at the ends of what was recorded shows.
            let edge = 1.0 / RECORDED.as_secs_f64();
            assert!(
                (recorded - rate).abs() <= (OFF * rate).max(edge),
                "{zone} {criticality}: {recorded}"
            );
        }
    }
    // The clients of a zone that is lost are lost with it.
    asking.remove(LOST);
    federation.zone_mut(LOST).kill().unwrap();
    for zone in ZONES.into_iter().filter(|zone| *zone != LOST) {
        until_true("the others have no tunnel there", PATIENCE, async || {
            let metrics = federation.zone(zone).metrics().await.unwrap();
            metrics.sum("causeway_zone_tunnels", &[("zone", LOST)]) < 1.0
        })
        .await;
    }
    let found = clients.counted(AT_60).await;
    compare("without a zone, at 60 % of all capacity", &found, &beforehand);

    let more: Vec<String> = by_load
        .iter()
        .map(|(load, rate)| format!("{load}={:.3}", rate * MORE))
        .collect();
    let beforehand = figures_of(&simulated(&federation, &files, &more));
    let mut beside = Vec::new();
    for (zone, rates) in ZONES.into_iter().zip(RATES).filter(|(zone, _)| *zone != LOST) {
        beside.push(clients.ask(zone, addresses[zone], rates.map(|rate| rate * (MORE - 1.0))));
    }
    until_true("explain tells of what is shed", PATIENCE, async || {
        let explained = federation.explained("east", &["orders", "--path", "/report"]);
        explained
            .await
            .unwrap()
            .contains("is shed: there is no capacity for it")
    })
    .await;
    let found = clients.counted(AT_120).await;
    compare("without a zone, at 120 % of what is left", &found, &beforehand);
    let shed = sums(&found, |(_, criticality, to)| {
        (to == "shed").then(|| (*criticality).to_owned())
    });
    assert_eq!(shed.keys().collect::<Vec<_>>(), ["sheddable"], "{shed:?}");
}
