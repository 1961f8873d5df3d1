//! An identity on disk: three PEM files in one folder, and revocation lists beside them, read, checked and written.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use causeway_federation::trust::{CertificateHash, Roots, Trust};
use rustls::{
    CertificateError, Error as TlsFailure, RootCertStore,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

use super::{
    Identity,
    leaf::{LeafError, identify},
    revocation::{List, ListOrigin, RevocationError},
    workload_api::SvidError,
};

/// The certificate chain, leaf first.
pub const CERTIFICATE_FILE: &str = "cert.pem";
/// The private key of the leaf: PKCS #8, SEC 1 or PKCS #1.
pub const KEY_FILE: &str = "key.pem";
/// The trust roots.
pub const ROOTS_FILE: &str = "ca.pem";
/// Revocation lists, PEM or DER, one or several; and so is every file with this extension.
pub const REVOCATIONS_FILE: &str = "crl.pem";
pub(crate) const REVOCATIONS_EXTENSION: &str = "crl";
/// Most files with revocation lists that are read: one for each CA there could be.
const MAX_REVOCATION_FILES: usize = 32;
/// Largest identity file that is read, in bytes: thousands of roots, and not a mistaken disk image.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Reason why an identity on disk cannot be used: what, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFileError {
    #[error("cannot read {path}; `causeway join` or `causeway ca issue --out {folder}` makes the three files of an identity",
        path = path.display(), folder = folder(path))]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is larger than {MAX_FILE_BYTES} bytes; it should hold PEM and nothing else", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("{path} is not PEM; it should hold `-----BEGIN …-----` sections", path = path.display())]
    Pem {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("{path} holds no {what}; put one there, or make the files anew with `causeway ca issue`", path = path.display())]
    Missing { path: PathBuf, what: &'static str },
    #[error("a root in {path} is not a certificate that can be trusted; take it out", path = path.display())]
    Root {
        path: PathBuf,
        #[source]
        source: TlsFailure,
    },
    #[error("the first certificate in {path} does not name a gateway; issue one with `causeway ca issue --zone ZONE --gateway NAME`",
        path = path.display())]
    Leaf {
        path: PathBuf,
        #[source]
        source: LeafError,
    },
    #[error("the key in {key} does not belong to the first certificate in {certificate}; they must be issued together",
        key = key.display(), certificate = certificate.display())]
    Pair {
        key: PathBuf,
        certificate: PathBuf,
        #[source]
        source: Box<super::TlsError>,
    },
    #[error("the certificate in {path} has expired; get a new one with `causeway join` or `causeway ca issue`, or set this host's clock if it is wrong",
        path = path.display())]
    Expired { path: PathBuf },
    #[error("the certificate in {path} is not valid yet; set this host's clock, or wait", path = path.display())]
    NotYetValid { path: PathBuf },
    #[error("the certificate in {path} was not issued by any root in {roots}; put its CA's certificate there",
        path = path.display(), roots = roots.display())]
    UnknownIssuer { path: PathBuf, roots: PathBuf },
    #[error("the certificate in {path} was revoked; issue a new one with `causeway ca issue`", path = path.display())]
    Revoked { path: PathBuf },
    #[error("the revocation list in {path} cannot be used; put a whole one there, or take the file away", path = path.display())]
    Revocations {
        path: PathBuf,
        #[source]
        source: RevocationError,
    },
    #[error("there are more than {MAX_REVOCATION_FILES} files with revocation lists in {folder}; put the lists into one", folder = folder.display())]
    TooManyLists { folder: PathBuf },
    #[error("no peer will believe the certificate in {path}", path = path.display())]
    Chain {
        path: PathBuf,
        #[source]
        source: TlsFailure,
    },
    /// It is not on disk.
    #[error(transparent)]
    Svid(#[from] SvidError),
}

fn folder(path: &Path) -> String {
    path.parent().unwrap_or(Path::new(".")).display().to_string()
}

pub(super) fn load(folder: &Path, trust: &Trust, now: SystemTime) -> Result<Identity, IdentityFileError> {
    let chain = certificates(&folder.join(CERTIFICATE_FILE))?;
    let key = private_key(&folder.join(KEY_FILE))?;
    let roots = roots(&folder.join(ROOTS_FILE))?;
    let lists = revocation_lists(folder, &roots)?;
    put_together(folder, chain, key, (roots, lists), trust, now)
}

/// Checks that the parts belong together. `folder` is for messages.
pub(super) fn put_together(
    folder: &Path,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    (roots, lists): (Roots, Vec<List>),
    trust: &Trust,
    now: SystemTime,
) -> Result<Identity, IdentityFileError> {
    let path = folder.join(CERTIFICATE_FILE);
    let id = match chain.first().map(identify) {
        Some(Ok(id)) => id,
        Some(Err(source)) => return Err(IdentityFileError::Leaf { path, source }),
        None => return Err(missing(&path, "certificate")),
    };
    let mut identity = Identity::assemble(id, chain, key, roots);
    identity.file_lists = lists;
    let mut identity = identity.under(trust);
    if let Err(source) = identity.server_tls() {
        return Err(IdentityFileError::Pair {
            key: folder.join(KEY_FILE),
            certificate: path,
            source: Box::new(source),
        });
    }
    identity.doubt = doubt(&identity, folder, now);
    Ok(identity)
}

