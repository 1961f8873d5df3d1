//! Every request has a line of its own in the access log, and counts by itself.

use causeway_host::tasks::Tasks;
use causeway_telemetry::{AccessLog, LineWriter, Role};

use super::{HttpClient, HttpInstance, speaking_http};
use crate::{
    egress::{EgressConfig, tests::one_id::Written},
    testbed::{Zone, until},
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
