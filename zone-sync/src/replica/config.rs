//! Settings that a replica is made with.

use std::{sync::Arc, time::Duration};

use causeway_federation::{
    name::GatewayId,
    signing::{Signer, Verifier},
};

use super::limits::{OLDEST_PROTOCOL, PROTOCOL, RELAY_BEAT};

/// The protocols that a program speaks, from the oldest to the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    pub oldest: u32,
    pub newest: u32,
}

impl Default for Protocols {
    fn default() -> Self {
        Self {
            oldest: OLDEST_PROTOCOL,
            newest: PROTOCOL,
        }
    }
}

/// Settings of a [`Replica`].
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    pub origin: GatewayId,
    /// Greater than any that this origin ever used.
    pub incarnation: u64,
    pub ages: Ages,
    /// Signs the own record. `None`: it is told unsigned, and nobody passes it on.
    pub signer: Option<Arc<dyn Signer>>,
    pub verifier: Arc<dyn Verifier>,
    /// Other than the default only to model an older or a newer program.
    pub speaks: Protocols,
    /// Encoded fields that a newer program would add to every export and statement; empty but to model one.
    pub unknown_fields: Arc<[u8]>,
}

impl ReplicaConfig {
    /// With the default ages and protocols, and unsigned.
    #[must_use]
    pub fn new(origin: GatewayId, incarnation: u64, verifier: Arc<dyn Verifier>) -> Self {
        Self {
            origin,
            incarnation,
            ages: Ages::default(),
            signer: None,
            verifier,
            speaks: Protocols::default(),
            unknown_fields: Arc::default(),
        }
    }
}

/// Times at which a record stops being believed, counted from when its origin was last heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// From then on it is suspect: used as before while the tunnel to its writer answers.
    pub fresh: Duration,
    /// From then on it is withdrawn: never used.
    pub withdrawn: Duration,
}

/// Reason why ages cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgesError {
    #[error("a record must be fresh for at least {} s: signs of life come through relays every {} ms", Ages::LEAST_FRESH.as_secs(), RELAY_BEAT.as_millis())]
    TooShort,
    #[error("a record must be fresh for less time than it takes to be withdrawn")]
    Order,
    #[error("a record must be withdrawn within {} h", Ages::MOST_WITHDRAWN.as_secs() / 3600)]
    TooLong,
}

impl Ages {
    /// Two beats through a relay fit into it.
    pub(crate) const LEAST_FRESH: Duration = Duration::from_secs(3);
    /// Nothing is served stale for ever.
    pub(crate) const MOST_WITHDRAWN: Duration = Duration::from_secs(24 * 3600);

    /// # Errors
    /// When live gateways would be taken for dead, or dead ones never withdrawn.
    pub fn new(fresh: Duration, withdrawn: Duration) -> Result<Self, AgesError> {
        if fresh < Self::LEAST_FRESH {
            return Err(AgesError::TooShort);
        }
        if withdrawn <= fresh {
            return Err(AgesError::Order);
        }
        if withdrawn > Self::MOST_WITHDRAWN {
            return Err(AgesError::TooLong);
        }
        Ok(Self { fresh, withdrawn })
    }
}

impl Default for Ages {
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(5),
            withdrawn: Duration::from_secs(300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_that_take_the_living_for_dead_or_the_dead_for_living_are_refused() {
        let ages = |fresh, withdrawn| Ages::new(Duration::from_secs(fresh), Duration::from_secs(withdrawn));
        assert_eq!(ages(5, 300), Ok(Ages::default()));
        assert_eq!(ages(2, 300), Err(AgesError::TooShort));
        assert_eq!(ages(5, 5), Err(AgesError::Order));
        assert_eq!(ages(5, 90_000), Err(AgesError::TooLong));
    }
}
