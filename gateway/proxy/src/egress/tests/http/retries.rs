//! Time limits of requests, and those that are tried again.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use causeway_federation::{
    catalog::{Age, Catalog},
    topology::Topology,
};
use causeway_routing::{budget, snapshot::Instance};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{HttpClient, HttpInstance, SentBody, Told, set_instances, speaking_http, text, two_zones};
use crate::{
    http::limits::MAX_REPLAYED_BYTES,
    testbed::{self, Zone, connect, entry, until},
};

/// Time of one try in these tests.
const PER_TRY: Duration = Duration::from_millis(200);

/// Conduct of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conduct {
    Serve,
    /// Takes requests and does not answer.
    Hang,
    /// Reads a request and ends its connection.
    Leave,
    Answer(u16),
}

/// An instance that remembers what it was given.
pub(super) struct TriedInstance {
    name: String,
    address: SocketAddr,
    /// Bodies of the requests that it was given.
    given: Arc<Mutex<Vec<Bytes>>>,
}

impl TriedInstance {
    pub(super) async fn start(name: &str, conduct: Conduct) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = Self {
            name: name.to_owned(),
            address: listener.local_addr().unwrap(),
            given: Arc::default(),
        };
        let (name, given) = (Bytes::from(name.to_owned()), instance.given.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (name, given) = (name.clone(), given.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (name, given) = (name.clone(), given.clone());
                    async move {
                        let body = request.into_body().collect().await;
                        let body = body.map_err(|_| std::io::ErrorKind::Other)?.to_bytes();
                        given.lock().push(body.clone());
                        let mut answer = Response::new(Full::new(name));
                        match conduct {
                            Conduct::Serve if body.is_empty() => {}
                            Conduct::Serve => *answer.body_mut() = Full::new(body),
                            Conduct::Hang => std::future::pending().await,
                            Conduct::Leave => return Err(std::io::ErrorKind::Other.into()),
                            Conduct::Answer(status) => *answer.status_mut() = status.try_into().unwrap(),
                        }
                        Ok::<_, std::io::Error>(answer)
                    }
                });
                let serving = hyper::server::conn::http1::Builder::new();
                tokio::spawn(serving.serve_connection(TokioIo::new(socket), service));
            }
        });
        instance
    }

    pub(super) fn instance(&self, tags: &[(&str, &str)]) -> Arc<Instance> {
        testbed::instance(&self.name, self.address, 1, tags)
    }

    pub(super) fn requests(&self) -> usize {
        self.given.lock().len()
    }
}

async fn bad_and_well(conduct: Conduct) -> (TriedInstance, TriedInstance) {
    let bad = TriedInstance::start("bad", conduct).await;
    (bad, TriedInstance::start("well", Conduct::Serve).await)
}

fn retrying(more: &str) -> Arc<Topology> {
    speaking_http(&format!("retry: {{ {more} }}"))
}

fn posted(body: impl Into<Bytes>) -> Request<SentBody> {
    let request = Request::post("/").header("host", "orders.mesh");
    request.body(text(body)).unwrap()
}

/// Asks `client` until the bad instance has been given a request, and checks that all were served by the other.
async fn until_bad_was_tried(zone: &Zone, bad: &TriedInstance) -> Duration {
    let asked_since = Instant::now();
    // One whose connect took long once, on a busy machine, is spared for seconds.
    while asked_since.elapsed() < testbed::PATIENCE {
        // A kept connection would stay with the instance that is well.
        let mut client = HttpClient::of(zone).await;
        let (before, begun) = (bad.requests(), Instant::now());
        let told = client.get("/").await;
        assert_eq!((told.status, told.text()), (StatusCode::OK, "well"));
        if bad.requests() > before {
            assert_eq!(bad.requests(), before + 1, "once");
            return begun.elapsed();
        }
    }
    panic!("the bad instance was never tried");
}

#[tokio::test]
async fn an_instance_that_does_not_answer_is_left_for_another() {
    let (bad, well) = bad_and_well(Conduct::Hang).await;
    let topology = retrying("per_try_timeout: 200ms");
    let home = Zone::start("home", &topology, vec![bad.instance(&[]), well.instance(&[])]);
    let took = until_bad_was_tried(&home, &bad).await;
    assert!((PER_TRY..10 * PER_TRY).contains(&took), "{took:?}");
}

