//! The two calls over real sockets: who gets a certificate, and what everybody else is told.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use causeway_zone_sync::name::GatewayId;
use tempfile::TempDir;

use super::{Authority, AuthorityConfig};
use crate::{
    identity::{
        DnsName, Identity, NewIdentity,
        ca::{
            self, Ca, issued,
            tokens::{self, Grant},
        },
        dns_names_of,
    },
    join::{self, AskError, CaAddress, JoinToken, NotTheCa, Refusal},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const DOMAIN: &str = "acme.internal";

fn gateway(zone: &str, name: &str) -> GatewayId {
    GatewayId::new(zone.parse().unwrap(), name.parse().unwrap())
}

/// A CA that is served, and its folder.
struct Served {
    folder: TempDir,
    authority: Authority,
}

impl Served {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        ca::init(folder.path(), DOMAIN).unwrap();
        let authority = Authority::start(AuthorityConfig {
            folder: folder.path().to_owned(),
            passphrase: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            leaf_lifetime: DAY,
        })
        .await
        .unwrap();
        Self { folder, authority }
    }

    fn address(&self) -> CaAddress {
        self.authority.address().to_string().parse().unwrap()
    }

    fn ca(&self) -> Ca {
        Ca::load(self.folder.path()).unwrap()
    }

    fn token(&self, zone: &str, name: Option<&str>, lasts: Duration) -> JoinToken {
        token(self.folder.path(), zone, name, lasts)
    }

    async fn join(&self, token: &JoinToken, name: &str) -> Result<NewIdentity, AskError> {
        let stream = join::connect(&self.address()).await?;
        join::join(stream, token, &name.parse().unwrap()).await
    }

    async fn renew(&self, own: &Identity) -> Result<NewIdentity, AskError> {
        let stream = join::connect(&self.address()).await?;
        join::renew(stream, own).await
    }
}

fn token(folder: &Path, zone: &str, name: Option<&str>, lasts: Duration) -> JoinToken {
    token_with_names(folder, zone, name, lasts, &[])
}

fn token_with_names(
    folder: &Path,
    zone: &str,
    name: Option<&str>,
    lasts: Duration,
    dns_names: &[&str],
) -> JoinToken {
    let now = SystemTime::now();
    let grant = Grant {
        dns_names: dns_names.iter().map(|name| name.parse().unwrap()).collect(),
        zone: zone.parse().unwrap(),
        gateway: name.map(|name| name.parse().unwrap()),
        issued_at: now,
        expires_at: now + lasts,
    };
    let (id, secret) = tokens::issue(folder, &grant).unwrap();
    JoinToken {
        id,
        secret,
        fingerprint: Ca::load(folder).unwrap().fingerprint(),
        zone: grant.zone,
    }
}

fn refused(outcome: Result<NewIdentity, AskError>) -> Refusal {
    match outcome {
        Err(AskError::Refused { refusal, .. }) => refusal,
        other => panic!("not refused in words: {other:?}"),
    }
}

#[tokio::test]
async fn a_token_makes_a_gateway_once_and_is_written_down() {
    let served = Served::start().await;
    let token = served.token("west", None, DAY);
    let made = served.join(&token, "gw1").await.unwrap();
    assert_eq!(
        made.id().to_string(),
        "spiffe://acme.internal/zone/west/gateway/gw1"
    );
    let out = tempfile::tempdir().unwrap();
    made.install(out.path()).unwrap();
    let identity = Identity::load(out.path()).unwrap();
    assert!(identity.doubt().is_none());

    let issued = issued::read(served.folder.path()).unwrap().issued;
    let [line] = &issued[..] else { panic!("{issued:?}") };
    assert_eq!(
        (&*line.id, &*line.how),
        (&*made.id().to_string(), &*format!("token {}", token.id))
    );
    assert_eq!(refused(served.join(&token, "gw1").await), Refusal::TokenUsed);
    assert_eq!(issued::read(served.folder.path()).unwrap().issued.len(), 1);
}

