//! Finds out who a local client is: which service's instance, or that nobody can tell.
//!
//! A client of another host is known by its address, if exactly one service is registered there. On this host an address
//! says nothing, since every program can use it: there the kernel says which user owns the client's socket, and the client
//! is the service whose registered instances listen as the same user. A client that showed a certificate has the identity in
//! it as well. What a caller may do is decided elsewhere (`permit`).

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use causeway_zone_sync::name::{CallerIdentity, ServiceName, Tags};

mod host;
mod index;
#[cfg(test)]
mod tests;

pub use host::{Host, Kernel, Sockets, UserId};
pub use index::Index;

use index::{Held, Holder, in_common};

use crate::{permit::Caller, snapshot::Snapshot};

/// Most instances of this host whose sockets are looked at for one client. A host that runs more is told apart by
/// addresses, or not at all.
const MAX_INSTANCES_LOOKED_AT: usize = 256;

/// How a caller was found, or why it is anonymous.
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
pub struct Found {
    pub caller: Arc<Caller>,
    pub how: How,
}

impl Found {
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

/// A client's socket and the virtual address that it connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub client: SocketAddr,
    pub local: SocketAddr,
}

type Named = Result<(How, ServiceName, Tags), How>;

/// Finds callers. Cheap to clone.
#[derive(Clone)]
pub struct Callers {
    host: Arc<dyn Host>,
}

impl Default for Callers {
    fn default() -> Self {
        Self::new(Kernel::default())
    }
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callers").finish_non_exhaustive()
    }
}

impl Callers {
    #[must_use]
    pub fn new(host: impl Host) -> Self {
        Self { host: Arc::new(host) }
    }

    /// Who the client of a connection is that was just accepted.
    #[must_use]
    pub fn find(&self, snapshot: &Snapshot, ends: Ends) -> Found {
        let client = ends.client.ip().to_canonical();
        let Some(own) = self.host.addresses() else {
            // Any address may be this host's own, and then it would name whoever uses it.
            return settle(snapshot, Err(How::UnknownOwner));
        };
        let named = if !is_on_host(client, &own) {
            by_address(&snapshot.callers, client)
        } else if snapshot.topology.names_callers() {
            self.by_owner(&snapshot.callers, ends, &own)
        } else {
            Err(How::NotAsked)
        };
        settle(snapshot, named)
    }

    /// Who the client of an open connection is now that the snapshot is another one. What the kernel said holds for as
    /// long as the service is registered on this host: an instance that restarts does not make its clients strangers. A
    /// certificate that was shown holds until it is not believed any more, which others look after.
    #[must_use]
    pub fn find_again(&self, snapshot: &Snapshot, ends: Ends, before: &Found) -> Found {
        let found = self.look_again(snapshot, ends, before);
        found.showing(before.caller.identity.as_ref())
    }

    fn look_again(&self, snapshot: &Snapshot, ends: Ends, before: &Found) -> Found {
        match (before.how, &before.caller.service) {
            (How::ByOwner, Some(service)) => {
                let tags = self.still_here(&snapshot.callers, service, &before.caller.tags);
                let named = tags.map(|tags| (How::ByOwner, service.clone(), tags));
                settle(snapshot, named.ok_or(How::NoInstance))
            }
            (How::UnknownOwner | How::NoInstance | How::SeveralServices | How::TooManyInstances, _) => {
                before.clone()
            }
            _ => self.find(snapshot, ends),
        }
    }

    /// The tags that a service of this host has now: those of `before` while any of its instances carries them.
    fn still_here(&self, index: &Index, service: &ServiceName, before: &Tags) -> Option<Tags> {
        let own = self.host.addresses()?;
        let held = index.on_host(&own).map(|(_, held)| held);
        let held: Vec<_> = held.filter(|held| held.service == *service).collect();
        if held.iter().any(|held| held.tags.matches(before)) {
            return Some(before.clone());
        }
        match in_common(held.into_iter()) {
            Holder::One(_, tags) => Some(tags),
            Holder::Nobody | Holder::Several => None,
        }
    }

    fn by_owner(&self, index: &Index, ends: Ends, own: &BTreeSet<IpAddr>) -> Named {
        let mut sockets = self.host.sockets().map_err(|error| {
            tracing::debug!(%error, "the kernel cannot be asked whose a socket is");
            How::UnknownOwner
        })?;
        let user = sockets.client(ends.client, ends.local).ok_or(How::UnknownOwner)?;
        let held: Vec<_> = index.on_host(own).take(MAX_INSTANCES_LOOKED_AT + 1).collect();
        if held.len() > MAX_INSTANCES_LOOKED_AT {
            return Err(How::TooManyInstances);
        }
        let owned: Vec<_> = held
            .into_iter()
            .filter(|(address, _)| sockets.listener(*address) == Some(user))
            .collect();
        among_owned(&owned, ends.client.ip().to_canonical())
    }
}

/// What the kernel's word that these instances are the client's user's comes to. A program that binds its clients to a
/// loopback address of its own (any but the two that the kernel chooses by itself) is told by it from others of the same user.
fn among_owned(owned: &[(SocketAddr, &Held)], client: IpAddr) -> Named {
    let usual = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    let chosen = client.is_loopback() && !usual.contains(&client);
    let exact = owned
        .iter()
        .filter(|(address, _)| chosen && address.ip() == client);
    let mut exact = exact.map(|(_, held)| *held).peekable();
    let holder = match exact.peek() {
        Some(_) => in_common(exact),
        None => in_common(owned.iter().map(|(_, held)| *held)),
    };
    match holder {
        Holder::One(service, tags) => Ok((How::ByOwner, service, tags)),
        Holder::Several => Err(How::SeveralServices),
        Holder::Nobody => Err(How::NoInstance),
    }
}

fn by_address(index: &Index, client: IpAddr) -> Named {
    match index.holder(client) {
        Holder::One(service, tags) => Ok((How::ByAddress, service, tags)),
        Holder::Several => Err(How::SharedAddress),
        Holder::Nobody => Err(How::UnknownAddress),
    }
}

fn is_on_host(client: IpAddr, own: &BTreeSet<IpAddr>) -> bool {
    client.is_loopback() || own.contains(&client)
}

fn settle(snapshot: &Snapshot, named: Named) -> Found {
    let zone = snapshot.zone.clone();
    let named = named.and_then(|(how, service, tags)| {
        let may_run = snapshot.topology.may_run(&service, &zone);
        may_run.then_some((how, service, tags)).ok_or(How::MayNotRunHere)
    });
    match named {
        Ok((how, service, tags)) => Found {
            caller: Arc::new(Caller::service(zone, service, tags)),
            how,
        },
        Err(how) => Found {
            caller: Arc::new(Caller::anonymous(zone)),
            how,
        },
    }
}
