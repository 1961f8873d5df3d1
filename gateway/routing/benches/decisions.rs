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
    topology::Topology,
};
use causeway_routing::{
    balance::{Choice, InstanceList},
    requests::{RequestHead, find},
    route::{Request, route},
    snapshot::{Instance, Link, Snapshot},
    target::Target,
    testbed,
};
use http::HeaderMap;
use rand::{Rng, SeedableRng, rngs::SmallRng};

const SERVICES: usize = 10_000;
/// Gateways that export each service but the one that all do.
const EXPORTERS: usize = 3;
const ZONES: [usize; 4] = [10, 100, 1_000, 10_000];
const INSTANCES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
/// Time for which each figure is measured.
const FOR: Duration = Duration::from_millis(300);

/// Size of a federation whose requests are decided on.
#[derive(Debug, Clone, Copy)]
struct Size {
    services: usize,
    zones: usize,
    arms: usize,
    tiers: usize,
    /// Routes of the service, of which the last one rules.
    routes: usize,
}

const USUAL: Size = Size {
    services: SERVICES,
    zones: 100,
    arms: 3,
    tiers: 4,
    routes: 4,
};

/// Decisions in federations of so many zones, and what a change costs there.
fn by_zones() {
    println!("route: {SERVICES} services, each exported by {EXPORTERS} gateways");
    for zones in ZONES {
        let begun = Instant::now();
        let snapshot = federation(zones);
        let built = begun.elapsed();
        for number in 0..SERVICES {
            let request = Request::new(Target::service(name(number)));
            black_box(route(&snapshot, &request, SmallRng::seed_from_u64(1)).first());
        }
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
        let (delta, published) = (delta(&snapshot, false), delta(&snapshot, true));
        println!(
            "{zones:>6} zones: {few:>8} ns a decision, {all:>9} ns for a service that all export, {delta:>7} ns to take up a delta, {published:>7} ns with its snapshot (built in {built:.1?})"
        );
    }
}

fn main() {
    println!("a request: its route, arm, tier and zone, without reasons");
    for size in [
        USUAL,
        Size {
            services: 10 * USUAL.services,
            ..USUAL
        },
        Size {
            zones: 10 * USUAL.zones,
            ..USUAL
        },
        Size {
            arms: 10 * USUAL.arms,
            ..USUAL
        },
        Size {
            // The most that a topology may have.
            tiers: 32,
            ..USUAL
        },
        Size {
            routes: 10 * USUAL.routes,
            ..USUAL
        },
    ] {
        let RequestCost { find, first, route } = request(size);
        println!(
            "{size:?}: {find} ns to find its route, {route} ns for `route`, {first} ns the first time for a service"
        );
    }
    by_zones();
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

/// Nanoseconds to find the route of a request, and to decide where it goes, each time for another service; of which nothing was asked yet, and later.
#[derive(Debug, Clone, Copy)]
struct RequestCost {
    find: u128,
    first: u128,
    route: u128,
}

fn request(size: Size) -> RequestCost {
    let snapshot = demanding(size);
    let headers = HeaderMap::new();
    let last = format!("/p{:04}/orders/1", size.routes - 1);
    let head = RequestHead {
        caller: None,
        port: None,
        method: "GET",
        path: &last,
        query: None,
        host: "orders.mesh",
        headers: &headers,
    };
    let questions: Vec<_> = (0..size.services)
        .map(|number| Request::new(Target::service(name(number))))
        .collect();
    let mut rng = SmallRng::seed_from_u64(1);
    let find = nanos(|| {
        let question = &questions[rng.random_range(0..questions.len())];
        let service = &snapshot.topology.services[&question.target.service];
        black_box(find(service, &head).is_ok_and(|route| route.is_some()));
    });
    let begun = Instant::now();
    for question in &questions {
        let seed = SmallRng::seed_from_u64(rng.random());
        black_box(route(&snapshot, question, seed).first());
    }
    let first = begun.elapsed().as_nanos() / questions.len() as u128;
    let route = nanos(|| {
        let question = &questions[rng.random_range(0..questions.len())];
        let seed = SmallRng::seed_from_u64(rng.random());
        black_box(route(&snapshot, question, seed).first());
    });
    RequestCost { find, first, route }
}

/// Services with so many arms, tiers and routes, each exported by a few of so many zones.
fn demanding(size: Size) -> Snapshot {
    let arms = (0..size.arms).map(|arm| format!("{{ tags: {{ version: v{arm} }}, weight: {} }}", arm + 1));
    let named = (1..size.tiers - 1).map(|tier| format!("{{ zone: n{tier:05} }}"));
    let tiers = ["{ zone: self }".to_owned()].into_iter().chain(named);
    let tiers = tiers.chain(["{}".to_owned()]);
    let routes =
        (0..size.routes).map(|route| format!("{{ match: {{ path_prefix: /p{route:04}, methods: [GET] }} }}"));
    let list = |parts: Vec<String>| parts.join(", ");
    let service = format!(
        "  orders: {{ port: 80, protocol: http, split: [{}], failover: [{}], routes: [{}] }}",
        list(arms.collect()),
        list(tiers.collect()),
        list(routes.collect())
    );
    let zones = (1..size.tiers - 1).map(|tier| format!("\n  n{tier:05}: {{}}"));
    let small = testbed::topology(&format!("  home: {{}}{}", zones.collect::<String>()), &service);
    let exports = (0..size.arms).map(|arm| Export {
        tags: testbed::tags(&[("version", &format!("v{arm}"))]),
        ..export(testbed::service("orders"))
    });
    grown(&small, size, exports.collect())
}

/// The federation of `small`, with more zones and services, each of which exports these.
fn grown(small: &Topology, size: Size, exports: Vec<Export>) -> Snapshot {
    let mut topology = small.clone();
    let (zone, service) = (
        topology.zones["home"].clone(),
        topology.services["orders"].clone(),
    );
    let zone_name = |number: usize| format!("z{number:05}");
    for number in 0..size.zones {
        let name = testbed::zone(&zone_name(number));
        topology.zones.insert(name, zone.clone());
    }
    let mut exported: Vec<Vec<Export>> = vec![Vec::new(); size.zones];
    for number in 0..size.services {
        topology.services.insert(name(number), service.clone());
        for exporter in 0..EXPORTERS {
            let own = exports.iter().map(|export| Export {
                service: name(number),
                ..export.clone()
            });
            exported[(number * 7 + exporter * 3) % size.zones].extend(own);
        }
    }
    let names: Vec<String> = (0..size.zones).map(zone_name).collect();
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

/// A change of one export's weight, taken up in a copy of the catalog, and in the snapshot that is made of it.
fn delta(snapshot: &Snapshot, is_published: bool) -> u128 {
    let mut weight = 0;
    let mut compiled = snapshot.compiled.clone();
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
        if is_published {
            let after = Snapshot {
                catalog: catalog.clone(),
                ..snapshot.clone()
            };
            compiled = after.compiled_after(&compiled).compiled;
        }
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