/// Reason why peers would not believe an identity from `folder` at `now`.
pub(super) fn doubt(identity: &Identity, folder: &Path, now: SystemTime) -> Option<IdentityFileError> {
    let failed = |source| chain_error(source, &folder.join(CERTIFICATE_FILE), &folder.join(ROOTS_FILE));
    identity.check_chain(now).err().map(failed)
}

fn chain_error(source: TlsFailure, certificate: &Path, roots: &Path) -> IdentityFileError {
    let path = certificate.to_owned();
    let TlsFailure::InvalidCertificate(cause) = &source else {
        return IdentityFileError::Chain { path, source };
    };
    match cause {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            IdentityFileError::Expired { path }
        }
        CertificateError::Revoked => IdentityFileError::Revoked { path },
        CertificateError::UnknownIssuer => IdentityFileError::UnknownIssuer {
            path,
            roots: roots.to_owned(),
        },
        cause if super::chain::is_not_yet_valid(cause) => IdentityFileError::NotYetValid { path },
        _ => IdentityFileError::Chain { path, source },
    }
}

pub(super) fn roots(path: &Path) -> Result<Roots, IdentityFileError> {
    usable_roots(path, certificates(path)?)
}

/// Certificates from `path` as roots, if each can be trusted and there is one at least.
pub(super) fn usable_roots(
    path: &Path,
    certificates: Vec<CertificateDer<'static>>,
) -> Result<Roots, IdentityFileError> {
    let (mut store, mut roots) = (RootCertStore::empty(), Roots::new());
    for root in certificates {
        roots.insert(CertificateHash::of(&root), root.to_vec());
        store.add(root).map_err(|source| IdentityFileError::Root {
            path: path.to_owned(),
            source,
        })?;
    }
    if roots.is_empty() {
        return Err(missing(path, "trust root"));
    }
    Ok(roots)
}

/// Every list in the folder, whose owner is believed.
fn revocation_lists(folder: &Path, roots: &Roots) -> Result<Vec<List>, IdentityFileError> {
    let mut lists = Vec::new();
    for path in revocation_files(folder)? {
        let failed = |source| IdentityFileError::Revocations {
            path: path.clone(),
            source,
        };
        for der in list_sections(&path)? {
            let list = List::read_under(&der, ListOrigin::File(path.clone()), roots);
            lists.push(list.map_err(failed)?);
        }
    }
    Ok(lists)
}

/// The files that hold lists, in the order of their names.
fn revocation_files(folder: &Path) -> Result<Vec<PathBuf>, IdentityFileError> {
    let failed = |source| IdentityFileError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let named = path.file_name().is_some_and(|name| name == REVOCATIONS_FILE);
        if named
            || path
                .extension()
                .is_some_and(|extension| extension == REVOCATIONS_EXTENSION)
        {
            files.push(path);
        }
    }
    files.sort();
    match files.len() > MAX_REVOCATION_FILES {
        true => Err(IdentityFileError::TooManyLists {
            folder: folder.to_owned(),
        }),
        false => Ok(files),
    }
}

/// The lists of one file, DER: those of its PEM sections, or the file itself.
fn list_sections(path: &Path) -> Result<Vec<Vec<u8>>, IdentityFileError> {
    let bytes = read(path)?;
    // The first byte of a DER sequence, which is no PEM text.
    if bytes.first() == Some(&0x30) {
        return Ok(vec![bytes]);
    }
    let sections = CertificateRevocationListDer::pem_slice_iter(&bytes);
    let lists: Vec<_> = sections
        .map(|section| section.map(|list| list.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|source| IdentityFileError::Pem {
            path: path.to_owned(),
            source,
        })?;
    match lists.is_empty() {
        true => Err(missing(path, "revocation list")),
        false => Ok(lists),
    }
}

pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityFileError> {
    let text = read(path)?;
    let sections = CertificateDer::pem_slice_iter(&text);
    sections
        .collect::<Result<_, _>>()
        .map_err(|source| IdentityFileError::Pem {
            path: path.to_owned(),
            source,
        })
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityFileError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|source| match source {
        pem::Error::NoItemsFound => missing(path, "private key"),
        source => IdentityFileError::Pem {
            path: path.to_owned(),
            source,
        },
    })
}

fn missing(path: &Path, what: &'static str) -> IdentityFileError {
    IdentityFileError::Missing {
        path: path.to_owned(),
        what,
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, IdentityFileError> {
    let failed = |source| IdentityFileError::Read {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(IdentityFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    fs::read(path).map_err(failed)
}
