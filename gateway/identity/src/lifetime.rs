//! The life of a certificate, and how much of it is left.

use std::time::{Duration, SystemTime};

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Lifetime {
    pub fn length(self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// Urgency of a renewal that has not been done at `now`.
    #[must_use]
    pub fn urgency(self, now: SystemTime) -> Urgency {
        let left = self.not_after.duration_since(now).unwrap_or_default();
        let length = self.length();
        if left.is_zero() {
            Urgency::Over
        } else if left <= length / 10 {
            Urgency::LastTenth
        } else if left <= length / 3 {
            Urgency::LastThird
        } else {
            Urgency::Calm
        }
    }
}

/// Urgency of a renewal, by how much of a certificate's life is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    Calm,
    /// Two thirds are over: somebody should look why it was not renewed at half.
    LastThird,
    /// Nine tenths are over: somebody must.
    LastTenth,
    /// It has ended: no gateway accepts it.
    Over,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn it_gets_louder_as_the_end_comes_near() {
        let start = SystemTime::UNIX_EPOCH + 1_000 * HOUR;
        let life = Lifetime {
            not_before: start,
            not_after: start + 30 * HOUR,
        };
        for (after, urgency) in [
            (15, Urgency::Calm),
            (19, Urgency::Calm),
            (20, Urgency::LastThird),
            (26, Urgency::LastThird),
            (27, Urgency::LastTenth),
            (29, Urgency::LastTenth),
            (30, Urgency::Over),
            (99, Urgency::Over),
        ] {
            assert_eq!(life.urgency(start + after * HOUR), urgency, "after {after} h");
        }
    }
}
