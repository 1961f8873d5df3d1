//! The applied topology of a running gateway: takes one from an operator, gives it to other gateways and gets theirs,
//! keeps it on disk, and puts it in force. Which one rules is decided in `causeway_federation::topology::applied`.
//!
//! A gateway that a file rules (`--topology`) has none of this; see [`crate::reload`].

use causeway_federation::{
    edition::Edition,
    name::GatewayId,
    signing::{SignError, Signer, Verifier},
    topology::{
        ChangeableParts, EditError, Topology,
        applied::{Applied, Draft, StoredTopology, TopologyDocument, TopologyRefusal, Vouched},
        settled,
    },
};
use causeway_identity::LiveIdentity;
use causeway_zone_sync::topology::applied::{TopologyFileError, TopologyStore};

pub mod base;
mod check;
mod fetch;
mod open;
mod serve;
mod shifts;
#[cfg(test)]
mod tests;
mod wanted;
mod words;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::ControlMetrics;

pub use check::check;
pub use fetch::FetchedTopologies;
pub use open::{AppliedConfig, TopologyOpenError};
pub use serve::TopologyServer;
pub use shifts::{OverShifts, SteerError};

/// View for everybody who only looks; writers make a new one.
#[derive(Debug, Clone)]
pub struct RulingTopology {
    pub applied: Applied,
    /// The last write failed: a restart would go back to an older topology.
    pub disk_fails: bool,
}

/// Applied topologies of one gateway. Clones share them.
#[derive(Debug, Clone)]
pub struct AppliedTopology(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    by: GatewayId,
    keys: Keys,
    work: Mutex<Work>,
    /// The text of the initial topology, where it was read.
    initial_text: Option<Arc<str>>,
    topology: watch::Sender<Arc<Topology>>,
    view: watch::Sender<Arc<RulingTopology>>,
    /// Editions that a peer says it has and that are not held here.
    rivals: watch::Sender<wanted::Rivals>,
    metrics: Arc<ControlMetrics>,
}

/// Keys that documents are signed and checked with.
#[derive(Debug, Clone)]
pub struct Keys {
    pub signer: Arc<dyn Signer>,
    pub verifier: Arc<dyn Verifier>,
}

/// State that only one may change at a time.
#[derive(Debug)]
struct Work {
    applied: Applied,
    disk: Disk,
}

#[derive(Debug)]
enum Disk {
    /// Nothing outlives this process, as configured.
    Absent,
    Open {
        store: TopologyStore,
        folder: PathBuf,
    },
    /// The last write failed; the file is opened anew for the next.
    Failed {
        folder: PathBuf,
    },
}

