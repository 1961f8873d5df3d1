//! The task that keeps one identity renewed: it waits, asks, installs, and says how it stands. When and how loudly is
//! [`super::schedule`]'s to say. A certificate that has ended cannot be renewed: with a join token it is joined with anew.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_authority::join::JoinToken;
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
    join_token::JoinTokenFile,
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
    /// `None`: once the certificate has ended it takes a person to join anew.
    pub way_back: Option<WayBack>,
}

/// Join token with which a gateway comes back after its certificate has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayBack {
    pub file: PathBuf,
    /// Reason why the token cannot be used as it is now, in one line.
    pub problem: Option<String>,
}

/// Keeps an identity renewed, once [`Renewal::run`] runs.
#[derive(Debug, Clone)]
pub struct Renewal {
    files: Arc<IdentityFolder>,
    join_token: Option<JoinTokenFile>,
    status: watch::Sender<RenewalStatus>,
    hurry: Arc<Notify>,
    resolver: NameResolver,
}

impl Renewal {
    /// Of the identity in `files`; once it has ended, with the token in `join_token`.
    #[must_use]
    pub fn new(files: Arc<IdentityFolder>, join_token: Option<JoinTokenFile>) -> Self {
        let way_back = join_token.as_ref().map(|token| WayBack {
            file: token.path().to_owned(),
            problem: None,
        });
        Self {
            files,
            join_token,
            status: watch::Sender::new(RenewalStatus {
                way_back,
                ..RenewalStatus::default()
            }),
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
            let (settings, token) = (self.settings().await, self.token().await);
            let now = SystemTime::now();
            self.tell(settings.is_some().then_some(&schedule), &told);
            let wait = match &settings {
                Some(settings) if schedule.is_due(now) => {
                    let is_over = told.is_too_late || self.lifetime.urgency(now) == Urgency::Over;
                    let token = token.filter(|_| is_over);
                    let asked = self.ask(settings, token.as_ref(), tunnels);
                    let asked = timeout(TRY_LIMIT, asked).await;
                    let now = SystemTime::now();
                    match asked
                        .unwrap_or_else(|_| Err(Failure::new(format!("it took longer than {TRY_LIMIT:?}"))))
                    {
                        Ok(way) => {
                            let taken = self.renewal.files.identity().current();
                            let known = (settings, &self.renewal.resolver);
                            reach::show(&taken, &way, known, tunnels).await;
                        }
                        Err(failure) => {
                            schedule.failed(now, &mut rng);
                            told.failed(failure, self.lifetime, now, &schedule);
                            match token {
                                None => self.metrics.identity_renewed(false),
                                Some(_) => self.metrics.identity_rejoined(false),
                            }
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

    /// Gets a certificate, with a token where the one in use has ended, and takes it up; says over which way it came.
    async fn ask(
        &self,
        settings: &Settings,
        token: Option<&JoinToken>,
        tunnels: Option<&Arc<TunnelSet>>,
    ) -> Result<Way, Failure> {
        let (folder, own) = (self.renewal.folder(), self.current.clone());
        let key = tokio::task::spawn_blocking(move || NextKey::kept_in(&folder, &own)).await;
        let key = key.map_err(|error| Failure::new(error.to_string()))?;
        let key = key.map_err(|error| Failure::new(in_one_line(&error)))?;
        let known = (settings, &self.renewal.resolver);
        let got = match token {
            None => reach::renew(self.current, &key, known, tunnels).await,
            Some(token) => reach::rejoin(self.current, &key, token, known).await,
        };
        let (got, way) = got.map_err(|failures| Failure::of(&failures))?;
        let not_after = got.not_after().unwrap_or(SystemTime::UNIX_EPOCH);
        let until = humantime::format_rfc3339_seconds(not_after);
        self.install(got).await.map_err(Failure::new)?;
        let gateway = self.current.gateway();
        match token {
            None => {
                self.metrics.identity_renewed(true);
                tracing::info!(%gateway, %way, %until, "renewed the certificate");
            }
            Some(token) => {
                self.metrics.identity_rejoined(true);
                tracing::info!(%gateway, token = %token.id, %until,
                    "joined again with the join token: the certificate had ended");
            }
        }
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

    /// Reads the join token as it is now. One that cannot be used is told, and is as good as none.
    async fn token(&self) -> Option<JoinToken> {
        let file = self.renewal.join_token.clone()?;
        let path = file.path().to_owned();
        let read = tokio::task::spawn_blocking(move || file.read()).await.ok()?;
        let problem = read.as_ref().err().map(|error| in_one_line(error));
        let way_back = Some(WayBack {
            file: path,
            problem: problem.clone(),
        });
        let changed = self.renewal.status.send_if_modified(|status| {
            let changed = status.way_back != way_back;
            status.way_back = way_back;
            changed
        });
        if let (true, Some(problem)) = (changed, problem) {
            tracing::error!("the join token is of no use: {problem}");
        }
        read.ok()
    }

    fn tell(&self, schedule: Option<&RenewalSchedule>, told: &FailureLog) {
        let next = schedule.map(RenewalSchedule::next);
        if let Some(next) = next {
            self.metrics.identity_renews(next);
        }
        self.renewal.status.send_modify(|status| {
            status.next = next;
            status.failure.clone_from(&told.text);
            status.failures = schedule.map_or(0, RenewalSchedule::failures);
        });
    }
}

/// Reason why a try was in vain.
struct Failure {
    /// In one line.
    text: String,
    /// Of the CA's refusal; `None`: there was none.
    word: Option<&'static str>,
    /// The certificate has ended by the CA's clock.
    is_too_late: bool,
}

impl Failure {
    fn new(text: String) -> Self {
        Self {
            text,
            word: None,
            is_too_late: false,
        }
    }

    fn of(failures: &[ReachError]) -> Self {
        let lines: Vec<_> = failures.iter().map(|failure| in_one_line(failure)).collect();
        Self {
            text: lines.join("; "),
            word: failures.last().and_then(ReachError::word),
            is_too_late: failures.last().is_some_and(ReachError::is_too_late),
        }
    }
}

/// Memory of what was said of failures, so that the log has each kind once and grows louder as the end comes near.
#[derive(Default)]
struct FailureLog {
    text: Option<String>,
    /// Urgencies that were told, each with the word of the CA's refusal: no more than there are of both.
    told: Vec<(Urgency, Option<&'static str>)>,
    /// The certificate has ended by the CA's clock.
    is_too_late: bool,
}

impl FailureLog {
    fn failed(&mut self, failure: Failure, lifetime: Lifetime, now: SystemTime, schedule: &RenewalSchedule) {
        let urgency = lifetime.urgency(now);
        let (tries, ends) = (
            schedule.failures(),
            humantime::format_rfc3339_seconds(lifetime.not_after),
        );
        let (kind, failure, is_too_late) = ((urgency, failure.word), failure.text, failure.is_too_late);
        if self.told.contains(&kind) {
            tracing::debug!(tries, %ends, failure, "the certificate could not be renewed");
        } else {
            self.told.push(kind);
            match urgency {
                Urgency::Calm | Urgency::LastThird => tracing::warn!(tries, %ends, failure,
                    "the certificate could not be renewed; the one in use works on, and it is tried again"),
                Urgency::LastTenth => tracing::error!(tries, %ends, failure,
                    "the certificate ends soon and could not be renewed"),
                Urgency::Over => tracing::error!(tries, %ends, failure,
                    "the certificate has ended and there is no other: no gateway accepts it; it is tried again, or join anew"),
            }
        }
        self.text = Some(failure);
        self.is_too_late |= is_too_late;
    }
}
