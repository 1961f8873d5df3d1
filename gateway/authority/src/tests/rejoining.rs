//! Coming back with a token after a certificate has ended: who may, how often, and what everybody else is told.

use std::sync::Arc;

use super::*;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Identity whose certificate ended a week ago, which stands in `issued.jsonl`.
fn ended(served: &Served, zone: &str, name: &str) -> Arc<Identity> {
    let own = ended_unwritten(served, zone, name);
    issued::add(served.folder.path(), &line(&own, "issue", None)).unwrap();
    own
}

fn ended_unwritten(served: &Served, zone: &str, name: &str) -> Arc<Identity> {
    let mut leaf = served.ca().leaf(&gateway(zone, name), DAY).unwrap();
    leaf.dns_names = vec!["gw1.west.acme.internal".parse().unwrap()];
    leaf.not_after = SystemTime::now() - WEEK;
    leaf.not_before = leaf.not_after - DAY;
    Arc::new(served.ca().issue_leaf(&leaf).unwrap())
}

/// Line of a certificate that ended a week ago.
fn line(of: &Identity, how: &str, parent: Option<&Identity>) -> Issued {
    Issued {
        serial: of.serial().unwrap().to_string(),
        id: of.id().to_string(),
        issuer: "00".repeat(32),
        not_before: SystemTime::now() - WEEK - DAY,
        not_after: SystemTime::now() - WEEK,
        how: how.to_owned(),
        parent: parent.map(|parent| parent.serial().unwrap().to_string()),
        address: None,
        key: Some("11".repeat(32)),
        dns_names: Vec::new(),
    }
}

/// Certificates that came of tokens to come back.
fn came_back(served: &Served) -> Vec<Issued> {
    let mut issued = served.issued();
    issued.retain(|one| one.how.starts_with("rejoin "));
    issued
}

/// Token by which gateways of zone west come back.
fn way_back(served: &Served, name: Option<&str>, limit: u32) -> JoinToken {
    let now = SystemTime::now();
    let grant = TokenPurpose {
        dns_names: Vec::new(),
        zone: "west".parse().unwrap(),
        gateway: name.map(|name| name.parse().unwrap()),
        rejoins: Some(limit),
        issued_at: now,
        expires_at: now + 90 * DAY,
    };
    let (id, secret) = tokens::issue(served.folder.path(), &grant).unwrap();
    JoinToken {
        id,
        secret,
        fingerprint: served.ca().fingerprint(),
        zone: grant.zone,
    }
}

async fn rejoin_from(
    served: &Served,
    own: &Arc<Identity>,
    token: &JoinToken,
    folder: &Path,
) -> Result<NewIdentity, CertificateRequestError> {
    let stream = join::connect(&served.address(), &NameResolver::default()).await?;
    join::rejoin(stream, own, token, &NextKey::kept_in(folder, own).unwrap()).await
}

async fn rejoin(
    served: &Served,
    own: &Arc<Identity>,
    token: &JoinToken,
) -> Result<NewIdentity, CertificateRequestError> {
    rejoin_from(served, own, token, tempfile::tempdir().unwrap().path()).await
}

fn revoke(served: &Served, subject: &RevocationSubject) {
    let mut revoked = Revoked::read(served.folder.path()).unwrap();
    let line = revoked.revocation(subject, &served.issued(), SystemTime::now());
    revoked.0.push(line.unwrap().0);
    revoked.write(served.folder.path()).unwrap();
}

#[tokio::test]
async fn who_has_the_key_of_an_ended_certificate_comes_back_again_and_again() {
    let served = Served::start().await;
    let (own, token) = (ended(&served, "west", "gw1"), way_back(&served, Some("gw1"), 10));
    let folder = tempfile::tempdir().unwrap();
    let first = installed(&rejoin_from(&served, &own, &token, folder.path()).await.unwrap());
    assert!(first.doubt().is_none());
    assert_eq!(first.id(), own.id());
    let names = dns_names_of(&first.chain()[0]).unwrap();
    assert_eq!(names.len(), 1, "the names of the certificate before");
    let again = installed(&rejoin_from(&served, &own, &token, folder.path()).await.unwrap());
    assert_eq!(again.serial(), first.serial(), "its answer was lost");
    let came_of_it = came_back(&served);
    let [line] = &came_of_it[..] else {
        panic!("{came_of_it:?}")
    };
    assert_eq!(line.how, format!("rejoin {}", token.id));
    assert_eq!(line.parent, own.serial().map(|serial| serial.to_string()));
    assert_eq!(line.address.as_deref(), Some("127.0.0.1"));
    // Another week later, by another gateway of the zone that is not named in it.
    let any = way_back(&served, None, 10);
    rejoin(&served, &ended(&served, "west", "gw2"), &any)
        .await
        .unwrap();
    rejoin(&served, &Arc::new(first), &token).await.unwrap();
    assert_eq!(came_back(&served).len(), 3);
}

