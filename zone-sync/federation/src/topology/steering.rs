//! Rules of a service about health and shares that follow from several of its keys.

use std::time::Duration;

use super::{
    model::{Failback, HealthCheck, Probe, Service},
    permissions::CallerView,
};

impl Service {
    /// Way in which traffic returns to a tier that was ill: as `failback` says, or else over the slow start.
    #[must_use]
    pub fn return_policy(&self) -> Option<Failback> {
        let over_start = self.slow_start.map(|ramp| Failback {
            hold: Duration::ZERO,
            ramp,
        });
        self.failback.clone().or(over_start)
    }

    /// Tells whether instances that are ill are used where none is healthy: a check that asks them something may itself be what is broken. One that only
    /// connects fails because nobody accepts.
    #[must_use]
    pub fn panics(&self) -> bool {
        let asks = |check: &HealthCheck| check.probe != Probe::Tcp;
        self.panic && self.health.as_ref().is_some_and(asks)
    }

    /// Tells whether requests of this caller may say their criticality.
    #[must_use]
    pub fn takes_criticality_from(&self, caller: CallerView<'_>) -> bool {
        self.criticality_from
            .iter()
            .any(|allowed| allowed.matches(caller))
    }
}
