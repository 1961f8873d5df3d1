//! The trust document of a running process: taken from an operator or a peer, kept on disk, and put in force in the identity.
//! Which document rules is decided in `causeway_federation::trust`; how one travels is `causeway_control::trust`'s business.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use causeway_federation::{
    edition::Edition,
    topology::Topology,
    trust::{OfferedTrust, StoredTrust, Trust, TrustConflict, TrustDocument, TrustRefusal},
};
use causeway_zone_sync::trust::{TrustFileError, TrustStore};

use super::{Cryptography, HeldIdentity, federated::Other};

/// State of the trust document, for everybody who only looks.
#[derive(Debug, Clone, Default)]
pub struct TrustView {
    /// `None`: there was none yet, and `ca.pem` rules.
    pub document: Option<Arc<TrustDocument>>,
    pub conflict: Option<TrustConflict>,
    /// The last write failed: a restart would go back to what was in force before.
    pub disk_fails: bool,
}

impl TrustView {
    /// Generation 0 while there is no document.
    #[must_use]
    pub fn edition(&self) -> Edition {
        let edition = |document: &Arc<TrustDocument>| document.edition();
        self.document.as_ref().map(edition).unwrap_or_default()
    }
}

/// Reason why a document was not taken from an operator.
#[derive(Debug, thiserror::Error)]
pub enum TrustStoreError {
    #[error(transparent)]
    Refused(#[from] TrustRefusal),
    #[error("the trust document cannot be written to disk, so it was not taken")]
    Disk(#[from] TrustFileError),
}

/// State that only one may change at a time.
#[derive(Debug)]
pub(super) struct Keeping {
    pub(super) trust: Trust,
    /// `None`: nothing outlives this process.
    store: Option<TrustStore>,
    disk_fails: bool,
    /// Folder in which what other trust domains say is kept; `None`: nowhere.
    pub(super) folder: Option<PathBuf>,
    /// By trust domain.
    pub(super) others: BTreeMap<String, Other>,
    /// Says which zones are of which trust domain; `None`: nobody has said yet.
    pub(super) topology: Option<Arc<Topology>>,
}

impl Keeping {
    pub(super) fn nowhere(trust_domain: &str) -> Self {
        Self {
            trust: Trust::new(trust_domain, StoredTrust::default()),
            store: None,
            disk_fails: false,
            folder: None,
            others: BTreeMap::new(),
            topology: None,
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

/// Opens what is kept of a trust domain's document. A damaged file is set aside, loudly.
pub(super) fn open_store(
    trust_domain: &str,
    folder: &Path,
    now: SystemTime,
) -> Result<(TrustStore, StoredTrust), TrustFileError> {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (store, stored, aside) = TrustStore::open(folder, seconds)?;
    if let Some(aside) = aside {
        tracing::error!(trust_domain, kept_as = %aside.kept.display(), error = &aside.why as &dyn std::error::Error,
            "the kept trust document is damaged and was set aside; until a peer hands it over, ca.pem (of another trust \
             domain its bundle) rules and what was revoked is believed again");
    }
    Ok((store, stored))
}

impl HeldIdentity {
    /// Keeps the trust document in `folder` from now on, and puts in force what is kept there. Call it before the
    /// identity is used. Blocks on the disk.
    ///
    /// # Errors
    /// When the folder cannot be used. A damaged file is set aside instead, loudly.
    pub fn keep_trust_in(&self, folder: &Path, now: SystemTime) -> Result<(), TrustFileError> {
        let mut keeping = self.changing.lock();
        let own = self.identity.borrow().trust_domain().to_owned();
        let (store, stored) = open_store(&own, folder, now)?;
        keeping.trust = Trust::new(&own, stored);
        keeping.store = Some(store);
        keeping.folder = Some(folder.to_owned());
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
    pub fn offer_trust(
        &self,
        document: &Arc<TrustDocument>,
        now: SystemTime,
    ) -> Result<OfferedTrust, TrustStoreError> {
        self.take(document, now, true)
    }

    /// As [`HeldIdentity::offer_trust`], for one that other gateways have in force: it is put in force here too,
    /// whatever the disk says.
    ///
    /// # Errors
    /// When it must not be taken.
    pub fn follow_trust(
        &self,
        document: &Arc<TrustDocument>,
        now: SystemTime,
    ) -> Result<OfferedTrust, TrustStoreError> {
        self.take(document, now, false)
    }

    fn take(
        &self,
        document: &Arc<TrustDocument>,
        now: SystemTime,
        must_keep: bool,
    ) -> Result<OfferedTrust, TrustStoreError> {
        let mut keeping = self.changing.lock();
        let current = self.identity.borrow().clone();
        // Of the own trust domain an operator hands one in; those of others come from their gateways.
        if !must_keep && document.content().trust_domain != current.trust_domain() {
            return Ok(self.follow_other(&mut keeping, document)?);
        }
        let mut next = keeping.trust.clone();
        let offered = next.offer(document, &current.file_roots, &Cryptography)?;
        if offered == OfferedTrust::Taken {
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
        if offered != OfferedTrust::Nothing {
            keeping.trust = next;
            self.enforce(&keeping, now);
        }
        Ok(offered)
    }

    /// Puts in force what `keeping` says.
    fn enforce(&self, keeping: &Keeping, now: SystemTime) {
        let current = self.identity.borrow().clone();
        let mut next = current.under(&keeping.trust);
        next.doubt = self.doubt(&next, now);
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

#[cfg(test)]
mod tests {
    use causeway_federation::{
        name::GatewayId,
        signing::{Purpose, Signed, Unproven},
        trust::Content,
    };
    use tempfile::TempDir;

    use super::*;
    use crate::{
        Identity, IdentityFolder, LiveIdentity,
        ca::{self, Ca, LEAF_VALIDITY},
    };

    fn gateway(zone: &str) -> GatewayId {
        GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap())
    }

    fn folder_of(zone: &str) -> (TempDir, Ca, Arc<HeldIdentity>) {
        let folder = tempfile::tempdir().unwrap();
        let (authority, out) = (folder.path().join("ca"), folder.path().join(zone));
        ca::init(&authority, "acme.internal").unwrap();
        ca::issue(&authority, &gateway(zone), &out, LEAF_VALIDITY).unwrap();
        let ca = Ca::load(&authority).unwrap();
        (folder, ca, IdentityFolder::open(&out).unwrap().held().clone())
    }

    fn document(ca: &Ca, generation: u64, roots: &[&Ca], revoked: &[&Identity]) -> Arc<TrustDocument> {
        let now = SystemTime::now();
        let serials = revoked
            .iter()
            .map(|identity| (identity.serial().unwrap(), now))
            .collect();
        let list = ca.revocation_list(&serials, generation, now).unwrap();
        let content = Content {
            trust_domain: "acme.internal".to_owned(),
            roots: roots.iter().map(|ca| ca.certificate().to_vec()).collect(),
            revocations: vec![list],
            preferred: roots.last().map(|ca| ca.hash()),
            ..Content::default()
        };
        let made = TrustDocument::new(generation, content, 0).unwrap();
        Arc::new(ca.sign_trust(made).unwrap())
    }

    #[test]
    fn what_a_revoked_gateway_signed_is_not_believed_however_it_comes() {
        let (_folder, ca, files) = folder_of("east");
        let (revoked, other) = (
            ca.issue(&gateway("west"), LEAF_VALIDITY).unwrap(),
            ca.issue(&gateway("west"), LEAF_VALIDITY).unwrap(),
        );
        let document = document(&ca, 1, &[&ca], &[&revoked]);
        let verifier = files.identity().verifier().unwrap();
        let signed = |identity: Identity| {
            let signer = LiveIdentity::from(identity).signer().unwrap();
            Signed::by(&*signer, Purpose::Record, &gateway("west"), b"words").unwrap()
        };
        let (by_revoked, by_other) = (signed(revoked), signed(other));
        let check = |signed: &Signed| signed.check(&*verifier, Purpose::Record, &gateway("west"));
        assert_eq!((check(&by_revoked), check(&by_other)), (Ok(()), Ok(())));
        files.offer_trust(&document, SystemTime::now()).unwrap();
        let lasting = by_revoked.check_lasting(&*verifier, Purpose::Record, &gateway("west"));
        for refused in [check(&by_revoked), lasting] {
            assert!(
                matches!(&refused, Err(Unproven::Credential(why)) if why.contains("Revoked")),
                "{refused:?}"
            );
        }
        assert_eq!(
            check(&by_other),
            Ok(()),
            "its other certificate is as good as before"
        );
    }

    #[test]
    fn a_certificate_of_another_root_than_the_preferred_one_is_due() {
        let (_folder, ca, files) = folder_of("east");
        let next = Ca::new("acme.internal").unwrap();
        let identity = files.identity();
        assert!(identity.current().is_from_preferred_issuer());
        assert_eq!(identity.current().issuer(), Some(ca.hash()));
        files
            .offer_trust(&document(&ca, 1, &[&next, &ca], &[]), SystemTime::now())
            .unwrap();
        assert!(identity.current().is_from_preferred_issuer());
        files
            .offer_trust(&document(&ca, 2, &[&ca, &next], &[]), SystemTime::now())
            .unwrap();
        assert!(!identity.current().is_from_preferred_issuer());
    }

    #[test]
    fn a_document_with_a_list_that_none_of_its_roots_signed_is_refused() {
        let (_folder, ca, files) = folder_of("east");
        let stranger = Ca::new("acme.internal").unwrap();
        let list = stranger
            .revocation_list(&Default::default(), 1, SystemTime::now())
            .unwrap();
        let content = |revocations| Content {
            trust_domain: "acme.internal".to_owned(),
            roots: vec![ca.certificate().to_vec()],
            revocations,
            preferred: None,
            ..Content::default()
        };
        for bad in [list, b"no list".to_vec()] {
            let made = TrustDocument::new(1, content(vec![bad]), 0).unwrap();
            let made = Arc::new(ca.sign_trust(made).unwrap());
            let refused = files.offer_trust(&made, SystemTime::now());
            assert!(
                matches!(
                    &refused,
                    Err(TrustStoreError::Refused(TrustRefusal::Unusable { .. }))
                ),
                "{refused:?}"
            );
        }
        let mut no_ca = content(Vec::new());
        let leaf = ca.issue(&gateway("west"), LEAF_VALIDITY).unwrap();
        no_ca.roots.push(leaf.chain()[0].to_vec());
        let made = TrustDocument::new(1, no_ca, 0).unwrap();
        let made = Arc::new(ca.sign_trust(made).unwrap());
        assert!(
            files.offer_trust(&made, SystemTime::now()).is_err(),
            "a leaf is no root"
        );
        assert_eq!(files.identity().trust().edition().generation, 0);
    }
}
