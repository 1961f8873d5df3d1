//! Every way in which a connection between a socket and a stream can end.

use std::{io, sync::Arc, time::Duration};

use causeway_tunnel::{Stream, Tunnel};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufWriter, Interest},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    task::JoinHandle,
};

use super::*;
use crate::testbed;

/// One relay between a socket and a stream, and the far end of each.
pub(super) struct Between {
    pub(super) socket: TcpStream,
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
    pub(super) relay: JoinHandle<Relayed>,
    cut: CancellationToken,
    pub(super) counters: RelayCounters,
    pub(super) tunnel: Arc<Tunnel>,
    /// Keeps the near end of the tunnel up.
    _near: Arc<Tunnel>,
}

/// Limits that no test reaches.
pub(super) const LIMITS: RelayLimits = RelayLimits {
    stall: STALL_LIMIT,
    half_closed: None,
    idle: None,
    gives_back: false,
    hears_out: false,
};

pub(super) async fn between() -> Between {
    between_within(LIMITS).await
}

pub(super) async fn between_within(limits: RelayLimits) -> Between {
    let (socket, mut relayed_socket) = testbed::sockets().await;
    let (mut near_end, Stream { send, recv }, (near, tunnel)) = testbed::streams().await;
    let cut = CancellationToken::new();
    let counters = RelayCounters::default();
    let (token, counted) = (cut.clone(), counters.clone());
    let relay = tokio::spawn(async move {
        let Stream { send, recv } = &mut near_end;
        let relayed = stream(&mut relayed_socket, send, recv, counted, limits, &token).await;
        drop(relayed_socket);
        // Delivers what is still on its way before the connection goes.
        if relayed.end == RelayEnd::Finished {
            let _ = near_end.send.stopped().await;
        }
        relayed
    });
    Between {
        socket,
        send,
        recv,
        relay,
        cut,
        counters,
        tunnel,
        _near: near,
    }
}

pub(super) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("done in time")
}

/// Bytes that a shift or a swap would change.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

pub(super) fn is_reset<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_connection_without_bytes_ends_cleanly() {
    let mut b = between().await;
    b.socket.shutdown().await.unwrap();
    assert!(in_time(b.recv.read_to_end(9)).await.unwrap().is_empty());
    b.send.finish().unwrap();
    assert_eq!(in_time(b.socket.read(&mut [0; 9])).await.unwrap(), 0);
    let expected = Relayed {
        sent: 0,
        received: 0,
        end: RelayEnd::Finished,
    };
    assert_eq!(in_time(b.relay).await.unwrap(), expected);
}

#[tokio::test]
async fn the_stream_still_answers_after_the_socket_has_finished() {
    let mut b = between().await;
    b.socket.write_all(b"question").await.unwrap();
    b.socket.shutdown().await.unwrap();
    assert_eq!(in_time(b.recv.read_to_end(99)).await.unwrap(), b"question");
    b.send.write_all(b"answer").await.unwrap();
    b.send.finish().unwrap();
    let mut answer = Vec::new();
    in_time(b.socket.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"answer");
    let expected = Relayed {
        sent: 8,
        received: 6,
        end: RelayEnd::Finished,
    };
    assert_eq!(in_time(b.relay).await.unwrap(), expected);
}

#[tokio::test]
async fn the_socket_still_sends_after_the_stream_has_finished() {
    let mut b = between().await;
    b.send.write_all(b"greeting").await.unwrap();
    b.send.finish().unwrap();
    let mut greeting = Vec::new();
    in_time(b.socket.read_to_end(&mut greeting)).await.unwrap();
    assert_eq!(greeting, b"greeting");
    b.socket.write_all(b"upload").await.unwrap();
    b.socket.shutdown().await.unwrap();
    assert_eq!(in_time(b.recv.read_to_end(99)).await.unwrap(), b"upload");
    let expected = Relayed {
        sent: 6,
        received: 8,
        end: RelayEnd::Finished,
    };
    assert_eq!(in_time(b.relay).await.unwrap(), expected);
}

