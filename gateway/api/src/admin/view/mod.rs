//! Views that the API shows: stable structs, made from state by pure functions. The `causeway` commands read the same
//! structs.
//!
//! Within version 1 fields and kinds are only ever added. Durations and sizes bear their unit in their name.

mod ejections;
mod exchange;
mod exports;
mod instances;
mod loads;
mod services;
mod settings;
mod shifts;
mod topology;
mod trust;
mod tunnels;
mod zones;

use std::time::{Duration, SystemTime};

use causeway_federation::catalog::Age;
use causeway_host::moment::nearest_written;
use causeway_routing::snapshot::{Link, Snapshot};
use serde::{Deserialize, Serialize};

pub use ejections::{EjectionView, ejections};
pub use exchange::{ExchangeView, RefusalView, exchange};
pub use exports::{ExportView, RecordView, exports, records};
pub use instances::{FailureView, InstanceView, instances};
pub use loads::{LoadView, MeasuredCapacityView, loads, measured_capacities};
pub use services::{AnswersView, ArmView, CapacityView, Count, ServiceView, ServiceZone, TierView, services};
pub use settings::{SettingSource, SettingView};
pub use shifts::{ShiftGatewayView, ShiftView, shift_in_words, shifts};
pub use topology::{
    ChangeView, ChangesView, GenerationView, TopologyView, changes, generations, outcome, topology,
};
pub use trust::{ListView, RootView, TrustSummary, TrustedGatewayView, TrustedZoneView, trust};
pub use tunnels::{TunnelView, tunnels};
pub use zones::{DrainView, LastWordView, LinkView, ZoneView, zones};

/// Version of everything under `/v1/`.
pub const VERSION: u32 = 1;

/// Unix socket of the admin API, for the commands of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketView {
    pub path: String,
}

/// Around every answer: what it is, and who says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    pub version: u32,
    pub kind: String,
    /// The zone that answers.
    pub zone: String,
    /// Generation of the snapshot that the items were read from.
    pub generation: u64,
    pub items: Vec<T>,
    /// With loads: what instances were found to take. Empty with everything else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capacities: Vec<MeasuredCapacityView>,
}

impl<T> Envelope<T> {
    #[must_use]
    pub fn new(kind: &str, snapshot: &Snapshot, items: Vec<T>) -> Self {
        Self {
            version: VERSION,
            kind: kind.to_owned(),
            zone: snapshot.zone.to_string(),
            generation: snapshot.generation,
            items,
            capacities: Vec::new(),
        }
    }
}

fn age_word(age: Age) -> &'static str {
    match age {
        Age::Fresh => "fresh",
        Age::Suspect => "suspect",
        Age::Withdrawn => "withdrawn",
    }
}

/// `down`: no tunnel leads there.
fn link_word(link: Option<Link>) -> &'static str {
    match link {
        Some(Link::Up) => "up",
        Some(Link::Stalled) => "stalled",
        Some(Link::Draining) => "draining",
        None => "down",
    }
}

/// RFC 3339, in UTC and whole seconds. A moment before 1970 or after the year 9999 is shown as the nearest that can be written.
#[must_use]
pub fn moment(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(nearest_written(at)).to_string()
}

/// With three decimals: what people compare, and no more than the clocks are worth.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_moment_that_cannot_be_written_is_shown_as_the_nearest_that_can() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(moment(at(1_795_000_000)), "2026-11-18T11:06:40Z");
        // A week after the last moment that a topology can hold.
        assert_eq!(moment(at(253_402_300_799 + 604_800)), "9999-12-31T23:59:59Z");
        assert_eq!(
            moment(UNIX_EPOCH - Duration::from_secs(1)),
            "1970-01-01T00:00:00Z"
        );
    }
}
