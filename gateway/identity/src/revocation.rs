//! Revocation lists (RFC 5280 §5): of the trust document, and of files beside the identity. A certificate that any of them
//! lists for its issuer is revoked, whatever the list's own dates say; one that none lists is not. The trust document revokes whole
//! names beside that.
//!
//! Lists that only say what changed since another (delta), or that speak for other issuers (indirect), are refused:
//! half a list read as a whole one would be worse than none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use causeway_federation::{
    name::CallerIdentity,
    trust::{RevokedNames, Roots},
};
use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::ParsedExtension,
    revocation_list::{CertificateRevocationList, RevokedCertificate},
};

use super::{SpiffeId, anchors::signed_by, leaf};

/// Most certificates on all lists together: 1,000,000 serial numbers are some 60 MiB.
const MAX_REVOKED: usize = 1_000_000;
/// Longest serial number in bytes (RFC 5280 §4.1.2.2), with a zero before it.
const MAX_SERIAL_BYTES: usize = 21;

/// Origin of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListOrigin {
    /// The trust document.
    Document,
    File(PathBuf),
    WorkloadApi,
}

impl fmt::Display for ListOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document => f.write_str("the trust document"),
            Self::File(path) => path.display().fmt(f),
            Self::WorkloadApi => f.write_str("the SPIFFE Workload API"),
        }
    }
}

/// Reason why bytes are no list that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    #[error("a revocation list cannot be parsed")]
    Malformed,
    #[error("a revocation list holds {0}, which this program does not understand")]
    Kind(&'static str),
    #[error("none of its roots has signed a revocation list")]
    Unsigned,
    #[error("there are more than {MAX_REVOKED} certificates on a revocation list")]
    TooMany,
}

/// A serial number, without the zeros before it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes[zeros..].to_vec())
    }

    /// Of a certificate, DER; `None` when it is none.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let certificate = CertificateDer::from(certificate);
        leaf::parse(&certificate)
            .ok()
            .map(|parsed| Self::new(parsed.raw_serial()))
    }

    /// From hexadecimal digits, with or without colons; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()?;
        if digits.is_empty() || digits.len() > 2 * MAX_SERIAL_BYTES {
            return None;
        }
        let padded = [vec![0; digits.len() % 2], digits].concat();
        let bytes: Vec<u8> = padded.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        Some(Self::new(&bytes))
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Hexadecimal digits, two for each byte.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One list, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    pub place: ListOrigin,
    /// The issuer's name, for people.
    pub issuer: String,
    /// The list's number, in hexadecimal digits; counts up.
    pub number: Option<String>,
    /// Time at which the next one is due.
    pub next_update: Option<SystemTime>,
    pub serials: BTreeSet<Serial>,
    issuer_name: Vec<u8>,
    signed: Vec<u8>,
    signature: Vec<u8>,
}

impl List {
    /// Reads one list, DER. Whose signature it bears is told by [`List::is_signed_by`].
    ///
    /// # Errors
    /// When it is none, or one that may not be read alone.
    pub fn read(der: &[u8], place: ListOrigin) -> Result<Self, RevocationError> {
        let (rest, list) = x509_parser::parse_x509_crl(der).map_err(|_| RevocationError::Malformed)?;
        if !rest.is_empty() {
            return Err(RevocationError::Malformed);
        }
        check_kind(&list)?;
        if list.iter_revoked_certificates().count() > MAX_REVOKED {
            return Err(RevocationError::TooMany);
        }
        let serials = list
            .iter_revoked_certificates()
            .map(serial)
            .collect::<Result<_, _>>()?;
        let next_update = list
            .next_update()
            .and_then(|at| u64::try_from(at.timestamp()).ok());
        Ok(Self {
            place,
            issuer: list.issuer().to_string(),
            number: list.crl_number().map(|number| format!("{number:x}")),
            next_update: next_update.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
            serials,
            issuer_name: list.issuer().as_raw().to_vec(),
            signed: list.tbs_cert_list.as_ref().to_vec(),
            signature: list.signature_value.data.to_vec(),
        })
    }

    /// As [`List::read`]. One whose issuer is among the roots must bear that root's signature; of another issuer, which may be
    /// one between a root and a leaf, whoever gave the list is believed.
    pub(super) fn read_under(der: &[u8], place: ListOrigin, roots: &Roots) -> Result<Self, RevocationError> {
        let list = Self::read(der, place)?;
        let roots = || roots.values().map(|root| CertificateDer::from(root.as_slice()));
        let named = roots().any(|root| list.is_named_by(&root));
        match named && !roots().any(|root| list.is_signed_by(&root)) {
            true => Err(RevocationError::Unsigned),
            false => Ok(list),
        }
    }

