//! A table of what was noted a while ago and is forgotten by itself.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Keys, and when each was noted last. One that finds no room is as one that was not noted.
#[derive(Debug)]
pub struct Remembered<K> {
    noted: Mutex<BTreeMap<K, Instant>>,
    kept_for: Duration,
    most: usize,
}

impl<K: Ord> Remembered<K> {
    /// A table of `most` keys, each for as long as `kept_for` after it was noted.
    #[must_use]
    pub fn new(kept_for: Duration, most: usize) -> Self {
        Self {
            noted: Mutex::default(),
            kept_for,
            most,
        }
    }

    /// Takes a key down, or takes it down again.
    pub fn note(&self, key: K, now: Instant) {
        let mut noted = self.noted.lock();
        if noted.len() >= self.most {
            noted.retain(|_, at| now.duration_since(*at) < self.kept_for);
        }
        if noted.len() < self.most || noted.contains_key(&key) {
            noted.insert(key, now);
        }
    }

    pub fn forget(&self, key: &K) {
        self.noted.lock().remove(key);
    }

    pub fn has(&self, key: &K, now: Instant) -> bool {
        let at = self.noted.lock().get(key).copied();
        at.is_some_and(|at| now.duration_since(at) < self.kept_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Duration = Duration::from_secs(120);
    const MOST: usize = 1000;

    #[test]
    fn what_was_noted_is_known_until_it_is_forgotten_or_a_while_is_over() {
        let (table, now) = (Remembered::new(KEPT, MOST), Instant::now());
        table.note(1, now);
        table.note(2, now);
        assert!(table.has(&1, now) && !table.has(&3, now));
        table.forget(&1);
        assert!(!table.has(&1, now));
        assert!(!table.has(&2, now + KEPT));
    }

    #[test]
    fn the_table_is_bounded_and_makes_room_of_what_is_over() {
        let (table, now) = (Remembered::new(KEPT, MOST), Instant::now());
        for number in 0..MOST + 10 {
            table.note(number, now);
        }
        assert_eq!(table.noted.lock().len(), MOST);
        assert!(table.has(&0, now) && !table.has(&MOST, now));
        let later = now + KEPT;
        assert!(!table.has(&0, later));
        table.note(MOST, later);
        assert!(table.has(&MOST, later));
        assert_eq!(table.noted.lock().len(), 1);
    }
}
