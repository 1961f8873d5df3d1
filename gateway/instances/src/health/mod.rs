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

pub(crate) use probe::probe;
pub(crate) use schedule::HINT_GAP;
pub(crate) use schedule::{CheckId, Checks, ProbeOrder};
pub(crate) use share::{checker, phase};
pub(crate) use sharing::{Duty, Finding, Sharing};
pub(crate) use state::{HealthState, ProbeResult, Thresholds, Transition};

#[cfg(test)]
pub(crate) mod testing {
    use causeway_federation::topology::{HealthCheck, parse};

    /// A TCP check, as only the topology's reader can make one.
    pub(crate) fn health_check() -> HealthCheck {
        let text = "version: 1\ntrust_domain: acme.internal\nzones: { east: { gateways: [] } }\n\
                    services: { orders: { port: 80, health: { tcp: true } } }\n";
        let parsed = parse(text, "test.yaml").unwrap();
        let service = parsed.topology.services.into_values().next();
        service.unwrap().health.unwrap()
    }
}
