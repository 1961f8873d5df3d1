//! The task that keeps one identity renewed: it waits, asks, installs, and says how it stands. When and how loudly is
//! [`super::schedule`]'s to say.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_host::resolve::NameResolver;
use causeway_identity::{Identity, IdentityFolder, Lifetime, LiveIdentity, NewIdentity, NextKey, Urgency};
use causeway_telemetry::log::in_one_line;
use causeway_tunnel::TunnelSet;
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::{
    reach::{self, ReachError, Way},
    schedule::RenewalSchedule,
    settings::Settings,
};

/// Interval at which the clock is looked at, and the settings: clocks are set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// For one try, over all ways.
const TRY_LIMIT: Duration = Duration::from_secs(90);

/// State of renewal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RenewalStatus {
    /// Time at which the certificate is renewed next; `None`: somebody else does that.
    pub next: Option<SystemTime>,
    /// Reason why the last try was in vain, in one line; `None`: it was not, or there was none.
    pub failure: Option<String>,
    /// Tries in vain since the last certificate came.
    pub failures: u32,
    /// Reason why `renew.json` cannot be used, in one line.
    pub settings: Option<String>,
}

/// Keeps an identity renewed, once [`Renewal::run`] runs.
#[derive(Debug, Clone)]
pub struct Renewal {
    files: Arc<IdentityFolder>,
    status: watch::Sender<RenewalStatus>,
    hurry: Arc<Notify>,
    resolver: NameResolver,
}

impl Renewal {
    #[must_use]
    pub fn new(files: Arc<IdentityFolder>) -> Self {
        Self {
            files,
            status: watch::Sender::default(),
            hurry: Arc::new(Notify::new()),
            resolver: NameResolver::default(),
        }
    }

    /// The folder of the identity.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.files.path().to_owned()
    }

    #[must_use]
    pub fn status(&self) -> watch::Receiver<RenewalStatus> {
        self.status.subscribe()
    }

    /// Has the certificate renewed soon, although it is not half over; for a new root, say.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Renews until the future is dropped. Without tunnels the CA is asked directly or not at all.
    pub async fn run(
        self,
        tunnels: Option<Arc<TunnelSet>>,
        metrics: Arc<causeway_identity::IdentityMetrics>,
    ) {
        let mut identity = self.files.identity();
        loop {
            let current = identity.current();
            match current.validity() {
                Some((not_before, not_after)) => {
                    metrics.identity_ends(not_after);
                    let lifetime = Lifetime {
                        not_before,
                        not_after,
                    };
                    let one = One {
                        renewal: &self,
                        current: &current,
                        lifetime,
                        metrics: &metrics,
                    };
                    one.keep(&mut identity, tunnels.as_ref()).await;
                }
                // It was checked when it was taken up, so this does not happen.
                None => identity.changed().await,
            }
        }
    }
}

/// One certificate, until there is another.
struct One<'a> {
    renewal: &'a Renewal,
    current: &'a Arc<Identity>,
    lifetime: Lifetime,
    metrics: &'a Arc<causeway_identity::IdentityMetrics>,
}

