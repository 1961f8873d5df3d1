//! Nothing outlives the certificate that it was opened with, unless its holder has shown a later one; and names are revoked whole.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use causeway_proto::tunnel::{Connect, StreamHeader, stream_header::Kind, stream_reply::Outcome};
use causeway_tests::{
    authority::Leaf,
    ca::{CaServer, causeway, text},
    federation::{Federation, PATIENCE},
    measured::measured,
    peer::Peer,
};
use tokio::time::timeout;

use super::begin;

const HOUR: Duration = Duration::from_secs(3600);
/// Life of a certificate that ends while the test looks on.
const SHORT: Duration = Duration::from_secs(6);

/// Issues a certificate for a gateway of north by hand.
fn issue(ca: &CaServer, gateway: &str, life: Duration) -> Leaf {
    let out: PathBuf = ca.ca().with_file_name(format!("{gateway}-{}", life.as_secs()));
    let life = format!("{}s", life.as_secs());
    let folder = ca.ca();
    let arguments = [
        "ca",
        "issue",
        "--ca",
        text(&folder).unwrap(),
        "--zone",
        "north",
        "--gateway",
        gateway,
    ];
    let more = ["--valid-for", &life, "--out", text(&out).unwrap()];
    let issued = causeway(&[&arguments[..], &more].concat()).unwrap();
    assert!(issued.status.success(), "{issued:?}");
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    Leaf {
        certificate: read("cert.pem"),
        key: read("key.pem"),
    }
}

/// A tunnel with west, on which a connection to orders is taken.
async fn tunnel(federation: &Federation, leaf: &Leaf) -> Peer {
    let mut peer = Peer::connect(federation.zone("west").listen, Some(leaf))
        .await
        .unwrap();
    peer.hello().await.unwrap();
    let header = StreamHeader {
        kind: Some(Kind::Connect(Connect {
            service: "orders".to_owned(),
            attempt: 1,
            ..Connect::default()
        })),
    };
    let reply = peer.ask(&header).await.unwrap();
    assert!(matches!(reply.outcome, Some(Outcome::Ready(_))), "{reply:?}");
    peer
}

async fn end(peer: &Peer) -> String {
    let ended = timeout(PATIENCE, peer.connection.closed()).await;
    ended.expect("the tunnel goes on").to_string()
}

#[tokio::test]
async fn a_tunnel_ends_shortly_after_its_certificate_unless_a_later_one_was_shown() {
    let (ca, federation, _west) = begin(HOUR).await;
    let renewing = tunnel(&federation, &issue(&ca, "gw8", SHORT)).await;
    let begun = Instant::now();
    let ending = tunnel(&federation, &issue(&ca, "gw9", SHORT)).await;
    let renewed = tunnel(&federation, &issue(&ca, "gw8", HOUR)).await;
    let why = end(&ending).await;
    assert!(why.contains("has ended, and no later one was shown"), "{why}");
    measured(&format!(
        "a tunnel ended {:?} after it was opened with a certificate of {SHORT:?}",
        begun.elapsed()
    ));
    // That of gw8 was issued before that of gw9, and ended sooner.
    assert!(
        renewing.connection.close_reason().is_none(),
        "its holder has shown a later one"
    );
    assert!(renewed.connection.close_reason().is_none());
    let west = federation.zone("west");
    west.wait_log(&["refused a tunnel", "reason=\"expired\"", "north/gw9"])
        .await;
}

/// Adds lines to what the CA says it has issued to a gateway of north, as somebody leaves them who renews without end, and takes
/// those out that are true.
fn flood(ca: &CaServer, gateway: &str, count: usize) {
    let path = ca.ca().join("issued.jsonl");
    let written = fs::read_to_string(&path).unwrap();
    let id = format!("/zone/north/gateway/{gateway}\"");
    let (own, others): (Vec<&str>, Vec<&str>) = written.lines().partition(|line| line.contains(&id));
    let model: serde_json::Value = serde_json::from_str(own[0]).unwrap();
    let mut lines: Vec<String> = others.into_iter().map(str::to_owned).collect();
    for nth in 0..count {
        let mut line = model.clone();
        line["serial"] = format!("{nth:032x}").into();
        lines.push(line.to_string());
    }
    fs::write(&path, lines.join("\n") + "\n").unwrap();
}

fn revoke(ca: &CaServer, federation: &Federation, more: &[&str]) -> String {
    let (folder, east) = (ca.ca(), federation.zone("east").admin.to_string());
    let revoke = [
        "revoke",
        "gateway",
        "north/gw9",
        "--ca",
        text(&folder).unwrap(),
        "--admin",
        &east,
    ];
    let done = causeway(&[&revoke[..], more].concat()).unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{done:?}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_revoked_with_every_certificate_it_ever_had_and_comes_back_with_new_ones_alone() {
    let (ca, federation, _west) = begin(HOUR).await;
    let stolen = issue(&ca, "gw9", HOUR);
    let peer = tunnel(&federation, &stolen).await;
    flood(&ca, "gw9", 9_000);
    let begun = SystemTime::now();
    let said = revoke(&ca, &federation, &[]);
    let why = end(&peer).await;
    measured(&format!(
        "a revoked name lost its tunnel within {:?}",
        begun.elapsed().unwrap()
    ));
    assert!(why.contains("was revoked"), "{why}");
    assert!(
        said.contains("revoked gateway north/gw9: 9000 certificates"),
        "{said}"
    );
    assert!(said.contains("closed 1 connection, "), "{said}");

    let said = revoke(&ca, &federation, &["--readmit"]);
    assert!(said.contains("may have certificates again"), "{said}");
    let fresh = tunnel(&federation, &issue(&ca, "gw9", 2 * HOUR)).await;
    let mut again = Peer::connect(federation.zone("west").listen, Some(&stolen))
        .await
        .unwrap();
    // It may hear of that before it has said hello, or after.
    let _ = again.hello().await;
    // The TLS alert `certificate_revoked` has the number 44.
    let why = end(&again).await;
    assert!(why.contains("44"), "the one from before stays revoked: {why}");
    assert!(fresh.connection.close_reason().is_none());
}
