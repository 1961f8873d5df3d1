//! `causeway ca rotate`: the root changes under load, and whatever interrupts the command.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use causeway_tests::{
    ca::{CaServer, causeway, text},
    federation::{Federation, PATIENCE},
    load::Load,
    measured::measured,
    process::{Process, program},
    talk::Client,
    wait::until_true,
};

use super::{begin, trust};

/// Long enough that nothing is renewed for its age meanwhile; a renewal for the new root comes within a fiftieth of it.
const LIFETIME: Duration = Duration::from_secs(100);
/// For a whole rotation on a busy machine.
const LONG: Duration = Duration::from_secs(120);

struct Rotation<'a> {
    ca: &'a CaServer,
    admin: String,
    log: std::path::PathBuf,
}

impl<'a> Rotation<'a> {
    fn new(ca: &'a CaServer, federation: &Federation) -> Self {
        Self {
            ca,
            admin: federation.zone("east").admin.to_string(),
            log: ca.ca().with_file_name("rotation.log"),
        }
    }

    /// Runs the command until its output holds all of `parts`, and kills it.
    async fn kill_once_it_says(&self, parts: &[&str]) {
        let mut running = self.start();
        let what = format!("the rotation says {parts:?}");
        until_true(&what, LONG, async || {
            let said = running.log();
            parts.iter().all(|part| said.contains(part))
        })
        .await;
        running.kill().unwrap();
    }

    fn start(&self) -> Process {
        let _ = fs::remove_file(&self.log);
        let mut command = Command::new(program().unwrap());
        command.args(["ca", "rotate", "--admin", &self.admin, "--ca"]);
        command.arg(self.ca.ca());
        Process::start("the rotation", &mut command, &self.log).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let ca = self.ca.ca();
        let all = ["ca", "rotate", "--admin", &self.admin, "--ca", text(&ca).unwrap()];
        causeway(&[&all[..], arguments].concat()).unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn first_root(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("ca.pem")).unwrap();
    text.split_inclusive("-----END CERTIFICATE-----")
        .next()
        .unwrap()
        .to_owned()
}

async fn roots(federation: &Federation, zone: &str) -> Vec<String> {
    let trust = trust(federation, zone).await;
    let roots = trust["roots"].as_array().cloned().unwrap_or_default();
    roots
        .iter()
        .map(|root| root["fingerprint"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Kills the command while it waits for a zone that is away, and pauses it; then the zone is back.
async fn is_held_up_by_a_zone_that_is_away(ca: &CaServer, federation: &mut Federation, before: &str) {
    federation.zone_mut("north").kill().unwrap();
    let rotation = Rotation::new(ca, federation);
    for _ in 0..2 {
        rotation.kill_once_it_says(&["announcing", "zone north"]).await;
    }
    let status = rotation.run(&["--status"]);
    assert_eq!(status.status.code(), Some(79));
    assert!(
        said(&status).contains("announcing") && said(&status).contains("zone north"),
        "{status:?}"
    );
    assert_eq!(first_root(&ca.ca()), before, "still issued from the old root");
    assert!(rotation.run(&["--pause"]).status.success());
    let paused = rotation.run(&[]);
    assert_eq!(paused.status.code(), Some(79));
    assert!(said(&paused).contains("paused"), "{paused:?}");
    assert!(said(&rotation.run(&["--status"])).contains("paused"));
    fs::remove_file(ca.ca().join("rotation.paused")).unwrap();
    federation.start_zone("north").unwrap();
    federation.zone("north").wait_ready().await;
}

#[tokio::test]
async fn the_root_changes_under_load_without_a_failed_request_however_often_the_command_is_killed() {
    let (mut ca, mut federation, _west) = begin(LIFETIME).await;
    let orders = federation.service_address("east", "orders", 9000).await;
    let mut lasting = Client::connect(orders).await.unwrap();
    assert_eq!(lasting.say("before").await.unwrap(), "west before");
    let load = Load {
        service: orders,
        connections_per_second: 50,
        patience: Duration::from_secs(10),
    }
    .start();
    let old = roots(&federation, "east").await;
    let before = first_root(&ca.ca());

    is_held_up_by_a_zone_that_is_away(&ca, &mut federation, &before).await;
    // Nobody gets a certificate of the new root while the CA is away.
    ca.stop().await.unwrap();
    for _ in 0..2 {
        let says = ["issuing", "has certificates of another root"];
        Rotation::new(&ca, &federation).kill_once_it_says(&says).await;
    }
    assert_ne!(first_root(&ca.ca()), before, "issued from the new root");
    ca.resume(&[]).await.unwrap();

    let rotation = Rotation::new(&ca, &federation);
    let mut last = rotation.start();
    let status = last.wait(LONG).await;
    assert!(status.success(), "{}", last.log());
    assert!(said(&rotation.run(&["--status"])).starts_with("done"));
    for zone in federation.names() {
        until_true("the zone trusts the new root alone", PATIENCE, async || {
            let now = roots(&federation, &zone).await;
            now.len() == 1 && now != old
        })
        .await;
    }
    assert_eq!(lasting.say("after").await.unwrap(), "west after");
    let report = load.stop().await;
    assert_eq!(report.failed().count(), 0, "{report}");
    measured(&format!("a root rotation under load: {report}"));
    let aside = fs::read_dir(ca.ca()).unwrap();
    let names: Vec<_> = aside
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|name| name.starts_with("retired-")), "{names:?}");
    assert!(
        !names.iter().any(|name| name == "next" || name == "previous"),
        "{names:?}"
    );
}

#[tokio::test]
async fn a_rotation_writes_nothing_while_nobody_answers_and_can_be_abandoned_before_anything_is_issued() {
    let (ca, mut federation, _west) = begin(LIFETIME).await;
    let before = first_root(&ca.ca());
    let folder = ca.ca();
    let nowhere = [
        "ca",
        "rotate",
        "--admin",
        "127.0.0.1:9",
        "--ca",
        text(&folder).unwrap(),
    ];
    assert!(!causeway(&nowhere).unwrap().status.success());
    for name in ["rotation.json", "next", "trust.pb"] {
        assert!(!folder.join(name).exists(), "{name} was written");
    }

    let old = roots(&federation, "east").await;
    federation.zone_mut("north").kill().unwrap();
    let rotation = Rotation::new(&ca, &federation);
    rotation
        .kill_once_it_says(&["3 zones;", "announcing", "zone north"])
        .await;
    until_true("east trusts both roots", PATIENCE, async || {
        roots(&federation, "east").await.len() == 2
    })
    .await;
    let abandoned = rotation.run(&["--abandon"]);
    assert!(said(&abandoned).starts_with("abandoned: "), "{abandoned:?}");
    until_true("west trusts the old root alone", PATIENCE, async || {
        roots(&federation, "west").await == old
    })
    .await;
    assert_eq!(first_root(&folder), before);
    assert!(!folder.join("rotation.json").exists() && !folder.join("next").exists());
    assert!(said(&rotation.run(&["--status"])).contains("no rotation was begun"));
}
