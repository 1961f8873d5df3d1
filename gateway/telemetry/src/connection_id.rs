//! The name of a connection in logs, the same at both gateways.

use std::{fmt, num::NonZeroU64};

use serde::{Serialize, Serializer};

/// Names one client's connection. The gateway that accepts it picks the bits at random, and tells them with the stream
/// header; they mean nothing, and nothing is decided by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(NonZeroU64);

impl ConnectionId {
    /// Makes one of random bits.
    #[must_use]
    pub fn new(bits: u64) -> Self {
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }

    /// Reads what a peer says in a stream header, where 0 stands for none.
    #[must_use]
    pub fn told(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(Self)
    }

    #[must_use]
    pub fn bits(self) -> u64 {
        self.0.get()
    }
}

/// 16 hexadecimal digits.
impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_sixteen_digits_and_never_the_zero_that_stands_for_none() {
        assert_eq!(ConnectionId::new(0xab).to_string(), "00000000000000ab");
        assert_eq!(ConnectionId::new(u64::MAX).to_string(), "ffffffffffffffff");
        assert_ne!(ConnectionId::new(0).bits(), 0);
        assert_eq!(ConnectionId::told(0), None);
        assert_eq!(ConnectionId::told(7), Some(ConnectionId::new(7)));
    }
}
