//! Side from which an instance was put in, which says what its address means.

use serde::{Deserialize, Serialize};

/// Side from which an instance was put in. A loopback address means something else on every host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// Whoever put it in was on the gateway's own host, or wrote the topology. What older programs stored says nothing else.
    #[default]
    ThisHost,
    /// Somebody on the network, DNS, or a registry that several gateways share.
    Elsewhere,
}

impl Provenance {
    #[must_use]
    pub fn of_this_host(is_of_this_host: bool) -> Self {
        if is_of_this_host {
            Self::ThisHost
        } else {
            Self::Elsewhere
        }
    }

    /// For values that are stored without it.
    #[must_use]
    pub fn is_this_host(&self) -> bool {
        *self == Self::ThisHost
    }
}
