//! SPIFFE ids of callers: `spiffe://<trust domain>/<path>`, as a client's certificate carries one.
//!
//! Gateways have ids of a fixed shape, which the gateway's own identity module reads; here any path will do.

use std::{fmt, str::FromStr, sync::Arc};

use super::ZoneName;

/// Longest SPIFFE id in bytes that a caller may have. The specification allows 2,048 (SPIFFE-ID §2.3); a stream header
/// has to hold it beside everything else.
pub(crate) const MAX_IDENTITY_BYTES: usize = 1024;
const SCHEME: &str = "spiffe://";

/// Reason why a text is not a SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error("it does not begin with `spiffe://`")]
    Scheme,
    #[error("it has {0} bytes; at most {MAX_IDENTITY_BYTES} are allowed")]
    TooLong(usize),
    #[error("its trust domain is not of a-z, 0-9, `.`, `-` and `_`")]
    TrustDomain,
    #[error("its path needs segments of a-z, A-Z, 0-9, `.`, `-` and `_`, none of them empty, `.` or `..`")]
    Path,
}

/// Identity of a caller by its own certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerIdentity(Arc<str>);

impl CallerIdentity {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn trust_domain(&self) -> &str {
        let rest = &self.0[SCHEME.len()..];
        rest.split_once('/').map_or(rest, |(domain, _)| domain)
    }

    /// The zone that the path names: `/zone/<zone>` and whatever follows.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        let (_, path) = self.0[SCHEME.len()..].split_once('/')?;
        let mut segments = path.split('/');
        (segments.next() == Some("zone")).then(|| segments.next())?
    }

    /// Tells whether its path names `zone`, or none.
    #[must_use]
    pub fn names_no_zone_but(&self, zone: &ZoneName) -> bool {
        self.zone().is_none_or(|named| named == zone.as_str())
    }
}

impl fmt::Display for CallerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CallerIdentity {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_IDENTITY_BYTES {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if domain.is_empty() || !domain.bytes().all(lower) {
            return Err(SpiffeIdError::TrustDomain);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let good = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed);
        if path.is_some_and(|path| !path.split('/').all(good)) {
            return Err(SpiffeIdError::Path);
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_identity_says_its_trust_domain_and_the_zone_that_its_path_names() {
        let zone = |name: &str| ZoneName::new(name).unwrap();
        let east: CallerIdentity = "spiffe://acme.internal/zone/east/app/web".parse().unwrap();
        assert_eq!(
            (east.trust_domain(), east.zone()),
            ("acme.internal", Some("east"))
        );
        assert!(east.names_no_zone_but(&zone("east")));
        assert!(!east.names_no_zone_but(&zone("west")));
        let anywhere: CallerIdentity = "spiffe://acme.internal/ns/shop/sa/web".parse().unwrap();
        assert!(anywhere.names_no_zone_but(&zone("west")));
    }

    #[test]
    fn only_spiffe_ids_are_identities() {
        for bad in [
            "",
            "web",
            "https://acme.internal/web",
            "spiffe://",
            "spiffe:///web",
            "spiffe://ACME/web",
            "spiffe://acme.internal/",
            "spiffe://acme.internal//web",
            "spiffe://acme.internal/../web",
            "spiffe://acme.internal/web?x",
            "spiffe://acme.internal/w eb",
        ] {
            assert!(bad.parse::<CallerIdentity>().is_err(), "{bad} was accepted");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(spiffe://)?[a-z./*_-]{0,40}|.{0,60}") {
            if let Ok(identity) = text.parse::<CallerIdentity>() {
                prop_assert_eq!(identity.as_str(), text.as_str());
                prop_assert!(!identity.trust_domain().is_empty());
                let _ = identity.zone();
            }
        }
    }
}
