//! The built-in CA: a P-256 key and a self-signed certificate in a folder, or in memory for tests and the demo.
//!
//! In its folder lie `ca.pem` (its own certificate first, then further roots that gateways shall trust), `ca-key.pem`,
//! `tokens/`, `issued.jsonl` and `revoked.jsonl`. Serving it to others is [`causeway_authority`]'s business, and exchanging it
//! for another is the business of `causeway ca rotate`.

mod callers;
pub mod document;
mod folder;
pub mod issued;
pub mod key;
pub mod lineage;
pub mod rejoin;
pub mod request;
pub mod revoked;
pub mod tokens;
mod trust;

use std::{
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use causeway_federation::{
    name::{CallerIdentity, GatewayId},
    trust::{CertificateHash, Roots},
};
use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

use super::{
    DnsName, Identity, SpiffeError, SpiffeId, leaf::LeafError, pem_files::IdentityFileError, provider, spiffe,
};
use folder::make_folder;
pub use folder::{
    CertificateOrigin, first_not_before, init, init_under, issue, server_trust_domain, trust_domain,
};
use issued::Issued;
use key::CaKeyError;
use request::SigningRequest;
use revoked::{RevocationSubject, RevokedError};
use tokens::TokenId;

/// The CA's private key, beside its certificate, which is named as in an identity.
pub const CA_KEY_FILE: &str = "ca-key.pem";
/// Time for which a CA certificate lives.
pub(crate) const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Time for which a leaf lives once gateways renew theirs by themselves.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates begin this long before they are made, for peers whose clock is behind; short ones begin a tenth of their
/// lives before, so that their first half is not over when they are made.
const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Bytes of a serial number (RFC 5280 §4.1.2.2 allows 20).
const SERIAL_BYTES: usize = 16;

/// A certificate authority for one trust domain.
pub struct Ca {
    trust_domain: String,
    certificate: CertificateDer<'static>,
    /// Roots that gateways shall trust: the own certificate first, and whatever else `ca.pem` holds.
    roots: Vec<CertificateDer<'static>>,
    roots_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate that was made, and what there is to know of it.
#[derive(Debug)]
pub struct Certified {
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    pub id: SpiffeId,
    serial: [u8; SERIAL_BYTES],
    not_before: SystemTime,
    pub not_after: SystemTime,
    /// SHA-256 of its key.
    key: String,
    dns_names: Vec<DnsName>,
}

/// Content of a leaf certificate to be made. Tests make bad ones by changing it.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Gateway that the identity claims to be towards its own process.
    pub gateway: GatewayId,
    /// URI names; a good leaf has one, its SPIFFE id.
    pub uris: Vec<String>,
    /// Host names, for clients that look at these.
    pub dns_names: Vec<DnsName>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub is_ca: bool,
}

/// Reason why a CA could not be made, read or used.
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
        source: Box<IdentityFileError>,
    },
    #[error("cannot use the CA key in {path}", path = path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: CaKeyError,
    },
    #[error("cannot put the key under the passphrase")]
    Encrypt {
        #[source]
        source: CaKeyError,
    },
    #[error("the key in {key} is not that of the first certificate in {certificate}",
        key = key.display(), certificate = certificate.display())]
    Pair { key: PathBuf, certificate: PathBuf },
    #[error("cannot read the tokens in {path}", path = path.display())]
    Tokens {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("nothing is issued to {gateway}: {subject} was revoked")]
    Revoked {
        gateway: GatewayId,
        subject: RevocationSubject,
    },
    #[error("nothing is issued to {caller}: {subject} was revoked")]
    CallerRevoked {
        caller: CallerIdentity,
        subject: RevocationSubject,
    },
    #[error("{0} is no caller's: it is a gateway's or the CA's own")]
    NoCaller(CallerIdentity),
    #[error("cannot tell what was revoked")]
    Revocations(#[source] RevokedError),
    #[error("no open token has the id {0}")]
    NoSuchToken(TokenId),
    #[error(
        "{} tokens are remembered, which is the limit; the old ones go by themselves in a week",
        tokens::MAX_TOKENS
    )]
    TooManyTokens,
    #[error("the system has no randomness to give")]
    Random,
    #[error("{path} is not the certificate of a Causeway CA", path = path.display())]
    NotACa {
        path: PathBuf,
        #[source]
        source: LeafError,
    },
    #[error("the trust domain is not valid")]
    TrustDomain(#[from] SpiffeError),
    #[error("the request is for trust domain {found}, and this CA is of {own}")]
    OtherTrustDomain { found: String, own: String },
    #[error("a validity of {0:?} is out of range")]
    Validity(Duration),
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
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
            roots_pem: certificate.pem(),
            roots: vec![certificate.der().clone()],
            certificate: certificate.into(),
            issuer: Issuer::new(params, key),
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

    /// Roots that gateways shall trust: the own certificate first.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The same as PEM.
    #[must_use]
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// SHA-256 of the own certificate.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// A good identity for `gateway`, valid from now.
    ///
    /// # Errors
    /// When `validity` is out of range.
    pub fn issue(&self, gateway: &GatewayId, validity: Duration) -> Result<Identity, CaError> {
        self.issue_leaf(&self.leaf(gateway, validity)?)
    }

    /// Content of a good leaf for `gateway`.
    ///
    /// # Errors
    /// When `validity` is out of range.
    pub fn leaf(&self, gateway: &GatewayId, validity: Duration) -> Result<Leaf, CaError> {
        let (not_before, not_after) = period(validity)?;
        Ok(Leaf {
            gateway: gateway.clone(),
            uris: vec![SpiffeId::new(&self.trust_domain, gateway.clone()).to_string()],
            dns_names: Vec::new(),
            not_before,
            not_after,
            is_ca: false,
        })
    }

    /// An identity with exactly this leaf, good or bad, that trusts this CA.
    ///
    /// # Errors
    /// When no certificate can be made of it.
    pub fn issue_leaf(&self, leaf: &Leaf) -> Result<Identity, CaError> {
        let key = KeyPair::generate().map_err(CaError::Certificate)?;
        let certified = self.certify(leaf, &key)?;
        let root = (CertificateHash::of(&self.certificate), self.certificate.to_vec());
        Ok(Identity::assemble(
            certified.id,
            vec![certified.certificate],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            Roots::from([root]),
        ))
    }

    /// Signs a request: a good leaf for whom it names, with these host names, valid from now and not from before `first`. Whether
    /// they may have it is the caller's business.
    ///
    /// # Errors
    /// When `validity` is out of range, or the request is for another trust domain.
    pub fn sign(
        &self,
        request: &SigningRequest,
        validity: Duration,
        names: &[DnsName],
        first: Option<SystemTime>,
    ) -> Result<Certified, CaError> {
        if request.id().trust_domain != self.trust_domain {
            return Err(CaError::OtherTrustDomain {
                found: request.id().trust_domain.clone(),
                own: self.trust_domain.clone(),
            });
        }
        let leaf = Leaf {
            dns_names: names.to_vec(),
            ..self.leaf(&request.id().gateway, validity)?
        }
        .not_before(first);
        self.certify(&leaf, request.key())
    }

    /// Signs once more what was issued for the key of this request: the same certificate, but for its signature. `None`: what was
    /// issued is not for this key or from this CA.
    ///
    /// # Errors
    /// As [`Ca::sign`].
    pub fn sign_again(
        &self,
        request: &SigningRequest,
        issued: &Issued,
    ) -> Result<Option<CertificateDer<'static>>, CaError> {
        let serial = HEXLOWER.decode(issued.serial.as_bytes()).ok();
        let Some(serial) = serial.and_then(|serial| serial.try_into().ok()) else {
            return Ok(None);
        };
        let is_same = issued.key.as_deref() == Some(&*request.key_hash())
            && issued.issuer == HEXLOWER.encode(&self.fingerprint())
            && issued.id == request.id().to_string();
        if !is_same {
            return Ok(None);
        }
        let leaf = Leaf {
            dns_names: issued.dns_names.clone(),
            not_before: issued.not_before,
            not_after: issued.not_after,
            ..self.leaf(&request.id().gateway, LEAF_VALIDITY)?
        };
        let certified = self.certify_as(serial, &leaf, request.key())?;
        Ok(Some(certified.certificate))
    }

    /// The certificate of the process that serves this CA: no gateway can have one, so none can pass for the CA.
    ///
    /// # Errors
    /// When `validity` is out of range.
    pub fn server(&self, validity: Duration) -> Result<(CertificateDer<'static>, KeyPair), CaError> {
        let key = KeyPair::generate().map_err(CaError::Certificate)?;
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Causeway CA server".to_owned());
        params.subject_alt_names = vec![uri(&spiffe::ca_server_id(&self.trust_domain))?];
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + validity).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?.to_vec().into());
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(CaError::Certificate)?;
        Ok((certificate.into(), key))
    }

    fn certify(&self, leaf: &Leaf, key: &impl PublicKeyData) -> Result<Certified, CaError> {
        self.certify_as(serial()?, leaf, key)
    }

    fn certify_as(
        &self,
        serial: [u8; SERIAL_BYTES],
        leaf: &Leaf,
        key: &impl PublicKeyData,
    ) -> Result<Certified, CaError> {
        let mut params = leaf_params(leaf)?;
        params.serial_number = Some(serial.to_vec().into());
        let certificate = params
            .signed_by(key, &self.issuer)
            .map_err(CaError::Certificate)?;
        Ok(Certified {
            pem: certificate.pem(),
            certificate: certificate.into(),
            id: SpiffeId::new(&self.trust_domain, leaf.gateway.clone()),
            serial,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            key: key_hash(key),
            dns_names: leaf.dns_names.clone(),
        })
    }
}

