//! Shares of a tunnel's window: how much each stream may have written that the peer has not taken yet.
//!
//! QUIC gives the window of a connection to whoever writes first: what a few streams have filled and nobody takes stops all
//! others. Here each stream begins with little and may hold more as the peer takes what it writes, and at most half of what
//! the others have *left* of three quarters of the window (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on
//! Networking 6(2), 1998). The last quarter is for the little that any stream may hold. Only how streams yield to each other
//! depends on the time (see `burst`), which is an argument.

use std::{collections::BTreeMap, time::Instant};

use super::{burst::Burst, config::STREAM_WINDOW_BYTES};

/// Bytes that any stream may hold, however many do: with fewer, a stream is not counted at all, so that most connections
/// cost nothing here.
pub(super) const UNCOUNTED_BYTES: u64 = 16 * 1024;
/// Bytes that a stream may hold of which the peer has taken nothing yet: what a path of 100 Mbit/s and 40 ms carries.
const FIRST_BYTES: u64 = 512 * 1024;
/// Most that a stream may hold, as QUIC's own window for it: 1 Gbit/s over 128 ms.
const MOST_BYTES: u64 = STREAM_WINDOW_BYTES as u64;
/// Multiple of a stream's limit that the peer has to take, since the limit grew last, before it grows twofold.
const GROW_AFTER: u64 = 2;
/// Streams that are counted at once: four times as many as a peer opens by default.
const MAX_ACCOUNTS: usize = 65_536;

/// Bytes that one side has written to the streams of one tunnel, and that the other has taken of them.
#[derive(Debug)]
pub(super) struct Ledger {
    window_bytes: u64,
    /// Sum over all accounts.
    untaken_bytes: u64,
    accounts: BTreeMap<u64, Account>,
}

#[derive(Debug, Clone, Copy)]
struct Account {
    written: u64,
    taken: u64,
    /// Most bytes that it may hold.
    limit: u64,
    /// Bytes that were taken when that grew last.
    grown_at: u64,
    /// The writer writes no more.
    left: bool,
    /// The peer takes no more, and holds nothing.
    done: bool,
    burst: Burst,
}

/// Answer to a stream that is to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WindowClaim {
    /// Bytes that it may write now.
    pub(super) room: u64,
    /// Priority of what it writes, if that is another than before.
    pub(super) priority: Option<i32>,
}

impl Account {
    fn new(now: Instant, written: u64) -> Self {
        Self {
            written,
            taken: 0,
            limit: FIRST_BYTES,
            grown_at: 0,
            left: false,
            done: false,
            burst: Burst::new(now, written),
        }
    }

    fn took(&mut self, taken: u64) {
        self.taken = self.taken.max(taken.min(self.written));
        if self.taken - self.grown_at >= self.limit * GROW_AFTER {
            self.limit = (self.limit * 2).min(MOST_BYTES);
            self.grown_at = self.taken;
        }
    }

    fn untaken(self) -> u64 {
        if self.done { 0 } else { self.written - self.taken }
    }
}

impl Ledger {
    pub(super) fn new(window_bytes: u64) -> Self {
        Self {
            window_bytes,
            untaken_bytes: 0,
            accounts: BTreeMap::new(),
        }
    }

    /// Sets the window, which follows what the path carries.
    pub(super) fn resize(&mut self, window_bytes: u64) {
        self.window_bytes = window_bytes;
    }

    /// Opens an account for a stream that has written `written` so far, and says how much more it may write now, and how.
    pub(super) fn claim(&mut self, now: Instant, stream: u64, written: u64) -> WindowClaim {
        if !self.accounts.contains_key(&stream) && self.accounts.len() < MAX_ACCOUNTS {
            self.accounts.insert(stream, Account::new(now, written));
            self.untaken_bytes += written;
        }
        let room = self.room(stream);
        // Not told to one that waits: it asks again before it writes.
        let account = self.accounts.get_mut(&stream).filter(|_| room > 0);
        let priority = account.and_then(|account| account.burst.priority(now));
        WindowClaim { room, priority }
    }

