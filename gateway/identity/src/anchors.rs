//! Trust anchors of an identity: the roots that count now, and what was revoked. Put together from `ca.pem`, revocation
//! files and the federation's trust document; which of these rules is decided in `causeway_federation::trust`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use causeway_federation::{
    edition::Edition,
    name::ZoneName,
    trust::{CertificateHash, Content, Roots, Trust, TrustCryptography},
};
use rustls::{RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::CertificateDer;

use super::{
    federated::Federated,
    leaf, provider,
    revocation::{List, ListOrigin, RevocationError, Revocations},
};

/// The roots and revocations that are in force for one identity. Immutable; a change makes a new one.
#[derive(Debug, Clone)]
pub struct Anchors {
    /// The roots by their hash, DER.
    pub roots: Roots,
    pub(super) store: Arc<RootCertStore>,
    pub revocations: Arc<Revocations>,
    /// The trust document in force; generation 0: `ca.pem` alone rules.
    pub edition: Edition,
    /// The root that new certificates are to be issued from, if the document names one.
    pub preferred: Option<CertificateHash>,
    /// Anchors of other trust domains.
    pub federated: Arc<Federated>,
}

/// Two are the same when they believe the same.
impl PartialEq for Anchors {
    fn eq(&self, other: &Self) -> bool {
        (&self.roots, self.edition, self.preferred) == (&other.roots, other.edition, other.preferred)
            && self.revocations == other.revocations
            && self.federated == other.federated
    }
}

impl Anchors {
    /// Works out what counts of the roots in `ca.pem` and the lists beside it, under `trust`.
    pub(super) fn new(file_roots: &Roots, file_lists: &[List], trust: &Trust) -> Self {
        let roots = trust.roots(file_roots);
        let mut store = RootCertStore::empty();
        // Each was looked at when its file was read, or its document taken.
        store.add_parsable_certificates(roots.values().map(|root| CertificateDer::from(root.as_slice())));
        let content = trust.document().map(|document| document.content());
        let listed = content.map(|content| lists(content).0).unwrap_or_default();
        let listed = Revocations::new(listed.into_iter().chain(file_lists.iter().cloned()));
        Self {
            store: Arc::new(store),
            revocations: Arc::new(match content {
                None => listed,
                Some(content) => listed.with_names(&content.trust_domain, content.revoked_names.clone()),
            }),
            edition: trust.edition(),
            preferred: content.and_then(|content| content.preferred),
            federated: Arc::default(),
            roots,
        }
    }

    /// The roots and revocations that count for a chain: those of the trust domain that its leaf names. One that names
    /// none that is known is looked at as one of the own.
    pub(super) fn of_chain(&self, chain: &[impl AsRef<[u8]>]) -> &Self {
        if self.federated.domains.is_empty() {
            return self;
        }
        let domain = chain
            .first()
            .and_then(|leaf| leaf::trust_domain(&CertificateDer::from(leaf.as_ref())));
        let other = domain.and_then(|domain| self.federated.domains.get(&domain));
        other.unwrap_or(self)
    }

    /// The roots and revocations that count for the gateways of a zone; `None`: nobody is believed for its trust domain.
    #[must_use]
    pub fn of_zone(&self, zone: &ZoneName) -> Option<&Self> {
        match self.federated.trust_domain_of(zone) {
            None => Some(self),
            Some(domain) => self.federated.domains.get(domain),
        }
    }

    /// The roots of a file alone.
    pub(super) fn of_file(roots: Roots) -> Self {
        let nothing = Trust::new("", causeway_federation::trust::StoredTrust::default());
        Self::new(&roots, &[], &nothing)
    }

    /// The root that issued a chain (DER, leaf first), directly or through the others of the chain; `None`: none that
    /// counts here.
    #[must_use]
    pub fn issuer_of(&self, chain: &[impl AsRef<[u8]>]) -> Option<CertificateHash> {
        let roots = &self.of_chain(chain).roots;
        let last = CertificateDer::from(chain.last()?.as_ref());
        let certificate = leaf::parse(&last).ok()?;
        let issued = |root: &[u8]| {
            let root = CertificateDer::from(root);
            leaf::parse(&root).is_ok_and(|parsed| {
                parsed.subject().as_raw() == certificate.issuer().as_raw()
                    && signed_by(
                        &root,
                        certificate.tbs_certificate.as_ref(),
                        &certificate.signature_value.data,
                    )
            })
        };
        let found = roots.iter().find(|(_, root)| issued(root));
        found.map(|(hash, _)| *hash)
    }
}

/// The cryptography that trust documents are checked with.
#[derive(Debug, Clone, Copy)]
pub struct Cryptography;

impl TrustCryptography for Cryptography {
    fn signed(&self, root: &[u8], message: &[u8], signature: &[u8]) -> bool {
        signed_by(&CertificateDer::from(root), message, signature)
    }

    fn check(&self, content: &Content) -> Result<(), String> {
        let mut store = RootCertStore::empty();
        for (hash, root) in content.roots_by_hash() {
            let root = CertificateDer::from(root);
            let is_ca = leaf::parse(&root).is_ok_and(|parsed| parsed.is_ca());
            let added = store.add(root).map_err(|error| error.to_string());
            if let Err(why) = added.and_then(|()| is_ca.then_some(()).ok_or_else(|| "no CA".to_owned())) {
                return Err(format!("{hash} is not a root that can be trusted: {why}"));
            }
        }
        match lists(content).1.first() {
            None => Ok(()),
            Some(error) => Err(error.to_string()),
        }
    }
}

/// The revocation lists of a document that can be used, and why the others cannot.
fn lists(content: &Content) -> (Vec<List>, Vec<RevocationError>) {
    let (mut lists, mut errors) = (Vec::new(), Vec::new());
    for der in &content.revocations {
        let read = List::read(der, ListOrigin::Document).and_then(|list| {
            let signed = content
                .roots
                .iter()
                .any(|root| list.is_signed_by(&CertificateDer::from(root.as_slice())));
            signed.then_some(list).ok_or(RevocationError::Unsigned)
        });
        match read {
            Ok(list) => lists.push(list),
            Err(error) => errors.push(error),
        }
    }
    (lists, errors)
}

/// A root's subject and its end, for people.
#[must_use]
pub fn describe_root(der: &[u8]) -> (String, Option<SystemTime>) {
    let certificate = CertificateDer::from(der);
    match leaf::parse(&certificate) {
        Ok(parsed) => {
            let end = u64::try_from(parsed.validity().not_after.timestamp()).ok();
            let end = end.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
            (parsed.subject().to_string(), end)
        }
        Err(_) => (String::new(), None),
    }
}

/// Tells whether the key of `certificate` made `signature` over `message`, by any scheme of its kind of key.
pub(super) fn signed_by(certificate: &CertificateDer<'_>, message: &[u8], signature: &[u8]) -> bool {
    let provider: Arc<CryptoProvider> = provider();
    leaf::parse(certificate).is_ok_and(|parsed| {
        let key: &[u8] = &parsed.public_key().subject_public_key.data;
        let algorithms = provider.signature_verification_algorithms.all.iter();
        // One that is for another kind of key cannot read this key, and so believes nothing.
        algorithms
            .into_iter()
            .any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
    })
}
