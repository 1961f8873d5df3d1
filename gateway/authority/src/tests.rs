//! The two calls over real sockets: who gets a certificate, and what everybody else is told.

mod rejoining;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use causeway_federation::name::GatewayId;
use causeway_host::resolve::NameResolver;
use causeway_host::tasks::{TaskEnding, Tasks};
use causeway_identity::{
    DnsName, Identity, NewIdentity, NextKey,
    ca::{
        self, Ca,
        issued::{self, Issued},
        revoked::{RevocationSubject, Revoked},
        tokens::{self, TokenPurpose},
    },
    dns_names_of,
};
use tempfile::TempDir;

use super::{Authority, AuthorityConfig};
use crate::{
    join::{self, CaAddress, CertificateRequestError, JoinToken, NotTheCa},
    protocol::AuthorityRefusal,
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
            tasks: Tasks::default(),
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

    async fn join(&self, token: &JoinToken, name: &str) -> Result<NewIdentity, CertificateRequestError> {
        let stream = join::connect(&self.address(), &NameResolver::default()).await?;
        join::join(stream, token, &name.parse().unwrap()).await
    }

    /// As a gateway that has never asked before, or one with a copy of another's key.
    async fn renew(&self, own: &Identity) -> Result<NewIdentity, CertificateRequestError> {
        self.renew_from(own, tempfile::tempdir().unwrap().path()).await
    }

    /// As the gateway whose identity is in this folder.
    async fn renew_from(
        &self,
        own: &Identity,
        folder: &Path,
    ) -> Result<NewIdentity, CertificateRequestError> {
        let stream = join::connect(&self.address(), &NameResolver::default()).await?;
        join::renew(stream, own, &NextKey::kept_in(folder, own).unwrap()).await
    }

    fn issued(&self) -> Vec<Issued> {
        issued::read(self.folder.path()).unwrap().issued
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
    let grant = TokenPurpose {
        dns_names: dns_names.iter().map(|name| name.parse().unwrap()).collect(),
        zone: zone.parse().unwrap(),
        gateway: name.map(|name| name.parse().unwrap()),
        rejoins: None,
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

fn refused(outcome: Result<NewIdentity, CertificateRequestError>) -> AuthorityRefusal {
    match outcome {
        Err(CertificateRequestError::Refused { refusal, .. }) => refusal,
        other => panic!("not refused in words: {other:?}"),
    }
}

#[tokio::test]
async fn connections_that_are_kept_open_keep_nobody_out_of_the_ca() {
    let served = Served::start().await;
    let mut kept = Vec::new();
    for _ in 0..2 * super::listen::MAX_CONNECTIONS_OF_HOST {
        let address = served.authority.address();
        kept.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let token = served.token("east", None, DAY);
    served.join(&token, "gw1").await.unwrap();
    drop(kept);
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
    assert_eq!(
        refused(served.join(&token, "gw1").await),
        AuthorityRefusal::TokenUsed
    );
    assert_eq!(issued::read(served.folder.path()).unwrap().issued.len(), 1);
}

#[tokio::test]
async fn every_bad_token_is_refused_in_its_own_words() {
    let served = Served::start().await;
    let good = served.token("west", Some("gw1"), DAY);
    let mut forged = good.clone();
    forged.secret.0[0] ^= 1;
    assert_eq!(
        refused(served.join(&forged, "gw1").await),
        AuthorityRefusal::TokenForged
    );
    let mut unknown = good.clone();
    unknown.id.0[0] ^= 1;
    assert_eq!(
        refused(served.join(&unknown, "gw1").await),
        AuthorityRefusal::TokenUnknown
    );
    let mut elsewhere = good.clone();
    elsewhere.zone = "east".parse().unwrap();
    assert_eq!(
        refused(served.join(&elsewhere, "gw1").await),
        AuthorityRefusal::WrongZone
    );
    assert_eq!(
        refused(served.join(&good, "gw2").await),
        AuthorityRefusal::WrongGateway
    );
    let over = served.token("west", None, Duration::ZERO);
    assert_eq!(
        refused(served.join(&over, "gw1").await),
        AuthorityRefusal::TokenExpired
    );
    let revoked = served.token("west", None, DAY);
    tokens::revoke(served.folder.path(), revoked.id).unwrap();
    assert_eq!(
        refused(served.join(&revoked, "gw1").await),
        AuthorityRefusal::TokenRevoked
    );
    // None of that has used the good one up.
    served.join(&good, "gw1").await.unwrap();
}

#[tokio::test]
async fn a_joiner_sends_nothing_to_another_ca_or_to_a_gateway() {
    let (served, stranger) = (Served::start().await, Served::start().await);
    let token = served.token("west", None, DAY);
    let there = join::connect(&stranger.address(), &NameResolver::default())
        .await
        .unwrap();
    let refused = join::join(there, &token, &"gw1".parse().unwrap()).await;
    assert!(
        matches!(
            refused,
            Err(CertificateRequestError::NotTheCa(NotTheCa::Fingerprint))
        ),
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

#[tokio::test]
async fn a_key_that_was_copied_is_found_out_when_both_renew() {
    let served = Served::start().await;
    let own = served.ca().issue(&gateway("west", "gw1"), DAY).unwrap();
    // Its answer was lost on the way, and it asks again.
    served.renew(&own).await.unwrap();
    let renewed = installed(&served.renew(&own).await.unwrap());
    let next = installed(&served.renew(&renewed).await.unwrap());
    // Somebody has a copy of the first key.
    assert_eq!(refused(served.renew(&own).await), AuthorityRefusal::Superseded);
    served.renew(&next).await.unwrap();
    let issued = issued::read(served.folder.path()).unwrap().issued;
    let stolen = own.serial().unwrap();
    assert_eq!(issued[0].parent, Some(stolen.to_string()));
    assert_eq!(issued[0].address.as_deref(), Some("127.0.0.1"));
    // Revoking the first takes with it all that came of it, by whichever hand.
    assert_eq!(issued::descendants(&stolen, &issued).len(), 1 + issued.len());
}

/// Moves everything that was issued back in time.
fn age(served: &Served, by: Duration) {
    let path = served.folder.path().join(issued::ISSUED_FILE);
    let mut lines = served.issued();
    fs::remove_file(&path).unwrap();
    for line in &mut lines {
        (line.not_before, line.not_after) = (line.not_before - by, line.not_after - by);
        issued::add(served.folder.path(), line).unwrap();
    }
}

#[tokio::test]
async fn a_gateway_whose_answers_are_lost_gets_the_same_certificate_however_late_and_nobody_else_does() {
    let served = Served::start().await;
    let own = served.ca().issue(&gateway("west", "gw1"), DAY).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let serial = |new: &NewIdentity| installed(new).serial().unwrap();
    let first = serial(&served.renew_from(&own, folder.path()).await.unwrap());
    assert_eq!(
        serial(&served.renew_from(&own, folder.path()).await.unwrap()),
        first
    );
    age(&served, Duration::from_secs(3600));
    let late = served.renew_from(&own, folder.path()).await.unwrap();
    assert_eq!(serial(&late), first, "an hour later");
    assert_eq!(served.issued().len(), 1, "and it has taken no room");
    assert_eq!(refused(served.renew(&own).await), AuthorityRefusal::Superseded);
    // The refusal has taken nothing from who is right.
    late.install(folder.path()).unwrap();
    let late = Identity::load(folder.path()).unwrap();
    assert_ne!(
        serial(&served.renew_from(&late, folder.path()).await.unwrap()),
        first
    );
}

#[tokio::test]
async fn once_a_renewal_was_shown_to_the_ca_the_one_before_is_renewed_for_no_other_key() {
    let served = Served::start().await;
    let own = served.ca().issue(&gateway("west", "gw1"), DAY).unwrap();
    let renewed = installed(&served.renew(&own).await.unwrap());
    let stream = join::connect(&served.address(), &NameResolver::default())
        .await
        .unwrap();
    join::show(stream, &renewed).await.unwrap();
    // It has been sent, and the CA reads it when it comes to that.
    let refusal = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match served.renew(&own).await {
                Ok(_) => {}
                outcome => break refused(outcome),
            }
        }
    });
    assert_eq!(refusal.await.unwrap(), AuthorityRefusal::Superseded);
}

#[tokio::test]
async fn what_was_issued_and_revoked_since_is_not_given_out_again() {
    let served = Served::start().await;
    let own = served.ca().issue(&gateway("west", "gw1"), DAY).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let renewed = installed(&served.renew_from(&own, folder.path()).await.unwrap());
    let subject = RevocationSubject::Serial(renewed.serial().unwrap().to_string());
    let mut revoked = Revoked::default();
    let line = revoked
        .revocation(&subject, &served.issued(), SystemTime::now())
        .unwrap()
        .0;
    revoked.0.push(line);
    revoked.write(served.folder.path()).unwrap();
    assert_eq!(
        refused(served.renew_from(&own, folder.path()).await),
        AuthorityRefusal::Revoked
    );
}

fn installed(new: &NewIdentity) -> Identity {
    let out = tempfile::tempdir().unwrap();
    new.install(out.path()).unwrap();
    Identity::load(out.path()).unwrap()
}

/// Tells whether a client that looks at host names takes this gateway for a server of that name.
fn answers_to(gateway: &Identity, name: &'static str) -> bool {
    use rustls::client::danger::ServerCertVerifier as _;
    let roots = gateway.roots();
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots, causeway_identity::provider());
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
        matches!(outcome, Err(CertificateRequestError::Unwelcome("it has expired"))),
        "{outcome:?}"
    );

    // A gateway of the same name in another federation does not even ask: it is another CA that answers.
    let stranger = Ca::new(DOMAIN)
        .unwrap()
        .issue(&gateway("west", "gw1"), DAY)
        .unwrap();
    let outcome = served.renew(&stranger).await;
    assert!(
        matches!(
            outcome,
            Err(CertificateRequestError::NotTheCa(NotTheCa::Chain(_)))
        ),
        "{outcome:?}"
    );

    // Somebody with a certificate that names nobody.
    let mut nameless = served.ca().leaf(&gateway("west", "gw1"), DAY).unwrap();
    nameless.uris = vec!["spiffe://acme.internal/workload".to_owned()];
    let nameless = served.ca().issue_leaf(&nameless).unwrap();
    assert_eq!(
        refused(served.renew(&nameless).await),
        AuthorityRefusal::NoCertificate
    );

    // Somebody who wants to be another.
    let mut other = served.ca().leaf(&gateway("west", "gw1"), DAY).unwrap();
    other.uris = vec!["spiffe://acme.internal/zone/east/gateway/gw1".to_owned()];
    let other = served.ca().issue_leaf(&other).unwrap();
    assert_eq!(
        refused(served.renew(&other).await),
        AuthorityRefusal::OtherGateway
    );
    assert!(issued::read(served.folder.path()).unwrap().issued.is_empty());
}

#[tokio::test]
async fn a_ca_that_cannot_write_down_what_it_issues_issues_nothing() {
    let served = Served::start().await;
    let own = served.ca().issue(&gateway("west", "gw1"), DAY).unwrap();
    fs::create_dir(served.folder.path().join(issued::ISSUED_FILE)).unwrap();
    assert_eq!(refused(served.renew(&own).await), AuthorityRefusal::Unavailable);
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
    assert_eq!(refusal, AuthorityRefusal::TooMany);
    let address = served.address();
    served.authority.shutdown().await;
    assert!(matches!(
        join::connect(&address, &NameResolver::default()).await,
        Err(CertificateRequestError::Connect { .. })
    ));
}

#[tokio::test]
async fn its_task_is_known_by_name_when_it_ends_and_not_when_it_is_told_to() {
    for ending in [TaskEnding::Panicked, TaskEnding::Returned] {
        let served = Served::start().await;
        let tasks = served.authority.tasks.clone();
        assert_eq!(tasks.names(), ["the CA over gRPC"]);
        tasks.end("the CA over gRPC", ending);
        let first = tokio::time::timeout(Duration::from_secs(20), tasks.first_ended()).await;
        assert_eq!(first.unwrap().ending, ending);
    }
    let served = Served::start().await;
    let tasks = served.authority.tasks.clone();
    served.authority.shutdown().await;
    assert_eq!(tasks.ended().first, []);
}
