//! Either process of a hand-over is killed at each of its steps, or the successor is one that may not take over: somebody serves each time,
//! and nobody is refused where a gateway is left. The test stands between the two and passes on what they say.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use causeway_host::{handed::AnySocket, handover::HandoverChannel};
use causeway_tests::{
    federation::{Federation, PATIENCE, Plan, Zone},
    instance::{Behaviour, Instance},
    load::Load,
    measured::measured,
    process::run,
    talk::{Client, say},
    wait::{until, until_true},
};
use rustix::process::Signal;
use serde_json::Value;

const PORT: u16 = 9000;

/// Steps of a hand-over, by what was said (`gateway/src/handover/steps.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Connected,
    /// The successor has said who it is.
    Asked,
    /// It has the sockets.
    Agreed,
    /// The predecessor knows that all is prepared, and lets go.
    Ready,
    /// The successor knows that it has let go.
    LetGo,
    /// The predecessor knows that it serves.
    Serves,
}

impl Step {
    const ALL: [Self; 6] = [
        Self::Connected,
        Self::Asked,
        Self::Agreed,
        Self::Ready,
        Self::LetGo,
        Self::Serves,
    ];

    /// Those after which either may be missed.
    fn at_risk() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|step| *step < Self::Serves)
    }
}

/// Stands between a gateway and those that want to take over from it.
struct Between {
    listener: UnixListener,
    path: PathBuf,
    /// Path of the gateway's own socket meanwhile.
    aside: PathBuf,
}

/// Both ends of one conversation, and the step that it has come to.
struct Overheard {
    successor: HandoverChannel,
    predecessor: HandoverChannel,
    passed: Option<Step>,
}

fn channel(stream: UnixStream) -> HandoverChannel {
    HandoverChannel::new(stream, PATIENCE).unwrap()
}

impl Between {
    fn of(zone: &Zone) -> Self {
        let path = zone.data.join("handover.sock");
        let aside = zone.data.join("handover.aside");
        fs::rename(&path, &aside).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self {
            listener,
            path,
            aside,
        }
    }

    /// Waits for a successor.
    async fn meet(&self) -> Overheard {
        let accept = async || self.listener.accept().ok();
        let (successor, _) = until("a successor has come", PATIENCE, accept).await;
        Overheard {
            successor: channel(successor),
            predecessor: channel(UnixStream::connect(&self.aside).unwrap()),
            passed: None,
        }
    }

    /// Gives the gateway its socket back.
    fn leave(self) {
        fs::rename(self.aside, self.path).unwrap();
    }
}

impl Overheard {
    /// Passes on what the two say until they have come to a step.
    fn pass(&mut self, last: Step) {
        for step in Step::ALL {
            if Some(step) <= self.passed || step > last {
                continue;
            }
            self.passed = Some(step);
            match step {
                Step::Connected => {}
                Step::Asked | Step::Ready | Step::Serves => {
                    let said = self.successor.receive().unwrap();
                    self.predecessor.send(&said).unwrap();
                }
                Step::Agreed => self.pass_answer(),
                Step::LetGo => {
                    let said = self.predecessor.receive().unwrap();
                    self.successor.send(&said).unwrap();
                }
            }
        }
    }

    /// Passes on the answer of the gateway, and the sockets that come with it.
    fn pass_answer(&mut self) {
        let said = self.predecessor.receive().unwrap();
        self.successor.send(&said).unwrap();
        let answer: Value = serde_json::from_slice(&said).unwrap();
        let Some(count) = answer["agreed"]["sockets"].as_u64() else {
            return;
        };
        let sockets: Vec<OwnedFd> = self
            .predecessor
            .receive_sockets(count.try_into().unwrap())
            .unwrap();
        let sockets: Vec<Arc<AnySocket>> = sockets.into_iter().map(|socket| Arc::new(socket) as _).collect();
        self.successor.send_sockets(&sockets).unwrap();
    }
}

