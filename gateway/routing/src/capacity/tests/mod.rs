//! Three zones whose plans can be worked out by hand, and any that chance makes.

mod picture;
mod queues;
mod world;

use std::{sync::Arc, time::Duration};

use causeway_federation::{
    catalog::{Age, CatalogEntry},
    topology::{Criticality, Topology},
};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::{
    limit_shares::{LimitUse, OthersUse, SharedLimit},
    route::{Request, Why, route},
    snapshot::{Instance, Link, Snapshot},
    target::Target,
    testbed::{self, entry, gateway, service, snapshot, tags, topology, zone},
};

const ZONES: [&str; 3] = ["east", "north", "west"];

/// Each zone first, and then any.
fn three(more: &str) -> Arc<Topology> {
    topology(
        "  east: {}\n  north: {}\n  west: {}",
        &format!(
            "  orders:\n    port: 80\n    protocol: http\n    spill: {{ healthy_below: 70% }}\n    {more}\n    \
             routes: [{{ match: {{ path: /report }}, criticality: sheddable }}, {{ match: {{ path: /pay }}, criticality: critical }}]"
        ),
    )
}

/// As a gateway of `own` sees zones of one instance each with these capacities; 0: the zone is lost.
fn seen(topology: &Arc<Topology>, own: &str, capacities: [u64; 3]) -> Snapshot {
    let others = ZONES.iter().zip(capacities);
    let others: Vec<_> = others
        .filter(|(name, capacity)| **name != own && *capacity > 0)
        .collect();
    let entries = others
        .iter()
        .map(|(name, capacity)| with_capacity(name, *capacity));
    let links: Vec<_> = others.iter().map(|(name, _)| (**name, Link::Up)).collect();
    let capacity = capacities[ZONES.iter().position(|name| *name == own).unwrap()];
    let mut instance =
        Arc::into_inner(testbed::instance("a", "127.0.0.1:1".parse().unwrap(), 1, &[])).unwrap();
    instance.capacity_per_second = Some(capacity);
    let instances: Vec<Arc<Instance>> = (capacity > 0).then(|| Arc::new(instance)).into_iter().collect();
    snapshot(own, topology, instances, entries.collect(), &links)
}

fn with_capacity(name: &str, capacity: u64) -> CatalogEntry {
    let told = entry(name, Age::Fresh, false, &[(&[], 1, 1)]);
    let mut record = Arc::unwrap_or_clone(told.record);
    let exports: Vec<_> = record.exports.iter().cloned().collect();
    let declared = exports
        .into_iter()
        .map(|export| causeway_federation::catalog::Export {
            capacity_per_second: Some(capacity),
            ..export
        });
    record.exports = declared.collect();
    CatalogEntry {
        record: Arc::new(record),
        ..told
    }
}

fn rate(criticality: Criticality, per_second: f64) -> DemandedRate {
    DemandedRate {
        service: service("orders"),
        tags: tags(&[]),
        criticality,
        per_second,
    }
}

/// The same demand of the clients of each of these zones: critical, normal and sheddable.
fn demands(zones: &[&str], rates: [f64; 3]) -> ZoneDemands {
    let of_zone = Criticality::ALL
        .into_iter()
        .zip(rates)
        .filter(|(_, rate)| *rate > 0.0);
    let of_zone: Vec<_> = of_zone
        .map(|(criticality, per_second)| rate(criticality, per_second))
        .collect();
    zones.iter().map(|name| (zone(name), of_zone.clone())).collect()
}

/// Shares of `east`, `north`, `west`, and what is shed, in percent.
fn percents(snapshot: &Snapshot, plan: &CapacityPlan, criticality: Criticality) -> [i64; 4] {
    let Some(shares) = plan.shares(&service("orders"), &tags(&[]), criticality) else {
        let own = ZONES.map(|name| if zone(name) == snapshot.zone { 100 } else { 0 });
        return [own[0], own[1], own[2], 0];
    };
    let percent = |share: f64| format!("{:.0}", share * 100.0).parse::<i64>().unwrap();
    let of = |name: &str| {
        let found = shares.zones.iter().find(|share| share.zone == zone(name));
        percent(found.map_or(0.0, |share| share.share))
    };
    [of("east"), of("north"), of("west"), percent(shares.shed)]
}

