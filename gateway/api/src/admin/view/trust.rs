//! Roots and revocations that this gateway believes, and what every gateway says of that.

use std::time::{Duration, UNIX_EPOCH};

use causeway_federation::{
    catalog::CatalogEntry,
    edition::Edition,
    name::ZoneName,
    trust::{CertificateHash, RevokedName, RevokedUntil},
};
use causeway_identity::{Anchors, List, LiveIdentity, describe_root};
use causeway_routing::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use super::{age_word, moment};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustSummary {
    /// Of the trust document in force here; 0: there is none, and `ca.pem` rules.
    pub generation: u64,
    /// The first digits of the SHA-256 of what it says.
    pub fingerprint: String,
    pub trust_domain: String,
    /// Every root that counts here.
    pub roots: Vec<RootView>,
    pub revocations: Vec<ListView>,
    /// Names whose certificates are revoked, beside those on the lists.
    #[serde(default)]
    pub revoked_names: Vec<RevokedNameView>,
    /// Other trust domains of the topology, and what counts for them.
    #[serde(default)]
    pub other_trust_domains: Vec<TrustDomainView>,
    /// Every zone of the topology.
    pub zones: Vec<TrustedZoneView>,
}

impl TrustSummary {
    /// The zones of the trust domain of the gateway that answers.
    pub fn own_zones(&self) -> impl Iterator<Item = &TrustedZoneView> {
        self.zones
            .iter()
            .filter(|zone| zone.trust_domain == self.trust_domain)
    }
}

/// Trust document and roots that count for gateways of another trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustDomainView {
    pub name: String,
    /// Of its own trust document in force here; 0: there is none, and its bundle in the topology rules.
    pub generation: u64,
    pub fingerprint: String,
    pub roots: Vec<RootView>,
    pub revocations: Vec<ListView>,
    #[serde(default)]
    pub revoked_names: Vec<RevokedNameView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootView {
    /// SHA-256 of the certificate.
    pub fingerprint: String,
    pub subject: String,
    /// RFC 3339.
    pub not_after: Option<String>,
    /// `document`, `ca.pem`, or `topology` for one of another trust domain.
    pub source: String,
    /// Tells whether new certificates are to be issued from it.
    pub preferred: bool,
}

/// One revocation list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListView {
    pub issuer: String,
    /// `the trust document`, or the path of a file.
    pub source: String,
    pub number: Option<String>,
    /// RFC 3339; a list is honoured after that, too.
    pub next_update: Option<String>,
    pub revoked: usize,
}

/// A name whose certificates are revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedNameView {
    pub zone: String,
    /// Absent: every gateway and caller of the zone.
    pub gateway: Option<String>,
    /// RFC 3339: certificates that begin then or later count again; absent: none does.
    pub not_before: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedZoneView {
    pub name: String,
    /// Tells whether it is the zone that answers.
    pub own: bool,
    pub trust_domain: String,
    /// Every gateway of it that was heard of; of the own zone the one that answers.
    pub gateways: Vec<TrustedGatewayView>,
}

/// Word of one gateway on whom it believes, and who issued its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedGatewayView {
    pub gateway: String,
    /// `own`, `fresh`, `suspect` or `withdrawn`.
    pub age: String,
    pub generation: u64,
    pub fingerprint: String,
    /// SHA-256 of the root that issued its certificate; absent: none that counts here, or it tells none.
    #[serde(default)]
    pub issuer: Option<String>,
    /// Connections that it has ended since it took that document up, because it believed their other side no more.
    #[serde(default)]
    pub ended_connections: u64,
}

#[must_use]
pub fn trust(identity: &LiveIdentity, snapshot: &Snapshot) -> TrustSummary {
    let current = identity.current();
    let anchors = current.anchors();
    let document = identity.trust().document.clone();
    let documented = document
        .map(|document| document.content().roots_by_hash())
        .unwrap_or_default();
    let source = |hash: &CertificateHash| match documented.contains_key(hash) {
        true => "document",
        false => "ca.pem",
    };
    let own = TrustedGatewayView {
        gateway: identity.gateway().gateway.to_string(),
        age: "own".to_owned(),
        generation: anchors.edition.generation,
        fingerprint: fingerprint(anchors.edition),
        issuer: current.issuer().map(|issuer| issuer.to_string()),
        ended_connections: ended(identity, anchors.edition),
    };
    let zones = snapshot.topology.zones.keys();
    TrustSummary {
        generation: anchors.edition.generation,
        fingerprint: fingerprint(anchors.edition),
        trust_domain: identity.trust_domain().to_owned(),
        roots: roots(anchors, source),
        revocations: lists(anchors),
        revoked_names: names(anchors),
        other_trust_domains: anchors
            .federated
            .domains()
            .map(|of| other(of, snapshot))
            .collect(),
        zones: zones.map(|name| zone(name, &own, snapshot, anchors)).collect(),
    }
}

