//! Tests of choosing, over hand-made lists.

use causeway_api::{
    admin::view::{ExportView, InstanceView, ServiceView, TunnelView, ZoneView},
    elsewhere::ZoneAnswerState,
};
use clap::Parser;
use serde_json::json;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    choice: ChoiceArgs,
}

fn choice(args: &str) -> ChoiceArgs {
    let words = std::iter::once("get").chain(args.split(' ').filter(|word| !word.is_empty()));
    Line::try_parse_from(words).unwrap().choice
}

fn instances() -> Value {
    let one = |service: &str, id: &str, address: &str, version: &str, health: &str, latency: Option<f64>| {
        json!({
            "service": service, "id": id, "address": address, "tags": { "version": version }, "weight": 1, "health": health,
            "outstanding": 0, "checked": true, "declared": true, "source": "folder", "number": "1", "latency_ms": latency,
        })
    };
    json!([
        one("billing", "b1", "10.1.0.1:80", "v1", "healthy", Some(9.5)),
        one("orders", "o1", "10.1.0.1:81", "v1", "unhealthy", None),
        one("orders", "o2", "10.1.0.2:81", "v2", "healthy", Some(10.25)),
        one("orders", "b1", "10.1.0.3:81", "v2", "unknown", Some(0.5)),
    ])
}

fn envelope<T: DeserializeOwned>(items: &Value) -> Envelope<T> {
    let whole = json!({ "version": 1, "kind": "things", "zone": "east", "generation": 1, "items": items });
    serde_json::from_value(whole).unwrap()
}

/// `service/id` of those that are left, and the message about names that nothing has.
fn chosen(args: &str) -> (Vec<String>, Option<String>) {
    let mut all: Envelope<InstanceView> = envelope(&instances());
    let chosen = choice(args).choose(&mut all).unwrap();
    let left = all.items.iter().map(|one| format!("{}/{}", one.service, one.id));
    (
        left.collect(),
        chosen.missing.map(|missing| format!("{missing:?}")),
    )
}

#[test]
fn what_is_asked_for_is_left() {
    let left = |args: &str| {
        let (left, missing) = chosen(args);
        assert_eq!(missing, None, "{args}");
        left
    };
    assert_eq!(left("").len(), 4);
    assert_eq!(left("b1"), ["billing/b1", "orders/b1"]);
    assert_eq!(left("orders/b1 10.1.0.1:81"), ["orders/o1", "orders/b1"]);
    assert_eq!(
        left("--service orders --tag version=v2"),
        ["orders/o2", "orders/b1"]
    );
    assert_eq!(
        left("--tag version=v2 --tag version=v1"),
        ["billing/b1", "orders/o1"]
    );
    assert_eq!(left("--unhealthy"), ["orders/o1", "orders/b1"]);
    assert_eq!(left("b1 --unhealthy"), ["orders/b1"]);
    assert_eq!(left("--tag version=v9"), Vec::<String>::new());
}

#[test]
fn a_name_that_nothing_has_is_said_and_one_that_is_only_left_out_is_not() {
    let (left, missing) = chosen("b1 nobody orders/b2");
    assert_eq!(left.len(), 2);
    let missing = missing.unwrap();
    assert!(
        missing.contains("no instance is called `nobody` or `orders/b2` in zone east")
            && missing.contains("not_found: true"),
        "{missing}"
    );
    assert_eq!(chosen("o2 --unhealthy"), (vec![], None));
}

#[test]
fn lists_are_sorted_by_a_column_and_by_its_values() {
    let left = |args: &str| chosen(args).0;
    let by_latency = ["orders/b1", "billing/b1", "orders/o2", "orders/o1"];
    assert_eq!(left("--sort latency"), by_latency);
    let from_the_end = ["orders/o2", "billing/b1", "orders/b1", "orders/o1"];
    assert_eq!(
        left("--sort=-LATENCY"),
        from_the_end,
        "what has no value stays last"
    );
    let error = choice("--sort speed").column::<InstanceView>().unwrap_err();
    let told = format!("{error:?}");
    assert!(
        told.contains("`speed`") && told.contains("last-failure"),
        "{told}"
    );
    assert!(
        choice("--sort last_failure")
            .column::<InstanceView>()
            .unwrap()
            .is_some()
    );
}