#[tokio::test]
async fn a_reset_of_the_socket_resets_the_stream() {
    let mut b = between().await;
    b.socket.set_zero_linger().unwrap();
    drop(b.socket);
    let error = in_time(b.recv.read_to_end(9)).await.unwrap_err();
    assert_eq!(error, ReadError::Reset(StreamCode::Reset));
    assert_eq!(in_time(b.send.stopped()).await.unwrap(), Some(StreamCode::Reset));
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::SocketReset);
}

#[tokio::test]
async fn a_reset_of_the_socket_is_seen_after_it_has_finished() {
    let mut b = between().await;
    b.socket.shutdown().await.unwrap();
    assert!(in_time(b.recv.read_to_end(9)).await.unwrap().is_empty());
    b.socket.set_zero_linger().unwrap();
    drop(b.socket);
    assert_eq!(in_time(b.send.stopped()).await.unwrap(), Some(StreamCode::Reset));
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::SocketReset);
}

#[tokio::test]
async fn a_reset_of_the_stream_resets_the_socket() {
    let mut b = between().await;
    b.send.write_all(b"half an ans").await.unwrap();
    in_time(b.socket.read_exact(&mut [0; 11])).await.unwrap();
    b.send.reset(StreamCode::Reset).unwrap();
    assert!(is_reset(in_time(b.socket.read(&mut [0; 9])).await));
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::PeerReset);
}

#[tokio::test]
async fn a_stop_of_the_stream_is_seen_after_it_has_finished() {
    let mut b = between().await;
    b.send.finish().unwrap();
    assert_eq!(in_time(b.socket.read(&mut [0; 9])).await.unwrap(), 0);
    b.recv.stop(StreamCode::Reset).unwrap();
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::PeerReset);
    in_time(b.socket.ready(Interest::ERROR)).await.unwrap();
    assert!(b.socket.take_error().unwrap().is_some());
}

#[tokio::test]
async fn a_lost_tunnel_resets_the_socket() {
    let mut b = between().await;
    b.tunnel.close();
    assert!(is_reset(in_time(b.socket.read(&mut [0; 9])).await));
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::TunnelLost);
}

#[tokio::test]
async fn a_cut_resets_both_sides() {
    let mut b = between().await;
    b.cut.cancel();
    assert!(is_reset(in_time(b.socket.read(&mut [0; 9])).await));
    let error = in_time(b.recv.read_to_end(9)).await.unwrap_err();
    assert_eq!(error, ReadError::Reset(StreamCode::Cut));
    assert_eq!(in_time(b.relay).await.unwrap().end, RelayEnd::Cut);
}

#[tokio::test]
async fn a_cut_at_the_other_end_is_told_from_a_reset() {
    for (code, end) in [
        (StreamCode::Cut, RelayEnd::PeerCut),
        (StreamCode::Reset, RelayEnd::PeerReset),
    ] {
        let mut b = between().await;
        b.send.reset(code).unwrap();
        assert!(is_reset(in_time(b.socket.read(&mut [0; 9])).await));
        assert_eq!(in_time(b.relay).await.unwrap().end, end);
    }
}

const LARGE: usize = 64 * 1024 * 1024;

#[tokio::test]
async fn a_large_upload_arrives_whole_at_a_slow_reader() {
    let Between {
        mut socket,
        send: _send,
        mut recv,
        ..
    } = between().await;
    let sent = pattern(LARGE);
    let expected = sent.clone();
    let upload = tokio::spawn(async move {
        socket.write_all(&sent).await.unwrap();
        socket.shutdown().await.unwrap();
        socket
    });
    let mut arrived = Vec::with_capacity(LARGE);
    while let Some(chunk) = in_time(recv.read_chunk(1 << 20)).await.unwrap() {
        if arrived.is_empty() {
            // Nobody reads: the sender must come to a halt with only the windows filled.
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(!upload.is_finished());
        }
        arrived.extend_from_slice(&chunk);
    }
    assert!(arrived == expected, "the bytes differ");
    in_time(upload).await.unwrap();
}

