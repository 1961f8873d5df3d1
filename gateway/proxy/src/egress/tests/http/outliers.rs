//! Instances and zones that fail: what they are still given, and when they come back.

use std::{sync::Arc, time::Duration};

use causeway_federation::{
    catalog::{Age, Catalog},
    topology::Topology,
};
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::timeout,
};

use super::{
    HttpClient, HttpInstance,
    retries::{Conduct, TriedInstance},
    speaking_http, two_zones,
    upgrade::instance,
};
use crate::{
    http::limits::{MAX_HEAD_BYTES, MAX_HEADERS},
    testbed::{self, PATIENCE, Zone, connect, entry, tags, until, zone},
};

const REQUESTS: usize = 40;

fn ejecting(more: &str) -> Arc<Topology> {
    speaking_http(&format!("outlier: {{ consecutive: 3, {more} }}"))
}

/// Asks so many times, each on a connection of its own, and counts the answers that went well.
async fn served(zone: &Zone, requests: usize) -> usize {
    let mut served = 0;
    for _ in 0..requests {
        let told = HttpClient::of(zone).await.get("/").await;
        served += usize::from(told.status == StatusCode::OK);
    }
    served
}

/// Has `zone` believe that this other zone exports so many healthy instances.
fn exporting(zone: &Zone, others: &[(&str, u32)]) {
    let entry = |(name, healthy): &(&str, u32)| entry(name, Age::Fresh, false, &[(&[], *healthy, *healthy)]);
    let entries: Vec<_> = others.iter().map(entry).collect();
    zone.change(|snapshot| snapshot.catalog = Arc::new(Catalog::new(entries)));
}

pub(super) fn is_ejected(home: &Zone, name: &str) -> bool {
    let snapshot = home.snapshots.load();
    let ejected = snapshot.ejections.load();
    ejected.has_place((&testbed::service("orders"), None), &zone(name), &tags(&[]))
}

#[tokio::test]
async fn one_of_two_instances_in_another_zone_is_left_out_and_its_zone_is_not() {
    let bad = TriedInstance::start("bad", Conduct::Answer(503)).await;
    let well = TriedInstance::start("well", Conduct::Serve).await;
    let there = vec![bad.instance(&[]), well.instance(&[])];
    let (home, _east) = two_zones(&ejecting("eject: 60s"), there).await;
    exporting(&home, &[("east", 2)]);
    // Whichever comes first: it has failed three times in a row once it was asked three times.
    while bad.requests() < 3 {
        served(&home, 1).await;
    }
    assert_eq!(served(&home, REQUESTS).await, REQUESTS);
    assert_eq!(bad.requests(), 3);
    assert!(!is_ejected(&home, "east"));
}

#[tokio::test]
async fn a_client_that_owes_a_part_of_its_request_ejects_nobody() {
    let here = HttpInstance::start("here").await;
    let topology = speaking_http("outlier: { consecutive: 3 }\n    timeout: 300ms");
    let home = Zone::start("home", &topology, vec![here.instance(&[])]);
    let half = b"POST /hang HTTP/1.1\r\nHost: orders.mesh\r\nContent-Length: 10\r\n\r\nab";
    // Half of them break off, the others say nothing more.
    for nth in 1..=8 {
        let mut client = connect(home.vip).await;
        client.write_all(half).await.unwrap();
        until("it is under way", || here.requests() == nth).await;
        if nth % 2 == 0 {
            drop(client);
        } else {
            let mut answer = String::new();
            let reading = client.read_to_string(&mut answer);
            timeout(PATIENCE, reading).await.expect("an end in time").unwrap();
            assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        }
        until("it is over", || home.egress.open_connections().count() == 0).await;
        assert!(!is_ejected(&home, "home"), "after {nth}");
    }
}

