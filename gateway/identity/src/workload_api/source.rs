//! The identity of a process as an agent gives it: waited for at the start, and followed from then on.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_federation::{
    name::ZoneName,
    trust::{StoredTrust, Trust},
};
use causeway_proto::workload::X509svidResponse;
use causeway_telemetry::log::in_one_line;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    super::{HeldIdentity, Identity, IdentityOrigin, LiveIdentity, RefreshOutcome},
    EndpointAddress, Trouble,
    agent::Agent,
    svid::{self, WantedSvid},
};
use crate::IdentityMetrics;
use crate::{Lifetime, Urgency};

/// An agent that says nothing for this long is asked anew.
const SILENCE: Duration = Duration::from_secs(300);
/// The same while what it said last is refused: time, or a trust document, may have mended it.
const SILENCE_AFTER_REFUSAL: Duration = Duration::from_secs(30);
/// While there is no identity, the same reason is logged this often.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// An identity that comes from an agent.
pub struct WorkloadApi {
    held: Arc<HeldIdentity>,
    agent: Agent,
}

/// Prints who it is, never a key.
impl std::fmt::Debug for WorkloadApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("WorkloadApi").field(&self.held).finish()
    }
}

impl WorkloadApi {
    /// Waits until an agent gives this process the identity of a gateway of `zone`, and says what it waits for. As from a
    /// folder, one that peers would refuse is taken at the start. Cancel-safe: to give up, drop it.
    pub async fn open(endpoint: EndpointAddress, zone: &ZoneName) -> Self {
        let mut agent = Agent::new(endpoint);
        let mut waiting = Waiting::new(agent.endpoint(), zone);
        let nothing_trusted = Trust::new("", StoredTrust::default());
        let identity = loop {
            match agent.next(SILENCE_AFTER_REFUSAL).await {
                Ok(answer) => {
                    let now = SystemTime::now();
                    match svid::read(answer, WantedSvid::Zone(zone), &nothing_trusted, now) {
                        Ok(identity) => break identity,
                        Err(error) => waiting.unusable(&in_one_line(&error)),
                    }
                }
                Err(trouble) => {
                    waiting.away(&trouble);
                    agent.pause().await;
                }
            }
        };
        tracing::info!(gateway = %identity.gateway(), endpoint = %agent.endpoint(),
            roots = identity.anchors().roots.len(), "has its identity from the SPIFFE Workload API");
        let origin = IdentityOrigin::WorkloadApi(agent.status());
        Self {
            held: Arc::new(HeldIdentity::new(identity, origin)),
            agent,
        }
    }

    /// Identity in use, for those who change whom it believes.
    #[must_use]
    pub fn held(&self) -> &Arc<HeldIdentity> {
        &self.held
    }

    #[must_use]
    pub fn identity(&self) -> LiveIdentity {
        self.held.identity()
    }

    /// Takes up what the agent says until `stop`.
    pub async fn watch(self, metrics: Arc<IdentityMetrics>, stop: CancellationToken) {
        stop.run_until_cancelled_owned(self.follow(metrics)).await;
    }

    async fn follow(mut self, metrics: Arc<IdentityMetrics>) {
        let mut told = AgentComplaint::default();
        loop {
            let current = self.held.identity.borrow().clone();
            if let Some(ends) = current.not_after() {
                metrics.identity_ends(ends);
            }
            let patience = match self.held.is_refusing() {
                false => SILENCE,
                true => SILENCE_AFTER_REFUSAL,
            };
            match self.agent.next(patience).await {
                Ok(answer) => {
                    told.answered(&self.agent.endpoint());
                    self.take(answer, &metrics).await;
                }
                Err(trouble) => {
                    told.away(&trouble, &self.agent.endpoint(), &current, SystemTime::now());
                    self.agent.pause().await;
                }
            }
        }
    }