fn planned(own: &str, capacities: [u64; 3], demands: &ZoneDemands) -> [[i64; 4]; 3] {
    let topology = three("early: false");
    let snapshot = seen(&topology, own, capacities);
    let plan = plan(&snapshot, demands);
    Criticality::ALL.map(|criticality| percents(&snapshot, &plan, criticality))
}

#[test]
fn what_is_over_the_capacity_of_a_zone_goes_where_there_is_room() {
    let [critical, normal, sheddable] = planned("east", [100, 100, 200], &{
        let mut all = demands(&["north", "west"], [0.0, 50.0, 0.0]);
        all.extend(demands(&["east"], [0.0, 200.0, 0.0]));
        all
    });
    // Others are weighed alike, so that each is offered 50; 50 fit in north, and 150 in west.
    assert_eq!(normal, [50, 25, 25, 0]);
    assert_eq!(
        critical,
        [100, 0, 0, 0],
        "nothing is asked for, and it would come first"
    );
    assert_eq!(
        sheddable,
        [0, 0, 100, 0],
        "what comes last goes where there is room"
    );
}

#[test]
fn nothing_changes_while_there_is_room_or_where_nothing_is_declared() {
    let topology = three("early: false");
    let snapshot = seen(&topology, "east", [100, 100, 100]);
    let calm = plan(&snapshot, &demands(&ZONES, [10.0, 40.0, 10.0]));
    assert!(
        Criticality::ALL
            .iter()
            .all(|one| calm.shares(&service("orders"), &tags(&[]), *one).is_none())
    );
    let rooms: Vec<String> = calm
        .rooms()
        .map(|(_, zone, room)| {
            format!(
                "{zone} {:.0} of {:.0}",
                room.planned_per_second, room.capacity_per_second
            )
        })
        .collect();
    assert_eq!(rooms, ["east 60 of 100", "north 60 of 100", "west 60 of 100"]);
    let ignoring = topology_ignoring();
    let snapshot = seen(&ignoring, "east", [100, 100, 100]);
    assert_eq!(
        plan(&snapshot, &demands(&ZONES, [0.0, 900.0, 0.0])),
        CapacityPlan::default()
    );
    let undeclared = testbed::instance("a", "127.0.0.1:1".parse().unwrap(), 1, &[]);
    let bare = testbed::snapshot("east", &topology, vec![undeclared], vec![], &[]);
    assert_eq!(
        plan(&bare, &demands(&ZONES, [0.0, 900.0, 0.0])),
        CapacityPlan::default()
    );
}

fn topology_ignoring() -> Arc<Topology> {
    topology(
        "  east: {}\n  north: {}\n  west: {}",
        "  orders: { port: 80, spill: { capacity: ignore } }",
    )
}

#[test]
fn where_capacity_ends_the_sheddable_goes_first_and_the_critical_last() {
    let all = |rates| planned("east", [100, 100, 100], &demands(&ZONES, rates));
    let whole = [100, 0, 0, 0];
    assert_eq!(all([40.0, 40.0, 40.0]), [whole, whole, [50, 0, 0, 50]]);
    assert_eq!(all([40.0, 120.0, 40.0]), [whole, [50, 0, 0, 50], [0, 0, 0, 100]]);
    assert_eq!(
        all([200.0, 10.0, 10.0]),
        [[50, 0, 0, 50], [0, 0, 0, 100], [0, 0, 0, 100]]
    );
}

#[test]
fn the_critical_of_one_zone_comes_before_the_normal_of_another() {
    let mut all = demands(&["east"], [150.0, 0.0, 0.0]);
    all.extend(demands(&["north", "west"], [0.0, 100.0, 0.0]));
    assert_eq!(planned("east", [100, 100, 100], &all)[0], [67, 17, 17, 0]);
    assert_eq!(planned("north", [100, 100, 100], &all)[1], [0, 75, 0, 25]);
}

