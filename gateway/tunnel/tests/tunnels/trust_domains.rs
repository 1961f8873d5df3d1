//! Zones of different trust domains: each gateway believes the others by the bundles in the topology, a CA vouches for its
//! own trust domain alone, and what the topology takes back is closed.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_federation::{
    topology::{Topology, parse},
    trust::{Content, OfferedTrust, TrustDocument},
};
use causeway_identity::{
    IdentityFolder, RefreshOutcome,
    ca::{self, Ca},
};
use tempfile::TempDir;

use crate::support::{DAY, DOMAIN, Gate, Log, echo, id, until};

const PARTNER: &str = "partner.example";
const HERE: &str = "refused a tunnel";
const THERE: &str = "the peer refused a tunnel";
/// Time that is promised for a revocation, and kept here as well.
const A_SECOND: Duration = Duration::from_secs(1);

/// `east` is of [`DOMAIN`] and listens, `plant` is of [`PARTNER`] and dials.
struct Two {
    folder: TempDir,
    cas: [Ca; 2],
}

impl Two {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cas = [DOMAIN, PARTNER].map(|domain| ca::init(&folder.path().join(domain), domain).unwrap());
        Self { folder, cas }
    }

    /// The identity of a zone's gateway, issued by the CA of a trust domain.
    fn files(&self, domain: &str, zone: &str) -> IdentityFolder {
        let out = self.folder.path().join(zone);
        ca::issue(&self.folder.path().join(domain), &id(zone), &out, DAY).unwrap();
        IdentityFolder::open(&out).unwrap()
    }

    /// Topology with `east` at `address`, `plant` and `north` of these trust domains, and these bundles for the trust domains.
    fn topology(&self, address: &str, [plant, north]: [&str; 2], [ours, theirs]: [&Ca; 2]) -> Arc<Topology> {
        let mut file = format!("version: 1\ntrust_domain: {DOMAIN}\napply_from: [east]\ntrust_domains:\n");
        for (domain, ca) in [(DOMAIN, ours), (PARTNER, theirs)] {
            let pem = ca.roots_pem().trim_end().replace('\n', "\n      ");
            writeln!(file, "  {domain}:\n    bundle: |\n      {pem}").unwrap();
        }
        writeln!(file, "zones:\n  east: {{ gateways: [{address}] }}").unwrap();
        writeln!(file, "  plant: {{ gateways: [], trust_domain: {plant} }}").unwrap();
        writeln!(file, "  north: {{ gateways: [], trust_domain: {north} }}").unwrap();
        let parsed = parse(&file, "test.yaml").unwrap_or_else(|findings| panic!("{findings:?}\n{file}"));
        Arc::new(parsed.topology)
    }

    /// As both sides agreed.
    fn agreed(&self, address: impl ToString) -> Arc<Topology> {
        let [ours, theirs] = &self.cas;
        self.topology(&address.to_string(), [PARTNER, DOMAIN], [ours, theirs])
    }
}

/// Address that nobody dials.
const NOWHERE: &str = "gw.east:7800";

fn believe(files: &IdentityFolder, gate: &Gate, topology: &Arc<Topology>) {
    files.held().federate(topology, SystemTime::now());
    gate.topology.send_replace(topology.clone());
}

/// A gateway that was told the topology before it started.
fn start(files: &IdentityFolder, topology: &Arc<Topology>) -> Gate {
    files.held().federate(topology, SystemTime::now());
    Gate::under(files.identity(), topology.clone())
}

/// Both gateways, once a tunnel joins them.
async fn joined(two: &Two) -> ([IdentityFolder; 2], [Gate; 2]) {
    let files = [two.files(DOMAIN, "east"), two.files(PARTNER, "plant")];
    let east = start(&files[0], &two.agreed(NOWHERE));
    let plant = start(&files[1], &two.agreed(east.address()));
    east.tunnel_to("plant").await;
    plant.tunnel_to("east").await;
    (files, [east, plant])
}

#[tokio::test]
async fn zones_of_different_trust_domains_are_joined_by_the_bundles_in_the_topology() {
    let two = Two::new();
    let (_files, [east, plant]) = joined(&two).await;
    echo(&plant.tunnel_to("east").await, b"from the partner").await;
    echo(&east.tunnel_to("plant").await, b"to the partner").await;
}

#[tokio::test]
async fn without_a_bundle_nobody_of_another_trust_domain_is_believed() {
    let two = Two::new();
    let log = Log::capture();
    let stranger = Ca::new(PARTNER).unwrap();
    let (east_files, plant_files) = (two.files(DOMAIN, "east"), two.files(PARTNER, "plant"));
    let [ours, _] = &two.cas;
    let wrong = two.topology(NOWHERE, [PARTNER, DOMAIN], [ours, &stranger]);
    let east = start(&east_files, &wrong);
    let plant = start(&plant_files, &two.agreed(east.address()));
    log.says(HERE, &[("reason", "unknown_issuer"), ("gateway", "east/gw1")])
        .await;
    log.says(THERE, &[("reason", "unknown_issuer"), ("gateway", "plant/gw1")])
        .await;
    assert!(east.set.all().is_empty() && plant.set.all().is_empty());
    // The right one is taken up while it runs.
    believe(&east_files, &east, &two.agreed(NOWHERE));
    plant.tunnel_to("east").await;
}

