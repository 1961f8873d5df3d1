//! Processes that come to take over, as far as they come, at a gateway that is merely said to run.

use std::{fs, path::PathBuf};

use causeway_tunnel::ThreadPlaces;
use rustix::process::geteuid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::*;
use crate::handover::messages::VERSION;

const LISTEN: &str = "127.0.0.1:7800";
/// Longest wait for what happens at once, on a busy machine; less than a successor may take for a word.
const AT_ONCE: Duration = Duration::from_secs(8);

fn offer() -> Offer {
    Offer {
        incumbent: Incumbent {
            gateway: "gw1".to_owned(),
            user: geteuid().as_raw(),
            threads: 1,
            listen: LISTEN.parse().unwrap(),
            predecessors: 0,
        },
        succession: Succession {
            start_id: 7,
            places: ThreadPlaces::new(1),
            relays: Vec::new(),
        },
        sockets: Vec::new(),
        unix: Vec::new(),
        topology: AppliedText::Untold,
    }
}

fn ask() -> TakeOverRequest {
    TakeOverRequest {
        version: VERSION,
        program: "causeway 0.1.0".to_owned(),
        gateway: "gw1".to_owned(),
        threads: 1,
        listen: Some(LISTEN.parse().unwrap()),
        takes_unix: true,
    }
}

struct Scene {
    folder: TempDir,
    server: HandoverServer,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = HandoverServer::bind(folder.path(), &HandedSockets::default()).unwrap();
        Self { folder, server }
    }

    /// Has the server wait for successors, none of which is to be ready, until `pretending` is done.
    async fn meanwhile(&self, pretending: impl Future<Output = ()>) {
        tokio::select! {
            _ = self.server.next(offer) => panic!("none was ready"),
            done = timeout(2 * AT_ONCE, pretending) => done.unwrap(),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }

    async fn come(&self) -> Pretender {
        Pretender(UnixStream::connect(self.socket()).await.unwrap())
    }
}

/// A successor that says what it likes, as far as it comes.
struct Pretender(UnixStream);

impl Pretender {
    async fn say(&mut self, message: &impl Serialize) {
        let message = serde_json::to_vec(message).unwrap();
        self.0.write_u32(message.len().try_into().unwrap()).await.unwrap();
        self.0.write_all(&message).await.unwrap();
    }

    /// `None`: the other end has closed.
    async fn hear(&mut self) -> Option<Value> {
        let length = timeout(2 * AT_ONCE, self.0.read_u32());
        let length = length.await.expect("a word, or the end").ok()?;
        let mut message = vec![0; length.try_into().unwrap()];
        self.0.read_exact(&mut message).await.ok()?;
        Some(serde_json::from_slice(&message).unwrap())
    }

    /// Asks for the place, and takes what it is given.
    async fn ask(&mut self, ask: &TakeOverRequest) -> Value {
        self.say(ask).await;
        let answer = self.hear().await.unwrap();
        if answer["agreed"]["sockets"].as_u64().is_some() {
            // The byte that they come with.
            self.0.read_u8().await.unwrap();
        }
        answer["agreed"].clone()
    }

    async fn is_refused(&mut self) {
        self.say(&ask()).await;
        let answer = self.hear().await.unwrap();
        assert_eq!(answer["refused"]["why"], BUSY, "{answer}");
        assert_eq!(self.hear().await, None);
    }
}