#[tokio::test]
async fn every_bad_token_is_refused_in_its_own_words() {
    let served = Served::start().await;
    let good = served.token("west", Some("gw1"), DAY);
    let mut forged = good.clone();
    forged.secret.0[0] ^= 1;
    assert_eq!(refused(served.join(&forged, "gw1").await), Refusal::TokenForged);
    let mut unknown = good.clone();
    unknown.id.0[0] ^= 1;
    assert_eq!(refused(served.join(&unknown, "gw1").await), Refusal::TokenUnknown);
    let mut elsewhere = good.clone();
    elsewhere.zone = "east".parse().unwrap();
    assert_eq!(refused(served.join(&elsewhere, "gw1").await), Refusal::WrongZone);
    assert_eq!(refused(served.join(&good, "gw2").await), Refusal::WrongGateway);
    let over = served.token("west", None, Duration::ZERO);
    assert_eq!(refused(served.join(&over, "gw1").await), Refusal::TokenExpired);
    let revoked = served.token("west", None, DAY);
    tokens::revoke(served.folder.path(), revoked.id).unwrap();
    assert_eq!(refused(served.join(&revoked, "gw1").await), Refusal::TokenRevoked);
    // None of that has used the good one up.
    served.join(&good, "gw1").await.unwrap();
}

#[tokio::test]
async fn a_joiner_sends_nothing_to_another_ca_or_to_a_gateway() {
    let (served, stranger) = (Served::start().await, Served::start().await);
    let token = served.token("west", None, DAY);
    let there = join::connect(&stranger.address()).await.unwrap();
    let refused = join::join(there, &token, &"gw1".parse().unwrap()).await;
    assert!(
        matches!(refused, Err(AskError::NotTheCa(NotTheCa::Fingerprint))),
        "{refused:?}"
    );
    served.join(&token, "gw1").await.unwrap();
}

#[tokio::test]
async fn a_gateway_renews_its_own_certificate_with_a_new_key() {
    let served = Served::start().await;
    let own = served.ca().issue(&gateway("west", "gw1"), DAY).unwrap();
    let renewed = served.renew(&own).await.unwrap();
    assert_eq!(renewed.id(), own.id());
    let out = tempfile::tempdir().unwrap();
    renewed.install(out.path()).unwrap();
    let renewed = Identity::load(out.path()).unwrap();
    assert_ne!(renewed.chain()[0], own.chain()[0]);
    assert_ne!(renewed.key().secret_der(), own.key().secret_der());
    let issued = issued::read(served.folder.path()).unwrap().issued;
    assert_eq!(issued.last().unwrap().how, "renewal");
}

fn installed(new: &NewIdentity) -> Identity {
    let out = tempfile::tempdir().unwrap();
    new.install(out.path()).unwrap();
    Identity::load(out.path()).unwrap()
}

/// Whether a client that looks at host names takes this gateway for a server of that name.
fn answers_to(gateway: &Identity, name: &'static str) -> bool {
    use rustls::client::danger::ServerCertVerifier as _;
    let roots = gateway.roots();
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots, crate::identity::provider());
    let chain = gateway.chain();
    let name = name.try_into().unwrap();
    let now = rustls_pki_types::UnixTime::now();
    let verified = verifier
        .build()
        .unwrap()
        .verify_server_cert(&chain[0], &chain[1..], &name, &[], now);
    verified.is_ok()
}