/// Reason why an `apply` was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Refused(#[from] TopologyRefusal),
    #[error("the topology cannot be written to disk, so it was not applied")]
    Disk(#[from] TopologyFileError),
    #[error("the topology cannot be signed, so it was not applied")]
    Sign(#[from] SignError),
    #[error("applying did not come to an end")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// Result that an `apply` had or, without [`Applying::Now`], would have.
#[derive(Debug, Clone)]
pub struct ApplyOutcome {
    pub draft: Draft,
    /// Edition that is in force afterwards.
    pub edition: Edition,
}

/// Text that somebody hands in: a whole topology, or blocks of services.
#[derive(Debug, Clone)]
pub struct HandedText {
    pub text: String,
    /// Parts that whoever hands it in may change.
    pub may: ChangeableParts,
    /// Their words on why; empty: they do not say.
    pub reason: String,
}

/// Name that findings in a text have for its file.
pub const TEXT_NAME: &str = "topology";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applying {
    Now,
    /// Only say what would change.
    Dry,
}

impl AppliedTopology {
    /// The topology in force, now and whenever it changes.
    #[must_use]
    pub fn topology(&self) -> watch::Receiver<Arc<Topology>> {
        self.0.topology.subscribe()
    }

    /// Shows what is in force, was, and was refused.
    #[must_use]
    pub fn view(&self) -> Arc<RulingTopology> {
        self.0.view.borrow().clone()
    }

    /// The text of the topology that rules while nothing is applied.
    #[must_use]
    pub fn initial_text(&self) -> Option<Arc<str>> {
        self.0.initial_text.clone()
    }

    fn changed(&self) -> watch::Receiver<Arc<RulingTopology>> {
        self.0.view.subscribe()
    }

    /// Applies what was handed in on top of generation `expected`; without one, on top of whatever is in force. It is on disk, and
    /// in force here, when this returns.
    ///
    /// # Errors
    /// When it may not be applied, or cannot be stored. Nothing has changed then.
    pub async fn apply(
        &self,
        expected: Option<u64>,
        handed: HandedText,
        applying: Applying,
        over: OverShifts,
    ) -> Result<ApplyOutcome, ApplyError> {
        let this = self.clone();
        // Checking a large text and writing it take longer than a runtime thread should be held.
        let work = tokio::task::spawn_blocking(move || {
            let mut work = this.0.work.lock();
            let expected = expected.unwrap_or_else(|| work.applied.edition().generation);
            let text = this.settled(&work, expected, &handed)?;
            let text = over.settle(&work.applied, expected, text)?;
            this.apply_now(
                &mut work,
                expected,
                (&text, &handed.reason, &handed.may),
                applying,
            )
        });
        work.await.map_err(ApplyError::Interrupted)?
    }

    /// The whole text that is to be in force.
    fn settled(&self, work: &Work, expected: u64, handed: &HandedText) -> Result<String, TopologyRefusal> {
        work.applied.expect_generation(expected)?;
        let in_force = work.applied.topology().zip(self.text_in_force(work));
        match (in_force, &handed.may) {
            (Some((topology, text)), may) => {
                settled((base::split(&text).1, topology), &handed.text, TEXT_NAME, may)
            }
            (None, ChangeableParts::Everything) => Ok(handed.text.clone()),
            (None, ChangeableParts::Blocks(_)) => Err(EditError::Unreadable.into()),
        }
    }

    /// The text of what rules.
    fn text_in_force(&self, work: &Work) -> Option<Arc<str>> {
        let document = work.applied.document().map(|document| document.text().clone());
        document.or_else(|| self.0.initial_text.clone())
    }

    fn apply_now(
        &self,
        work: &mut Work,
        expected: u64,
        (text, reason, may): (&str, &str, &ChangeableParts),
        applying: Applying,
    ) -> Result<ApplyOutcome, ApplyError> {
        let before = work.applied.edition();
        let draft = work.applied.draft(expected, text)?;
        if draft.same || applying == Applying::Dry {
            return Ok(ApplyOutcome {
                draft,
                edition: before,
            });
        }
        let (text, by) = (draft.text.clone(), self.0.by.clone());
        let document = TopologyDocument::because(reason, may, draft.parent, text, by, unix_milliseconds());
        let document = Arc::new(document.sign(&*self.0.keys.signer)?);
        let mut next = work.applied.clone();
        next.offer(&Vouched::by_author(document.clone()))?;
        work.disk.write(&next.stored())?;
        work.applied = next;
        self.0.metrics.topology_document("applied");
        words::taken(&document, &draft.changes);
        self.publish(work);
        Ok(ApplyOutcome {
            draft,
            edition: document.edition(),
        })
    }

    /// Lets go of the file, which a successor opens. What is taken up from now on does not outlive this process. Blocks for as long as a
    /// write that is under way.
    pub fn let_go(&self) {
        self.0.work.lock().disk = Disk::Absent;
    }

    /// Takes what a peer sent. Says whether any of it was new here.
    async fn receive(&self, peer: GatewayId, documents: Vec<Arc<TopologyDocument>>) -> bool {
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || this.receive_now(&peer, &documents));
        work.await.unwrap_or_else(|error| {
            tracing::error!(%error, "taking up an applied topology has failed");
            false
        })
    }

    fn receive_now(&self, peer: &GatewayId, documents: &[Arc<TopologyDocument>]) -> bool {
        let mut work = self.0.work.lock();
        let before = work.applied.stored();
        let mut next = work.applied.clone();
        let documents = &self.believed(peer, documents);
        let offered = next.receive(documents);
        let known = |document: &TopologyDocument| {
            let mut refused = work.applied.refused();
            refused.any(|(edition, _)| *edition == document.edition())
        };
        for (vouched, offered) in documents.iter().zip(&offered) {
            let document = &vouched.document;
            // A refusal is told once, however often the document comes.
            if offered.is_ok() || !known(document) {
                words::offered(&self.0.metrics, peer, document, offered, &next);
            }
        }
        self.sign_again(&mut next);
        if next.stored() != before {
            // The federation has moved on, and so does this gateway, whatever its disk says.
            if let Err(error) = work.disk.write(&next.stored()) {
                words::not_stored(&error);
            }
        }
        work.applied = next;
        self.publish(&work);
        work.applied.stored() != before
    }

    /// Those that gateways stand for which are believed now. The others are not remembered as refused: whoever made one up would
    /// keep the true one away. That nobody stands any more for what came before one that is believed is nothing to tell.
    fn believed(&self, peer: &GatewayId, documents: &[Arc<TopologyDocument>]) -> Vec<Vouched> {
        let mut believed: Vec<Vouched> = Vec::with_capacity(documents.len());
        for document in documents.iter().rev() {
            match document.vouchers(&*self.0.keys.verifier) {
                Ok(by) => believed.push(Vouched {
                    by,
                    author_is_proven: document.verify_author(&*self.0.keys.verifier).is_ok(),
                    document: document.clone(),
                }),
                Err(why) if believed.is_empty() => {
                    let (edition, by) = (document.edition(), document.by().clone());
                    words::refused(
                        &self.0.metrics,
                        peer,
                        &TopologyRefusal::Unsigned { edition, by, why },
                    );
                }
                Err(_) => {}
            }
        }
        believed.reverse();
        believed
    }

    /// Signs what is in force with the certificate in use, if this gateway's zone may apply, so that the document outlives the
    /// certificate of whoever applied it. Blocks on the disk.
    fn endorse_now(&self) {
        let mut work = self.0.work.lock();
        let mut next = work.applied.clone();
        if !self.sign_again(&mut next) {
            return;
        }
        if let Err(error) = work.disk.write(&next.stored()) {
            words::not_stored(&error);
        }
        work.applied = next;
        self.publish(&work);
    }

    /// Tells whether there is a signature now that was not there.
    fn sign_again(&self, applied: &mut Applied) -> bool {
        let may = applied
            .topology()
            .is_some_and(|topology| topology.may_apply(&self.0.by.zone));
        let Some(document) = applied.document().filter(|_| may) else {
            return false;
        };
        let keys = &self.0.keys;
        match document.endorse(&self.0.by, &*keys.signer, &*keys.verifier) {
            Ok(None) => false,
            Ok(Some(document)) => {
                applied.endorsed(Arc::new(document));
                true
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot sign the topology in force: it will not outlive the certificate of the gateway that applied it"
                );
                false
            }
        }
    }

    fn publish(&self, work: &Work) {
        if let Some(topology) = work.applied.topology() {
            let unchanged = self.0.topology.borrow().edition() == topology.edition();
            if !unchanged {
                self.0.topology.send_replace(topology.clone());
            }
        }
        self.0.view.send_replace(Arc::new(RulingTopology {
            applied: work.applied.clone(),
            disk_fails: matches!(work.disk, Disk::Failed { .. }),
        }));
    }
}

impl Disk {
    fn write(&mut self, stored: &StoredTopology) -> Result<(), TopologyFileError> {
        let mut disk = std::mem::replace(self, Self::Absent);
        if let Self::Failed { folder } = &disk {
            match open::store(folder) {
                Ok((store, _)) => {
                    let folder = folder.clone();
                    disk = Self::Open { store, folder };
                }
                Err(error) => {
                    *self = disk;
                    return Err(error);
                }
            }
        }
        let Self::Open { mut store, folder } = disk else {
            return Ok(());
        };
        let written = store.write(stored);
        *self = match &written {
            Ok(()) => Self::Open { store, folder },
            Err(_) => Self::Failed { folder },
        };
        written
    }
}

/// Signs the topology in force again whenever this gateway's certificate is renewed, until the future is dropped.
pub async fn keep_endorsing(applied: AppliedTopology, mut identity: LiveIdentity) {
    loop {
        let this = applied.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || this.endorse_now()).await {
            tracing::error!(%error, "signing the topology in force again has failed");
        }
        identity.changed().await;
    }
}

fn unix_milliseconds() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}
