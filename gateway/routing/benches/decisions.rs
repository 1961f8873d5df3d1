//! The cost of decisions by the size of the federation and of the zone: `cargo bench -p causeway-routing --features test-util`.
//!
//! Prints nanoseconds for each decision. A decision should cost what the exporters of its service cost, and a choice the
//! same in every zone.

#![allow(
    clippy::unwrap_used,
    reason = "what fails in a benchmark's set-up fails the benchmark"
)]
#![allow(clippy::print_stdout, reason = "figures are what a benchmark is for")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{
    catalog::{Age, Catalog, Export},
    name::{ServiceName, Tags},
};
use causeway_routing::{
    balance::{Choice, InstanceList},
    route::{Request, route},
    snapshot::{Instance, Link, Snapshot},
    target::Target,
    testbed,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

const SERVICES: usize = 10_000;
/// Gateways that export each service but the one that all do.
const EXPORTERS: usize = 3;
const ZONES: [usize; 4] = [10, 100, 1_000, 10_000];
const INSTANCES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
/// Time for which each figure is measured.
const FOR: Duration = Duration::from_millis(300);

fn main() {
    println!("route: {SERVICES} services, each exported by {EXPORTERS} gateways");
    for zones in ZONES {
        let begun = Instant::now();
        let snapshot = federation(zones);
        let built = begun.elapsed();
        let mut rng = SmallRng::seed_from_u64(1);
        let few = nanos(|| {
            let request = Request::new(Target::service(name(rng.random_range(0..SERVICES))));
            black_box(route(&snapshot, &request, &mut rng).first());
        });
        let everywhere = Request::new(Target::service(testbed::service("orders")));
        let mut rng = SmallRng::seed_from_u64(1);
        let all = nanos(|| {
            black_box(route(&snapshot, &everywhere, &mut rng).first());
        });
        let delta = delta(&snapshot);
        println!(
            "{zones:>6} zones: {few:>8} ns a decision, {all:>9} ns for a service that all export, {delta:>7} ns to take up a delta (built in {built:.1?})"
        );
    }
    println!("balance: one instance of so many");
    for count in INSTANCES {
        let begun = Instant::now();
        let versions = zone(count, false);
        let built = begun.elapsed();
        let begun = Instant::now();
        let pods = zone(count, true);
        let pods_built = begun.elapsed();
        let any = choice(&versions, &[]);
        let frequent = choice(&versions, &[("version", "v1")]);
        let rare = choice(&versions, &[("version", "canary")]);
        let pod_frequent = choice(&pods, &[("version", "v1")]);
        let pod_rare = choice(&pods, &[("version", "canary")]);
        println!(
            "{count:>6}: {any:>5} ns any, {frequent:>5} ns a frequent tag, {rare:>5} ns a rare one (indexed in {built:.1?}); \
             with tags of its own each: {pod_frequent:>5} ns, {pod_rare:>5} ns (indexed in {pods_built:.1?})"
        );
    }
}

fn nanos(mut what: impl FnMut()) -> u128 {
    let (begun, mut rounds) = (Instant::now(), 0u128);
    while begun.elapsed() < FOR {
        for _ in 0..16 {
            what();
        }
        rounds += 16;
    }
    begun.elapsed().as_nanos() / rounds
}

fn name(number: usize) -> ServiceName {
    testbed::service(&format!("s{number:05}"))
}

fn export(service: ServiceName) -> Export {
    Export {
        service,
        tags: Tags::default(),
        instances: 2,
        healthy: 2,
        weight: 2,
        capacity_per_second: None,
    }
}

/// `home` beside so many other zones, each linked, that export 10,000 services among them and one all together.
fn federation(zones: usize) -> Snapshot {
    let small = testbed::topology("  home: {}\n  other: {}", "  orders: { port: 80 }");
    let mut topology = (*small).clone();
    let (zone, service) = (
        topology.zones["other"].clone(),
        topology.services["orders"].clone(),
    );
    let zone_name = |number: usize| format!("z{number:05}");
    for number in 0..zones {
        topology
            .zones
            .insert(testbed::zone(&zone_name(number)), zone.clone());
    }
    for number in 0..SERVICES {
        topology.services.insert(name(number), service.clone());
    }
    let mut exported: Vec<Vec<Export>> = vec![vec![export(testbed::service("orders"))]; zones];
    for number in 0..SERVICES {
        for exporter in 0..EXPORTERS {
            exported[(number * 7 + exporter * 3) % zones].push(export(name(number)));
        }
    }
    let names: Vec<String> = (0..zones).map(zone_name).collect();
    let entries = names.iter().zip(exported).map(|(name, exports)| {
        let mut entry = testbed::entry(name, Age::Fresh, false, &[]);
        let mut record = (*entry.record).clone();
        record.exports = exports.into_iter().collect();
        entry.record = Arc::new(record);
        entry
    });
    let links: Vec<(&str, Link)> = names.iter().map(|name| (name.as_str(), Link::Up)).collect();
    testbed::snapshot("home", &Arc::new(topology), vec![], entries.collect(), &links)
}

/// A change of one export's weight, taken up in a copy of the catalog.
fn delta(snapshot: &Snapshot) -> u128 {
    let mut weight = 0;
    let mut catalog: Arc<Catalog> = snapshot.catalog.clone();
    let origin = testbed::gateway("z00000");
    nanos(|| {
        let Some(mut entry) = catalog.entry(&origin).cloned() else {
            return;
        };
        let mut record = (*entry.record).clone();
        weight += 1;
        record.exports.insert(Export {
            weight,
            ..export(name(0))
        });
        entry.record = Arc::new(record);
        let mut next = Catalog::clone(&catalog);
        next.insert(entry);
        catalog = Arc::new(next);
    })
}

fn zone(count: usize, own_tags: bool) -> InstanceList {
    let all: Vec<Arc<Instance>> = (0..count)
        .map(|number| {
            let version = if number % 1_000 == 1 {
                "canary"
            } else {
                ["v1", "v2"][number % 2]
            };
            let id = format!("i{number:06}");
            let mut tags = vec![("version", version)];
            if own_tags {
                tags.push(("pod", &id));
            }
            testbed::instance(&id, "127.0.0.1:1".parse().unwrap(), 1, &tags)
        })
        .collect();
    all.into()
}

fn choice(list: &InstanceList, selector: &[(&str, &str)]) -> u128 {
    let (selector, mut rng) = (testbed::tags(selector), SmallRng::seed_from_u64(3));
    nanos(|| {
        let mut choice = Choice::new(list, &selector);
        black_box(choice.pick(Duration::ZERO, &mut rng));
    })
}
