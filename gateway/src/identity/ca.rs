//! The built-in CA: a P-256 key and a self-signed certificate in a folder, or in memory for tests and the demo.
//!
//! It issues gateway identities by hand. It has no network side, keeps no list of what it issued, and revokes nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use causeway_zone_sync::name::GatewayId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::{
    Identity, SpiffeError, SpiffeId,
    files::{self, CERTIFICATE_FILE, IdentityError, KEY_FILE, ROOTS_FILE},
    leaf::{self, LeafError},
    spiffe,
};

/// The CA's private key, beside its certificate [`ROOTS_FILE`].
pub const CA_KEY_FILE: &str = "ca-key.pem";
/// How long a CA certificate lives.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How long a leaf lives once gateways renew theirs by themselves.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates begin this long before they are made, for peers whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// A certificate authority for one trust domain.
pub struct Ca {
    trust_domain: String,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf certificate is to say. Tests make bad ones by changing it.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Whom the identity claims to be towards its own process.
    pub gateway: GatewayId,
    /// URI names; a good leaf has one, its SPIFFE id.
    pub uris: Vec<String>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub is_ca: bool,
}

/// Why a CA could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("{0} is there already; a CA is never overwritten: take another folder, or move this one away")]
    Exists(PathBuf),
    #[error("cannot write {path}", path = path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the CA in {folder}; `causeway ca init {folder} --trust-domain DOMAIN` makes one", folder = folder.display())]
    Read {
        folder: PathBuf,
        #[source]
        source: Box<IdentityError>,
    },
    #[error("{path} holds no usable CA key", path = path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: rcgen::Error,
    },
    #[error("{path} is not the certificate of a Causeway CA", path = path.display())]
    NotACa {
        path: PathBuf,
        #[source]
        source: LeafError,
    },
    #[error("the trust domain is not valid")]
    TrustDomain(#[from] SpiffeError),
    #[error("a validity of {0:?} is out of range")]
    Validity(Duration),
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
    #[error("cannot trust the CA's own certificate")]
    Root(#[source] rustls::Error),
}

/// Makes a CA in `folder`, which is created if need be: `ca.pem` and, readable by its owner alone, `ca-key.pem`.
///
/// # Errors
/// When either file is there already, or nothing can be written.
pub fn init(folder: &Path, trust_domain: &str) -> Result<(), CaError> {
    let ca = Ca::new(trust_domain)?;
    create_folder(folder)?;
    let certificate = folder.join(ROOTS_FILE);
    if certificate.exists() {
        return Err(CaError::Exists(certificate));
    }
    let key = ca.issuer.key().serialize_pem();
    create(&folder.join(CA_KEY_FILE), &key, files::PRIVATE)?;
    create(&certificate, &ca.certificate_pem, files::PUBLIC)
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
    let ca = Ca::load(ca_folder)?;
    let leaf = ca.leaf(gateway, validity)?;
    let (certificate, key) = ca.sign(&leaf)?;
    create_folder(out)?;
    replace(&out.join(KEY_FILE), &key.serialize_pem(), files::PRIVATE)?;
    replace(&out.join(CERTIFICATE_FILE), &certificate.pem(), files::PUBLIC)?;
    replace(&out.join(ROOTS_FILE), &ca.certificate_pem, files::PUBLIC)?;
    Ok(SpiffeId::new(&ca.trust_domain, gateway.clone()))
}

impl Ca {
    /// A CA with a new key, in memory only.
    ///
    /// # Errors
    /// When `trust_domain` is not one.
    pub fn new(trust_domain: &str) -> Result<Self, CaError> {
        spiffe::check_trust_domain(trust_domain)?;
        let key = KeyPair::generate().map_err(CaError::Certificate)?;
        let params = ca_params(trust_domain, &key)?;
        let certificate = params.self_signed(&key).map_err(CaError::Certificate)?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            certificate_pem: certificate.pem(),
            certificate: certificate.into(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads a CA that [`init`] made.
    ///
    /// # Errors
    /// When a file is missing or is not what it should be.
    pub fn load(folder: &Path) -> Result<Self, CaError> {
        let unread = |source| CaError::Read {
            folder: folder.to_owned(),
            source: Box::new(source),
        };
        let path = folder.join(ROOTS_FILE);
        let text = files::read(&path).map_err(unread)?;
        let not_a_ca = |source| CaError::NotACa {
            path: path.clone(),
            source,
        };
        let certificates = files::certificates(&path).map_err(unread)?;
        let certificate = certificates
            .into_iter()
            .next()
            .ok_or_else(|| not_a_ca(LeafError::Malformed))?;
        let trust_domain = trust_domain(&certificate).map_err(not_a_ca)?;

        let key_path = folder.join(CA_KEY_FILE);
        let key_text = files::read(&key_path).map_err(unread)?;
        let unusable = |source| CaError::Key {
            path: key_path.clone(),
            source,
        };
        let key = KeyPair::from_pem(&String::from_utf8_lossy(&key_text)).map_err(unusable)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(unusable)?;
        Ok(Self {
            trust_domain,
            certificate_pem: String::from_utf8_lossy(&text).into_owned(),
            certificate,
            issuer,
        })
    }

    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The root that peers must trust.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A good identity for `gateway`, valid from now.
    ///
    /// # Errors
    /// When `validity` is out of range.
    pub fn issue(&self, gateway: &GatewayId, validity: Duration) -> Result<Identity, CaError> {
        self.issue_leaf(&self.leaf(gateway, validity)?)
    }

    /// What a good leaf for `gateway` says.
    ///
    /// # Errors
    /// When `validity` is out of range.
    pub fn leaf(&self, gateway: &GatewayId, validity: Duration) -> Result<Leaf, CaError> {
        let now = SystemTime::now();
        let in_range = Some(validity).filter(|v| !v.is_zero() && *v <= CA_VALIDITY);
        let not_after = in_range.and_then(|validity| now.checked_add(validity));
        Ok(Leaf {
            gateway: gateway.clone(),
            uris: vec![SpiffeId::new(&self.trust_domain, gateway.clone()).to_string()],
            not_before: now - CLOCK_SKEW,
            not_after: not_after.ok_or(CaError::Validity(validity))?,
            is_ca: false,
        })
    }

    /// An identity with exactly this leaf, good or bad, that trusts this CA.
    ///
    /// # Errors
    /// When no certificate can be made of it.
    pub fn issue_leaf(&self, leaf: &Leaf) -> Result<Identity, CaError> {
        let (certificate, key) = self.sign(leaf)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(CaError::Root)?;
        Ok(Identity::assemble(
            SpiffeId::new(&self.trust_domain, leaf.gateway.clone()),
            vec![certificate.into()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots,
        ))
    }

    fn sign(&self, leaf: &Leaf) -> Result<(rcgen::Certificate, KeyPair), CaError> {
        let key = KeyPair::generate().map_err(CaError::Certificate)?;
        let params = leaf_params(leaf)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(CaError::Certificate)?;
        Ok((certificate, key))
    }
}

fn ca_params(trust_domain: &str, key: &KeyPair) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    // Part of the key in the name: verifiers then tell two CAs of one trust domain apart by name.
    let fingerprint: String = params
        .key_identifier(key)
        .iter()
        .take(4)
        .map(|b| format!("{b:02x}"))
        .collect();
    params.distinguished_name = name(format!("Causeway CA {fingerprint}"));
    params.subject_alt_names = vec![uri(&spiffe::ca_id(trust_domain))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + CA_VALIDITY).into();
    Ok(params)
}

fn leaf_params(leaf: &Leaf) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(leaf.gateway.to_string());
    params.subject_alt_names = leaf.uris.iter().map(|text| uri(text)).collect::<Result<_, _>>()?;
    params.not_before = leaf.not_before.into();
    params.not_after = leaf.not_after.into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    if leaf.is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    Ok(params)
}

fn name(common: String) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Causeway");
    name.push(DnType::CommonName, common);
    name
}

fn uri(text: &str) -> Result<SanType, CaError> {
    Ok(SanType::URI(text.try_into().map_err(CaError::Certificate)?))
}

fn trust_domain(certificate: &CertificateDer<'_>) -> Result<String, LeafError> {
    let parsed = leaf::parse(certificate)?;
    Ok(spiffe::trust_domain_of_ca(leaf::only_uri(&parsed)?)?)
}

fn create_folder(folder: &Path) -> Result<(), CaError> {
    fs::create_dir_all(folder).map_err(|source| CaError::Write {
        path: folder.to_owned(),
        source,
    })
}

fn create(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    files::create(path, text, mode).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CaError::Exists(path.to_owned()),
        _ => CaError::Write {
            path: path.to_owned(),
            source,
        },
    })
}

fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    files::replace(path, text, mode).map_err(|source| CaError::Write {
        path: path.to_owned(),
        source,
    })
}