#[tokio::test]
async fn a_token_to_come_back_is_worth_nothing_without_the_key_that_it_is_for() {
    let served = Served::start().await;
    let (own, token) = (ended(&served, "west", "gw1"), way_back(&served, Some("gw1"), 10));
    // Whoever finds the file.
    assert_eq!(
        refused(served.join(&token, "gw1").await),
        AuthorityRefusal::NoProof
    );
    assert_eq!(
        refused(served.join(&token, "gw2").await),
        AuthorityRefusal::WrongGateway
    );
    // Gateways that have a key of their own.
    let other = ended(&served, "west", "gw2");
    assert_eq!(
        refused(rejoin(&served, &other, &token).await),
        AuthorityRefusal::WrongGateway
    );
    let east = ended(&served, "east", "gw1");
    assert_eq!(
        refused(rejoin(&served, &east, &token).await),
        AuthorityRefusal::WrongZone
    );
    let mut forged = token.clone();
    forged.secret.0[0] ^= 1;
    assert_eq!(
        refused(rejoin(&served, &own, &forged).await),
        AuthorityRefusal::TokenForged
    );
    assert!(came_back(&served).is_empty());
    tokens::revoke(served.folder.path(), token.id).unwrap();
    assert_eq!(
        refused(rejoin(&served, &own, &token).await),
        AuthorityRefusal::TokenRevoked
    );
}

#[tokio::test]
async fn who_was_revoked_does_not_come_back() {
    let served = Served::start().await;
    let (own, token) = (ended(&served, "west", "gw1"), way_back(&served, None, 10));
    let serial = own.serial().unwrap().to_string();
    revoke(&served, &RevocationSubject::Serial(serial));
    assert_eq!(
        refused(rejoin(&served, &own, &token).await),
        AuthorityRefusal::Revoked
    );
    let other = ended(&served, "west", "gw2");
    revoke(&served, &RevocationSubject::Gateway("west/gw2".to_owned()));
    assert_eq!(
        refused(rejoin(&served, &other, &token).await),
        AuthorityRefusal::Revoked
    );
    revoke(&served, &RevocationSubject::Zone("west".to_owned()));
    let third = ended(&served, "west", "gw3");
    assert_eq!(
        refused(rejoin(&served, &third, &token).await),
        AuthorityRefusal::Revoked
    );
    assert!(came_back(&served).is_empty());
}

#[tokio::test]
async fn a_token_to_come_back_counts_so_many_times_a_day() {
    let served = Served::start().await;
    let token = way_back(&served, None, 2);
    for name in ["gw1", "gw2"] {
        rejoin(&served, &ended(&served, "west", name), &token)
            .await
            .unwrap();
    }
    let third = ended(&served, "west", "gw3");
    assert_eq!(
        refused(rejoin(&served, &third, &token).await),
        AuthorityRefusal::TooMany
    );
    age(&served, DAY);
    rejoin(&served, &third, &token).await.unwrap();
}

#[tokio::test]
async fn a_key_whose_certificate_was_renewed_for_another_does_not_come_back_however_long_ago_that_was() {
    let served = Served::start().await;
    let (own, token) = (ended(&served, "west", "gw1"), way_back(&served, None, 10));
    let renewed = ended_unwritten(&served, "west", "gw1");
    // Who renewed it, whether the gateway or a thief, is long gone as well.
    let renewal = line(&renewed, "renewal", Some(&own));
    issued::add(served.folder.path(), &renewal).unwrap();
    assert_eq!(
        refused(rejoin(&served, &own, &token).await),
        AuthorityRefusal::Superseded
    );
    rejoin(&served, &renewed, &token).await.unwrap();
}

#[tokio::test]
async fn of_a_certificate_whose_line_was_taken_out_nobody_comes_back() {
    let served = Served::start().await;
    let (own, token) = (
        ended_unwritten(&served, "west", "gw1"),
        way_back(&served, None, 10),
    );
    // Of another gateway of the zone, so that the file is there.
    ended(&served, "west", "gw2");
    assert_eq!(
        refused(rejoin(&served, &own, &token).await),
        AuthorityRefusal::NoProof
    );
    issued::add(served.folder.path(), &line(&own, "issue", None)).unwrap();
    rejoin(&served, &own, &token).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_was_lost_is_no_second_use() {
    let served = Served::start().await;
    let (own, token) = (ended(&served, "west", "gw1"), way_back(&served, None, 1));
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        rejoin_from(&served, &own, &token, folder.path()).await.unwrap();
    }
    assert_eq!(came_back(&served).len(), 1);
    let other = ended(&served, "west", "gw2");
    assert_eq!(
        refused(rejoin(&served, &other, &token).await),
        AuthorityRefusal::TooMany
    );
}
