//! The worked examples of topologies/: ten thousand requests through three zones each, whose shares are those that the file declares and that
//! `causeway simulate` has said beforehand, and the reasons that gateways give for them.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, process::Command};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    http::{self, Kept},
    instance::{Behaviour, Instance},
    measured::measured,
    process::program,
    wait::until_true,
};
use serde_json::Value;
use tokio::task::JoinSet;

/// Requests of the clients of each zone, over so many kept connections.
const REQUESTS: usize = 3360;
const CONNECTIONS: usize = 8;
const ZONES: usize = 3;
/// Part (0 to 1) by which a share may be off, or four standard deviations of so many draws if that is more.
const OFF: f64 = 0.01;
/// A zone that is there for its clients alone, where the example has two.
const CLIENTS_ONLY: &str = "edge";

/// Shares (0 to 1) of what the clients of one zone ask for, by zone and tags of the instances.
type Shares = BTreeMap<String, f64>;

/// An example that runs.
struct Example {
    federation: Federation,
    /// By zone, in the order of the file.
    instances: BTreeMap<String, Vec<(String, Instance)>>,
    service: &'static str,
    port: u16,
}

impl Example {
    /// Starts the zones of a file with instances of this test in the place of its own.
    async fn start(file: &str, service: &'static str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../topologies")
            .join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let topology: Value = serde_saphyr::from_str(&text).unwrap();
        let services = topology["services"].as_object().unwrap();
        let mut plan = Plan::new();
        let mut instances = BTreeMap::new();
        let zones = topology["zones"].as_object().unwrap();
        for (zone, declared) in zones {
            plan = plan.zone(zone);
            if let Some(tags) = declared.get("tags") {
                plan = plan.zone_tags(&tags.to_string());
            }
            if declared["gateways"] == serde_json::json!([]) {
                plan = plan.dials_only();
            }
            let mut own = Vec::new();
            for instance in declared["instances"].as_array().into_iter().flatten() {
                let of = instance["service"].as_str().unwrap();
                let tags = instance
                    .get("tags")
                    .cloned()
                    .unwrap_or_else(|| serde_json::json!({}));
                let behaviour = match protocol(&services[of]) {
                    "http" => Behaviour::Http,
                    _ => Behaviour::Name,
                };
                let started = Instance::start(&named(zone, &tags), behaviour).await.unwrap();
                plan = plan.instance(of, started.address(), &with_room(&tags, instance));
                own.push((of.to_owned(), started));
            }
            instances.insert(zone.clone(), own);
        }
        if zones.len() < ZONES && !zones.contains_key(CLIENTS_ONLY) {
            plan = plan.zone(CLIENTS_ONLY).dials_only();
        }
        for (name, declared) in services {
            plan = plan.service(name, &without_rates(declared));
        }
        let federation = plan.start().await.unwrap();
        let example = Self {
            federation,
            instances,
            service,
            port: port(&services[service]),
        };
        example.wait_until_known().await;
        example
    }

    /// Waits until each zone knows of all instances of the service, its own among them.
    async fn wait_until_known(&self) {
        for from in self.federation.names() {
            for zone in self.instances.keys().filter(|zone| self.serves(zone)) {
                self.federation.wait_export(&from, zone, self.service).await;
            }
            let admin = self.federation.zone(&from).admin;
            let what = format!("{from} knows of every instance");
            until_true(&what, PATIENCE, async || {
                let page = http::get(admin, "/v1/exports").await.unwrap();
                let page: Value = serde_json::from_str(&page.body).unwrap();
                let mut exports = page["items"].as_array().unwrap().iter();
                exports.all(|export| export["healthy"] == export["instances"])
            })
            .await;
        }
    }

    fn serves(&self, zone: &str) -> bool {
        let instances = self.instances.get(zone).into_iter().flatten();
        instances.into_iter().any(|(of, _)| of == self.service)
    }