#[tokio::test]
async fn a_zone_of_which_instance_after_instance_fails_comes_last_and_back() {
    let topology = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders:\n    port: 80\n    protocol: http\n    failover: [{ zone: east }, { zone: west }]\n    outlier: { consecutive: 6, eject: 1s }",
    );
    let (one, two) = (
        TriedInstance::start("one", Conduct::Answer(503)).await,
        TriedInstance::start("two", Conduct::Answer(503)).await,
    );
    let well = TriedInstance::start("well", Conduct::Serve).await;
    let east = Zone::start("east", &topology, vec![one.instance(&[]), two.instance(&[])]);
    let west = Zone::start("west", &topology, vec![well.instance(&[])]);
    let home = Zone::start("home", &topology, vec![]);
    home.join("east", east.ingress.clone()).await;
    home.join("west", west.ingress.clone()).await;
    exporting(&home, &[("east", 2), ("west", 1)]);
    let mut failed = 0;
    while !is_ejected(&home, "east") {
        failed += 1 - served(&home, 1).await;
        assert!(failed <= 12, "six in a row of two instances");
    }
    let before = one.requests() + two.requests();
    assert_eq!(served(&home, 5).await, 5);
    assert_eq!(one.requests() + two.requests(), before);
    assert_eq!(well.requests(), 5);
    until("it has another chance", || !is_ejected(&home, "east")).await;
    assert_eq!(served(&home, 1).await, 0, "one");
    assert!(is_ejected(&home, "east"));
}

#[tokio::test]
async fn errors_that_one_client_provokes_everywhere_eject_nothing_and_those_of_two_do() {
    let instances = [
        TriedInstance::start("one", Conduct::Answer(500)).await,
        TriedInstance::start("two", Conduct::Answer(500)).await,
    ];
    let all = instances.iter().map(|instance| instance.instance(&[])).collect();
    let home = Zone::start("home", &ejecting("eject: 60s"), all);
    assert_eq!(served(&home, 12).await, 0);
    assert!(home.snapshots.load().ejections.load().is_empty());
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.7:0".parse().unwrap()).unwrap();
    let mut other = other.connect(home.vip).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: orders.mesh\r\nConnection: close\r\n\r\n";
    other.write_all(request).await.unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    let ejected = home.snapshots.load().ejections.load_full();
    let told: Vec<_> = ejected
        .list()
        .iter()
        .map(|ejection| ejection.part.word())
        .collect();
    assert_eq!(told, ["instance", "zone"]);
    let name = ejected.list()[0].instance_name(&home.snapshots.load()).unwrap();
    assert!(["one", "two"].contains(&&*name), "{name}");
}

#[tokio::test]
async fn an_answer_over_a_limit_of_the_gateway_ejects_nobody_and_a_malformed_one_does() {
    let many = "x-many: 1\r\n".repeat(MAX_HEADERS + 1);
    let long = format!("x-long: {}\r\n", "x".repeat(MAX_HEAD_BYTES));
    for (head, word, ejects) in [
        (
            format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n"),
            "answer_too_large",
            false,
        ),
        (
            format!("HTTP/1.1 200 OK\r\n{long}content-length: 0\r\n\r\n"),
            "answer_too_large",
            false,
        ),
        ("HTTP/1.1 none\r\n\r\n".to_owned(), "bad_answer", true),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            "bad_answer",
            true,
        ),
    ] {
        let there = instance(move |mut wire| {
            let head = head.clone();
            async move {
                wire.head().await;
                wire.say(&head).await;
            }
        });
        let home = Zone::start("home", &ejecting("eject: 60s"), vec![there.await]);
        for _ in 0..4 {
            let told = HttpClient::of(&home).await.get("/").await;
            assert_eq!(told.status, StatusCode::BAD_GATEWAY);
            assert_eq!(told.field("causeway-reason"), Some(word));
        }
        assert_eq!(is_ejected(&home, "home"), ejects, "{word}");
    }
}

#[tokio::test]
async fn fast_failures_attract_nothing() {
    for conduct in [Conduct::Answer(500), Conduct::Leave] {
        let bad = TriedInstance::start("bad", conduct).await;
        let well = TriedInstance::start("well", Conduct::Serve).await;
        let instances = vec![bad.instance(&[]), well.instance(&[])];
        let home = Zone::start("home", &speaking_http("early: false"), instances);
        let served = served(&home, REQUESTS).await;
        assert!(served >= REQUESTS - 4, "{conduct:?}: {served}");
    }
}

#[tokio::test]
async fn an_instance_with_too_much_to_do_gets_less_and_is_not_left_out() {
    let busy = TriedInstance::start("busy", Conduct::Answer(429)).await;
    let well = TriedInstance::start("well", Conduct::Serve).await;
    let instances = vec![busy.instance(&[]), well.instance(&[])];
    let home = Zone::start("home", &ejecting("eject: 60s"), instances);
    let told = served(&home, 2 * REQUESTS).await;
    assert!(told > REQUESTS + REQUESTS / 2, "{told}");
    let before = busy.requests();
    let again = async {
        while busy.requests() < before + 4 {
            served(&home, 1).await;
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, again)
        .await
        .expect("it is asked again");
}
