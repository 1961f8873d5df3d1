//! Limits of connections that speak HTTP.

use std::time::Duration;

use super::scan::ScanLimits;

/// Longest head of a request or an answer in bytes: room for large cookies and tokens, and no more for a client that never ends.
pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most header fields of a request or an answer: far above what programs send.
pub(crate) const MAX_HEADERS: usize = 100;
/// Longest trailers of a request in bytes: they carry sums and states, and are kept until they are whole.
pub(crate) const MAX_TRAILER_BYTES: usize = 16 * 1024;
/// Longest line before a chunk in bytes, with its extensions, which mean nothing here.
pub(crate) const MAX_CHUNK_LINE_BYTES: usize = 1024;
/// Most bytes of chunk extensions in one body: below the 16 KiB at which the parser behind the scan gives up.
pub(crate) const MAX_EXTENSION_BYTES: usize = 8 * 1024;
/// Longest wait for the first byte of a new connection: a client that opens one ahead soon uses it.
pub(crate) const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time from the first byte of a request to the last of its head: a slow client must not hold a place for ever.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a client's connection may wait between two requests, as long as a relay may stall.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(5 * 60);
/// Longest wait for the answer to a client that has ended its side of the connection: one that is gone looks the same, and most of those
/// that are not want their answer at once.
pub(crate) const FINISHED_CLIENT_WAIT: Duration = Duration::from_secs(30);
/// Longest time until it is noticed that a client has ended its side while its request is under way.
pub(crate) const FINISHED_LOOK: Duration = Duration::from_secs(5);
/// Longest time that a client which was refused is still read from, and what it sends thrown away: closing while bytes come
/// resets the connection, and the client may never see the answer.
pub(crate) const REFUSED_LINGER: Duration = Duration::from_secs(5);
/// Most bytes that are read from it in that time.
pub(crate) const MAX_REFUSED_BYTES: usize = 1024 * 1024;
/// Longest time that a body whose client waits for `100 Continue` is kept from the instance, which may know nothing of it: as
/// long as curl waits.
pub(crate) const CONTINUE_WAIT: Duration = Duration::from_secs(1);
/// Most bytes of interim answers (1xx) that wait for a client. Those for which there is no room are left out.
pub(crate) const MAX_INTERIM_BYTES: usize = 32 * 1024;
/// Longest time that a connection to an instance is kept for the next request: less than the 5 s after which common servers
/// close theirs, so that no request meets one that is being closed.
pub(crate) const UPSTREAM_KEEP_ALIVE: Duration = Duration::from_secs(4);
/// Longest time that a connection to an instance which the far gateway lends is kept for the next request. With the time for which that keeps it
/// then, it is less than the same 5 s.
pub(crate) const LENT_KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Age from which such a connection is given no further request, so that the far gateway picks again.
pub(crate) const LENT_MAX_AGE: Duration = Duration::from_secs(5);
/// Longest time that a connection to an instance which one stream has given back waits for the next one.
pub(crate) const WARM_KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Longest wait for a kept connection to be free again once both bodies have ended: it only takes its task's next turn.
pub(crate) const REUSE_WAIT: Duration = Duration::from_millis(100);
/// Time in which a shutdown still waits for the next request of a connection of HTTP/1.1, the first of a new one, or the rest of a head.
pub(crate) const DRAIN_WAIT: Duration = Duration::from_secs(1);
/// Time in which a client of HTTP/1.1 whose connection is to end is told so with its next answer. One that asks for nothing in it finds the
/// connection closed, at a moment when it is unlikely to ask just then.
pub(crate) const LEAVE_WAIT: Duration = Duration::from_secs(3);
/// Limits within which requests are scanned.
pub(crate) const SCAN_LIMITS: ScanLimits = ScanLimits {
    head_bytes: MAX_HEAD_BYTES,
    fields: MAX_HEADERS,
    trailer_bytes: MAX_TRAILER_BYTES,
    chunk_line_bytes: MAX_CHUNK_LINE_BYTES,
    extension_bytes: MAX_EXTENSION_BYTES,
};
/// Copies of requests that one gateway makes at once. Those beyond it are not made.
pub(crate) const MAX_MIRRORED: usize = 256;
/// Bytes of a body that may wait for its copy; with more of them the copy is broken off.
pub(crate) const MAX_MIRROR_LAG_BYTES: usize = 256 * 1024;
/// Most bytes of the answer to a copy that are read and thrown away, before its connection is.
pub(crate) const MAX_MIRRORED_ANSWER_BYTES: usize = 1024 * 1024;
/// Limits within which the requests of another gateway are scanned: its client's, and room for what that gateway and its routes add.
pub(crate) const PEER_SCAN_LIMITS: ScanLimits = ScanLimits {
    head_bytes: 2 * MAX_HEAD_BYTES,
    fields: 2 * MAX_HEADERS,
    ..SCAN_LIMITS
};
/// Connections of HTTP/1.1 to instances that are kept for the next requests of one client.
pub(crate) const MAX_IDLE_UPSTREAMS: usize = 8;

