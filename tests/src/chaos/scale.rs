//! Size of a run: the usual one fits beside other tests, the large one is for a machine that does nothing else.

use std::time::Duration;

/// Size of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// The topology has ten thousand services, a zone of three gateways, and a hundred zones by names that a resolver answers for
    /// which loses bursts.
    pub large: bool,
    /// Instances that one zone has besides, from the beginning to the end.
    pub crowd: usize,
    /// Longest wait for all zones to know of each other after the start.
    pub begin_within: Duration,
    /// Time within which all zones must agree after the last fault has healed and the last change was made. A dial is tried
    /// again after 5 s at the latest and may take 3 s; a tunnel that is silent has a second one dialled at once; the rest is for
    /// a busy machine, on which one look at a large zone takes seconds.
    pub agree_within: Duration,
}

impl Scale {
    pub const USUAL: Self = Self {
        large: false,
        crowd: 0,
        begin_within: Duration::from_secs(30),
        agree_within: Duration::from_secs(20),
    };
    pub const LARGE: Self = Self {
        large: true,
        crowd: 20_000,
        begin_within: Duration::from_secs(180),
        agree_within: Duration::from_secs(90),
    };
}
