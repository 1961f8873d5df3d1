//! Names that the built-in CA puts into a certificate: host names of gateways, and callers.

use std::{fs, path::Path, process::Output, time::Duration};

use causeway_tests::{
    ca::{CaServer, causeway, text},
    federation::TRUST_DOMAIN,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Tells whether a name stands in the certificate in a folder, where such names are ASCII.
fn has_name(folder: &Path, name: &str) -> bool {
    let certificate = CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap();
    certificate
        .windows(name.len())
        .any(|bytes| bytes == name.as_bytes())
}

fn assert_usage(refused: &Output, word: &str) {
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains(word), "{word} is not in\n{told}");
    assert_eq!(refused.status.code(), Some(64), "{told}");
}

#[tokio::test]
async fn host_names_come_from_the_token_and_only_good_ones() {
    let ca = CaServer::start(TRUST_DOMAIN, DAY).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let names = ["--dns-name", "*.mesh.test.internal", "--dns-name", "Orders.mesh"];
    let (named, plain) = (folder.path().join("named"), folder.path().join("plain"));
    let token = ca.token("west", &names).unwrap();
    let joined = ca.join(&token, &named).unwrap();
    assert!(joined.status.success(), "{joined:?}");
    assert!(has_name(&named, "*.mesh.test.internal") && has_name(&named, "orders.mesh"));
    let joined = ca.join(&ca.token("east", &[]).unwrap(), &plain).unwrap();
    assert!(joined.status.success(), "{joined:?}");
    assert!(!has_name(&plain, "mesh"));
    let issued = fs::read_to_string(ca.ca().join("issued.jsonl")).unwrap();
    let first = issued.lines().next().unwrap();
    assert!(
        first.contains(r#""dns_names":["*.mesh.test.internal","orders.mesh"]"#),
        "{issued}"
    );
    let at = ca.ca();
    let listed = causeway(&["token", "list", "--ca", text(&at).unwrap()]).unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("*.mesh.test.internal,orders.mesh"), "{listed}");

    let issue = |more: &[&str]| {
        let base = ["token", "issue", "--ca", text(&at).unwrap(), "--zone", "west"];
        causeway(&[&base[..], more].concat()).unwrap()
    };
    assert_usage(&issue(&["--dns-name", "*.mesh"]), "before a single label");
    assert_usage(&issue(&["--dns-name", "10.0.0.1"]), "an address is no DNS name");
    let many: Vec<String> = (0..17).map(|number| format!("s{number}.mesh")).collect();
    let many: Vec<&str> = many.iter().flat_map(|name| ["--dns-name", name]).collect();
    assert_usage(&issue(&many), "17 DNS names are too many");
}

#[tokio::test]
async fn a_signer_says_the_host_names_and_no_caller_can_pass_for_a_gateway() {
    let ca = CaServer::start(TRUST_DOMAIN, DAY).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (at, out) = (ca.ca(), folder.path().join("out"));
    let (at, shown) = (text(&at).unwrap(), text(&out).unwrap());
    let whose = ["--zone", "west", "--gateway", "gw1", "--out"];
    let request = ["ca", "request", "--trust-domain", TRUST_DOMAIN];
    causeway(&[&request[..], &whose, &[shown]].concat()).unwrap();
    let certificate = out.join("cert.pem");
    let sign = ["ca", "sign", "--ca", at, "--dns-name", "gw1.test.internal"];
    let request = out.join("request.pem");
    let files = [text(&certificate).unwrap(), text(&request).unwrap()];
    let signed = causeway(&[&sign[..], &whose, &files].concat()).unwrap();
    assert!(signed.status.success(), "{signed:?}");
    assert!(has_name(&out, "gw1.test.internal"));

    let issue = |more: &[&str]| {
        let base = ["ca", "issue", "--ca", at, "--out", shown];
        causeway(&[&base[..], more].concat()).unwrap()
    };
    let web = issue(&["--identity", "spiffe://test.internal/app/web"]);
    assert!(web.status.success(), "{web:?}");
    assert!(has_name(&out, "spiffe://test.internal/app/web"));
    let gateway = "spiffe://test.internal/zone/west/gateway/gw1";
    assert_usage(&issue(&["--identity", gateway]), "no caller's");
    assert_usage(
        &issue(&["--identity", "spiffe://test.internal/ca"]),
        "no caller's",
    );
    assert_usage(
        &issue(&["--zone", "west", "--identity", "spiffe://test.internal/a"]),
        "--identity",
    );
    assert_usage(&issue(&[]), "--zone");
    assert_usage(&issue(&["--zone", "west"]), "--gateway");
}
