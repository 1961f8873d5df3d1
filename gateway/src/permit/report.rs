//! Tells what came of verdicts: counts each, and logs the first of a kind and then one a minute.

use std::{sync::Arc, time::Instant};

use causeway_zone_sync::name::{GatewayId, ServiceName};
use parking_lot::Mutex;

use super::{Caller, Rule};
use crate::{
    callers::{Found, How},
    telemetry::{Metrics, Role},
    tunnel::Quiet,
};

/// What came of a connection that a rule forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    Closed,
    DryRun,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::DryRun => "dry_run",
        }
    }
}

/// Which lines share one a minute: one for each service and rule.
type Kind = (ServiceName, Rule, Outcome);

/// The reports of one side of the data path.
#[derive(Debug)]
pub struct Reports {
    role: Role,
    metrics: Arc<Metrics>,
    quiet: Mutex<Quiet<Kind>>,
}

impl Reports {
    #[must_use]
    pub fn new(role: Role, metrics: Arc<Metrics>) -> Self {
        Self {
            role,
            metrics,
            quiet: Mutex::new(Quiet::new()),
        }
    }

    /// A connection was refused before any instance had it.
    pub fn refused(&self, now: Instant, found: &Found, service: &ServiceName, rule: &Rule) {
        if let Some(repeats) = self.note(now, Outcome::Refused, service, rule) {
            let (caller, found) = (&found.caller, found.word());
            tracing::warn!(%service, %caller, found, %rule, repeats, "a caller may not call this service");
        }
    }

    /// As [`Reports::refused`], where the log line is written elsewhere, with the peer and the reason it was told.
    pub fn count_refused(&self, service: &ServiceName, rule: &Rule) {
        self.count(Outcome::Refused, service, rule);
    }

    /// An open connection was closed, because a change took its permission away.
    pub fn closed(
        &self,
        now: Instant,
        caller: &Caller,
        peer: Option<&GatewayId>,
        service: &ServiceName,
        rule: &Rule,
    ) {
        if let Some(repeats) = self.note(now, Outcome::Closed, service, rule) {
            let (role, peer) = (self.role.word(), peer.map(ToString::to_string));
            tracing::warn!(%service, %caller, peer, role, %rule, repeats, "closed a connection that is not permitted any more");
        }
    }

    /// A connection goes through that would be refused without `permissions.dry_run`.
    pub fn dry_run(
        &self,
        now: Instant,
        found: &Found,
        peer: Option<&GatewayId>,
        service: &ServiceName,
        rule: &Rule,
    ) {
        if let Some(repeats) = self.note(now, Outcome::DryRun, service, rule) {
            let (role, peer, caller) = (self.role.word(), peer.map(ToString::to_string), &found.caller);
            let found = (found.how != How::Vouched).then(|| found.word());
            tracing::info!(%service, %caller, found, peer, role, %rule, repeats, "dry run: this connection would be refused");
        }
    }

    fn note(&self, now: Instant, outcome: Outcome, service: &ServiceName, rule: &Rule) -> Option<u64> {
        self.count(outcome, service, rule);
        self.quiet
            .lock()
            .admit(now, (service.clone(), rule.clone(), outcome))
    }

    fn count(&self, outcome: Outcome, service: &ServiceName, rule: &Rule) {
        self.metrics
            .forbidden(self.role.word(), service.as_str(), rule.word(), outcome.word());
    }
}
