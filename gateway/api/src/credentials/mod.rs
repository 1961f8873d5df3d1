//! Credentials for this gateway's own APIs (admin, and registration over gRPC): who may use them, and how they prove
//! who they are.
//!
//! On a unix socket the kernel says who it is: the gateway's user and root may do everything, and nobody else anything. On
//! loopback, which every program of this host reaches, whoever comes may read, and shows a bearer token to change something.
//! Elsewhere the APIs speak TLS 1.3 with the gateway's identity, and a client shows a token or a certificate of the trust
//! roots. What either may do are [`Rights`]: a [`Scope`] over everything, or over single services. Who may call which service is another matter, and not decided here.

mod asked;
mod gate;
mod grant;
mod guard;
pub(crate) mod pace;
mod rights;
mod tls;
mod token;
mod token_file;

use std::{fmt, str::FromStr};

pub(crate) use asked::{AskedRight, AskingGateway, vouched_words};
pub(crate) use gate::ADMIN_API;
pub use gate::{AdmittedActor, Gate, ListenerProof, RequestedChange};
pub use grant::{Grant, GrantError};
pub(crate) use guard::bearer;
pub use guard::{Denied, Guard};
pub use rights::{MAX_SERVICES, RequiredRight, Rights, RightsError};
pub(crate) use tls::{AcceptError, Acceptor, ApiEntrance, HANDSHAKE_LIMIT, Secured};
pub use token::{MAX_NAME_BYTES, Token, TokenName, TokenNameError};
pub use token_file::{MAX_TOKENS, TokenEntry, TokenFile, TokenFileError, Tokens, issue, list, revoke};

/// Scope of what somebody may do. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// See everything that the APIs show, metrics included.
    Read,
    /// Register, renew and deregister instances.
    Register,
    /// Everything, applying a topology included.
    Write,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Read, Self::Register, Self::Write];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Register => "register",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Error of a text that is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a scope: read, register or write")]
pub struct ScopeError(String);

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let known = Self::ALL.into_iter().find(|scope| scope.word() == text);
        known.ok_or_else(|| ScopeError(text.chars().take(40).collect()))
    }
}
