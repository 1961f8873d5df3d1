//! Zones that were away longer than their certificates live: with a token they come back by themselves, and nobody else does with it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use causeway_tests::{
    ca::{CaServer, causeway, text},
    federation::{Federation, PATIENCE},
    process::{Process, program},
    talk::say,
    wait::until_true,
};

use super::{begin, prepare};

/// Short enough to be waited for, long enough for a busy machine to renew in time.
const SHORT: Duration = Duration::from_secs(15);
const DAY: Duration = Duration::from_secs(24 * 3600);
const REJOINS: &str = "causeway_identity_rejoins_total";
const REJOIN: [&str; 3] = ["--gateway", "gw1", "--rejoin"];

/// Writes a token to come back to a file that the gateway of `zone` is started with.
fn give_way_back(ca: &CaServer, federation: &mut Federation, zone: &str) -> PathBuf {
    let file = federation.folder().join(format!("{zone}-way-back"));
    write_token(&file, &ca.token(zone, &REJOIN).unwrap(), 0o600);
    let arguments = ["--join-token".to_owned(), text(&file).unwrap().to_owned()];
    federation.zone_mut(zone).arguments.extend(arguments);
    file
}

fn write_token(file: &Path, token: &str, mode: u32) {
    fs::write(file, format!("{token}\n")).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

fn issued(ca: &CaServer) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(ca.ca().join("issued.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits until every certificate that the gateway of a zone has ever had is over.
async fn wait_end(ca: &CaServer, zone: &str) {
    let holder = format!("/zone/{zone}/gateway/gw1");
    until_true("the certificate has ended", 3 * SHORT, async || {
        let mut of_zone = issued(ca)
            .into_iter()
            .filter(|line| line["id"].as_str().unwrap().ends_with(&holder));
        of_zone.all(|line| {
            let end = humantime::parse_rfc3339(line["not_after"].as_str().unwrap()).unwrap();
            end + Duration::from_secs(1) < SystemTime::now()
        })
    })
    .await;
}

/// Report of `causeway check` on a zone.
fn check(federation: &Federation, zone: &str) -> String {
    let admin = federation.zone(zone).admin.to_string();
    let output = causeway(&["check", "--admin", &admin]).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

async fn rejoins(federation: &Federation, zone: &str, result: &str) -> f64 {
    let metrics = federation.zone(zone).metrics().await.unwrap();
    metrics.sum(REJOINS, &[("result", result)])
}

#[tokio::test]
async fn a_zone_that_was_off_past_the_end_of_its_certificate_comes_back_without_a_person() {
    let (ca, mut federation, _west) = prepare(SHORT, &[]).await;
    give_way_back(&ca, &mut federation, "west");
    begin(&mut federation).await;
    let orders = federation.service_address("east", "orders", 9000).await;
    assert_eq!(say(orders, "before").await.unwrap(), "west before");
    federation.zone_mut("west").kill().unwrap();
    wait_end(&ca, "west").await;

    federation.start_zone("west").unwrap();
    let west = federation.zone("west");
    west.wait_log(&["INFO", "joined again with the join token"]).await;
    west.wait_tunnel("east").await;
    federation.wait_export("east", "west", "orders").await;
    until_true("west is called again", PATIENCE, async || {
        say(orders, "again")
            .await
            .is_ok_and(|answer| answer == "west again")
    })
    .await;
    assert!(rejoins(&federation, "west", "ok").await >= 1.0);
    ca.wait_log(&["INFO", "issued a certificate", "west/gw1", "token="])
        .await;
    let issued = issued(&ca);
    let how = |line: &&serde_json::Value| line["how"].as_str().unwrap().starts_with("rejoin ");
    let back = issued.iter().find(how).unwrap();
    assert!(
        back["parent"].is_string() && back["address"].is_string(),
        "{back}"
    );
    // From here on it renews as ever.
    let renewed = [("result", "ok")];
    west.wait_metric("causeway_identity_renewals_total", &renewed, 1.0)
        .await;
    assert!(check(&federation, "west").contains("and is renewed in"));
    let listed = causeway(&["token", "list", "--ca", text(&ca.ca()).unwrap()]).unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let line = listed.lines().find(|line| line.contains("10 a day")).unwrap();
    assert!(line.contains("open") && !line.ends_with('-'), "{listed}");
}

#[tokio::test]
async fn with_a_revoked_token_a_zone_stays_out_in_words_until_its_file_has_another() {
    let (ca, mut federation, _west) = prepare(SHORT, &[]).await;
    let file = give_way_back(&ca, &mut federation, "west");
    // Which starts late, with a certificate that has ended as well.
    give_way_back(&ca, &mut federation, "east");
    // Cut off from the CA: nobody listens on that port of its host, and without another zone there is no way through one.
    let west = federation.zone("west").identity.join("renew.json");
    let right = fs::read_to_string(&west).unwrap();
    fs::write(&west, format!("{{\"ca\": [\"{}:1\"]}}", ca.address.ip())).unwrap();
    federation.start_zone("west").unwrap();
    federation.ready("west").await;
    wait_end(&ca, "west").await;
    let says = async |zone: &Federation, words: &[&str]| {
        until_true(&format!("check says {words:?}"), PATIENCE, async || {
            let found = check(zone, "west");
            words.iter().all(|word| found.contains(word))
        })
        .await;
    };
    says(
        &federation,
        &[
            "it has expired",
            "joining again with the token in",
            "cannot connect to",
        ],
    )
    .await;

    let listed = causeway(&["token", "list", "--ca", text(&ca.ca()).unwrap()]).unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let is_wests = |line: &&str| line.contains(" west ") && line.contains("10 a day");
    let id = listed.lines().find(is_wests).unwrap();
    let id = id.split_whitespace().next().unwrap();
    let authority = ca.ca();
    let revoke = ["token", "revoke", id, "--ca", text(&authority).unwrap()];
    assert!(causeway(&revoke).unwrap().status.success());
    fs::write(&west, right).unwrap();
    federation.start_zone("east").unwrap();
    federation.zone("east").wait_ready().await;
    federation
        .zone("west")
        .wait_log(&["ERROR", "token_revoked"])
        .await;
    ca.wait_log(&["WARN", "token_revoked", id]).await;
    says(
        &federation,
        &["it has expired", "token_revoked", "tries, the next in"],
    )
    .await;
    assert_eq!(rejoins(&federation, "west", "ok").await, 0.0);
    assert!(rejoins(&federation, "west", "failed").await >= 1.0);
    let tunnels = causeway_tests::http::get(federation.zone("east").admin, "/v1/tunnels").await;
    assert!(
        !tunnels.unwrap().body.contains("\"west\""),
        "an ended certificate makes a tunnel"
    );

    write_token(&file, &ca.token("west", &REJOIN).unwrap(), 0o600);
    federation.wait_export("east", "west", "orders").await;
    let orders = federation.service_address("east", "orders", 9000).await;
    assert_eq!(say(orders, "again").await.unwrap(), "west again");
    assert!(check(&federation, "west").contains("and is renewed in"));
}

/// Starts the gateway of `west` in vain, with this file. Returns its words.
async fn start_with(federation: &Federation, file: &Path) -> String {
    let west = federation.zone("west");
    let mut command = Command::new(program().unwrap());
    command.args(["gateway", "--zone", "west"]);
    for (flag, path) in [
        ("--identity", west.identity.as_path()),
        ("--topology", &west.topology),
        ("--data", &west.data),
        ("--join-token", file),
    ] {
        command.arg(flag).arg(path);
    }
    let log = tempfile::tempdir().unwrap();
    let mut started =
        Process::start("a gateway that is refused", &mut command, &log.path().join("log")).unwrap();
    let status = started.wait(PATIENCE).await;
    assert_eq!(status.code(), Some(65), "{}", started.log());
    started.log()
}

#[tokio::test]
async fn a_token_to_come_back_is_for_its_zone_and_its_key_alone() {
    let (ca, federation, _west) = prepare(DAY, &[]).await;
    let file = federation.folder().join("token");
    let east = ca.token("east", &REJOIN).unwrap();
    write_token(&file, &east, 0o600);
    let said = start_with(&federation, &file).await;
    assert!(
        said.contains("is for zone east, and this is zone west") && said.contains("hint: "),
        "{said}"
    );
    assert!(!said.contains(&east[20..60]), "the token is repeated");
    write_token(&file, &ca.token("west", &REJOIN).unwrap(), 0o644);
    let said = start_with(&federation, &file).await;
    assert!(said.contains("mode 644") && said.contains("chmod 600"), "{said}");
    let said = start_with(&federation, &federation.folder().join("nowhere")).await;
    assert!(said.contains("cannot read"), "{said}");

    // Whoever copies it gets nothing by it, neither where it was copied from nor elsewhere.
    let out = federation.folder().join("out");
    let copied = ca.join(&east, &out).unwrap();
    let said = String::from_utf8(copied.stderr).unwrap();
    assert!(said.contains("no_proof") && said.contains("hint: "), "{said}");
    ca.wait_log(&["WARN", "no_proof", "token="]).await;

    let ca = ca.ca();
    let issue = |more: &[&str]| {
        let base = ["token", "issue", "--ca", text(&ca).unwrap(), "--zone", "west"];
        let output = causeway(&[&base[..], more].concat()).unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(issue(&["--uses-per-day", "3"]).0, Some(64), "without --rejoin");
    assert_eq!(issue(&["--rejoin", "--uses-per-day", "0"]).0, Some(64));
    assert_eq!(issue(&["--rejoin", "--dns-name", "a.mesh"]).0, Some(64));
    let long = issue(&["--rejoin", "--valid-for", "367d"]);
    assert!(long.0 == Some(64) && long.1.contains("366 days"), "{long:?}");
    let given = issue(&["--rejoin", "--uses-per-day", "3", "--valid-for", "30d"]);
    assert!(
        given.0 == Some(0) && given.1.contains("3 times a day, within 30d"),
        "{given:?}"
    );
}