fn roots(anchors: &Anchors, source: impl Fn(&CertificateHash) -> &'static str) -> Vec<RootView> {
    let root = |(hash, der): (&CertificateHash, &Vec<u8>)| {
        let (subject, not_after) = describe_root(der);
        RootView {
            fingerprint: hash.to_string(),
            subject,
            not_after: not_after.map(moment),
            source: source(hash).to_owned(),
            preferred: anchors.preferred == Some(*hash),
        }
    };
    anchors.roots.iter().map(root).collect()
}

fn lists(anchors: &Anchors) -> Vec<ListView> {
    anchors.revocations.lists().iter().map(list).collect()
}

fn names(anchors: &Anchors) -> Vec<RevokedNameView> {
    anchors.revocations.names().iter().map(revoked_name).collect()
}

fn other((name, anchors): (&str, &Anchors), snapshot: &Snapshot) -> TrustDomainView {
    let bundle = snapshot.topology.trust_domains.get(name);
    let in_bundle = |hash: &CertificateHash| bundle.is_some_and(|bundle| bundle.roots().contains_key(hash));
    let source = |hash: &CertificateHash| match in_bundle(hash) {
        true => "topology",
        false => "document",
    };
    TrustDomainView {
        name: name.to_owned(),
        generation: anchors.edition.generation,
        fingerprint: fingerprint(anchors.edition),
        roots: roots(anchors, source),
        revocations: lists(anchors),
        revoked_names: names(anchors),
    }
}

fn zone(
    name: &ZoneName,
    own: &TrustedGatewayView,
    snapshot: &Snapshot,
    anchors: &Anchors,
) -> TrustedZoneView {
    let is_own = *name == snapshot.zone;
    let heard = snapshot.catalog.zone(name).map(|entry| gateway(entry, anchors));
    TrustedZoneView {
        name: name.to_string(),
        own: is_own,
        trust_domain: snapshot.topology.trust_domain_of(name).to_owned(),
        gateways: is_own.then(|| own.clone()).into_iter().chain(heard).collect(),
    }
}

fn gateway(entry: &CatalogEntry, anchors: &Anchors) -> TrustedGatewayView {
    let record = &entry.record;
    let chain = record.signed.as_ref().map(|signed| &signed.credential.0);
    TrustedGatewayView {
        gateway: record.origin.gateway.to_string(),
        age: age_word(entry.age).to_owned(),
        generation: record.trust.generation,
        fingerprint: fingerprint(record.trust),
        issuer: chain
            .and_then(|chain| anchors.issuer_of(chain))
            .map(|issuer| issuer.to_string()),
        ended_connections: record.trust_ended,
    }
}

/// Connections that this gateway has ended since it took up the document `in_force`.
fn ended(identity: &LiveIdentity, in_force: Edition) -> u64 {
    let (of, count) = *identity.ended_count().borrow();
    if of == in_force { count } else { 0 }
}

fn revoked_name((name, until): (&RevokedName, RevokedUntil)) -> RevokedNameView {
    let (zone, gateway) = match name {
        RevokedName::Zone(zone) => (zone, None),
        RevokedName::Gateway(id) => (&id.zone, Some(id.gateway.to_string())),
    };
    let not_before = match until {
        RevokedUntil::Forever => None,
        RevokedUntil::Seconds(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
    };
    RevokedNameView {
        zone: zone.to_string(),
        gateway,
        not_before: not_before.map(moment),
    }
}

fn list(list: &List) -> ListView {
    ListView {
        issuer: list.issuer.clone(),
        source: list.place.to_string(),
        number: list.number.clone(),
        next_update: list.next_update.map(moment),
        revoked: list.serials.len(),
    }
}

/// Empty while there is no document.
fn fingerprint(edition: Edition) -> String {
    match edition.generation {
        0 => String::new(),
        _ => edition.fingerprint.to_string(),
    }
}
