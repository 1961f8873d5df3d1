//! DNS names that a gateway's certificate carries beside its SPIFFE id, for clients that look at host names.

use std::{collections::BTreeSet, fmt, str::FromStr};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;

use super::leaf::{self, LeafError};

/// Most DNS names of one certificate.
pub(crate) const MAX_DNS_NAMES: usize = 16;
/// Longest name and longest label in bytes (RFC 1035 §2.3.4).
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;
/// Labels that have to follow a wildcard: with fewer no client takes the name, neither OpenSSL's nor browsers'.
const BELOW_WILDCARD: usize = 2;

/// Such as `gw1.west.acme.internal` or `*.mesh.acme.internal`; in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

/// Reason why a text is no DNS name for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsNameError {
    #[error(
        "a DNS name has at most {MAX_NAME_BYTES} bytes, and its labels 1 to {MAX_LABEL_BYTES} of a-z, 0-9 and `-`, which is neither first nor last"
    )]
    Form,
    #[error("a `*` stands for one whole label, the leftmost")]
    Wildcard,
    #[error(
        "no client takes a `*` before a single label; name each service (orders.mesh), or let the mesh domain have two labels (*.mesh.acme.internal)"
    )]
    ShortWildcard,
    #[error("an address is no DNS name")]
    Address,
    #[error("{0} DNS names are too many; a certificate has at most {MAX_DNS_NAMES}")]
    TooMany(usize),
}

impl DnsName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0
    }
}

impl TryFrom<String> for DnsName {
    type Error = DnsNameError;

    fn try_from(text: String) -> Result<Self, DnsNameError> {
        text.parse()
    }
}

impl FromStr for DnsName {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, DnsNameError> {
        let name = text.to_ascii_lowercase();
        if name.len() > MAX_NAME_BYTES {
            return Err(DnsNameError::Form);
        }
        let rest = match name.strip_prefix("*.") {
            Some(rest) if rest.split('.').count() < BELOW_WILDCARD => {
                return Err(DnsNameError::ShortWildcard);
            }
            Some(rest) => rest,
            None => name.as_str(),
        };
        if rest.contains('*') {
            return Err(DnsNameError::Wildcard);
        }
        if !rest.split('.').all(is_label) {
            return Err(DnsNameError::Form);
        }
        // Last labels of names are not numbers (RFC 3696 §2), so this is one of an address.
        if rest
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Err(DnsNameError::Address);
        }
        Ok(Self(name))
    }
}

fn is_label(label: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && label.bytes().all(allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Several for one certificate, each once.
///
/// # Errors
/// When they are too many.
pub fn dns_names(names: impl IntoIterator<Item = DnsName>) -> Result<Vec<DnsName>, DnsNameError> {
    let names: BTreeSet<DnsName> = names.into_iter().collect();
    match names.len() {
        0..=MAX_DNS_NAMES => Ok(names.into_iter().collect()),
        count => Err(DnsNameError::TooMany(count)),
    }
}

/// The DNS names of a certificate. What is there and is no name that would be certified is left out.
///
/// # Errors
/// When the certificate cannot be read.
pub fn dns_names_of(leaf: &CertificateDer<'_>) -> Result<Vec<DnsName>, LeafError> {
    let certificate = leaf::parse(leaf)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| LeafError::Malformed)?;
    let all = names.iter().flat_map(|extension| &extension.value.general_names);
    let names = all.filter_map(|name| match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        _ => None,
    });
    Ok(names.take(MAX_DNS_NAMES).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dns_names_have_a_form_and_wildcards_a_place() {
        for good in [
            "gw1.west.acme.internal",
            "orders.mesh",
            "localhost",
            "*.mesh.acme.internal",
            "Version-V2.orders.MESH",
            "xn--bcher-kva.example",
        ] {
            let name: DnsName = good.parse().unwrap();
            assert_eq!(name.as_str(), good.to_ascii_lowercase());
        }
        for (bad, why) in [
            ("", DnsNameError::Form),
            ("a..b", DnsNameError::Form),
            ("a.b.", DnsNameError::Form),
            ("-a.b", DnsNameError::Form),
            ("a_b.c", DnsNameError::Form),
            ("*", DnsNameError::Wildcard),
            ("*.mesh", DnsNameError::ShortWildcard),
            ("orders.*.mesh", DnsNameError::Wildcard),
            ("v*.orders.mesh", DnsNameError::Wildcard),
            ("*.*.acme.internal", DnsNameError::Wildcard),
            ("10.1.0.5", DnsNameError::Address),
        ] {
            assert_eq!(bad.parse::<DnsName>(), Err(why), "{bad}");
        }
        assert!(format!("{}.mesh", "a".repeat(64)).parse::<DnsName>().is_err());
        assert!(
            ["a.".repeat(127), "bb".to_owned()]
                .concat()
                .parse::<DnsName>()
                .is_err()
        );
    }

    #[test]
    fn a_certificate_has_each_name_once_and_not_too_many() {
        let names = |count: usize| (0..count).map(|number| format!("s{number}.mesh").parse().unwrap());
        assert_eq!(dns_names(names(16).chain(names(16))).unwrap().len(), 16);
        assert_eq!(dns_names(names(17)), Err(DnsNameError::TooMany(17)));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[a-z*.-]{0,20}|.{0,60}") {
            if let Ok(name) = text.parse::<DnsName>() {
                prop_assert!(rustls_pki_types::DnsName::try_from(name.as_str().replacen("*.", "w.", 1)).is_ok());
            }
        }
    }
}
