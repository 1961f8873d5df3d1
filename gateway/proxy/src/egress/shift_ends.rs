//! Ends of connections, as a shift that they may be of counts them.

use causeway_federation::topology::JudgedEnd;
use causeway_routing::target::Target;
use causeway_telemetry::{ConnectionOutcome, StreamRefusal};

use super::{EgressShared, connection::ConnectionSummary};

/// Counts the end of a connection for a shift that it may be of. One that something else than its instance has ended says nothing.
pub(super) fn judge(shared: &EgressShared, target: &Target, summary: &ConnectionSummary) {
    let failed = match summary.outcome {
        ConnectionOutcome::InstanceReset => true,
        ConnectionOutcome::Cut | ConnectionOutcome::PeerCut | ConnectionOutcome::TunnelLost => return,
        _ => false,
    };
    let took = summary.ready_after.unwrap_or_default();
    let end = JudgedEnd { failed, took };
    let shifts = shared.snapshots.load().shifts.load_full();
    shifts.count(&target.service, &summary.tags, end);
}

/// Counts for a shift that a client of the service was not served, where that is for want of somebody who could. Who asked for tags or a zone
/// of its own choice says nothing of the shift.
pub(super) fn judge_unserved(shared: &EgressShared, target: &Target, outcome: ConnectionOutcome) {
    if !target.tags.is_empty() || target.zone.is_some() {
        return;
    }
    let is_lack = match outcome {
        ConnectionOutcome::Unrouted(_) | ConnectionOutcome::NoTunnel | ConnectionOutcome::NoAnswer => true,
        ConnectionOutcome::Refused { reason, .. } => reason != StreamRefusal::Forbidden,
        _ => false,
    };
    if is_lack {
        let shifts = shared.snapshots.load().shifts.load_full();
        shifts.count_unserved(&target.service);
    }
}
