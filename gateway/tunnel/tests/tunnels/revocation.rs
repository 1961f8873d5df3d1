//! Tests that what is revoked loses its tunnels and streams at once, by a trust document or by a list beside the identity, and
//! does not come back.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use causeway_federation::trust::{Content, OfferedTrust, TrustDocument};
use causeway_identity::{
    Identity, IdentityFolder, REVOCATIONS_FILE, RefreshOutcome, Serial,
    ca::{self, Ca},
};
use tempfile::TempDir;

use crate::support::{DAY, DOMAIN, Gate, Log, connect_header, echo, id, none, one, until};

/// Time that is promised for a revocation.
const A_SECOND: Duration = Duration::from_secs(1);
const ZONES: [&str; 3] = ["east", "plant", "north"];

/// `east` listens, and `plant` and `north` dial it.
struct Three {
    folder: TempDir,
    files: [IdentityFolder; 3],
    east: Gate,
    plant: Gate,
    north: Gate,
}

impl Three {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        ca::init(&folder.path().join("ca"), DOMAIN).unwrap();
        let files = ZONES.map(|zone| {
            let out = folder.path().join(zone);
            ca::issue(&folder.path().join("ca"), &id(zone), &out, DAY).unwrap();
            IdentityFolder::open(&out).unwrap()
        });
        let east = Gate::new(files[0].identity(), &ZONES.map(|zone| (zone, none())));
        let known = ZONES.map(|zone| match zone {
            "east" => (zone, one(east.address())),
            _ => (zone, none()),
        });
        let plant = Gate::new(files[1].identity(), &known);
        let north = Gate::new(files[2].identity(), &known);
        for zone in ["plant", "north"] {
            east.tunnel_to(zone).await;
        }
        plant.tunnel_to("east").await;
        north.tunnel_to("east").await;
        Self {
            folder,
            files,
            east,
            plant,
            north,
        }
    }

    fn ca(&self) -> Ca {
        Ca::load(&self.folder.path().join("ca")).unwrap()
    }

    fn path(&self, zone: &str) -> PathBuf {
        self.folder.path().join(zone)
    }
}

fn serial_of(folder: &Path) -> Serial {
    Identity::load(folder).unwrap().serial().unwrap()
}

fn list(ca: &Ca, serials: impl IntoIterator<Item = Serial>) -> Vec<u8> {
    let now = SystemTime::now();
    let revoked: BTreeMap<_, _> = serials.into_iter().map(|serial| (serial, now)).collect();
    ca.revocation_list(&revoked, 1, now).unwrap()
}

fn document(ca: &Ca, generation: u64, revocations: Vec<Vec<u8>>) -> Arc<TrustDocument> {
    let content = Content {
        trust_domain: DOMAIN.to_owned(),
        roots: vec![ca.certificate().to_vec()],
        revocations,
        preferred: None,
        ..Content::default()
    };
    Arc::new(
        ca.sign_trust(TrustDocument::new(generation, content, 0).unwrap())
            .unwrap(),
    )
}

#[tokio::test]
async fn a_revoked_peer_loses_its_tunnel_and_streams_at_once_and_is_refused_from_then_on() {
    let all = Three::start().await;
    let (revoked, kept) = (
        all.plant.tunnel_to("east").await,
        all.north.tunnel_to("east").await,
    );
    let causeway_tunnel::Stream { mut send, mut recv } = revoked.open(&connect_header()).await.unwrap();
    causeway_tunnel::read_reply(&mut recv).await.unwrap();
    send.write_all(b"still").await.unwrap();
    recv.read_exact(&mut [0; 5]).await.unwrap();

    let log = Log::capture();
    let begun = Instant::now();
    let crl = list(&all.ca(), [serial_of(&all.path("plant"))]);
    let offered = all.files[0]
        .held()
        .offer_trust(&document(&all.ca(), 1, vec![crl]), SystemTime::now());
    assert_eq!(offered.unwrap(), OfferedTrust::Taken);
    assert!(recv.read_chunk(1).await.is_err(), "the stream is reset");
    until("the tunnel to be closed", || revoked.ended()).await;
    let took = begun.elapsed();
    assert!(took < A_SECOND, "{took:?}");

    all.east.counts_refusal("local", "revoked").await;
    all.plant.counts_refusal("peer", "revoked").await;
    log.says(
        "refused a tunnel",
        &[("reason", "revoked"), ("peer", "plant/gw1")],
    )
    .await;
    log.says("the peer refused a tunnel", &[("reason", "revoked")])
        .await;
    all.plant.no_tunnel_to("east").await;
    // It dials again and again, and each time the handshake is refused.
    let handshake = [("reason", "revoked"), ("peer", "zone east")];
    let _ = handshake;
    echo(&kept, b"undisturbed").await;
    assert!(kept.ended().is_none() && !kept.is_retiring());
}

