//! Tests of what `get` prints, for hand-made items.

use causeway_api::admin::view::{
    ArmView, Count, DrainView, ExchangeView, LinkView, RefusalView, ServiceZone, TierView,
};
use causeway_federation::name::Tags;

use super::*;

pub(super) fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().copied().collect()
}

pub(super) fn envelope<T>(kind: &str, items: Vec<T>) -> Envelope<T> {
    Envelope {
        version: 1,
        kind: kind.to_owned(),
        zone: "east".to_owned(),
        generation: 7,
        items,
        capacities: Vec::new(),
    }
}

pub(super) fn text<T: Serialize + Tabular>(envelope: &Envelope<T>, format: Format) -> String {
    render(envelope, format, false).unwrap()
}

pub(super) fn exchange() -> ExchangeView {
    ExchangeView {
        lag_versions: Some(2),
        behind_versions: Some(0),
        sync_protocol: Some(2),
        sync_sent_bytes: 2048,
        sync_received_bytes: 500,
        refusals: vec![RefusalView {
            side: "peer".to_owned(),
            reason: "too_fast".to_owned(),
            count: 3,
            seconds_ago: Some(5.0),
        }],
    }
}

fn zones() -> Envelope<ZoneView> {
    let zone = |name: &str, state: &str, links| ZoneView {
        last_word: None,
        drain: None,
        name: name.to_owned(),
        own: state == "own",
        state: state.to_owned(),
        tags: tags(&[("region", "us")]),
        gateways: vec![vec![format!("gw.{name}:7800")]],
        links,
    };
    let link = LinkView {
        unanswered: 0,
        clock_ahead_seconds: None,
        registry: None,
        gateway: "gw1".to_owned(),
        state: "up".to_owned(),
        tunnels: 2,
        rtt_ms: Some(1.2344),
        age: Some("fresh".to_owned()),
        heard_seconds_ago: Some(0.4),
        sync_session: true,
        exports: 3,
        topology: Some("6a1b2c3d4e5f".to_owned()),
        same_topology: Some(false),
        topology_generation: Some(4),
        trust_generation: Some(7),
        incarnation: Some(1_795_262_345),
        version: Some(12),
        via: None,
        exchange: exchange(),
    };
    let items = vec![
        zone("east", "own", vec![]),
        zone("plant", "down", vec![]),
        zone("west", "up", vec![link]),
    ];
    envelope("zones", items)
}

fn services() -> Envelope<ServiceView> {
    let elsewhere = |zone: &str, usable| ServiceZone {
        zone: zone.to_owned(),
        instances: 3,
        healthy: 2,
        age: "fresh".to_owned(),
        link: "up".to_owned(),
        usable,
    };
    let arm = |version, weight| ArmView {
        tags: tags(&[("version", version)]),
        weight,
    };
    let tier = |zone: Option<&str>| TierView {
        zone: zone.map(ToOwned::to_owned),
        tags: std::collections::BTreeMap::new(),
    };
    let service = ServiceView {
        name: "orders".to_owned(),
        port: 8080,
        protocol: "http".to_owned(),
        vips: vec!["127.64.0.1".parse().unwrap()],
        local: Count {
            instances: 2,
            healthy: 1,
        },
        zones: vec![elsewhere("plant", false), elsewhere("west", true)],
        split: vec![arm("v1", 95), arm("v2", 5)],
        spill: Some("below 70% healthy".to_owned()),
        criticality: "critical".to_owned(),
        capacity: vec![causeway_api::admin::view::CapacityView {
            zone: "west".to_owned(),
            capacity_per_second: 60.0,
            planned_per_second: 41.6,
            measured: false,
        }],
        failover: vec![tier(Some("self")), tier(None)],
        allow: Some(vec!["web".to_owned()]),
        deny: vec!["*@plant".to_owned()],
        callers: "web but not *@plant".to_owned(),
        health: Some("http /healthz every 2s".to_owned()),
        ..ServiceView::default()
    };
    envelope("services", vec![service])
}