#[tokio::test]
async fn a_certificate_has_the_names_of_its_token_and_keeps_them_when_it_is_renewed() {
    let served = Served::start().await;
    let names = ["*.mesh.acme.internal", "gw1.west.acme.internal", "orders.mesh"];
    let token = token_with_names(served.folder.path(), "west", None, DAY, &names);
    let joined = installed(&served.join(&token, "gw1").await.unwrap());
    let renewed = installed(&served.renew(&joined).await.unwrap());
    for identity in [&joined, &renewed] {
        assert!(identity.doubt().is_none());
        let own = dns_names_of(&identity.chain()[0]).unwrap();
        assert_eq!(own.iter().map(DnsName::as_str).collect::<Vec<_>>(), names);
        for name in ["web.mesh.acme.internal", "gw1.west.acme.internal", "orders.mesh"] {
            assert!(answers_to(identity, name), "{name}");
        }
        assert!(!answers_to(identity, "gw2.west.acme.internal"));
    }
    let issued = issued::read(served.folder.path()).unwrap().issued;
    assert!(issued.iter().all(|line| line.dns_names.len() == 3), "{issued:?}");
    // One that was granted none gets none.
    let plain = installed(
        &served
            .join(&served.token("west", None, DAY), "gw2")
            .await
            .unwrap(),
    );
    let renewed = installed(&served.renew(&plain).await.unwrap());
    assert!(dns_names_of(&renewed.chain()[0]).unwrap().is_empty());
}

#[tokio::test]
async fn who_may_not_renew_is_told_why() {
    let served = Served::start().await;
    let mut ended = served.ca().leaf(&gateway("west", "gw1"), DAY).unwrap();
    ended.not_after = SystemTime::now() - Duration::from_secs(60);
    ended.not_before = SystemTime::now() - Duration::from_secs(120);
    let ended = served.ca().issue_leaf(&ended).unwrap();
    let outcome = served.renew(&ended).await;
    assert!(
        matches!(outcome, Err(AskError::Unwelcome("it has expired"))),
        "{outcome:?}"
    );

    // A gateway of the same name in another federation does not even ask: it is another CA that answers.
    let stranger = Ca::new(DOMAIN)
        .unwrap()
        .issue(&gateway("west", "gw1"), DAY)
        .unwrap();
    let outcome = served.renew(&stranger).await;
    assert!(
        matches!(outcome, Err(AskError::NotTheCa(NotTheCa::Chain(_)))),
        "{outcome:?}"
    );

    // Somebody with a certificate that names nobody.
    let mut nameless = served.ca().leaf(&gateway("west", "gw1"), DAY).unwrap();
    nameless.uris = vec!["spiffe://acme.internal/workload".to_owned()];
    let nameless = served.ca().issue_leaf(&nameless).unwrap();
    assert_eq!(refused(served.renew(&nameless).await), Refusal::NoCertificate);

    // Somebody who wants to be another.
    let mut other = served.ca().leaf(&gateway("west", "gw1"), DAY).unwrap();
    other.uris = vec!["spiffe://acme.internal/zone/east/gateway/gw1".to_owned()];
    let other = served.ca().issue_leaf(&other).unwrap();
    assert_eq!(refused(served.renew(&other).await), Refusal::OtherGateway);
    assert!(issued::read(served.folder.path()).unwrap().issued.is_empty());
}

#[tokio::test]
async fn a_ca_that_cannot_write_down_what_it_issues_issues_nothing() {
    let served = Served::start().await;
    let own = served.ca().issue(&gateway("west", "gw1"), DAY).unwrap();
    fs::create_dir(served.folder.path().join(issued::ISSUED_FILE)).unwrap();
    assert_eq!(refused(served.renew(&own).await), Refusal::Unavailable);
    fs::remove_dir(served.folder.path().join(issued::ISSUED_FILE)).unwrap();
    served.renew(&own).await.unwrap();
}

#[tokio::test]
async fn too_many_calls_are_refused_and_shutdown_ends_the_service() {
    let served = Served::start().await;
    let own = served.ca().issue(&gateway("west", "gw1"), DAY).unwrap();
    // However slow the machine is, the bucket fills slower than calls can be made one after the other.
    let refusal = loop {
        match served.renew(&own).await {
            Ok(_) => {}
            outcome => break refused(outcome),
        }
    };
    assert_eq!(refusal, Refusal::TooMany);
    let address = served.address();
    served.authority.shutdown().await;
    assert!(matches!(
        join::connect(&address).await,
        Err(AskError::Connect { .. })
    ));
}
