//! Tests of tables of instances, exports and records, and of the width of wide ones.

use causeway_api::admin::view::{EjectionView, ExchangeView, FailureView};
use causeway_federation::name::Tags;

use super::{
    tests::{envelope, exchange, tags, text},
    *,
};

#[test]
fn instances_and_exports_as_tables() {
    let instance = InstanceView {
        drain: None,
        service: "orders".to_owned(),
        id: "a1".to_owned(),
        address: "10.1.0.11:8080".parse().unwrap(),
        tags: tags(&[("runtime", "vm"), ("version", "v1")]),
        weight: 1,
        capacity_per_second: Some(500),
        health: "healthy".to_owned(),
        checked: true,
        unchanged_seconds: Some(61.0),
        last_failure: Some(FailureView {
            reason: "connection refused".to_owned(),
            seconds_ago: 61.0,
        }),
        source: "registered".to_owned(),
        declared: true,
        expires_in_seconds: Some(29.5),
        outstanding: 3,
        latency_ms: Some(0.25),
        number: "#00000000000000a1".to_owned(),
        ejected: Some(EjectionView {
            port: None,
            part: "instance".to_owned(),
            zone: "east".to_owned(),
            instance: Some("a1".to_owned()),
            tags: Tags::default(),
            seconds_ago: 3.0,
            back_in_seconds: 27.0,
            reason: "5 failures in a row (5 no answer in time)".to_owned(),
            times: 2,
        }),
    };
    insta::assert_snapshot!(text(&envelope("instances", vec![instance]), Format::Wide), @r"
SERVICE  ID  ADDRESS         HEALTH    WEIGHT  SOURCE      TAGS         OPEN  LATENCY  CAPACITY  EXPIRES  LAST FAILURE    NUMBER          EJECTED
orders   a1  10.1.0.11:8080  healthy,  1       registered  runtime=vm,  3     0.25ms   500/s     29s      connection      #0000000000000  instance a1
                             ejected                       version=v1                                     refused (1m 1s  0a1             of zone east:
                                                                                                          ago)                            5 failures in
                                                                                                                                          a row (5 no
                                                                                                                                          answer in
                                                                                                                                          time), 3s
                                                                                                                                          ago, back in
                                                                                                                                          27s, ejected
                                                                                                                                          2 times in a
                                                                                                                                          row
");
    let export = ExportView {
        service: "orders".to_owned(),
        zone: "west".to_owned(),
        gateway: Some("gw1".to_owned()),
        tags: Tags::default(),
        instances: 3,
        healthy: 0,
        weight: 0,
        capacity_per_second: None,
        age: "suspect".to_owned(),
        link: "down".to_owned(),
        version: Some(12),
        heard_seconds_ago: Some(9.0),
        via: Some("north/gw1".to_owned()),
    };
    insta::assert_snapshot!(text(&envelope("exports", vec![export]), Format::Wide), @r"
SERVICE  ZONE  TAGS  HEALTHY  WEIGHT  AGE      LINK  GATEWAY  CAPACITY  VERSION  HEARD   VIA
orders   west  -     0/3      0       suspect  down  gw1      -         12       9s ago  north/gw1
");
}

#[test]
fn records_as_tables() {
    let own = RecordView {
        origin: "east/gw1".to_owned(),
        incarnation: 1_795_262_001,
        version: 7,
        age: "own".to_owned(),
        heard_seconds_ago: None,
        via: None,
        draining: false,
        topology: "6a1b2c3d4e5f".to_owned(),
        topology_generation: 4,
        same_topology: true,
        exchange: ExchangeView::default(),
        exports: vec![],
    };
    let relayed = RecordView {
        origin: "plant/gw1".to_owned(),
        age: "suspect".to_owned(),
        heard_seconds_ago: Some(9.0),
        via: Some("north/gw1".to_owned()),
        draining: true,
        topology: "ffff2c3d4e5f".to_owned(),
        same_topology: false,
        exchange: exchange(),
        ..own.clone()
    };
    let records = envelope("catalog", vec![own, relayed]);
    insta::assert_snapshot!(text(&records, Format::Table), @r"
GATEWAY     AGE       HEARD    VERSION   LAG   EXPORTS   VIA
east/gw1    own       -        7         -     0         -
plant/gw1   suspect   9s ago   7         2     0         north/gw1
");
    insta::assert_snapshot!(text(&records, Format::Wide), @r"
GATEWAY    AGE      HEARD   VERSION  LAG  EXPORTS  VIA        INCARNATION  BEHIND  PROTOCOL  SENT     RECEIVED  REFUSED     TOPOLOGY      GENERATION  DRAINING
east/gw1   own      -       7        -    0        -          1795262001   -       -         -        -         -           6a1b2c3d4e5f  4           -
plant/gw1  suspect  9s ago  7        2    0        north/gw1  1795262001   0       2         2.0 KiB  500 B     too_fast:3  ffff2c3d4e5f  4           yes
");
}

/// Longest line of a wide table.
fn longest_line(table: &str) -> usize {
    let lines = table.lines().map(|line| line.chars().count());
    lines.max().unwrap_or_default()
}

#[test]
fn titles_of_every_wide_table_fit_beside_the_zone_that_was_asked() {
    fn titles<T: Tabular>() -> usize {
        let titles = ["AT ZONE"].iter().chain(T::HEADER).chain(T::WIDE).copied();
        longest_line(&output::wide_table(
            &titles.collect::<Vec<_>>(),
            Vec::new(),
            false,
        ))
    }
    for longest in [
        titles::<ZoneView>(),
        titles::<ServiceView>(),
        titles::<ShiftView>(),
        titles::<InstanceView>(),
        titles::<TunnelView>(),
        titles::<ExportView>(),
        titles::<LoadView>(),
        titles::<RecordView>(),
        titles::<GenerationView>(),
        titles::<TopologyView>(),
    ] {
        assert!(longest <= 160, "{longest}");
    }
}

#[test]
fn a_wide_table_stays_within_160_characters_whatever_is_in_it() {
    let record = RecordView {
        origin: "a-zone-with-a-long-name/gateway-of-it-12".to_owned(),
        incarnation: u64::MAX,
        version: u64::MAX,
        age: "withdrawn".to_owned(),
        heard_seconds_ago: Some(86_399.0),
        via: Some("another-zone-with-a-long-name/gw1".to_owned()),
        draining: true,
        topology: "ffff2c3d4e5f".to_owned(),
        topology_generation: u64::MAX,
        same_topology: false,
        exchange: exchange(),
        exports: vec![],
    };
    let records = envelope("catalog", vec![record]);
    let longest = longest_line(&text(&records, Format::Wide));
    assert!((120..=160).contains(&longest), "{longest}");
    assert!(longest_line(&text(&records, Format::Table)) > 120);
    // A program gets all of it.
    assert!(text(&records, Format::Json).contains("a-zone-with-a-long-name/gateway-of-it-12"));
}
