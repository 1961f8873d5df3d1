//! The trust document as a CA's folder would have it now: its roots, what was revoked, and the preferred issuer. The last
//! one that was made is kept beside the CA, so that making it again makes nothing new.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use causeway_zone_sync::trust::{CertificateHash, Content, Document, DocumentError, Edition};

use super::{
    Ca, CaError, issued,
    revoked::{Revoked, RevokedError},
};
use crate::identity::{List, Place, Serial, files};

/// The last document that was made, in the CA's folder.
pub const TRUST_FILE: &str = "trust.pb";

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Revoked(#[from] RevokedError),
    #[error("the document cannot be made: too many roots or revoked certificates")]
    Document(#[from] DocumentError),
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
        source: DocumentError,
    },
}

/// What a document is to say.
pub struct Wish<'a> {
    /// Those that sign it. The first is the CA in the folder.
    pub signers: &'a [Ca],
    pub preferred: Option<CertificateHash>,
    /// What the federation has in force: its generation, and its fingerprint as people read it.
    pub in_force: (u64, &'a str),
}

/// The document that follows what is in force; the last one, if that says the same and rules over it. It is in the
/// folder when this returns.
///
/// # Errors
/// When the folder cannot be read or written, or there is too much to say.
pub fn compose(folder: &Path, wish: &Wish<'_>, now: SystemTime) -> Result<Arc<Document>, ComposeError> {
    let last = last(folder)?;
    let roots = wish.signers.first().map(Ca::roots).unwrap_or_default();
    let roots: Vec<Vec<u8>> = roots.iter().map(|root| root.to_vec()).collect();
    let revoked = still_valid(Revoked::read(folder)?.serials(), folder, now)?;
    let (generation, fingerprint) = wish.in_force;
    if let Some(last) = &last
        && says(last, &roots, wish.preferred, &revoked)
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
        preferred: wish.preferred,
    };
    let mut document = Document::new(newest + 1, content, unix_milliseconds(now))?;
    for ca in wish.signers {
        document = ca.sign_trust(document)?;
    }
    write(folder, &document)?;
    Ok(Arc::new(document))
}

fn last(folder: &Path) -> Result<Option<Arc<Document>>, ComposeError> {
    let path = folder.join(TRUST_FILE);
    match fs::read(&path) {
        Ok(bytes) => match Document::decode(&bytes) {
            Ok(document) => Ok(Some(Arc::new(document))),
            Err(source) => Err(ComposeError::Stored { path, source }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ComposeError::File { path, source }),
    }
}

fn write(folder: &Path, document: &Document) -> Result<(), ComposeError> {
    let path = folder.join(TRUST_FILE);
    let written = files::replace(&path, document.encode(), files::PUBLIC);
    written.map_err(|source| ComposeError::File { path, source })
}

/// Without what has ended by itself: lists would only ever grow.
fn still_valid(
    mut revoked: BTreeMap<Serial, SystemTime>,
    folder: &Path,
    now: SystemTime,
) -> Result<BTreeMap<Serial, SystemTime>, ComposeError> {
    let record = issued::read(folder).map_err(|source| ComposeError::File {
        path: folder.join(issued::ISSUED_FILE),
        source,
    })?;
    // A day more, for gateways whose clocks are behind.
    let ended = |not_after: SystemTime| not_after + super::LEAF_VALIDITY < now;
    for issued in record.issued.iter().filter(|issued| ended(issued.not_after)) {
        if let Some(serial) = Serial::parse(&issued.serial) {
            revoked.remove(&serial);
        }
    }
    Ok(revoked)
}

/// Whether a document says just this.
fn says(
    document: &Document,
    roots: &[Vec<u8>],
    preferred: Option<CertificateHash>,
    revoked: &BTreeMap<Serial, SystemTime>,
) -> bool {
    let content = document.content();
    let (theirs, ours): (BTreeSet<_>, BTreeSet<_>) = (content.roots.iter().collect(), roots.iter().collect());
    let listed = |der: &Vec<u8>| List::read(der, Place::Document).map(|list| list.serials);
    let lists: Result<Vec<_>, _> = content.revocations.iter().map(listed).collect();
    let wanted: BTreeSet<Serial> = revoked.keys().cloned().collect();
    let same_lists = lists.is_ok_and(|lists| match wanted.is_empty() {
        true => lists.is_empty(),
        false => !lists.is_empty() && lists.iter().all(|list| *list == wanted),
    });
    theirs == ours && content.preferred == preferred && same_lists
}

/// Whether it is in force already, or would rule over what is.
fn rules(edition: Edition, generation: u64, fingerprint: &str) -> bool {
    edition.generation > generation
        || (edition.generation == generation && edition.fingerprint.to_string() == fingerprint)
}

fn unix_milliseconds(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}