#[tokio::test]
async fn a_large_download_arrives_whole_at_a_slow_reader() {
    let Between {
        mut socket,
        mut send,
        recv: _recv,
        ..
    } = between().await;
    let sent = pattern(LARGE);
    let expected = sent.clone();
    let download = tokio::spawn(async move {
        send.write_all(&sent).await.unwrap();
        send.finish().unwrap();
        send.stopped().await
    });
    let mut arrived = vec![0; 4096];
    in_time(socket.read_exact(&mut arrived)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!download.is_finished());
    in_time(socket.read_to_end(&mut arrived)).await.unwrap();
    assert!(arrived == expected, "the bytes differ");
    in_time(download).await.unwrap().unwrap();
}

/// A client and an instance with a relay between their sockets.
async fn local() -> (TcpStream, TcpStream, JoinHandle<Relayed>, CancellationToken) {
    let (client, instance, relay, cut, _counters) = local_within(LIMITS).await;
    (client, instance, relay, cut)
}

pub(super) async fn local_within(
    limits: RelayLimits,
) -> (
    TcpStream,
    TcpStream,
    JoinHandle<Relayed>,
    CancellationToken,
    RelayCounters,
) {
    let (client, mut near_client) = testbed::sockets().await;
    let (mut near_instance, instance) = testbed::sockets().await;
    let cut = CancellationToken::new();
    let counters = RelayCounters::default();
    let (token, counted) = (cut.clone(), counters.clone());
    let relay =
        tokio::spawn(
            async move { sockets(&mut near_client, &mut near_instance, counted, limits, &token).await },
        );
    (client, instance, relay, cut, counters)
}

#[tokio::test]
async fn sockets_close_each_way_on_its_own() {
    let (mut client, mut instance, relay, _cut) = local().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    in_time(instance.read_to_end(&mut question)).await.unwrap();
    assert_eq!(question, b"question");
    instance.write_all(b"answer").await.unwrap();
    instance.shutdown().await.unwrap();
    let mut answer = Vec::new();
    in_time(client.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"answer");
    let expected = Relayed {
        sent: 8,
        received: 6,
        end: RelayEnd::Finished,
    };
    assert_eq!(in_time(relay).await.unwrap(), expected);
}

#[tokio::test]
async fn a_reset_of_either_socket_resets_the_other() {
    let (client, mut instance, relay, _cut) = local().await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert!(is_reset(in_time(instance.read(&mut [0; 9])).await));
    assert_eq!(in_time(relay).await.unwrap().end, RelayEnd::SocketReset);

    let (mut client, instance, relay, _cut) = local().await;
    instance.set_zero_linger().unwrap();
    drop(instance);
    assert!(is_reset(in_time(client.read(&mut [0; 9])).await));
    assert_eq!(in_time(relay).await.unwrap().end, RelayEnd::PeerReset);
}

#[tokio::test]
async fn sockets_carry_a_large_body_both_ways_at_once() {
    let (client, instance, relay, _cut) = local().await;
    let body = pattern(16 * 1024 * 1024);
    let both = |socket: TcpStream, body: Vec<u8>| async move {
        let (mut reader, mut writer) = socket.into_split();
        let expected = body.clone();
        let write = tokio::spawn(async move {
            writer.write_all(&body).await.unwrap();
            writer.shutdown().await.unwrap();
            writer
        });
        let mut arrived = Vec::new();
        reader.read_to_end(&mut arrived).await.unwrap();
        assert!(arrived == expected, "the bytes differ");
        write.await.unwrap();
    };
    in_time(async { tokio::join!(both(client, body.clone()), both(instance, body)) }).await;
    assert_eq!(in_time(relay).await.unwrap().end, RelayEnd::Finished);
}

