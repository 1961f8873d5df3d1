//! A CA in its folder: made, read, and used by hand.

use std::{
    io,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use causeway_federation::name::GatewayId;
use causeway_host::files;
use data_encoding::HEXLOWER;
use rcgen::{Issuer, KeyPair};
use rustls::pki_types::CertificateDer;

use super::{
    CA_KEY_FILE, Ca, CaError, Certified, Leaf,
    issued::{self, Issued},
    key::{self, CaKeyError, Passphrase},
    request::{self, SigningRequest},
    revoked::Revoked,
    tokens,
};
use crate::{
    DnsName, Serial, SpiffeId,
    leaf::{self, LeafError},
    pem_files::{self, CERTIFICATE_FILE, KEY_FILE, ROOTS_FILE},
    spiffe,
};

/// Makes a CA in `folder`, which is created if need be: `ca.pem` and, readable by its owner alone, `ca-key.pem`. The
/// certificate comes last: where it is, the CA is whole.
///
/// # Errors
/// When either file is there already, or nothing can be written.
pub fn init(folder: &Path, trust_domain: &str) -> Result<Ca, CaError> {
    init_under(folder, trust_domain, None)
}

/// As [`init`], with the key encrypted under a passphrase.
///
/// # Errors
/// As [`init`], and when the passphrase is too short.
pub fn init_under(folder: &Path, trust_domain: &str, passphrase: Option<&Passphrase>) -> Result<Ca, CaError> {
    let ca = Ca::new(trust_domain)?;
    let key = key::write(ca.issuer.key(), passphrase)?;
    make_folder(folder)?;
    let certificate = folder.join(ROOTS_FILE);
    if certificate.exists() {
        return Err(CaError::Exists(certificate));
    }
    create(&folder.join(CA_KEY_FILE), &key, files::PRIVATE)?;
    make_folder(&folder.join(tokens::TOKENS_FOLDER))?;
    create(&certificate, &ca.roots_pem, files::PUBLIC)?;
    Ok(ca)
}

/// Issues an identity from the CA in `ca_folder` and writes it to `out`: `cert.pem`, `key.pem` and `ca.pem`. Files that are
/// there are replaced: that is how a certificate is renewed by hand.
///
/// # Errors
/// When the CA cannot be read or `out` not written.
pub fn issue(
    ca_folder: &Path,
    gateway: &GatewayId,
    out: &Path,
    validity: Duration,
) -> Result<SpiffeId, CaError> {
    Ca::load(ca_folder)?.issue_to(ca_folder, gateway, out, validity, &[])
}

impl Ca {
    /// As [`issue`], by a CA that was read from `ca_folder`, with host names.
    ///
    /// # Errors
    /// When `out` or `issued.jsonl` cannot be written.
    pub fn issue_to(
        &self,
        ca_folder: &Path,
        gateway: &GatewayId,
        out: &Path,
        validity: Duration,
        names: &[DnsName],
    ) -> Result<SpiffeId, CaError> {
        let key = KeyPair::generate().map_err(CaError::Certificate)?;
        let leaf = Leaf {
            dns_names: names.to_vec(),
            ..self.leaf(gateway, validity)?
        }
        .not_before(first_not_before(ca_folder, gateway)?);
        let certified = self.certify(&leaf, &key)?;
        self.record(ca_folder, &certified, CertificateOrigin::by_hand("issue"))?;
        self.hand_out(out, &key, &certified.pem)?;
        Ok(certified.id)
    }

    /// Writes `key.pem`, `cert.pem` and `ca.pem`.
    pub(super) fn hand_out(&self, out: &Path, key: &KeyPair, certificate: &str) -> Result<(), CaError> {
        make_folder(out)?;
        replace(&out.join(KEY_FILE), &key.serialize_pem(), files::PRIVATE)?;
        replace(&out.join(CERTIFICATE_FILE), certificate, files::PUBLIC)?;
        replace(&out.join(ROOTS_FILE), &self.roots_pem, files::PUBLIC)
    }

    /// Signs a request by hand, with host names, and writes the certificate to the file `out`, in the place of one that is there.
    ///
    /// # Errors
    /// As [`Ca::sign`], and when `out` or `issued.jsonl` cannot be written.
    pub fn sign_to(
        &self,
        ca_folder: &Path,
        request: &SigningRequest,
        out: &Path,
        validity: Duration,
        names: &[DnsName],
    ) -> Result<SpiffeId, CaError> {
        let first = first_not_before(ca_folder, &request.id().gateway)?;
        let certified = self.sign(request, validity, names, first)?;
        // Before it is recorded, so that nothing stands there as issued that nobody has.
        files::check_replaceable(out).map_err(|source| CaError::Write {
            path: out.to_owned(),
            source,
        })?;
        self.record(ca_folder, &certified, CertificateOrigin::by_hand("sign"))?;
        replace(out, &certified.pem, files::PUBLIC)?;
        Ok(certified.id)
    }

    /// Reads a CA that [`init`] made.
    ///
    /// # Errors
    /// When a file is missing or is not what it should be.
    pub fn load(folder: &Path) -> Result<Self, CaError> {
        Self::open(folder, None)
    }

    /// As [`Ca::load`], for one whose key may be encrypted.
    ///
    /// # Errors
    /// As [`Ca::load`], and when the passphrase is not the right one.
    pub fn open(folder: &Path, passphrase: Option<&Passphrase>) -> Result<Self, CaError> {
        let unread = |source| CaError::Read {
            folder: folder.to_owned(),
            source: Box::new(source),
        };
        let path = folder.join(ROOTS_FILE);
        let text = pem_files::read(&path).map_err(unread)?;
        let not_a_ca = |source| CaError::NotACa {
            path: path.clone(),
            source,
        };
        let roots = pem_files::certificates(&path).map_err(unread)?;
        let certificate = roots
            .first()
            .ok_or_else(|| not_a_ca(LeafError::Malformed))?
            .clone();
        let trust_domain = trust_domain(&certificate).map_err(not_a_ca)?;

        let key_path = folder.join(CA_KEY_FILE);
        let key_text = pem_files::read(&key_path).map_err(unread)?;
        let unusable = |source| CaError::Key {
            path: key_path.clone(),
            source,
        };
        let key = key::read(&key_text, passphrase).map_err(unusable)?;
        if !request::is_for(&certificate, &key) {
            return Err(CaError::Pair {
                key: key_path,
                certificate: path,
            });
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key);
        Ok(Self {
            trust_domain,
            roots_pem: String::from_utf8_lossy(&text).into_owned(),
            roots,
            issuer: issuer.map_err(|source| unusable(CaKeyError::Unusable(source)))?,
            certificate,
        })
    }

    /// Writes into `issued.jsonl` of the CA's folder that a certificate was made. Hand none out before, and none when this
    /// fails.
    ///
    /// # Errors
    /// When it cannot be written, or its name was revoked.
    pub fn record(
        &self,
        folder: &Path,
        certified: &Certified,
        origin: CertificateOrigin<'_>,
    ) -> Result<(), CaError> {
        let issued = Issued {
            serial: HEXLOWER.encode(&certified.serial),
            id: certified.id.to_string(),
            issuer: HEXLOWER.encode(&self.fingerprint()),
            not_before: certified.not_before,
            not_after: certified.not_after,
            how: origin.how.to_owned(),
            parent: origin.parent.map(ToString::to_string),
            address: origin.address.map(|address| address.to_string()),
            key: Some(certified.key.clone()),
            dns_names: certified.dns_names.clone(),
        };
        write_down(folder, &issued)?;
        // Only now: whoever revokes writes first and reads what was issued after that, so nothing slips between.
        may_be_issued(folder, &certified.id.gateway)
    }
}

/// Origin of a certificate, as `issued.jsonl` has it.
#[derive(Debug, Clone, Copy)]
pub struct CertificateOrigin<'a> {
    /// `issue`, `sign`, `renewal`, or `token` or `rejoin` and the token's id.
    pub how: &'a str,
    /// The certificate that it comes after.
    pub parent: Option<&'a Serial>,
    /// Address that asked for it.
    pub address: Option<IpAddr>,
}

