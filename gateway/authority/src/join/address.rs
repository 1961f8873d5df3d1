//! Address at which a CA is served, as people write it: `HOST`, `HOST:PORT`, `[V6]:PORT`.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::protocol::DEFAULT_PORT;

/// Longest host in bytes (RFC 1035 §2.3.4).
const MAX_HOST_BYTES: usize = 253;

/// A host and a port; a name is resolved when it is used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CaAddress {
    pub host: String,
    pub port: u16,
}

/// Text that is no address of a CA.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address: give HOST, HOST:PORT or [IPV6]:PORT")]
pub struct CaAddressError(String);

impl FromStr for CaAddress {
    type Err = CaAddressError;

    fn from_str(text: &str) -> Result<Self, CaAddressError> {
        let bad = || CaAddressError(text.chars().take(80).collect());
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) if host.parse::<Ipv6Addr>().is_ok() => {
                (host, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
            }
            Some(_) => return Err(bad()),
            None if text.parse::<Ipv6Addr>().is_ok() => (text, Some("")),
            None => match text.split_once(':') {
                Some((host, port)) if !port.is_empty() => (host, Some(port)),
                Some(_) => return Err(bad()),
                None => (text, Some("")),
            },
        };
        let port = match port {
            Some("") => DEFAULT_PORT,
            Some(port) => port.parse().map_err(|_| bad())?,
            None => return Err(bad()),
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || host.len() > MAX_HOST_BYTES || !host.bytes().all(allowed) || port == 0 {
            return Err(bad());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl TryFrom<String> for CaAddress {
    type Error = CaAddressError;

    fn try_from(text: String) -> Result<Self, CaAddressError> {
        text.parse()
    }
}

impl From<CaAddress> for String {
    fn from(address: CaAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for CaAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_have_the_usual_port_unless_they_say_another() {
        for (text, shown) in [
            ("ca.acme.internal", "ca.acme.internal:7830"),
            ("10.0.0.1:9", "10.0.0.1:9"),
            ("[::1]:9", "[::1]:9"),
            ("[::1]", "[::1]:7830"),
            ("fd00::1", "[fd00::1]:7830"),
        ] {
            assert_eq!(text.parse::<CaAddress>().unwrap().to_string(), shown);
        }
        for bad in [
            "", ":7830", "ca:", "ca:x", "ca:0", "ca:99999", "[::1", "[ca]:1", "a b", "a:1:2", "[::1]x",
        ] {
            assert!(bad.parse::<CaAddress>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_address_survives_the_round_trip(host in "[a-z][a-z0-9.-]{0,30}", port in 1u16..) {
            let address = CaAddress { host, port };
            prop_assert_eq!(address.to_string().parse::<CaAddress>().unwrap(), address);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,80}") {
            let _ = text.parse::<CaAddress>();
        }
    }
}
