//! A connection that no instance has been given is never lost to a dead zone, and no instance is ever given bytes that
//! another was given.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_federation::catalog::{Age, Catalog, CatalogEntry};
use causeway_proto::tunnel::{
    Refusal, RefusalReason, StreamReply, encode_frame, stream_header::Kind, stream_reply::Outcome,
};
use causeway_tunnel::{IncomingStream, StreamCode, StreamHandler};
use futures_util::FutureExt;
use tokio::{io::AsyncWriteExt, sync::Notify};

use super::{topology, with_service};
use crate::testbed::{self, Handler, Recorder, Zone, until};

/// A gateway that reads headers and never answers.
pub(super) fn silent() -> impl StreamHandler {
    Handler(|stream: IncomingStream| {
        async move {
            let _held = stream;
            std::future::pending::<()>().await;
        }
        .boxed()
    })
}

/// A gateway that refuses, and counts how often.
fn refusing(reason: RefusalReason, retryable: bool) -> (impl StreamHandler, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let handler = Handler(move |mut stream: IncomingStream| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            let refusal = Refusal {
                reason: reason.into(),
                retryable,
                message: "on purpose".to_owned(),
            };
            let outcome = Some(Outcome::Refusal(refusal));
            let _ = stream.recv.stop(StreamCode::Refused);
            stream
                .send
                .write_chunk(encode_frame(&StreamReply { outcome }).unwrap())
                .await
                .unwrap();
        }
        .boxed()
    });
    (handler, count)
}

/// `home`, and `west` with a recorder that must get the connections that `east` does not take. Both are of one tier, and
/// `east` is asked first.
async fn home_and_west() -> (Zone, Zone, Recorder) {
    let there = Recorder::start("west").await;
    let west = Zone::start("west", &topology(), vec![there.instance(1, &[])]);
    let home = Zone::start("home", &with_service("failover: [{ zone: self }, {}]"), vec![]);
    home.join("west", west.ingress.clone()).await;
    home.change(|snapshot| {
        let draining = |entry: &CatalogEntry| {
            let mut record = (*entry.record).clone();
            record.draining = true;
            CatalogEntry {
                record: Arc::new(record),
                ..entry.clone()
            }
        };
        snapshot.catalog = Arc::new(Catalog::new(snapshot.catalog.entries().map(draining)));
    });
    (home, west, there)
}

