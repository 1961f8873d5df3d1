//! The virtual addresses that the egress listens on by now, so that mesh DNS can hold back the first answer for a name until
//! a client that connects at once finds somebody there; and those that it cannot listen on, which are not given out at all:
//! whoever connected to one would talk to the program that has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use tokio::sync::watch;

/// Longest that an answer is held back.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// A set of socket addresses that can be waited for. Its size is that of the bindings.
#[derive(Debug, Default)]
pub struct Listening(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    /// Listeners at each address: one or more.
    here: BTreeMap<SocketAddr, usize>,
    /// Addresses at which a listener cannot be had now.
    failed: BTreeSet<SocketAddr>,
}

impl Listening {
    pub fn began(&self, address: SocketAddr) {
        self.0.send_if_modified(|state| {
            state.failed.remove(&address);
            let count = state.here.entry(address).or_default();
            *count += 1;
            *count == 1
        });
    }

    pub fn ended(&self, address: SocketAddr) {
        self.0.send_if_modified(|state| {
            let count = state.here.get_mut(&address);
            let last = count.is_some_and(|count| {
                *count -= 1;
                *count == 0
            });
            if last {
                state.here.remove(&address);
            }
            last
        });
    }

    /// Notes that `address` cannot be listened on, until [`Listening::began`] or [`Listening::given_up`].
    pub fn failed(&self, address: SocketAddr) {
        self.0.send_if_modified(|state| state.failed.insert(address));
    }

    /// Notes that nobody wants to listen on `address` any more.
    pub fn given_up(&self, address: SocketAddr) {
        self.0.send_if_modified(|state| state.failed.remove(&address));
    }

    /// Tells whether `address` may be given out: not when listening there has failed and nobody does.
    #[must_use]
    pub fn may_be_given_out(&self, address: SocketAddr) -> bool {
        let state = self.0.borrow();
        !state.failed.contains(&address) || state.here.contains_key(&address)
    }

    /// Waits until all of `addresses` are listened on, for 50 ms at most. Returns whether they are.
    pub async fn wait_for(&self, addresses: &[SocketAddr]) -> bool {
        let mut listening = self.0.subscribe();
        let all =
            listening.wait_for(|state| addresses.iter().all(|address| state.here.contains_key(address)));
        tokio::time::timeout(LONGEST_WAIT, all).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_waiter_goes_on_once_every_address_is_listened_on() {
        let (first, second) = (
            SocketAddr::from(([127, 64, 0, 1], 80)),
            SocketAddr::from(([127, 64, 0, 2], 80)),
        );
        let listening = Arc::new(Listening::default());
        listening.began(first);
        assert!(!listening.wait_for(&[first, second]).await);
        let waiting = tokio::spawn({
            let listening = listening.clone();
            async move { listening.wait_for(&[first, second]).await }
        });
        listening.began(second);
        assert!(waiting.await.unwrap());
        listening.ended(first);
        assert!(!listening.wait_for(&[first]).await);
    }

    #[test]
    fn an_address_is_given_out_unless_listening_there_has_failed_on_every_thread() {
        let (listening, address) = (Listening::default(), SocketAddr::from(([127, 64, 0, 1], 80)));
        let given = || listening.may_be_given_out(address);
        assert!(given(), "nobody has tried yet");
        listening.failed(address);
        assert!(!given());
        listening.began(address);
        listening.began(address);
        listening.failed(address);
        assert!(given(), "two others listen");
        listening.ended(address);
        assert!(given(), "one still does");
        listening.ended(address);
        assert!(!given());
        listening.given_up(address);
        assert!(given());
    }
}
