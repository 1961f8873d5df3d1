//! Bytes of answers that this gateway holds because clients of HTTP/2 do not read them. A client of HTTP/1.1 has one answer at a time, whose
//! bytes wait at its instance; one of HTTP/2 has many, which would wait here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use crate::http::limits::{MAX_UNREAD_ANSWERS_OF_ALL, MAX_UNREAD_ANSWERS_OF_CLIENT};

/// Count of the bytes that are held for a client's connection, or for all.
#[derive(Debug, Clone, Default)]
pub(in crate::egress) struct UnreadBytes(Arc<AtomicUsize>);

impl UnreadBytes {
    pub(in crate::egress) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Account of one answer. What it holds nothing of may always go on by one piece: those that wait for others would wait for ever where the client
/// wants this one first.
#[derive(Debug)]
pub(super) struct UnreadAnswer(Arc<AnswerAccount>);

#[derive(Debug)]
struct AnswerAccount {
    own: UnreadBytes,
    of_client: UnreadBytes,
    of_all: UnreadBytes,
    /// Waits for some of its own to be sent.
    waiting: AtomicWaker,
}

impl UnreadAnswer {
    pub(super) fn new(of_client: UnreadBytes, of_all: UnreadBytes) -> Self {
        Self(Arc::new(AnswerAccount {
            own: UnreadBytes::default(),
            of_client,
            of_all,
            waiting: AtomicWaker::new(),
        }))
    }

    /// Waits until another piece of it may be taken from its instance.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.0.has_room() {
            return Poll::Ready(());
        }
        self.0.waiting.register(cx.waker());
        match self.0.has_room() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Counts a piece for as long as it is held.
    pub(super) fn hold(&self, bytes: Bytes) -> Bytes {
        for count in self.0.counts() {
            count.0.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        Bytes::from_owner(HeldPiece {
            bytes,
            account: self.0.clone(),
        })
    }
}

impl AnswerAccount {
    fn counts(&self) -> [&UnreadBytes; 3] {
        [&self.own, &self.of_client, &self.of_all]
    }

    fn has_room(&self) -> bool {
        self.own.count() == 0
            || (self.of_client.count() < MAX_UNREAD_ANSWERS_OF_CLIENT
                && self.of_all.count() < MAX_UNREAD_ANSWERS_OF_ALL)
    }
}

/// Piece of an answer that is not sent yet.
struct HeldPiece {
    bytes: Bytes,
    account: Arc<AnswerAccount>,
}

impl AsRef<[u8]> for HeldPiece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for HeldPiece {
    fn drop(&mut self) {
        for count in self.account.counts() {
            count.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
        self.account.waiting.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn room(answer: &UnreadAnswer) -> bool {
        answer.poll_room(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn one_client_and_all_together_hold_what_they_may_and_each_answer_a_piece() {
        let all = UnreadBytes::default();
        let clients: Vec<_> = (0..2).map(|_| UnreadBytes::default()).collect();
        let answer = |client: usize| UnreadAnswer::new(clients[client].clone(), all.clone());
        let (first, second, other) = (answer(0), answer(0), answer(1));
        let piece = Bytes::from(vec![0; 16 * 1024]);
        let mut held = Vec::new();
        while room(&first) {
            held.push(first.hold(piece.clone()));
        }
        assert_eq!(clients[0].count(), MAX_UNREAD_ANSWERS_OF_CLIENT);
        // The second has its piece, and no more.
        assert!(room(&second));
        let last = second.hold(piece.clone());
        assert!(!room(&second));
        // Another client has its own.
        held.push(other.hold(piece));
        assert!(room(&other));
        let much = all.0.fetch_add(MAX_UNREAD_ANSWERS_OF_ALL, Ordering::Relaxed);
        assert!(!room(&other));
        all.0.store(much, Ordering::Relaxed);
        drop(last);
        assert!(room(&second) && !room(&first));
        drop(held);
        assert!(room(&first));
        assert_eq!((clients[0].count(), clients[1].count(), all.count()), (0, 0, 0));
    }
}