impl Leaf {
    /// The same, valid from `first` on if it were valid before that.
    fn not_before(self, first: Option<SystemTime>) -> Self {
        let not_before = first.map_or(self.not_before, |first| self.not_before.max(first));
        Self { not_before, ..self }
    }
}

/// From when until when a certificate is valid that is made now.
fn period(validity: Duration) -> Result<(SystemTime, SystemTime), CaError> {
    let now = SystemTime::now();
    let in_range = Some(validity).filter(|v| !v.is_zero() && *v <= CA_VALIDITY);
    let not_after = in_range.and_then(|validity| now.checked_add(validity));
    let not_before = now - CLOCK_SKEW.min(validity / 10);
    Ok((not_before, not_after.ok_or(CaError::Validity(validity))?))
}

/// SHA-256 of a certificate, by which people and tokens know it.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// SHA-256 of a key (SubjectPublicKeyInfo), as `issued.jsonl` has it.
fn key_hash(key: &impl PublicKeyData) -> String {
    HEXLOWER.encode(&Sha256::digest(key.subject_public_key_info()))
}

/// Random and positive, and never so that a zero byte before it could be left out.
fn serial() -> Result<[u8; SERIAL_BYTES], CaError> {
    let mut serial = random::<SERIAL_BYTES>()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

/// Bytes that nobody can guess.
fn random<const COUNT: usize>() -> Result<[u8; COUNT], CaError> {
    let mut bytes = [0; COUNT];
    let filled = provider().secure_random.fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| CaError::Random)
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
    let names = leaf.dns_names.iter().map(dns);
    let names = leaf.uris.iter().map(|text| uri(text)).chain(names);
    params.subject_alt_names = names.collect::<Result<_, _>>()?;
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

fn dns(name: &DnsName) -> Result<SanType, CaError> {
    Ok(SanType::DnsName(
        name.as_str().try_into().map_err(CaError::Certificate)?,
    ))
}

fn uri(text: &str) -> Result<SanType, CaError> {
    Ok(SanType::URI(text.try_into().map_err(CaError::Certificate)?))
}