#[tokio::test]
async fn a_list_beside_the_identity_counts_and_a_new_certificate_ends_it() {
    let all = Three::start().await;
    let tunnel = all.plant.tunnel_to("east").await;
    let crl = all.path("east").join(REVOCATIONS_FILE);
    fs::write(&crl, list(&all.ca(), [serial_of(&all.path("plant"))])).unwrap();
    assert_eq!(all.files[0].reload(SystemTime::now()), RefreshOutcome::Taken);
    until("the tunnel to be closed", || tunnel.ended()).await;
    all.east.counts_refusal("local", "revoked").await;
    all.plant.no_tunnel_to("east").await;

    ca::issue(&all.path("ca"), &id("plant"), &all.path("plant"), DAY).unwrap();
    assert_eq!(all.files[1].reload(SystemTime::now()), RefreshOutcome::Taken);
    echo(&all.plant.tunnel_to("east").await, b"back").await;
}

#[tokio::test]
async fn a_list_that_cannot_be_used_is_refused_and_the_one_before_it_counts_on() {
    let all = Three::start().await;
    let crl = all.path("east").join("vault.crl");
    let bad = Ca::new(DOMAIN).unwrap();
    let forged = {
        // The name of the true CA, and the key of another.
        let mut der = list(&all.ca(), [serial_of(&all.path("plant"))]);
        let last = der.len() - 1;
        der[last] ^= 1;
        der
    };
    for text in [
        b"nonsense".to_vec(),
        Vec::new(),
        forged,
        vec![0x30, 0x82, 0xff, 0xff],
    ] {
        fs::write(&crl, &text).unwrap();
        assert_eq!(
            all.files[0].reload(SystemTime::now()),
            RefreshOutcome::Refused,
            "{text:?}"
        );
        fs::remove_file(&crl).unwrap();
        assert_eq!(all.files[0].reload(SystemTime::now()), RefreshOutcome::Unchanged);
    }
    // Of an issuer that is not known here: it is honoured, and concerns nobody.
    fs::write(&crl, list(&bad, [serial_of(&all.path("plant"))])).unwrap();
    assert_eq!(all.files[0].reload(SystemTime::now()), RefreshOutcome::Taken);
    echo(&all.plant.tunnel_to("east").await, b"undisturbed").await;
}

#[tokio::test]
async fn a_root_that_a_document_retires_takes_its_gateways_with_it() {
    let all = Three::start().await;
    let (old, new) = (all.ca(), Ca::new(DOMAIN).unwrap());
    let content = |roots: &[&Ca]| Content {
        trust_domain: DOMAIN.to_owned(),
        roots: roots.iter().map(|ca| ca.certificate().to_vec()).collect(),
        ..Content::default()
    };
    let now = SystemTime::now();
    let both = TrustDocument::new(1, content(&[&old, &new]), 0).unwrap();
    let by_stranger = Arc::new(new.sign_trust(both.clone()).unwrap());
    assert!(all.files[0].held().offer_trust(&by_stranger, now).is_err());
    let by_old = Arc::new(old.sign_trust(both).unwrap());
    assert!(matches!(
        all.files[0].held().offer_trust(&by_old, now),
        Ok(OfferedTrust::Taken)
    ));
    let only_new = TrustDocument::new(2, content(&[&new]), 0).unwrap();
    let by_new = Arc::new(new.sign_trust(only_new).unwrap());
    assert!(matches!(
        all.files[0].held().offer_trust(&by_new, now),
        Ok(OfferedTrust::Taken)
    ));
    all.east.counts_refusal("local", "unknown_issuer").await;
    all.plant.no_tunnel_to("east").await;
}

#[test]
fn what_was_taken_is_in_force_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, out) = (folder.path().join("ca"), folder.path().join("east"));
    ca::init(&authority, DOMAIN).unwrap();
    ca::issue(&authority, &id("east"), &out, DAY).unwrap();
    let ca = Ca::load(&authority).unwrap();
    let crl = list(&ca, [serial_of(&out)]);
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let now = SystemTime::now();
    let files = IdentityFolder::open(&out).unwrap();
    files.held().keep_trust_in(&data, now).unwrap();
    assert_eq!(files.identity().trust().edition().generation, 0);
    files
        .held()
        .offer_trust(&document(&ca, 3, vec![crl]), now)
        .unwrap();
    for _ in 0..2 {
        let again = IdentityFolder::open(&out).unwrap();
        again.held().keep_trust_in(&data, now).unwrap();
        let identity = again.identity();
        assert_eq!(identity.trust().edition().generation, 3);
        assert!(
            identity.current().doubt().is_some(),
            "its own certificate is revoked"
        );
    }
    fs::write(data.join("trust.pb"), "nonsense").unwrap();
    let again = IdentityFolder::open(&out).unwrap();
    again.held().keep_trust_in(&data, now).unwrap();
    assert_eq!(again.identity().trust().edition().generation, 0);
    assert!(fs::read_dir(&data).unwrap().any(|entry| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().starts_with("trust.pb.corrupt-")
    }));
}
