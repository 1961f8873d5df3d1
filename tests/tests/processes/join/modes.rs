//! Files and folders have their modes whatever the umask is.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use causeway_tests::{
    ca::{CaServer, text},
    federation::TRUST_DOMAIN,
    process::program,
};

fn under(umask: &str, arguments: &[&str]) -> String {
    let script = format!("umask {umask}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .arg(program().unwrap())
        .args(arguments);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} under {umask}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn assert_modes(folder: &Path, expected: &[(&str, u32)]) {
    for (name, mode) in expected {
        let found = fs::metadata(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = found.permissions().mode() & 0o7777;
        assert_eq!(found, *mode, "{name} has {found:o} and should have {mode:o}");
    }
}

#[tokio::test]
async fn keys_and_folders_are_their_owners_alone_under_any_umask() {
    let served = CaServer::start(TRUST_DOMAIN, std::time::Duration::from_secs(3600))
        .await
        .unwrap();
    for umask in ["0000", "0022", "0777"] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| text(&folder.path().join(name)).unwrap().to_owned();
        let (ca, by_hand, joined, asked) = (at("ca"), at("by-hand"), at("joined"), at("asked"));
        under(umask, &["ca", "init", &ca, "--trust-domain", TRUST_DOMAIN]);
        under(umask, &["token", "issue", "--ca", &ca, "--zone", "east"]);
        let whose = ["--zone", "east", "--gateway", "gw1", "--out"];
        under(
            umask,
            &[&["ca", "issue", "--ca", &ca][..], &whose, &[&by_hand]].concat(),
        );
        let request = ["ca", "request", "--trust-domain", TRUST_DOMAIN];
        under(umask, &[&request[..], &whose, &[&asked]].concat());
        let invitation = format!("{}@{}", served.token("east", &[]).unwrap(), served.address);
        under(
            umask,
            &["join", &invitation, "--gateway", "gw1", "--out", &joined],
        );

        assert_modes(
            folder.path(),
            &[
                ("ca", 0o700),
                ("by-hand", 0o700),
                ("joined", 0o700),
                ("asked", 0o700),
            ],
        );
        let ca = Path::new(&ca);
        assert_modes(
            ca,
            &[
                ("ca.pem", 0o644),
                ("ca-key.pem", 0o600),
                ("tokens", 0o700),
                ("issued.jsonl", 0o600),
            ],
        );
        let tokens = fs::read_dir(ca.join("tokens")).unwrap();
        let names: Vec<_> = tokens
            .map(|token| token.unwrap().file_name().into_string().unwrap())
            .collect();
        let expected: Vec<_> = names.iter().map(|name| (name.as_str(), 0o600)).collect();
        assert_eq!(expected.len(), 1);
        assert_modes(&ca.join("tokens"), &expected);
        let identity = [("cert.pem", 0o644), ("key.pem", 0o600), ("ca.pem", 0o644)];
        assert_modes(Path::new(&by_hand), &identity);
        assert_modes(Path::new(&joined), &identity);
        assert_modes(Path::new(&joined), &[("renew.json", 0o644)]);
        assert_modes(Path::new(&asked), &[("key.pem", 0o600), ("request.pem", 0o644)]);
    }
}