#[tokio::test]
async fn a_successor_that_hangs_at_any_step_is_given_up_and_the_next_one_is_heard() {
    let mut scene = Scene::new();
    scene.server.word_may_take = Duration::from_millis(100);
    let pretending = async {
        let mut silent = scene.come().await;
        assert_eq!(silent.hear().await, None);
        // It has said who it is, and never is ready.
        let mut unready = scene.come().await;
        unready.say(&ask()).await;
        while unready.0.read_u8().await.is_ok() {}
        // One byte at a time, of a word that has no end.
        let mut slow = scene.come().await;
        slow.0.write_u32(1_000_000).await.unwrap();
        while slow.0.write_u8(b' ').await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    scene.meanwhile(pretending).await;
    scene.server.word_may_take = WORD_MAY_TAKE;
    let able = async {
        let mut able = scene.come().await;
        able.ask(&ask()).await;
        able.say(&Ready {}).await;
        able
    };
    let (successor, _able) = tokio::join!(scene.server.next(offer), able);
    assert_eq!(successor.process, Some(std::process::id()));
}

#[tokio::test]
async fn while_one_process_is_about_to_take_over_others_are_refused_in_words_until_it_serves() {
    let scene = Scene::new();
    let first = async {
        let mut first = scene.come().await;
        first.ask(&ask()).await;
        assert!(scene.server.is_busy());
        scene.come().await.is_refused().await;
        // One that says nothing is in nobody's way for long.
        let mut silent = scene.come().await;
        scene.come().await.is_refused().await;
        assert_eq!(silent.hear().await, None);
        first.say(&Ready {}).await;
        first
    };
    let (successor, mut first) = tokio::join!(scene.server.next(offer), first);
    let (_relay, waiting) = successor.split();
    let findings = Findings::default();
    let telling = scene.server.refuse_others(waiting.tell(&findings));
    let starting = async {
        assert!(first.hear().await.unwrap()["health"].is_array());
        scene.come().await.is_refused().await;
        first.say(&Started {}).await;
    };
    let (serves, ()) = tokio::join!(telling, starting);
    assert!(serves.is_some() && !scene.server.is_busy());
    // Where it fails instead, another is heard.
    let (again, mut first) = tokio::join!(scene.server.next(offer), async {
        let mut first = scene.come().await;
        first.ask(&ask()).await;
        first.say(&Ready {}).await;
        first
    });
    let (_relay, waiting) = again.split();
    let telling = scene.server.refuse_others(waiting.tell(&findings));
    let failing = async {
        first.hear().await;
        drop(first);
    };
    let (serves, ()) = tokio::join!(telling, failing);
    assert!(serves.is_none());
    let another = async { scene.come().await.ask(&ask()).await };
    let another = async {
        assert_eq!(another.await["start_id"], 7);
    };
    scene.meanwhile(another).await;
}

#[tokio::test]
async fn a_conversation_ends_with_the_wait_for_it() {
    let scene = Scene::new();
    let mut silent = scene.come().await;
    let mut slow = scene.come().await;
    scene
        .meanwhile(async {
            // It is at hand once the other one is refused.
            slow.is_refused().await;
        })
        .await;
    assert_eq!(timeout(AT_ONCE, silent.hear()).await.unwrap(), None);
}

#[tokio::test]
async fn unix_sockets_are_given_to_whoever_goes_on_with_them() {
    let scene = Scene::new();
    let offer = || {
        let (path, number) = (scene.socket(), (1, 2));
        let socket: Arc<AnySocket> = Arc::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut offer = offer();
        offer.unix.push(OwnUnixSocket { path, number, socket });
        offer
    };
    let before = TakeOverRequest {
        takes_unix: false,
        ..ask()
    };
    for (ask, sockets, files) in [(before, 1, 0), (ask(), 2, 1)] {
        let asking = async {
            let mut able = scene.come().await;
            let agreed = able.ask(&ask).await;
            able.say(&Ready {}).await;
            agreed
        };
        let (successor, agreed) = tokio::join!(scene.server.next(offer), asking);
        assert_eq!(agreed["sockets"], sockets);
        assert_eq!(agreed["unix"].as_array().unwrap().len(), files);
        assert_eq!(successor.takes_unix, ask.takes_unix);
    }
    let mut offer = offer();
    offer.close_listeners();
    assert_eq!(offer.unix.len(), 1, "another may come there");
    scene.server.remove();
    assert_eq!(fs::read_dir(scene.folder.path()).unwrap().count(), 0);
}