impl<'a> CertificateOrigin<'a> {
    fn by_hand(how: &'a str) -> Self {
        Self {
            how,
            parent: None,
            address: None,
        }
    }
}

/// Time at which the validity of a certificate for `gateway` must not begin before, because its name was let in again then.
///
/// # Errors
/// When that cannot be told.
pub fn first_not_before(folder: &Path, gateway: &GatewayId) -> Result<Option<SystemTime>, CaError> {
    let revoked = Revoked::read(folder).map_err(CaError::Revocations)?;
    Ok(revoked.first_not_before(gateway))
}

/// Adds a line to `issued.jsonl`.
pub(super) fn write_down(folder: &Path, issued: &Issued) -> Result<(), CaError> {
    issued::add(folder, issued).map_err(|source| CaError::Write {
        path: folder.join(issued::ISSUED_FILE),
        source,
    })
}

/// Tells whether a certificate may be issued to `gateway` by the CA in `folder`.
///
/// # Errors
/// When the gateway or its zone was revoked, or that cannot be told.
pub(super) fn may_be_issued(folder: &Path, gateway: &GatewayId) -> Result<(), CaError> {
    let revoked = Revoked::read(folder).map_err(CaError::Revocations)?;
    match revoked.forbids(gateway) {
        None => Ok(()),
        Some(revocation) => Err(CaError::Revoked {
            gateway: gateway.clone(),
            subject: revocation.subject.clone(),
        }),
    }
}

/// The trust domain of a CA, by its certificate.
///
/// # Errors
/// When the certificate is not a CA's of this program.
pub fn trust_domain(certificate: &CertificateDer<'_>) -> Result<String, LeafError> {
    let parsed = leaf::parse(certificate)?;
    Ok(spiffe::trust_domain_of_ca(leaf::only_uri(&parsed)?)?)
}

/// The trust domain whose CA the holder of a certificate serves. Whether it can be believed is not looked at.
///
/// # Errors
/// When the certificate is not one that [`Ca::server`] makes.
pub fn server_trust_domain(certificate: &CertificateDer<'_>) -> Result<String, LeafError> {
    let parsed = leaf::parse(certificate)?;
    Ok(spiffe::trust_domain_of_ca_server(leaf::only_uri(&parsed)?)?)
}

/// A folder for its owner alone, whatever the umask; one that is there stays as it is.
pub(super) fn make_folder(folder: &Path) -> Result<(), CaError> {
    files::make_folder(folder).map_err(|source| CaError::Write {
        path: folder.to_owned(),
        source,
    })
}

fn create(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    files::create_file(path, text, mode).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CaError::Exists(path.to_owned()),
        _ => CaError::Write {
            path: path.to_owned(),
            source,
        },
    })
}

fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    files::replace_file(path, text, mode).map_err(|source| CaError::Write {
        path: path.to_owned(),
        source,
    })
}
