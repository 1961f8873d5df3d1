//! The task behind an attachment: finds a server, follows it until it is lost, and finds the next.

use std::{sync::Arc, time::Duration};

use crate::InstanceMetrics;
use causeway_federation::{edition::Edition, registry::GatewaySession};
use causeway_host::backoff::reconnect;
use causeway_identity::{LiveIdentity, Secure};
use causeway_proto::registry::{AttachRequest, WatchEvent};
use futures_util::StreamExt;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tonic::Status;

use super::{
    AttachConfig, AttachStatus, RegistryView, Report, ServerAddress, SharedChange,
    calls::SessionCalls,
    intake::{Intake, IntakeError},
    session::{AttachError, AttachSession, alive, report, trust},
    status::AttachedServer,
};

/// After this long without a server a gateway is on its own, and checks every instance itself.
const CUT_OFF_AFTER: Duration = Duration::from_secs(4);
/// Interval at which the server is told that this gateway lives.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// Longest between two events of a server that has not told everything yet.
const FILL_SILENCE: Duration = Duration::from_secs(5);
/// Time for which servers that know less than this gateway are passed over: then the store was set back on purpose.
const BEHIND_PATIENCE: Duration = Duration::from_secs(30);
/// Most events that are taken up together.
const BATCH: usize = 256;
/// An attachment that held this long is followed by the shortest waits again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

pub(super) struct AttachTask {
    config: AttachConfig,
    changes: mpsc::Sender<Vec<SharedChange>>,
    reports: mpsc::Receiver<Report>,
    calls: watch::Sender<Option<SessionCalls>>,
    status: watch::Sender<AttachStatus>,
    metrics: Arc<InstanceMetrics>,
    rng: SmallRng,
    /// Index of the server that is next.
    next: usize,
    /// Failures since the last attachment that held.
    failures: u32,
    /// The newest value that was ever seen.
    newest: u64,
    /// Since when every server that answered was behind.
    behind_since: Option<Instant>,
}

/// A server that has told everything it knows.
struct Joined {
    server: ServerAddress,
    session: AttachSession,
    intake: Intake,
    view: RegistryView,
}

impl AttachTask {
    pub(super) fn new(
        config: AttachConfig,
        changes: mpsc::Sender<Vec<SharedChange>>,
        reports: mpsc::Receiver<Report>,
        calls: watch::Sender<Option<SessionCalls>>,
        status: watch::Sender<AttachStatus>,
        metrics: Arc<InstanceMetrics>,
    ) -> Self {
        let mut rng = SmallRng::from_os_rng();
        // Gateways that start together spread over the servers.
        let next = rng.random_range(0..config.servers.len().max(1));
        Self {
            config,
            changes,
            reports,
            calls,
            status,
            metrics,
            rng,
            next,
            failures: 0,
            newest: 0,
            behind_since: None,
        }
    }

    /// Until the owner of the instances is gone.
    pub(super) async fn run(mut self) {
        loop {
            let Some(joined) = self.find().await else {
                return;
            };
            let (server, began) = (joined.server.clone(), Instant::now());
            self.begin(&joined);
            let Some(lost) = self.follow(joined).await else {
                return;
            };
            if began.elapsed() >= FORGIVEN_AFTER {
                self.failures = 0;
            }
            self.note_failure(&server, &lost, true);
        }
    }

    /// Tries one server after the other until one has told everything. Says that this gateway is cut off when that takes
    /// long.
    async fn find(&mut self) -> Option<Joined> {
        let changes = self.changes.clone();
        let alone = Instant::now() + CUT_OFF_AFTER;
        let mut finding = std::pin::pin!(self.try_all());
        tokio::select! {
            joined = &mut finding => return joined,
            () = sleep_until(alone) => changes.send(vec![SharedChange::CutOff]).await.ok()?,
        }
        finding.await
    }

    async fn try_all(&mut self) -> Option<Joined> {
        loop {
            if self.changes.is_closed() {
                return None;
            }
            // A whole round without waiting: the next server may be well.
            if self.failures > 0 && (self.failures as usize).is_multiple_of(self.config.servers.len().max(1))
            {
                let round = self.failures / u32::try_from(self.config.servers.len().max(1)).unwrap_or(1);
                sleep(reconnect(round, &mut self.rng)).await;
            }
            let server = self.config.servers.get(self.next)?.clone();
            self.next = (self.next + 1) % self.config.servers.len();
            match self.join(&server).await {
                Ok(joined) => return Some(joined),
                Err(error) => self.note_failure(&server, &error, false),
            }
        }
    }

