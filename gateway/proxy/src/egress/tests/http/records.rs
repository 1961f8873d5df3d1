//! Every request has a line of its own in the access log, and counts by itself.

use std::sync::Arc;

use causeway_federation::topology::Topology;
use causeway_host::tasks::Tasks;
use causeway_routing::snapshot::Instance;
use causeway_telemetry::{AccessLog, LineWriter, Role};
use causeway_tunnel::IncomingStream;
use futures_util::FutureExt as _;
use http::Method;
use tokio::io::AsyncWriteExt as _;

use super::{
    HttpClient, HttpInstance,
    retries::{Conduct, TriedInstance},
    speaking_http,
    version2::{CallClient, CallInstance, speaking_grpc},
};
use crate::{
    egress::{EgressConfig, tests::one_id::Written},
    testbed::{Handler, Zone, connect, until},
};

#[tokio::test]
async fn every_request_has_a_line_and_all_of_a_connection_have_its_id() {
    let here = HttpInstance::start("here").await;
    let written = Written::default();
    let access = LineWriter::start("access log", written.clone(), &Tasks::default()).unwrap();
    let home = Zone::with_access_log(
        "home",
        &speaking_http("early: false"),
        vec![here.instance(&[])],
        EgressConfig::new(1),
        AccessLog::Text(access),
    );
    let mut client = HttpClient::of(&home).await;
    for _ in 0..3 {
        client.get("/").await;
    }
    until("three lines are written", || written.lines().len() == 3).await;
    let ids: Vec<String> = written
        .lines()
        .iter()
        .map(|line| {
            assert!(line.contains(" home->home served "), "{line}");
            assert!(line.contains("instance=here attempts=1 "), "{line}");
            assert!(!line.contains("up=0") && !line.contains("down=0"), "{line}");
            line.rsplit_once("connection=").unwrap().1.to_owned()
        })
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let bytes = home.egress.shared.metrics.byte_counters(Role::Egress, "orders");
    assert!(bytes.up.get() > 0 && bytes.down.get() > 0);
}

/// Home with these instances, and what is written of its requests.
fn logging(topology: &Arc<Topology>, instances: Vec<Arc<Instance>>) -> (Zone, Written) {
    let written = Written::default();
    let access = LineWriter::start("access log", written.clone(), &Tasks::default()).unwrap();
    let config = EgressConfig::new(1);
    let home = Zone::with_access_log("home", topology, instances, config, AccessLog::Text(access));
    home.metrics.services().follow(topology);
    (home, written)
}

fn requests_counted(home: &Zone, labels: &str) -> bool {
    let mut text = String::new();
    home.metrics.encode(&mut text).unwrap();
    text.contains(&format!(
        "causeway_requests_total{{service=\"orders\",{labels}}} 1\n"
    ))
}

#[tokio::test]
async fn what_was_asked_for_and_answered_is_in_the_line_and_counted() {
    let bad = TriedInstance::start("bad", Conduct::Answer(503)).await;
    let routes = "routes:\n    - { match: { path: /gone }, answer: { status: 410 } }\n    - { match: { path: /nowhere }, split: [{ tags: { v: none } }] }";
    let topology = speaking_http(routes);
    let (home, written) = logging(&topology, vec![bad.instance(&[])]);
    let mut client = HttpClient::of(&home).await;
    client.ask(Method::PUT, "/a%20b?token=secret").await.unwrap();
    client.get("/gone").await;
    client.get("/nowhere").await;
    let mut malformed = connect(home.vip).await;
    malformed.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    until("four lines are written", || written.lines().len() == 4).await;
    for told in [
        " served client=.* method=PUT path=/a%20b status=503 grpc_status=- first_byte=",
        " answered client=.* method=GET path=/gone status=410 grpc_status=- first_byte=",
        " no_candidate client=.* method=GET path=/nowhere status=503 grpc_status=- first_byte=",
        " bad_request client=.* method=- path=- status=400 grpc_status=- first_byte=",
    ] {
        assert!(has_line(&written, told), "{told}: {:#?}", written.lines());
    }
    let lines = written.lines().concat();
    assert!(
        !lines.contains("secret") && !lines.contains("first_byte=-"),
        "{lines}"
    );
    for labels in [
        r#"zone="home",arm="",outcome="served",status="5xx",grpc_status="""#,
        r#"zone="",arm="",outcome="answered",status="4xx",grpc_status="""#,
        r#"zone="",arm="",outcome="no_candidate",status="5xx",grpc_status="""#,
        r#"zone="",arm="",outcome="bad_request",status="4xx",grpc_status="""#,
    ] {
        assert!(requests_counted(&home, labels), "{labels}");
    }
}

/// Tells whether a line has these parts in their order.
fn has_line(written: &Written, told: &str) -> bool {
    let parts: Vec<_> = told.split(".*").collect();
    let fits = |line: &String| {
        let rest = parts.iter().try_fold(line.as_str(), |rest, part| {
            rest.split_once(part).map(|(_, rest)| rest)
        });
        rest.is_some()
    };
    written.lines().iter().any(fits)
}

#[tokio::test]
async fn a_call_has_the_code_that_it_ended_with() {
    let here = CallInstance::start("here").await;
    let topology = speaking_grpc("early: false");
    let (home, written) = logging(&topology, vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    for (path, code) in [("/echo", "0"), ("/denied", "16")] {
        assert_eq!(client.call(path).await.unwrap().code(), Some(code));
    }
    home.change(|snapshot| snapshot.instances = Arc::default());
    assert_eq!(client.call("/head").await.unwrap().code(), Some("14"));
    until("three lines are written", || written.lines().len() == 3).await;
    for told in [
        " method=POST path=/echo status=200 grpc_status=OK ",
        " method=POST path=/denied status=200 grpc_status=UNAUTHENTICATED ",
        " method=POST path=/head status=200 grpc_status=UNAVAILABLE ",
    ] {
        assert!(has_line(&written, told), "{told}: {:#?}", written.lines());
    }
    let labels = r#"zone="home",arm="",outcome="served",status="2xx",grpc_status="UNAUTHENTICATED""#;
    assert!(requests_counted(&home, labels));
}

#[tokio::test]
async fn a_zone_that_does_not_answer_in_time_is_named() {
    let topology = speaking_http("timeout: 300ms\n    failover: [{ zone: east }]");
    let (home, written) = logging(&topology, vec![]);
    let silent = Handler(|stream: IncomingStream| {
        async move {
            let _stream = stream;
            std::future::pending().await
        }
        .boxed()
    });
    home.join("east", silent).await;
    let told = HttpClient::of(&home).await.get("/").await;
    assert_eq!(
        (told.status.as_u16(), told.field("causeway-zone")),
        (504, Some("east"))
    );
    until("a line is written", || written.lines().len() == 1).await;
    let line = " home->east request_timeout client=.* peer=east/gw1 instance=- .* status=504 ";
    assert!(has_line(&written, line), "{:#?}", written.lines());
    let labels = r#"zone="east",arm="",outcome="request_timeout",status="5xx",grpc_status="""#;
    assert!(requests_counted(&home, labels));
}