#[test]
fn a_first_tier_is_its_own_clients_before_others_spill_to_it() {
    let mut all = demands(&["east"], [0.0, 300.0, 0.0]);
    all.extend(demands(&["north", "west"], [0.0, 80.0, 0.0]));
    assert_eq!(planned("east", [100, 100, 100], &all)[1], [33, 7, 7, 53]);
    assert_eq!(planned("north", [100, 100, 100], &all)[1], [0, 100, 0, 0]);
}

/// Part of a thousand requests of each criticality that each zone is given, and that are shed.
fn routed(snapshot: &Snapshot, criticality: Criticality, rng: &mut SmallRng) -> [usize; 4] {
    let mut counts = [0; 4];
    let request = Request::new(Target::service(service("orders"))).with_criticality(Some(criticality));
    for _ in 0..1000 {
        let mut decision = route(snapshot, &request, &mut *rng);
        let why = decision.why();
        let place = match decision.next() {
            Some(first) => ZONES
                .iter()
                .position(|name| zone(name) == *first.zone(&snapshot.zone)),
            None => Some(3).filter(|_| why == Why::Shed),
        };
        counts[place.expect("a zone, or shed")] += 1;
    }
    counts
}

#[test]
fn requests_go_by_the_plan_and_what_is_shed_says_so() {
    let topology = three("early: false");
    let snapshot = seen(&topology, "east", [100, 100, 100]);
    let all = demands(&ZONES, [40.0, 40.0, 40.0]);
    snapshot.capacity.publish(plan(&snapshot, &all));
    let mut rng = SmallRng::seed_from_u64(1);
    assert_eq!(
        routed(&snapshot, Criticality::Critical, &mut rng),
        [1000, 0, 0, 0]
    );
    assert_eq!(routed(&snapshot, Criticality::Normal, &mut rng), [1000, 0, 0, 0]);
    let [east, north, west, shed] = routed(&snapshot, Criticality::Sheddable, &mut rng);
    // Four standard deviations of a half.
    assert!(
        east.abs_diff(500) < 64 && shed == 1000 - east && north + west == 0,
        "{east} {shed}"
    );
    let explained =
        Request::explained(Target::service(service("orders"))).with_criticality(Some(Criticality::Sheddable));
    let reasons = route(&snapshot, &explained, rng).complete().reasons;
    let told: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    for line in [
        "zone east {}: takes 50 % of the traffic, as its capacity allows",
        "service orders {}: 50 % of the traffic is shed: there is no capacity for it",
    ] {
        assert!(told.contains(&line.to_owned()), "{told:#?}");
    }
}

#[test]
fn the_requests_of_one_user_go_one_way() {
    let topology = three("early: false");
    let snapshot = seen(&topology, "east", [100, 100, 100]);
    snapshot
        .capacity
        .publish(plan(&snapshot, &demands(&["east"], [0.0, 200.0, 0.0])));
    let request = |mark: u64| {
        let key = crate::sticky::StickyKey::of_mark(&mark.to_le_bytes());
        Request::new(Target::service(service("orders"))).with_key(Some(key))
    };
    let first = |mark, seed| {
        let request = request(mark);
        route(&snapshot, &request, SmallRng::seed_from_u64(seed)).next()
    };
    for mark in 0..100 {
        assert_eq!(first(mark, 1), first(mark, 2));
    }
}

#[test]
fn the_word_of_a_gateway_counts_for_a_while_and_is_passed_on_to_its_siblings() {
    let (mut table, now) = (DemandTable::default(), Duration::from_secs(100));
    let rates = vec![rate(Criticality::Normal, 50.0)];
    for name in ["west/gw1", "west/gw2", "north/gw1"] {
        table.hear(gateway(name), now, rates.clone(), vec![]);
    }
    table.hear(gateway("west/gw2"), Duration::from_secs(90), vec![], vec![]);
    let told = table.told_to(&gateway("west/gw1"), now + Duration::from_secs(1));
    assert_eq!(told.len(), 2);
    assert_eq!(told[1].gateway, Some(gateway("west/gw2").gateway));
    assert_eq!(
        (told[1].age, told[1].rates.clone()),
        (Duration::from_secs(1), rates)
    );
    let snapshot = seen(&three("early: false"), "east", [100, 0, 100]);
    let topology = &snapshot.topology;
    assert_eq!(
        table.known(&zone("east"), topology)[&zone("west")][0].per_second,
        100.0
    );
    // West's gw1 is still heard by zone sync.
    table.forget(now + Duration::from_secs(60), &snapshot);
    let known = table.known(&zone("east"), topology);
    assert_eq!(known.len(), 1);
    assert_eq!(known[&zone("west")][0].per_second, 50.0);
}

