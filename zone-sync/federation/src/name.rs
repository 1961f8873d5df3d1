//! The names that a federation uses: zones, gateways, services and tags, each validated once and cheap to clone.
//!
//! Names are DNS labels (RFC 1123 §2.1), lower case, because every one of them appears in a mesh DNS name.

mod identity;
mod natural;
mod tags;

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

pub use identity::{CallerIdentity, SpiffeIdError};
pub use natural::natural_order;
pub use tags::Tags;

/// Longest DNS label in bytes (RFC 1035 §2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;
/// Longest name of a port in bytes (RFC 6335 §5.1).
const MAX_PORT_NAME_BYTES: usize = 15;
/// Most tags that one instance, export or selector may carry.
pub const MAX_TAGS: usize = 32;

/// Reason why a name was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name cannot be empty")]
    Empty,
    #[error("`{0}` is longer than {MAX_LABEL_BYTES} characters")]
    TooLong(String),
    #[error("`{0}` may hold only a-z, 0-9 and `-`, and must begin and end with a letter or digit")]
    BadCharacter(String),
    #[error("`{0}` is not the name of a port: 1 to 15 of a-z, 0-9 and single `-`, with a letter among them")]
    BadPortName(String),
}

fn check_label(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_LABEL_BYTES {
        return Err(NameError::TooLong(text.chars().take(80).collect()));
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !text.bytes().all(inner) || text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::BadCharacter(text.to_owned()));
    }
    Ok(())
}

/// Checks a service name of RFC 6335, 5.1, which is what stands behind the first underscore of an SRV name.
fn check_port_name(text: &str) -> Result<(), NameError> {
    let fits = text.len() <= MAX_PORT_NAME_BYTES && !text.contains("--");
    match check_label(text) {
        Ok(()) if fits && text.bytes().any(|byte| byte.is_ascii_lowercase()) => Ok(()),
        _ => Err(NameError::BadPortName(text.chars().take(80).collect())),
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// When `text` is not a lower-case DNS label, or not one of this kind.
            pub fn new(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

label!(
    /// One data center, cluster, site or cloud region.
    ZoneName,
    check_label
);
label!(
    /// One gateway process of a zone, unique within that zone.
    GatewayName,
    check_label
);
label!(
    /// Name that clients ask for: `orders` in `orders.mesh`.
    ServiceName,
    check_label
);
label!(
    /// A program that hands instances over to a zone's registry, such as `consul`.
    SourceName,
    check_label
);
label!(
    /// Port of a service: `admin` in `_admin._tcp.orders.mesh`.
    PortName,
    check_port_name
);

/// A gateway anywhere in the federation: `west/gw1`. Also the origin of a zone sync record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GatewayId {
    pub zone: ZoneName,
    pub gateway: GatewayName,
}

impl GatewayId {
    #[must_use]
    pub fn new(zone: ZoneName, gateway: GatewayName) -> Self {
        Self { zone, gateway }
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.zone, self.gateway)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_dns_labels() {
        assert!(ZoneName::new("eu-west-1").is_ok());
        for bad in ["", "-a", "a-", "East", "a.b", "a_b", &"x".repeat(64)] {
            assert!(ZoneName::new(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn names_of_ports_are_those_of_srv() {
        for good in ["http", "http2", "admin-api", "a", "9p", &"x".repeat(15)] {
            assert!(PortName::new(good).is_ok(), "{good} was refused");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "Http",
            "a.b",
            "_a",
            "a--b",
            "80",
            "8-0",
            &"x".repeat(16),
        ] {
            let error = PortName::new(bad).unwrap_err();
            assert!(matches!(error, NameError::BadPortName(_)), "{bad}");
        }
    }
}
