//! The program from outside. Having a test of this kind is also what makes `cargo test` build the program itself, which
//! the end-to-end tests then start as real gateways.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use causeway_identity::Identity;

#[test]
fn the_program_prints_its_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_causeway"))
        .arg("--help")
        .output();
    let output = output.expect("run causeway");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs `causeway` with these arguments under the loosest umask there is.
fn causeway(folder: &Path, arguments: &[&str]) -> Output {
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "umask 000; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_causeway"),
    ]);
    shell
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("run causeway")
}

#[test]
fn a_gateway_takes_one_topology_flag_and_needs_one_until_something_was_applied() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let said = |arguments: &[&str]| {
        let output = causeway(folder.path(), arguments);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let ca = ["ca", "init", "ca", "--trust-domain", "a.b"];
    let leaf = "ca issue --ca ca --zone east --gateway gw1 --out identity";
    assert_eq!(said(&ca).0, Some(0));
    assert_eq!(said(&leaf.split(' ').collect::<Vec<_>>()).0, Some(0));
    let gateway = |more: &str| {
        let line = format!("gateway --zone east --identity identity --data data{more}");
        said(&line.split(' ').collect::<Vec<_>>())
    };
    let (code, text) = gateway("");
    assert_eq!(code, Some(64), "{text}");
    assert!(
        text.contains("--topology FILE") && text.contains("--initial-topology FILE"),
        "{text}"
    );
    let (code, text) = gateway(" --topology a.yaml --initial-topology a.yaml");
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("cannot be used with"), "{text}");
    let (code, text) = gateway(" --initial-topology missing.yaml");
    assert_eq!(code, Some(65), "{text}");
    assert!(text.contains("cannot read missing.yaml"), "{text}");
}

#[test]
fn a_ca_made_by_the_program_issues_an_identity_that_gateways_accept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = |arguments: &[&str]| {
        let output = causeway(folder.path(), arguments);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let init = ["ca", "init", "ca", "--trust-domain", "acme.internal"];
    assert_eq!(run(&init), (Some(0), String::new()));
    let issue = [
        "ca",
        "issue",
        "--ca",
        "ca",
        "--zone",
        "east",
        "--gateway",
        "gw1",
        "--out",
        "east",
    ];
    assert_eq!(run(&issue), (Some(0), String::new()));
    let identity = Identity::load(&folder.path().join("east")).expect("load the identity");
    assert!(identity.doubt().is_none());
    assert_eq!(
        identity.id().to_string(),
        "spiffe://acme.internal/zone/east/gateway/gw1"
    );
    for key in ["ca/ca-key.pem", "east/key.pem"] {
        let mode = std::fs::metadata(folder.path().join(key))
            .expect("a key file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }

    let (code, said) = run(&init);
    assert_eq!(code, Some(1));
    assert!(said.contains("never overwritten"), "{said}");
    let (code, said) = run(&["ca", "init", "other", "--trust-domain", "Acme Inc"]);
    assert_eq!(code, Some(64));
    assert!(said.contains("`Acme Inc` is not a trust domain"), "{said}");
}

#[test]
fn a_mistyped_zone_is_told_when_a_token_is_given_out_and_when_it_is_revoked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let said = |line: &str| {
        let output = causeway(folder.path(), &line.split(' ').collect::<Vec<_>>());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let doubt = "note: this CA has never issued a certificate to zone `wset`; it has to west\n";
    said("ca init ca --trust-domain a.b");
    assert!(
        !said("token issue --ca ca --zone wset").contains("note:"),
        "the first of all"
    );
    said("ca issue --ca ca --zone west --gateway gw1 --out identity");
    assert!(said("token issue --ca ca --zone wset").contains(doubt));
    assert!(!said("token issue --ca ca --zone west").contains("note:"));
    // Nobody is there to hand the news to; it is told before that.
    for revoke in ["zone wset", "gateway wset/gw1"] {
        let told = said(&format!("revoke {revoke} --ca ca --admin 127.0.0.1:1"));
        assert!(told.contains(doubt), "{told}");
    }
}
