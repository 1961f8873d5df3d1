//! Commands that use the folder of a CA: nothing is written there that cannot be carried out.

use std::{fs, path::Path, time::SystemTime};

use causeway_identity::ca::{
    self,
    revoked::{Revocation, RevocationSubject, Revoked},
};

use crate::commands::{err, run};

fn made() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca");
    ca::init(&authority, "acme.internal").unwrap();
    (folder, authority.display().to_string())
}

#[tokio::test]
async fn what_cannot_be_carried_out_leaves_the_folder_of_the_ca_as_it_was() {
    let (folder, authority) = made();
    let names = || {
        let entries = fs::read_dir(&authority).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let out = file.join("identity").display().to_string();
    let issue = [
        "ca",
        "issue",
        "--ca",
        &authority,
        "--zone",
        "east",
        "--gateway",
        "gw1",
        "--out",
        &out,
    ];
    // Neither whom to believe there is said, nor whose gateway has to answer.
    let revoke = [
        "revoke",
        "zone",
        "east",
        "--ca",
        &authority,
        "--admin",
        "https://127.0.0.1:1",
    ];
    for (command, says) in [(&issue[..], "cannot write an identity"), (&revoke, "--admin-ca")] {
        let output = run(None, command).await;
        assert!(!output.status.success());
        assert!(err(&output).contains(says), "{}", err(&output));
        assert_eq!(names(), before, "{command:?}");
    }
}

#[tokio::test]
async fn no_token_is_given_out_for_whom_nothing_is_issued_to() {
    let (_folder, authority) = made();
    let revoke = |subject, readmitted| {
        let mut revoked = Revoked::read(Path::new(&authority)).unwrap();
        revoked.0.push(Revocation {
            at: SystemTime::now(),
            subject,
            serials: Vec::new(),
            readmitted,
        });
        revoked.write(Path::new(&authority)).unwrap();
    };
    let issue = async |more: &[&str]| {
        run(
            None,
            &[&["token", "issue", "--ca", &authority][..], more].concat(),
        )
        .await
    };
    revoke(RevocationSubject::Zone("west".to_owned()), false);
    revoke(RevocationSubject::Gateway("east/gw1".to_owned()), false);
    for (whose, subject, again) in [
        (
            &["--zone", "west"][..],
            "zone west was revoked",
            "revoke zone west --readmit",
        ),
        (
            &["--zone", "west", "--gateway", "gw7"],
            "zone west was revoked",
            "revoke zone west --readmit",
        ),
        (
            &["--zone", "east", "--gateway", "gw1"],
            "gateway east/gw1 was revoked",
            "revoke gateway east/gw1 --readmit",
        ),
    ] {
        let refused = issue(whose).await;
        let said = err(&refused);
        assert!(
            !refused.status.success() && refused.stdout.is_empty(),
            "{whose:?}"
        );
        assert!(said.contains(subject) && said.contains(again), "{said}");
    }
    assert!(issue(&["--zone", "east"]).await.status.success());
    revoke(RevocationSubject::Zone("west".to_owned()), true);
    assert!(issue(&["--zone", "west"]).await.status.success());
}