/// The partner's CA issues a certificate that says `domain` and `zone`; what `east` makes of a gateway with it.
async fn partner_claims(domain: &str, zone: &str, word: &str) {
    let two = Two::new();
    let log = Log::capture();
    let east = start(&two.files(DOMAIN, "east"), &two.agreed(NOWHERE));
    let [ours, theirs] = &two.cas;
    let mut leaf = theirs.leaf(&id(zone), DAY).unwrap();
    leaf.uris = vec![format!("spiffe://{domain}/zone/{zone}/gateway/gw1")];
    let liar = theirs.issue_leaf(&leaf).unwrap();
    // To itself it is of the partner, whatever its zone.
    let own = two.topology(&east.address().to_string(), [PARTNER, PARTNER], [ours, theirs]);
    let liar = Gate::under(liar.federated(&own), own);
    log.says(HERE, &[("reason", word), ("gateway", "east/gw1")]).await;
    assert!(east.set.all().is_empty() && liar.set.all().is_empty());
}

#[tokio::test]
async fn a_ca_vouches_for_no_other_trust_domain() {
    partner_claims(DOMAIN, "plant", "unknown_issuer").await;
}

#[tokio::test]
async fn a_ca_vouches_for_no_zone_of_another_trust_domain() {
    partner_claims(PARTNER, "north", "wrong_trust_domain").await;
}

#[tokio::test]
async fn a_bundle_that_is_taken_away_closes_its_tunnels() {
    let two = Two::new();
    let (files, [east, plant]) = joined(&two).await;
    let stranger = Ca::new(PARTNER).unwrap();
    let [ours, _] = &two.cas;
    let other = two.topology(NOWHERE, [PARTNER, DOMAIN], [ours, &stranger]);
    believe(&files[0], &east, &other);
    east.no_tunnel_to("plant").await;
    plant.counts_refusal("peer", "unknown_issuer").await;
}

#[tokio::test]
async fn a_zone_that_goes_over_to_another_trust_domain_loses_its_tunnels() {
    let two = Two::new();
    let (files, [east, _plant]) = joined(&two).await;
    let [ours, theirs] = &two.cas;
    let moved = two.topology(NOWHERE, [DOMAIN, PARTNER], [ours, theirs]);
    believe(&files[0], &east, &moved);
    east.no_tunnel_to("plant").await;
    east.counts_refusal("local", "wrong_trust_domain").await;
}

/// A list of `ca` that revokes the certificate in use.
fn revoking(ca: &Ca, files: &IdentityFolder) -> Vec<u8> {
    let now = SystemTime::now();
    let serial = files.identity().current().serial().unwrap();
    ca.revocation_list(&[(serial, now)].into(), 1, now).unwrap()
}

#[tokio::test]
async fn a_list_beside_the_own_identity_revokes_what_a_partners_ca_issued() {
    let two = Two::new();
    let (files, [east, plant]) = joined(&two).await;
    let [_, theirs] = &two.cas;
    let (now, list) = (SystemTime::now(), revoking(theirs, &files[1]));
    std::fs::write(files[0].path().join("partner.crl"), list).unwrap();
    assert_eq!(files[0].reload(now), RefreshOutcome::Taken);
    until("the tunnel to go", || east.set.all().is_empty().then_some(())).await;
    plant.counts_refusal("peer", "revoked").await;
}

#[tokio::test]
async fn what_a_partner_revokes_loses_its_tunnels_here() {
    let two = Two::new();
    let (files, [east, plant]) = joined(&two).await;
    let [_, theirs] = &two.cas;
    let (now, list) = (SystemTime::now(), revoking(theirs, &files[1]));
    let content = Content {
        trust_domain: PARTNER.to_owned(),
        roots: vec![theirs.certificate().to_vec()],
        revocations: vec![list],
        preferred: None,
        ..Content::default()
    };
    let document = TrustDocument::new(1, content, 0).unwrap();
    let document = Arc::new(theirs.sign_trust(document).unwrap());
    let begun = std::time::Instant::now();
    let offered = files[0].held().follow_trust(&document, now).unwrap();
    assert!(matches!(offered, OfferedTrust::Taken), "{offered:?}");
    until("the tunnel to go", || east.set.all().is_empty().then_some(())).await;
    assert!(begun.elapsed() < A_SECOND, "{:?}", begun.elapsed());
    plant.counts_refusal("peer", "revoked").await;
    // Nobody of the own trust domain is concerned.
    assert_eq!(files[0].identity().trust().edition().generation, 0);
}
