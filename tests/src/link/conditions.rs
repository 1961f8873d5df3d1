//! The fate of a datagram on the way.

use std::time::Duration;

use rand::Rng;

/// The state of one link, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Conditions {
    /// One way.
    pub delay: Duration,
    /// Share of datagrams that are lost, 0 to 1, each independent of the others.
    pub loss: f64,
    /// Nothing passes; nobody is told.
    pub cut: bool,
}

impl Conditions {
    /// A link that passes everything at once.
    #[must_use]
    pub fn clear() -> Self {
        Self::default()
    }

    /// A link that passes nothing and says nothing: what a firewall or a pulled cable does.
    #[must_use]
    pub fn cut() -> Self {
        Self {
            cut: true,
            ..Self::default()
        }
    }

    #[must_use]
    pub fn delayed(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// Tells whether one datagram passes.
    pub(super) fn pass(&self, rng: &mut impl Rng) -> bool {
        !self.cut && (self.loss <= 0.0 || rng.random::<f64>() >= self.loss)
    }
}
