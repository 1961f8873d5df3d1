//! Instances and zones that are ejected.

use std::{fmt, time::Duration};

use causeway_federation::name::{ServiceName, Tags};
use causeway_routing::{
    outlier::{EjectedPart, Ejection},
    snapshot::Snapshot,
};
use serde::{Deserialize, Serialize};

/// Something that comes after the others for a while, because it failed requests that this gateway gave it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EjectionView {
    /// `instance` or `zone`.
    pub part: String,
    pub zone: String,
    /// Port of the service, where its ports have names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Id of an instance of this zone; of others `#` and the number that their own zone shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Of a zone: tags of the instances that it is ejected for.
    #[serde(default)]
    pub tags: Tags,
    pub seconds_ago: f64,
    /// Time until it is asked like the others again.
    pub back_in_seconds: f64,
    /// Such as `5 failures in a row (5 no answer in time)`.
    pub reason: String,
    /// Ejections in a row, this one with them.
    pub times: u32,
}

impl EjectionView {
    /// Subject of it, such as `instance a1 of zone east`.
    #[must_use]
    pub fn subject(&self) -> String {
        let subject = match &self.instance {
            Some(instance) => format!("instance {instance} of zone {}", self.zone),
            None if self.tags.is_empty() => format!("zone {}", self.zone),
            None => format!("zone {} for {}", self.zone, self.tags),
        };
        match &self.port {
            Some(port) => format!("{subject} at port {port}"),
            None => subject,
        }
    }
}

/// `zone west for {version=v2}: 5 failures in a row (5 no answer in time), 3s ago, back in 27s`.
impl fmt::Display for EjectionView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ago, back) = (
            whole(self.seconds_ago.floor()),
            whole(self.back_in_seconds.ceil()),
        );
        let (subject, reason) = (self.subject(), &self.reason);
        write!(f, "{subject}: {reason}, {ago} ago, back in {back}")?;
        match self.times {
            ..=1 => Ok(()),
            times => write!(f, ", ejected {times} times in a row"),
        }
    }
}

fn whole(seconds: f64) -> humantime::FormattedDuration {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    humantime::format_duration(Duration::from_secs(seconds.as_secs()))
}

/// Ejections of a service that hold now.
#[must_use]
pub fn ejections(snapshot: &Snapshot, service: &ServiceName, now: Duration) -> Vec<EjectionView> {
    let ejected = snapshot.ejections.load();
    let now_ejected = ejected
        .of_service(service)
        .filter(|ejection| ejection.until > now);
    now_ejected
        .map(|ejection| ejection_view(snapshot, ejection, now))
        .collect()
}

/// One of them.
pub(super) fn ejection_view(snapshot: &Snapshot, ejection: &Ejection, now: Duration) -> EjectionView {
    EjectionView {
        part: ejection.part.word().to_owned(),
        zone: ejection.zone.to_string(),
        port: ejection.port.as_ref().map(ToString::to_string),
        instance: ejection.instance_name(snapshot),
        tags: match &ejection.part {
            EjectedPart::Instance(_) => Tags::default(),
            EjectedPart::Zone(tags) => tags.clone(),
        },
        seconds_ago: now.saturating_sub(ejection.since).as_secs_f64(),
        back_in_seconds: ejection.until.saturating_sub(now).as_secs_f64(),
        reason: ejection.failures.to_string(),
        times: ejection.times,
    }
}
