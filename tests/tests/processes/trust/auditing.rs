//! No change without a line in the audit log, however soon its asker is gone.

use std::{cell::Cell, collections::BTreeMap, fs, io::Write as _, os::unix::net::UnixStream};

use causeway_tests::{
    federation::{PATIENCE, Plan},
    http,
    wait::until_true,
};
use serde_json::Value;

/// Clients that come at once.
const CLIENTS: usize = 20;
/// Most that come in all; each has an address of its own in one network of 256.
const MOST_CLIENTS: usize = 200;

#[tokio::test]
async fn a_change_is_in_the_audit_log_before_and_after_it_however_soon_the_client_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let plan = Plan::new()
        .zone("east")
        .service("orders", "port: 9000, protocol: tcp");
    let plan = plan.argument("--audit-log").argument(log.to_str().unwrap());
    let federation = plan.start().await.unwrap();
    let east = federation.zone("east");
    let (admin, socket) = (east.admin, east.admin_socket());
    let come = |nth: usize| {
        let body = format!(r#"{{"address":"10.1.0.{nth}:80"}}"#);
        let head = format!(
            "PUT /v1/instances/orders/i{nth} HTTP/1.1\r\nhost: {admin}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut client = UnixStream::connect(&socket).unwrap();
        client.write_all((head + &body).as_bytes()).unwrap();
        // Gone before there is an answer.
        drop(client);
    };
    let came = Cell::new(0);
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let page = async || http::get(admin, "/v1/instances").await.unwrap().body;
    let is_registered = |page: &str, nth: usize| page.contains(&format!("\"10.1.0.{nth}:80\""));
    // Of a connection that was gone before its request was read nothing is asked, so that more may have to come.
    until_true(
        "every change and every outcome is in the audit log",
        PATIENCE,
        async || {
            let before = lines().len();
            if before < CLIENTS && came.get() < MOST_CLIENTS {
                let first = came.replace(came.get() + CLIENTS);
                (first..came.get()).for_each(come);
            }
            let (page, lines) = (page().await, lines());
            let asked = lines.iter().filter(|line| line["result"] == "asked").count();
            let changed = (0..came.get()).filter(|nth| is_registered(&page, *nth)).count();
            asked >= changed.max(CLIENTS / 2) && lines.len() == 2 * asked
        },
    )
    .await;
    let page = page().await;
    let mut results: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines() {
        let (object, result) = (line["object"].as_str().unwrap(), line["result"].as_str().unwrap());
        results
            .entry(object.to_owned())
            .or_default()
            .push(result.to_owned());
    }
    for nth in 0..came.get() {
        let told = results.get(&format!("orders/i{nth}"));
        match (is_registered(&page, nth), told) {
            (true, told) => assert_eq!(told.unwrap(), &["asked", "done"], "orders/i{nth}"),
            (false, Some(told)) => assert_eq!(told, &["asked", "refused"], "orders/i{nth}"),
            (false, None) => {}
        }
    }
}
