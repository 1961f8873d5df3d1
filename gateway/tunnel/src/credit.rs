//! Accounts that the two sides of a tunnel give each other of what they have taken, so that streams which nobody reads do not
//! fill the window that all share. How much each may write is the ledger's to say; how much all together, the peer's budget.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use causeway_proto::tunnel::{Consumed, ConsumedStream};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use super::{
    appetite::Appetite,
    budget::{BudgetPlace, LEAST_WINDOW_BYTES},
    config::TUNNEL_WINDOW_BYTES,
    ledger::{Ledger, UNCOUNTED_BYTES, WindowClaim},
};

/// The capability of telling what was taken, and of minding it.
pub(super) const CAPABILITY: &str = "consumed";
/// The capability of telling how much all streams of a tunnel may hold, and what they do hold, and of minding it.
pub(super) const WINDOWS_CAPABILITY: &str = "windows";
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
    taking: Mutex<Taking>,
    news: Notify,
    /// Bytes that the peer has sent and that were not taken, as it said last.
    unread: AtomicU64,
}

#[derive(Debug)]
struct Writing {
    ledger: Ledger,
    waiting: BTreeMap<u64, Waker>,
    /// Bytes that all streams may hold by what the path carries, and by the peer's word.
    windows: [u64; 2],
    /// Bytes untaken that the peer has been told of.
    told_untaken: u64,
}

/// News for the peer of its streams.
#[derive(Debug)]
struct Taking {
    /// News for the peer by stream, of which the latest counts. At most as many as there are streams.
    streams: BTreeMap<u64, ConsumedStream>,
    window_bytes: Option<u64>,
    untaken_bytes: Option<u64>,
    /// `None`: the peer does not mind windows.
    granting: Option<Granting>,
}

impl Taking {
    fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.window_bytes.is_none() && self.untaken_bytes.is_none()
    }
}

/// The window that the peer's streams have of this gateway's budget.
#[derive(Debug)]
struct Granting {
    place: BudgetPlace,
    appetite: Appetite,
    window: u64,
    rtt: Duration,
}

impl Granting {
    /// Gives the window if it is another from now on.
    fn settle(&mut self, now: Instant, unread: u64) -> Option<u64> {
        let wanted = self.appetite.wanted(now, unread);
        let window = self.place.settle(now, wanted);
        let before = std::mem::replace(&mut self.window, window);
        (before != window).then_some(window)
    }
}

impl Writing {
    /// Sets one of the two windows, of which the smaller counts.
    fn resize(&mut self, which: usize, window_bytes: u64) {
        self.windows[which] = window_bytes.min(TUNNEL_WINDOW_BYTES.into());
        self.ledger.resize(self.windows[0].min(self.windows[1]));
        self.wake();
    }

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
    /// Accounts of a new tunnel; `place`: with the window that it has of the budget, where the peer minds windows.
    pub(super) fn new(place: Option<(BudgetPlace, u64)>) -> Self {
        let most = u64::from(TUNNEL_WINDOW_BYTES);
        // Until the peer has said more.
        let granted = if place.is_some() { LEAST_WINDOW_BYTES } else { most };
        let now = Instant::now();
        let window_bytes = place.as_ref().map(|(_, window)| *window);
        let granting = place.map(|(place, window)| Granting {
            place,
            appetite: Appetite::new(now, window),
            window,
            rtt: Duration::ZERO,
        });
        Self {
            writing: Mutex::new(Writing {
                ledger: Ledger::new(granted),
                waiting: BTreeMap::new(),
                windows: [most, granted],
                told_untaken: 0,
            }),
            taking: Mutex::new(Taking {
                streams: BTreeMap::new(),
                window_bytes,
                untaken_bytes: None,
                granting,
            }),
            news: Notify::new(),
            unread: AtomicU64::new(0),
        }
    }

    /// Bytes that the peer has sent and that were not taken here, as it said last.
    pub(super) fn unread_bytes(&self) -> u64 {
        self.unread.load(Ordering::Relaxed)
    }

    /// Sum of what was written and the peer has not taken.
    #[cfg(feature = "test-util")]
    pub(super) fn untaken_bytes(&self) -> u64 {
        self.writing.lock().ledger.untaken_bytes()
    }

