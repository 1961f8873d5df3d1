//! The identity that a process holds, wherever it comes from: what is in use, why what came last is not, and the trust
//! document that has its say. A folder ([`super::IdentityFolder`]) or the SPIFFE Workload API ([`super::workload_api`]) feeds
//! it; everybody else reads a [`LiveIdentity`].

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Identity, IdentityFileError, LiveIdentity, RefreshOutcome,
    peers::Peers,
    pem_files,
    trusted::{Keeping, TrustView},
    workload_api::{self, AgentStatus},
};

/// Origin of an identity.
#[derive(Debug)]
pub enum IdentityOrigin {
    /// Files in this folder.
    Folder(PathBuf),
    /// The SPIFFE Workload API, and how its agent stands.
    WorkloadApi(watch::Receiver<AgentStatus>),
}

impl IdentityOrigin {
    /// Reason why peers would not believe this identity at `now`.
    fn doubt(&self, identity: &Identity, now: SystemTime) -> Option<IdentityFileError> {
        match self {
            Self::Folder(folder) => pem_files::doubt(identity, folder, now),
            Self::WorkloadApi(_) => workload_api::doubt(identity, now).map(IdentityFileError::Svid),
        }
    }
}

/// The identity of a process, for those who change it.
#[derive(Debug)]
pub struct HeldIdentity {
    origin: IdentityOrigin,
    pub(super) identity: watch::Sender<Arc<Identity>>,
    /// See [`LiveIdentity::refused`].
    refused: watch::Sender<Option<String>>,
    /// See [`LiveIdentity::trust`].
    pub(super) trust: watch::Sender<Arc<TrustView>>,
    /// Keeps two changes, of the identity or of trust, from overtaking each other.
    pub(super) changing: Mutex<Keeping>,
    peers: Arc<Peers>,
}

impl HeldIdentity {
    pub(super) fn new(identity: Identity, origin: IdentityOrigin) -> Self {
        let keeping = Keeping::nowhere(identity.trust_domain());
        Self {
            origin,
            identity: watch::Sender::new(Arc::new(identity)),
            refused: watch::Sender::new(None),
            trust: watch::Sender::new(Arc::new(keeping.view())),
            changing: Mutex::new(keeping),
            peers: Arc::default(),
        }
    }

    #[must_use]
    pub fn identity(&self) -> LiveIdentity {
        LiveIdentity {
            id: self.identity.borrow().id().clone(),
            current: self.identity.subscribe(),
            refused: self.refused.subscribe(),
            trust: self.trust.subscribe(),
            agent: match &self.origin {
                IdentityOrigin::Folder(_) => None,
                IdentityOrigin::WorkloadApi(status) => Some(status.clone()),
            },
            peers: self.peers.clone(),
        }
    }

    pub(super) fn doubt(&self, identity: &Identity, now: SystemTime) -> Option<IdentityFileError> {
        self.origin.doubt(identity, now)
    }

    /// Tells whether what came last is not in use.
    #[cfg(feature = "spiffe-workload-api")]
    pub(super) fn is_refusing(&self) -> bool {
        self.refused.borrow().is_some()
    }

    /// Tells whether this is why what came last is not in use, and was said.
    pub(super) fn is_told(&self, why: &str) -> bool {
        self.refused.borrow().as_deref() == Some(why)
    }

    /// Puts an identity in use that was checked, unless it is the one in use. Call it while holding `changing`.
    pub(super) fn take_up(&self, mut found: Identity) -> RefreshOutcome {
        // Before the identity: who is told of that finds no old refusal.
        self.refused.send_replace(None);
        let current = self.identity.borrow().clone();
        if found.same_files(&current) {
            return RefreshOutcome::Unchanged;
        }
        found.anchors.federated = current.anchors.federated.clone();
        tracing::info!(gateway = %found.gateway(), roots = found.anchors().roots.len(),
            "took up a renewed identity");
        self.identity.send_replace(Arc::new(found));
        RefreshOutcome::Taken
    }

    /// Keeps what is in use, and says once why. Call it while holding `changing`.
    pub(super) fn refuse(&self, why: String) -> RefreshOutcome {
        if self.is_told(&why) {
            return RefreshOutcome::Unchanged;
        }
        tracing::error!(gateway = %self.identity.borrow().gateway(),
            "a changed identity is refused and the one before it stays in use: {why}");
        self.refused.send_replace(Some(why));
        RefreshOutcome::Refused
    }
}
