//! Keepalive of TCP on the sockets of clients and instances: a host that died without a word is noticed though nobody speaks.

use std::{os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpListener;

/// Usual time of silence after which the kernel asks whether the other side is there.
pub const KEEPALIVE: Duration = Duration::from_secs(60);
/// Times of silence that the kernel can be told: whole seconds in fifteen bits (tcp(7), `MAX_TCP_KEEPIDLE`).
pub const KEEPALIVES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(32_767);
/// Probes without an answer after which a connection is over.
const RETRIES: u32 = 4;
/// Shortest time between two probes, as the kernel counts them: in whole seconds.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// Has the kernel probe the other side after `idle` of silence, four times within as long again; it is one of
/// [`KEEPALIVES`]. `None`: never. What was sent and is not acknowledged, or not taken, may wait for `stall_limit`, and for as
/// long as a host may be silent. A socket that cannot be told goes on without.
pub(crate) fn set_timeouts(socket: &impl AsFd, idle: Option<Duration>, stall_limit: Duration) {
    let socket = SockRef::from(socket);
    let user_timeout = user_timeout(idle, stall_limit);
    let mut set = socket.set_tcp_user_timeout(Some(user_timeout));
    if let Some(idle) = idle {
        let interval = (idle / RETRIES).max(SHORTEST_INTERVAL);
        let keepalive = TcpKeepalive::new()
            .with_time(idle)
            .with_interval(interval)
            .with_retries(RETRIES);
        set = set.and(socket.set_tcp_keepalive(&keepalive));
    }
    if let Err(error) = set {
        tracing::debug!(%error, "cannot have a socket's other side watched");
    }
}

/// Sets the same for every connection that `listener` takes, and has each sent without a delay: on Linux they inherit what is set
/// on their listener, which saves as many system calls for each.
pub(crate) fn prepare(listener: &TcpListener, idle: Option<Duration>, stall_limit: Duration) {
    set_timeouts(listener, idle, stall_limit);
    if let Err(error) = SockRef::from(listener).set_tcp_nodelay(true) {
        tracing::debug!(%error, "cannot have clients' connections sent without a delay");
    }
}

/// Longest time for which sent bytes may be unacknowledged (tcp(7), `TCP_USER_TIMEOUT`). The kernel counts a side that takes
/// nothing in, too, and has keepalive wait no less than this: so it is not shorter than either limit.
fn user_timeout(idle: Option<Duration>, stall_limit: Duration) -> Duration {
    stall_limit.max(idle.unwrap_or_default() * 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed;

    #[tokio::test]
    async fn a_socket_is_told_both_timeouts() {
        let (socket, _other) = testbed::sockets().await;
        set_timeouts(&socket, Some(KEEPALIVE), Duration::from_secs(300));
        let told = SockRef::from(&socket);
        assert_eq!(told.tcp_user_timeout().unwrap(), Some(Duration::from_secs(300)));
        assert!(told.keepalive().unwrap());
        assert_eq!(told.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }

    #[tokio::test]
    async fn what_a_listener_takes_inherits_both_timeouts_and_no_delay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        prepare(&listener, Some(KEEPALIVE), Duration::from_secs(300));
        let connecting = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connecting, listener.accept());
        let (_client, (accepted, _)) = (client.unwrap(), accepted.unwrap());
        let told = SockRef::from(&accepted);
        assert_eq!(told.tcp_user_timeout().unwrap(), Some(Duration::from_secs(300)));
        assert!(told.keepalive().unwrap() && told.tcp_nodelay().unwrap());
        assert_eq!(told.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }

    #[test]
    fn a_side_that_pauses_is_not_given_up_before_either_limit() {
        let seconds = Duration::from_secs;
        assert_eq!(user_timeout(Some(seconds(60)), seconds(300)), seconds(300));
        assert_eq!(user_timeout(Some(seconds(60)), seconds(1)), seconds(120));
        assert_eq!(user_timeout(None, seconds(300)), seconds(300));
    }
}
