//! Identities that are renewed while tunnels are up.

use std::{fs, path::Path, sync::Arc, time::SystemTime};

use causeway_identity::{IdentityFolder, ROOTS_FILE, RefreshOutcome, ca};
use causeway_proto::tunnel::stream_reply::Outcome;
use causeway_tunnel::{RecvHalf, SendHalf, Stream, Tunnel, read_reply};
use tempfile::TempDir;

use crate::support::{DAY, DOMAIN, Gate, connect_header, echo, id, none, one, until};

/// Two zones whose identities lie on disk: `east` listens, `plant` dials.
struct Renewable {
    _folder: TempDir,
    authority: std::path::PathBuf,
    files: [IdentityFolder; 2],
    folders: [std::path::PathBuf; 2],
    east: Gate,
    plant: Gate,
}

const ZONES: [&str; 2] = ["east", "plant"];

impl Renewable {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("ca");
        ca::init(&authority, DOMAIN).unwrap();
        let folders = ZONES.map(|zone| folder.path().join(zone));
        for (zone, out) in ZONES.iter().zip(&folders) {
            ca::issue(&authority, &id(zone), out, DAY).unwrap();
        }
        let files = folders.each_ref().map(|out| IdentityFolder::open(out).unwrap());
        let east = Gate::new(files[0].identity(), &[("east", none()), ("plant", none())]);
        let zones = [("east", one(east.address())), ("plant", none())];
        let plant = Gate::new(files[1].identity(), &zones);
        plant.tunnel_to("east").await;
        east.tunnel_to("plant").await;
        Self {
            _folder: folder,
            authority,
            files,
            folders,
            east,
            plant,
        }
    }

    /// New leaves for both, issued by `authority`, with `roots` to believe.
    fn renew(&self, authority: &Path, roots: &str) {
        for ((zone, out), files) in ZONES.iter().zip(&self.folders).zip(&self.files) {
            ca::issue(authority, &id(zone), out, DAY).unwrap();
            fs::write(out.join(ROOTS_FILE), roots).unwrap();
            assert_eq!(files.reload(SystemTime::now()), RefreshOutcome::Taken);
        }
    }

    /// Another roots file for both.
    fn trust(&self, roots: &str) {
        for (out, files) in self.folders.iter().zip(&self.files) {
            fs::write(out.join(ROOTS_FILE), roots).unwrap();
            assert_eq!(files.reload(SystemTime::now()), RefreshOutcome::Taken);
        }
    }

    /// Waits until a tunnel is up that is none of `before`, on both sides.
    async fn another_tunnel(&self, before: &Arc<Tunnel>) -> Arc<Tunnel> {
        let next = || {
            let chosen = self.plant.set.choose(&id("east"), 0);
            chosen.filter(|now| !now.is_retiring() && !Arc::ptr_eq(now, before))
        };
        let tunnel = until("a tunnel with the renewed identity", next).await;
        let lasting = || self.east.set.has_lasting(&id("plant")).then_some(());
        until("the other side's view of it", lasting).await;
        tunnel
    }
}

/// A stream that stays open while everything around it changes.
struct Conversation {
    send: SendHalf,
    recv: RecvHalf,
}

impl Conversation {
    async fn begin(tunnel: &Tunnel) -> Self {
        let Stream { send, mut recv } = tunnel.open(&connect_header()).await.unwrap();
        let reply = read_reply(&mut recv).await.unwrap();
        assert!(matches!(reply, Outcome::Ready(_)), "{reply:?}");
        // As the egress does for every stream that it opens.
        tunnel
            .streams()
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self { send, recv }
    }

    async fn goes_on(&mut self) {
        let mut back = [0; 5];
        self.send.write_all(b"still").await.unwrap();
        self.recv.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"still");
    }
}

fn roots_of(folder: &Path) -> String {
    fs::read_to_string(folder.join(ROOTS_FILE)).unwrap()
}

#[tokio::test]
async fn renewals_and_a_new_root_are_taken_up_without_dropping_a_stream() {
    let both = Renewable::start().await;
    let first = both.plant.tunnel_to("east").await;
    let mut conversation = Conversation::begin(&first).await;
    let old = roots_of(&both.authority);
    let mut tunnel = first.clone();
    for _ in 0..3 {
        both.renew(&both.authority, &old);
        conversation.goes_on().await;
        tunnel = both.another_tunnel(&tunnel).await;
        echo(&tunnel, b"new").await;
    }
    let fresh = both.authority.with_file_name("ca2");
    ca::init(&fresh, DOMAIN).unwrap();
    let new = roots_of(&fresh);
    let union = format!("{old}{new}");
    for step in 0..3 {
        match step {
            0 => both.trust(&union),
            1 => both.renew(&fresh, &union),
            _ => both.trust(&new),
        }
        conversation.goes_on().await;
        tunnel = both.another_tunnel(&tunnel).await;
        echo(&tunnel, b"rotated").await;
    }
    conversation.goes_on().await;
    assert!(first.ended().is_none());
    // With its last stream gone, the first tunnel goes too.
    first.streams().fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    until("the first tunnel to end", || first.ended()).await;
    echo(&tunnel, b"after").await;
}

#[tokio::test]
async fn a_peer_that_no_root_vouches_for_any_more_loses_its_tunnel() {
    let both = Renewable::start().await;
    let tunnel = both.plant.tunnel_to("east").await;
    let fresh = both.authority.with_file_name("ca2");
    ca::init(&fresh, DOMAIN).unwrap();
    // Only the one that listens moves to another CA, and the other does not follow.
    ca::issue(&fresh, &id("east"), &both.folders[0], DAY).unwrap();
    assert_eq!(both.files[0].reload(SystemTime::now()), RefreshOutcome::Taken);
    until("the tunnel to be closed", || tunnel.ended()).await;
    both.east.counts_refusal("local", "unknown_issuer").await;
    both.plant.counts_refusal("peer", "unknown_issuer").await;
    both.plant.no_tunnel_to("east").await;
}
