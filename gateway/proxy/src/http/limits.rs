//! Limits of connections that speak HTTP/1.1.

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
/// Longest wait for a kept connection to be free again once both bodies have ended: it only takes its task's next turn.
pub(crate) const REUSE_WAIT: Duration = Duration::from_millis(100);
/// Time in which a shutdown still waits for the first request of a new connection, or the rest of a head.
pub(crate) const DRAIN_WAIT: Duration = Duration::from_secs(1);
/// Limits within which requests are scanned.
pub(crate) const SCAN_LIMITS: ScanLimits = ScanLimits {
    head_bytes: MAX_HEAD_BYTES,
    fields: MAX_HEADERS,
    trailer_bytes: MAX_TRAILER_BYTES,
    chunk_line_bytes: MAX_CHUNK_LINE_BYTES,
    extension_bytes: MAX_EXTENSION_BYTES,
};
