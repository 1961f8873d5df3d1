//! Limits of connections that speak HTTP/1.1.

use std::time::Duration;

/// Longest head of a request or an answer in bytes: room for large cookies and tokens, and no more for a client that never ends.
pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most header fields of a request or an answer: far above what programs send.
pub(crate) const MAX_HEADERS: usize = 100;
/// Longest time from the first byte of a request to the last of its head: a slow client must not hold a place for ever.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a client's connection may wait between two requests, as long as a relay may stall.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(5 * 60);
/// Longest time that a connection to an instance is kept for the next request: less than the 5 s after which common servers
/// close theirs, so that no request meets one that is being closed.
pub(crate) const UPSTREAM_KEEP_ALIVE: Duration = Duration::from_secs(4);
/// Longest wait for a kept connection to be free again once both bodies have ended: it only takes its task's next turn.
pub(crate) const REUSE_WAIT: Duration = Duration::from_millis(100);
/// Time in which a shutdown still waits for the first request of a new connection, or the rest of a head.
pub(crate) const DRAIN_WAIT: Duration = Duration::from_secs(1);
