//! From the events of one attachment to changes of what this gateway knows. Pure.
//!
//! Nothing changes until the server has told everything that it knows: a server that is filling up, or whose view is
//! older than this gateway's own, takes nothing away.

use std::collections::BTreeMap;

use causeway_federation::registry::{InstanceKey, MAX_INSTANCES_PER_ZONE, RegistryError, wire};
use causeway_proto::registry::{self as proto, WatchEvent, watch_event::Event};
use causeway_routing::snapshot::Health;

use super::{RegistryView, SharedChange, SharedInstance};
use crate::health::Finding;

/// Most gateways of one zone: far more than share a zone's traffic, and few enough to look through for every instance.
const MAX_GATEWAYS: usize = 256;
/// Most instances whose health is told in one view: all that can register, and as many fixed ones.
const MAX_VERDICTS: usize = 2 * MAX_INSTANCES_PER_ZONE;
/// Longest reason for a failure that is kept, in characters.
const MAX_REASON_CHARS: usize = 200;

/// Reason why a server is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum IntakeError {
    #[error("its view is of revision {revision}, and this gateway knows of {known} already")]
    Behind { revision: u64, known: u64 },
    #[error("it tells of more {0} than a zone may have")]
    TooMany(&'static str),
}

/// Takes in the events of one attachment.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Part that was told so far, until everything was.
    filling: Option<Fill>,
    /// The newest value that this gateway has seen on any attachment.
    newest: u64,
    /// Revision that the server said it is of.
    revision: u64,
    /// Reason why nothing can be registered, as the server said last.
    trouble: Option<String>,
    /// Elements that could not be understood.
    skipped: u64,
    last_skipped: Option<RegistryError>,
}

#[derive(Debug, Default)]
struct Fill {
    instances: BTreeMap<InstanceKey, SharedInstance>,
    verdicts: BTreeMap<InstanceKey, Finding>,
    gateways: std::collections::BTreeSet<String>,
}

impl Intake {
    /// For a new attachment. A server that does not know of revision `newest` yet is refused; 0 takes any.
    #[must_use]
    pub(super) fn new(newest: u64) -> Self {
        Self {
            filling: Some(Fill::default()),
            newest,
            ..Self::default()
        }
    }

    /// # Errors
    /// When the attachment must be given up.
    pub(super) fn handle(&mut self, event: WatchEvent) -> Result<Option<SharedChange>, IntakeError> {
        match event.event {
            Some(Event::Put(instance)) => self.put(instance),
            Some(Event::Removed(key)) => {
                Ok(self.understood(wire::key(key)).and_then(|key| self.removed(key)))
            }
            Some(Event::Gateways(gateways)) => self.gateways(gateways),
            Some(Event::Health(report)) => self.found(report),
            Some(Event::Synced(synced)) => {
                self.trouble = Some(short(&synced.trouble)).filter(|trouble| !trouble.is_empty());
                self.synced(synced.revision)
            }
            // Said by a newer server.
            None => Ok(None),
        }
    }

    #[must_use]
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Reason why nothing can be registered at the moment.
    #[must_use]
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    #[must_use]
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Number of elements that were skipped since the last call, and why the last one was.
    pub(super) fn take_skipped(&mut self) -> Option<(u64, RegistryError)> {
        let error = self.last_skipped.take()?;
        Some((std::mem::take(&mut self.skipped), error))
    }

    fn put(&mut self, instance: proto::Instance) -> Result<Option<SharedChange>, IntakeError> {
        let Some((mut registration, source, revision)) = self.understood(wire::instance(instance)) else {
            return Ok(None);
        };
        registration.time_to_live = None;
        let held = SharedInstance { registration, source };
        let Some(fill) = &mut self.filling else {
            self.newest = self.newest.max(revision);
            self.revision = self.revision.max(revision);
            return Ok(Some(SharedChange::Put(held)));
        };
        self.revision = self.revision.max(revision);
        fill.instances.insert(held.registration.key(), held);
        match fill.instances.len() > MAX_INSTANCES_PER_ZONE {
            true => Err(IntakeError::TooMany("instances")),
            false => Ok(None),
        }
    }

    fn removed(&mut self, key: InstanceKey) -> Option<SharedChange> {
        let Some(fill) = &mut self.filling else {
            return Some(SharedChange::Removed(key));
        };
        fill.instances.remove(&key);
        None
    }

    fn gateways(&mut self, gateways: proto::Gateways) -> Result<Option<SharedChange>, IntakeError> {
        if gateways.names.len() > MAX_GATEWAYS {
            return Err(IntakeError::TooMany("gateways"));
        }
        let names = gateways.names.into_iter().collect();
        let Some(fill) = &mut self.filling else {
            return Ok(Some(SharedChange::Gateways(names)));
        };
        fill.gateways = names;
        Ok(None)
    }

    fn found(&mut self, report: proto::HealthReport) -> Result<Option<SharedChange>, IntakeError> {
        let health = match report.health() {
            proto::Health::Healthy => Health::Healthy,
            proto::Health::Unhealthy => Health::Unhealthy,
            proto::Health::Unspecified => return Ok(None),
        };
        let Some(key) = self.understood(wire::key(report.key.unwrap_or_default())) else {
            return Ok(None);
        };
        let verdict = Finding {
            health,
            failure: short(&report.failure),
            gateway: short(&report.gateway),
        };
        let Some(fill) = &mut self.filling else {
            return Ok(Some(SharedChange::Found(key, verdict)));
        };
        fill.verdicts.insert(key, verdict);
        match fill.verdicts.len() > MAX_VERDICTS {
            true => Err(IntakeError::TooMany("verdicts")),
            false => Ok(None),
        }
    }

    fn synced(&mut self, revision: u64) -> Result<Option<SharedChange>, IntakeError> {
        // A store that counts no revisions says 0, and is never behind.
        if revision > 0 && revision < self.newest {
            let known = self.newest;
            return Err(IntakeError::Behind { revision, known });
        }
        // The newest value of this view: 0 after a store was set back, on purpose.
        let seen = self.revision;
        self.revision = seen.max(revision);
        let Some(fill) = self.filling.take() else {
            return Ok(None);
        };
        self.newest = seen;
        Ok(Some(SharedChange::Joined(RegistryView {
            instances: fill.instances.into_values().collect(),
            verdicts: fill.verdicts,
            gateways: fill.gateways,
        })))
    }

    fn understood<T>(&mut self, read: Result<T, RegistryError>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(error) => {
                self.skipped += 1;
                self.last_skipped = Some(error);
                None
            }
        }
    }
}

/// Text of a server for one line of a log or report.
fn short(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(printable).take(MAX_REASON_CHARS).collect()
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
