//! Order among listening sockets where there are too few descriptors: one for what nobody could serve gives way to one for
//! what can be served.

use tokio::sync::watch;

/// Sockets that lack a descriptor, and the word to the others. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct GivingWay(watch::Sender<Lack>);

#[derive(Debug, Default)]
struct Lack {
    /// Sockets for what can be served that have no descriptor.
    sockets: usize,
    /// Those among them for which no other has given way yet.
    asking: usize,
}

/// One socket that lacks a descriptor, for as long as it does.
#[derive(Debug)]
pub(super) struct LackingSocket(GivingWay);

impl GivingWay {
    /// Tells whether what can be served lacks a descriptor, so that nothing else may take one.
    pub(super) fn is_lack(&self) -> bool {
        self.0.borrow().sockets > 0
    }

    /// Takes down that a socket for what can be served lacks a descriptor.
    pub(super) fn lack(&self) -> LackingSocket {
        self.0.send_modify(|lack| lack.sockets += 1);
        LackingSocket(self.clone())
    }

    /// Waits until it is the turn of a socket to give way, while it is one that may.
    pub(super) async fn until_turn(&self, may_give_way: impl Fn() -> bool) {
        let mut lack = self.0.subscribe();
        loop {
            let asked = lack.borrow_and_update().asking > 0;
            if asked && may_give_way() && self.take_turn() {
                return;
            }
            if lack.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn take_turn(&self) -> bool {
        self.0.send_if_modified(|lack| {
            let asked = lack.asking > 0;
            lack.asking -= usize::from(asked);
            asked
        })
    }
}

impl LackingSocket {
    /// Asks one more socket to give way, unless as many are asked as lack a descriptor.
    pub(super) fn ask(&self) {
        self.0.0.send_if_modified(|lack| {
            let more = lack.asking < lack.sockets;
            lack.asking += usize::from(more);
            more
        });
    }
}

impl Drop for LackingSocket {
    fn drop(&mut self) {
        self.0.0.send_modify(|lack| {
            lack.sockets -= 1;
            lack.asking = lack.asking.min(lack.sockets);
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn as_many_give_way_as_lack_a_descriptor_and_none_that_is_of_use() {
        let giving = GivingWay::default();
        let turn = |may: bool| giving.until_turn(move || may).now_or_never().is_some();
        assert!(!giving.is_lack() && !turn(true));
        let (one, two) = (giving.lack(), giving.lack());
        for lacking in [&one, &two, &one] {
            lacking.ask();
        }
        assert!(giving.is_lack() && !turn(false));
        assert!(turn(true) && turn(true) && !turn(true));
        // Somebody else took what was freed.
        one.ask();
        drop(two);
        assert!(turn(true));
        one.ask();
        drop(one);
        assert!(!giving.is_lack() && !turn(true));
    }
}