/// The connection is served by `west` within a second, whole.
async fn expect_west(home: &Zone, west: &Recorder) {
    let begun = Instant::now();
    let mut client = home.client().await;
    assert_eq!(client.greeting().await.unwrap(), "west");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    client.echo("hello").await;
    assert_eq!(west.given(), [b"hello"]);
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_costs_a_hedge_delay_only() {
    let (home, _west, recorder) = home_and_west().await;
    home.join("east", silent()).await;
    expect_west(&home, &recorder).await;
}

/// Looks in a row at which nothing has come on a tunnel that is silent.
const SILENT_LOOKS: u32 = 50;

#[tokio::test]
async fn a_tunnel_on_which_nothing_comes_costs_a_hedge_delay_if_the_gateway_has_another() {
    let there = Recorder::start("east").await;
    let east = Zone::start("east", &topology(), vec![there.instance(1, &[])]);
    let home = Zone::start("home", &topology(), vec![]);
    let (deaf, _paused) = causeway_tunnel::testbed::paused(testbed::gateway("east")).await;
    home.tunnels.add(deaf.clone());
    home.join("east", east.ingress.clone()).await;
    // What was on its way before the pause would tell of a tunnel that works.
    let (heard, silent) = (Cell::new(0), Cell::new(0));
    until("nothing comes on it any more", || {
        let is_same = heard.replace(deaf.received_datagrams()) == deaf.received_datagrams();
        silent.set(if is_same { silent.get() + 1 } else { 0 });
        silent.get() == SILENT_LOOKS
    })
    .await;
    let chosen = home.tunnels.choose(&testbed::gateway("east"), 0).unwrap();
    assert_eq!(chosen.id(), deaf.id(), "it is asked first");
    let begun = Instant::now();
    let mut client = home.client().await;
    assert_eq!(client.greeting().await.unwrap(), "east");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    client.echo("hello").await;
    assert_eq!(there.given(), [b"hello"]);
}

#[tokio::test]
async fn a_gateway_with_another_topology_does_not_speak_for_the_others() {
    let (home, _west, recorder) = home_and_west().await;
    let behind = Zone::start("east", &with_service("export_to: [west]"), vec![]);
    home.join("east", behind.ingress.clone()).await;
    expect_west(&home, &recorder).await;
}

#[tokio::test]
async fn an_ask_that_had_no_answer_is_known_of_its_tunnel_until_one_is_answered() {
    let (home, _west, recorder) = home_and_west().await;
    home.join("east", silent()).await;
    let unanswered = |zone| {
        let tunnel = home.tunnels.choose(&testbed::gateway(zone), 0);
        tunnel.unwrap().unanswered()
    };
    expect_west(&home, &recorder).await;
    assert_eq!(
        (unanswered("east"), unanswered("west")),
        (0, 0),
        "it was taken back"
    );
    home.tunnels.choose(&testbed::gateway("west"), 0).unwrap().close();
    let mut client = home.client().await;
    until("the ask at the silent one is over", || unanswered("east") > 0).await;
    assert_eq!(
        client.rest().await.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_is_left_for_the_next_tier_once_it_has_failed() {
    let there = Recorder::start("west").await;
    let west = Zone::start("west", &topology(), vec![there.instance(1, &[])]);
    let home = Zone::start("home", &topology(), vec![]);
    home.join("west", west.ingress.clone()).await;
    home.join("east", silent()).await;
    let begun = Instant::now();
    assert_eq!(home.client().await.greeting().await.unwrap(), "west");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(250) && took < Duration::from_secs(2),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_late_answer_sends_nobody_to_another_arm() {
    let topology = with_service(
        "split: [{ tags: { version: v1 }, weight: 1000000 }, { tags: { version: v2 }, weight: 1 }]",
    );
    let (v1, v2): (&[_], &[_]) = (&[("version", "v1")], &[("version", "v2")]);
    let stable = Recorder::start("stable").await;
    let east = Zone::start("east", &topology, vec![stable.instance(1, v1)]);
    let ingress = east.ingress.clone();
    // Longer than any hedge delay over loopback.
    let pausing = Handler(move |stream: IncomingStream| {
        let ingress = ingress.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            ingress.handle(stream).await;
        }
        .boxed()
    });
    let home = Zone::start("home", &topology, vec![]);
    home.join("east", pausing).await;
    let (canary, asked) = refusing(RefusalReason::Overloaded, true);
    home.join("west", canary).await;
    home.change(|snapshot| {
        let of = |zone, tags| testbed::entry(zone, Age::Fresh, false, &[(tags, 1, 1)]);
        snapshot.catalog = Arc::new(Catalog::new([of("east", v1), of("west", v2)]));
    });
    for _ in 0..3 {
        assert_eq!(home.client().await.greeting().await.unwrap(), "stable");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn those_who_have_all_refused_twice_are_not_asked_a_third_time() {
    let home = Zone::start("home", &topology(), vec![]);
    let (east, east_asked) = refusing(RefusalReason::ConnectFailed, true);
    let (west, west_asked) = refusing(RefusalReason::ConnectFailed, true);
    home.join("east", east).await;
    home.join("west", west).await;
    let begun = Instant::now();
    let error = home.client().await.rest().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let asked = [east_asked, west_asked].map(|asked| asked.load(Ordering::SeqCst));
    assert_eq!(asked, [2, 2]);
}

#[tokio::test]
async fn a_refusal_that_another_can_help_moves_on_at_once() {
    let (home, _west, recorder) = home_and_west().await;
    let (east, asked) = refusing(RefusalReason::Overloaded, true);
    home.join("east", east).await;
    expect_west(&home, &recorder).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_final_refusal_ends_the_connection_and_nobody_else_is_asked() {
    let (home, _west, recorder) = home_and_west().await;
    let (east, _) = refusing(RefusalReason::Forbidden, false);
    home.join("east", east).await;
    let error = home.client().await.rest().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(recorder.given().is_empty());
}

#[tokio::test]
async fn a_tunnel_lost_before_ready_moves_the_connection() {
    let (home, _west, recorder) = home_and_west().await;
    let closing = Handler(|stream: IncomingStream| async move { stream.tunnel.close() }.boxed());
    home.join("east", closing).await;
    expect_west(&home, &recorder).await;
}

#[tokio::test]
async fn an_instance_that_does_not_accept_in_the_other_zone_moves_the_connection() {
    let (home, _west, recorder) = home_and_west().await;
    let gone = causeway_routing::testbed::instance("gone", crate::testbed::vip(), 1, &[]);
    let east = Zone::start("east", &topology(), vec![gone]);
    home.join("east", east.ingress.clone()).await;
    expect_west(&home, &recorder).await;
}

#[tokio::test]
async fn a_tunnel_lost_after_ready_resets_the_client_and_replays_nothing() {
    let (home, _west, recorder) = home_and_west().await;
    let east_recorder = Recorder::start("east").await;
    let east = Zone::start("east", &topology(), vec![east_recorder.instance(1, &[])]);
    let tunnel = home.join("east", east.ingress.clone()).await;
    let mut client = home.client().await;
    assert_eq!(client.greeting().await.unwrap(), "east");
    client.echo("half a request").await;
    tunnel.close();
    let error = client.rest().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(east_recorder.given(), [b"half a request"]);
    assert!(recorder.given().is_empty());
}

#[tokio::test]
async fn a_late_ready_loses_and_its_instance_is_given_no_byte() {
    let (home, _west, recorder) = home_and_west().await;
    let slow = Recorder::start("east").await;
    let east = Zone::start("east", &topology(), vec![slow.instance(1, &[])]);
    let (go, answered) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (going, counting, ingress) = (go.clone(), answered.clone(), east.ingress.clone());
    let late = Handler(move |mut stream: IncomingStream| {
        let (go, answered) = (going.clone(), counting.clone());
        let taken = ingress.clone();
        async move {
            go.notified().await;
            // The loser was told off before it answered.
            let told = stream.recv.received_reset().await.unwrap();
            assert_eq!(told, Some(StreamCode::LostRace));
            answered.fetch_add(1, Ordering::SeqCst);
            taken.handle(stream).await;
        }
        .boxed()
    });
    home.join("east", late).await;
    let mut client = home.client().await;
    client.0.write_all(b"hello").await.unwrap();
    assert_eq!(client.greeting().await.unwrap(), "west");
    go.notify_one();
    until("the loser has seen its reset", || {
        answered.load(Ordering::SeqCst) == 1
    })
    .await;
    client.expect(b"hello").await;
    client.echo(" again").await;
    assert!(slow.given().iter().all(Vec::is_empty), "{:?}", slow.given());
    assert_eq!(recorder.given(), [b"hello again"]);
}

#[tokio::test]
async fn of_two_that_are_ready_one_is_given_every_byte_and_the_other_none() {
    // East answers only after west has been asked too; both reach their instances.
    let (home, _west, west) = home_and_west().await;
    let east_recorder = Recorder::start("east").await;
    let east = Zone::start("east", &topology(), vec![east_recorder.instance(1, &[])]);
    let ingress = east.ingress.clone();
    let slow = Handler(move |stream: IncomingStream| {
        let ingress = ingress.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(45)).await;
            ingress.handle(stream).await;
        }
        .boxed()
    });
    home.join("east", slow).await;
    let clients = (0..40).map(|number| {
        let home = &home;
        async move {
            let text = format!("only once {number}");
            let mut client = home.client().await;
            client.greeting().await.unwrap();
            client.echo(&text).await;
            text
        }
    });
    let mut texts = futures_util::future::join_all(clients).await;
    let given: Vec<Vec<u8>> = east_recorder.given().into_iter().chain(west.given()).collect();
    let mut given: Vec<String> = given
        .into_iter()
        .map(|bytes| String::from_utf8(bytes).unwrap())
        .collect();
    given.retain(|text| !text.is_empty());
    given.sort();
    texts.sort();
    assert_eq!(given, texts);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_asks_back() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = seen.clone();
    let watching = Handler(move |stream: IncomingStream| {
        let seen = counter.clone();
        async move {
            // The whole stream: its sending half must not be finished by a drop.
            let mut stream = stream;
            seen.fetch_add(1, Ordering::SeqCst);
            let reset = stream.recv.received_reset().await.unwrap();
            assert_eq!(reset, Some(StreamCode::LostRace));
            seen.fetch_add(10, Ordering::SeqCst);
        }
        .boxed()
    });
    let home = Zone::start("home", &topology(), vec![]);
    home.join("east", watching).await;
    let client = home.client().await;
    until("the gateway is asked", || seen.load(Ordering::SeqCst) == 1).await;
    client.0.set_zero_linger().unwrap();
    drop(client);
    until("the ask is taken back", || seen.load(Ordering::SeqCst) == 11).await;
    until("nothing is left", || home.egress.open_connections().count() == 0).await;
}

#[tokio::test]
async fn a_client_that_has_only_finished_sending_is_served() {
    let (home, _west, recorder) = home_and_west().await;
    home.join("east", silent()).await;
    let mut client = home.client().await;
    client.0.write_all(b"one shot").await.unwrap();
    client.0.shutdown().await.unwrap();
    assert_eq!(client.greeting().await.unwrap(), "west");
    assert_eq!(client.rest().await.unwrap(), b"one shot");
    assert_eq!(recorder.given(), [b"one shot"]);
}

#[tokio::test]
async fn first_bytes_travel_with_the_header_of_an_early_service_and_are_given_to_the_next_too() {
    let topology = with_service("early: true\n    failover: [{ zone: east }, { zone: west }]");
    let early = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = early.clone();
    let first = Handler(move |mut stream: IncomingStream| {
        let seen = seen.clone();
        async move {
            let Kind::Connect(connect) = stream.kind else {
                panic!("not a connect")
            };
            assert!(connect.early);
            let mut bytes = [0; 5];
            stream.recv.read_exact(&mut bytes).await.unwrap();
            seen.lock().extend_from_slice(&bytes);
            // Refuses only after it was given the bytes.
            let refusal = Refusal {
                reason: RefusalReason::ConnectFailed.into(),
                retryable: true,
                message: String::new(),
            };
            let outcome = Some(Outcome::Refusal(refusal));
            stream
                .send
                .write_chunk(encode_frame(&StreamReply { outcome }).unwrap())
                .await
                .unwrap();
        }
        .boxed()
    });
    let recorder = Recorder::start("west").await;
    let west = Zone::start("west", &topology, vec![recorder.instance(1, &[])]);
    let home = Zone::start("home", &topology, vec![]);
    home.join("east", first).await;
    home.join("west", west.ingress.clone()).await;
    let mut client = home.client().await;
    client.0.write_all(b"hello").await.unwrap();
    assert_eq!(client.greeting().await.unwrap(), "west");
    client.0.write_all(b" there").await.unwrap();
    client.0.shutdown().await.unwrap();
    assert_eq!(client.rest().await.unwrap(), b"hello there");
    assert_eq!(early.lock().as_slice(), b"hello");
    assert_eq!(recorder.given().last().unwrap(), b"hello there");
}
