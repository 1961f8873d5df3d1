//! Certificates for tests, good and bad: a root, and leaves that say what a test wants them to say.
//!
//! The gateway's own CA is tested through its command line; this one also makes what that one rightly refuses to make.

use std::{fs, path::Path};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// Whether a leaf can be used today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Current,
    /// It ended years ago.
    Expired,
}

/// A root that signs leaves.
pub struct Authority {
    trust_domain: String,
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Authority {
    /// The key stays out of it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// # Errors
    /// When the cryptography library refuses.
    pub fn new(trust_domain: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "test root");
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2200, 1, 1));
        let key = KeyPair::generate().context("make a root key")?;
        let root = params.self_signed(&key).context("sign a root")?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            root_pem: root.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The root certificate, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Signs a leaf for one gateway.
    ///
    /// # Errors
    /// When the cryptography library refuses.
    pub fn leaf(&self, zone: &str, gateway: &str, validity: Validity) -> anyhow::Result<Leaf> {
        let mut params = CertificateParams::default();
        let uri = format!("spiffe://{}/zone/{zone}/gateway/{gateway}", self.trust_domain);
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().context("a URI in ASCII")?)];
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{gateway}.{zone}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let last_year = match validity {
            Validity::Current => 2199,
            Validity::Expired => 2021,
        };
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 2), date_time_ymd(last_year, 1, 1));
        let key = KeyPair::generate().context("make a leaf key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("sign a leaf")?;
        Ok(Leaf {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Writes an identity folder as `causeway gateway --identity` reads it.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_identity(folder: &Path, leaf: &Leaf, root_pem: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    for (name, text) in [
        ("cert.pem", leaf.certificate.as_str()),
        ("key.pem", leaf.key.as_str()),
        ("ca.pem", root_pem),
    ] {
        fs::write(folder.join(name), text).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}