    /// Has the clients of every zone ask, and compares where they were served with what was expected of their zone, and with what
    /// `simulate` has said.
    async fn compare(&self, expected: &[(&str, &[(&str, f64)])]) {
        let admin = self
            .federation
            .zone(&self.federation.names()[0])
            .admin
            .to_string();
        let beforehand = simulated(&admin, self.service);
        let mut asking = JoinSet::new();
        for zone in self.federation.names() {
            let before = self.decided(&zone).await;
            let address = self
                .federation
                .service_address(&zone, self.service, self.port)
                .await;
            asking.spawn(async move {
                let found = ask(address).await;
                (zone, before, found)
            });
        }
        let mut told = Vec::new();
        while let Some(asked) = asking.join_next().await {
            let (zone, before, found) = asked.unwrap();
            let all: usize = found.values().sum();
            assert_eq!(all, REQUESTS, "{zone}: {found:?}");
            let by_hand: Shares = expected
                .iter()
                .filter(|(of, _)| *of == zone)
                .flat_map(|(_, shares)| shares.iter())
                .map(|(to, share)| ((*to).to_owned(), *share))
                .collect();
            near(&zone, &found, &by_hand);
            near(&zone, &found, &beforehand[&zone]);
            // Each request has one reason.
            assert_eq!(
                self.decided(&zone).await - before,
                REQUESTS as f64,
                "reasons at {zone}"
            );
            told.push(format!("{zone}: {found:?}"));
        }
        measured(&format!(
            "{} requests of {}: {}",
            REQUESTS,
            self.service,
            told.join("; ")
        ));
    }

    /// Number of decisions that the gateway of a zone has counted, whatever their reasons.
    async fn decided(&self, zone: &str) -> f64 {
        let metrics = self.federation.zone(zone).metrics().await.unwrap();
        metrics.sum("causeway_decisions_total", &[("service", self.service)])
    }
}

fn named(zone: &str, tags: &Value) -> String {
    let tags = tags.as_object().unwrap().iter();
    let tags: String = tags
        .map(|(key, value)| format!(" {key}={}", value.as_str().unwrap()))
        .collect();
    format!("{zone}{tags}")
}

/// Tags of an instance, and what follows them. Ten thousand requests come in seconds: instances take a thousand times as many as the
/// example says, which leaves shares to health and weights.
fn with_room(tags: &Value, instance: &Value) -> String {
    let capacity = instance.get("capacity").and_then(Value::as_str);
    let per_second = capacity.and_then(|rate| rate.strip_suffix("/s"));
    match per_second {
        Some(rate) => format!("{tags}, capacity: {rate}000/s"),
        None => tags.to_string(),
    }
}

/// Keys of a service as the inside of a map, without rates of callers: all clients of this test are one.
fn without_rates(declared: &Value) -> String {
    let mut declared = declared.clone();
    if let Some(limits) = declared.get_mut("limits").and_then(Value::as_object_mut) {
        limits.remove("rate_per_caller");
    }
    // The keys are sorted by now, and the first port of the file was the primary one.
    if let Some(primary) = declared.get_mut("ports").and_then(|ports| ports.get_mut("http")) {
        *primary = serde_json::json!({ "port": primary.take(), "primary": true });
    }
    let text = declared.to_string();
    text[1..text.len() - 1].to_owned()
}

fn protocol(service: &Value) -> &str {
    service["protocol"].as_str().unwrap_or("tcp")
}

fn port(service: &Value) -> u16 {
    let first = || service["ports"].as_object().and_then(|ports| ports.get("http"));
    let port = service.get("port").or_else(first).unwrap();
    u16::try_from(port.as_u64().unwrap()).unwrap()
}

/// Counts answers by the names of the instances.
async fn ask(address: SocketAddr) -> BTreeMap<String, usize> {
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let mut client = Kept::connect(address).await.unwrap();
            let mut found: BTreeMap<String, usize> = BTreeMap::new();
            for _ in 0..REQUESTS / CONNECTIONS {
                let answer = client.get("/").await.unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
                *found.entry(answer.body.trim().to_owned()).or_default() += 1;
            }
            found
        });
    }
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(found) = clients.join_next().await {
        for (name, count) in found.unwrap() {
            *all.entry(name).or_default() += count;
        }
    }
    all
}

/// Shares of what the clients of each zone ask for, as `simulate` works them out of what a gateway knows.
fn simulated(admin: &str, service: &str) -> BTreeMap<String, Shares> {
    let load = format!("{service}=100");
    let output = Command::new(program().unwrap())
        .args(["simulate", "--load", &load, "-o", "json", "--admin", admin])
        .output()
        .unwrap();
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let mut shares: BTreeMap<String, Shares> = BTreeMap::new();
    for flow in said["scenarios"][0]["flows"].as_array().unwrap() {
        // Each criticality is a third, or a half, of what is asked for, and all go alike.
        let to = flow["to"].as_str().unwrap_or("nobody");
        let from = shares
            .entry(flow["from"].as_str().unwrap().to_owned())
            .or_default();
        *from.entry(named(to, &flow["tags"])).or_default() += flow["per_second"].as_f64().unwrap() / 100.0;
    }
    shares
}