fn tunnels() -> Envelope<TunnelView> {
    let tunnel = TunnelView {
        zone: "west".to_owned(),
        gateway: "gw1".to_owned(),
        state: "stalled".to_owned(),
        dialled: true,
        thread: 1,
        remote: "10.2.0.1:7800".parse().unwrap(),
        up_seconds: 7503.2,
        rtt_ms: 12.5,
        streams: 4,
        key_exchange: Some("X25519MLKEM768".to_owned()),
        post_quantum: true,
        cipher: Some("TLS13_AES_128_GCM_SHA256".to_owned()),
        identity: Some("spiffe://acme.internal/zone/west/gateway/gw1".to_owned()),
        certificate_ends: Some("2026-11-22T12:00:00Z".to_owned()),
        program: None,
        congestion_window_bytes: 1_572_864,
        mtu_bytes: 1452,
        sent_packets: 20_000,
        lost_packets: 25,
        sent_bytes: 900,
        received_bytes: 3_221_225_472,
    };
    envelope("tunnels", vec![tunnel])
}

#[test]
fn a_zone_that_drains_is_marked() {
    let mut zones = zones();
    let west = zones.items.iter_mut().find(|zone| zone.name == "west").unwrap();
    let by = Some("2026-12-01T02:00:00Z".to_owned());
    west.drain = Some(DrainView { by });
    let table = text(&zones, Format::Table);
    assert!(
        table.contains("west    up, drains by 2026-12-01T02:00:00Z"),
        "{table}"
    );
    let yaml = text(&zones, Format::Yaml);
    assert!(yaml.contains("2026-12-01T02:00:00Z"), "{yaml}");
}

