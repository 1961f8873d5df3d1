//! Health: whether each instance of this zone can be given traffic.
//!
//! [`HealthState`] decides from probe results, [`Checks`] decides when each instance is probed next; both are told the
//! time and never look at a clock. [`Sharing`] says which of them are this gateway's where a zone has several gateways.
//! [`probe()`] is one probe over a real socket. Who owns the checks, starts the probes and publishes what they find is
//! `instances`: there is no task per instance here.

mod probe;
mod schedule;
mod share;
mod sharing;
mod state;

pub use probe::{ProbeFailure, probe};
pub use schedule::{CheckId, Checks, HINT_GAP, MAX_CONCURRENT_PROBES, Order};
pub use share::{checker, phase};
pub use sharing::{Duty, Sharing, Told, Verdict};
pub use state::{HealthState, LastFailure, Outcome, Thresholds, Transition};

#[cfg(test)]
pub(crate) mod testing {
    use causeway_zone_sync::topology::{HealthCheck, parse};

    /// A TCP check, as only the topology's reader can make one.
    pub(crate) fn health_check() -> HealthCheck {
        let text = "version: 1\ntrust_domain: acme.internal\nzones: { east: { gateways: [] } }\n\
                    services: { orders: { port: 80, health: { tcp: true } } }\n";
        let parsed = parse(text, "test.yaml").unwrap();
        let service = parsed.topology.services.into_values().next();
        service.unwrap().health.unwrap()
    }
}
