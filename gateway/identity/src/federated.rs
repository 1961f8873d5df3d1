//! Trust anchors of other trust domains: for each the bundle in the topology, and the trust document of that
//! domain's own CA once one has come. A CA vouches for gateways of its own trust domain only, and the topology says which
//! zones those are.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::SystemTime};

use causeway_federation::{
    name::ZoneName,
    topology::Topology,
    trust::{Bundle, OfferedTrust, StoredTrust, Trust, TrustDocument, TrustRefusal},
};
use causeway_zone_sync::trust::{TrustFileError, TrustStore};

use super::{
    Anchors, Cryptography, HeldIdentity, Identity,
    trusted::{Keeping, open_store},
};

/// In the folder for what must outlive a restart: one folder for each other trust domain.
const FOLDER: &str = "trust-domains";

/// Trust anchors of other trust domains than an identity's own. Immutable; a change makes a new one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Federated {
    pub(super) domains: BTreeMap<String, Anchors>,
    /// The zones whose gateways are of another trust domain.
    zones: BTreeMap<ZoneName, String>,
}

impl Federated {
    fn new<'a>(
        own: &str,
        topology: &Topology,
        domains: impl Iterator<Item = (&'a String, &'a Bundle, &'a Trust)>,
    ) -> Self {
        let zones = topology.zones.iter();
        let anchors = |(domain, bundle, trust): (&String, &Bundle, &Trust)| {
            (domain.clone(), Anchors::new(bundle.roots(), &[], trust))
        };
        Self {
            zones: zones
                .filter(|(_, zone)| zone.trust_domain != own)
                .map(|(name, zone)| (name.clone(), zone.trust_domain.clone()))
                .collect(),
            domains: domains.map(anchors).collect(),
        }
    }

    /// The trust domain that a zone is of; `None`: this gateway's own.
    #[must_use]
    pub fn trust_domain_of(&self, zone: &ZoneName) -> Option<&str> {
        self.zones.get(zone).map(String::as_str)
    }

    /// Anchors by trust domain.
    pub fn domains(&self) -> impl Iterator<Item = (&str, &Anchors)> {
        self.domains
            .iter()
            .map(|(domain, anchors)| (domain.as_str(), anchors))
    }
}

/// State of another trust domain: what rules in it.
#[derive(Debug)]
pub(super) struct Other {
    bundle: Bundle,
    trust: Trust,
    /// `None`: nothing outlives this process.
    store: Option<TrustStore>,
}

impl Other {
    /// Goes on from what was kept in `folder`. A disk that fails costs the document, not the bundle.
    fn open(domain: &str, bundle: &Bundle, folder: Option<&Path>, now: SystemTime) -> Self {
        let (store, stored) = match folder.map(|folder| read(domain, &folder.join(FOLDER).join(domain), now))
        {
            Some(Ok((store, stored))) => (Some(store), stored),
            Some(Err(error)) => {
                tracing::error!(
                    trust_domain = domain,
                    error = &error as &dyn std::error::Error,
                    "the trust document of another trust domain cannot be kept; after a restart its bundle rules until a \
                     gateway of it hands one over"
                );
                (None, StoredTrust::default())
            }
            None => (None, StoredTrust::default()),
        };
        let mut other = Self {
            bundle: bundle.clone(),
            trust: Trust::new(domain, stored),
            store,
        };
        other.part_with_strange_document(domain);
        other
    }

    /// Begins to believe `bundle`.
    fn rule(&mut self, domain: &str, bundle: &Bundle) {
        self.bundle = bundle.clone();
        self.part_with_strange_document(domain);
    }

    /// The document stays in force if it was made with the roots of the bundle in view, or one of them signed it; else the
    /// operator has put other CAs in the place of those that it came from.
    fn part_with_strange_document(&mut self, domain: &str) {
        let Some(document) = self.trust.document() else {
            return;
        };
        let decided = self.trust.stored().decided;
        let seen = self.bundle.roots().keys().all(|root| decided.contains(root));
        if !seen && !document.is_signed_by_any(self.bundle.roots(), &Cryptography) {
            tracing::warn!(trust_domain = domain, generation = %document.edition(),
                "the topology has other roots for this trust domain than the trust document that was in force for it, which \
                 is believed no more");
            self.trust = Trust::new(domain, StoredTrust::default());
        }
    }
}

fn read(domain: &str, folder: &Path, now: SystemTime) -> Result<(TrustStore, StoredTrust), TrustFileError> {
    std::fs::create_dir_all(folder).map_err(|source| TrustFileError::File {
        path: folder.to_owned(),
        source,
    })?;
    open_store(domain, folder, now)
}

