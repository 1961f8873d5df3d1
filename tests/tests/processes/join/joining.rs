//! Tokens and joins: what works once, and how each thing that must not work is refused, on both sides.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use causeway_tests::{
    ca::{CaServer, causeway, text},
    federation::TRUST_DOMAIN,
    process::program,
    talk::say,
};

use super::{begin, prepare};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn said(output: &Output) -> String {
    assert!(
        output.stdout.is_empty(),
        "nothing was done, and something was said of it"
    );
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A join that fails: `error:` and `hint:` lines, this exit code, these words, and nothing left behind.
fn assert_refused(joined: &Output, out: &Path, code: i32, words: &[&str]) {
    let told = said(joined);
    assert_eq!(joined.status.code(), Some(code), "{told}");
    assert!(told.starts_with("error: ") && told.contains("\nhint: "), "{told}");
    for word in words {
        assert!(told.contains(word), "{word} is not in\n{told}");
    }
    let left = fs::read_dir(out).map_or(0, Iterator::count);
    assert_eq!(left, 0, "a join that failed leaves nothing behind");
}

#[tokio::test]
async fn gateways_that_joined_with_tokens_carry_traffic() {
    let (ca, mut federation, _west) = prepare(DAY, &[]).await;
    begin(&mut federation).await;
    let orders = federation.service_address("east", "orders", 9000).await;
    assert_eq!(say(orders, "hello").await.unwrap(), "west hello");
    let admin = federation.zone("east").admin.to_string();
    let check = causeway(&["check", "--admin", &admin]).unwrap();
    let check = String::from_utf8(check.stdout).unwrap();
    assert!(check.contains("valid for 23 hours and is renewed in "), "{check}");
    let issued = fs::read_to_string(ca.ca().join("issued.jsonl")).unwrap();
    assert_eq!(issued.lines().count(), 2, "{issued}");
    assert!(
        issued.lines().all(|line| line.contains(r#""how":"token "#)),
        "{issued}"
    );
}

#[tokio::test]
async fn a_start_that_joins_first_does_so_once_and_needs_no_token_afterwards() {
    let ca = CaServer::start(TRUST_DOMAIN, DAY).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let at = out.display().to_string();
    let join = |token: &str, gateway: &str| {
        let arguments = ["join", token, "--gateway", gateway, "--out", &at];
        causeway(&[&arguments[..], &["--unless-joined"]].concat()).unwrap()
    };
    let nothing = "$(INVITATION)";
    assert_eq!(
        join(nothing, "gw1").status.code(),
        Some(64),
        "there is nothing yet"
    );
    let joined = ca.join(&ca.token("west", &[]).unwrap(), &out).unwrap();
    assert!(joined.status.success(), "{joined:?}");
    let key = fs::read(out.join("key.pem")).unwrap();
    let again = join(nothing, "gw1");
    assert!(again.status.success(), "{again:?}");
    let told = String::from_utf8(again.stdout).unwrap();
    assert!(told.contains("gw1 has joined already"), "{told}");
    assert_eq!(fs::read(out.join("key.pem")).unwrap(), key);
    // An identity of another gateway is no reason to go on as if it were this one's.
    assert_eq!(join(nothing, "gw2").status.code(), Some(64));
}

#[tokio::test]
async fn a_token_that_must_not_work_is_refused_on_both_sides_in_its_own_words() {
    let ca = CaServer::start(TRUST_DOMAIN, DAY).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");

    let used = ca.token("west", &[]).unwrap();
    let first = ca.join(&used, &folder.path().join("first")).unwrap();
    assert!(first.status.success(), "{first:?}");
    let again = ca.join(&used, &out).unwrap();
    assert_refused(&again, &out, 1, &["token_used", "the token has been used"]);
    ca.wait_log(&["WARN", "token_used", "token="]).await;

    let expired = ca.token("west", &["--valid-for", "1ms"]).unwrap();
    assert_refused(&ca.join(&expired, &out).unwrap(), &out, 1, &["token_expired"]);
    ca.wait_log(&["WARN", "token_expired", "token="]).await;

    let other_name = ca.token("west", &["--gateway", "gw7"]).unwrap();
    assert_refused(
        &ca.join(&other_name, &out).unwrap(),
        &out,
        1,
        &["wrong_gateway", "gw7"],
    );
    ca.wait_log(&["WARN", "wrong_gateway", "token="]).await;

    // The folder knows nothing of it: another CA folder, restored from an older copy, or a forgery with a good checksum.
    let forgotten = ca.token("west", &[]).unwrap();
    fs::remove_dir_all(ca.ca().join("tokens")).unwrap();
    assert_refused(&ca.join(&forgotten, &out).unwrap(), &out, 1, &["token_unknown"]);
    ca.wait_log(&["WARN", "token_unknown", "token="]).await;

    // A slip in copying is told from a forgery, and is not sent to anybody.
    let slip = format!("{}a", &used[..used.len() - 1]);
    let slip = if slip == used {
        format!("{}b", &used[..used.len() - 1])
    } else {
        slip
    };
    let refused = ca.join(&slip, &out).unwrap();
    assert_eq!(refused.status.code(), Some(65));
    assert!(said(&refused).contains("copy it whole"), "{refused:?}");
    assert!(!said(&refused).contains(&slip[20..]), "the token is repeated");
}

#[tokio::test]
async fn another_ca_is_found_out_by_its_fingerprint_before_anything_is_sent() {
    let ca = CaServer::start(TRUST_DOMAIN, DAY).await.unwrap();
    let stranger = CaServer::start(TRUST_DOMAIN, DAY).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let token = ca.token("west", &[]).unwrap();
    let refused = stranger.join(&token, &out).unwrap();
    assert_refused(
        &refused,
        &out,
        1,
        &["whoever answers there is not the CA", "fingerprint"],
    );
    stranger.wait_log(&["WARN", "TLS handshake", "UnknownCA"]).await;
    assert!(
        ca.join(&token, &out).unwrap().status.success(),
        "the token is as good as new"
    );
}

#[tokio::test]
async fn what_is_there_is_not_overwritten_and_a_ca_that_does_not_answer_is_named() {
    let mut ca = CaServer::start(TRUST_DOMAIN, DAY).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let east = folder.path().join("east");
    assert!(
        ca.join(&ca.token("east", &[]).unwrap(), &east)
            .unwrap()
            .status
            .success()
    );
    let before = fs::read(east.join("cert.pem")).unwrap();
    let token = ca.token("west", &[]).unwrap();
    let refused = ca.join(&token, &east).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("zone/east/gateway/gw1"), "{refused:?}");
    assert_eq!(fs::read(east.join("cert.pem")).unwrap(), before);
    // Joining anew as who one is, is how a lost certificate is replaced.
    let anew = ca.join(&ca.token("east", &[]).unwrap(), &east).unwrap();
    assert!(anew.status.success());
    assert_ne!(fs::read(east.join("cert.pem")).unwrap(), before);

    ca.stop().await.unwrap();
    let out = folder.path().join("west");
    let refused = ca.join(&token, &out).unwrap();
    assert_refused(&refused, &out, 1, &["cannot connect to", "7830"]);
    ca.resume(&[]).await.unwrap();
    assert!(
        ca.join(&token, &out).unwrap().status.success(),
        "a token outlives a restart of the CA"
    );
}

#[tokio::test]
async fn a_token_is_taken_from_standard_input_and_one_that_was_revoked_is_refused() {
    let ca = CaServer::start(TRUST_DOMAIN, DAY).await.unwrap();
    let (folder, authority) = (tempfile::tempdir().unwrap(), ca.ca());
    let out = folder.path().join("west");
    let revoked = ca.token("west", &[]).unwrap();
    let list = || {
        let listed = causeway(&["token", "list", "--ca", text(&authority).unwrap()]).unwrap();
        String::from_utf8(listed.stdout).unwrap()
    };
    let listed = list();
    let line = listed.lines().find(|line| line.contains("west")).unwrap();
    let id = line.split_whitespace().next().unwrap();
    let revoke = ["token", "revoke", id, "--ca", text(&authority).unwrap()];
    assert!(causeway(&revoke).unwrap().status.success());
    assert!(list().contains("revoked"), "{}", list());
    assert_refused(&ca.join(&revoked, &out).unwrap(), &out, 1, &["token_revoked"]);
    ca.wait_log(&["WARN", "token_revoked", id]).await;

    let invitation = folder.path().join("invitation");
    fs::write(
        &invitation,
        format!("{}@{}\n", ca.token("west", &[]).unwrap(), ca.address),
    )
    .unwrap();
    let mut join = Command::new(program().unwrap());
    join.args(["join", "-", "--gateway", "gw1", "--out"]).arg(&out);
    let joined = join.stdin(fs::File::open(&invitation).unwrap()).output().unwrap();
    assert!(joined.status.success(), "{joined:?}");
    assert!(out.join("renew.json").exists());
}

#[tokio::test]
async fn a_request_is_signed_by_hand_for_whom_the_operator_says() {
    let ca = CaServer::start(TRUST_DOMAIN, DAY).await.unwrap();
    let (folder, authority) = (tempfile::tempdir().unwrap(), ca.ca());
    let out = folder.path().join("east");
    let request = [
        "ca",
        "request",
        "--trust-domain",
        TRUST_DOMAIN,
        "--zone",
        "east",
        "--gateway",
        "gw1",
        "--out",
        text(&out).unwrap(),
    ];
    assert!(causeway(&request).unwrap().status.success());
    let key = fs::read(out.join("key.pem")).unwrap();
    assert!(
        !causeway(&request).unwrap().status.success(),
        "a key is never replaced"
    );
    assert_eq!(fs::read(out.join("key.pem")).unwrap(), key);

    let (request, certificate) = (out.join("request.pem"), out.join("cert.pem"));
    let sign = |zone: &str| {
        let (ca, request) = (text(&authority).unwrap(), text(&request).unwrap());
        let certificate = text(&certificate).unwrap();
        let arguments = [
            "ca",
            "sign",
            "--ca",
            ca,
            request,
            "--zone",
            zone,
            "--gateway",
            "gw1",
            "--out",
        ];
        causeway(&[&arguments[..], &[certificate]].concat()).unwrap()
    };
    let other = sign("west");
    assert_eq!(other.status.code(), Some(65));
    assert!(
        said(&other).contains("gw1.east") || said(&other).contains("east"),
        "{other:?}"
    );
    assert!(sign("east").status.success());
    let chain = fs::read_to_string(&certificate).unwrap();
    assert!(chain.starts_with("-----BEGIN CERTIFICATE-----"), "{chain}");
    let issued = fs::read_to_string(authority.join("issued.jsonl")).unwrap();
    assert!(issued.contains(r#""how":"sign""#), "{issued}");
}
