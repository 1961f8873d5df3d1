//! An identity on disk: three PEM files in one folder, read, checked and written.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use rustix::fs::{CWD, RenameFlags, renameat_with};
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
/// Mode of a folder that holds private keys.
const PRIVATE_FOLDER: u32 = 0o700;
/// Mode of a file that anyone may read.
pub(super) const PUBLIC: u32 = 0o644;
/// Largest identity file that is read, in bytes: thousands of roots, and not a mistaken disk image.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Why an identity on disk cannot be used: what, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
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
    let chain = certificates(&folder.join(CERTIFICATE_FILE))?;
    let key = private_key(&folder.join(KEY_FILE))?;
    put_together(folder, chain, key, roots(&folder.join(ROOTS_FILE))?, now)
}

/// Checks that the parts belong together. `folder` is for messages.
pub(super) fn put_together(
    folder: &Path,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: RootCertStore,
    now: SystemTime,
) -> Result<Identity, IdentityError> {
    let path = folder.join(CERTIFICATE_FILE);
    let id = match chain.first().map(identify) {
        Some(Ok(id)) => id,
        Some(Err(source)) => return Err(IdentityError::Leaf { path, source }),
        None => return Err(missing(&path, "certificate")),
    };
    let mut identity = Identity::assemble(id, chain, key, roots);
    if let Err(source) = identity.server_tls() {
        return Err(IdentityError::Pair {
            key: folder.join(KEY_FILE),
            certificate: path,
            source: Box::new(source),
        });
    }
    identity.doubt = identity
        .check_chain(now)
        .err()
        .map(|source| chain_error(source, &path, &folder.join(ROOTS_FILE)));
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

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
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
/// never readable by others, not even while it is empty; and it appears whole or not at all.
pub(super) fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let fresh = write_beside(path, text, mode)?;
    renameat_with(CWD, &fresh, CWD, path, RenameFlags::NOREPLACE)
        .map_err(io::Error::from)
        .and_then(|()| sync_folder(path))
        .inspect_err(|_| drop(fs::remove_file(&fresh)))
}

/// Like [`create`], but takes the place of a file that is there, whole or not at all.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let fresh = write_beside(path, text, mode)?;
    fs::rename(&fresh, path)
        .and_then(|()| sync_folder(path))
        .inspect_err(|_| drop(fs::remove_file(&fresh)))
}

fn write_beside(path: &Path, text: &str, mode: u32) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two writers of one file must not meet in its temporary name.
    name.push(format!(".new-{:016x}", SmallRng::from_os_rng().random::<u64>()));
    let fresh = path.with_file_name(name);
    write_new(&fresh, text, mode).inspect_err(|_| drop(fs::remove_file(&fresh)))?;
    Ok(fresh)
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Writes a file that anyone may read, in the place of one that is there.
pub(crate) fn write_public(path: &Path, text: &str) -> io::Result<()> {
    replace(path, text, PUBLIC)
}

/// Makes a rename last over a crash of the machine.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes a folder for its owner alone, whatever the umask, and those above it as usual. One that is there stays as it is.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above)?;
    }
    fs::DirBuilder::new().mode(PRIVATE_FOLDER).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(PRIVATE_FOLDER))
}
