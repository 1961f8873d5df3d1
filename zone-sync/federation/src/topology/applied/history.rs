//! The past as far as it is kept: for `get topology --history`, for `rollback`, and for gateways that were away.

use std::sync::Arc;

use super::{Applied, MAX_HISTORY, MAX_HISTORY_BYTES, TopologyDocument, TopologyRank};
use crate::edition::Edition;

/// Standing of a kept document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryStanding {
    InForce,
    /// It was in force, and the one after it was applied on top of it.
    Former,
    /// It was applied without knowing of another of its generation, which rules.
    Overruled,
    /// Newer than what is in force, but this program cannot use it.
    Unusable,
}

impl HistoryStanding {
    /// A stable word for programs, and for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::InForce => "in force",
            Self::Former => "former",
            Self::Overruled => "overruled",
            Self::Unusable => "unusable",
        }
    }
}

/// One line of the history.
#[derive(Debug, Clone)]
pub struct HistoryEntry {
    pub document: Arc<TopologyDocument>,
    pub standing: HistoryStanding,
}

impl Applied {
    /// Every kept document, newest first. It follows from parent to parent, so that it reads as what came to pass at
    /// the gateways that the rule was fed by.
    #[must_use]
    pub fn history(&self) -> Vec<HistoryEntry> {
        let (mut next, now) = (self.edition(), self.rank());
        let entry = |document: Arc<TopologyDocument>| {
            let edition = document.edition();
            let in_line = edition == next || edition.generation < next.generation;
            let standing = if TopologyRank::of(&document) > now {
                HistoryStanding::Unusable
            } else if edition == self.edition() {
                HistoryStanding::InForce
            } else if in_line {
                HistoryStanding::Former
            } else {
                HistoryStanding::Overruled
            };
            if in_line {
                next = document.parent();
            }
            HistoryEntry { document, standing }
        };
        self.newest_first().into_iter().map(entry).collect()
    }

    /// The documents that a gateway lacks which has `edition` in force: what rules over it, and what that grew from,
    /// oldest first. The last one is in force here.
    #[must_use]
    pub fn newer_than(&self, edition: Edition) -> Vec<Arc<TopologyDocument>> {
        let line = self
            .history()
            .into_iter()
            .filter(|entry| matches!(entry.standing, HistoryStanding::InForce | HistoryStanding::Former))
            .map(|entry| entry.document)
            .take_while(|document| {
                document.edition().generation >= edition.generation && document.edition() != edition
            });
        let mut documents: Vec<_> = line.collect();
        documents.reverse();
        documents
    }

    /// Keeps the history within its limits. Of a shift the steps between its first and its last go first, so that twenty of them do not take all
    /// else with them; then the oldest of the kind that has more than its half, so that whoever may change one service does not push out what
    /// operators would go back to, nor the reverse.
    pub(super) fn forget_oldest(&mut self) {
        loop {
            let bytes: usize = self
                .documents
                .values()
                .map(|document| document.text().len())
                .sum();
            let is_long = self.documents.len() > 2 && bytes > MAX_HISTORY_BYTES;
            if self.documents.len() <= MAX_HISTORY && !is_long {
                return;
            }
            let Some(one) = self.step_between().or_else(|| self.oldest_beyond_half(is_long)) else {
                return;
            };
            // With those that it overruled, which would look as if they had been in force.
            let (generation, rank) = (one.edition().generation, TopologyRank::of(&one));
            let stays = |document: &TopologyDocument| {
                document.edition().generation != generation || TopologyRank::of(document) > rank
            };
            self.documents.retain(|_, document| stays(document));
        }
    }

