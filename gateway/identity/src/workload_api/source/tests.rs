//! Tests of the module above.
use causeway_proto::workload::X509svid;
use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::{
    ca::Ca,
    workload_api::testing::{PATIENCE, Says, TRUST_DOMAIN, TestAgent, answer, fresh, gateway, svid},
};

fn ca() -> Ca {
    Ca::new(TRUST_DOMAIN).unwrap()
}

fn next(ca: &Ca) -> X509svidResponse {
    fresh(ca, &gateway("east", "gw1"))
}

fn open(agent: &TestAgent) -> JoinHandle<WorkloadApi> {
    let endpoint = agent.endpoint();
    tokio::spawn(async move { WorkloadApi::open(endpoint, &"east".parse().unwrap()).await })
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// An identity that is followed, for as long as the guard is held.
async fn followed(agent: &TestAgent) -> (LiveIdentity, tokio_util::sync::DropGuard) {
    let api = timeout(PATIENCE, open(agent)).await.unwrap().unwrap();
    let (identity, stop) = (api.identity(), CancellationToken::new());
    tokio::spawn(api.watch(Arc::default(), stop.clone()));
    (identity, stop.drop_guard())
}

#[tokio::test]
async fn an_agent_that_is_away_refuses_or_names_somebody_else_is_waited_for() {
    let ca = ca();
    let mut agent = TestAgent::new(Says::Denied);
    let mut opening = open(&agent);
    let brief = Duration::from_millis(300);
    assert!(timeout(brief, &mut opening).await.is_err(), "there is no socket");
    agent.start();
    until("it was asked and refused", || agent.calls() > 1).await;
    agent.answer(fresh(&ca, &gateway("west", "gw1")));
    let asked = agent.calls();
    until("it was asked again", || agent.calls() > asked).await;
    assert!(
        timeout(brief, &mut opening).await.is_err(),
        "that is another zone's"
    );
    agent.answer(next(&ca));
    let api = timeout(PATIENCE, opening).await.unwrap().unwrap();
    assert_eq!(*api.identity().gateway(), gateway("east", "gw1"));
    assert_eq!(api.identity().agent().unwrap().trouble, None);
}

#[tokio::test]
async fn a_new_svid_is_taken_up_and_a_bad_one_is_refused_until_a_good_one_comes() {
    let ca = ca();
    let mut agent = TestAgent::new(Says::Answer(Box::new(next(&ca))));
    agent.start();
    let (mut identity, _following) = followed(&agent).await;
    let first = identity.current();
    agent.answer(next(&ca));
    timeout(PATIENCE, identity.changed()).await.unwrap();
    let second = identity.current();
    assert!(!second.same_leaf(&first));

    let mut bad = next(&ca);
    bad.svids[0].x509_svid_key = next(&ca).svids[0].x509_svid_key.clone();
    agent.answer(bad);
    until("the refusal is told", || identity.refused().is_some()).await;
    let why = identity.refused().unwrap();
    assert!(why.contains("the key in the SVID of"), "{why}");
    assert!(identity.current().same_leaf(&second));
    agent.answer(fresh(&ca, &gateway("east", "gw2")));
    until("the other refusal is told", || {
        identity.refused().is_some_and(|why| why.contains("any more"))
    })
    .await;
    agent.answer(next(&ca));
    timeout(PATIENCE, identity.changed()).await.unwrap();
    assert_eq!(identity.refused(), None);
    assert_eq!(agent.calls(), 1, "all on one call");
}

#[tokio::test]
async fn an_agent_that_goes_or_takes_the_identity_back_is_asked_again_and_the_identity_stays() {
    let ca = ca();
    let mut agent = TestAgent::new(Says::Answer(Box::new(next(&ca))));
    agent.start();
    let (mut identity, _following) = followed(&agent).await;
    let trouble = |identity: &LiveIdentity| identity.agent().unwrap().trouble;
    for (says, why) in [
        (Says::Goodbye, "it ended the call"),
        (
            Says::Denied,
            "it has no identity for this process (no identity issued)",
        ),
    ] {
        let before = identity.current();
        agent.say(says);
        until(why, || {
            trouble(&identity).is_some_and(|trouble| trouble.why == why)
        })
        .await;
        assert!(identity.current().same_leaf(&before));
        agent.answer(next(&ca));
        timeout(PATIENCE, identity.changed()).await.unwrap();
        assert_eq!(trouble(&identity), None);
    }
    let huge = X509svid {
        bundle: vec![0; 5 << 20],
        ..X509svid::default()
    };
    let last = identity.current();
    agent.answer(answer([huge]));
    until("an answer that is too large is told", || {
        trouble(&identity).is_some_and(|trouble| trouble.why.contains("message length too large"))
    })
    .await;
    assert!(identity.current().same_leaf(&last));
}

#[test]
fn a_trust_document_rules_over_the_bundle_of_the_agent() {
    let (ca, other) = (ca(), ca());
    let first = svid::read(
        next(&ca),
        WantedSvid::Zone(&"east".parse().unwrap()),
        &Trust::new("", StoredTrust::default()),
        SystemTime::now(),
    );
    let agent = Agent::new("unix:///run/agent.sock".parse().unwrap());
    let held = HeldIdentity::new(first.unwrap(), IdentityOrigin::WorkloadApi(agent.status()));
    let content = causeway_federation::trust::Content {
        trust_domain: TRUST_DOMAIN.to_owned(),
        roots: vec![other.certificate().to_vec()],
        ..Default::default()
    };
    let made = causeway_federation::trust::TrustDocument::new(1, content, 0).unwrap();
    let document = Arc::new(ca.sign_trust(made).unwrap());
    held.offer_trust(&document, SystemTime::now()).unwrap();
    let doubt = held.identity().current().doubt().map(ToString::to_string);
    assert!(
        doubt.is_some_and(|doubt| doubt.contains("SVID")),
        "its root counts no more"
    );
    assert_eq!(
        offer(&held, next(&ca), SystemTime::now()),
        RefreshOutcome::Refused
    );
    let issued = other.issue(&gateway("east", "gw1"), Duration::from_secs(3600));
    let good = answer([svid(&other, &issued.unwrap())]);
    assert_eq!(
        offer(&held, good.clone(), SystemTime::now()),
        RefreshOutcome::Taken
    );
    assert_eq!(offer(&held, good, SystemTime::now()), RefreshOutcome::Unchanged);
}