    /// Lets streams hold more or less from now on: `window_bytes` in all, and never more than the peer allows.
    pub(super) fn resize(&self, window_bytes: u64) {
        self.writing.lock().resize(0, window_bytes);
    }

    /// Looks again at what the peer's streams need of the budget, and has the peer told, and of what this side's streams hold with it. To be
    /// called some times a second.
    pub(super) fn settle(&self, now: Instant, rtt: Duration) {
        let untaken = {
            let mut writing = self.writing.lock();
            let untaken = writing.ledger.untaken_bytes();
            let before = std::mem::replace(&mut writing.told_untaken, untaken);
            (before != untaken).then_some(untaken)
        };
        let mut taking = self.taking.lock();
        let Some(granting) = &mut taking.granting else {
            return;
        };
        granting.rtt = rtt;
        let window = granting.settle(now, self.unread_bytes());
        taking.window_bytes = window.or(taking.window_bytes);
        taking.untaken_bytes = untaken.or(taking.untaken_bytes);
        if !taking.is_empty() {
            self.news.notify_one();
        }
    }

    /// Says how much a stream that has written `written` may write, without holding it to that.
    pub(super) fn outlook(&self, stream: u64, written: u64) -> u64 {
        self.writing.lock().ledger.outlook(stream, written)
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
        if let Some(told) = news.untaken_bytes {
            let unread = told.min(TUNNEL_WINDOW_BYTES.into());
            self.unread.store(unread, Ordering::Relaxed);
            if let Some(granting) = &self.taking.lock().granting {
                granting.place.hear(unread);
            }
        }
        let mut writing = self.writing.lock();
        for told in &news.streams {
            match told.done {
                true => writing.ledger.done(told.stream),
                false => writing.ledger.took(told.stream, told.bytes),
            }
        }
        match news.window_bytes {
            Some(window) => writing.resize(1, window),
            None => writing.wake(),
        }
    }

    /// Has the peer told of what was taken here: `bytes` in all, of which `more` are news.
    pub(super) fn took(&self, stream: u64, bytes: u64, more: u64, done: bool) {
        let news = ConsumedStream { stream, bytes, done };
        let mut taking = self.taking.lock();
        taking.streams.insert(stream, news);
        if let Some(granting) = &mut taking.granting {
            let now = Instant::now();
            let grows = granting.appetite.take(now, more, granting.rtt);
            let window = if grows {
                granting.settle(now, self.unread_bytes())
            } else {
                None
            };
            taking.window_bytes = window.or(taking.window_bytes);
        }
        self.news.notify_one();
    }

    /// Waits for news for the peer. Cancel-safe: what was not given out is given next time.
    pub(super) async fn news(&self) -> Consumed {
        while self.taking.lock().is_empty() {
            self.news.notified().await;
        }
        sleep(GATHER).await;
        let mut taking = self.taking.lock();
        let mut streams = Vec::with_capacity(taking.streams.len().min(MAX_STREAMS_TOLD));
        while streams.len() < MAX_STREAMS_TOLD
            && let Some((_, news)) = taking.streams.pop_first()
        {
            streams.push(news);
        }
        Consumed {
            streams,
            window_bytes: taking.window_bytes.take(),
            untaken_bytes: taking.untaken_bytes.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::tunnel::{ControlMessage, control_message::Body, encode_frame};

    use super::*;

    #[tokio::test]
    async fn news_of_any_number_of_streams_fits_its_messages_and_is_told_once() {
        let credit = Credit::new(None);
        let last = (1 << 62) - 1;
        for stream in 0..1000 {
            credit.took(last - stream, u64::MAX, 1, false);
            credit.took(last - stream, u64::MAX, 1, true);
        }
        let mut told = 0;
        while told < 1000 {
            let news = credit.news().await;
            told += news.streams.len();
            assert!(news.streams.iter().all(|news| news.done));
            let body = Some(Body::Consumed(news));
            assert!(encode_frame(&ControlMessage { body }).is_ok());
        }
        assert!(credit.taking.lock().is_empty());
    }
}
