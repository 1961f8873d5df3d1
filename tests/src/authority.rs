//! Certificates for tests, good and bad: a root, and leaves that say what a test wants them to say.
//!
//! The gateway's own CA is tested through its command line; this one also makes what that one rightly refuses to make.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

/// Dates of a leaf, seen from today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Current,
    /// It ended years ago.
    Expired,
}

/// Content of a leaf to be made, good or bad.
#[derive(Debug, Clone)]
pub struct Wish {
    /// URI names; a good leaf has one, its SPIFFE id.
    pub uris: Vec<String>,
    /// First and last year of its validity.
    pub years: (i32, i32),
    pub is_ca: bool,
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
    /// `None`: a random one.
    pub serial: Option<u64>,
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
        let uri = format!("spiffe://{trust_domain}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().context("a URI in ASCII")?)];
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

    /// A list that revokes the certificate with this serial number, PEM.
    ///
    /// # Errors
    /// When the cryptography library refuses.
    pub fn revocations(&self, serial: u64) -> anyhow::Result<String> {
        let (issued, next) = (date_time_ymd(2024, 1, 1), date_time_ymd(2199, 1, 1));
        let revoked = RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: issued,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: issued,
            next_update: next,
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).context("sign a revocation list")?;
        list.pem().context("write a revocation list")
    }

    /// Writes the folder of a CA as `causeway ca serve` reads it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_ca(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).context("narrow the folder")?;
        for (name, text) in [
            ("ca.pem", self.root_pem.as_str()),
            ("ca-key.pem", &self.issuer.key().serialize_pem()),
        ] {
            fs::write(folder.join(name), text).with_context(|| format!("write {name}"))?;
            let private = fs::Permissions::from_mode(0o600);
            fs::set_permissions(folder.join(name), private).with_context(|| format!("narrow {name}"))?;
        }
        Ok(())
    }

    /// Signs a leaf for one gateway.
    ///
    /// # Errors
    /// When the cryptography library refuses.
    pub fn leaf(&self, zone: &str, gateway: &str, validity: Validity) -> anyhow::Result<Leaf> {
        let last_year = match validity {
            Validity::Current => 2199,
            Validity::Expired => 2021,
        };
        let good = self.wish(zone, gateway);
        self.sign(&Wish {
            years: (2020, last_year),
            ..good
        })
    }

    /// Content of a good leaf for one gateway.
    #[must_use]
    pub fn wish(&self, zone: &str, gateway: &str) -> Wish {
        Wish {
            uris: vec![format!(
                "spiffe://{}/zone/{zone}/gateway/{gateway}",
                self.trust_domain
            )],
            years: (2020, 2199),
            is_ca: false,
            purposes: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            serial: None,
        }
    }

    /// Signs whatever is wished for.
    ///
    /// # Errors
    /// When the cryptography library refuses.
    pub fn sign(&self, wish: &Wish) -> anyhow::Result<Leaf> {
        let mut params = CertificateParams::default();
        for uri in &wish.uris {
            let name = uri.as_str().try_into().context("a URI in ASCII")?;
            params.subject_alt_names.push(SanType::URI(name));
        }
        params
            .distinguished_name
            .push(DnType::CommonName, "a gateway of a test");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages.clone_from(&wish.purposes);
        params.serial_number = wish.serial.map(SerialNumber::from);
        params.use_authority_key_identifier_extension = true;
        if wish.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let (first, last) = wish.years;
        (params.not_before, params.not_after) = (date_time_ymd(first, 1, 2), date_time_ymd(last, 1, 1));
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