/// Every share that was expected is found, and no other. Instances whose tags no arm names are told apart by nobody.
fn near(zone: &str, found: &BTreeMap<String, usize>, expected: &Shares) {
    let mut shares = Shares::new();
    for (name, count) in found {
        let of = expected
            .keys()
            .filter(|to| *to == name || name.starts_with(&format!("{to} ")));
        let of = of.max_by_key(|to| to.len());
        let of = of.unwrap_or_else(|| panic!("{zone}: nobody expected {name}: {expected:?}"));
        *shares.entry(of.clone()).or_default() += *count as f64 / REQUESTS as f64;
    }
    for (to, share) in expected {
        let found = shares.get(to).copied().unwrap_or_default();
        let chance = 4.0 * (share * (1.0 - share) / REQUESTS as f64).sqrt();
        assert!(
            (found - share).abs() <= chance.max(OFF),
            "{zone} to {to}: {found}, not {share}; {shares:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_smallest_federation_and_its_breaker_serve_each_zone_at_home() {
    for file in ["two-zones.yaml", "breaker.yaml"] {
        let example = Example::start(file, "orders").await;
        // A zone without instances draws among the others by their weight: two instances and one.
        let edge = [("east", 2.0 / 3.0), ("west", 1.0 / 3.0)];
        example
            .compare(&[
                ("east", &[("east", 1.0)]),
                ("west", &[("west", 1.0)]),
                ("edge", &edge),
            ])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_gets_its_five_percent_in_each_zone() {
    let names = [
        "east version=v1",
        "west version=v1",
        "east version=v2",
        "west version=v2",
    ];
    let [east_v1, west_v1, east_v2, west_v2] = names;
    for (file, edge) in [
        // Of v1 there are two in east and one in west, of v2 one each.
        ("canary.yaml", [0.95 * 2.0 / 3.0, 0.95 / 3.0, 0.025, 0.025]),
        ("follow.yaml", [0.475, 0.475, 0.025, 0.025]),
    ] {
        let example = Example::start(file, "orders").await;
        let edge: Vec<(&str, f64)> = names.into_iter().zip(edge).collect();
        example
            .compare(&[
                ("east", &[(east_v1, 0.95), (east_v2, 0.05)]),
                ("west", &[(west_v1, 0.95), (west_v2, 0.05)]),
                ("edge", &edge),
            ])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_to_kubernetes_takes_five_percent_of_every_zone() {
    let example = Example::start("vm-to-kubernetes.yaml", "orders").await;
    let moved = [("datacenter runtime=vm", 0.95), ("cloud runtime=k8s", 0.05)];
    example
        .compare(&[("datacenter", &moved), ("cloud", &moved), ("edge", &moved)])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_loses_an_instance_of_three_keeps_eighty_three_percent() {
    let mut example = Example::start("regional-failover.yaml", "orders").await;
    drop(example.instances.get_mut("east").unwrap().pop());
    for zone in example.federation.names() {
        let admin = example.federation.zone(&zone).admin;
        until_true(&format!("{zone} knows of the loss"), PATIENCE, async || {
            let page = http::get(admin, "/v1/exports").await.unwrap();
            let page: Value = serde_json::from_str(&page.body).unwrap();
            let mut exports = page["items"].as_array().unwrap().iter();
            exports.any(|export| export["zone"] == "east" && export["healthy"] == 2)
        })
        .await;
    }
    // Two of three are 67 % of what it has, and 80 % are enough for all: 83 % stay in east, the rest goes to its region.
    let east = [("east", 5.0 / 6.0), ("central", 1.0 / 6.0)];
    example
        .compare(&[
            ("east", &east),
            ("central", &[("central", 1.0)]),
            ("dublin", &[("dublin", 1.0)]),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_ports_and_zones_that_dial_out_change_no_share_of_others() {
    let at_home: &[(&str, &[(&str, f64)])] = &[
        ("east", &[("east", 1.0)]),
        ("west", &[("west", 1.0)]),
        ("edge", &[("east", 2.0 / 3.0), ("west", 1.0 / 3.0)]),
    ];
    for file in ["canary-by-header.yaml", "several-ports.yaml"] {
        let example = Example::start(file, "orders").await;
        example.compare(at_home).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_nobody_can_reach_is_served_and_serves() {
    let example = Example::start("three-zones-dial-out.yaml", "orders").await;
    example
        .compare(&[
            ("east", &[("east", 1.0)]),
            ("west", &[("west", 1.0)]),
            // Nobody else is of its region: then east comes before any.
            ("plant", &[("east", 1.0)]),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zones_of_two_companies_call_each_other() {
    let example = Example::start("two-trust-domains.yaml", "stock").await;
    example
        .compare(&[
            ("east", &[("warehouse", 1.0)]),
            ("west", &[("warehouse", 1.0)]),
            ("warehouse", &[("warehouse", 1.0)]),
        ])
        .await;
}
