//! An answer of the Workload API as an identity: which of its SVIDs is this gateway's, and whether its parts belong together.
//! Pure: trust and time are arguments.

use std::{collections::BTreeSet, time::SystemTime};

use causeway_federation::{
    name::ZoneName,
    trust::{CertificateHash, Roots, Trust},
};
use causeway_proto::workload::{X509svid, X509svidResponse};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{
    super::{Identity, IdentityFileError, List, ListOrigin, SpiffeId, identify},
    SvidError,
    der::{Unsplit, split},
    doubt,
};

/// Most SVIDs in one answer.
pub(super) const MAX_SVIDS: usize = 64;
/// Most certificates from a leaf to a root.
const MAX_CHAIN: usize = 16;
/// Most roots of one trust domain.
const MAX_ROOTS: usize = 1_024;
/// Most revocation lists.
const MAX_LISTS: usize = 32;
/// So many ids of an answer are shown, and so much of each.
const MAX_SHOWN: usize = 8;
const MAX_SHOWN_CHARACTERS: usize = 160;

/// Gateway whose SVID is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum WantedSvid<'a> {
    /// The one gateway of this zone that there is in the answer.
    Zone(&'a ZoneName),
    /// This gateway and no other.
    Gateway(&'a SpiffeId),
}

/// The identity that an answer holds for this gateway. Whether peers will believe it is told by [`Identity::doubt`].
pub(super) fn read(
    answer: X509svidResponse,
    wanted: WantedSvid<'_>,
    trust: &Trust,
    now: SystemTime,
) -> Result<Identity, SvidError> {
    if answer.svids.len() > MAX_SVIDS {
        return Err(SvidError::TooMany(MAX_SVIDS));
    }
    let (id, svid) = choose(answer.svids, wanted)?;
    let chain = certificates(&id, "the chain", &svid.x509_svid, MAX_CHAIN)?;
    let bundle = certificates(&id, "the bundle", &svid.bundle, MAX_ROOTS)?;
    let own = || Box::new(id.clone());
    match chain.first().map(identify) {
        Some(Ok(found)) if found == id => {}
        Some(Ok(found)) => {
            return Err(SvidError::OtherName {
                id: own(),
                found: Box::new(found),
            });
        }
        Some(Err(source)) => return Err(SvidError::Leaf { id: own(), source }),
        None => return Err(missing(&id, "a certificate")),
    }
    if svid.x509_svid_key.is_empty() {
        return Err(missing(&id, "a key"));
    }
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.x509_svid_key));
    let roots = roots(&id, bundle)?;
    let lists = lists(&answer.crl, &roots)?;
    let mut identity = Identity::assemble(id.clone(), chain, key, roots);
    identity.file_lists = lists;
    let mut identity = identity.under(trust);
    if let Err(source) = identity.server_tls() {
        let source = Box::new(source);
        return Err(SvidError::Pair { id: own(), source });
    }
    identity.doubt = doubt(&identity, now).map(IdentityFileError::Svid);
    Ok(identity)
}

/// The next identity of a gateway that has one: as [`read`], and peers must believe it, unless it is the one that is in use.
pub(super) fn renewed(
    answer: X509svidResponse,
    current: &Identity,
    trust: &Trust,
    now: SystemTime,
) -> Result<Identity, IdentityFileError> {
    let mut found = read(answer, WantedSvid::Gateway(current.id()), trust, now)?;
    if found.same_files(current) {
        return Ok(found);
    }
    match found.doubt.take() {
        None => Ok(found),
        Some(doubt) => Err(doubt),
    }
}

/// Chooses an SVID. Of several that are of one gateway, the first counts: it stands nearer to the caller's default.
fn choose(svids: Vec<X509svid>, wanted: WantedSvid<'_>) -> Result<(SpiffeId, X509svid), SvidError> {
    if svids.is_empty() {
        return Err(SvidError::None);
    }
    let came = shown(&svids);
    let mut found: Option<(SpiffeId, X509svid)> = None;
    let fits = |id: &SpiffeId| match wanted {
        WantedSvid::Zone(zone) => id.gateway.zone == *zone,
        WantedSvid::Gateway(own) => id == own,
    };
    for svid in svids {
        let Some(id) = svid.spiffe_id.parse().ok().filter(fits) else {
            continue;
        };
        match &found {
            None => found = Some((id, svid)),
            Some((first, _)) if *first == id => {}
            Some((first, _)) => {
                let zone = first.gateway.zone.clone();
                return Err(SvidError::Several { zone, came });
            }
        }
    }
    found.ok_or_else(|| match wanted {
        WantedSvid::Zone(zone) => SvidError::OtherZone {
            zone: zone.clone(),
            came,
        },
        WantedSvid::Gateway(own) => SvidError::OtherGateway {
            own: Box::new(own.clone()),
            came,
        },
    })
}

/// The ids of an answer, for people: an agent may name anything.
fn shown(svids: &[X509svid]) -> String {
    let ids: BTreeSet<&str> = svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    let texts: Vec<String> = ids
        .iter()
        .take(MAX_SHOWN)
        .map(|id| {
            let id: String = id.chars().take(MAX_SHOWN_CHARACTERS).collect();
            format!("`{}`", id.escape_debug())
        })
        .collect();
    match ids.len().saturating_sub(MAX_SHOWN) {
        0 => texts.join(", "),
        more => format!("{} and {more} more", texts.join(", ")),
    }
}

fn certificates(
    id: &SpiffeId,
    what: &'static str,
    bytes: &[u8],
    most: usize,
) -> Result<Vec<CertificateDer<'static>>, SvidError> {
    let id = || Box::new(id.clone());
    split(bytes, most).map_err(|why| match why {
        Unsplit::Malformed => SvidError::Der { id: id(), what },
        Unsplit::TooMany => SvidError::TooLong { id: id(), what, most },
    })
}

fn roots(id: &SpiffeId, bundle: Vec<CertificateDer<'static>>) -> Result<Roots, SvidError> {
    let (mut store, mut roots) = (RootCertStore::empty(), Roots::new());
    for root in bundle {
        roots.insert(CertificateHash::of(&root), root.to_vec());
        store.add(root).map_err(|source| SvidError::Root {
            id: Box::new(id.clone()),
            source,
        })?;
    }
    match roots.is_empty() {
        true => Err(missing(id, "a bundle of roots")),
        false => Ok(roots),
    }
}

fn lists(crl: &[Vec<u8>], roots: &Roots) -> Result<Vec<List>, SvidError> {
    if crl.len() > MAX_LISTS {
        return Err(SvidError::TooManyLists(MAX_LISTS));
    }
    let read = crl
        .iter()
        .map(|der| List::read_under(der, ListOrigin::WorkloadApi, roots));
    read.collect::<Result<_, _>>().map_err(SvidError::Revocations)
}

fn missing(id: &SpiffeId, what: &'static str) -> SvidError {
    SvidError::Missing {
        id: Box::new(id.clone()),
        what,
    }
}

#[cfg(test)]
mod tests;