    /// The oldest document of the kind that takes more than half of the places, or of the bytes. What came before the one in force is
    /// kept in any case, for `rollback`.
    fn oldest_beyond_half(&self, of_bytes: bool) -> Option<Arc<TopologyDocument>> {
        let now = self.rank();
        let size = |document: &TopologyDocument| if of_bytes { document.text().len() } else { 1 };
        let of_services = |document: &&Arc<TopologyDocument>| document.is_of_services();
        let taken: usize = self.documents.values().map(|document| size(document)).sum();
        let by_services: usize = self
            .documents
            .values()
            .filter(of_services)
            .map(|document| size(document))
            .sum();
        let former = self.newest_first().into_iter();
        let mut former: Vec<_> = former
            .filter(|document| TopologyRank::of(document) < now)
            .collect();
        if former.len() > 1 {
            former.remove(0);
        }
        let is_beyond =
            |document: &&Arc<TopologyDocument>| document.is_of_services() == (by_services > taken / 2);
        former
            .iter()
            .rev()
            .find(is_beyond)
            .or_else(|| former.last())
            .cloned()
    }

    /// The oldest document that is one step of a shift among others of it: those before and after it differ in that shift alone.
    fn step_between(&self) -> Option<Arc<TopologyDocument>> {
        let all: Vec<&Arc<TopologyDocument>> = self.documents.values().collect();
        // What came before the one in force is kept in any case, for `rollback`.
        let three = all.windows(3).find(|three| {
            let grow = three
                .windows(2)
                .all(|two| two[0].edition().generation < two[1].edition().generation);
            grow && is_step(three[0].text(), three[1].text())
                && is_step(three[1].text(), three[2].text())
                && three[2].edition() != self.edition()
        })?;
        Some(three[1].clone())
    }
}

/// Beginning of the value of the key `shift`, as this program writes it.
const SHIFT: &str = "shift: { to: ";

/// Tells whether a text differs from another within the one line that says how a shift stands.
fn is_step(before: &str, after: &str) -> bool {
    let same = |(one, other): &(u8, u8)| one == other;
    let begin = before.bytes().zip(after.bytes()).take_while(same).count();
    let rest = before.len().min(after.len()) - begin;
    let ends = before.bytes().rev().zip(after.bytes().rev()).take(rest);
    let end = ends.take_while(same).count();
    let differing = |text: &str| text.as_bytes()[begin..text.len() - end].to_vec();
    let (gone, come) = (differing(before), differing(after));
    let is_one_line = !gone.contains(&b'\n') && !come.contains(&b'\n');
    is_one_line && gone != come && is_in_shift(before.as_bytes().get(..begin).unwrap_or_default())
}

/// Tells whether a text ends within the value of a key `shift`.
fn is_in_shift(text: &[u8]) -> bool {
    let line = text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let begins = line
        .windows(SHIFT.len())
        .rposition(|window| window == SHIFT.as_bytes());
    let Some(value) = begins.and_then(|at| line.get(at..)) else {
        return false;
    };
    let count = |wanted: u8| value.iter().filter(|byte| **byte == wanted).count();
    count(b'{') > count(b'}')
}

#[cfg(test)]
mod tests {
    use super::is_step;

    #[test]
    fn a_step_differs_from_the_one_before_in_the_words_of_its_shift_alone() {
        let text = |shift: &str, weight: u32| {
            format!("services:\n  orders:\n    {shift}port: 80\n    split: [{{ weight: {weight} }}]\n")
        };
        let step = |step: u32, since: &str| {
            format!(
                "shift: {{ to: {{ version: v2 }}, state: running, step: {step}, since: '{since}', by: east/gw1 }}\n    "
            )
        };
        let (one, two) = (text(&step(1, "10:00"), 1), text(&step(2, "10:05"), 1));
        let paused = two.replace("running", "paused");
        assert!(is_step(&one, &two) && is_step(&two, &paused) && is_step(&two, &one));
        assert!(!is_step(&one, &one), "nothing differs");
        assert!(!is_step(&text("", 1), &one), "it begins");
        assert!(
            !is_step(&one, &text(&step(2, "10:05"), 2)),
            "something else differs too"
        );
        assert!(!is_step(&text("", 1), &text("", 2)));
        assert!(!is_step(&one, &one.replace("port: 80", "port: 81")));
        let in_braces = |step: u32, port: u32| {
            format!(
                "services: {{ orders: {{ shift: {{ to: {{ version: v2 }}, step: {step} }}, port: {port} }} }}"
            )
        };
        assert!(is_step(&in_braces(1, 80), &in_braces(2, 80)));
        assert!(!is_step(&in_braces(1, 80), &in_braces(1, 81)));
    }
}
