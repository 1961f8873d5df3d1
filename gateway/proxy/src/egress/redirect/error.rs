//! Reasons why clients cannot be redirected, and what to do about each.

use std::{io, net::SocketAddr};

use ipnet::IpNet;

/// Most characters of what `nft` says that are shown.
const MAX_SHOWN: usize = 300;

/// Reason that clients are not redirected.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    #[error("the program `nft` is not there")]
    NoProgram,
    #[error("this process may not change what the host's kernel does with connections")]
    NotPermitted,
    #[error("cannot run `nft`")]
    Run(#[source] io::Error),
    #[error("`nft` refused the rules: {0}")]
    Refused(String),
    #[error("table {table} of another gateway on this host redirects {range} already")]
    Overlap { table: String, range: IpNet },
    #[error("cannot listen on {address}, where redirected clients are to arrive: {error}")]
    Listener {
        address: SocketAddr,
        error: String,
        advice: &'static str,
    },
}

impl RedirectError {
    /// Takes the first line of what `nft` said.
    pub(super) fn refused(said: &str) -> Self {
        let line = said
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("it says nothing");
        Self::Refused(line.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect())
    }

    /// Advice on what to do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::NoProgram => {
                "install the package nftables (`nft` is looked for in PATH, /usr/sbin and /sbin), or use `--capture listeners`".to_owned()
            }
            Self::NotPermitted => {
                "`--capture redirect` takes CAP_NET_ADMIN: give it to the gateway (`AmbientCapabilities=CAP_NET_ADMIN` in its unit, \
                 `NET_ADMIN` for a container), or use `--capture listeners`"
                    .to_owned()
            }
            Self::Run(_) | Self::Refused(_) => {
                "`--capture redirect` takes nftables 0.9.2 and Linux 5.2, with NAT for `inet` tables; else use `--capture listeners`".to_owned()
            }
            Self::Overlap { table, .. } => format!(
                "gateways of one host need different `vips`; if that gateway is gone for good: `nft delete table inet {table}`"
            ),
            Self::Listener { advice, .. } => (*advice).to_owned(),
        }
    }

    /// The error with its causes, in one line.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Run(source) => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}