#[test]
fn zones_as_a_table() {
    insta::assert_snapshot!(text(&zones(), Format::Table), @r"
ZONE    STATE         GATEWAYS   TUNNELS   RTT      AGE     HEARD      TAGS
east    own           -          -         -        -       -          region=us
plant   never heard   0/1        0         -        -       -          region=us
west    up            1/1        2         1.23ms   fresh   just now   region=us
");
}

#[test]
fn zones_as_a_wide_table() {
    insta::assert_snapshot!(text(&zones(), Format::Wide), @r"
ZONE   STATE        GATEWAYS  TUNNELS  RTT     AGE    HEARD     TAGS       ADDRESSES      EXPORTS  TOPOLOGY  TRUST  VERSION  LAG  SENT / RECEIVED  REFUSED
east   own          -         -        -       -      -         region=us  gw.east:7800   -        -         -      -        -    -                -
plant  never heard  0/1       0        -       -      -         region=us  gw.plant:7800  0        -         -      -        -    -                -
west   up           1/1       2        1.23ms  fresh  just now  region=us  gw.west:7800   3        differs   7      12       2    2.0 KiB / 500 B  too_fast:3
");
}

#[test]
fn registries_that_the_gateways_of_a_zone_do_not_share_are_told_by_name() {
    let wide = |registries: &[&str]| {
        let mut zones = zones();
        let links = registries.iter().enumerate().map(|(index, word)| LinkView {
            gateway: format!("gw{index}"),
            registry: Some((*word).to_owned()),
            ..LinkView::default()
        });
        zones.items[2].links = links.collect();
        // The last column, before it is folded.
        zones.items[2].wide().pop().unwrap().0
    };
    assert_eq!(wide(&["own"]), "own");
    assert_eq!(wide(&["shared", "shared"]), "shared");
    assert_eq!(wide(&["own", "shared"]), "gw0:own,gw1:shared");
    assert_eq!(wide(&["apart"]), "gw0:apart");
}

#[test]
#[allow(clippy::too_many_lines, reason = "one snapshot, as long as what it shows")]
fn zones_as_json() {
    insta::assert_snapshot!(text(&zones(), Format::Json), @r#"
{
  "version": 1,
  "kind": "zones",
  "zone": "east",
  "generation": 7,
  "items": [
    {
      "name": "east",
      "own": true,
      "state": "own",
      "tags": {
        "region": "us"
      },
      "gateways": [
        [
          "gw.east:7800"
        ]
      ],
      "links": []
    },
    {
      "name": "plant",
      "own": false,
      "state": "down",
      "tags": {
        "region": "us"
      },
      "gateways": [
        [
          "gw.plant:7800"
        ]
      ],
      "links": []
    },
    {
      "name": "west",
      "own": false,
      "state": "up",
      "tags": {
        "region": "us"
      },
      "gateways": [
        [
          "gw.west:7800"
        ]
      ],
      "links": [
        {
          "gateway": "gw1",
          "state": "up",
          "tunnels": 2,
          "unanswered": 0,
          "rtt_ms": 1.2344,
          "age": "fresh",
          "heard_seconds_ago": 0.4,
          "sync_session": true,
          "exports": 3,
          "topology": "6a1b2c3d4e5f",
          "same_topology": false,
          "topology_generation": 4,
          "trust_generation": 7,
          "incarnation": 1795262345,
          "version": 12,
          "via": null,
          "lag_versions": 2,
          "behind_versions": 0,
          "sync_protocol": 2,
          "sync_sent_bytes": 2048,
          "sync_received_bytes": 500,
          "refusals": [
            {
              "side": "peer",
              "reason": "too_fast",
              "count": 3,
              "seconds_ago": 5.0
            }
          ]
        }
      ]
    }
  ]
}
"#);
}

#[test]
fn zones_as_yaml() {
    insta::assert_snapshot!(text(&zones(), Format::Yaml), @r"
version: 1
kind: zones
zone: east
generation: 7
items:
- name: east
  own: true
  state: own
  tags:
    region: us
  gateways:
  - - gw.east:7800
  links: []
- name: plant
  own: false
  state: down
  tags:
    region: us
  gateways:
  - - gw.plant:7800
  links: []
- name: west
  own: false
  state: up
  tags:
    region: us
  gateways:
  - - gw.west:7800
  links:
  - gateway: gw1
    state: up
    tunnels: 2
    unanswered: 0
    rtt_ms: 1.2344
    age: fresh
    heard_seconds_ago: 0.4
    sync_session: true
    exports: 3
    topology: 6a1b2c3d4e5f
    same_topology: false
    topology_generation: 4
    trust_generation: 7
    incarnation: 1795262345
    version: 12
    via: null
    lag_versions: 2
    behind_versions: 0
    sync_protocol: 2
    sync_sent_bytes: 2048
    sync_received_bytes: 500
    refusals:
    - side: peer
      reason: too_fast
      count: 3
      seconds_ago: 5.0
");
}

#[test]
fn services_as_tables() {
    insta::assert_snapshot!(text(&services(), Format::Table), @r"
SERVICE   PORT   PROTOCOL   VIP          HERE   ELSEWHERE
orders    8080   http       127.64.0.1   1/2    plant!:2/3 west:2/3
");
    insta::assert_snapshot!(text(&services(), Format::Wide), @r"
SERVICE  PORT  PROTOCOL  VIP         HERE  ELSEWHERE   SPLIT         FAILOVER    SPILL      CAPACITY  CRITICALITY  EXPORTED    WHO MAY      HEALTH
                                                                                                                   TO          CALL         CHECK
orders   8080  http      127.64.0.1  1/2   plant!:2/3  version=v1:   self > any  below 70%  west:60/  critical     every zone  web but not  http
                                           west:2/3    95                        healthy    s(42)                              *@plant      /healthz
                                                       version=v2:5                                                                         every 2s
");
}

#[test]
fn tunnels_as_tables() {
    insta::assert_snapshot!(text(&tunnels(), Format::Table), @r"
PEER       STATE     RTT       STREAMS   LOST    SENT    RECEIVED   UP
west/gw1   stalled   12.50ms   4         0.12%   900 B   3.0 GiB    2h 5m
");
    insta::assert_snapshot!(text(&tunnels(), Format::Wide), @r"
PEER      STATE    RTT      STREAMS  LOST   SENT   RECEIVED  UP     DIALLED  THREAD  REMOTE     WINDOW   MTU   KEY         CIPHER      IDENTITY    CERTIFICATE
                                                                                                               EXCHANGE                            ENDS
west/gw1  stalled  12.50ms  4        0.12%  900 B  3.0 GiB   2h 5m  by us    1       10.2.0.1:  1.5 MiB  1452  X25519MLKE  TLS13_AES_  spiffe://   2026-11-
                                                                                     7800                      M768        128_GCM_    acme.       22T12:00:
                                                                                                                           SHA256      internal/   00Z
                                                                                                                                       zone/west/
                                                                                                                                       gateway/
                                                                                                                                       gw1
");
}

#[test]
fn nothing_to_show_is_said_in_words_but_stays_json() {
    let none = envelope::<TunnelView>("tunnels", vec![]);
    assert_eq!(text(&none, Format::Table), "No tunnels in zone east.\n");
    assert!(text(&none, Format::Json).contains(r#""items": []"#));
}

#[test]
fn colour_marks_states_and_changes_nothing_else() {
    let coloured = render(&zones(), Format::Table, true).unwrap();
    assert!(coloured.contains("\x1b["));
    let plain = text(&zones(), Format::Table);
    assert!(!plain.contains('\x1b'));
}