impl Keeping {
    /// Works out what is believed of other trust domains now.
    pub(super) fn federated(&self, own: &str, topology: &Topology) -> Federated {
        let others = self.others.iter();
        let domains = others.map(|(domain, other)| (domain, &other.bundle, &other.trust));
        Federated::new(own, topology, domains)
    }
}

impl Identity {
    /// The same, believing the bundles of `topology` for other trust domains.
    #[must_use]
    pub fn federated(&self, topology: &Topology) -> Self {
        let own = self.trust_domain();
        let others = topology.trust_domains.iter().filter(|(domain, _)| *domain != own);
        let others: Vec<_> = others
            .map(|(domain, bundle)| (domain, bundle, Trust::new(domain, StoredTrust::default())))
            .collect();
        let domains = others
            .iter()
            .map(|(domain, bundle, trust)| (*domain, *bundle, trust));
        self.believing(Federated::new(own, topology, domains))
    }

    pub(super) fn believing(&self, federated: Federated) -> Self {
        let mut next = self.copy();
        next.anchors.federated = Arc::new(federated);
        next
    }
}

impl HeldIdentity {
    /// Believes what `topology` says of other trust domains, from now on. Blocks on the disk.
    pub fn federate(&self, topology: &Arc<Topology>, now: SystemTime) {
        let mut keeping = self.changing.lock();
        let own = self.identity.borrow().trust_domain().to_owned();
        let wanted = &topology.trust_domains;
        keeping.others.retain(|domain, _| wanted.contains_key(domain));
        for (domain, bundle) in wanted.iter().filter(|(domain, _)| **domain != own) {
            match keeping.others.get_mut(domain) {
                Some(other) => other.rule(domain, bundle),
                None => {
                    let other = Other::open(domain, bundle, keeping.folder.as_deref(), now);
                    keeping.others.insert(domain.clone(), other);
                }
            }
        }
        keeping.topology = Some(topology.clone());
        self.believe(&keeping);
    }

    /// Takes up the document of another trust domain.
    pub(super) fn follow_other(
        &self,
        keeping: &mut Keeping,
        document: &Arc<TrustDocument>,
    ) -> Result<OfferedTrust, TrustRefusal> {
        let domain = &document.content().trust_domain;
        let Some(other) = keeping.others.get_mut(domain) else {
            return Err(TrustRefusal::TrustDomain {
                edition: document.edition(),
                is: self.identity.borrow().trust_domain().to_owned(),
                would_be: domain.clone(),
            });
        };
        let offered = other.trust.offer(document, other.bundle.roots(), &Cryptography)?;
        if offered == OfferedTrust::Taken
            && let Some(Err(error)) = other
                .store
                .as_ref()
                .map(|store| store.write(&other.trust.stored()))
        {
            tracing::error!(
                trust_domain = domain,
                error = &error as &dyn std::error::Error,
                "the trust document of another trust domain is in force, but not on disk: a restart would go back to an \
                 older one"
            );
        }
        if offered != OfferedTrust::Nothing {
            self.believe(keeping);
        }
        Ok(offered)
    }

    /// Puts in force what `keeping` says of other trust domains.
    fn believe(&self, keeping: &Keeping) {
        let current = self.identity.borrow().clone();
        let Some(topology) = &keeping.topology else {
            return;
        };
        let federated = keeping.federated(current.trust_domain(), topology);
        if federated == *current.anchors.federated {
            return;
        }
        for (domain, anchors) in federated
            .domains()
            .filter(|(_, anchors)| anchors.store.is_empty())
        {
            tracing::error!(
                trust_domain = domain,
                roots = anchors.roots.len(),
                "nothing in the bundle of this trust domain can be used, so none of its gateways is believed"
            );
        }
        let mut next = current.believing(federated);
        // What peers would make of it is no other for that.
        next.doubt = self.doubt(&next, SystemTime::now());
        self.identity.send_replace(Arc::new(next));
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
        IdentityFolder, LiveIdentity,
        ca::{self, Ca, LEAF_VALIDITY},
        testbed::{OURS, THEIRS, partners},
    };

