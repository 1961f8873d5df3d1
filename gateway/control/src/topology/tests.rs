//! Tests of what outlives a restart, and what is there to start from.

use std::{fs, path::Path, time::Duration};

use causeway_federation::{
    name::ServiceName,
    signing::keyed::{KeyedSigner, KeyedVerifier},
    topology::{EditError, Service, Shift, ShiftPlan, ShiftRefusal},
};
use tempfile::TempDir;

use super::*;

fn text(comment: &str) -> String {
    format!(
        "# {comment}\nversion: 1\ntrust_domain: a.b\nzones: {{ east: {{ gateways: [] }}, west: {{ gateways: [gw:1] }} }}\n"
    )
}

fn handed(text: String) -> HandedText {
    HandedText {
        text,
        may: ChangeableParts::Everything,
        reason: String::new(),
    }
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
        .apply(Some(0), handed(text("one")), Applying::Now, OverShifts::Refuse)
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
        .apply(None, handed(text("one")), Applying::Now, OverShifts::Refuse)
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
                .apply(
                    Some(0),
                    handed(text(&format!("{n}"))),
                    Applying::Now,
                    OverShifts::Refuse,
                )
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
        .apply(Some(1), handed(text("mine")), Applying::Now, OverShifts::Refuse)
        .await
        .unwrap_err();
    assert!(late.to_string().contains("this gateway cannot use it"), "{late}");
    drop(applied);
    assert_eq!(generation(&open(folder.path(), start).unwrap()), 1);
}

const ORDERS: &str = "services: { orders: { port: 80, split: [{ tags: { v: '1' } }] }, web: { port: 81 } }\n";

fn begin(service: &Service, by: &GatewayId, now: SystemTime) -> Result<Shift, ShiftRefusal> {
    let plan = ShiftPlan {
        to: [("v", "2")].into_iter().collect(),
        steps: vec![5, 100],
        every: Duration::from_secs(60),
        abort_if: Vec::new(),
        min_requests: 0,
    };
    Shift::begin(service, plan, by.clone(), now)
}

#[tokio::test]
async fn a_service_under_a_shift_is_changed_by_its_steps_alone_unless_somebody_ends_the_shift() {
    let folder = tempfile::tempdir().unwrap();
    let plain = text("initial") + ORDERS;
    let applied = open(folder.path(), initial(&folder, &plain)).unwrap();
    let orders: ServiceName = "orders".parse().unwrap();
    let would = applied
        .steer(orders.clone(), ChangeableParts::Everything, Applying::Dry, begin)
        .await
        .unwrap();
    assert_eq!((generation(&applied), would.draft.changes.changes.len()), (0, 1));
    applied
        .steer(orders.clone(), ChangeableParts::Everything, Applying::Now, begin)
        .await
        .unwrap();
    let again = applied
        .steer(orders.clone(), ChangeableParts::Everything, Applying::Now, begin)
        .await;
    assert!(
        matches!(again, Err(SteerError::Refused(ShiftRefusal::UnderWay(_)))),
        "{again:?}"
    );
    let unknown = applied
        .steer(
            "carts".parse().unwrap(),
            ChangeableParts::Everything,
            Applying::Now,
            begin,
        )
        .await;
    assert!(
        matches!(unknown, Err(SteerError::Edit(EditError::UnknownService(_)))),
        "{unknown:?}"
    );

    let shifted = applied.view().applied.document().unwrap().text().to_string();
    let apply = async |text: String, over| applied.apply(None, handed(text), Applying::Now, over).await;
    // What leaves it alone is taken.
    let other = shifted.replace("port: 81", "port: 82");
    apply(other.clone(), OverShifts::Refuse).await.unwrap();
    let changed = other.replace("port: 80", "port: 90");
    for refused in [plain.clone(), changed.clone(), text("without services")] {
        let refused = apply(refused, OverShifts::Refuse).await;
        let Err(ApplyError::Refused(TopologyRefusal::UnderShift(services))) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(services, std::slice::from_ref(&orders));
    }
    assert_eq!(generation(&applied), 2);
    apply(changed, OverShifts::Abort).await.unwrap();
    let topology = applied.topology().borrow().clone();
    let service = &topology.services[&orders];
    assert_eq!(
        (
            service.ports.primary.number,
            service.shift.is_none(),
            service.split.len()
        ),
        (90, true, 1)
    );
    // Nobody puts it under a shift but by beginning one.
    let refused = apply(shifted.clone(), OverShifts::Refuse).await;
    assert!(
        matches!(refused, Err(ApplyError::Refused(TopologyRefusal::UnderShift(_)))),
        "{refused:?}"
    );
    apply(shifted, OverShifts::Abort).await.unwrap();
    assert!(applied.topology().borrow().services[&orders].shift.is_none());
}
