//! Reasons why a trust document is not taken.

use crate::edition::Edition;

/// Reason why a document is not taken. What is in force stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustRefusal {
    #[error(
        "the trust document of generation {edition} is of trust domain `{would_be}`, and this gateway of `{is}`"
    )]
    TrustDomain {
        edition: Edition,
        is: String,
        would_be: String,
    },
    #[error("no root that is trusted here has signed the trust document of generation {edition}")]
    Unsigned { edition: Edition },
    #[error("the trust document of generation {edition} cannot be used: {why}")]
    Unusable { edition: Edition, why: String },
    #[error("with the trust document of generation {edition} there would have been too many roots")]
    TooManyRoots { edition: Edition },
}

impl TrustRefusal {
    #[must_use]
    pub fn edition(&self) -> Edition {
        match self {
            Self::TrustDomain { edition, .. }
            | Self::Unsigned { edition }
            | Self::Unusable { edition, .. }
            | Self::TooManyRoots { edition } => *edition,
        }
    }

    /// A fixed word, for metrics and logs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::TrustDomain { .. } => "trust_domain",
            Self::Unsigned { .. } => "unsigned",
            Self::Unusable { .. } => "unusable",
            Self::TooManyRoots { .. } => "too_many_roots",
        }
    }

    /// Advice on what to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::TrustDomain { .. } => "use the CA of this federation",
            Self::Unsigned { .. } => {
                "put the root that signed it into ca.pem if it is to be trusted; if nobody here made it, find out who did"
            }
            Self::Unusable { .. } => "make it anew with this version of causeway",
            Self::TooManyRoots { .. } => {
                "take roots out of ca.pem that nobody needs, and restart with an empty trust.pb in the data folder"
            }
        }
    }
}
