//! An identity on disk: three PEM files in one folder, read, checked and written.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustls::{
    CertificateError, Error as TlsFailure, RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

use super::{
    Identity,
    leaf::{LeafError, identify},
};

/// The certificate chain, leaf first.
pub const CERTIFICATE_FILE: &str = "cert.pem";
/// The private key of the leaf: PKCS #8, SEC 1 or PKCS #1.
pub const KEY_FILE: &str = "key.pem";
/// The trust roots.
pub const ROOTS_FILE: &str = "ca.pem";
/// Mode of a file that holds a private key: its owner alone.
pub(crate) const PRIVATE: u32 = 0o600;
/// Mode of a file that anyone may read.
pub(super) const PUBLIC: u32 = 0o644;
/// Largest identity file that is read, in bytes: thousands of roots, and not a mistaken disk image.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Why an identity on disk cannot be used: what, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read {path}; `causeway ca issue --out {folder}` makes the three files of an identity",
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
    #[error("the certificate in {path} has expired; issue a new one with `causeway ca issue`, or set this host's clock if it is wrong",
        path = path.display())]
    Expired { path: PathBuf },
    #[error("the certificate in {path} is not valid yet; set this host's clock, or wait", path = path.display())]
    NotYetValid { path: PathBuf },
    #[error("the certificate in {path} was not issued by any root in {roots}; put its CA's certificate there",
        path = path.display(), roots = roots.display())]
    UnknownIssuer { path: PathBuf, roots: PathBuf },
    #[error("no peer will believe the certificate in {path}", path = path.display())]
    Chain {
        path: PathBuf,
        #[source]
        source: TlsFailure,
    },
}

fn folder(path: &Path) -> String {
    path.parent().unwrap_or(Path::new(".")).display().to_string()
}

pub(super) fn load(folder: &Path, now: SystemTime) -> Result<Identity, IdentityError> {
    let certificate = folder.join(CERTIFICATE_FILE);
    let key_path = folder.join(KEY_FILE);
    let roots_path = folder.join(ROOTS_FILE);

    let chain = certificates(&certificate)?;
    let id = match chain.first().map(identify) {
        Some(Ok(id)) => id,
        Some(Err(source)) => {
            return Err(IdentityError::Leaf {
                path: certificate,
                source,
            });
        }
        None => return Err(missing(&certificate, "certificate")),
    };
    let key = private_key(&key_path)?;
    let mut identity = Identity::assemble(id, chain, key, roots(&roots_path)?);

    if let Err(source) = identity.server_tls() {
        return Err(IdentityError::Pair {
            key: key_path,
            certificate,
            source: Box::new(source),
        });
    }
    identity.doubt = identity
        .check_chain(now)
        .err()
        .map(|source| chain_error(source, &certificate, &roots_path));
    Ok(identity)
}

fn chain_error(source: TlsFailure, certificate: &Path, roots: &Path) -> IdentityError {
    let path = certificate.to_owned();
    let TlsFailure::InvalidCertificate(cause) = &source else {
        return IdentityError::Chain { path, source };
    };
    match cause {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            IdentityError::Expired { path }
        }
        CertificateError::UnknownIssuer => IdentityError::UnknownIssuer {
            path,
            roots: roots.to_owned(),
        },
        cause if super::chain::is_not_yet_valid(cause) => IdentityError::NotYetValid { path },
        _ => IdentityError::Chain { path, source },
    }
}

pub(super) fn roots(path: &Path) -> Result<RootCertStore, IdentityError> {
    let mut store = RootCertStore::empty();
    for root in certificates(path)? {
        store.add(root).map_err(|source| IdentityError::Root {
            path: path.to_owned(),
            source,
        })?;
    }
    if store.is_empty() {
        return Err(missing(path, "trust root"));
    }
    Ok(store)
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = read(path)?;
    let sections = CertificateDer::pem_slice_iter(&text);
    sections
        .collect::<Result<_, _>>()
        .map_err(|source| IdentityError::Pem {
            path: path.to_owned(),
            source,
        })
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|source| match source {
        pem::Error::NoItemsFound => missing(path, "private key"),
        source => IdentityError::Pem {
            path: path.to_owned(),
            source,
        },
    })
}

fn missing(path: &Path, what: &'static str) -> IdentityError {
    IdentityError::Missing {
        path: path.to_owned(),
        what,
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed = |source| IdentityError::Read {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(IdentityError::TooLarge {
            path: path.to_owned(),
        });
    }
    fs::read(path).map_err(failed)
}

/// Writes a file that must not exist yet. It has its mode from its first moment, whatever the umask, so that a key is
/// never readable by others, not even while it is empty.
pub(super) fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Like [`create`], but takes the place of a file that is there, whole or not at all.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let fresh = path.with_file_name(name);
    create(&fresh, text, mode)
        .and_then(|()| fs::rename(&fresh, path))
        .inspect_err(|_| drop(fs::remove_file(&fresh)))
}
