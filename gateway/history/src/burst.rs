//! Sums up events of which many of a kind come at once, so that a zone with a thousand instances that fall ill does not push a day of
//! history out. Time is an argument.

use std::{collections::BTreeMap, time::Duration};

use crate::event::{EventKind, NewEvent};

/// Events of one kind that are told one by one within a minute.
pub const MAX_OF_KIND_PER_MINUTE: u64 = 60;
/// Time after which those beyond it are summed up.
const MINUTE: Duration = Duration::from_secs(60);

/// Counts of the minute that is under way.
#[derive(Debug, Default)]
pub struct BurstLimit {
    began: Duration,
    /// Told one by one, and held back, by kind.
    counts: BTreeMap<EventKind, (u64, u64)>,
}

impl BurstLimit {
    /// Gives the events to be told at `now`, of any clock that never goes back: those that there is room for, and once a minute is over
    /// how many were held back in it. To be called now and then without events, too.
    pub fn admit(&mut self, now: Duration, events: Vec<NewEvent>) -> Vec<NewEvent> {
        let mut told = Vec::new();
        if now.saturating_sub(self.began) >= MINUTE {
            told = self.sum_up();
            self.began = now;
        }
        for event in events {
            let (one_by_one, held) = self.counts.entry(event.kind).or_default();
            if *one_by_one < MAX_OF_KIND_PER_MINUTE {
                *one_by_one += 1;
                told.push(event);
            } else {
                *held += 1;
            }
        }
        told
    }

    /// Tells how many were held back until now.
    pub fn sum_up(&mut self) -> Vec<NewEvent> {
        let counts = std::mem::take(&mut self.counts).into_iter();
        let held = counts.filter(|(_, (_, held))| *held > 0);
        held.map(|(kind, (_, count))| {
            let text = format!("{count} more events of kind {} within a minute", kind.word());
            let because = format!("{MAX_OF_KIND_PER_MINUTE} of a kind are told one by one");
            let event = NewEvent::new(kind, text).because(because);
            NewEvent { count, ..event }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ill(count: usize) -> Vec<NewEvent> {
        (0..count)
            .map(|nth| NewEvent::new(EventKind::InstanceUnhealthy, format!("instance {nth}")))
            .collect()
    }

    #[test]
    fn a_thousand_at_once_are_told_in_part_and_summed_up_after_a_minute() {
        let mut limit = BurstLimit::default();
        let at = Duration::from_secs;
        assert_eq!(limit.admit(at(1), ill(900)).len(), 60);
        let other = NewEvent::new(EventKind::TunnelDown, "down");
        assert_eq!(
            limit.admit(at(2), vec![other.clone()]),
            vec![other],
            "each kind has its own room"
        );
        assert!(limit.admit(at(59), ill(100)).is_empty());
        let told = limit.admit(at(60), ill(1));
        assert_eq!(told.len(), 2);
        assert_eq!((told[0].count, told[0].kind), (940, EventKind::InstanceUnhealthy));
        assert!(told[0].text.starts_with("940 more events"), "{}", told[0].text);
        assert!(
            limit.admit(at(120), Vec::new()).is_empty(),
            "nothing was held back"
        );
    }
}
