//! The trust document as a CA's folder would have it now: its roots, what was revoked, and the preferred issuer. The last
//! one that was made is kept beside the CA, so that making it again makes nothing new.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Ca, CaError,
    issued::{self, Issued, IssuedRecord},
    revoked::{RevocationSubject, Revoked, RevokedError},
};
use causeway_federation::{
    edition::Edition,
    name::ZoneName,
    trust::{
        CertificateHash, Content, RevokedName, RevokedNames, RevokedUntil, TrustDocument, TrustDocumentError,
    },
};
use causeway_host::files;

use crate::{List, ListOrigin, Serial};

/// The last document that was made, in the CA's folder.
pub(crate) const TRUST_FILE: &str = "trust.pb";

/// Reason why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Revoked(#[from] RevokedError),
    #[error("the document cannot be made: too many roots, revoked names or revoked certificates")]
    Document(#[from] TrustDocumentError),
    #[error("cannot use {path}", path = path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} holds no trust document; move it away", path = path.display())]
    Stored {
        path: PathBuf,
        #[source]
        source: TrustDocumentError,
    },
}

/// Content of a document to be made.
pub struct TrustDraft<'a> {
    /// Those that sign it. The first is the CA in the folder.
    pub signers: &'a [Ca],
    pub preferred: Option<CertificateHash>,
    /// Edition that the federation has in force: its generation, and its fingerprint as people read it.
    pub in_force: (u64, &'a str),
}

/// The document that follows what is in force; the last one, if that says the same and rules over it. It is in the
/// folder when this returns.
///
/// # Errors
/// When the folder cannot be read or written, or there is too much to say.
pub fn compose(
    folder: &Path,
    wish: &TrustDraft<'_>,
    now: SystemTime,
) -> Result<Arc<TrustDocument>, ComposeError> {
    let last = last(folder)?;
    let roots = wish.signers.first().map(Ca::roots).unwrap_or_default();
    let roots: Vec<Vec<u8>> = roots.iter().map(|root| root.to_vec()).collect();
    let record = issued::read(folder).map_err(|source| ComposeError::File {
        path: folder.join(issued::ISSUED_FILE),
        source,
    })?;
    let written = Revoked::read(folder)?;
    let revoked = still_valid(written.serials(), &record, now);
    let names = still_needed(&written.names(), &record, now);
    let (generation, fingerprint) = wish.in_force;
    if let Some(last) = &last
        && says(last, &roots, wish.preferred, &revoked)
        && last.content().revoked_names == names
        && rules(last.edition(), generation, fingerprint)
    {
        return Ok(last.clone());
    }
    let newest = last.map_or(0, |last| last.edition().generation).max(generation);
    let lists = match revoked.is_empty() {
        true => Vec::new(),
        false => wish
            .signers
            .iter()
            .filter(|ca| roots.iter().any(|root| *root == ca.certificate().as_ref()))
            .map(|ca| ca.revocation_list(&revoked, newest + 1, now))
            .collect::<Result<_, _>>()?,
    };
    let first = wish.signers.first();
    let content = Content {
        trust_domain: first.map(|ca| ca.trust_domain().to_owned()).unwrap_or_default(),
        roots,
        revocations: lists,
        revoked_names: names,
        preferred: wish.preferred,
    };
    let mut document = TrustDocument::new(newest + 1, content, unix_milliseconds(now))?;
    for ca in wish.signers {
        document = ca.sign_trust(document)?;
    }
    write(folder, &document)?;
    Ok(Arc::new(document))
}

fn last(folder: &Path) -> Result<Option<Arc<TrustDocument>>, ComposeError> {
    let path = folder.join(TRUST_FILE);
    match fs::read(&path) {
        Ok(bytes) => match TrustDocument::decode(&bytes) {
            Ok(document) => Ok(Some(Arc::new(document))),
            Err(source) => Err(ComposeError::Stored { path, source }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ComposeError::File { path, source }),
    }
}

fn write(folder: &Path, document: &TrustDocument) -> Result<(), ComposeError> {
    let path = folder.join(TRUST_FILE);
    let written = files::replace_file(&path, document.encode(), files::PUBLIC);
    written.map_err(|source| ComposeError::File { path, source })
}

/// Without what has ended by itself: lists would only ever grow.
fn still_valid(
    mut revoked: BTreeMap<Serial, SystemTime>,
    record: &IssuedRecord,
    now: SystemTime,
) -> BTreeMap<Serial, SystemTime> {
    for issued in record.issued.iter().filter(|issued| is_over(issued, now)) {
        if let Some(serial) = Serial::parse(&issued.serial) {
            revoked.remove(&serial);
        }
    }
    revoked
}

/// Tells whether nobody goes by a certificate any more. A day after its end, for gateways whose clocks are behind, and its whole
/// life, for which connections of callers may outlast it.
fn is_over(issued: &Issued, now: SystemTime) -> bool {
    let life = issued.not_after.duration_since(issued.not_before);
    let more = life.unwrap_or_default().max(super::LEAF_VALIDITY);
    issued.not_after + more < now
}

/// Without names that were let in again and of which nothing is left that was issued before, and without gateways whose zone is
/// revoked whole.
fn still_needed(names: &RevokedNames, record: &IssuedRecord, now: SystemTime) -> RevokedNames {
    let is_left = |name: &RevokedName, until: RevokedUntil| {
        let of_name = |issued: &Issued| {
            let begins = issued.not_before.duration_since(UNIX_EPOCH).unwrap_or_default();
            RevocationSubject::from(name).covers(issued) && until.covers(begins.as_secs())
        };
        // What a line said that nobody can read may have been of this name.
        !record.unreadable.is_empty()
            || record
                .issued
                .iter()
                .any(|issued| of_name(issued) && !is_over(issued, now))
    };
    let zones: BTreeSet<&ZoneName> = names
        .iter()
        .filter_map(|(name, until)| match name {
            RevokedName::Zone(zone) if until == RevokedUntil::Forever => Some(zone),
            _ => None,
        })
        .collect();
    let mut needed = RevokedNames::default();
    for (name, until) in names.iter() {
        let wanted = match name {
            RevokedName::Gateway(id) if zones.contains(&id.zone) => false,
            _ => until == RevokedUntil::Forever || is_left(name, until),
        };
        if wanted {
            needed.insert(name.clone(), until);
        }
    }
    needed
}

/// Tells whether a document says just this.
fn says(
    document: &TrustDocument,
    roots: &[Vec<u8>],
    preferred: Option<CertificateHash>,
    revoked: &BTreeMap<Serial, SystemTime>,
) -> bool {
    let content = document.content();
    let (theirs, ours): (BTreeSet<_>, BTreeSet<_>) = (content.roots.iter().collect(), roots.iter().collect());
    let listed = |der: &Vec<u8>| List::read(der, ListOrigin::Document).map(|list| list.serials);
    let lists: Result<Vec<_>, _> = content.revocations.iter().map(listed).collect();
    let wanted: BTreeSet<Serial> = revoked.keys().cloned().collect();
    let same_lists = lists.is_ok_and(|lists| match wanted.is_empty() {
        true => lists.is_empty(),
        false => !lists.is_empty() && lists.iter().all(|list| *list == wanted),
    });
    theirs == ours && content.preferred == preferred && same_lists
}

/// Tells whether it is in force already, or would rule over what is.
fn rules(edition: Edition, generation: u64, fingerprint: &str) -> bool {
    edition.generation > generation
        || (edition.generation == generation && edition.fingerprint.to_string() == fingerprint)
}

fn unix_milliseconds(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}
