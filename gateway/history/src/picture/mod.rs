//! Pictures of what a gateway knows at one moment, as far as the history tells of it, and what happened between two of them. Pure.
//!
//! This is the one place in which it is decided what an event is: no part of the gateway tells of events by itself.

mod causes;
mod instances;
mod open;
#[cfg(test)]
mod open_tests;
#[cfg(test)]
mod panic_tests;
mod peers;
mod plans;
mod ruling;
mod shifts;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use causeway_federation::{name::GatewayId, trust::TrustDocument};
use causeway_routing::{outlier::Ejected, shift::LocalShifts, snapshot::Snapshot};

pub use open::OpenMatters;
pub use plans::Plans;

use crate::event::NewEvent;

/// Everything that is compared.
#[derive(Debug, Clone)]
pub struct Picture {
    pub snapshot: Arc<Snapshot>,
    /// Places that serve each service.
    pub plans: Plans,
    /// Those of the snapshot that change in place, as they are at this moment.
    pub ejected: Arc<Ejected>,
    pub shifts: Arc<LocalShifts>,
    /// Reasons why there is no tunnel with a gateway, in words.
    pub absences: BTreeMap<GatewayId, String>,
    /// Gateway that applied the topology in force; `None`: it comes from a file, or nobody knows.
    pub applied_by: Option<GatewayId>,
    /// Words of whoever applied it on why.
    pub applied_reason: Option<String>,
    /// A topology that is not taken, and why.
    pub refused_topology: Option<String>,
    pub certificate: CertificatePicture,
    pub trust: Option<Arc<TrustDocument>>,
}

/// The gateway's own certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificatePicture {
    /// `None`: it does not end.
    pub validity: Option<(SystemTime, SystemTime)>,
    pub urgency: CertificateUrgency,
    /// Reason why it could not be renewed, or another one was refused.
    pub failure: Option<String>,
}

/// Urgency of its renewal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateUrgency {
    #[default]
    Calm,
    Expiring,
    Expired,
}

/// Tells what a process sees when it looks for the first time: tunnels that are up, and gateways that are heard. Nothing else of it is news.
#[must_use]
pub fn first(now: &Picture) -> Vec<NewEvent> {
    let mut events = Vec::new();
    peers::first(now, &mut events);
    events
}

/// Tells what happened between two pictures, in an order in which causes come before what follows from them.
#[must_use]
pub fn events(before: &Picture, after: &Picture) -> Vec<NewEvent> {
    let mut events = Vec::new();
    ruling::topology(before, after, &mut events);
    ruling::trust(before, after, &mut events);
    ruling::certificate(before, after, &mut events);
    shifts::changed(before, after, &mut events);
    peers::seen(before, after, &mut events);
    peers::tunnels(before, after, &mut events);
    peers::ages(before, after, &mut events);
    instances::changed(before, after, &mut events);
    instances::ejected(before, after, &mut events);
    plans::changed(before, after, &mut events);
    events
}
