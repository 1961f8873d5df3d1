//! `causeway revoke`: the news is everywhere at once, and what is revoked stays out.

use std::{
    fs,
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use causeway_tests::{
    ca::{causeway, text},
    federation::PATIENCE,
    measured::measured,
    talk::Client,
    wait::until_true,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::{begin, trust};

const HOUR: Duration = Duration::from_secs(3600);
/// Renewed while the test looks on.
const SHORT: Duration = Duration::from_secs(20);
const REFUSED: &str = "causeway_tunnel_refused_total";

/// Runs `causeway revoke` while clients of the revoked zone talk; says what it said, and how long they could go on.
async fn revoke_under(command: &[&str], clients: &mut [Client]) -> (Output, Duration) {
    let begun = Instant::now();
    let command: Vec<_> = command.iter().map(|&argument| argument.to_owned()).collect();
    let revoking = tokio::task::spawn_blocking(move || {
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        causeway(&command).unwrap()
    });
    for client in clients {
        while client
            .say("still")
            .await
            .is_ok_and(|answer| answer == "west still")
        {
            assert!(begun.elapsed() < PATIENCE, "what is revoked is served still");
        }
    }
    let cut = begun.elapsed();
    (revoking.await.unwrap(), cut)
}

#[tokio::test]
async fn a_revoked_zone_is_cut_off_everywhere_at_once_and_stays_so() {
    let (ca, mut federation, _west) = begin(HOUR).await;
    let mut clients = Vec::new();
    for zone in ["east", "north"] {
        let orders = federation.service_address(zone, "orders", 9000).await;
        let mut client = Client::connect(orders).await.unwrap();
        assert_eq!(client.say("before").await.unwrap(), "west before");
        clients.push(client);
    }
    let (folder, east) = (ca.ca(), federation.zone("east").admin.to_string());
    let revoke = [
        "revoke",
        "zone",
        "west",
        "--ca",
        text(&folder).unwrap(),
        "--admin",
        &east,
    ];
    let (revoked, cut) = revoke_under(&revoke, &mut clients).await;
    let said = String::from_utf8_lossy(&revoked.stdout).into_owned();
    assert!(revoked.status.success(), "{revoked:?}");
    assert!(said.contains("revoked zone west: 1 certificate"), "{said}");
    assert!(
        said.contains("in force in 2 of 2 zones"),
        "all but the revoked one: {said}"
    );
    measured(&format!(
        "both zones had cut off the revoked one {cut:?} after the command was started"
    ));
    // The command itself starts, reads the CA and signs; the news then has a second.
    assert!(cut < Duration::from_secs(5), "{cut:?}");
    for zone in ["east", "north"] {
        let zone = federation.zone(zone);
        zone.wait_metric(REFUSED, &[("side", "local"), ("reason", "revoked")], 1.0)
            .await;
        zone.wait_log(&["refused a tunnel", "revoked", "west/gw1"]).await;
        assert_eq!(trust(&federation, &zone.name).await["generation"], 1);
    }
    let told = [("side", "peer"), ("reason", "revoked")];
    federation.zone("west").wait_metric(REFUSED, &told, 1.0).await;

    // It is still so after a restart, and saying it again changes nothing.
    federation.zone_mut("east").kill().unwrap();
    federation.start_zone("east").unwrap();
    let east = federation.zone("east");
    east.wait_ready().await;
    assert_eq!(trust(&federation, "east").await["generation"], 1);
    east.wait_metric(REFUSED, &[("side", "local"), ("reason", "revoked")], 1.0)
        .await;
    let again = causeway(&revoke).unwrap();
    assert!(again.status.success(), "{again:?}");
    assert_eq!(trust(&federation, "east").await["generation"], 1);
}

#[tokio::test]
async fn a_revoked_zone_gets_no_certificate_any_more_by_whatever_way() {
    let (ca, federation, _west) = begin(SHORT).await;
    let token = ca.token("west", &[]).unwrap();
    let (folder, east) = (ca.ca(), federation.zone("east").admin.to_string());
    let folder = text(&folder).unwrap();
    let revoke = ["revoke", "zone", "west", "--ca", folder, "--admin", &east];
    let revoked = causeway(&revoke).unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    let joined = ca.join(&token, &ca.ca().with_file_name("again")).unwrap();
    let said = String::from_utf8_lossy(&joined.stderr).into_owned();
    assert!(!joined.status.success() && said.contains("revoked"), "{said}");
    let out = ca.ca().with_file_name("by-hand");
    let issue = [
        "ca",
        "issue",
        "--ca",
        folder,
        "--zone",
        "west",
        "--gateway",
        "gw7",
        "--out",
    ];
    let issued = causeway(&[&issue[..], &[text(&out).unwrap()]].concat()).unwrap();
    let said = String::from_utf8_lossy(&issued.stderr).into_owned();
    assert!(
        !issued.status.success() && said.contains("zone west was revoked"),
        "{said}"
    );
    assert!(!out.join("cert.pem").exists());
    // Its gateway tries to renew, at half of the life.
    ca.wait_log(&["refused to issue a certificate", "reason=\"revoked\""])
        .await;
    let says = ["could not be renewed", "the CA refuses: revoked", "serial number"];
    federation.zone("west").wait_log(&says).await;
}

#[tokio::test]
async fn a_zone_that_was_away_gets_the_news_when_it_is_back() {
    let (ca, mut federation, _west) = begin(HOUR).await;
    federation.zone_mut("north").kill().unwrap();
    let (folder, east) = (ca.ca(), federation.zone("east").admin.to_string());
    let folder = text(&folder).unwrap();
    let wait = ["--wait", "1s"];
    let revoke = ["revoke", "gateway", "west/gw1", "--ca", folder, "--admin", &east];
    let revoked = causeway(&[&revoke[..], &wait].concat()).unwrap();
    let said = String::from_utf8_lossy(&revoked.stdout).into_owned();
    assert_eq!(
        revoked.status.code(),
        Some(79),
        "north was heard a moment ago: {said}"
    );
    assert!(said.contains("zone north"), "{said}");
    federation.start_zone("north").unwrap();
    federation.zone("north").wait_ready().await;
    until_true("north has the news", PATIENCE, async || {
        trust(&federation, "north").await["generation"] == 1
    })
    .await;

    // The gateway may come back with a new certificate, once somebody says so.
    let identity = federation.zone("west").identity.clone();
    let token = || ca.token("west", &[]).unwrap();
    assert!(!ca.join(&token(), &identity).unwrap().status.success());
    assert!(
        causeway(&[&revoke[..], &["--readmit"]].concat())
            .unwrap()
            .status
            .success()
    );
    let joined = ca.join(&token(), &identity).unwrap();
    assert!(joined.status.success(), "{joined:?}");
    federation.zone("east").wait_tunnel("west").await;
    federation.wait_export("north", "west", "orders").await;
}

#[tokio::test]
async fn a_document_of_another_ca_or_nonsense_changes_nothing() {
    let (ca, federation, _west) = begin(HOUR).await;
    let east = federation.zone("east").admin;
    let stranger = ca.ca().with_file_name("stranger");
    let stranger = text(&stranger).unwrap();
    let domain = causeway_tests::federation::TRUST_DOMAIN;
    assert!(
        causeway(&["ca", "init", stranger, "--trust-domain", domain])
            .unwrap()
            .status
            .success()
    );
    let admin = east.to_string();
    let revoke = ["revoke", "zone", "west", "--ca", stranger, "--admin", &admin];
    let first = causeway(&revoke).unwrap();
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(
        said.contains("not this CA's") && said.contains("--only-this-ca"),
        "{said}"
    );
    let folder = Path::new(stranger);
    assert!(
        !folder.join("revoked.jsonl").exists(),
        "it was refused beforehand"
    );
    let second = causeway(&[&revoke[..], &["--only-this-ca"]].concat()).unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && said.contains("no root that is trusted here"),
        "{said}"
    );
    assert!(!said.contains("run this again"), "{said}");
    let revoked = fs::read_to_string(folder.join("revoked.jsonl")).unwrap();
    assert_eq!(revoked, "", "it was taken back");

    // A rotation is as if it had not been begun, but for the CA that was to come.
    let roots = fs::read_to_string(folder.join("ca.pem")).unwrap();
    let rotate = [
        "ca",
        "rotate",
        "--ca",
        stranger,
        "--admin",
        &admin,
        "--only-this-ca",
    ];
    let rotated = causeway(&rotate).unwrap();
    let said = String::from_utf8_lossy(&rotated.stderr).into_owned();
    assert!(
        !rotated.status.success() && said.contains("no root that is trusted here"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(folder.join("ca.pem")).unwrap(), roots);
    assert!(!folder.join("rotation.json").exists() && !folder.join("next").exists());
    let socket = federation.zone("east").admin_socket();
    let answer = put_nonsense(&socket).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(trust(&federation, "east").await["generation"], 0);
}

async fn put_nonsense(admin: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(admin).await?;
    let head = "PUT /v1/trust HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("{head}nonsense").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
