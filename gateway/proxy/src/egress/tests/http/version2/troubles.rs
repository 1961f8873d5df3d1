//! Ends of calls that are no failures of their instances, or none that are the gateway's to hide.

use super::{CallClient, CallInstance, speaking_grpc};
use crate::{egress::tests::http::outliers::is_ejected, testbed::Zone};

async fn ejecting(name: &str) -> (CallInstance, Zone) {
    let here = CallInstance::start(name).await;
    let topology = speaking_grpc("outlier: { consecutive: 3 }");
    let home = Zone::start("home", &topology, vec![here.instance(&[])]);
    (here, home)
}

#[tokio::test]
async fn calls_that_an_aged_server_ends_after_a_message_eject_nobody_and_those_without_do() {
    let (_here, home) = ejecting("away").await;
    let client = CallClient::of(&home).await;
    for _ in 0..4 {
        let told = client.call("/aged").await.unwrap();
        assert_eq!((told.text(), told.code()), ("a message", Some("14")));
    }
    assert!(!is_ejected(&home, "home"));
    for _ in 0..4 {
        assert_eq!(client.call("/away").await.unwrap().code(), Some("14"));
    }
    assert!(is_ejected(&home, "home"));
}

#[tokio::test]
async fn a_head_over_the_limit_of_the_gateway_is_told_as_that_and_ejects_nobody() {
    let (here, home) = ejecting("here").await;
    let client = CallClient::of(&home).await;
    for _ in 0..4 {
        let told = client.call("/large-head").await.unwrap();
        let reason = told.field("causeway-reason");
        assert_eq!((told.code(), reason), (Some("13"), Some("bad_answer")));
    }
    assert!(!is_ejected(&home, "home"));
    assert_eq!(here.calls(), 4, "none was given twice");
}