impl One<'_> {
    async fn keep(&self, identity: &mut LiveIdentity, tunnels: Option<&Arc<TunnelSet>>) {
        let mut rng = SmallRng::from_os_rng();
        let mut schedule = RenewalSchedule::new(self.lifetime, &mut rng);
        // The federation is changing its root: the new one is not waited for until half of the life is over.
        if !self.current.is_from_preferred_issuer() {
            schedule.hurry(SystemTime::now(), &mut rng);
        }
        let mut told = FailureLog::default();
        loop {
            let settings = self.settings().await;
            let now = SystemTime::now();
            self.tell(settings.is_some().then_some(&schedule), &told);
            let wait = match &settings {
                Some(settings) if schedule.is_due(now) => {
                    let renewed = match timeout(TRY_LIMIT, self.renew(settings, tunnels)).await {
                        Ok(renewed) => renewed,
                        Err(_) => Err(format!("it took longer than {TRY_LIMIT:?}")),
                    };
                    let now = SystemTime::now();
                    match renewed {
                        Ok(way) => {
                            let taken = self.renewal.files.identity().current();
                            let known = (settings, &self.renewal.resolver);
                            reach::show(&taken, &way, known, tunnels).await;
                        }
                        Err(failure) => {
                            schedule.failed(now, &mut rng);
                            told.failed(failure, self.lifetime, now, &schedule);
                            self.metrics.identity_renewed(false);
                            continue;
                        }
                    }
                    LOOK_EVERY
                }
                Some(_) => schedule
                    .next()
                    .duration_since(now)
                    .unwrap_or_default()
                    .min(LOOK_EVERY),
                None => LOOK_EVERY,
            };
            tokio::select! {
                () = identity.changed() => return self.tell(settings.is_some().then_some(&schedule), &FailureLog::default()),
                () = self.renewal.hurry.notified() => schedule.hurry(SystemTime::now(), &mut rng),
                () = sleep(wait) => {}
            }
        }
    }

    /// Gets a certificate and takes it up; says over which way it came.
    async fn renew(&self, settings: &Settings, tunnels: Option<&Arc<TunnelSet>>) -> Result<Way, String> {
        let (folder, own) = (self.renewal.folder(), self.current.clone());
        let key = tokio::task::spawn_blocking(move || NextKey::kept_in(&folder, &own)).await;
        let key = key.map_err(|error| error.to_string())?;
        let key = key.map_err(|error| in_one_line(&error))?;
        let (renewed, way) = reach::renew(self.current, &key, (settings, &self.renewal.resolver), tunnels)
            .await
            .map_err(|failures| listed(&failures))?;
        let not_after = renewed.not_after().unwrap_or(SystemTime::UNIX_EPOCH);
        self.install(renewed).await?;
        self.metrics.identity_renewed(true);
        tracing::info!(gateway = %self.current.gateway(), %way,
            until = %humantime::format_rfc3339_seconds(not_after), "renewed the certificate");
        Ok(way)
    }

    async fn install(&self, renewed: NewIdentity) -> Result<(), String> {
        let files = self.renewal.files.clone();
        let installed = tokio::task::spawn_blocking(move || files.install(&renewed, SystemTime::now())).await;
        match installed {
            Ok(Ok(causeway_identity::RefreshOutcome::Taken)) => {
                self.metrics.identity_reloaded(true);
                Ok(())
            }
            Ok(Ok(_)) => Err("the new certificate was written and could not be taken up".to_owned()),
            Ok(Err(error)) => Err(format!(
                "cannot write the new certificate to {}: {error}",
                self.renewal.files.path().display()
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Reads what `renew.json` says now. One that cannot be used is told, and is as good as none.
    async fn settings(&self) -> Option<Settings> {
        let folder = self.renewal.folder();
        let read = tokio::task::spawn_blocking(move || Settings::read(&folder))
            .await
            .ok()?;
        let problem = read.as_ref().err().map(|error| in_one_line(error));
        let changed = self.renewal.status.send_if_modified(|status| {
            let changed = status.settings != problem;
            status.settings.clone_from(&problem);
            changed
        });
        if let (true, Some(problem)) = (changed, problem) {
            tracing::error!("the certificate is not renewed: {problem}");
        }
        read.ok().flatten()
    }

    fn tell(&self, schedule: Option<&RenewalSchedule>, told: &FailureLog) {
        let next = schedule.map(RenewalSchedule::next);
        if let Some(next) = next {
            self.metrics.identity_renews(next);
        }
        self.renewal.status.send_modify(|status| {
            status.next = next;
            status.failure.clone_from(&told.failure);
            status.failures = schedule.map_or(0, RenewalSchedule::failures);
        });
    }
}

/// Memory of what was said of failures, so that the log has each kind once and grows louder as the end comes near.
#[derive(Default)]
struct FailureLog {
    failure: Option<String>,
    urgency: Option<Urgency>,
}

impl FailureLog {
    fn failed(&mut self, failure: String, lifetime: Lifetime, now: SystemTime, schedule: &RenewalSchedule) {
        let urgency = lifetime.urgency(now);
        let (tries, ends) = (
            schedule.failures(),
            humantime::format_rfc3339_seconds(lifetime.not_after),
        );
        if self.urgency == Some(urgency) {
            tracing::debug!(tries, %ends, failure, "the certificate could not be renewed");
        } else {
            match urgency {
                Urgency::Calm | Urgency::LastThird => tracing::warn!(tries, %ends, failure,
                    "the certificate could not be renewed; the one in use works on, and it is tried again"),
                Urgency::LastTenth => tracing::error!(tries, %ends, failure,
                    "the certificate ends soon and could not be renewed"),
                Urgency::Over => tracing::error!(tries, %ends, failure,
                    "the certificate has ended and could not be renewed: no gateway accepts it; join anew"),
            }
        }
        (self.failure, self.urgency) = (Some(failure), Some(urgency));
    }
}

fn listed(failures: &[ReachError]) -> String {
    let lines: Vec<_> = failures.iter().map(|failure| in_one_line(failure)).collect();
    lines.join("; ")
}
