//! Callers as the data path knows them: who a client was found to be and how, and which services are registered at which
//! address. Values only; the kernel and sockets are asked elsewhere.

use std::sync::Arc;

mod index;

pub use index::{Holder, Index, RegisteredAddress, in_common};

use causeway_federation::name::CallerIdentity;

use crate::permit::Caller;

/// Way in which a caller was found, or the reason that it is anonymous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// One service is registered at the client's address.
    ByAddress,
    /// The client's user runs the instances of one service on this host.
    ByOwner,
    /// Another zone speaks for it.
    Vouched,
    /// No rule of the topology asks who calls, so the kernel was not asked either.
    NotAsked,
    /// Nothing is registered at the client's address.
    UnknownAddress,
    /// Several services are registered at the client's address.
    SharedAddress,
    /// The kernel does not say whose the client's socket is.
    UnknownOwner,
    /// The client's user runs no instance on this host.
    NoInstance,
    /// The client's user runs instances of several services on this host.
    SeveralServices,
    /// More instances are on this host than are looked at.
    TooManyInstances,
    /// The service that it is may not run in this zone, which therefore must not speak for it.
    MayNotRunHere,
}

impl How {
    /// The word for logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ByAddress => "by_address",
            Self::ByOwner => "by_owner",
            Self::Vouched => "vouched",
            Self::NotAsked => "not_asked",
            Self::UnknownAddress => "unknown_address",
            Self::SharedAddress => "shared_address",
            Self::UnknownOwner => "unknown_owner",
            Self::NoInstance => "no_instance",
            Self::SeveralServices => "several_services",
            Self::TooManyInstances => "too_many_instances",
            Self::MayNotRunHere => "may_not_run_here",
        }
    }
}

/// A caller, and how its service was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundCaller {
    pub caller: Arc<Caller>,
    pub how: How,
}

impl FoundCaller {
    /// The same client, which showed a certificate with this identity, if any.
    #[must_use]
    pub fn showing(mut self, identity: Option<&CallerIdentity>) -> Self {
        if let Some(identity) = identity {
            Arc::make_mut(&mut self.caller).identity = Some(identity.clone());
        }
        self
    }

    /// The word for logs: how the caller is known.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match (self.how, &self.caller.identity) {
            (How::Vouched, _) | (_, None) => self.how.word(),
            (_, Some(_)) => "by_certificate",
        }
    }
}
