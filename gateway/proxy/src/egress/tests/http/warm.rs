//! Connections to instances of another zone that one stream gives back and the next one is lent.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use causeway_routing::snapshot::Instance;
use http::Method;

use super::{
    HttpClient, HttpInstance, set_instances, speaking_http, two_zones,
    upgrade::{OK, echoing, instance, upgraded},
};
use crate::testbed::{self, Zone, until};

fn warm(zone: &Zone) -> usize {
    zone.ingress.warm().count()
}

#[tokio::test]
async fn clients_are_lent_the_connection_that_another_one_has_given_back() {
    let there = HttpInstance::start("there").await;
    let (home, east) = two_zones(&speaking_http(""), vec![there.instance(&[])]).await;
    for client in 1..=5 {
        assert_eq!(HttpClient::of(&home).await.get("/").await.text(), "there");
        until("it is given back", || warm(&east) == 1).await;
        assert_eq!((there.connections(), there.requests()), (1, client));
    }
    // Nobody uses it.
    until("it is closed", || warm(&east) == 0).await;
}

#[tokio::test]
async fn each_request_of_a_client_may_have_any_instance_of_the_other_zone() {
    let (one, two) = (HttpInstance::start("one").await, HttpInstance::start("two").await);
    let instances = vec![one.instance(&[]), two.instance(&[])];
    let (home, _east) = two_zones(&speaking_http(""), instances).await;
    let mut client = HttpClient::of(&home).await;
    let mut served = BTreeMap::<String, usize>::new();
    for _ in 0..60 {
        let told = client.get("/").await;
        *served.entry(told.text().to_owned()).or_default() += 1;
    }
    assert!(served["one"] >= 10 && served["two"] >= 10, "{served:?}");
    // One is kept for a request that may be made once, while others are lent and given back.
    let opened = one.connections() + two.connections();
    assert!(opened <= 12, "{opened} connections for 60 requests");
}

#[tokio::test]
async fn a_request_that_is_made_once_goes_out_where_the_one_before_it_did() {
    let there = HttpInstance::start("there").await;
    let (home, _east) = two_zones(&speaking_http(""), vec![there.instance(&[])]).await;
    let mut client = HttpClient::of(&home).await;
    for _ in 0..10 {
        assert_eq!(client.ask(Method::POST, "/").await.unwrap().text(), "there");
    }
    assert_eq!(there.connections(), 1);
}