#[test]
fn who_is_not_told_of_a_service_takes_nothing_away_that_another_zone_passes_on() {
    let (mut table, own, sibling) = (DemandTable::default(), zone("east"), gateway("east/gw2"));
    let topology = |export_to: &str| three(&format!("export_to: {export_to}"));
    let word = |through: &str| HeardFrom {
        gateway: sibling.clone(),
        through: Some(zone(through)),
    };
    let (at, rates) = (Duration::from_secs, |rate_of| {
        vec![rate(Criticality::Normal, rate_of)]
    });
    let used = |amount| LimitUse {
        service: service("orders"),
        limit: SharedLimit::Rate,
        amount,
    };
    let found = |table: &DemandTable, topology: &Topology| {
        let known = table.known(&own, topology);
        let asked = known.get(&own).map(|rates| rates[0].per_second);
        let mut others = OthersUse::default();
        if let Some(rate) = asked {
            others.add(&[used(rate)]);
        }
        assert_eq!(table.others_use(&own, topology, at(12)), others, "limits too");
        asked
    };
    table.hear(word("north"), at(10), rates(50.0), vec![used(50.0)]);
    // What it says is later, and none of its business.
    table.hear(word("west"), at(11), rates(7.0), vec![used(7.0)]);
    assert_eq!(found(&table, &topology("[north]")), Some(50.0));
    assert_eq!(
        found(&table, &topology("[north, west]")),
        Some(7.0),
        "the last one"
    );
    assert_eq!(found(&table, &topology("[]")), None);
    table.hear(word("west"), at(12), vec![], vec![]);
    assert_eq!(
        found(&table, &topology("[north, west]")),
        None,
        "it asks for nothing now"
    );
    assert_eq!(found(&table, &topology("[north]")), Some(50.0));
    // What it says itself is not replaced, whenever others speak.
    table.hear(sibling.clone(), at(9), rates(20.0), vec![used(20.0)]);
    assert_eq!(found(&table, &topology("[north, west]")), Some(20.0));
    let others = (0..20).map(|number| HeardFrom {
        gateway: sibling.clone(),
        through: Some(zone(&format!("zone{number}"))),
    });
    for from in others {
        table.hear(from, at(11), rates(1.0), vec![]);
    }
    assert_eq!(
        found(&table, &topology("[north]")),
        Some(20.0),
        "there is a bound"
    );
}

proptest! {
    /// Whatever is asked for: no zone is over its capacity, and nothing is shed while another has room.
    #[test]
    fn no_zone_is_over_while_another_has_room(
        capacities in prop::array::uniform3(1u64..500),
        rates in prop::array::uniform3(prop::array::uniform3(0.0f64..500.0)),
    ) {
        let topology = three("early: false");
        let mut all = ZoneDemands::new();
        for (name, rates) in ZONES.iter().zip(rates) {
            all.extend(demands(&[name], rates));
        }
        let snapshot = seen(&topology, "east", capacities);
        let wanted = ZONES.iter().map(|name| zone(name)).collect();
        let plans = plans(&snapshot, &all, &wanted);
        let (mut given, mut shed) = ([0.0; 3], [0.0; 3]);
        for (from, rates) in ZONES.iter().zip(rates) {
            for criticality in Criticality::ALL {
                let rate = rates[criticality.index()];
                let own = ZONES.iter().position(|name| name == from).unwrap();
                match plans[&zone(from)].shares(&service("orders"), &tags(&[]), criticality) {
                    None => given[own] += rate,
                    Some(shares) => {
                        for share in &shares.zones {
                            let to = ZONES.iter().position(|name| zone(name) == share.zone).unwrap();
                            given[to] += share.share * rate;
                        }
                        shed[criticality.index()] += shares.shed * rate;
                    }
                }
            }
        }
        let sum: f64 = rates.iter().flatten().sum();
        prop_assert!((given.iter().sum::<f64>() + shed.iter().sum::<f64>() - sum).abs() < 0.01);
        let room: f64 = capacities.iter().zip(given).map(|(capacity, given)| *capacity as f64 - given).sum();
        for (capacity, given) in capacities.iter().zip(given) {
            prop_assert!(given <= *capacity as f64 + 0.02, "{given} of {capacity}");
        }
        prop_assert!(shed.iter().sum::<f64>() < 0.02 || room < 0.02, "{shed:?} {room}");
        // The more critical loses nothing while the less critical is served.
        let served = |class: usize| rates.iter().map(|rates| rates[class]).sum::<f64>() - shed[class];
        prop_assert!(shed[0] < 0.02 || served(1) + served(2) < 0.02);
        prop_assert!(shed[1] < 0.02 || served(2) < 0.02);
    }
}

