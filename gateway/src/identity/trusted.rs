//! The trust document of a running process: taken from an operator or a peer, kept on disk, and put in force in the identity.
//! Which document rules is decided in `causeway_zone_sync::trust`; how one travels is `crate::trust`'s business.

use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use causeway_zone_sync::trust::{
    Conflict, Document, Edition, Offered, Refusal, Store, StoreError, Stored, Trust,
};

use super::{Cryptography, IdentityFolder, files};

/// How the trust document stands, for everybody who only looks.
#[derive(Debug, Clone, Default)]
pub struct TrustView {
    /// `None`: there was none yet, and `ca.pem` rules.
    pub document: Option<Arc<Document>>,
    pub conflict: Option<Conflict>,
    /// The last write failed: a restart would go back to what was in force before.
    pub disk_fails: bool,
}

impl TrustView {
    /// Generation 0 while there is no document.
    #[must_use]
    pub fn edition(&self) -> Edition {
        let edition = |document: &Arc<Document>| document.edition();
        self.document.as_ref().map(edition).unwrap_or_default()
    }
}

/// Why a document was not taken from an operator.
#[derive(Debug, thiserror::Error)]
pub enum TrustStoreError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the trust document cannot be written to disk, so it was not taken")]
    Disk(#[from] StoreError),
}

/// What only one may change at a time.
#[derive(Debug)]
pub(super) struct Keeping {
    pub(super) trust: Trust,
    /// `None`: nothing outlives this process.
    store: Option<Store>,
    disk_fails: bool,
}

impl Keeping {
    pub(super) fn nowhere(trust_domain: &str) -> Self {
        Self {
            trust: Trust::new(trust_domain, Stored::default()),
            store: None,
            disk_fails: false,
        }
    }

    pub(super) fn view(&self) -> TrustView {
        TrustView {
            document: self.trust.document().cloned(),
            conflict: self.trust.conflict(),
            disk_fails: self.disk_fails,
        }
    }
}

impl IdentityFolder {
    /// Keeps the trust document in `folder` from now on, and puts in force what is kept there. Call it before the
    /// identity is used. Blocks on the disk.
    ///
    /// # Errors
    /// When the folder cannot be used. A damaged file is set aside instead, loudly.
    pub fn keep_trust_in(&self, folder: &Path, now: SystemTime) -> Result<(), StoreError> {
        let mut keeping = self.changing.lock();
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (store, stored, aside) = Store::open(folder, seconds)?;
        if let Some(aside) = aside {
            tracing::error!(kept_as = %aside.kept.display(), error = &aside.why as &dyn std::error::Error,
                "the kept trust document is damaged and was set aside; until a peer hands it over, ca.pem rules and \
                 what was revoked is believed again");
        }
        keeping.trust = Trust::new(self.identity.borrow().trust_domain(), stored);
        keeping.store = Some(store);
        if let Some(document) = keeping.trust.document() {
            tracing::info!(generation = %document.edition(), "the trust document that was taken last is in force");
        }
        self.enforce(&keeping, now);
        Ok(())
    }

    /// Takes a document up if it rules over the one in force. It is in force when this returns, and on disk where
    /// something is kept. Blocks on the disk.
    ///
    /// # Errors
    /// When it must not be taken, or cannot be kept. Nothing has changed then.
    pub fn offer_trust(&self, document: &Arc<Document>, now: SystemTime) -> Result<Offered, TrustStoreError> {
        self.take(document, now, true)
    }

    /// As [`IdentityFolder::offer_trust`], for one that other gateways have in force: it is put in force here too,
    /// whatever the disk says.
    ///
    /// # Errors
    /// When it must not be taken.
    pub fn follow_trust(
        &self,
        document: &Arc<Document>,
        now: SystemTime,
    ) -> Result<Offered, TrustStoreError> {
        self.take(document, now, false)
    }

    fn take(
        &self,
        document: &Arc<Document>,
        now: SystemTime,
        must_keep: bool,
    ) -> Result<Offered, TrustStoreError> {
        let mut keeping = self.changing.lock();
        let current = self.identity.borrow().clone();
        let mut next = keeping.trust.clone();
        let offered = next.offer(document, &current.file_roots, &Cryptography)?;
        if let Offered::Taken { .. } = offered {
            let store = keeping.store.clone();
            let written = store.map_or(Ok(()), |store| store.write(&next.stored()));
            keeping.disk_fails = written.is_err();
            match written {
                Err(error) if must_keep => return Err(error.into()),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the trust document is in force, but not on disk: a restart would go back to an older one"
                ),
                Ok(()) => {}
            }
        }
        if offered != Offered::Nothing {
            keeping.trust = next;
            self.enforce(&keeping, now);
        }
        Ok(offered)
    }

    /// Puts in force what `keeping` says.
    fn enforce(&self, keeping: &Keeping, now: SystemTime) {
        let current = self.identity.borrow().clone();
        let mut next = current.under(&keeping.trust);
        next.doubt = files::doubt(&next, &self.folder, now);
        if let Some(doubt) = &next.doubt {
            tracing::error!(gateway = %next.gateway(), %doubt,
                "with what the federation trusts now, peers refuse this gateway's certificate");
        }
        if next.anchors != current.anchors {
            self.identity.send_replace(Arc::new(next));
        }
        self.trust.send_replace(Arc::new(keeping.view()));
    }
}