    async fn join(&mut self, server: &ServerAddress) -> Result<Joined, AttachError> {
        let mut session = AttachSession::open(
            server,
            (&self.config.id, GatewaySession::new(self.rng.random())),
            self.config.secure.as_ref(),
            &self.config.resolver,
        )
        .await?;
        let waited = self
            .behind_since
            .is_some_and(|since| since.elapsed() >= BEHIND_PATIENCE);
        let mut intake = Intake::new(if waited { 0 } else { self.newest });
        loop {
            let event = timeout(FILL_SILENCE, session.events.message()).await;
            let event = event.map_err(|_| AttachError::Halted(FILL_SILENCE))?;
            let event = event.map_err(AttachError::Broken)?.ok_or(AttachError::Ended)?;
            match intake.handle(event) {
                Ok(Some(SharedChange::Joined(view))) => {
                    let server = server.clone();
                    return Ok(Joined {
                        server,
                        session,
                        intake,
                        view,
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    if matches!(error, IntakeError::Behind { .. }) {
                        self.behind_since.get_or_insert_with(Instant::now);
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// Lets everybody know of the new attachment.
    fn begin(&mut self, joined: &Joined) {
        self.behind_since = None;
        self.newest = joined.intake.newest();
        // What was found before the attachment is compared with what the zone knows, and told again if need be.
        while self.reports.try_recv().is_ok() {}
        let gateways: Vec<_> = joined.view.gateways.iter().cloned().collect();
        let revision = joined.intake.revision();
        let instances = joined.view.instances.len();
        tracing::info!(server = %joined.server, revision, instances, ?gateways, "attached to a zone-sync");
        self.status.send_modify(|status| {
            status.attachments += 1;
            status.attached = Ok(AttachedServer {
                server: joined.server.to_string(),
                since: std::time::Instant::now(),
                revision,
                gateways,
                trouble: joined.intake.trouble().map(str::to_owned),
            });
        });
        self.metrics.registry_attached(true);
        self.calls.send_replace(Some(joined.session.calls.clone()));
    }

    /// Carries events in and reports out until the server is lost; `None` when the owner of the instances is gone.
    async fn follow(&mut self, joined: Joined) -> Option<AttachError> {
        let Joined {
            session,
            mut intake,
            view,
            ..
        } = joined;
        self.changes.send(vec![SharedChange::Joined(view)]).await.ok()?;
        let requests = session.requests;
        let mut events = session.events.ready_chunks(BATCH);
        let mut beat = interval(ALIVE_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reports_follow = true;
        let mut believed = Believed::new(self.config.secure.as_ref());
        loop {
            let tell = async {
                // Both may be given up between: a place in the queue goes back, and no report is taken without one.
                let place = requests.reserve().await;
                (place, self.reports.recv().await)
            };
            tokio::select! {
                batch = events.next() => match batch {
                    Some(batch) => if let Err(error) = self.take(&mut intake, batch).await? {
                        return Some(error);
                    },
                    None => return Some(AttachError::Ended),
                },
                (place, found) = tell, if reports_follow => match (place, found) {
                    (Ok(place), Some(found)) => place.send(report(found)),
                    (Err(_), _) => return Some(AttachError::Ended),
                    (_, None) => reports_follow = false,
                },
                document = believed.next() => if requests.try_send(document).is_err() {
                    return Some(AttachError::Stuck);
                },
                _ = beat.tick() => match requests.try_send(alive()) {
                    Ok(()) => {}
                    Err(_) => return Some(AttachError::Stuck),
                },
            }
        }
    }

    /// Hands a batch of events on; the outer `None` when the owner of the instances is gone.
    async fn take(
        &mut self,
        intake: &mut Intake,
        batch: Vec<Result<WatchEvent, Status>>,
    ) -> Option<Result<(), AttachError>> {
        let mut changes = Vec::with_capacity(batch.len());
        let mut end = Ok(());
        for event in batch {
            let taken = event.map_err(AttachError::Broken);
            match taken.and_then(|event| intake.handle(event).map_err(AttachError::Intake)) {
                Ok(change) => changes.extend(change),
                Err(error) => {
                    end = Err(error);
                    break;
                }
            }
        }
        self.newest = intake.newest();
        if let Some((count, error)) = intake.take_skipped() {
            tracing::warn!(count, %error, "the zone-sync tells of instances that this gateway does not understand");
        }
        self.note_progress(intake, &changes);
        if !changes.is_empty() {
            self.changes.send(changes).await.ok()?;
        }
        Some(end)
    }

    fn note_progress(&self, intake: &Intake, changes: &[SharedChange]) {
        let (revision, trouble) = (intake.revision(), intake.trouble());
        let present = changes.iter().rev().find_map(|change| match change {
            SharedChange::Gateways(names) => Some(names),
            _ => None,
        });
        self.status.send_if_modified(|status| {
            let Ok(attached) = &mut status.attached else {
                return false;
            };
            let is_trouble_new = attached.trouble.as_deref() != trouble;
            let is_news = attached.revision != revision || present.is_some() || is_trouble_new;
            attached.revision = revision;
            if is_trouble_new {
                attached.trouble = trouble.map(str::to_owned);
            }
            if let Some(names) = present {
                attached.gateways = names.iter().cloned().collect();
            }
            is_news
        });
    }

    fn note_failure(&mut self, server: &ServerAddress, error: &AttachError, was_attached: bool) {
        self.failures = self.failures.saturating_add(1);
        let text = format!("{server}: {}", with_causes(error));
        if was_attached {
            self.calls.send_replace(None);
            self.metrics.registry_attached(false);
            tracing::warn!(%server, error = with_causes(error), "lost the zone-sync");
        } else {
            tracing::debug!(%server, error = with_causes(error), "cannot attach to a zone-sync");
        }
        self.status
            .send_modify(|status| status.detach(std::time::Instant::now(), text));
    }
}

/// Trust document that a server is told of.
struct Believed {
    identity: Option<LiveIdentity>,
    /// The document that it was told last.
    told: Edition,
}

impl Believed {
    fn new(secure: Option<&Secure>) -> Self {
        Self {
            identity: secure.map(Secure::identity),
            told: Edition::default(),
        }
    }

    /// Waits for a document that the server was not told yet. Cancel-safe.
    async fn next(&mut self) -> AttachRequest {
        let Some(identity) = &mut self.identity else {
            return std::future::pending().await;
        };
        loop {
            let document = identity.trust().document.clone();
            if let Some(document) = document.filter(|document| document.edition() != self.told) {
                self.told = document.edition();
                return trust(&document);
            }
            identity.changed().await;
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use causeway_federation::{
        name::GatewayId,
        trust::{Content, TrustDocument},
    };
    use causeway_proto::registry::attach_request::Request;
    use futures_util::FutureExt as _;

    use super::*;
    use causeway_identity::{
        IdentityFolder,
        ca::{self, Ca, LEAF_VALIDITY},
    };

    #[tokio::test]
    async fn a_server_is_told_of_each_trust_document_once_and_takes_it_up() {
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("ca");
        ca::init(&authority, "acme.internal").unwrap();
        let id = |name: &str| GatewayId::new("east".parse().unwrap(), name.parse().unwrap());
        let [gateway, server] = ["gw1", "zone-sync"].map(|name| {
            let out = folder.path().join(name);
            ca::issue(&authority, &id(name), &out, LEAF_VALIDITY).unwrap();
            Arc::new(IdentityFolder::open(&out).unwrap())
        });
        let ca = Ca::load(&authority).unwrap();
        let hand = |generation| {
            let content = Content {
                trust_domain: "acme.internal".to_owned(),
                roots: vec![ca.certificate().to_vec()],
                ..Content::default()
            };
            let document = ca.sign_trust(TrustDocument::new(generation, content, 0).unwrap());
            let document = Arc::new(document.unwrap());
            gateway.held().offer_trust(&document, SystemTime::now()).unwrap();
        };
        let mut believed = Believed::new(Some(&Secure::new(gateway.identity())));
        assert!(believed.next().now_or_never().is_none(), "there is none yet");
        for generation in [1, 2] {
            hand(generation);
            let Some(Request::TrustDocument(bytes)) = believed.next().await.request else {
                panic!("a document is to be told");
            };
            assert!(believed.next().now_or_never().is_none(), "once is enough");
            let told = Arc::new(TrustDocument::decode(&bytes).unwrap());
            server.held().offer_trust(&told, SystemTime::now()).unwrap();
            assert_eq!(server.identity().trust().edition().generation, generation);
        }
    }
}
