//! Several gateways of a zone that share a registry: three members of etcd, two zone-sync processes, three gateways in
//! east, and one in west whose clients are served by them. One part after the other is killed under load.

use std::{net::SocketAddr, time::Duration};

use causeway_proto::registry::Registration;
use causeway_tests::{
    address::Block,
    dns,
    etcd::Etcd,
    federation::PATIENCE,
    http,
    instance::{Behaviour, Instance},
    load::{Load, Running},
    measured::measured,
    process,
    shared_zone::Gateways,
    talk::say,
    verdict::{Testimony, Verdict},
    wait::{until, until_true},
    zone_sync::{ZoneSyncProcess, register},
};
use serde_json::Value;

const PORT: u16 = 9000;
const EAST: [&str; 3] = ["east/gw1", "east/gw2", "east/gw3"];
const WEST: &str = "west/gw1";
const CONNECTIONS_PER_SECOND: u32 = 50;
/// Connections before a failure, and after it until the next.
const ROUND: u64 = 150;
const INSTANCES: usize = 6;
const SERVICES: &str = "  orders: { port: 9000, protocol: tcp, health: { tcp: true, every: 500ms, timeout: 400ms, fall: 2, rise: 1 } }\n";

#[tokio::test]
async fn a_gateway_says_that_nothing_can_be_registered_while_etcd_is_away() {
    let mut etcd = Etcd::start(1).await.unwrap();
    let zone_sync = ZoneSyncProcess::ready(&etcd, 0).await.unwrap();
    let arguments = |_: &str| vec!["--zone-sync".to_owned(), zone_sync.address.to_string()];
    let names = [EAST[0]];
    let mut gateways = Gateways::lay_out(etcd.block(), etcd.folder(), &names, SERVICES, arguments).unwrap();
    gateways.start(EAST[0]).await.unwrap();
    let gateway = gateways.of(EAST[0]);
    gateway.wait_check(200, "with the gateways gw1").await;
    etcd.kill_all().unwrap();
    gateway
        .wait_check(200, "nothing can be registered: etcd has been out of reach")
        .await;
    etcd.start_all().unwrap();
    gateway.wait_check(200, "with the gateways gw1").await;
}

#[tokio::test]
async fn gateways_of_one_zone_with_a_registry_each_are_told_of_each_other_by_those_of_another() {
    let (block, folder) = (Block::take().unwrap(), tempfile::tempdir().unwrap());
    let names = [EAST[0], EAST[1], WEST];
    let mut gateways = Gateways::lay_out(&block, folder.path(), &names, SERVICES, |_| Vec::new()).unwrap();
    for name in names {
        gateways.start(name).await.unwrap();
    }
    for (name, other) in [(EAST[0], "gw2"), (EAST[1], "gw1")] {
        let told = format!("the gateways {other} of this zone do not share a registry with this one");
        gateways.of(name).wait_check(200, &told).await;
        gateways
            .of(name)
            .wait_log(&["WARN", "has a registry of its own", &format!("sibling={other}")])
            .await;
    }
    gateways
        .of(WEST)
        .wait_check(200, "this is the zone's only gateway")
        .await;
    // In the table of zones, for whoever looks from one of them or from elsewhere.
    for (name, told) in [
        (EAST[0], "gw2:apart"),
        (EAST[1], "gw1:apart"),
        (WEST, "gw1:own,gw2:own"),
    ] {
        let admin = gateways.of(name).admin.to_string();
        let asked = ["get", "zones", "east", "-o", "json", "--admin", &admin];
        let zones: Value = serde_json::from_str(&process::run(asked).unwrap()).unwrap();
        let links = zones["items"][0]["links"].as_array().unwrap();
        let told_of = links.iter().filter_map(|link| {
            let registry = link["registry"].as_str()?;
            Some(format!("{}:{registry}", link["gateway"].as_str()?))
        });
        assert_eq!(told_of.collect::<Vec<_>>().join(","), told, "{name:?}: {zones}");
    }
}

struct Zone {
    etcd: Etcd,
    zone_syncs: Vec<ZoneSyncProcess>,
    gateways: Gateways,
    instances: Vec<Instance>,
}

