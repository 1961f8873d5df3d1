//! Relays of which one direction is blocked or one side has finished: resets are seen all the same, and limits are kept.

use std::cell::Cell;

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::tcp::OwnedReadHalf,
    sync::oneshot,
    task::JoinHandle,
};

use super::{
    tests::{LIMITS, between, between_within, in_time, is_reset, local_within},
    *,
};
use crate::testbed;

/// More than anything on the way holds.
const BLAST_BYTES: usize = 64 << 20;

/// Begins to write and waits until nothing moves any more.
async fn block(mut writer: impl AsyncWrite + Unpin + Send + 'static, counter: &Counter) -> JoinHandle<()> {
    let writing = tokio::spawn(async move {
        // It ends by the reset that the test is about.
        let _ = writer.write_all(&vec![7; BLAST_BYTES]).await;
    });
    until_still(counter).await;
    writing
}

async fn until_still(counter: &Counter) {
    let still = Cell::new((0, 0));
    testbed::until("nothing moves any more", || {
        let (bytes, looks) = still.get();
        let now = counter.get();
        still.set(if now == bytes && now > 0 {
            (now, looks + 1)
        } else {
            (now, 0)
        });
        looks > 50
    })
    .await;
}

/// Resets a connection of which another task has the half that writes.
async fn reset(reader: OwnedReadHalf, writing: JoinHandle<()>) {
    SockRef::from(reader.as_ref())
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    writing.abort();
    let _ = writing.await;
    drop(reader);
}

#[tokio::test]
async fn a_reset_of_the_socket_is_seen_while_its_upload_is_blocked() {
    let b = between().await;
    let (reader, writer) = b.socket.into_split();
    let writing = block(writer, &b.counters.sent).await;
    reset(reader, writing).await;
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::SocketReset);
    assert_eq!(in_time(b.send.stopped()).await.unwrap(), Some(StreamCode::Reset));
}

/// Sends more than is taken, and resets the stream once no more of it is.
async fn reset_while_blocked(mut send: SendHalf, received: &Counter) {
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let blast = vec![7; BLAST_BYTES];
        tokio::select! {
            _ = send.write_all(&blast) => {}
            _ = stopped => {}
        }
        send.reset(StreamCode::Reset).unwrap();
    });
    until_still(received).await;
    stop.send(()).unwrap();
}

#[tokio::test]
async fn a_reset_of_the_stream_is_seen_while_its_download_is_blocked() {
    let mut b = between().await;
    reset_while_blocked(b.send, &b.counters.received).await;
    // As a relay does that ends.
    b.recv.stop(StreamCode::Reset).unwrap();
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::PeerReset);
    assert!(is_reset(in_time(b.socket.read_to_end(&mut Vec::new())).await));
}

#[tokio::test]
async fn a_client_that_has_finished_and_does_not_read_hears_of_a_reset_before_it_reads_on() {
    let mut b = between().await;
    b.socket.shutdown().await.unwrap();
    assert!(in_time(b.recv.read_to_end(9)).await.unwrap().is_empty());
    reset_while_blocked(b.send, &b.counters.received).await;
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::PeerReset);
    assert!(is_reset(in_time(b.socket.read_to_end(&mut Vec::new())).await));
}

#[tokio::test]
async fn a_client_that_has_finished_and_does_not_read_hears_of_a_lost_tunnel_before_it_reads_on() {
    let mut b = between().await;
    b.socket.shutdown().await.unwrap();
    assert!(in_time(b.recv.read_to_end(9)).await.unwrap().is_empty());
    let writing = block(b.send, &b.counters.received).await;
    b.tunnel.close();
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::TunnelLost);
    assert!(is_reset(in_time(b.socket.read_to_end(&mut Vec::new())).await));
    in_time(writing).await.unwrap();
}

/// Sends as much as is taken while nobody reads, and says how much that was.
async fn fill(mut send: SendHalf, received: &Counter) -> (SendHalf, usize) {
    let (stop, mut stopped) = oneshot::channel::<()>();
    let filling = tokio::spawn(async move {
        let mut written = 0;
        loop {
            let mut chunks = [Bytes::from_static(&[7; 4096])];
            tokio::select! {
                more = send.write_chunks(&mut chunks) => written += more.unwrap(),
                _ = &mut stopped => return (send, written),
            }
        }
    });
    until_still(received).await;
    stop.send(()).unwrap();
    filling.await.unwrap()
}

#[tokio::test]
async fn an_answer_that_has_come_whole_outlives_its_tunnel() {
    let mut b = between().await;
    b.socket.shutdown().await.unwrap();
    assert!(in_time(b.recv.read_to_end(9)).await.unwrap().is_empty());
    let (mut send, written) = fill(b.send, &b.counters.received).await;
    send.finish().unwrap();
    // All of it has been received.
    assert_eq!(in_time(send.stopped()).await.unwrap(), None);
    b.tunnel.close();
    // Looked at in the meantime, more than once.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut all = Vec::new();
    in_time(b.socket.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all.len(), written);
}