#[test]
fn sizes_and_times_are_sorted_by_what_they_are_worth() {
    let tunnel = |gateway: &str, sent_bytes: u64, up_seconds: f64| {
        json!({
            "zone": "west", "gateway": gateway, "state": "up", "dialled": true, "thread": 0, "remote": "10.2.0.1:7800",
            "up_seconds": up_seconds, "rtt_ms": 1.0, "streams": 0, "congestion_window_bytes": 1, "mtu_bytes": 1452,
            "sent_packets": 1, "lost_packets": 0, "sent_bytes": sent_bytes, "received_bytes": 0,
        })
    };
    let tunnels = json!([
        tunnel("gw1", 900, 7503.0),
        tunnel("gw2", 2_000_000, 59.0),
        tunnel("gw10", 5_000, 3600.0)
    ]);
    let sorted = |args: &str| -> Vec<String> {
        let mut all: Envelope<TunnelView> = envelope(&tunnels);
        choice(args).choose(&mut all).unwrap();
        all.items.into_iter().map(|one| one.gateway).collect()
    };
    assert_eq!(sorted("--sort sent"), ["gw1", "gw10", "gw2"]);
    assert_eq!(sorted("--sort up"), ["gw2", "gw10", "gw1"]);
    assert_eq!(sorted("--sort peer"), ["gw1", "gw2", "gw10"]);
    assert_eq!(sorted("west/gw2"), ["gw2"]);
    assert_eq!(sorted("west --sort=-peer"), ["gw10", "gw2", "gw1"]);
    assert_eq!(sorted("--zone north"), Vec::<String>::new());
}

#[test]
fn services_are_those_with_instances_in_a_zone_and_in_need_where_any_is_ill() {
    let service = |name: &str, local: (u32, u32), west: (u32, u32), usable: bool| {
        json!({
            "name": name, "port": 80, "protocol": "tcp", "vips": [], "local": { "instances": local.0, "healthy": local.1 },
            "zones": [{ "zone": "west", "instances": west.0, "healthy": west.1, "age": "fresh", "link": "up", "usable": usable }],
            "split": [{ "tags": { "runtime": "vm" }, "weight": 1 }], "failover": [], "export_to": null, "health": null, "early": false,
        })
    };
    let services = json!([
        service("all", (2, 2), (1, 1), true),
        service("away", (1, 1), (1, 1), false),
        service("gone", (0, 0), (0, 0), true),
        service("half", (0, 0), (3, 2), true),
    ]);
    let left = |args: &str| -> Vec<String> {
        let mut all: Envelope<ServiceView> = envelope(&services);
        choice(args).choose(&mut all).unwrap();
        all.items.into_iter().map(|one| one.name).collect()
    };
    assert_eq!(left("--unhealthy"), ["away", "gone", "half"]);
    assert_eq!(left("--zone west"), ["all", "away", "half"]);
    assert_eq!(left("--zone east"), ["all", "away"]);
    assert_eq!(left("--tag runtime=vm").len(), 4);
    assert_eq!(left("--tag runtime=k8s").len(), 0);
}

#[test]
fn a_flag_that_says_nothing_about_a_kind_is_refused_with_those_that_do() {
    let refused = |args: &str, plural: &str, by: &[ChoosableBy]| {
        format!("{:?}", choice(args).check(plural, by).unwrap_err())
    };
    let told = refused("--service orders", "zones", ZoneView::BY);
    assert!(
        told.contains("zones are not chosen by --service") && told.contains("--unhealthy"),
        "{told}"
    );
    assert!(refused("--zone west", "instances", InstanceView::BY).contains("--at ZONE"));
    assert!(refused("west", "topologies", &[]).contains("as a whole"));
    assert!(choice("west --sort rtt").check("zones", ZoneView::BY).is_ok());
    assert!(
        choice("--zone west --tag a=b")
            .check("exports", ExportView::BY)
            .is_ok()
    );
}

#[test]
fn answers_of_all_zones_keep_what_this_program_does_not_know_and_what_it_cannot_understand() {
    let zone = |name: &str, answer: Option<Value>, last: Option<Value>| {
        let last = last.map(|answer| json!({ "time": "2026-11-18T11:04:40Z", "answer": answer }));
        let state = if answer.is_some() { "answered" } else { "away" };
        json!({ "zone": name, "state": state, "asked": "2026-11-18T11:06:40Z", "answer": answer, "last": last })
    };
    let list = |mut items: Value| {
        items[2]["of_a_later_version"] = json!(true);
        json!({ "version": 1, "kind": "instances", "zone": "x", "generation": 1, "items": items })
    };
    let garbled = json!({ "items": [7] });
    let view = json!({ "zones": [
        zone("east", Some(list(instances())), None),
        zone("south", Some(garbled.clone()), None),
        zone("west", None, Some(list(instances()))),
    ]});
    let mut view: EveryZoneView = serde_json::from_value(view).unwrap();
    let chosen = choice("o2 nobody")
        .choose_everywhere::<InstanceView>(&mut view)
        .unwrap();
    let missing = format!("{:?}", chosen.missing.unwrap());
    assert!(
        missing.contains("`nobody` in any zone that answered"),
        "{missing}"
    );
    let items = |answer: &Value| answer["items"].as_array().unwrap().clone();
    let east = items(view.zones[0].answer.as_ref().unwrap());
    assert_eq!((east.len(), &east[0]["of_a_later_version"]), (1, &json!(true)));
    assert_eq!(view.zones[1].answer, Some(garbled));
    assert_eq!(items(&view.zones[2].last.as_ref().unwrap().answer).len(), 1);
    assert_eq!(view.zones[2].state, ZoneAnswerState::Away);
}
