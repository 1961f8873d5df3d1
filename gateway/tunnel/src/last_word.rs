//! The last word of each zone with which no tunnel came about: why a connection was refused, by which side, or why nobody
//! was reached. Told to operators, who otherwise look for a firewall where the peer said why.

use std::{collections::BTreeMap, time::Instant};

use causeway_federation::name::ZoneName;
use causeway_telemetry::Side;
use parking_lot::Mutex;

/// Most zones of which a word is kept; a peer may claim to be of any.
const MAX_ZONES: usize = 4_096;

/// Reason that no tunnel came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWord {
    /// Side that refused; `None`: nobody was reached.
    pub by: Option<Side>,
    /// The word that stands in the log, such as `revoked` or `timeout`.
    pub reason: &'static str,
    pub at: Instant,
}

/// The last words, zone by zone.
#[derive(Debug, Default)]
pub struct LastWords(Mutex<BTreeMap<ZoneName, LastWord>>);

impl LastWords {
    /// `peer` is a zone or a gateway; anything else is nobody that an operator knows.
    pub fn note(&self, peer: &str, word: LastWord) {
        let zone = peer.split_once('/').map_or(peer, |(zone, _)| zone);
        let Ok(zone) = ZoneName::new(zone) else {
            return;
        };
        let mut words = self.0.lock();
        if words.len() < MAX_ZONES || words.contains_key(&zone) {
            words.insert(zone, word);
        }
    }

    #[must_use]
    pub fn of(&self, zone: &ZoneName) -> Option<LastWord> {
        self.0.lock().get(zone).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_zone_is_kept_whichever_gateway_said_it_and_no_more_than_so_many() {
        let words = LastWords::default();
        let word = |reason| LastWord {
            by: Some(Side::Peer),
            reason,
            at: Instant::now(),
        };
        words.note("west/gw1", word("revoked"));
        words.note("west", word("timeout"));
        words.note("10.0.0.1:7800", word("garbage"));
        let of = |zone: &str| words.of(&zone.parse().unwrap()).map(|word| word.reason);
        assert_eq!((of("west"), of("east")), (Some("timeout"), None));
        for nth in 0..2 * MAX_ZONES {
            words.note(&format!("zone-{nth}"), word("revoked"));
        }
        assert_eq!(words.0.lock().len(), MAX_ZONES);
        words.note("west", word("revoked"));
        assert_eq!(of("west"), Some("revoked"));
    }
}
