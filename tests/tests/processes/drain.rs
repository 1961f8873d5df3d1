//! A zone that is drained by command, through real gateways: what moves at once, what by the deadline, and the way back.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    instance::{Behaviour, Instance},
    process::run,
    talk::{self, Client},
    wait::until_true,
};

const PORT: u16 = 9000;
const DEADLINE: Duration = Duration::from_secs(4);
/// Connections that are open when the drain begins. They end at two a second from the deadline on.
const OPEN: usize = 4;

async fn serve(zones: [&str; 2]) -> (Federation, Vec<Instance>) {
    let mut instances = Vec::new();
    let mut plan = Plan::new();
    for zone in zones {
        let instance = Instance::start(zone, Behaviour::Name).await.unwrap();
        plan = plan.zone(zone).instance("orders", instance.address(), "{}");
        instances.push(instance);
    }
    let plan = plan.service("orders", &format!("port: {PORT}, protocol: tcp"));
    let federation = plan.ruled_by_applied().start().await.unwrap();
    federation.wait_export("east", "west", "orders").await;
    federation.wait_export("west", "east", "orders").await;
    (federation, instances)
}

fn at(federation: &Federation, zone: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let admin = federation.zone(zone).admin.to_string();
    run(arguments.iter().copied().chain(["--admin", &admin]))
}

/// Waits until a new connection is served by that zone.
async fn served_by(orders: SocketAddr, zone: &str) {
    until_true(&format!("{zone} serves"), PATIENCE, async || {
        let answer = talk::say(orders, "who").await;
        answer.is_ok_and(|answer| answer.starts_with(zone))
    })
    .await;
}

#[tokio::test]
async fn a_drained_zone_sends_new_connections_away_at_once_and_open_ones_by_the_deadline() {
    let (federation, _instances) = serve(["east", "west"]).await;
    let orders = federation.service_address("east", "orders", PORT).await;
    served_by(orders, "east").await;
    let mut open = Vec::new();
    for _ in 0..OPEN {
        let mut client = Client::connect(orders).await.unwrap();
        assert!(client.say("who").await.unwrap().starts_with("east"));
        open.push(client);
    }

    let shown = at(&federation, "west", &["drain", "east", "--dry-run"]).unwrap();
    assert!(
        shown.contains("drain") && shown.contains("nothing was applied"),
        "{shown}"
    );
    let deadline = format!("{}s", DEADLINE.as_secs());
    // Whichever gateway is asked: it is a generation of the topology.
    let begun = Instant::now();
    let said = at(&federation, "west", &["drain", "east", "--deadline", &deadline]).unwrap();
    assert!(said.contains("generation 1"), "{said}");
    served_by(orders, "west").await;
    let explained = at(&federation, "east", &["explain", "orders"]).unwrap();
    assert!(explained.contains("its zone or gateway drains"), "{explained}");
    assert!(
        explained.contains("in east, which drains, those that others can serve are ended by 2"),
        "{explained}"
    );
    let listed = at(&federation, "east", &["get", "zones"]).unwrap();
    assert!(listed.contains("own, drains by 2"), "{listed}");

    // What is open goes on until the deadline, and is then ended.
    let mut ended = Vec::new();
    for mut client in open {
        loop {
            assert!(begun.elapsed() < DEADLINE + PATIENCE, "it is still open");
            match client.say("who").await {
                Ok(answer) if answer.starts_with("east") => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                Ok(answer) => {
                    assert_eq!(answer, "", "an open connection has one instance");
                    break;
                }
                Err(_) => break,
            }
        }
        ended.push(begun.elapsed());
    }
    assert!(
        ended
            .iter()
            .all(|after| *after >= DEADLINE - Duration::from_secs(1)),
        "{ended:?}"
    );
    let moved = [("role", "egress"), ("outcome", "moved")];
    let east = federation.zone("east");
    east.wait_metric("causeway_connections_total", &moved, OPEN as f64)
        .await;

    let said = at(&federation, "east", &["undrain", "east"]).unwrap();
    assert!(said.contains("generation 2"), "{said}");
    served_by(orders, "east").await;
    let again = at(&federation, "east", &["undrain", "east"]).unwrap();
    assert!(again.contains("nothing to apply"), "{again}");
    let unknown = at(&federation, "east", &["drain", "south"]).unwrap_err();
    assert!(format!("{unknown:#}").contains("no zone south"), "{unknown:#}");
}

#[tokio::test]
async fn a_drained_zone_serves_what_no_other_can() {
    let (federation, mut instances) = serve(["east", "west"]).await;
    let orders = federation.service_address("east", "orders", PORT).await;
    at(&federation, "east", &["drain", "east"]).unwrap();
    served_by(orders, "west").await;
    // The instance of west is gone, and every connection is answered all the same.
    drop(instances.pop());
    served_by(orders, "east").await;
}