/// Requests under way at once on one HTTP/2 connection of a client: what clients expect at least (RFC 9113, 6.5.2), and some more. Those
/// beyond it wait at the client.
pub(crate) const MAX_CONCURRENT_STREAMS: u32 = 128;
/// Longest time in which the requests of an HTTP/2 connection that is cut are ended one by one, before it is reset.
pub(crate) const CUT_WAIT: Duration = Duration::from_millis(500);
/// Requests that a client may take back before this gateway has looked at them; with another its connection ends.
pub(crate) const MAX_PENDING_RESETS: usize = 20;
/// Streams that this gateway itself may have reset for a client's mistakes; with another the connection ends.
pub(crate) const MAX_MISTAKEN_STREAMS: usize = 128;
/// Time within which a request that its client gives up counts as hasty: less than the deadlines that programs set.
pub(crate) const HASTY: Duration = Duration::from_millis(50);
/// Requests that one connection may give up in haste, less those that it let come to an answer: far from what hedging and deadlines do.
pub(crate) const MAX_HASTY_RESETS: u32 = 200;
/// Bytes of one request's body that a client may send before they are taken: enough for a LAN.
pub(crate) const CLIENT_STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes of all bodies of one client's connection that may wait here.
pub(crate) const CLIENT_WINDOW: u32 = 1024 * 1024;
/// Bytes of one answer that an instance may send before the client takes them: 25 MB/s over a round trip of 40 ms.
pub(crate) const UPSTREAM_STREAM_WINDOW: u32 = 1024 * 1024;
/// Bytes of all answers on one connection to an instance that may wait here.
pub(crate) const UPSTREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// Bytes of one body that may wait here for a connection to take them.
pub(crate) const MAX_SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Bytes of answers that may wait here for one client's connection of HTTP/2 to take them, and one piece of each answer beside it: more than a
/// connection sends within a moment in which nobody looks.
pub(crate) const MAX_UNREAD_ANSWERS_OF_CLIENT: usize = 1024 * 1024;
/// The same for all clients together. Once it is spent answers go on piece by piece.
pub(crate) const MAX_UNREAD_ANSWERS_OF_ALL: usize = 64 * 1024 * 1024;
/// Bytes of a request's body that are remembered until it is answered, to be given to another instance should this one refuse it unread.
pub(crate) const MAX_REPLAYED_BYTES: usize = 64 * 1024;
/// Instances that one request is given to, should those before it refuse it unread.
pub(crate) const MAX_GIVEN: u32 = 3;
/// HTTP/2 connections to different instances of this zone that one client's requests are spread over.
pub(crate) const LOCAL_SPREAD: usize = 16;
/// HTTP/2 connections to one gateway of another zone that one client's requests are spread over: that gateway picks an instance for each.
pub(crate) const REMOTE_SPREAD: usize = 4;
/// HTTP/2 connections that the requests of one client share; another one takes the place of the one that was used last.
pub(crate) const MAX_SHARED_UPSTREAMS: usize = 64;
/// Such connections that are opened for one client to one place at once; its other requests wait for them.
pub(crate) const MAX_OPENING: usize = 4;
/// Longest wait of a request for a connection that is opened for another one.
pub(crate) const OPENING_WAIT: Duration = Duration::from_millis(250);
/// Connections of HTTP/2 to one place that the requests of one client have at once where its instances take few requests on each; its other
/// requests wait for one of them.
pub(crate) const MAX_ALIKE_UPSTREAMS: usize = 32;
/// Longest wait of a request for an instance that takes no more of them, if its service sets no `timeout`.
pub(crate) const ROOM_WAIT: Duration = Duration::from_secs(60);
/// Requests that a new HTTP/2 connection is given before its instance has said how many it takes.
pub(crate) const CALLS_BEFORE_SETTINGS: usize = 1;
/// Most requests under way at once on one HTTP/2 connection to an instance, where that takes so many.
pub(crate) const MAX_CALLS: usize = 100;
/// Longest time that an HTTP/2 connection to an instance is kept without a request: its end costs no request, because HTTP/2 says which it
/// has not read.
pub(crate) const SHARED_KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Age from which such a connection is given no further request, so that the far gateway picks again.
pub(crate) const SHARED_MAX_AGE: Duration = Duration::from_secs(30);
