//! Figures that gateways tell each other of shifts: what became of the requests that each has itself given to the arm that is shifted to.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{name::ServiceName, topology::Shift};

/// Most shifts that one gateway tells figures of: they have to fit a statement.
pub const MAX_TOLD_SHIFTS: usize = 8;

/// Figures of one gateway on one step of one shift.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShiftFigures {
    pub step: ShiftStepNumber,
    /// Requests, or connections, of which the end is known.
    pub requests: u64,
    /// Requests that count against each condition of the gate, in their order.
    pub against: Vec<u64>,
    /// The gateway has taken its own arm back, because these figures or earlier ones of this shift broke the gate.
    pub taken_back: bool,
}

/// Number by which gateways know one step of one shift, worked out by each from the topology.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShiftStepNumber(pub u64);

impl ShiftStepNumber {
    #[must_use]
    pub fn of(service: &ServiceName, shift: &Shift) -> Self {
        let milliseconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut hasher = blake3::Hasher::new();
        hasher.update(service.as_str().as_bytes());
        for moment in [shift.begun, shift.since] {
            hasher.update(&milliseconds(moment).to_le_bytes());
        }
        hasher.update(&u64::try_from(shift.step).unwrap_or(u64::MAX).to_le_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_le_bytes(first))
    }
}