impl Zone {
    /// Everything runs, nothing is registered.
    async fn start() -> Self {
        let etcd = Etcd::start(3).await.unwrap();
        let mut zone_syncs = Vec::new();
        for number in 0..2 {
            zone_syncs.push(ZoneSyncProcess::ready(&etcd, number).await.unwrap());
        }
        let servers: Vec<_> = zone_syncs
            .iter()
            .map(|server| server.address.to_string())
            .collect();
        let arguments = |zone: &str| match zone {
            "east" => vec!["--zone-sync".to_owned(), servers.join(",")],
            _ => Vec::new(),
        };
        let names = [&EAST[..], &[WEST]].concat();
        let mut gateways =
            Gateways::lay_out(etcd.block(), etcd.folder(), &names, SERVICES, arguments).unwrap();
        for name in names {
            gateways.start(name).await.unwrap();
        }
        let mut instances = Vec::new();
        for number in 0..INSTANCES {
            instances.push(
                Instance::start(&format!("i{number}"), Behaviour::Name)
                    .await
                    .unwrap(),
            );
        }
        Self {
            etcd,
            zone_syncs,
            gateways,
            instances,
        }
    }

    fn ids(&self) -> Vec<String> {
        self.instances
            .iter()
            .map(|instance| instance.name().to_owned())
            .collect()
    }

    /// Half at one gateway and half at a zone-sync.
    async fn register_all(&self) {
        let (some, rest) = self.instances.split_at(INSTANCES / 2);
        for instance in some {
            let admin = self.gateways.of(EAST[0]).admin.to_string();
            let address = instance.address().to_string();
            let arguments = [
                "register",
                "orders",
                "--id",
                instance.name(),
                "--address",
                &address,
            ];
            process::run(arguments.into_iter().chain(["--ttl", "1h", "--admin", &admin])).unwrap();
        }
        let mut client = self.zone_syncs[1].client().await.unwrap();
        let rest = rest.iter().map(|instance| Registration {
            service: "orders".to_owned(),
            id: instance.name().to_owned(),
            address: instance.address().to_string(),
            ..Registration::default()
        });
        assert_eq!(
            register(&mut client, rest.collect()).await.unwrap(),
            vec![""; INSTANCES - INSTANCES / 2]
        );
    }

    /// Waits until these gateways of east know every instance and each other.
    async fn wait_whole(&self, gateways: &[&str]) {
        let present: Vec<_> = gateways
            .iter()
            .map(|name| name.trim_start_matches("east/"))
            .collect();
        let present = format!("with the gateways {}", present.join(", "));
        for name in gateways {
            self.gateways.of(name).wait_healthy(&self.ids()).await;
            self.gateways.of(name).wait_check(200, &present).await;
        }
    }

    /// Waits until west knows that each of these gateways of east exports every instance as healthy.
    async fn wait_exported(&self, gateways: &[&str]) {
        let west = self.gateways.of(WEST).admin;
        let what = format!("west knows the same of {gateways:?}");
        until_true(&what, PATIENCE, async || {
            let page = http::get(west, "/v1/exports").await.unwrap().body;
            let page: serde_json::Value = serde_json::from_str(&page).unwrap();
            let whole = |name: &&str| {
                let items = page["items"].as_array().unwrap().iter();
                items.clone().any(|item| {
                    format!(
                        "{}/{}",
                        item["zone"].as_str().unwrap_or_default(),
                        item["gateway"].as_str().unwrap_or_default()
                    ) == **name
                        && item["instances"] == INSTANCES
                        && item["healthy"] == INSTANCES
                })
            };
            gateways.iter().all(whole)
        })
        .await;
    }

    /// Address at which clients in west find the service, once it answers.
    async fn service(&self) -> SocketAddr {
        let server = self.gateways.of(WEST).dns;
        let ip = until("west answers for orders", PATIENCE, async || {
            dns::addresses(server, "orders.mesh.")
                .await
                .ok()?
                .into_iter()
                .next()
        })
        .await;
        let service = SocketAddr::new(ip, PORT);
        until_true("west is served by east", PATIENCE, async || {
            say(service, "who")
                .await
                .is_ok_and(|answer| answer.ends_with("who"))
        })
        .await;
        service
    }

