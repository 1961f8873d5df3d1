//! gRPC through real gateways: a program's one channel, whose calls are routed one by one, with tonic at both ends.

use std::{fs, net::SocketAddr};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    http,
    process::run,
    wait::until_true,
};
use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code,
    transport::{Channel, Endpoint, Server},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_check_response::ServingStatus as Answer, health_client::HealthClient},
    server::{HealthReporter, health_reporter},
};

const PORT: u16 = 9000;
/// Name of which each instance says something else.
const NAME: &str = "orders";
const CALLS: usize = 400;
/// Calls at once.
const AT_ONCE: usize = 20;

/// A gRPC server that says this of [`NAME`].
async fn instance(says: ServingStatus) -> (SocketAddr, HealthReporter) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (reporter, service) = health_reporter();
    reporter.set_service_status(NAME, says).await;
    let serving = Server::builder().add_service(service);
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, reporter)
}

/// v1 in east and v2 in west, with clients in east.
struct Scene {
    federation: Federation,
    client: HealthClient<Channel>,
    v1: HealthReporter,
}

impl Scene {
    async fn start() -> Self {
        let (v1, reporter) = instance(ServingStatus::Serving).await;
        let (v2, _) = instance(ServingStatus::NotServing).await;
        let plan = Plan::new()
            .zone("east")
            .instance("orders", v1, "{ version: v1 }")
            .zone("west")
            .instance("orders", v2, "{ version: v2 }");
        let service = format!("port: {PORT}, protocol: grpc, {}", split(100));
        let plan = plan.service("orders", &service).ruled_by_applied();
        let federation = plan.start().await.unwrap();
        federation.wait_export("east", "west", "orders").await;
        let address = federation.service_address("east", "orders", PORT).await;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self {
            federation,
            client: HealthClient::new(endpoint.connect().await.unwrap()),
            v1: reporter,
        }
    }

    /// Gives v1 this share, and what is left to v2.
    async fn apply(&self, first: u32, more: &str) {
        let zone = self.federation.zone("east");
        let initial = fs::read_to_string(&zone.topology).unwrap();
        let changed = initial.replace(&split(100), &format!("{}{more}", split(first)));
        let file = self.federation.folder().join("apply.yaml");
        fs::write(&file, changed).unwrap();
        let (file, admin) = (file.display().to_string(), zone.admin.to_string());
        let before = generation(zone.admin).await.unwrap_or(0);
        run(["apply", "-f", &file, "--admin", &admin]).unwrap();
        until_true("it is in force", PATIENCE, async || {
            generation(zone.admin).await.is_some_and(|now| now > before)
        })
        .await;
    }

    async fn ask(&self) -> Answer {
        let answer = self.client.clone().check(request()).await.unwrap();
        answer.into_inner().status()
    }
}

fn request() -> HealthCheckRequest {
    HealthCheckRequest {
        service: NAME.to_owned(),
    }
}

fn split(first: u32) -> String {
    let second = 100 - first;
    format!(
        "split: [{{ tags: {{ version: v1 }}, weight: {first} }}, {{ tags: {{ version: v2 }}, weight: {second} }}]"
    )
}

async fn generation(admin: SocketAddr) -> Option<u64> {
    let answer = http::get(admin, "/v1/topology").await.ok()?;
    let page: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
    page["items"][0]["generation"].as_u64()
}

#[tokio::test]
async fn the_calls_of_one_channel_follow_the_weights() {
    let scene = Scene::start().await;
    for percent in [5, 50, 100, 0] {
        scene.apply(100 - percent, "").await;
        let mut second = 0;
        for _ in 0..CALLS / AT_ONCE {
            let answers = join_all((0..AT_ONCE).map(|_| scene.ask())).await;
            second += answers
                .iter()
                .filter(|answer| **answer == Answer::NotServing)
                .count();
        }
        let all = CALLS as f64;
        let share = f64::from(percent) / 100.0;
        let bound = 5.0 * (all * share * (1.0 - share)).sqrt();
        assert!(
            (second as f64 - all * share).abs() <= bound,
            "{percent} %: {second}"
        );
    }
}

#[tokio::test]
async fn a_program_sees_streams_and_codes_as_without_a_gateway() {
    let scene = Scene::start().await;
    let mut client = scene.client.clone();
    // A stream of messages, each when it comes.
    let mut watched = client.watch(request()).await.unwrap().into_inner();
    for (says, heard) in [
        (ServingStatus::Serving, Answer::Serving),
        (ServingStatus::NotServing, Answer::NotServing),
    ] {
        scene.v1.set_service_status(NAME, says).await;
        let told = tokio::time::timeout(PATIENCE, watched.message());
        assert_eq!(told.await.unwrap().unwrap().unwrap().status(), heard);
    }
    // A code of the instance's own.
    let unknown = HealthCheckRequest {
        service: "nothing".to_owned(),
    };
    let error = client.check(unknown).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    // One of the gateway's.
    scene.apply(100, ", allow: []").await;
    until_true("calls are forbidden", PATIENCE, async || {
        let answer = scene.client.clone().check(request()).await;
        answer.is_err_and(|error| error.code() == Code::PermissionDenied)
    })
    .await;
    let error = scene.client.clone().check(request()).await.unwrap_err();
    assert_eq!(error.metadata().get("causeway-reason").unwrap(), "forbidden");
    // The stream under way went with the permission.
    assert!(watched.message().await.is_err());
}

#[tokio::test]
async fn a_stream_that_is_open_at_a_drain_deadline_is_ended_with_a_word_at_either_end() {
    for ends in ["east", "west"] {
        let (west, _reporter) = instance(ServingStatus::Serving).await;
        let plan = Plan::new()
            .argument("--drain")
            .argument("1s")
            .zone("east")
            .zone("west")
            .instance("orders", west, "{}");
        let plan = plan.service("orders", &format!("port: {PORT}, protocol: grpc"));
        let mut federation = plan.start().await.unwrap();
        federation.wait_export("east", "west", "orders").await;
        let address = federation.service_address("east", "orders", PORT).await;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let mut client = HealthClient::new(endpoint.connect().await.unwrap());
        let mut watched = client.watch(request()).await.unwrap().into_inner();
        let first = watched.message().await.unwrap().unwrap();
        assert_eq!(first.status(), Answer::Serving);
        let zone = federation.zone_mut(ends);
        zone.gateway().signal(Signal::TERM).unwrap();
        let told = tokio::time::timeout(PATIENCE, watched.message()).await.unwrap();
        let error = told.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{ends}: {error}");
        let word = error.metadata().get("causeway-reason");
        assert_eq!(word.unwrap(), "cut", "{ends}: {error}");
        let status = federation.zone_mut(ends).gateway().wait(PATIENCE).await;
        assert!(status.success(), "{ends}: {status}");
    }
}
