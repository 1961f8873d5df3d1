//! Writes what the ingress has to say of connections and refusals: metrics, the log and the access log.

use std::{sync::Arc, time::Instant};

use causeway_federation::name::ServiceName;
use causeway_proto::tunnel::{Connect, RefusalReason};
use causeway_telemetry::{AccessRecord, ActiveSpan, ConnectionId, ConnectionOutcome, Role, Side};
use causeway_tunnel::{Tunnel, stream_refusal};

use super::{IngressShared, RefusedStream, refuse, trace::IngressTrace};

impl IngressShared {
    pub(super) fn finish(&self, record: &AccessRecord) {
        let service = record.service.as_str();
        self.metrics
            .connection_closed(Role::Ingress, service, record.outcome);
        self.metrics.timed(record);
        self.access.write(record);
    }

    /// Counts and logs a refusal. Refusals that move a connection elsewhere are part of normal life; the others point at
    /// a fault. Requests for a service by a valid name are in the access log too.
    pub(super) fn refused(
        &self,
        connection: ConnectionId,
        connect: &Connect,
        (tunnel, begun): (&Tunnel, Instant),
        refused: &RefusedStream,
        trace: Option<Box<IngressTrace>>,
    ) {
        let (peer, service) = (tunnel.peer(), connect.service.as_str());
        let reason = stream_refusal(refused.reason);
        self.metrics.tunnels.stream_refused(Side::Local, reason);
        if matches!(
            refused.reason,
            RefusalReason::NoInstance | RefusalReason::Draining
        ) {
            tracing::debug!(%peer, service, reason = reason.word(), detail = refused.message, "refused a stream");
        } else if let Some(repeats) = self.rate_limited.lock().admit(begun, (peer.clone(), reason)) {
            let span = trace.as_ref().map(|trace| trace.server());
            let trace_id = span.map(|span| tracing::field::display(span.id()));
            let span_id = span.and_then(ActiveSpan::span_id).map(tracing::field::display);
            tracing::warn!(%connection, trace_id, span_id, %peer, service, reason = reason.word(), detail = refused.message, repeats, "refused a stream");
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
        let record = AccessRecord {
            role: Role::Ingress,
            service,
            port: refuse::port(connect).ok().flatten(),
            tags: connect
                .tags
                .iter()
                .take(causeway_federation::name::MAX_TAGS)
                .collect(),
            client: None,
            from_zone: tunnel.peer().zone.clone(),
            to_zone: None,
            peer: Some(tunnel.peer().clone()),
            instance: None,
            outcome: ConnectionOutcome::refused_here(reason),
            attempts: 1,
            ready_after: None,
            duration: begun.elapsed(),
            bytes_up: 0,
            bytes_down: 0,
            caller,
            rule,
            route: None,
            panic: false,
            request: None,
            trace_id: trace.as_ref().map(|trace| trace.id()),
            connection,
        };
        self.access.write(&record);
        if let Some(mut trace) = trace {
            trace.failed(record.outcome);
            trace.end(&record);
        }
    }
}