    fn testimonies(&self) -> Vec<Testimony> {
        let of = |instance: &Instance| Testimony {
            instance: instance.name().to_owned(),
            lines: instance.lines(),
            empty_connections: instance.empty_connections(),
        };
        self.instances.iter().map(of).collect()
    }
}

fn load(service: SocketAddr) -> Running {
    let load = Load {
        service,
        connections_per_second: CONNECTIONS_PER_SECOND,
        patience: Duration::from_secs(10),
    };
    load.start()
}

async fn a_round(load: &Running) {
    let until = load.begun() + ROUND;
    until_true("the load has gone on", PATIENCE, async || load.begun() >= until).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_registration_and_no_connection_is_lost_when_one_part_after_the_other_is_killed() {
    let mut zone = Zone::start().await;
    zone.register_all().await;
    zone.wait_whole(&EAST).await;
    zone.wait_exported(&EAST).await;
    let load = load(zone.service().await);
    a_round(&load).await;

    zone.gateways.kill(EAST[0]).unwrap();
    a_round(&load).await;
    zone.wait_whole(&EAST[1..]).await;
    zone.gateways.start(EAST[0]).await.unwrap();
    zone.wait_whole(&EAST).await;

    zone.zone_syncs[0].kill().unwrap();
    a_round(&load).await;
    zone.wait_whole(&EAST).await;

    let leader = zone.etcd.wait_leader().await;
    zone.etcd.kill(leader).unwrap();
    a_round(&load).await;
    zone.etcd.wait_leader().await;
    // What is registered after all of this reaches every gateway as before.
    let late = Instance::start("i9", Behaviour::Name).await.unwrap();
    let admin = zone.gateways.of(EAST[2]).admin.to_string();
    let address = late.address().to_string();
    let arguments = [
        "register",
        "orders",
        "--id",
        "i9",
        "--address",
        &address,
        "--admin",
        &admin,
    ];
    until_true("a gateway takes a registration", PATIENCE, async || {
        process::run(arguments).is_ok()
    })
    .await;
    zone.instances.push(late);
    zone.wait_whole(&EAST).await;

    let report = load.stop().await;
    let verdict = Verdict::new(&report, &zone.testimonies());
    measured(&format!(
        "parts killed in turn: {report}\nparts killed in turn: {verdict}"
    ));
    assert!(verdict.promises_kept(), "{report}\n{verdict}: {verdict:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_whose_registry_is_away_serves_on_and_a_gateway_that_restarts_meanwhile_too() {
    let mut zone = Zone::start().await;
    zone.register_all().await;
    zone.wait_whole(&EAST).await;
    let service = zone.service().await;
    let load = load(service);

    zone.etcd.kill_all().unwrap();
    a_round(&load).await;
    zone.wait_whole(&EAST).await;
    for zone_sync in &mut zone.zone_syncs {
        zone_sync.kill().unwrap();
    }
    for name in EAST {
        zone.gateways.of(name).wait_check(200, "detached since").await;
    }
    let admin = zone.gateways.of(EAST[0]).admin.to_string();
    let refused = process::run([
        "register",
        "orders",
        "--address",
        "127.0.0.1:1",
        "--admin",
        &admin,
    ]);
    let refused = format!("{:#}", refused.unwrap_err());
    assert!(refused.contains("no zone-sync could take it"), "{refused}");
    for name in EAST {
        zone.gateways.kill(name).unwrap();
        zone.gateways.start(name).await.unwrap();
        zone.gateways.of(name).wait_healthy(&zone.ids()).await;
    }
    zone.wait_exported(&EAST).await;
    let report = load.stop().await;
    let verdict = Verdict::new(&report, &zone.testimonies());
    measured(&format!("no registry: {report}\nno registry: {verdict}"));
    assert!(verdict.promises_kept(), "{report}\n{verdict}: {verdict:?}");

    zone.etcd.start_all().unwrap();
    zone.etcd.wait_leader().await;
    zone.zone_syncs = vec![ZoneSyncProcess::ready(&zone.etcd, 0).await.unwrap()];
    zone.wait_whole(&EAST).await;
}
