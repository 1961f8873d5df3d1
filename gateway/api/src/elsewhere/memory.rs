//! Memory of what zones said last, so that one that is away is shown with its last word: bounded for each zone and in sum. Pure; it does not outlive the
//! process.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use bytes::Bytes;
use causeway_federation::name::ZoneName;

/// Bytes that are remembered of one zone. A page that is longer is not remembered.
pub(super) const MAX_BYTES_OF_ZONE: usize = 2 * 1024 * 1024;
/// Bytes that are remembered of all zones.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// Counted for what stands around a page.
const OVERHEAD_BYTES: usize = 256;

/// Answer to a question, as it was asked: by somebody with a certain token, or without one. Nobody is shown what somebody else was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QuestionKey {
    pub(super) zone: ZoneName,
    pub(super) path: String,
    /// Trace of the token that was shown.
    pub(super) token: Option<String>,
}

/// Answer that a zone gave once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RememberedAnswer {
    pub(super) time: SystemTime,
    pub(super) answer: Bytes,
}

#[derive(Debug)]
struct Kept {
    said: Arc<RememberedAnswer>,
    bytes: usize,
    /// Number of the turn in which it was last said.
    turn: u64,
}

/// The last words of all zones.
#[derive(Debug, Default)]
pub(super) struct AnswerMemory {
    kept: BTreeMap<QuestionKey, Kept>,
    turn: u64,
}

impl AnswerMemory {
    /// Keeps what was said, in the place of what the same question was answered with before. The oldest words of the zone, and then of all
    /// zones, make room.
    pub(super) fn remember(&mut self, key: QuestionKey, time: SystemTime, answer: &Bytes) {
        self.kept.remove(&key);
        let bytes = answer.len() + key.path.len() + OVERHEAD_BYTES;
        if bytes > MAX_BYTES_OF_ZONE {
            return;
        }
        self.make_room(bytes, MAX_BYTES_OF_ZONE, |zone| *zone == key.zone);
        self.make_room(bytes, MAX_BYTES, |_| true);
        self.turn += 1;
        // A copy: the answer may be a small part of something larger.
        let answer = Bytes::copy_from_slice(answer);
        let said = Arc::new(RememberedAnswer { time, answer });
        let turn = self.turn;
        self.kept.insert(key, Kept { said, bytes, turn });
    }

    fn make_room(&mut self, bytes: usize, limit: usize, counts: impl Fn(&ZoneName) -> bool) {
        loop {
            let of_them = self.kept.iter().filter(|(key, _)| counts(&key.zone));
            let held: usize = of_them.clone().map(|(_, kept)| kept.bytes).sum();
            let oldest = of_them.min_by_key(|(_, kept)| kept.turn);
            match oldest.map(|(key, _)| key.clone()) {
                Some(oldest) if held + bytes > limit => drop(self.kept.remove(&oldest)),
                _ => return,
            }
        }
    }

    pub(super) fn recall(&self, key: &QuestionKey) -> Option<Arc<RememberedAnswer>> {
        self.kept.get(key).map(|kept| kept.said.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(zone: &str, path: &str) -> QuestionKey {
        QuestionKey {
            zone: ZoneName::new(zone).unwrap(),
            path: path.to_owned(),
            token: None,
        }
    }

    fn page(bytes: usize) -> Bytes {
        vec![b' '; bytes].into()
    }

    fn held(memory: &AnswerMemory, zone: Option<&str>) -> usize {
        let counts = |key: &QuestionKey| zone.is_none_or(|zone| key.zone.as_str() == zone);
        memory
            .kept
            .iter()
            .filter(|(key, _)| counts(key))
            .map(|(_, kept)| kept.bytes)
            .sum()
    }

    #[test]
    fn the_last_word_is_what_is_recalled_and_to_whom_it_was_said() {
        let (mut memory, time) = (AnswerMemory::default(), SystemTime::UNIX_EPOCH);
        memory.remember(key("west", "/v1/zones"), time, &"old".into());
        memory.remember(key("west", "/v1/zones"), time, &"new".into());
        let said = memory.recall(&key("west", "/v1/zones")).unwrap();
        assert_eq!(said.answer, "new");
        assert_eq!(memory.kept.len(), 1);
        let with_token = QuestionKey {
            token: Some("ab".to_owned()),
            ..key("west", "/v1/zones")
        };
        assert_eq!(memory.recall(&with_token), None);
        assert_eq!(memory.recall(&key("north", "/v1/zones")), None);
    }

    #[test]
    fn a_zone_that_says_much_loses_its_own_oldest_words_and_nobody_elses() {
        let (mut memory, time) = (AnswerMemory::default(), SystemTime::UNIX_EPOCH);
        memory.remember(key("quiet", "/v1/zones"), time, &page(10));
        for number in 0..50 {
            memory.remember(
                key("loud", &format!("/v1/zones?{number}")),
                time,
                &page(MAX_BYTES_OF_ZONE / 4),
            );
            assert!(held(&memory, Some("loud")) <= MAX_BYTES_OF_ZONE);
        }
        assert!(memory.recall(&key("quiet", "/v1/zones")).is_some());
        assert!(memory.recall(&key("loud", "/v1/zones?49")).is_some());
        assert!(memory.recall(&key("loud", "/v1/zones?0")).is_none());
        memory.remember(key("loud", "/v1/zones?49"), time, &page(MAX_BYTES_OF_ZONE));
        assert!(
            memory.recall(&key("loud", "/v1/zones?49")).is_none(),
            "an old word is not the last one"
        );
    }

    #[test]
    fn all_zones_together_have_a_limit() {
        let (mut memory, time) = (AnswerMemory::default(), SystemTime::UNIX_EPOCH);
        for number in 0..40 {
            let page = page(MAX_BYTES_OF_ZONE - 1024);
            memory.remember(key(&format!("zone{number}"), "/v1/zones"), time, &page);
            assert!(held(&memory, None) <= MAX_BYTES);
        }
        assert!(memory.recall(&key("zone39", "/v1/zones")).is_some());
        assert!(memory.recall(&key("zone0", "/v1/zones")).is_none());
    }
}