#[tokio::test]
async fn an_arm_that_does_not_answer_is_left_for_another() {
    let (bad, well) = bad_and_well(Conduct::Hang).await;
    let split = "split: [{ tags: { v: '1' }, weight: 1000000 }, { tags: { v: '2' } }]";
    let topology = speaking_http(&format!(
        "{split}\n    retry: {{ attempts: 1, per_try_timeout: 200ms }}"
    ));
    let instances = vec![bad.instance(&[("v", "1")]), well.instance(&[("v", "2")])];
    let home = Zone::start("home", &topology, instances);
    let took = until_bad_was_tried(&home, &bad).await;
    assert!((PER_TRY..10 * PER_TRY).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_zone_that_accepts_and_does_not_answer_is_left_for_another() {
    let (bad, well) = bad_and_well(Conduct::Hang).await;
    let failover = "failover: [{ zone: east }, { zone: west }]";
    let topology = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        &format!(
            "  orders:\n    port: 80\n    protocol: http\n    {failover}\n    retry: {{ attempts: 1, per_try_timeout: 200ms }}"
        ),
    );
    let other = TriedInstance::start("other", Conduct::Hang).await;
    let there = vec![bad.instance(&[]), other.instance(&[])];
    let east = Zone::start("east", &topology, there);
    let west = Zone::start("west", &topology, vec![well.instance(&[])]);
    let home = Zone::start("home", &topology, vec![]);
    home.join("east", east.ingress.clone()).await;
    home.join("west", west.ingress.clone()).await;
    let begun = Instant::now();
    let told = HttpClient::of(&home).await.get("/").await;
    let took = begun.elapsed();
    assert_eq!(told.text(), "well");
    assert!((PER_TRY..10 * PER_TRY).contains(&took), "{took:?}");
    assert_eq!(bad.requests() + other.requests(), 1);
}

/// Has `zone` believe that east exports so many healthy instances.
fn exporting(zone: &Zone, healthy: u32) {
    let entry = entry("east", Age::Fresh, false, &[(&[], healthy, healthy)]);
    zone.change(|snapshot| snapshot.catalog = Arc::new(Catalog::new([entry])));
}

#[tokio::test]
async fn another_instance_behind_the_same_gateway_is_given_what_one_there_has_failed() {
    let (bad, well) = bad_and_well(Conduct::Answer(503)).await;
    let there = vec![bad.instance(&[]), well.instance(&[])];
    let (home, _east) = two_zones(&retrying(""), there).await;
    exporting(&home, 2);
    for _ in 0..5 {
        until_bad_was_tried(&home, &bad).await;
    }
}

#[tokio::test]
async fn what_has_a_body_is_tried_again_with_all_of_it_if_its_service_says_so() {
    for conduct in [Conduct::Leave, Conduct::Hang, Conduct::Answer(502)] {
        let (bad, well) = bad_and_well(conduct).await;
        let split = "split: [{ tags: { v: '1' }, weight: 1000000 }, { tags: { v: '2' } }]";
        let with = |methods: &str| {
            speaking_http(&format!(
                "{split}\n    timeout: 1s\n    retry: {{ per_try_timeout: 200ms, {methods} }}"
            ))
        };
        let instances = vec![bad.instance(&[("v", "1")]), well.instance(&[("v", "2")])];
        let home = Zone::start("home", &with(""), instances);
        let mut client = HttpClient::of(&home).await;
        let told = client.send(posted("a message")).await.unwrap();
        assert!(told.status.is_server_error(), "{conduct:?}: {told:?}");
        assert_eq!((bad.requests(), well.requests()), (1, 0), "{conduct:?}");
        let topology = with("methods: [POST]");
        home.change(|snapshot| snapshot.topology = topology);
        for body in [Bytes::from("a message"), vec![b'x'; MAX_REPLAYED_BYTES].into()] {
            let told = client.send(posted(body.clone())).await.unwrap();
            assert_eq!((told.status, &told.body), (StatusCode::OK, &body), "{conduct:?}");
            assert_eq!(bad.given.lock().last(), Some(&body), "{conduct:?}");
        }
        let told = client
            .send(posted(vec![b'x'; MAX_REPLAYED_BYTES + 1]))
            .await
            .unwrap();
        assert!(
            told.status.is_server_error(),
            "{conduct:?}: too long to be remembered"
        );
        assert_eq!((bad.requests(), well.requests()), (4, 2), "{conduct:?}");
    }
}

#[tokio::test]
async fn half_a_body_that_goes_on_elsewhere_never_looks_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bad = testbed::instance("bad", listener.local_addr().unwrap(), 1, &[("v", "1")]);
    let read = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        // Ends by a reset.
        let _ = socket.read_to_end(&mut all).await;
        all
    });
    let well = TriedInstance::start("well", Conduct::Serve).await;
    let split = "split: [{ tags: { v: '1' }, weight: 1000000 }, { tags: { v: '2' } }]";
    let topology = speaking_http(&format!(
        "{split}\n    retry: {{ per_try_timeout: 200ms, methods: [POST] }}"
    ));
    let home = Zone::start("home", &topology, vec![bad, well.instance(&[("v", "2")])]);
    let mut client = connect(home.vip).await;
    let head = "POST / HTTP/1.1\r\nhost: orders.mesh\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let given = read.await.unwrap();
    let given = String::from_utf8(given).unwrap();
    assert!(given.ends_with("4\r\nhalf\r\n"), "{given}");
    client.write_all(b"4\r\nrest\r\n0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"halfrest") {
        assert!(client.read_buf(&mut answer).await.unwrap() > 0);
    }
    assert_eq!(*well.given.lock(), ["halfrest"]);
}