#[tokio::test]
async fn a_client_that_has_finished_and_was_slow_gets_everything() {
    let mut b = between().await;
    b.socket.shutdown().await.unwrap();
    assert!(in_time(b.recv.read_to_end(9)).await.unwrap().is_empty());
    let mut send = b.send;
    let sending = tokio::spawn(async move {
        send.write_all(&vec![7; BLAST_BYTES]).await.unwrap();
        send.finish().unwrap();
        send
    });
    until_still(&b.counters.received).await;
    // Looked at in the meantime, more than once.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut all = Vec::new();
    in_time(b.socket.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all.len(), BLAST_BYTES);
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::Finished);
    drop(in_time(sending).await.unwrap());
}

#[tokio::test]
async fn a_reader_that_was_slow_gets_everything_and_its_connection_ends_in_order() {
    let mut b = between().await;
    let mut send = b.send;
    let sending = tokio::spawn(async move {
        send.write_all(&vec![7; BLAST_BYTES]).await.unwrap();
        send.finish().unwrap();
        send
    });
    until_still(&b.counters.received).await;
    let mut all = Vec::new();
    in_time(b.socket.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all.len(), BLAST_BYTES);
    b.socket.shutdown().await.unwrap();
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::Finished);
    drop(in_time(sending).await.unwrap());
}

#[tokio::test]
async fn a_far_side_that_has_finished_and_reads_no_more_is_seen_while_its_answer_is_blocked() {
    let mut b = between().await;
    // The rest lies in the stream, with its end.
    let blast = vec![7; BLAST_BYTES];
    tokio::select! {
        _ = b.send.write_all(&blast) => {}
        () = until_still(&b.counters.received) => {}
    }
    b.send.finish().unwrap();
    b.recv.stop(StreamCode::Reset).unwrap();
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::PeerReset);
}

#[tokio::test]
async fn a_reset_of_either_socket_is_seen_while_what_it_sends_is_blocked() {
    for by_client in [true, false] {
        let (client, instance, relay, _cut, counters) = local_within(LIMITS).await;
        let (resets, other, counter, end) = match by_client {
            true => (client, instance, counters.sent, RelayEnd::SocketReset),
            false => (instance, client, counters.received, RelayEnd::PeerReset),
        };
        let (reader, writer) = resets.into_split();
        let writing = block(writer, &counter).await;
        reset(reader, writing).await;
        assert_eq!(in_time(relay).await.unwrap().end, end);
        drop(other);
    }
}

const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn half_closed_connections_have_a_limit_and_open_ones_none() {
    let limits = RelayLimits {
        half_closed: Some(SHORT),
        ..LIMITS
    };
    let (mut b, open) = (between_within(limits).await, between_within(limits).await);
    b.socket.shutdown().await.unwrap();
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::HalfClosed);
    let (mut client, _instance, relay, ..) = local_within(limits).await;
    client.shutdown().await.unwrap();
    assert_eq!(in_time(relay).await.unwrap().end, RelayEnd::HalfClosed);
    assert!(!open.relay.is_finished());
}

#[tokio::test]
async fn an_idle_connection_ends_and_one_on_which_a_byte_moves_now_and_then_does_not() {
    let limits = RelayLimits {
        idle: Some(SHORT),
        ..LIMITS
    };
    let (b, mut talking) = (between_within(limits).await, between_within(limits).await);
    for _ in 0..32 {
        in_time(talking.socket.write_all(b"x")).await.unwrap();
        in_time(talking.recv.read_exact(&mut [0])).await.unwrap();
        tokio::time::sleep(SHORT / 8).await;
    }
    assert!(b.relay.is_finished());
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::Idle);
    assert_eq!(in_time(talking.relay).await.unwrap().end, RelayEnd::Idle);
    let (_client, _instance, relay, ..) = local_within(limits).await;
    assert_eq!(in_time(relay).await.unwrap().end, RelayEnd::Idle);
}

#[tokio::test]
async fn what_an_instance_has_said_arrives_before_the_reset_that_follows_it() {
    // As much as the kernel has handed over by the time that it resets.
    const ANSWER: usize = 20_000;
    let limits = RelayLimits {
        hears_out: true,
        ..LIMITS
    };
    // The request is never read, so that the end of the socket is a reset; and who sends it on meets that by writing.
    for is_sending in [false, true] {
        let mut b = between_within(limits).await;
        b.send.write_all(b"a request that nobody reads").await.unwrap();
        in_time(b.socket.readable()).await.unwrap();
        b.socket.write_all(&[7; ANSWER]).await.unwrap();
        drop(b.socket);
        if is_sending {
            let _ = b.send.write_all(&[0; 4096]).await;
        }
        let mut answer = vec![0; ANSWER];
        in_time(b.recv.read_exact(&mut answer)).await.unwrap();
        // It is no end.
        let error = in_time(b.recv.read_to_end(9)).await.unwrap_err();
        assert_eq!(error, ReadError::Reset(StreamCode::Reset));
        let relayed = in_time(b.relay).await.unwrap();
        assert_eq!(
            (relayed.sent, relayed.end),
            (ANSWER as u64, RelayEnd::SocketReset)
        );
    }
}
