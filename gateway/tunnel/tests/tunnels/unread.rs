//! Streams that nobody reads cost only themselves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use causeway_identity::ca::Ca;
use causeway_proto::tunnel::{StreamHeader, Sync, stream_header::Kind, stream_reply::Outcome};
use causeway_tunnel::{MemoryBudget, RecvHalf, Stream, Tunnel, read_reply};
use tokio::{runtime::Handle, task::JoinHandle};

use crate::support::{DAY, DOMAIN, Gate, connect_header, echo, id, none, one, pair, until};

/// Bytes that are sent on each stream: with eight, twice what a tunnel holds unread.
const BYTES: usize = 16 * 1024 * 1024;
const SOON: Duration = Duration::from_secs(1);

/// Streams on which bytes are sent to a peer that echoes them, and whose echo nobody reads.
struct Unread {
    recvs: Vec<RecvHalf>,
    writers: Vec<JoinHandle<()>>,
    written: Arc<AtomicUsize>,
}

impl Unread {
    async fn open(tunnel: &Tunnel, count: usize) -> Self {
        let mut unread = Self {
            recvs: Vec::new(),
            writers: Vec::new(),
            written: Arc::default(),
        };
        for _ in 0..count {
            let Stream { mut send, mut recv } = tunnel.open(&connect_header()).await.unwrap();
            assert!(matches!(read_reply(&mut recv).await.unwrap(), Outcome::Ready(_)));
            unread.recvs.push(recv);
            let written = unread.written.clone();
            unread.writers.push(tokio::spawn(async move {
                for _ in 0..BYTES / 65_536 {
                    send.write_chunk(Bytes::from_static(&[7; 65_536])).await.unwrap();
                    written.fetch_add(65_536, Ordering::Relaxed);
                }
                send.finish().unwrap();
                let _ = send.stopped().await;
            }));
        }
        unread
    }

    /// Waits until nothing moves any more.
    async fn settle(&self) {
        let (mut seen, mut since) = (0, Instant::now());
        while since.elapsed() < SOON {
            let now = self.written.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A new connection and a new session of zone sync get through.
async fn others_go_on(tunnel: &Arc<Tunnel>) {
    let others = async {
        echo(tunnel, b"a new connection").await;
        let sync = StreamHeader {
            kind: Some(Kind::Sync(Sync {})),
        };
        let Stream { mut send, mut recv } = tunnel.open(&sync).await.unwrap();
        assert!(matches!(read_reply(&mut recv).await.unwrap(), Outcome::Ready(_)));
        let question = vec![1; 256 * 1024];
        let asking = async {
            send.write_all(&question).await.unwrap();
            send.finish().unwrap();
        };
        let ((), answer) = tokio::join!(asking, recv.read_to_end(question.len()));
        assert!(answer.unwrap() == question);
    };
    tokio::time::timeout(SOON, others)
        .await
        .expect("in time, whatever lies unread");
}

#[tokio::test]
async fn streams_that_nobody_reads_do_not_stop_the_others_and_arrive_whole() {
    let (east, plant) = pair(&Ca::new(DOMAIN).unwrap()).await;
    let tunnel = plant.tunnel_to("east").await;
    let unread = Unread::open(&tunnel, 8).await;
    unread.settle().await;
    assert!(unread.written.load(Ordering::Relaxed) < 8 * BYTES);
    others_go_on(&tunnel).await;
    others_go_on(&east.tunnel_to("plant").await).await;

    // Read at last, each stream has all that was sent on it.
    for mut recv in unread.recvs {
        assert_eq!(recv.read_to_end(BYTES).await.unwrap().len(), BYTES);
    }
    for writer in unread.writers {
        writer.await.unwrap();
    }
    // What was held is free again: eight more do not stop the others either.
    let again = Unread::open(&tunnel, 8).await;
    again.settle().await;
    others_go_on(&tunnel).await;
}

#[tokio::test]
async fn streams_that_were_given_up_unread_hold_nothing() {
    let (east, plant) = pair(&Ca::new(DOMAIN).unwrap()).await;
    let tunnel = plant.tunnel_to("east").await;
    for _ in 0..4 {
        let unread = Unread::open(&tunnel, 8).await;
        unread.settle().await;
        for writer in &unread.writers {
            writer.abort();
        }
        drop(unread);
    }
    let far = east.tunnel_to("plant").await;
    let held = || (tunnel.untaken_bytes() + far.untaken_bytes() == 0).then_some(());
    until("nothing to be held on either side", held).await;
    assert_eq!(plant.set.count(&id("east")), 1);
}

#[tokio::test]
async fn what_many_unread_streams_hold_is_within_the_budget_of_the_gateway_that_holds_it() {
    const STREAMS: usize = 64;
    const BUDGET: u64 = 16 * 1024 * 1024;
    let (ca, memory) = (Ca::new(DOMAIN).unwrap(), MemoryBudget::new(BUDGET));
    let zones = [("east", none()), ("plant", none())];
    let identity = ca.issue(&id("east"), DAY).unwrap();
    let bounded = memory.clone();
    let east = Gate::with(identity, &zones, &[Handle::current()], |config| {
        config.memory = bounded
    });
    let zones = [("east", one(east.address())), ("plant", none())];
    let plant = Gate::new(ca.issue(&id("plant"), DAY).unwrap(), &zones);
    let tunnel = plant.tunnel_to("east").await;
    let far = east.tunnel_to("plant").await;

    let unread = Unread::open(&tunnel, STREAMS).await;
    unread.settle().await;
    // A quarter of the budget is for one peer; beside it each stream has a little.
    let (held, most) = (tunnel.untaken_bytes(), BUDGET / 4 + STREAMS as u64 * 16 * 1024);
    assert!(held <= most, "{held} bytes, and {most} may be");
    until("east to know of it", || {
        (far.unread_bytes() == held).then_some(())
    })
    .await;
    let lack = until("east to say so", || memory.lack()).await;
    assert_eq!((lack.peer, lack.budget_bytes), (id("plant"), BUDGET));
    others_go_on(&tunnel).await;

    unread.writers.iter().for_each(JoinHandle::abort);
    drop(unread);
    until("nothing to be held", || (far.unread_bytes() == 0).then_some(())).await;
    others_go_on(&tunnel).await;
}