/// One zone with a registered instance, which is there only as long as its registration is.
async fn scene() -> (Federation, Instance, SocketAddr) {
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let plan = Plan::new().argument("--drain").argument("60s").zone("east");
    let plan = plan.service("orders", &format!("port: {PORT}, protocol: tcp"));
    let federation = plan.start().await.unwrap();
    let admin = format!("unix:{}", federation.zone("east").admin_socket().display());
    let target = instance.address().to_string();
    let register = ["register", "orders", "--id", "a", "--address", &target];
    run(register.iter().chain(&["--admin", &admin])).unwrap();
    let address = federation.service_address("east", "orders", PORT).await;
    until_true("it serves", PATIENCE, async || say(address, "x").await.is_ok()).await;
    (federation, instance, address)
}

/// Starts a process that wants to take over.
fn start_successor(federation: &mut Federation) {
    let flag = "--take-over".to_owned();
    federation.zone_mut("east").arguments.push(flag);
    federation.start_zone("east").unwrap();
    federation.zone_mut("east").arguments.clear();
}

/// Nothing of this is in the log of gateways that were merely killed.
fn assert_all_is_whole(zone: &Zone) {
    let log = zone.log();
    for word in ["already open", "corrupt", "panicked"] {
        assert!(!log.contains(word), "{word}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_is_killed_at_any_step_costs_nobody_anything() {
    let (mut federation, _instance, address) = scene().await;
    let mut held = Client::connect(address).await.unwrap();
    let load = Load {
        service: address,
        connections_per_second: 50,
        patience: Duration::from_secs(10),
    }
    .start();
    for step in Step::at_risk() {
        let between = Between::of(federation.zone("east"));
        let told = |zone: &Zone| zone.log().matches("nothing was handed over").count();
        let before = told(federation.zone("east"));
        let begun = load.begun();
        start_successor(&mut federation);
        let mut overheard = between.meet().await;
        overheard.pass(step);
        let come = async || load.begun() > begun + 5;
        // What it has let go is the successor's, which has connections of its own as soon as it serves.
        let is_waiting = step == Step::LetGo;
        if !is_waiting {
            until_true("clients come meanwhile", PATIENCE, come).await;
        }
        federation.zone_mut("east").kill().unwrap();
        if is_waiting {
            until_true("clients come, and wait", PATIENCE, come).await;
        }
        drop(overheard);
        between.leave();
        if step < Step::Ready {
            let zone = federation.zone("east");
            until_true("the gateway says that it goes on", PATIENCE, async || {
                told(zone) > before
            })
            .await;
        } else {
            federation
                .zone("east")
                .wait_log(&["failed after it had taken over"])
                .await;
            federation.succeed_zone("east").await.unwrap();
        }
        assert_eq!(say(address, "still").await.unwrap(), "here still", "{step:?}");
        assert_eq!(held.say("held").await.unwrap(), "here held", "{step:?}");
    }
    let report = load.stop().await;
    measured(&format!("a successor killed at each step: {report}"));
    assert_eq!(report.failed().count(), 0, "{report}");
    assert_all_is_whole(federation.zone("east"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_while_it_hands_over_has_a_successor_all_the_same() {
    let (mut federation, _instance, address) = scene().await;
    for step in Step::at_risk() {
        let between = Between::of(federation.zone("east"));
        start_successor(&mut federation);
        let mut overheard = between.meet().await;
        overheard.pass(step);
        federation.zone_mut("east").former().kill().unwrap();
        drop((overheard, between));
        let what = format!("the successor serves what was registered, {step:?}");
        until_true(&what, PATIENCE, async || {
            say(address, "on").await.is_ok_and(|said| said == "here on")
        })
        .await;
        assert!(federation.zone_mut("east").gateway().ended().is_none());
        federation.zone("east").wait_ready().await;
        // Its own socket takes the place of the test's.
        let zone = federation.zone("east");
        until_true("it can be taken over from", PATIENCE, async || {
            UnixStream::connect(zone.data.join("handover.sock")).is_ok()
        })
        .await;
    }
    assert_all_is_whole(federation.zone("east"));
}

/// Waits for the end of a process that may not take over, and checks what it says.
async fn is_told(zone: &mut Zone, words: &[&str]) {
    let status = zone.gateway().wait(PATIENCE).await;
    let log = zone.log();
    assert!(!status.success(), "{log}");
    let said = log
        .rsplit_once("error:")
        .map(|(_, said)| said)
        .unwrap_or_default();
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
}

/// Checks besides that the gateway serves on.
async fn is_refused(federation: &mut Federation, address: SocketAddr, words: &[&str]) {
    is_told(federation.zone_mut("east"), words).await;
    assert_eq!(say(address, "on").await.unwrap(), "here on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_take_over_is_told_why_and_the_gateway_serves_on() {
    let (mut federation, _instance, address) = scene().await;
    let load = Load {
        service: address,
        connections_per_second: 50,
        patience: Duration::from_secs(10),
    }
    .start();
    // One of an earlier version.
    let between = Between::of(federation.zone("east"));
    start_successor(&mut federation);
    let mut overheard = between.meet().await;
    let said = overheard.successor.receive().unwrap();
    let mut ask: Value = serde_json::from_slice(&said).unwrap();
    ask["version"] = (ask["version"].as_u64().unwrap() - 1).into();
    let ask = serde_json::to_vec(&ask).unwrap();
    overheard.predecessor.send(&ask).unwrap();
    overheard.pass_answer();
    is_refused(
        &mut federation,
        address,
        &["by version 1", "by version 0", "restart it instead"],
    )
    .await;
    drop(overheard);
    between.leave();
    // One with another data folder finds nobody there, and its addresses taken.
    let data = federation.folder().join("other-data");
    let data = std::mem::replace(&mut federation.zone_mut("east").data, data);
    start_successor(&mut federation);
    is_refused(&mut federation, address, &["cannot start the gateway", "in use"]).await;
    federation.zone_mut("east").data = data;
    // And one that may.
    federation.succeed_zone("east").await.unwrap();
    let report = load.stop().await;
    assert_eq!(report.failed().count(), 0, "{report}");
    assert_all_is_whole(federation.zone("east"));
}

/// Words for a process that comes while another is about to take over.
const BUSY: &str = "another process takes its place already";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_takes_over_at_a_time_and_others_are_told_so_at_once() {
    let (mut federation, _instance, address) = scene().await;
    let between = Between::of(federation.zone("east"));
    start_successor(&mut federation);
    let mut first = between.meet().await;
    first.pass(Step::Agreed);
    between.leave();
    let zone = federation.zone_mut("east");
    zone.former().signal(Signal::USR2).unwrap();
    zone.wait_log(&["another process is about to take over", "no successor is started"])
        .await;
    start_successor(&mut federation);
    is_refused(&mut federation, address, &[BUSY]).await;
    assert!(!federation.zone("east").log().contains("started a successor"));
    // The gateway has let go, and the first does not serve yet.
    first.pass(Step::Ready);
    start_successor(&mut federation);
    is_told(federation.zone_mut("east"), &[BUSY]).await;
    first.pass(Step::Serves);
    federation.zone("east").wait_log(&["the successor serves"]).await;
    assert_eq!(say(address, "first").await.unwrap(), "here first");
    federation.succeed_zone("east").await.unwrap();
    assert_eq!(say(address, "next").await.unwrap(), "here next");
    assert_all_is_whole(federation.zone("east"));
}

/// Longer than a gateway takes to end that has nothing open, and less than a process may take for a word.
const AN_END: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_told_to_end_ends_whatever_is_being_said_at_its_socket() {
    let (mut federation, _instance, _) = scene().await;
    let zone = federation.zone_mut("east");
    let socket = zone.data.join("handover.sock");
    let mut slow = UnixStream::connect(&socket).unwrap();
    slow.write_all(&1_000_000_u32.to_be_bytes()).unwrap();
    let speaking = thread::spawn(move || {
        while slow.write_all(b" ").is_ok() {
            thread::park_timeout(Duration::from_millis(50));
        }
    });
    // It is being heard.
    let mut other = channel(UnixStream::connect(&socket).unwrap());
    other.send(b"{}").unwrap();
    let said = String::from_utf8(other.receive().unwrap()).unwrap();
    assert!(said.contains(BUSY), "{said}");
    zone.gateway().signal(Signal::TERM).unwrap();
    let status = zone.gateway().wait(AN_END).await;
    assert!(status.success(), "{status}");
    speaking.join().unwrap();
}