    /// Says how much more a stream may write now; one that is not counted as much as it likes.
    pub(super) fn room(&self, stream: u64) -> u64 {
        // To one that is done nothing can be written any more, which QUIC tells the writer.
        let Some(account) = self.accounts.get(&stream).filter(|account| !account.done) else {
            return u64::MAX;
        };
        self.room_of(account.untaken(), account.limit)
    }

    /// Says how much a stream that has written `written` may write, also one that has no account yet.
    pub(super) fn outlook(&self, stream: u64, written: u64) -> u64 {
        match self.accounts.contains_key(&stream) {
            true => self.room(stream),
            false => self.room_of(written, FIRST_BYTES),
        }
    }

    fn room_of(&self, own: u64, limit: u64) -> u64 {
        let left = (self.window_bytes / 4 * 3).saturating_sub(self.untaken_bytes);
        // The most that keeps a stream within half of what is left once it is written.
        let share = left.saturating_sub(own.saturating_mul(2)) / 3;
        let room = share.min(limit.saturating_sub(own));
        room.max(UNCOUNTED_BYTES.saturating_sub(own))
    }

    /// Takes down that a stream has written `written` bytes in all.
    pub(super) fn wrote(&mut self, stream: u64, written: u64) {
        if let Some(account) = self.accounts.get_mut(&stream) {
            let before = account.untaken();
            account.burst.carry(written.saturating_sub(account.written));
            account.written = account.written.max(written);
            self.untaken_bytes += account.untaken() - before;
        }
    }

    /// Takes down that the peer has taken `taken` bytes of a stream in all. What a peer tells beyond what was written
    /// counts for nothing.
    pub(super) fn took(&mut self, stream: u64, taken: u64) {
        if let Some(account) = self.accounts.get_mut(&stream) {
            let before = account.untaken();
            account.took(taken);
            self.untaken_bytes -= before - account.untaken();
        }
    }

    /// Sum of what all streams have written and the peer has not taken.
    pub(super) fn untaken_bytes(&self) -> u64 {
        self.untaken_bytes
    }

    /// Takes down that the peer takes no more of a stream and holds nothing of it.
    pub(super) fn done(&mut self, stream: u64) {
        self.settle(stream, |account| account.done = true);
    }

    /// Takes down that no more is written to a stream, of which some may still lie with the peer.
    pub(super) fn leave(&mut self, stream: u64) {
        self.settle(stream, |account| account.left = true);
    }

    /// Changes an account, and closes it when neither side has anything to do with it any more.
    fn settle(&mut self, stream: u64, change: impl FnOnce(&mut Account)) {
        let Some(account) = self.accounts.get_mut(&stream) else {
            return;
        };
        let before = account.untaken();
        change(account);
        self.untaken_bytes -= before - account.untaken();
        if account.done && account.left {
            self.accounts.remove(&stream);
        }
    }