#[tokio::test]
async fn a_relay_is_small_while_it_waits() {
    let (Stream { mut send, mut recv }, _far, _tunnels) = testbed::streams().await;
    let (_client, mut socket) = testbed::sockets().await;
    let (_other, mut other) = testbed::sockets().await;
    let cut = CancellationToken::new();
    let size = size_of_val(&stream(
        &mut socket,
        &mut send,
        &mut recv,
        RelayCounters::default(),
        LIMITS,
        &cut,
    ));
    assert!(size < 512, "{size} bytes");
    let size = size_of_val(&sockets(
        &mut socket,
        &mut other,
        RelayCounters::default(),
        LIMITS,
        &cut,
    ));
    assert!(size < 512, "{size} bytes");
}

#[tokio::test]
async fn one_that_takes_nothing_is_ended_and_one_that_takes_a_little_is_not() {
    const SHORT: Duration = Duration::from_millis(100);
    for reads in [false, true] {
        let (mut near_end, Stream { mut send, recv }, _tunnels) = testbed::streams().await;
        let (mut client, mut near) = testbed::sockets().await;
        let relay = tokio::spawn(async move {
            let (cut, meters) = (CancellationToken::new(), RelayCounters::default());
            let Stream { send, recv } = &mut near_end;
            {
                let limits = RelayLimits {
                    stall: SHORT,
                    ..LIMITS
                };
                stream(&mut near, send, recv, meters, limits, &cut).await
            }
        });
        let writer = tokio::spawn(async move {
            let blast = vec![7; LARGE];
            (send.write_all(&blast).await.is_ok(), recv)
        });
        if reads {
            // A few bytes at a time, for several limits, and then the rest.
            let mut part = vec![0; 512 * 1024];
            for _ in 0..20 {
                in_time(client.read_exact(&mut part)).await.unwrap();
                tokio::time::sleep(SHORT / 4).await;
            }
            let mut left = LARGE - 20 * part.len();
            while left > 0 {
                left -= in_time(client.read(&mut part)).await.unwrap();
            }
            assert!(in_time(writer).await.unwrap().0);
        } else {
            assert_eq!(in_time(relay).await.unwrap().end, RelayEnd::Stalled);
            assert!(!in_time(writer).await.unwrap().0);
        }
    }
}

/// A socket that sends nothing of what it was given before it is flushed, as TLS does while the network takes no more.
struct Holding(TcpStream);

impl Socket for Holding {
    type Reader<'a> = ReadHalf<'a>;
    type Writer<'a> = BufWriter<WriteHalf<'a>>;

    fn split(&mut self) -> (ReadHalf<'_>, BufWriter<WriteHalf<'_>>) {
        let (reader, writer) = self.0.split();
        (reader, BufWriter::new(writer))
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        self.0.set_zero_linger()
    }
}

#[tokio::test]
async fn nothing_is_held_back_when_nothing_more_comes() {
    // Of a stream.
    let (
        mut near_end,
        Stream {
            mut send,
            recv: _recv,
        },
        _tunnels,
    ) = testbed::streams().await;
    let (mut client, near) = testbed::sockets().await;
    let relaying = tokio::spawn(async move {
        let (cut, meters) = (CancellationToken::new(), RelayCounters::default());
        let Stream { send, recv } = &mut near_end;
        stream(&mut Holding(near), send, recv, meters, LIMITS, &cut).await
    });
    let mut heard = [0; 5];
    for word in [b"hello", b"again"] {
        send.write_all(word).await.unwrap();
        in_time(client.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, word);
    }
    relaying.abort();

    // Of another socket.
    let (mut client, near) = testbed::sockets().await;
    let (mut near_instance, mut instance) = testbed::sockets().await;
    let relaying = tokio::spawn(async move {
        let (cut, meters) = (CancellationToken::new(), RelayCounters::default());
        sockets(&mut Holding(near), &mut near_instance, meters, LIMITS, &cut).await
    });
    for word in [b"hello", b"again"] {
        instance.write_all(word).await.unwrap();
        in_time(client.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, word);
    }
    relaying.abort();
}
