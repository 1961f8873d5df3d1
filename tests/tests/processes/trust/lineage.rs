//! Lineage of certificates over real processes: a copied key is found out, and revoking a certificate takes what came of it.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use causeway_tests::{
    authority::Leaf,
    ca::{CaServer, causeway, text},
    federation::{PATIENCE, TRUST_DOMAIN, Zone},
    http,
    matrix::{
        at_ca::renew,
        clients::{Credential, Trial},
    },
    process::{Process, program},
    wait::{until, until_true},
};
use serde_json::Value;

use super::begin;

/// Renewed while the test looks on, and long enough for a busy machine to be late.
const SHORT: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);
const RENEWALS: &str = "causeway_identity_renewals_total";
const RENEWED: &[(&str, &str)] = &[("result", "ok")];

/// Copies what the gateway of a zone is known by now.
fn stolen(zone: &Zone) -> Leaf {
    let read = |name: &str| fs::read_to_string(zone.identity.join(name)).unwrap();
    Leaf {
        certificate: read("cert.pem"),
        key: read("key.pem"),
    }
}

/// Asks the CA for the next certificate with a copied one.
async fn renew_copy(ca: &CaServer, leaf: &Leaf) -> Trial {
    let credential = Credential {
        uri: format!("spiffe://{TRUST_DOMAIN}/zone/west/gateway/gw1"),
        ..Credential::of(leaf.clone())
    };
    let from = SocketAddr::from(([127, 0, 0, 1], 0));
    renew(&credential, from, ca.address).await.unwrap()
}

/// Everything that was issued to the gateway of west, oldest first.
fn issued(ca: &CaServer) -> Vec<Value> {
    let text = fs::read_to_string(ca.ca().join("issued.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let of_west = |line: &Value| line["id"].as_str().unwrap().contains("/zone/west/");
    lines.filter(of_west).collect()
}

#[tokio::test]
async fn a_copied_key_renews_nothing_once_its_owner_has_gone_on_and_the_owner_loses_nothing() {
    let (ca, federation, _west) = begin(SHORT).await;
    let west = federation.zone("west");
    let copy = stolen(west);
    west.wait_metric(RENEWALS, RENEWED, 1.0).await;
    // The gateway shows the CA what it has taken up, and that may be a moment later.
    let refused = until("the copy is refused", PATIENCE, async || {
        match renew_copy(&ca, &copy).await {
            Trial::Refused(why) if why.contains("two hold its key") => Some(why),
            _ => None,
        }
    })
    .await;
    assert!(refused.contains("west/gw1"), "{refused}");
    ca.wait_log(&["ERROR", "refused to issue a certificate", "superseded", "hint"])
        .await;
    west.wait_metric(RENEWALS, RENEWED, 2.0).await;
    federation.zone("east").wait_tunnel("west").await;
}

#[tokio::test]
async fn revoking_a_certificate_takes_all_that_came_of_it_by_renewals() {
    let (ca, federation, _west) = begin(SHORT).await;
    federation.zone("west").wait_metric(RENEWALS, RENEWED, 2.0).await;
    let first = issued(&ca)[0]["serial"].as_str().unwrap().to_owned();
    let (folder, east) = (ca.ca(), federation.zone("east").admin.to_string());
    let folder = text(&folder).unwrap();
    let revoke = ["revoke", "serial", &first, "--ca", folder, "--admin", &east];
    let revoked = causeway(&revoke).unwrap();
    let said = String::from_utf8_lossy(&revoked.stdout).into_owned();
    assert!(revoked.status.success(), "{revoked:?}");
    assert!(said.contains("certificates, with what came of it)"), "{said}");
    // It has long gone on with another certificate.
    let refused = [("side", "local"), ("reason", "revoked")];
    let east = federation.zone("east");
    east.wait_metric("causeway_tunnel_refused_total", &refused, 1.0)
        .await;
    until_true("there is no tunnel with west", PATIENCE, async || {
        let page = http::get(east.admin, "/v1/tunnels").await;
        page.is_ok_and(|page| !page.body.contains("\"west\""))
    })
    .await;
    ca.wait_log(&["refused to issue a certificate", "reason=\"revoked\""])
        .await;
}

/// Starts the gateway of a zone a second time, with a copy of its identity.
fn start_twin(zone: &Zone, folder: &Path) -> Process {
    let identity = folder.join("twin-identity");
    fs::create_dir(&identity).unwrap();
    for name in ["cert.pem", "key.pem", "ca.pem"] {
        fs::copy(zone.identity.join(name), identity.join(name)).unwrap();
    }
    let mut command = Command::new(program().unwrap());
    command
        .args(["gateway", "--zone", &zone.name, "--threads", "1"])
        .arg("--identity")
        .arg(&identity)
        .arg("--topology")
        .arg(&zone.topology)
        .arg("--data")
        .arg(folder.join("twin-data"));
    let at = |port| SocketAddr::new(zone.listen.ip(), port).to_string();
    for (flag, port) in [
        ("--listen", 7801),
        ("--admin", 7811),
        ("--registry", 7821),
        ("--dns", 7854),
    ] {
        command.args([flag, &at(port)]);
    }
    Process::start("the twin", &mut command, &folder.join("twin.log")).unwrap()
}

#[tokio::test]
async fn two_processes_that_run_with_one_identity_are_told_by_peers_and_by_themselves() {
    let (_ca, federation, _west) = begin(HOUR).await;
    let west = federation.zone("west");
    let twin = start_twin(west, federation.folder());
    let peers = [
        "WARN",
        "two processes run with the identity of one gateway",
        "west/gw1",
        "hint",
    ];
    federation.zone("east").wait_log(&peers).await;
    let own = "another process is alive with the identity of this gateway";
    until_true("both say so themselves", PATIENCE, async || {
        west.log().contains(own) && twin.log().contains(own)
    })
    .await;
}
