//! The trust document between gateways: taken from an operator, announced in zone sync, given to peers and fetched from
//! them. Which one rules is decided in `causeway_federation::trust`; what it does to this gateway's identity is done in
//! [`causeway_identity`].

mod check;
mod fetch;
mod serve;
mod wanted;
mod words;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_federation::{
    edition::Edition,
    name::GatewayId,
    topology::Topology,
    trust::{OfferedTrust, TrustDocument},
};
use causeway_identity::{HeldIdentity, Identity, LiveIdentity, TrustStoreError, TrustView};
use causeway_zone_sync::service::ZoneSync;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::ControlMetrics;

pub use check::check;
pub use fetch::FetchedTrust;
pub use serve::TrustServer;

/// The trust document of one gateway. Clones share it.
#[derive(Debug, Clone)]
pub struct Trusted {
    held: Arc<HeldIdentity>,
    metrics: Arc<ControlMetrics>,
    /// Document of a peer that was refused since something was taken.
    refused: Arc<Mutex<Option<RefusedTrust>>>,
    /// Second document of a generation in force that was told of last.
    rival: Arc<Mutex<Option<Edition>>>,
}

/// A document of a peer that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedTrust {
    pub peer: GatewayId,
    pub edition: Edition,
    pub why: String,
    pub hint: &'static str,
}

/// Reason why a document was not taken from an operator.
#[derive(Debug, thiserror::Error)]
pub enum HandError {
    #[error(transparent)]
    Trust(#[from] TrustStoreError),
    #[error("generation {in_force} is in force here, and this is generation {given}")]
    Stale { given: Edition, in_force: Edition },
    #[error("taking the document did not come to an end")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl Trusted {
    #[must_use]
    pub fn new(held: Arc<HeldIdentity>, metrics: Arc<ControlMetrics>) -> Self {
        Self {
            held,
            metrics,
            refused: Arc::default(),
            rival: Arc::default(),
        }
    }

    #[must_use]
    pub fn view(&self) -> Arc<TrustView> {
        self.held.identity().trust()
    }

    /// Believes what `topology` says of other trust domains.
    pub async fn federate(&self, topology: Arc<Topology>) {
        let held = self.held.clone();
        let work = tokio::task::spawn_blocking(move || held.federate(&topology, SystemTime::now()));
        if let Err(error) = work.await {
            tracing::error!(%error, "taking up the bundles of other trust domains has failed");
        }
    }

    /// The last document of a peer that was not taken; `None`: there was none since one was.
    #[must_use]
    pub fn refused(&self) -> Option<RefusedTrust> {
        self.refused.lock().clone()
    }

    /// Takes a document from an operator. It is on disk and in force here when this returns; so is one that was in force
    /// before.
    ///
    /// # Errors
    /// When it must not be taken, is older than what is in force, or cannot be kept.
    pub async fn hand_in(&self, document: Arc<TrustDocument>) -> Result<Edition, HandError> {
        let (given, in_force) = (document.edition(), self.view().edition());
        if given == in_force {
            return Ok(given);
        }
        // Of two with one generation the operator gets to know now, and not from a log.
        if given.generation <= in_force.generation {
            return Err(HandError::Stale { given, in_force });
        }
        let (held, offered) = (self.held.clone(), document.clone());
        let work = tokio::task::spawn_blocking(move || held.offer_trust(&offered, SystemTime::now()));
        match work.await.map_err(HandError::Interrupted)?? {
            OfferedTrust::Taken => {
                self.metrics.trust_document("handed_in");
                *self.refused.lock() = None;
                words::taken(&document, None);
                Ok(given)
            }
            // Something newer came meanwhile.
            OfferedTrust::Nothing | OfferedTrust::Overruled(_) => Err(HandError::Stale {
                given,
                in_force: self.view().edition(),
            }),
        }
    }

    /// As [`Trusted::receive`], of bytes that somebody sent.
    pub async fn receive_encoded(&self, peer: &GatewayId, bytes: &[u8]) {
        match TrustDocument::decode(bytes) {
            Ok(document) => {
                self.receive(peer, Arc::new(document)).await;
            }
            Err(error) => {
                tracing::warn!(%peer, error = &error as &dyn std::error::Error, "what a gateway sent is no trust document");
            }
        }
    }

    /// Takes what a peer sent. Says whether it was new here.
    async fn receive(&self, peer: &GatewayId, document: Arc<TrustDocument>) -> bool {
        let (held, offered) = (self.held.clone(), document.clone());
        let work = tokio::task::spawn_blocking(move || held.follow_trust(&offered, SystemTime::now()));
        match work.await {
            Ok(Ok(OfferedTrust::Nothing)) => false,
            Ok(Ok(OfferedTrust::Taken)) => {
                self.metrics.trust_document("taken");
                *self.refused.lock() = None;
                words::taken(&document, Some(peer));
                true
            }
            Ok(Ok(OfferedTrust::Overruled(conflict))) => {
                // Told once, however often it comes; and asked for less and less.
                if self.rival.lock().replace(conflict.loser) != Some(conflict.loser) {
                    words::overruled(&self.metrics, peer, conflict);
                }
                false
            }
            Ok(Err(TrustStoreError::Refused(why))) => {
                self.metrics.trust_document("refused");
                let own = document.content().trust_domain == self.held.identity().trust_domain();
                let hint = words::hint(&why, own);
                let refused = RefusedTrust {
                    peer: peer.clone(),
                    edition: why.edition(),
                    why: why.to_string(),
                    hint,
                };
                let before = self.refused.lock().replace(refused.clone());
                // Told once, however often it comes.
                if before.as_ref() != Some(&refused) {
                    words::refused(peer, &why, hint);
                }
                false
            }
            Ok(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "taking up a trust document has failed"
                );
                false
            }
            Err(error) => {
                tracing::error!(%error, "taking up a trust document has failed");
                false
            }
        }
    }
}

/// Follows changes of what the topology says of other trust domains, until nobody is left who could change it.
pub async fn keep_federating(trusted: Trusted, mut topology: watch::Receiver<Arc<Topology>>) {
    while topology.changed().await.is_ok() {
        let now = topology.borrow_and_update().clone();
        trusted.federate(now).await;
    }
}

/// Pause between two words on how many connections were ended: each is a version of this gateway's record.
const COUNT_EVERY: Duration = Duration::from_millis(200);

/// Tells zone sync how many connections this gateway has ended because it believed their other side no more, until the future is
/// dropped.
pub async fn keep_counted(identity: LiveIdentity, zone_sync: ZoneSync) {
    let mut ended = identity.ended_count();
    while ended.changed().await.is_ok() {
        let (of, count) = *ended.borrow_and_update();
        let in_force = identity.current().anchors().edition;
        zone_sync.trust_ended(if of == in_force { count } else { 0 });
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

/// Tells zone sync whom this gateway believes, now and whenever that changes, until the future is dropped.
pub async fn keep_told(mut identity: LiveIdentity, zone_sync: ZoneSync) {
    let mut told: Option<Arc<Identity>> = None;
    loop {
        let current = identity.current();
        // A renewed certificate alone changes nothing of what others are believed.
        if told
            .as_ref()
            .is_none_or(|told| told.anchors() != current.anchors())
        {
            let edition = current.anchors().edition;
            zone_sync.trust_changed(edition);
            let (of, count) = *identity.ended_count().borrow();
            zone_sync.trust_ended(if of == edition { count } else { 0 });
            told = Some(current);
        }
        identity.changed().await;
    }
}
