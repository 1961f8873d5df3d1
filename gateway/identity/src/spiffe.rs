//! SPIFFE ids of gateways (SPIFFE-ID §2): `spiffe://<trust domain>/zone/<zone>/gateway/<gateway>`.

use std::{fmt, str::FromStr};

use causeway_federation::name::{GatewayId, GatewayName, NameError, ZoneName};

/// Longest trust domain in bytes (SPIFFE-ID §2.1).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// Longest SPIFFE id in bytes (SPIFFE-ID §2.3).
const MAX_ID_BYTES: usize = 2048;
const SCHEME: &str = "spiffe://";
/// The path of the SPIFFE id of a process that serves a CA.
const CA_SERVER: &str = "/ca";

/// Identity of a gateway: who it is, and in which trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    pub trust_domain: String,
    pub gateway: GatewayId,
}

/// Reason why a text is not the SPIFFE id of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    #[error("`{0}` does not begin with `spiffe://`")]
    NotSpiffe(String),
    #[error("a SPIFFE id of {0} bytes is longer than {MAX_ID_BYTES}")]
    TooLong(usize),
    #[error("`{0}` is not a trust domain: 1 to {MAX_TRUST_DOMAIN_BYTES} of a-z, 0-9, `.`, `-` and `_`")]
    TrustDomain(String),
    #[error("`{0}` has not the form spiffe://<trust domain>/ca")]
    NotACaServer(String),
    #[error("`{0}` has not the form spiffe://<trust domain>/zone/<zone>/gateway/<gateway>")]
    Shape(String),
    #[error("a name in the SPIFFE id `{id}` is not valid")]
    Name {
        id: String,
        #[source]
        source: NameError,
    },
}

impl SpiffeId {
    #[must_use]
    pub fn new(trust_domain: &str, gateway: GatewayId) -> Self {
        Self {
            trust_domain: trust_domain.to_owned(),
            gateway,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GatewayId { zone, gateway } = &self.gateway;
        write!(f, "{SCHEME}{}/zone/{zone}/gateway/{gateway}", self.trust_domain)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(id: &str) -> Result<Self, SpiffeError> {
        if id.len() > MAX_ID_BYTES {
            return Err(SpiffeError::TooLong(id.len()));
        }
        let shape = || SpiffeError::Shape(id.to_owned());
        let rest = id
            .strip_prefix(SCHEME)
            .ok_or_else(|| SpiffeError::NotSpiffe(id.to_owned()))?;
        let mut parts = rest.split('/');
        let trust_domain = parts.next().unwrap_or_default();
        check_trust_domain(trust_domain)?;
        let path: Vec<&str> = parts.collect();
        let &["zone", zone, "gateway", gateway] = path.as_slice() else {
            return Err(shape());
        };
        let name = |source| SpiffeError::Name {
            id: id.to_owned(),
            source,
        };
        let zone = ZoneName::new(zone).map_err(name)?;
        let gateway = GatewayName::new(gateway).map_err(name)?;
        Ok(Self::new(trust_domain, GatewayId::new(zone, gateway)))
    }
}

/// # Errors
/// When `text` is not a trust domain name (SPIFFE-ID §2.1).
pub fn check_trust_domain(text: &str) -> Result<(), SpiffeError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if text.is_empty() || text.len() > MAX_TRUST_DOMAIN_BYTES || !text.bytes().all(allowed) {
        let shown = text.chars().take(80).collect();
        return Err(SpiffeError::TrustDomain(shown));
    }
    Ok(())
}

/// The trust domain that a CA's own SPIFFE id names: `spiffe://<trust domain>`, without a path.
pub(super) fn trust_domain_of_ca(id: &str) -> Result<String, SpiffeError> {
    let domain = id
        .strip_prefix(SCHEME)
        .ok_or_else(|| SpiffeError::NotSpiffe(id.chars().take(80).collect()))?;
    check_trust_domain(domain)?;
    Ok(domain.to_owned())
}

/// The trust domain whose CA a process serves that has this SPIFFE id: the reverse of [`ca_server_id`].
pub(super) fn trust_domain_of_ca_server(id: &str) -> Result<String, SpiffeError> {
    let ca = id
        .strip_suffix(CA_SERVER)
        .ok_or_else(|| SpiffeError::NotACaServer(id.chars().take(80).collect()))?;
    trust_domain_of_ca(ca)
}

/// The SPIFFE id of the process that serves a CA. It is no gateway's.
pub(super) fn ca_server_id(trust_domain: &str) -> String {
    format!("{SCHEME}{trust_domain}{CA_SERVER}")
}

/// The trust domain of any SPIFFE id that has a path (SPIFFE-ID §2.2): segments of letters, digits, `.`, `-` and `_`.
pub(super) fn trust_domain_of(id: &str) -> Result<String, SpiffeError> {
    if id.len() > MAX_ID_BYTES {
        return Err(SpiffeError::TooLong(id.len()));
    }
    let shown = || id.chars().take(80).collect();
    let rest = id
        .strip_prefix(SCHEME)
        .ok_or_else(|| SpiffeError::NotSpiffe(shown()))?;
    let (domain, path) = rest.split_once('/').ok_or_else(|| SpiffeError::Shape(shown()))?;
    check_trust_domain(domain)?;
    let good = |segment: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(allowed)
    };
    match path.split('/').all(good) {
        true => Ok(domain.to_owned()),
        false => Err(SpiffeError::Shape(shown())),
    }
}

/// The SPIFFE id of a CA of `trust_domain`.
pub(super) fn ca_id(trust_domain: &str) -> String {
    format!("{SCHEME}{trust_domain}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_exact_shape_is_a_gateway_id() {
        for bad in [
            "",
            "https://acme.internal/zone/east/gateway/gw1",
            "spiffe://acme.internal",
            "spiffe:///zone/east/gateway/gw1",
            "spiffe://ACME/zone/east/gateway/gw1",
            "spiffe://acme.internal:443/zone/east/gateway/gw1",
            "spiffe://acme.internal/zone/east",
            "spiffe://acme.internal/zone/east/gateway/",
            "spiffe://acme.internal/zone/East/gateway/gw1",
            "spiffe://acme.internal/zone/east/gateway/gw1/",
            "spiffe://acme.internal/zone/east/gateway/gw1?x",
            "spiffe://acme.internal/zone/east/gateway/gw%31",
            "spiffe://acme.internal/gateway/gw1/zone/east",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad} was accepted");
        }
    }

    proptest! {
        #[test]
        fn an_id_survives_the_round_trip(
            domain in "[a-z0-9._-]{1,40}", zone in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?", gateway in "[a-z0-9]{1,63}",
        ) {
            let names = GatewayId::new(zone.parse().unwrap(), gateway.parse().unwrap());
            let id = SpiffeId::new(&domain, names);
            prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,300}") {
            let _ = text.parse::<SpiffeId>();
        }
    }
}