    /// Tells whether `certificate` is its issuer's, and has signed it.
    #[must_use]
    pub(crate) fn is_signed_by(&self, certificate: &CertificateDer<'_>) -> bool {
        self.is_named_by(certificate) && signed_by(certificate, &self.signed, &self.signature)
    }

    fn is_named_by(&self, certificate: &CertificateDer<'_>) -> bool {
        leaf::parse(certificate).is_ok_and(|parsed| parsed.subject().as_raw() == self.issuer_name)
    }

    /// Tells whether a newer one should have come by `now`.
    #[must_use]
    pub fn is_overdue(&self, now: SystemTime) -> bool {
        self.next_update.is_some_and(|due| due < now)
    }
}

fn serial(revoked: &RevokedCertificate<'_>) -> Result<Serial, RevocationError> {
    let serial = revoked.raw_serial();
    match serial.len() <= MAX_SERIAL_BYTES {
        true => Ok(Serial::new(serial)),
        false => Err(RevocationError::Malformed),
    }
}

fn check_kind(list: &CertificateRevocationList<'_>) -> Result<(), RevocationError> {
    for extension in list.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::IssuingDistributionPoint(point) if point.indirect_crl => {
                return Err(RevocationError::Kind("certificates of other issuers"));
            }
            ParsedExtension::IssuingDistributionPoint(_)
            | ParsedExtension::CRLNumber(_)
            | ParsedExtension::AuthorityKeyIdentifier(_) => {}
            // Among them is the mark of a delta list (RFC 5280 §5.2.4).
            _ if extension.critical => {
                return Err(RevocationError::Kind("a critical extension"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Everything that was revoked: certificates by the name of the issuer, and names of holders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    lists: Vec<List>,
    by_issuer: BTreeMap<Vec<u8>, BTreeSet<Serial>>,
    /// Of this trust domain, and of no other.
    trust_domain: String,
    names: RevokedNames,
}

impl Revocations {
    pub(super) fn new(lists: impl IntoIterator<Item = List>) -> Self {
        let mut revocations = Self::default();
        for list in lists {
            let known = revocations.by_issuer.entry(list.issuer_name.clone()).or_default();
            known.extend(list.serials.iter().cloned());
            revocations.lists.push(list);
        }
        revocations
    }

    /// The same, and these names of a trust domain.
    pub(super) fn with_names(self, trust_domain: &str, names: RevokedNames) -> Self {
        Self {
            trust_domain: trust_domain.to_owned(),
            names,
            ..self
        }
    }

    #[must_use]
    pub fn lists(&self) -> &[List] {
        &self.lists
    }

    #[must_use]
    pub fn names(&self) -> &RevokedNames {
        &self.names
    }

    /// The first certificate of a chain (DER) that was revoked. The chain must have been verified.
    #[must_use]
    pub fn of(&self, chain: &[impl AsRef<[u8]>]) -> Option<Serial> {
        if self.by_issuer.is_empty() && self.names.is_empty() {
            return None;
        }
        chain.iter().find_map(|certificate| {
            let der = CertificateDer::from(certificate.as_ref());
            let parsed = leaf::parse(&der).ok()?;
            let serial = Serial::new(parsed.raw_serial());
            let listed = self.by_issuer.get(parsed.issuer().as_raw());
            let listed = listed.is_some_and(|listed| listed.contains(&serial));
            (listed || self.names_holder(&parsed)).then_some(serial)
        })
    }

    /// Tells whether the name that a certificate gives its holder was revoked.
    fn names_holder(&self, certificate: &X509Certificate<'_>) -> bool {
        if self.names.is_empty() {
            return false;
        }
        let id = leaf::only_uri(certificate).ok();
        let Some(id) = id.and_then(|uri| uri.parse::<CallerIdentity>().ok()) else {
            return false;
        };
        let begins = u64::try_from(certificate.validity().not_before.timestamp()).unwrap_or(0);
        let gateway = id.as_str().parse::<SpiffeId>().ok().map(|id| id.gateway);
        id.trust_domain() == self.trust_domain
            && id
                .zone()
                .is_some_and(|zone| self.names.covers(zone, gateway.as_ref(), begins))
    }
}
