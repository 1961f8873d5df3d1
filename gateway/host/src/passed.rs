//! Sockets that a service manager passes to this process (sd_listen_fds(3), "socket activation"): they are open before it starts and stay
//! open when it ends, so that whoever connects meanwhile waits in the kernel. What each is for is found by its address, as with those of a
//! process before.

use std::os::fd::OwnedFd;

use listenfd::ListenFd;

/// Everything that was passed.
#[derive(Debug, Default)]
pub struct PassedSockets {
    pub sockets: Vec<OwnedFd>,
    /// Number of those that are neither TCP nor UDP nor unix sockets; they are left as they are.
    pub strange: usize,
}

/// Takes what the environment names, if it is for this process, and the names out of the environment. Must be called while there are no
/// other threads.
#[must_use]
pub fn take_passed_sockets() -> PassedSockets {
    let mut passed = ListenFd::from_env();
    let count = passed.len();
    let sockets: Vec<_> = (0..count)
        .filter_map(|number| take(&mut passed, number))
        .collect();
    PassedSockets {
        strange: count - sockets.len(),
        sockets,
    }
}

/// Takes one, whatever kind of socket it is. It does not go to processes that this one starts.
fn take(passed: &mut ListenFd, number: usize) -> Option<OwnedFd> {
    if let Ok(Some(listener)) = passed.take_tcp_listener(number) {
        return Some(listener.into());
    }
    if let Ok(Some(socket)) = passed.take_udp_socket(number) {
        return Some(socket.into());
    }
    if let Ok(Some(listener)) = passed.take_unix_listener(number) {
        return Some(listener.into());
    }
    let datagram = passed.take_unix_datagram(number).ok().flatten();
    datagram.map(OwnedFd::from)
}