#[test]
fn a_drained_zone_takes_what_would_be_shed_and_nothing_else() {
    let drained = topology(
        "  east: {}\n  north: {}\n  west: { drain: true }",
        "  orders: { port: 80, protocol: http, spill: {} }",
    );
    let with = |per_second: f64| {
        let snapshot = seen(&drained, "east", [100, 100, 100]);
        let demands = demands(&["east"], [0.0, per_second, 0.0]);
        let plan = plan(&snapshot, &demands);
        let shares = percents(&snapshot, &plan, Criticality::Normal);
        snapshot.capacity.publish(plan);
        (snapshot, shares)
    };
    assert_eq!(with(200.0).1, [50, 50, 0, 0], "others have room for it");
    assert_eq!(with(400.0).1, [25, 25, 25, 25]);
    let (snapshot, shares) = with(250.0);
    assert_eq!(shares, [40, 40, 20, 0]);
    let mut to_west = 0;
    for seed in 0..1000 {
        let request = Request::new(Target::service(service("orders")));
        let first = route(&snapshot, &request, SmallRng::seed_from_u64(seed)).next();
        to_west += usize::from(*first.expect("a candidate").zone(&snapshot.zone) == zone("west"));
    }
    assert!(
        (150..250).contains(&to_west),
        "{to_west} of 1000, where 200 are meant"
    );
}

#[test]
fn a_field_says_the_criticality_of_a_request_whose_caller_may_say_it() {
    let topology = three("criticality_from: [web, batch@east]");
    let orders = &topology.services[&service("orders")];
    let caller = |name: &str, from: &str| Caller::service(zone(from), service(name), tags(&[]));
    let anonymous = Caller::anonymous(zone("east"));
    let said = |caller: &Caller, fields: &[&str]| {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(CRITICALITY, field.parse().unwrap());
        }
        criticality_by_header(orders, caller, &headers)
    };
    for (caller, fields, expected) in [
        (
            caller("web", "west"),
            &["critical"][..],
            Some(Criticality::Critical),
        ),
        (
            caller("batch", "east"),
            &["sheddable"],
            Some(Criticality::Sheddable),
        ),
        (caller("batch", "west"), &["critical"], None),
        (anonymous, &["critical"], None),
        (caller("web", "west"), &["urgent"], None),
        (caller("web", "west"), &["Critical"], None),
        (caller("web", "west"), &["normal", "critical"], None),
        (caller("web", "west"), &[], None),
    ] {
        assert_eq!(said(&caller, fields), expected, "{caller:?} {fields:?}");
    }
    // A plan has shares for all that a request can say.
    let topology = topology_of_one("criticality_from: [web]");
    assert_eq!(criticalities(&topology.services[&service("orders")]).len(), 3);
    let topology = topology_of_one("timeout: 1s");
    assert_eq!(criticalities(&topology.services[&service("orders")]).len(), 1);
}

fn topology_of_one(more: &str) -> Arc<Topology> {
    let orders = format!("  orders: {{ port: 80, protocol: http, spill: {{}}, {more} }}");
    topology("  east: {}\n  west: {}", &orders)
}