    /// Closes the account of a stream that the writer has reset, or whose peer has stopped it.
    pub(super) fn close(&mut self, stream: u64) {
        if let Some(account) = self.accounts.remove(&stream) {
            self.untaken_bytes -= account.untaken();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: u64 = 64 * 1024 * 1024;

    /// Writes as much as it may, in the pieces that it is given.
    fn fill(ledger: &mut Ledger, stream: u64) -> u64 {
        let mut written = ledger.accounts.get(&stream).map_or(0, |account| account.written);
        loop {
            let room = ledger.claim(Instant::now(), stream, written).room;
            if room == 0 {
                return written;
            }
            written += room.min(256 * 1024);
            ledger.wrote(stream, written);
        }
    }

    /// Writes to a peer that takes all of it, and then no more.
    fn fill_after_reading(ledger: &mut Ledger, stream: u64, read: u64) -> u64 {
        while fill(ledger, stream) < read {
            let written = ledger.accounts[&stream].written;
            ledger.took(stream, written);
        }
        ledger.accounts[&stream].untaken()
    }

    #[test]
    fn a_stream_that_nobody_reads_holds_little_and_one_that_is_read_may_hold_much() {
        let mut ledger = Ledger::new(WINDOW);
        assert_eq!(fill(&mut ledger, 1), FIRST_BYTES);
        ledger.close(1);
        assert_eq!(fill_after_reading(&mut ledger, 2, 1 << 30), WINDOW / 4);
        // As much as a client's socket takes by itself.
        ledger.close(2);
        assert!(fill_after_reading(&mut ledger, 3, 6 << 20) <= 4 << 20);
    }

    #[test]
    fn many_that_are_no_longer_read_leave_the_next_its_share() {
        let mut ledger = Ledger::new(WINDOW);
        for stream in 0..8 {
            fill_after_reading(&mut ledger, stream, 6 << 20);
        }
        assert!(fill(&mut ledger, 8) == FIRST_BYTES);
        for stream in 9..1000 {
            assert!(fill(&mut ledger, stream) >= UNCOUNTED_BYTES);
        }
        assert!(ledger.untaken_bytes < WINDOW, "{}", ledger.untaken_bytes);
    }

    #[test]
    fn what_is_taken_may_be_written_again_and_what_is_closed_is_free() {
        let mut ledger = Ledger::new(WINDOW);
        let written = fill(&mut ledger, 1);
        ledger.took(1, written / 2);
        assert_eq!(ledger.room(1), written / 2);
        ledger.took(1, u64::MAX);
        assert_eq!(ledger.untaken_bytes, 0);
        ledger.close(1);
        assert!(ledger.accounts.is_empty());
    }

    #[test]
    fn a_window_that_shrinks_takes_nothing_back_and_leaves_every_stream_a_little() {
        let mut ledger = Ledger::new(WINDOW);
        let held = fill_after_reading(&mut ledger, 1, 1 << 30);
        ledger.resize(WINDOW / 8);
        assert_eq!((ledger.untaken_bytes, ledger.room(1)), (held, 0));
        assert_eq!(fill(&mut ledger, 2), UNCOUNTED_BYTES);
        ledger.took(1, u64::MAX);
        assert!(fill(&mut ledger, 2) >= FIRST_BYTES);
    }

    #[test]
    fn a_writer_that_waits_goes_on_when_the_peer_takes_no_more_and_nothing_stays_behind() {
        let mut ledger = Ledger::new(WINDOW);
        let written = fill(&mut ledger, 1);
        ledger.done(1);
        assert_eq!(ledger.claim(Instant::now(), 1, written).room, u64::MAX);
        assert_eq!(ledger.untaken_bytes, 0);
        ledger.leave(1);
        // One that has written all and left is held until the peer has taken it.
        let written = fill(&mut ledger, 2);
        ledger.leave(2);
        assert_eq!(ledger.untaken_bytes, written);
        ledger.done(2);
        assert!(ledger.accounts.is_empty() && ledger.untaken_bytes == 0);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_accounts_whatever_a_peer_tells(
            steps in prop::collection::vec((0u64..6, 0u8..6, any::<u32>()), 0..200),
        ) {
            let mut ledger = Ledger::new(WINDOW);
            let mut written = [0u64; 6];
            for (stream, step, bytes) in steps {
                let total = &mut written[stream as usize];
                match step {
                    0 | 1 => {
                        let room = ledger.claim(Instant::now(), stream, *total).room;
                        *total += room.min(bytes.into());
                        ledger.wrote(stream, *total);
                    }
                    2 => ledger.took(stream, bytes.into()),
                    3 => ledger.done(stream),
                    4 => ledger.leave(stream),
                    _ => ledger.close(stream),
                }
                let sum: u64 = ledger.accounts.values().map(|account| account.untaken()).sum();
                prop_assert_eq!(sum, ledger.untaken_bytes);
            }
        }

        #[test]
        fn a_reader_that_tells_late_never_stops_a_writer_for_good(
            others in 0u64..3000, late in 0u64..UNCOUNTED_BYTES / 2, written in UNCOUNTED_BYTES..WINDOW,
        ) {
            let mut ledger = Ledger::new(WINDOW);
            for stream in 1..=others {
                ledger.claim(Instant::now(), stream, WINDOW / 1000);
            }
            // All has been taken, and all but less than half of the uncounted bytes told.
            ledger.claim(Instant::now(), 0, written);
            ledger.took(0, written - late);
            prop_assert!(ledger.room(0) >= UNCOUNTED_BYTES / 2);
        }
    }
}
