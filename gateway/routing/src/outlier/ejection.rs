//! Something that is ejected, and why, in words.

use std::{fmt, time::Duration};

use causeway_federation::name::{PortName, ServiceName, Tags, ZoneName};
use serde::{Deserialize, Serialize};

use crate::snapshot::Snapshot;

/// Way in which a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TryFailure {
    /// An answer that says that something went wrong, for which the request may be to blame: 500 and its like.
    Error,
    /// An answer that says that nothing can be served now: 502, 503, 504 and their like.
    Unavailable,
    /// The connection ended before the answer's end.
    Reset,
    /// There was no answer in time.
    Late,
}

/// Numbers of failures of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCounts {
    error: u32,
    unavailable: u32,
    reset: u32,
    late: u32,
}

impl FailureCounts {
    pub(super) fn add(&mut self, failure: TryFailure) {
        let count = match failure {
            TryFailure::Error => &mut self.error,
            TryFailure::Unavailable => &mut self.unavailable,
            TryFailure::Reset => &mut self.reset,
            TryFailure::Late => &mut self.late,
        };
        *count = count.saturating_add(1);
    }

    #[must_use]
    pub fn total(&self) -> u32 {
        let counts = [self.error, self.unavailable, self.reset, self.late];
        counts.into_iter().fold(0, u32::saturating_add)
    }

    /// Tells whether the requests may be to blame for all of them.
    pub(super) fn are_errors(&self) -> bool {
        self.error == self.total()
    }
}

/// `5 failures in a row (4 unavailable such as 503, 1 no answer in time)`.
impl fmt::Display for FailureCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.error, "errors such as 500"),
            (self.unavailable, "unavailable such as 503"),
            (self.reset, "broken off"),
            (self.late, "no answer in time"),
        ];
        let told: Vec<String> = kinds
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, kind)| format!("{count} {kind}"))
            .collect();
        match self.total() {
            1 => write!(f, "1 failure ({})", told.join(", ")),
            total => write!(f, "{total} failures in a row ({})", told.join(", ")),
        }
    }
}

/// Subject of an ejection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EjectedPart {
    /// One instance, by its number.
    Instance(u64),
    /// The zone, for instances with these tags.
    Zone(Tags),
}

impl EjectedPart {
    /// The word for metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Instance(_) => "instance",
            Self::Zone(_) => "zone",
        }
    }
}

/// Form in which the number of an instance is shown.
#[must_use]
pub fn number_text(number: u64) -> String {
    format!("#{number:016x}")
}

/// Something that comes after the others for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    pub service: ServiceName,
    /// Port of the service; `None`: the only one, which has no name.
    pub port: Option<PortName>,
    pub zone: ZoneName,
    pub part: EjectedPart,
    pub since: Duration,
    pub until: Duration,
    /// Failures that it came of.
    pub failures: FailureCounts,
    /// Ejections of it in a row, this one with them.
    pub times: u32,
}

/// An ejection that another process goes on with, whose clock has another beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedEjection {
    pub service: ServiceName,
    /// `None`: the one without a name.
    #[serde(default)]
    pub port: Option<PortName>,
    pub zone: ZoneName,
    pub part: EjectedPart,
    /// Milliseconds since it began, and until it ends.
    pub began_ago: u64,
    pub ends_in: u64,
    pub failures: FailureCounts,
    pub times: u32,
}

impl Ejection {
    /// The ejection as it is told to another process `now`.
    #[must_use]
    pub fn carried(&self, now: Duration) -> CarriedEjection {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        CarriedEjection {
            service: self.service.clone(),
            port: self.port.clone(),
            zone: self.zone.clone(),
            part: self.part.clone(),
            began_ago: milliseconds(now.saturating_sub(self.since)),
            ends_in: milliseconds(self.until.saturating_sub(now)),
            failures: self.failures,
            times: self.times,
        }
    }

    /// Id of an instance of this zone; of others their number, in the form in which their own zone shows it; `None`: it is no instance.
    #[must_use]
    pub fn instance_name(&self, snapshot: &Snapshot) -> Option<String> {
        let EjectedPart::Instance(number) = self.part else {
            return None;
        };
        let here = (self.zone == snapshot.zone).then(|| snapshot.instances.get(&self.service));
        let mut known = here.flatten().into_iter().flat_map(|list| list.iter());
        let known = known.find(|instance| instance.number() == number);
        Some(known.map_or_else(|| number_text(number), |instance| instance.id.clone()))
    }

    pub(super) fn key(&self) -> (&ServiceName, &ZoneName, &EjectedPart, Option<&PortName>) {
        (&self.service, &self.zone, &self.part, self.port.as_ref())
    }
}
