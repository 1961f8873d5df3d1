//! The steps of a hand-over, in order, and what each process does if the other is gone by then, or has taken too long: a successor has a
//! limit for each step (`serve`). `tests/tests/processes/handover_steps.rs` kills either at each of them.
//!
//! | step | the successor is gone | the predecessor is gone |
//! | --- | --- | --- |
//! | it has connected | the predecessor goes on as if nothing had been | it starts as it would without one |
//! | it has agreed | the same | it starts with the sockets that it has |
//! | it is ready | the predecessor lets go, and offers the same to another | the same |
//! | it was let go for | the same | it serves, as it would have |
//!
//! Whoever takes over opens the files before anything else, and one process has them at a time: so one that is wrong about the other
//! being gone, as one that was given up and goes on after all, ends with words.

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

impl Step {
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
