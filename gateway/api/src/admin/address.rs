//! Addresses that the admin API may listen on, and why not on others.

use std::{fmt, io, net::SocketAddr, path::PathBuf, str::FromStr};

/// `127.0.0.1:7810`, or `unix:/run/causeway/admin.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Reason why the admin API could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("`{0}` is not an address for the admin API: give IP:PORT or unix:/PATH")]
    Address(String),
    #[error(
        "the admin API cannot listen on {0} without credentials for those who reach it: anybody could apply a topology"
    )]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {address} for the admin API")]
    Bind {
        address: AdminAddress,
        #[source]
        source: io::Error,
    },
    #[error("another process serves the admin API on {0}")]
    InUse(AdminAddress),
}

impl AdminError {
    /// Says what the operator can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Address(_) => "for example 127.0.0.1:7810, or unix:/run/causeway/admin.sock",
            Self::NotLoopback(_) => {
                "give it --admin-tokens FILE (see `causeway admin-token`) or --admin-allow SCOPE=SPIFFE-ID, listen on 127.0.0.1 or \
                 a unix socket, or pass --admin-insecure where only trusted hosts reach it"
            }
            Self::Bind { .. } => {
                "is the address this host's own, is the port free, does the socket's folder exist?"
            }
            Self::InUse(_) => "give each gateway of this host its own --admin address",
        }
    }
}

impl AdminAddress {
    /// Tells whether others than this host can reach it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self {
            Self::Tcp(address) => !address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => false,
        }
    }

    /// Refuses what anybody on the network could reach, unless `allowed`: clients have to prove who they are, or the
    /// operator meant it.
    pub(crate) fn check(&self, allowed: bool) -> Result<(), AdminError> {
        match self {
            Self::Tcp(address) if self.is_open() && !allowed => Err(AdminError::NotLoopback(*address)),
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
        }
    }
}

impl FromStr for AdminAddress {
    type Err = AdminError;

    fn from_str(text: &str) -> Result<Self, AdminError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(AdminError::Address(text.to_owned())),
            Some(path) => Ok(Self::Unix(path.into())),
            None => match text.parse() {
                Ok(address) => Ok(Self::Tcp(address)),
                Err(_) => Err(AdminError::Address(text.to_owned())),
            },
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_can_reach_is_refused_unless_it_is_meant() {
        for open in ["0.0.0.0:7810", "10.0.0.1:7810", "[::]:7810", "[2001:db8::1]:7810"] {
            let address: AdminAddress = open.parse().unwrap();
            assert!(
                matches!(address.check(false), Err(AdminError::NotLoopback(_))),
                "{open}"
            );
            assert!(address.check(true).is_ok());
        }
        for own in [
            "127.0.0.1:0",
            "127.1.2.3:1",
            "[::1]:7810",
            "[::ffff:127.0.0.1]:1",
            "unix:/tmp/a",
        ] {
            assert!(own.parse::<AdminAddress>().unwrap().check(false).is_ok(), "{own}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["", "unix:", "localhost", "127.0.0.1", "7810", ":7810"] {
            assert!(bad.parse::<AdminAddress>().is_err(), "{bad}");
        }
    }
}