#[tokio::test]
async fn an_answer_that_nobody_betters_is_the_instances_own() {
    let bad = TriedInstance::start("bad", Conduct::Answer(503)).await;
    let home = Zone::start("home", &retrying(""), vec![bad.instance(&[])]);
    let mut client = HttpClient::of(&home).await;
    let told = client.get("/").await;
    assert_eq!((told.status.as_u16(), told.text()), (503, "bad"));
    assert_eq!(told.field("causeway-reason"), None);
    assert_eq!(bad.requests(), 1, "nobody else is there");
    let mut all = Vec::new();
    for name in ["a", "b", "c", "d"] {
        all.push(TriedInstance::start(name, Conduct::Answer(503)).await);
    }
    set_instances(&home, all.iter().map(|one| one.instance(&[])).collect());
    let told = client.get("/").await;
    assert_eq!(told.status.as_u16(), 503);
    let given: Vec<usize> = all.iter().map(TriedInstance::requests).collect();
    assert_eq!(
        given.iter().sum::<usize>(),
        3,
        "as often as its service says: {given:?}"
    );
    assert!(given.iter().all(|given| *given <= 1), "{given:?}");
}

#[tokio::test]
async fn retries_stay_within_the_budget_of_their_service() {
    let (bad, well) = bad_and_well(Conduct::Answer(503)).await;
    let split = "split: [{ tags: { v: '1' }, weight: 1000000 }, { tags: { v: '2' } }]";
    let topology = speaking_http(&format!("{split}\n    retry: {{ budget: 10% }}"));
    let instances = vec![bad.instance(&[("v", "1")]), well.instance(&[("v", "2")])];
    let home = Zone::start("home", &topology, instances);
    let mut client = HttpClient::of(&home).await;
    let begun = Instant::now();
    let mut served = 0;
    for _ in 0..400 {
        served += usize::from(client.get("/").await.status == StatusCode::OK);
    }
    let by_time = begun.elapsed().as_secs_f64() * f64::from(budget::ASKS_AGAIN_PER_SECOND);
    let most = f64::from(budget::BURST) + 400.0 * 0.1 + by_time + 1.0;
    assert_eq!(well.requests(), served);
    assert!(served >= 100 && served as f64 <= most, "{served} of {most}");
}

#[tokio::test]
async fn a_request_without_an_answer_in_time_is_told_so() {
    let bad = TriedInstance::start("bad", Conduct::Hang).await;
    let home = Zone::start("home", &speaking_http("timeout: 200ms"), vec![bad.instance(&[])]);
    let mut client = HttpClient::of(&home).await;
    for method in [Method::GET, Method::POST] {
        let begun = Instant::now();
        let told = client.ask(method, "/").await.unwrap();
        assert_eq!(told.status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(told.field("causeway-reason"), Some("request_timeout"));
        let took = begun.elapsed();
        assert!((PER_TRY..10 * PER_TRY).contains(&took), "{took:?}");
    }
    assert_eq!(bad.requests(), 2);
    set_instances(&home, vec![HttpInstance::start("here").await.instance(&[])]);
    assert_eq!(client.get("/").await.text(), "here", "the connection goes on");
}

#[tokio::test]
async fn a_body_may_take_longer_than_the_time_for_an_answer() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start("home", &speaking_http("timeout: 200ms"), vec![here.instance(&[])]);
    let mut client = HttpClient::of(&home).await;
    let frames = futures_util::stream::unfold(0, |sent| async move {
        // Waited for as a slow client would have it.
        tokio::time::sleep(PER_TRY).await;
        (sent < 3).then(|| (Ok::<_, Infallible>(Frame::data("part".into())), sent + 1))
    });
    let request = Request::post("/echo").header("host", "orders.mesh");
    let told: Told = client
        .send(request.body(StreamBody::new(frames).boxed()).unwrap())
        .await
        .unwrap();
    assert_eq!((told.status, told.text()), (StatusCode::OK, "partpartpart"));
}

#[tokio::test]
async fn who_waits_while_nobody_else_is_there_is_answered_in_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = testbed::instance("slow", listener.local_addr().unwrap(), 1, &[]);
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n\r\n") {
            socket.read_buf(&mut all).await.unwrap();
        }
        tokio::time::sleep(3 * PER_TRY).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow";
        socket.write_all(answer).await.unwrap();
    });
    let home = Zone::start("home", &retrying("per_try_timeout: 200ms"), vec![slow]);
    assert_eq!(HttpClient::of(&home).await.get("/").await.text(), "slow");
    until("it is over", || home.egress.open_connections().count() == 0).await;
}
