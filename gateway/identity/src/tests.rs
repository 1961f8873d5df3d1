//! Identities and the CA: what loads, what is refused, who may read the files.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use causeway_federation::{
    name::GatewayId,
    trust::{StoredTrust, Trust},
};
use tempfile::{TempDir, tempdir};

use super::{
    CERTIFICATE_FILE, Identity, IdentityFileError, KEY_FILE, ROOTS_FILE, SpiffeId,
    ca::{self, CA_KEY_FILE, Ca, CaError},
    pem_files,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn east() -> GatewayId {
    GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap())
}

/// A CA and one identity of it, on disk.
fn issued() -> (TempDir, std::path::PathBuf) {
    let folder = tempdir().unwrap();
    let (authority, out) = (folder.path().join("ca"), folder.path().join("east"));
    ca::init(&authority, "acme.internal").unwrap();
    ca::issue(&authority, &east(), &out, DAY).unwrap();
    (folder, out)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The error with its sources, as an operator reads it.
fn told(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |e| e.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[test]
fn an_issued_identity_loads_and_says_who_it_is() {
    let (_folder, out) = issued();
    let identity = Identity::load(&out).unwrap();
    assert!(identity.doubt().is_none(), "{:?}", identity.doubt());
    assert_eq!(*identity.id(), SpiffeId::new("acme.internal", east()));
    let left = identity
        .not_after()
        .unwrap()
        .duration_since(std::time::SystemTime::now());
    assert!(left.unwrap() <= DAY);
    assert!(identity.client_tls().is_ok() && identity.server_tls().is_ok());
}

#[test]
fn keys_are_for_their_owner_alone_and_never_printed() {
    let (folder, out) = issued();
    assert_eq!(mode(&folder.path().join("ca").join(CA_KEY_FILE)), 0o600);
    assert_eq!(mode(&out.join(KEY_FILE)), 0o600);
    assert_eq!(mode(&out.join(CERTIFICATE_FILE)), 0o644);
    let printed = format!("{:?}", Identity::load(&out).unwrap());
    assert_eq!(printed.matches("Identity").count(), 1);
    assert!(!printed.to_lowercase().contains("key"), "{printed}");
}

#[test]
fn a_ca_is_never_overwritten_but_a_certificate_can_be_renewed() {
    let (folder, out) = issued();
    let authority = folder.path().join("ca");
    let before = fs::read(out.join(CERTIFICATE_FILE)).unwrap();
    ca::issue(&authority, &east(), &out, 2 * DAY).unwrap();
    assert_ne!(before, fs::read(out.join(CERTIFICATE_FILE)).unwrap());
    assert!(Identity::load(&out).unwrap().doubt().is_none());
    assert_eq!(
        fs::read_dir(&out).unwrap().count(),
        3,
        "nothing else is left behind"
    );

    assert!(matches!(
        ca::init(&authority, "acme.internal"),
        Err(CaError::Exists(_))
    ));
    fs::remove_file(authority.join(ROOTS_FILE)).unwrap();
    assert!(matches!(
        ca::init(&authority, "acme.internal"),
        Err(CaError::Exists(_))
    ));
}

#[test]
fn a_ca_read_from_disk_issues_what_its_root_verifies() {
    let folder = tempdir().unwrap();
    ca::init(folder.path(), "acme.internal").unwrap();
    let authority = Ca::load(folder.path()).unwrap();
    assert_eq!(authority.trust_domain(), "acme.internal");
    assert!(
        authority
            .issue(&east(), DAY)
            .unwrap()
            .check_chain(std::time::SystemTime::now())
            .is_ok()
    );
    assert!(matches!(
        authority.issue(&east(), Duration::ZERO),
        Err(CaError::Validity(_))
    ));
    assert!(Ca::new("Not A Domain").is_err());
}

#[test]
fn files_that_cannot_work_are_errors_that_say_where_and_what_to_do() {
    let (folder, out) = issued();
    let other = folder.path().join("other");
    ca::issue(&folder.path().join("ca"), &east(), &other, DAY).unwrap();
    let error = |change: &dyn Fn(&Path)| {
        let broken = tempdir().unwrap();
        for file in [CERTIFICATE_FILE, KEY_FILE, ROOTS_FILE] {
            fs::copy(out.join(file), broken.path().join(file)).unwrap();
        }
        change(broken.path());
        told(&Identity::load(broken.path()).unwrap_err())
    };
    let remove = error(&|f| fs::remove_file(f.join(KEY_FILE)).unwrap());
    assert!(
        remove.contains("cannot read") && remove.contains("key.pem") && remove.contains("ca issue"),
        "{remove}"
    );
    let empty = error(&|f| fs::write(f.join(ROOTS_FILE), "").unwrap());
    assert!(empty.contains("ca.pem holds no trust root"), "{empty}");
    let junk = error(&|f| fs::write(f.join(KEY_FILE), "hello").unwrap());
    assert!(junk.contains("key.pem holds no private key"), "{junk}");
    let pair = error(&|f| {
        fs::copy(other.join(KEY_FILE), f.join(KEY_FILE)).unwrap();
    });
    assert!(pair.contains("does not belong to"), "{pair}");
    let root = error(&|f| {
        fs::copy(f.join(ROOTS_FILE), f.join(CERTIFICATE_FILE)).unwrap();
    });
    assert!(
        root.contains("does not name a gateway") && root.contains("is a CA's"),
        "{root}"
    );
}

#[test]
fn what_peers_will_refuse_is_told_as_a_doubt() {
    let (folder, out) = issued();
    let none = Trust::new("", StoredTrust::default());
    let at = |now| pem_files::load(&out, &none, now).unwrap();
    let now = std::time::SystemTime::now();
    assert!(matches!(
        at(now + 2 * DAY).doubt(),
        Some(IdentityFileError::Expired { .. })
    ));
    assert!(matches!(
        at(now - 2 * DAY).doubt(),
        Some(IdentityFileError::NotYetValid { .. })
    ));

    let stranger = folder.path().join("stranger");
    ca::init(&stranger, "acme.internal").unwrap();
    fs::copy(stranger.join(ROOTS_FILE), out.join(ROOTS_FILE)).unwrap();
    let loaded = at(now);
    assert!(
        matches!(loaded.doubt(), Some(IdentityFileError::UnknownIssuer { .. })),
        "{:?}",
        loaded.doubt()
    );
}
