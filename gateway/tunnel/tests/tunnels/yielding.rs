//! Streams that have carried much yield to those that have not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use causeway_identity::ca::Ca;
use causeway_proto::tunnel::{
    Connect, Ready, StreamHeader, StreamReply, stream_header::Kind, stream_reply::Outcome,
};
use causeway_tunnel::{IncomingStream, Stream, StreamHandler, Tunnel, write_frame};
use futures_util::future::BoxFuture;

use crate::support::{DAY, DOMAIN, Detour, Gate, id, none, one, until};

/// Idle timeout and keep-alive with which a cut that lasts a moment is not noticed.
const NEVER: Duration = Duration::from_secs(300);
const DOWNLOADS: usize = 6;
/// Bytes that each download has carried before it is looked at: more than it may before it yields, however long that has taken
/// within the time that is waited for it.
const CARRIED: usize = 2560 * 1024;
/// Bytes that wait in all downloads together while nothing passes.
const QUEUED: usize = 3 * 1024 * 1024;
const QUESTION: usize = 450 * 1024;

/// Takes what comes, and counts it by the name of the service.
#[derive(Default)]
struct Sink {
    downloads: AtomicUsize,
    question: AtomicUsize,
    /// Bytes of downloads that had come when the question was there.
    downloads_before: AtomicUsize,
}

struct Take(Arc<Sink>);

impl StreamHandler for Take {
    fn handle(&self, mut stream: IncomingStream) -> BoxFuture<'static, ()> {
        let sink = self.0.clone();
        Box::pin(async move {
            let is_question = matches!(&stream.kind, Kind::Connect(connect) if connect.service == "question");
            let outcome = Some(Outcome::Ready(Ready::default()));
            write_frame(&mut stream.send, &StreamReply { outcome })
                .await
                .unwrap();
            while let Ok(Some(chunk)) = stream.recv.read_chunk(64 * 1024).await {
                if !is_question {
                    sink.downloads.fetch_add(chunk.len(), Ordering::Relaxed);
                } else if sink.question.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len() >= QUESTION {
                    let before = sink.downloads.load(Ordering::Relaxed);
                    sink.downloads_before.store(before, Ordering::Relaxed);
                }
            }
        })
    }
}

async fn open(tunnel: &Tunnel, service: &str) -> Stream {
    let kind = Kind::Connect(Connect {
        service: service.to_owned(),
        ..Connect::default()
    });
    tunnel.open(&StreamHeader { kind: Some(kind) }).await.unwrap()
}

/// Writes for ever; what it returns counts the bytes.
async fn download(tunnel: &Tunnel) -> Arc<AtomicUsize> {
    let Stream { mut send, recv } = open(tunnel, "download").await;
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    tokio::spawn(async move {
        let _recv = recv;
        let chunk = Bytes::from_static(&[7; 16 * 1024]);
        while send.write_chunk(chunk.clone()).await.is_ok() {
            count.fetch_add(chunk.len(), Ordering::Relaxed);
        }
    });
    written
}

#[tokio::test]
async fn a_question_neither_waits_for_downloads_to_be_written_nor_to_be_sent() {
    let ca = Ca::new(DOMAIN).unwrap();
    let sink = Arc::new(Sink::default());
    let quiet = |config: &mut causeway_tunnel::TunnelConfig| {
        (config.keep_alive, config.idle_timeout) = (NEVER, NEVER);
    };
    let known = [("east", none()), ("plant", none())];
    let identity = |zone| ca.issue(&id(zone), DAY).unwrap();
    let east = Gate::serving(identity("east"), &known, Arc::new(Take(sink.clone())), quiet);
    let detour = Detour::to(east.address()).await;
    let zones = [("east", one(detour.address)), ("plant", none())];
    let plant = Gate::serving(identity("plant"), &zones, Arc::new(Take(Arc::default())), quiet);
    let tunnel = plant.tunnel_to("east").await;

    let mut downloads = Vec::new();
    for _ in 0..DOWNLOADS {
        downloads.push(download(&tunnel).await);
    }
    let carried = |written: &Arc<AtomicUsize>| written.load(Ordering::Relaxed) >= CARRIED;
    until("each download to have carried much", || {
        downloads.iter().all(carried).then_some(())
    })
    .await;
    detour.cut(true);
    let total = || {
        downloads
            .iter()
            .map(|written| written.load(Ordering::Relaxed))
            .sum::<usize>()
    };
    until("much to wait", || {
        (total() >= sink.downloads.load(Ordering::Relaxed) + QUEUED).then_some(())
    })
    .await;

    let Stream {
        mut send,
        recv: _recv,
    } = open(&tunnel, "question").await;
    let writing = send.write_chunk(Bytes::from_static(&[1; QUESTION]));
    let written = tokio::time::timeout(Duration::from_secs(20), writing).await;
    written.expect("written while nothing passes").unwrap();

    let before = sink.downloads.load(Ordering::Relaxed);
    detour.cut(false);
    until("the question to come", || {
        (sink.downloads_before.load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    let meanwhile = sink.downloads_before.load(Ordering::Relaxed) - before;
    // Packet by packet in turns, each of them would have sent as much as the question has.
    assert!(
        meanwhile < DOWNLOADS * QUESTION / 3,
        "{meanwhile} bytes of downloads came first"
    );
}
