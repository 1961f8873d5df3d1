//! Random numbers that a decision may need once more: the first candidate is drawn from what is compiled, and whoever asks for others walks
//! the same way from its beginning.

use rand::{Rng, RngCore};

/// Numbers that are kept in place; further ones take an allocation.
const KEPT_IN_PLACE: usize = 16;

/// Gives the numbers of another generator, keeps them, and gives them once more after [`Replay::rewind`].
#[derive(Debug)]
pub(super) struct Replay<R> {
    rng: R,
    kept: [u64; KEPT_IN_PLACE],
    more: Vec<u64>,
    len: usize,
    /// Place of the next number, while those that are kept are given again.
    next: Option<usize>,
}

impl<R: Rng> Replay<R> {
    pub(super) fn new(rng: R) -> Self {
        Self {
            rng,
            kept: [0; KEPT_IN_PLACE],
            more: Vec::new(),
            len: 0,
            next: None,
        }
    }

    /// Begins anew. From then on nothing is kept.
    pub(super) fn rewind(&mut self) {
        self.next = Some(0);
    }

    fn at(&self, place: usize) -> Option<u64> {
        let kept = self.kept.get(place);
        let more = || self.more.get(place - KEPT_IN_PLACE);
        kept.or_else(more).copied().filter(|_| place < self.len)
    }

    fn keep(&mut self, drawn: u64) {
        match self.kept.get_mut(self.len) {
            Some(place) => *place = drawn,
            None => self.more.push(drawn),
        }
        self.len += 1;
    }
}

impl<R: Rng> RngCore for Replay<R> {
    /// One number of the generator stands behind each, so that those that are given again are the same.
    fn next_u32(&mut self) -> u32 {
        // The upper half: that is the better one of generators that have a worse.
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        match self.next {
            None => {
                let drawn = self.rng.next_u64();
                self.keep(drawn);
                drawn
            }
            Some(place) => match self.at(place) {
                Some(kept) => {
                    self.next = Some(place + 1);
                    kept
                }
                None => self.rng.next_u64(),
            },
        }
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(size_of::<u64>()) {
            let drawn = self.next_u64().to_le_bytes();
            part.copy_from_slice(&drawn[..part.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;

    #[test]
    fn what_was_drawn_is_drawn_again_and_then_what_follows() {
        let mut plain = SmallRng::seed_from_u64(1);
        let all: Vec<u64> = (0..50).map(|_| plain.next_u64()).collect();
        for first in [0, 1, 15, 16, 17, 40] {
            let mut replay = Replay::new(SmallRng::seed_from_u64(1));
            let drawn: Vec<u64> = (0..first).map(|_| replay.next_u64()).collect();
            assert_eq!(drawn, all[..first]);
            replay.rewind();
            let drawn: Vec<u64> = (0..50).map(|_| replay.next_u64()).collect();
            assert_eq!(drawn, all);
        }
    }
}
