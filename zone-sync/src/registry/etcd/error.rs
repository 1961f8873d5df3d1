//! Reasons why etcd could not be asked, and what is known of a write then.

use tonic::{Code, Status};

use super::client::MAX_ENDPOINTS;

/// Name of the call that changes something, for errors.
pub(super) const WRITE: &str = "write";

/// Reason why etcd could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("`{0}` is not an address of etcd; it must read http://HOST:PORT")]
    Address(String),
    #[error("between 1 and {MAX_ENDPOINTS} addresses of etcd must be given, and there are {0}")]
    Endpoints(usize),
    #[error("no member of etcd answered in time to {what}")]
    Unreachable {
        what: &'static str,
        #[source]
        source: Status,
    },
    #[error("etcd refused to {what}")]
    Refused {
        what: &'static str,
        /// No member was asked before, which may have done it.
        is_first: bool,
        #[source]
        source: Status,
    },
}

impl EtcdError {
    /// Tells whether the lease that was named does not exist (any more).
    #[must_use]
    pub(crate) fn is_lost_lease(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.code() == Code::NotFound)
    }

    /// Tells whether no write was done, for certain.
    #[must_use]
    pub(crate) fn is_untouched(&self) -> bool {
        match self {
            Self::Refused { is_first: true, .. } | Self::Address(_) | Self::Endpoints(_) => true,
            Self::Refused { what, .. } | Self::Unreachable { what, .. } => *what != WRITE,
        }
    }

    /// The same of a request that was tried before, which may have been done.
    #[must_use]
    pub(super) fn after_another(self) -> Self {
        match self {
            Self::Refused { what, source, .. } => Self::Refused {
                what,
                is_first: false,
                source,
            },
            other => other,
        }
    }

    /// Words of the member.
    #[must_use]
    pub fn cause(&self) -> String {
        let source = std::error::Error::source(self);
        source.map(ToString::to_string).unwrap_or_default()
    }
}
