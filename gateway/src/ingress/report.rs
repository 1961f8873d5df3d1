//! What the ingress writes of connections and refusals: metrics, the log and the access log.

use std::{sync::Arc, time::Instant};

use causeway_proto::tunnel::{Connect, RefusalReason};
use causeway_zone_sync::name::ServiceName;

use super::{Refused, Shared, refuse};
use crate::{
    telemetry::{AccessRecord, Role, Side},
    tunnel::{Tunnel, refusal_word},
};

impl Shared {
    pub(super) fn finish(&self, record: &AccessRecord) {
        let service = record.service.as_str();
        self.metrics
            .connection_closed(Role::Ingress.word(), service, record.outcome);
        self.metrics.timed(record);
        self.access.write(record);
    }

    /// Counts and logs a refusal. Refusals that move a connection elsewhere are part of normal life; the others point at
    /// a fault. Requests for a service by a valid name are in the access log too.
    pub(super) fn refused(&self, connect: &Connect, tunnel: &Tunnel, begun: Instant, refused: &Refused) {
        let (peer, service) = (tunnel.peer(), connect.service.as_str());
        let reason = refusal_word(refused.reason);
        self.metrics.stream_refused(Side::Local, reason);
        if matches!(
            refused.reason,
            RefusalReason::NoInstance | RefusalReason::Draining
        ) {
            tracing::debug!(%peer, service, reason, detail = refused.message, "refused a stream");
        } else if let Some(repeats) = self.quiet.lock().admit(begun, (peer.clone(), reason)) {
            tracing::warn!(%peer, service, reason, detail = refused.message, repeats, "refused a stream");
        }
        let Ok(service) = ServiceName::new(&connect.service) else {
            return;
        };
        let (caller, rule) = match &refused.forbidden {
            Some((caller, rule)) => {
                self.reports.count_refused(&service, rule);
                (Some(caller.clone()), Some(rule.clone()))
            }
            None => {
                let caller = refuse::caller(connect, &peer.zone);
                (caller.ok().map(Arc::new), None)
            }
        };
        self.access.write(&AccessRecord {
            role: Role::Ingress,
            service,
            tags: connect
                .tags
                .iter()
                .take(causeway_zone_sync::name::MAX_TAGS)
                .collect(),
            client: None,
            from_zone: tunnel.peer().zone.clone(),
            to_zone: None,
            peer: Some(tunnel.peer().clone()),
            instance: None,
            outcome: refusal_word(refused.reason),
            attempts: 1,
            ready_after: None,
            duration: begun.elapsed(),
            bytes_up: 0,
            bytes_down: 0,
            caller,
            rule,
        });
    }
}
