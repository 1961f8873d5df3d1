//! The steps of a hand-over, in order, and what each process does if the other is gone by then. Pure.

/// Step that a hand-over has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The successor has connected; it has opened all that does not conflict.
    Connected,
    /// It has said who it is and may take over.
    Agreed,
    /// It has every socket, and those that it wants besides.
    Ready,
    /// The predecessor has stopped accepting and closed its files.
    LetGo,
}

/// Conduct of the predecessor when its successor is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WithoutSuccessor {
    /// It goes on as if nothing had been.
    GoesOn,
    /// It finishes what it holds.
    FinishesOnly,
}

impl Step {
    #[cfg(test)]
    const ALL: [Self; 4] = [Self::Connected, Self::Agreed, Self::Ready, Self::LetGo];

    pub(super) fn without_successor(self) -> WithoutSuccessor {
        match self {
            Self::Connected | Self::Agreed => WithoutSuccessor::GoesOn,
            // Once the successor is ready, the predecessor lets go without asking again.
            Self::Ready | Self::LetGo => WithoutSuccessor::FinishesOnly,
        }
    }

    /// Words for the log.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Connected => "before it had said who it is",
            Self::Agreed => "while it took the sockets",
            Self::Ready => "when it was ready",
            Self::LetGo => "before it served",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_moment_before_which_nothing_has_been_and_after_which_there_is_no_way_back() {
        let first_final = Step::ALL
            .iter()
            .position(|step| step.without_successor() == WithoutSuccessor::FinishesOnly);
        assert_eq!(first_final.map(|at| Step::ALL[at]), Some(Step::Ready));
        let back = |step: &&Step| step.without_successor() == WithoutSuccessor::GoesOn;
        assert!(Step::ALL.iter().skip_while(back).all(|step| !back(&step)));
        assert!(Step::ALL.is_sorted());
    }
}
