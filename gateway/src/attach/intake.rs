//! From the events of one attachment to changes of what this gateway knows. Pure.
//!
//! Nothing changes until the server has told everything that it knows: a server that is filling up, or whose view is
//! older than this gateway's own, takes nothing away.

use std::collections::BTreeMap;

use causeway_proto::registry::{self as proto, WatchEvent, watch_event::Event};
use causeway_zone_sync::registry::{InstanceKey, MAX_INSTANCES_PER_ZONE, RegistryError, wire};

use super::{Change, Held, View};
use crate::{health::Verdict, snapshot::Health};

/// Most gateways of one zone: far more than share a zone's traffic, and few enough to look through for every instance.
const MAX_GATEWAYS: usize = 256;
/// Most instances whose health is told in one view: all that can register, and as many fixed ones.
const MAX_VERDICTS: usize = 2 * MAX_INSTANCES_PER_ZONE;
/// Longest reason for a failure that is kept, in characters.
const MAX_REASON_CHARS: usize = 200;

/// Why a server is of no use.
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
    /// What was told so far, until everything was.
    filling: Option<Fill>,
    /// The newest value that this gateway has seen on any attachment.
    newest: u64,
    /// What the server said it is as of.
    revision: u64,
    /// Elements that could not be understood.
    skipped: u64,
    last_skipped: Option<RegistryError>,
}

#[derive(Debug, Default)]
struct Fill {
    instances: BTreeMap<InstanceKey, Held>,
    verdicts: BTreeMap<InstanceKey, Verdict>,
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
    pub(super) fn handle(&mut self, event: WatchEvent) -> Result<Option<Change>, IntakeError> {
        match event.event {
            Some(Event::Put(instance)) => self.put(instance),
            Some(Event::Removed(key)) => {
                Ok(self.understood(wire::key(key)).and_then(|key| self.removed(key)))
            }
            Some(Event::Gateways(gateways)) => self.gateways(gateways),
            Some(Event::Health(report)) => self.found(report),
            Some(Event::Synced(synced)) => self.synced(synced.revision),
            // Said by a newer server.
            None => Ok(None),
        }
    }

    #[must_use]
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    #[must_use]
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// How many elements were skipped since the last call, and why the last one was.
    pub(super) fn take_skipped(&mut self) -> Option<(u64, RegistryError)> {
        let error = self.last_skipped.take()?;
        Some((std::mem::take(&mut self.skipped), error))
    }

    fn put(&mut self, instance: proto::Instance) -> Result<Option<Change>, IntakeError> {
        let Some((mut registration, source, revision)) = self.understood(wire::instance(instance)) else {
            return Ok(None);
        };
        registration.time_to_live = None;
        let held = Held { registration, source };
        let Some(fill) = &mut self.filling else {
            self.newest = self.newest.max(revision);
            self.revision = self.revision.max(revision);
            return Ok(Some(Change::Put(held)));
        };
        self.revision = self.revision.max(revision);
        fill.instances.insert(held.registration.key(), held);
        match fill.instances.len() > MAX_INSTANCES_PER_ZONE {
            true => Err(IntakeError::TooMany("instances")),
            false => Ok(None),
        }
    }

    fn removed(&mut self, key: InstanceKey) -> Option<Change> {
        let Some(fill) = &mut self.filling else {
            return Some(Change::Removed(key));
        };
        fill.instances.remove(&key);
        None
    }

    fn gateways(&mut self, gateways: proto::Gateways) -> Result<Option<Change>, IntakeError> {
        if gateways.names.len() > MAX_GATEWAYS {
            return Err(IntakeError::TooMany("gateways"));
        }
        let names = gateways.names.into_iter().collect();
        let Some(fill) = &mut self.filling else {
            return Ok(Some(Change::Gateways(names)));
        };
        fill.gateways = names;
        Ok(None)
    }

    fn found(&mut self, report: proto::HealthReport) -> Result<Option<Change>, IntakeError> {
        let health = match report.health() {
            proto::Health::Healthy => Health::Healthy,
            proto::Health::Unhealthy => Health::Unhealthy,
            proto::Health::Unspecified => return Ok(None),
        };
        let Some(key) = self.understood(wire::key(report.key.unwrap_or_default())) else {
            return Ok(None);
        };
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let short = |text: &str| text.chars().map(printable).take(MAX_REASON_CHARS).collect();
        let verdict = Verdict {
            health,
            failure: short(&report.failure),
            gateway: short(&report.gateway),
        };
        let Some(fill) = &mut self.filling else {
            return Ok(Some(Change::Found(key, verdict)));
        };
        fill.verdicts.insert(key, verdict);
        match fill.verdicts.len() > MAX_VERDICTS {
            true => Err(IntakeError::TooMany("verdicts")),
            false => Ok(None),
        }
    }

    fn synced(&mut self, revision: u64) -> Result<Option<Change>, IntakeError> {
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
        Ok(Some(Change::Joined(View {
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

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
