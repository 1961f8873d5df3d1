//! Which virtual addresses the egress listens on by now, so that mesh DNS can hold back the first answer for a name until
//! a client that connects at once finds somebody there.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::sync::watch;

/// Longest that an answer is held back.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// A set of socket addresses that can be waited for. Its size is that of the bindings.
#[derive(Debug, Default)]
pub struct Listening(watch::Sender<BTreeSet<SocketAddr>>);

impl Listening {
    pub fn began(&self, address: SocketAddr) {
        self.0.send_if_modified(|set| set.insert(address));
    }

    pub fn ended(&self, address: SocketAddr) {
        self.0.send_if_modified(|set| set.remove(&address));
    }

    /// Waits until all of `addresses` are listened on, for 50 ms at most. Returns whether they are.
    pub async fn wait_for(&self, addresses: &[SocketAddr]) -> bool {
        let mut listening = self.0.subscribe();
        let all = listening.wait_for(|set| addresses.iter().all(|address| set.contains(address)));
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
}
