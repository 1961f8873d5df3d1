//! Tells a peer that has restarted from one of which two processes run: the start ids in its hellos, as they came.

use std::collections::VecDeque;

/// Processes of one peer that are remembered besides the latest.
const MAX_FORMER: usize = 8;

/// Start ids of one peer.
#[derive(Debug)]
pub(super) struct Starts {
    latest: u64,
    former: VecDeque<u64>,
}

/// Relation of the process that said a hello to those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Same,
    /// A process that was not heard of before: the peer has restarted.
    Restarted,
    /// One that another has taken the place of, and that runs all the same.
    Former,
}

impl Starts {
    pub(super) fn new(first: u64) -> Self {
        Self {
            latest: first,
            former: VecDeque::new(),
        }
    }

    /// Takes down a hello. One that was superseded never supersedes in turn: else two processes with one identity would end
    /// each other's tunnels for as long as they run.
    pub(super) fn hear(&mut self, start: u64) -> Start {
        if start == self.latest {
            return Start::Same;
        }
        if self.former.contains(&start) {
            return Start::Former;
        }
        if self.former.len() >= MAX_FORMER {
            self.former.pop_front();
        }
        self.former.push_back(self.latest);
        self.latest = start;
        Start::Restarted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_told_once_and_two_processes_do_not_take_turns() {
        let mut starts = Starts::new(1);
        assert_eq!(starts.hear(1), Start::Same);
        assert_eq!(starts.hear(2), Start::Restarted);
        assert_eq!(starts.hear(2), Start::Same);
        assert_eq!(starts.hear(1), Start::Former);
        assert_eq!(starts.hear(2), Start::Same, "the former one has changed nothing");
    }

    #[test]
    fn a_bounded_number_of_processes_is_remembered() {
        let mut starts = Starts::new(0);
        for start in 1..100 {
            assert_eq!(starts.hear(start), Start::Restarted);
        }
        assert_eq!(starts.former.len(), MAX_FORMER);
        assert_eq!(starts.hear(99 - MAX_FORMER as u64), Start::Former);
    }
}
