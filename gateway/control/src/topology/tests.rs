//! Tests of what outlives a restart, and what is there to start from.

use std::{fs, path::Path};

use causeway_federation::signing::keyed::{KeyedSigner, KeyedVerifier};
use tempfile::TempDir;

use super::*;

fn text(comment: &str) -> String {
    format!(
        "# {comment}\nversion: 1\ntrust_domain: a.b\nzones: {{ east: {{ gateways: [] }}, west: {{ gateways: [gw:1] }} }}\n"
    )
}

fn id(zone: &str) -> GatewayId {
    GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap())
}

fn keys() -> Keys {
    Keys {
        signer: Arc::new(KeyedSigner::new([7; 32], &id("east"))),
        verifier: Arc::new(KeyedVerifier::new([7; 32])),
    }
}

fn open(data: &Path, initial: Option<PathBuf>) -> Result<AppliedTopology, TopologyOpenError> {
    AppliedTopology::open(AppliedConfig {
        id: id("east"),
        keys: keys(),
        trust_domain: "a.b".to_owned(),
        initial,
        data_dir: Some(data.to_owned()),
        metrics: Arc::default(),
    })
}

fn initial(folder: &TempDir, text: &str) -> Option<PathBuf> {
    let path = folder.path().join("initial.yaml");
    fs::write(&path, text).unwrap();
    Some(path)
}

fn generation(applied: &AppliedTopology) -> u64 {
    assert_eq!(
        applied.topology().borrow().edition(),
        applied.view().applied.edition()
    );
    applied.view().applied.edition().generation
}

#[tokio::test]
async fn what_was_applied_rules_after_a_restart_whatever_became_of_the_initial_file() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let applied = open(&data, initial(&folder, &text("initial"))).unwrap();
    assert_eq!(generation(&applied), 0);
    applied
        .apply(Some(0), text("one"), Applying::Now, OverShifts::Refuse)
        .await
        .unwrap();
    drop(applied);
    for start in [
        None,
        Some(folder.path().join("gone.yaml")),
        initial(&folder, "nonsense"),
    ] {
        let applied = open(&data, start).unwrap();
        assert_eq!(generation(&applied), 1);
        assert_eq!(
            applied.view().applied.document().unwrap().text().as_ref(),
            text("one")
        );
    }
}

#[tokio::test]
async fn without_anything_applied_there_must_be_a_good_file_to_start_from() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    assert!(matches!(open(&data, None), Err(TopologyOpenError::Nothing)));
    let bad = initial(&folder, "nonsense");
    assert!(matches!(open(&data, bad), Err(TopologyOpenError::Initial(_))));
    assert!(open(&data, initial(&folder, &text("fine"))).is_ok());
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_initial_topology_rules() {
    let folder = tempfile::tempdir().unwrap();
    let start = initial(&folder, &text("initial"));
    let applied = open(folder.path(), start.clone()).unwrap();
    applied
        .apply(None, text("one"), Applying::Now, OverShifts::Refuse)
        .await
        .unwrap();
    drop(applied);
    let file = folder.path().join("topology.redb");
    let mut bytes = fs::read(&file).unwrap();
    bytes.truncate(100);
    fs::write(&file, &bytes).unwrap();
    assert_eq!(generation(&open(folder.path(), start).unwrap()), 0);
    let names = fs::read_dir(folder.path()).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let kept = names
        .find(|name| name.starts_with("topology.redb.corrupt-"))
        .unwrap();
    assert_eq!(fs::read(folder.path().join(kept)).unwrap(), bytes);
}

#[tokio::test]
async fn of_many_who_apply_at_once_one_is_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let applied = open(folder.path(), initial(&folder, &text("initial"))).unwrap();
    let attempts = (0..8).map(|n| {
        let applied = applied.clone();
        tokio::spawn(async move {
            applied
                .apply(Some(0), text(&format!("{n}")), Applying::Now, OverShifts::Refuse)
                .await
        })
    });
    let mut in_time = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(_) => in_time += 1,
            Err(error) => assert!(
                matches!(error, ApplyError::Refused(TopologyRefusal::Stale { .. })),
                "{error}"
            ),
        }
    }
    assert_eq!((in_time, generation(&applied)), (1, 1));
}

#[tokio::test]
async fn a_peers_document_is_taken_up_stored_and_shown_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let start = initial(&folder, &text("initial"));
    let applied = open(folder.path(), start.clone()).unwrap();
    let document = |parent, text: String| {
        let document = TopologyDocument::new(parent, text.into(), id("west"), 1);
        Arc::new(document.sign(&KeyedSigner::new([7; 32], &id("west"))).unwrap())
    };
    let good = document(applied.view().applied.edition(), text("from west"));
    let bad = document(good.edition(), text("bad") + "key_of_the_future: 1\n");
    assert!(applied.receive(id("west"), vec![good.clone(), bad]).await);
    assert!(!applied.receive(id("west"), vec![good]).await, "it is no news");
    assert_eq!(generation(&applied), 1);
    let shown = check(&applied.view());
    assert_eq!(shown.status, causeway_telemetry::Status::Warn);
    assert!(
        shown.message.contains("of west/gw1 is refused"),
        "{}",
        shown.message
    );
    let late = applied
        .apply(Some(1), text("mine"), Applying::Now, OverShifts::Refuse)
        .await
        .unwrap_err();
    assert!(late.to_string().contains("this gateway cannot use it"), "{late}");
    drop(applied);
    assert_eq!(generation(&open(folder.path(), start).unwrap()), 1);
}
