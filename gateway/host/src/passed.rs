//! Sockets that a service manager passes to this process (sd_listen_fds(3), "socket activation"): they are open before it starts and stay
//! open when it ends, so that whoever connects meanwhile waits in the kernel. What each is for is found by its address, as with those of a
//! process before.

use std::{env, os::fd::OwnedFd};

use listenfd::ListenFd;

use crate::descriptor_store::is_stored_name;

/// Everything that was passed.
#[derive(Debug, Default)]
pub struct PassedSockets {
    pub sockets: Vec<OwnedFd>,
    /// Those that the process before has left with the service manager.
    pub stored: Vec<OwnedFd>,
    /// Number of those that are neither TCP nor UDP nor unix sockets; they are left as they are.
    pub strange: usize,
}

/// Takes what the environment names, if it is for this process, and the names out of the environment. Must be called while there are no
/// other threads.
#[must_use]
pub fn take_passed_sockets() -> PassedSockets {
    let mut passed = ListenFd::from_env();
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').chain(std::iter::repeat(""));
    let mut all = PassedSockets::default();
    for (number, name) in (0..passed.len()).zip(names) {
        match take(&mut passed, number) {
            Some(socket) if is_stored_name(name) => all.stored.push(socket),
            Some(socket) => all.sockets.push(socket),
            None => all.strange += 1,
        }
    }
    all
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
