//! Conflicts between what a topology leads where and whom its permissions let call.

use std::collections::BTreeSet;

use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::Topology,
};
use serde::Serialize;

use crate::permit::{Rule, shuts_out};

/// A zone of which two parts of a service say different things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PermissionConflict {
    pub service: ServiceName,
    pub zone: ZoneName,
    pub kind: ConflictKind,
    /// The rule that has the last word.
    pub rule: Rule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictKind {
    /// `export_to` names the zone, and nobody there may call.
    ExportedButForbidden,
    /// `allow` names callers in the zone, and `export_to` leaves it out.
    AllowedButNotExported,
}

/// Finds the conflicts of all services.
#[must_use]
pub fn permission_conflicts(topology: &Topology) -> Vec<PermissionConflict> {
    let mut conflicts = Vec::new();
    for (name, service) in &topology.services {
        let Some(exported) = &service.export_to else {
            continue;
        };
        let mut note = |zone: &ZoneName, kind, rule| {
            conflicts.push(PermissionConflict {
                service: name.clone(),
                zone: zone.clone(),
                kind,
                rule,
            });
        };
        for zone in exported {
            if let Some(rule) = shuts_out(topology, name, zone) {
                note(zone, ConflictKind::ExportedButForbidden, rule);
            }
        }
        let allowed = service.allow.iter().flatten();
        let allowed: BTreeSet<&ZoneName> = allowed.filter_map(|entry| entry.callers.zone.as_ref()).collect();
        for zone in allowed {
            // Its own instances serve its own clients, exported or not.
            let serves_itself = service.run_in.as_ref().is_none_or(|zones| zones.contains(zone));
            if !exported.contains(zone) && !serves_itself {
                note(
                    zone,
                    ConflictKind::AllowedButNotExported,
                    Rule::ExportTo(name.clone()),
                );
            }
        }
    }
    conflicts
}