    async fn take(&self, answer: X509svidResponse, metrics: &IdentityMetrics) {
        let held = self.held.clone();
        let taken = tokio::task::spawn_blocking(move || offer(&held, answer, SystemTime::now())).await;
        match taken {
            Ok(RefreshOutcome::Unchanged | RefreshOutcome::Unsettled) => {}
            Ok(RefreshOutcome::Taken) => metrics.identity_reloaded(true),
            Ok(RefreshOutcome::Refused) => metrics.identity_reloaded(false),
            Err(error) => tracing::error!(%error, "taking up an identity of the Workload API has failed"),
        }
    }
}

/// Takes an answer up if it is good and new.
pub(super) fn offer(held: &HeldIdentity, answer: X509svidResponse, now: SystemTime) -> RefreshOutcome {
    let keeping = held.changing.lock();
    let current = held.identity.borrow().clone();
    match svid::renewed(answer, &current, &keeping.trust, now) {
        Ok(found) => held.take_up(found),
        Err(error) => held.refuse(in_one_line(&error)),
    }
}

/// Log of a wait, while there is no identity yet.
struct Waiting<'a> {
    endpoint: EndpointAddress,
    zone: &'a ZoneName,
    told: Option<(String, Instant)>,
}

impl<'a> Waiting<'a> {
    fn new(endpoint: EndpointAddress, zone: &'a ZoneName) -> Self {
        Self {
            endpoint,
            zone,
            told: None,
        }
    }

    fn away(&mut self, trouble: &Trouble) {
        if self.is_due(&trouble.why) {
            tracing::warn!(endpoint = %self.endpoint, zone = %self.zone, tries = trouble.tries, hint = trouble.hint,
                "waiting for an identity from the SPIFFE Workload API: {}", trouble.why);
        }
    }

    fn unusable(&mut self, why: &str) {
        if self.is_due(why) {
            tracing::error!(endpoint = %self.endpoint, zone = %self.zone,
                "waiting for an identity from the SPIFFE Workload API that can be used: {why}");
        }
    }

    fn is_due(&mut self, why: &str) -> bool {
        let told = self.told.as_ref();
        let due = told.is_none_or(|(before, at)| before != why || at.elapsed() >= REMIND_EVERY);
        if due {
            self.told = Some((why.to_owned(), Instant::now()));
        }
        due
    }
}

/// Last complaint about an agent that is away, so that the log has each kind once and grows louder as the end comes near.
#[derive(Default)]
struct AgentComplaint(Option<(String, Urgency)>);

impl AgentComplaint {
    fn answered(&mut self, endpoint: &EndpointAddress) {
        if self.0.take().is_some() {
            tracing::info!(%endpoint, "the SPIFFE Workload API answers again");
        }
    }

    fn away(&mut self, trouble: &Trouble, endpoint: &EndpointAddress, current: &Identity, now: SystemTime) {
        let Some((not_before, not_after)) = current.validity() else {
            return;
        };
        let lifetime = Lifetime {
            not_before,
            not_after,
        };
        let now_told = (trouble.why.clone(), lifetime.urgency(now));
        if self.0.as_ref() == Some(&now_told) {
            return;
        }
        let (why, hint, ends) = (
            &trouble.why,
            trouble.hint,
            humantime::format_rfc3339_seconds(not_after),
        );
        match now_told.1 {
            Urgency::Calm | Urgency::LastThird => tracing::warn!(%endpoint, %ends, hint,
                "the SPIFFE Workload API cannot be asked; the certificate in use works on: {why}"),
            Urgency::LastTenth => tracing::error!(%endpoint, %ends, hint,
                "the certificate ends soon and the SPIFFE Workload API cannot be asked: {why}"),
            Urgency::Over => tracing::error!(%endpoint, %ends, hint,
                "the certificate has ended, no gateway accepts it, and the SPIFFE Workload API cannot be asked: {why}"),
        }
        self.0 = Some(now_told);
    }
}

#[cfg(test)]
mod tests;