/// An instance that closes a connection on which a second request comes without a word, and counts those.
async fn tired(refused: &Arc<AtomicUsize>) -> Arc<Instance> {
    let refused = refused.clone();
    instance(move |mut wire| {
        let refused = refused.clone();
        async move {
            wire.head().await;
            wire.say(OK).await;
            wire.head().await;
            refused.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await
}

#[tokio::test]
async fn a_lent_connection_that_was_closing_costs_no_request_that_may_be_made_twice() {
    let refused = Arc::new(AtomicUsize::new(0));
    let (home, east) = two_zones(&speaking_http(""), vec![tired(&refused).await]).await;
    for _ in 0..3 {
        let told = HttpClient::of(&home).await.get("/").await;
        assert_eq!(told.text(), "ok");
        until("it is given back", || warm(&east) == 1).await;
    }
    assert_eq!(refused.load(Ordering::SeqCst), 2);
    // One that is made once is never given such a connection.
    let told = HttpClient::of(&home).await.ask(Method::POST, "/").await;
    assert_eq!(told.unwrap().text(), "ok");
    assert_eq!(refused.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_that_its_instance_ends_or_says_more_on_is_lent_to_nobody() {
    for answer in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmore",
    ] {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let there = instance(move |mut wire| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                wire.head().await;
                wire.say(answer).await;
                // Stays open.
                let _ = wire.rest().await;
            }
        });
        let (home, east) = two_zones(&speaking_http(""), vec![there.await]).await;
        for asked in 1..=3 {
            let told = HttpClient::of(&home).await.get("/").await;
            assert_eq!(told.text(), "ok");
            until("its stream has ended", || {
                east.ingress.open_connections().count() == 0
            })
            .await;
            assert_eq!(
                (warm(&east), connections.load(Ordering::SeqCst)),
                (0, asked),
                "{answer}"
            );
        }
    }
}

/// Streams that an ingress has carried to this end.
fn ended_as(zone: &Zone, outcome: &str) -> u64 {
    let mut text = String::new();
    zone.metrics.encode(&mut text).unwrap();
    let is_wanted = |line: &&str| {
        line.starts_with("causeway_connections_total{role=\"ingress\"")
            && line.contains(&format!("outcome=\"{outcome}\""))
    };
    let wanted = text.lines().filter(is_wanted);
    wanted
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[tokio::test]
async fn an_instance_that_ends_its_connection_after_an_answer_has_served_at_the_far_gateway_too() {
    for (answer, closes) in [
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            false,
        ),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok", true),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
        ("HTTP/1.0 200 OK\r\n\r\nok", true),
    ] {
        let was_reset = Arc::new(AtomicUsize::new(0));
        let resets = was_reset.clone();
        let there = instance(move |mut wire| {
            let resets = resets.clone();
            async move {
                wire.head().await;
                wire.say(answer).await;
                if !closes {
                    resets.fetch_add(usize::from(wire.rest().await.is_err()), Ordering::SeqCst);
                }
            }
        });
        let (home, east) = two_zones(&speaking_http(""), vec![there.await]).await;
        for asked in 1..=3 {
            // One that may be made twice goes with its stream's header, and one that is made once on a stream that is ready.
            for method in [Method::GET, Method::POST] {
                let told = HttpClient::of(&home).await.ask(method, "/").await.unwrap();
                assert_eq!(told.text(), "ok");
            }
            until("its stream has been served", || {
                ended_as(&east, "served") == 2 * asked
            })
            .await;
        }
        assert_eq!(ended_as(&east, "client_reset"), 0, "{answer}");
        assert_eq!(warm(&east), 0);
        assert_eq!(was_reset.load(Ordering::SeqCst), 0, "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_end_of_a_last_answer_has_reset_it_at_the_far_gateway_too() {
    let there = instance(|mut wire| async move {
        wire.head().await;
        wire.say("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 9\r\n\r\nhalf")
            .await;
        let _ = wire.rest().await;
    });
    let (home, east) = two_zones(&speaking_http(""), vec![there.await]).await;
    let mut client = super::upgrade::Wire::to(&home).await;
    client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.hear("half").await;
    client.reset();
    until("its stream has been reset", || {
        ended_as(&east, "client_reset") == 1
    })
    .await;
    assert_eq!(ended_as(&east, "served"), 0);
}

#[tokio::test]
async fn half_a_request_is_lent_to_nobody() {
    let there = instance(|mut wire| async move {
        wire.head().await;
        wire.say(OK).await;
        let _ = wire.rest().await;
    });
    let (home, east) = two_zones(&speaking_http(""), vec![there.await]).await;
    let mut client = super::upgrade::Wire::to(&home).await;
    client
        .say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        .await;
    client.hear("ok").await;
    drop(client);
    until("its stream has ended", || {
        east.ingress.open_connections().count() == 0
    })
    .await;
    assert_eq!(warm(&east), 0);
}

#[tokio::test]
async fn what_has_changed_its_protocol_is_lent_to_nobody() {
    let (home, east) = two_zones(&speaking_http(""), vec![echoing().await]).await;
    let mut client = upgraded(&home).await;
    client.say("over").await;
    client.hear("[over]").await;
    drop(client);
    until("its stream has ended", || {
        east.ingress.open_connections().count() == 0
    })
    .await;
    assert_eq!(warm(&east), 0);
}

#[tokio::test]
async fn connections_to_an_instance_that_is_taken_out_are_closed() {
    let there = HttpInstance::start("there").await;
    let (home, east) = two_zones(&speaking_http(""), vec![there.instance(&[])]).await;
    let told = HttpClient::of(&home).await.get("/").await;
    assert_eq!(told.text(), "there");
    until("it is given back", || warm(&east) == 1).await;
    let out = testbed::instance("there", there.address, 0, &[]);
    set_instances(&east, vec![out]);
    assert!(east.ingress.warm().sweep(Instant::now()));
    assert_eq!(warm(&east), 0);
}

#[tokio::test]
async fn one_zone_is_not_lent_what_another_has_given_back() {
    let there = HttpInstance::start("there").await;
    let topology = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 8080, protocol: http }",
    );
    let east = Zone::start("east", &topology, vec![there.instance(&[])]);
    for (asked, zone) in ["home", "west"].into_iter().enumerate() {
        let near = Zone::start(zone, &topology, vec![]);
        near.join("east", east.ingress.clone()).await;
        assert_eq!(HttpClient::of(&near).await.get("/").await.text(), "there");
        until("it is given back", || warm(&east) == asked + 1).await;
    }
    assert_eq!(there.connections(), 2);
}
