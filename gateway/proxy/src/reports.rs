//! Tells what came of verdicts: counts each, and logs the first of a kind and then one a minute.

use std::{sync::Arc, time::Instant};

use causeway_federation::name::{GatewayId, ServiceName};
use causeway_routing::{
    callers::{FoundCaller, How},
    permit::{Caller, Rule},
};
use causeway_telemetry::{ConnectionId, RateLimited, Role};
use parking_lot::Mutex;

use crate::open::OpenConnection;
use crate::{PermissionOutcome, ProxyMetrics};

/// Kind of lines that share one a minute: one for each service, rule and outcome.
type ReportKey = (ServiceName, Rule, PermissionOutcome);

/// The reports of one side of the data path.
#[derive(Debug)]
pub(crate) struct PermissionReports {
    role: Role,
    metrics: Arc<ProxyMetrics>,
    rate_limited: Mutex<RateLimited<ReportKey>>,
}

impl PermissionReports {
    #[must_use]
    pub(crate) fn new(role: Role, metrics: Arc<ProxyMetrics>) -> Self {
        Self {
            role,
            metrics,
            rate_limited: Mutex::new(RateLimited::new()),
        }
    }

    /// A connection was refused before any instance had it.
    pub(crate) fn refused(
        &self,
        now: Instant,
        connection: ConnectionId,
        found: &FoundCaller,
        service: &ServiceName,
        rule: &Rule,
    ) {
        if let Some(repeats) = self.note(now, PermissionOutcome::Refused, service, rule) {
            let (caller, found) = (&found.caller, found.word());
            tracing::warn!(%connection, %service, %caller, found, %rule, repeats, "a caller may not call this service");
        }
    }

    /// As [`PermissionReports::refused`], where the log line is written elsewhere, with the peer and the reason it was told.
    pub(crate) fn count_refused(&self, service: &ServiceName, rule: &Rule) {
        self.count(PermissionOutcome::Refused, service, rule);
    }

    /// An open connection was closed, because a change took its permission away.
    pub(crate) fn closed(&self, now: Instant, connection: &OpenConnection, caller: &Caller, rule: &Rule) {
        let OpenConnection {
            id, service, peer, ..
        } = connection;
        if let Some(repeats) = self.note(now, PermissionOutcome::Closed, service, rule) {
            let (role, peer) = (self.role.word(), peer.as_ref().map(ToString::to_string));
            tracing::warn!(connection = %id, %service, %caller, peer, role, %rule, repeats, "closed a connection that is not permitted any more");
        }
    }

    /// A connection goes through that would be refused without `permissions.dry_run`.
    pub(crate) fn dry_run(
        &self,
        now: Instant,
        connection: ConnectionId,
        found: &FoundCaller,
        peer: Option<&GatewayId>,
        service: &ServiceName,
        rule: &Rule,
    ) {
        if let Some(repeats) = self.note(now, PermissionOutcome::DryRun, service, rule) {
            let (role, peer, caller) = (self.role.word(), peer.map(ToString::to_string), &found.caller);
            let found = (found.how != How::Vouched).then(|| found.word());
            tracing::info!(%connection, %service, %caller, found, peer, role, %rule, repeats, "dry run: this connection would be refused");
        }
    }

    fn note(
        &self,
        now: Instant,
        outcome: PermissionOutcome,
        service: &ServiceName,
        rule: &Rule,
    ) -> Option<u64> {
        self.count(outcome, service, rule);
        self.rate_limited
            .lock()
            .admit(now, (service.clone(), rule.clone(), outcome))
    }

    fn count(&self, outcome: PermissionOutcome, service: &ServiceName, rule: &Rule) {
        self.metrics.forbidden(self.role, service.as_str(), rule, outcome);
    }
}
