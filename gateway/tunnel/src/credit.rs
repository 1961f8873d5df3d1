//! Accounts that the two sides of a tunnel give each other of what they have taken, so that streams which nobody reads do not
//! fill the window that all share. How much each may write is the ledger's to say.

use std::{
    collections::BTreeMap,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use causeway_proto::tunnel::{Consumed, ConsumedStream};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use super::{
    config::TUNNEL_WINDOW_BYTES,
    ledger::{Ledger, UNCOUNTED_BYTES, WindowClaim},
};

/// The capability of telling what was taken, and of minding it.
pub(super) const CAPABILITY: &str = "consumed";
/// Bytes that are taken of a stream before the peer is told again. A writer that waits has more than this untaken.
pub(super) const TELL_EVERY_BYTES: u64 = UNCOUNTED_BYTES / 2;
/// Room from which a writer that waits is woken.
const WAKE_FROM_BYTES: u64 = UNCOUNTED_BYTES / 4;
/// Streams in one message, which must fit a frame.
const MAX_STREAMS_TOLD: usize = 256;
/// Pause in which news is gathered, so that a fast tunnel has at most a thousand messages a second.
const GATHER: Duration = Duration::from_millis(1);

/// The accounts of one tunnel, in both directions.
#[derive(Debug)]
pub(super) struct Credit {
    writing: Mutex<Writing>,
    /// News for the peer by stream, of which the latest counts. At most as many as there are streams.
    taken: Mutex<BTreeMap<u64, ConsumedStream>>,
    news: Notify,
}

#[derive(Debug)]
struct Writing {
    ledger: Ledger,
    waiting: BTreeMap<u64, Waker>,
}

impl Writing {
    fn wake(&mut self) {
        let ledger = &self.ledger;
        self.waiting.retain(|stream, waker| {
            let wait = ledger.room(*stream) < WAKE_FROM_BYTES;
            if !wait {
                waker.wake_by_ref();
            }
            wait
        });
    }
}

impl Credit {
    pub(super) fn new() -> Self {
        let ledger = Ledger::new(TUNNEL_WINDOW_BYTES.into());
        Self {
            writing: Mutex::new(Writing {
                ledger,
                waiting: BTreeMap::new(),
            }),
            taken: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Sum of what was written and the peer has not taken.
    #[cfg(feature = "test-util")]
    pub(super) fn untaken_bytes(&self) -> u64 {
        self.writing.lock().ledger.untaken_bytes()
    }

    /// Lets streams hold more or less from now on: `window_bytes` in all, and never more than the peer's window.
    pub(super) fn resize(&self, window_bytes: u64) {
        let mut writing = self.writing.lock();
        writing
            .ledger
            .resize(window_bytes.min(TUNNEL_WINDOW_BYTES.into()));
        writing.wake();
    }

    /// Waits until a stream that has written `written` may write more, and says how much, and how.
    pub(super) fn poll_claim(&self, cx: &mut Context<'_>, stream: u64, written: u64) -> Poll<WindowClaim> {
        let mut writing = self.writing.lock();
        match writing.ledger.claim(Instant::now(), stream, written) {
            WindowClaim { room: 0, .. } => {
                writing.waiting.insert(stream, cx.waker().clone());
                Poll::Pending
            }
            claim => Poll::Ready(claim),
        }
    }

    pub(super) fn wrote(&self, stream: u64, written: u64) {
        self.writing.lock().ledger.wrote(stream, written);
    }

    /// Forgets a stream of which nothing lies with the peer any more.
    pub(super) fn close(&self, stream: u64) {
        let mut writing = self.writing.lock();
        writing.ledger.close(stream);
        writing.waiting.remove(&stream);
        writing.wake();
    }

    /// Takes down that no more is written to a stream, of which some may still lie with the peer.
    pub(super) fn leave(&self, stream: u64) {
        let mut writing = self.writing.lock();
        writing.ledger.leave(stream);
        writing.waiting.remove(&stream);
    }

    /// Takes up what the peer tells.
    pub(super) fn heard(&self, news: &Consumed) {
        let mut writing = self.writing.lock();
        for told in &news.streams {
            match told.done {
                true => writing.ledger.done(told.stream),
                false => writing.ledger.took(told.stream, told.bytes),
            }
        }
        writing.wake();
    }

    /// Has the peer told of what was taken here.
    pub(super) fn took(&self, stream: u64, bytes: u64, done: bool) {
        let news = ConsumedStream { stream, bytes, done };
        self.taken.lock().insert(stream, news);
        self.news.notify_one();
    }

    /// Waits for news for the peer. Cancel-safe: what was not given out is given next time.
    pub(super) async fn news(&self) -> Consumed {
        while self.taken.lock().is_empty() {
            self.news.notified().await;
        }
        sleep(GATHER).await;
        let mut taken = self.taken.lock();
        let mut streams = Vec::with_capacity(taken.len().min(MAX_STREAMS_TOLD));
        while streams.len() < MAX_STREAMS_TOLD
            && let Some((_, news)) = taken.pop_first()
        {
            streams.push(news);
        }
        Consumed { streams }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::tunnel::{ControlMessage, control_message::Body, encode_frame};

    use super::*;

    #[tokio::test]
    async fn news_of_any_number_of_streams_fits_its_messages_and_is_told_once() {
        let credit = Credit::new();
        let last = (1 << 62) - 1;
        for stream in 0..1000 {
            credit.took(last - stream, u64::MAX, false);
            credit.took(last - stream, u64::MAX, true);
        }
        let mut told = 0;
        while told < 1000 {
            let news = credit.news().await;
            told += news.streams.len();
            assert!(news.streams.iter().all(|news| news.done));
            let body = Some(Body::Consumed(news));
            assert!(encode_frame(&ControlMessage { body }).is_ok());
        }
        assert!(credit.taken.lock().is_empty());
    }
}
