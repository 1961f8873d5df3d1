//! Sticky choice, as a topology declares it: what it is by which the requests of one user go to one instance.

use std::{fmt, time::Duration};

/// Mark by which requests, or connections, are kept together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// The gateway gives one to clients that have none.
    Cookie {
        name: String,
        /// Time that a client keeps one that it was given; `None`: until it ends.
        ttl: Option<Duration>,
        /// Path below which it sends it.
        path: String,
    },
    /// Lower case.
    Header(String),
    /// Service, and certificate if there is one; who is anonymous is told by its address.
    Caller,
}

impl Sticky {
    /// Tells whether it looks into requests.
    #[must_use]
    pub fn is_of_requests(&self) -> bool {
        !matches!(self, Self::Caller)
    }
}

/// `cookie session for 1h`, `header x-user`, `caller`.
impl fmt::Display for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie { name, ttl, path } => {
                write!(f, "cookie {name}")?;
                if let Some(ttl) = ttl {
                    write!(f, " for {}", humantime::format_duration(*ttl))?;
                }
                match path.as_str() {
                    "/" => Ok(()),
                    path => write!(f, " below {path}"),
                }
            }
            Self::Header(name) => write!(f, "header {name}"),
            Self::Caller => f.write_str("caller"),
        }
    }
}