    fn gateway(zone: &str) -> GatewayId {
        GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap())
    }

    fn topology(ours: &Ca, theirs: &[&Ca]) -> Arc<Topology> {
        Arc::new(partners(OURS, ours, theirs))
    }

    /// The folder of a gateway in east, and its CA.
    fn east() -> (TempDir, Ca, IdentityFolder) {
        let folder = tempfile::tempdir().unwrap();
        let (authority, out) = (folder.path().join("ca"), folder.path().join("east"));
        let ca = ca::init(&authority, OURS).unwrap();
        ca::issue(&authority, &gateway("east"), &out, LEAF_VALIDITY).unwrap();
        let opened = IdentityFolder::open(&out).unwrap();
        (folder, ca, opened)
    }

    fn document(by: &Ca, generation: u64, roots: &[&Ca]) -> Arc<TrustDocument> {
        let content = Content {
            trust_domain: THEIRS.to_owned(),
            roots: roots.iter().map(|ca| ca.certificate().to_vec()).collect(),
            revocations: Vec::new(),
            preferred: None,
            ..Content::default()
        };
        Arc::new(
            by.sign_trust(TrustDocument::new(generation, content, 0).unwrap())
                .unwrap(),
        )
    }

    fn believed(files: &IdentityFolder) -> Vec<causeway_federation::trust::CertificateHash> {
        let current = files.identity().current();
        let anchors = current.anchors().federated.domains.get(THEIRS);
        anchors
            .map(|anchors| anchors.roots.keys().copied().collect())
            .unwrap_or_default()
    }

    #[test]
    fn what_a_partners_gateway_signed_is_believed_of_the_partners_zones_alone() {
        let (_folder, ours, files) = east();
        let theirs = Ca::new(THEIRS).unwrap();
        let verifier = files.identity().verifier().unwrap();
        let says = |domain: &str, zone: &str| {
            let mut leaf = theirs.leaf(&gateway(zone), LEAF_VALIDITY).unwrap();
            leaf.uris = vec![format!("spiffe://{domain}/zone/{zone}/gateway/gw1")];
            let signer = LiveIdentity::from(theirs.issue_leaf(&leaf).unwrap())
                .signer()
                .unwrap();
            let signed = Signed::by(&*signer, Purpose::Record, &gateway(zone), b"words").unwrap();
            signed.check(&*verifier, Purpose::Record, &gateway(zone))
        };
        assert!(
            matches!(says(THEIRS, "plant"), Err(Unproven::Credential(_))),
            "there is no bundle yet"
        );
        files
            .held()
            .federate(&topology(&ours, &[&theirs]), SystemTime::now());
        assert!(says(THEIRS, "plant").is_ok());
        for (domain, zone) in [(THEIRS, "north"), (OURS, "north"), (OURS, "plant")] {
            let said = says(domain, zone);
            assert!(
                matches!(said, Err(Unproven::Credential(_))),
                "{domain} {zone}: {said:?}"
            );
        }
    }

    #[test]
    fn a_partners_new_root_outlives_a_restart_and_ends_with_the_bundle_that_it_came_from() {
        let (folder, ours, files) = east();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let [old, new, other] = [(); 3].map(|()| Ca::new(THEIRS).unwrap());
        let now = SystemTime::now();
        let bundle = topology(&ours, &[&old]);
        files.held().keep_trust_in(&data, now).unwrap();
        files.held().federate(&bundle, now);
        assert!(
            files
                .held()
                .follow_trust(&document(&other, 1, &[&other]), now)
                .is_err(),
            "nobody vouches for it"
        );
        files
            .held()
            .follow_trust(&document(&old, 1, &[&old, &new]), now)
            .unwrap();
        files
            .held()
            .follow_trust(&document(&new, 2, &[&new]), now)
            .unwrap();
        assert_eq!(believed(&files), [new.hash()]);

        let again = IdentityFolder::open(files.path()).unwrap();
        again.held().keep_trust_in(&data, now).unwrap();
        assert_eq!(believed(&again), []);
        again.held().federate(&bundle, now);
        assert_eq!(believed(&again), [new.hash()]);
        // The operator writes down what has become of it.
        again.held().federate(&topology(&ours, &[&new]), now);
        assert_eq!(believed(&again), [new.hash()]);
        again.held().federate(&topology(&ours, &[&other]), now);
        assert_eq!(believed(&again), [other.hash()]);
    }

    #[test]
    fn a_renewed_certificate_does_not_forget_the_partners() {
        let (folder, ours, files) = east();
        let theirs = Ca::new(THEIRS).unwrap();
        files
            .held()
            .federate(&topology(&ours, &[&theirs]), SystemTime::now());
        ca::issue(
            &folder.path().join("ca"),
            &gateway("east"),
            files.path(),
            LEAF_VALIDITY,
        )
        .unwrap();
        assert_eq!(files.reload(SystemTime::now()), crate::RefreshOutcome::Taken);
        assert_eq!(believed(&files), [theirs.hash()]);
    }
}
