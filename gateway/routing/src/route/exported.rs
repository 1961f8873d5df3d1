//! Exports that stand behind a candidate, by which whoever keeps a connection to it sees that something has changed there.

use causeway_federation::{catalog::Catalog, name::ServiceName};

use super::{Candidate, Destination};
use crate::snapshot::Snapshot;

/// Instances that the gateway of a candidate has for it, as it exports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExportCount {
    instances: u64,
    healthy: u64,
    weight: u64,
}

impl Candidate {
    /// Counts what its gateway exports for it; `None`: it is this zone. Two counts that differ tell that instances have come, gone, failed or
    /// recovered there; equal ones do not tell that none has.
    #[must_use]
    pub fn exported(&self, service: &ServiceName, snapshot: &Snapshot) -> Option<ExportCount> {
        let Destination::Remote { gateway } = &self.place else {
            return None;
        };
        let mut count = ExportCount::default();
        let entry = snapshot.catalog.entry(gateway);
        let exports = entry
            .into_iter()
            .flat_map(|entry| Catalog::exports(entry, service, &self.tags));
        for export in exports {
            count.instances = count.instances.saturating_add(export.instances.into());
            count.healthy = count.healthy.saturating_add(export.healthy.into());
            count.weight = count.weight.saturating_add(export.weight);
        }
        Some(count)
    }
}
