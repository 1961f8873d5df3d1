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

use causeway_federation::name::{ServiceName, Tags};
use causeway_host::{
    kernel::{Host, Kernel},
    share::ShareHolder,
    tasks::Tasks,
};
use causeway_routing::{
    callers::{FoundCaller, Holder, How, Index, RegisteredAddress, in_common},
    permit::Caller,
    snapshot::Snapshot,
};

mod kernel_thread;
#[cfg(test)]
mod tests;

use kernel_thread::KernelThread;

/// Most instances of this host whose sockets are looked at for one client. A host that runs more is told apart by
/// addresses, or not at all.
const MAX_INSTANCES_LOOKED_AT: usize = 256;

/// A client's socket and the virtual address that it connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
}

type NamedCaller = Result<(How, ServiceName, Tags), How>;

/// Finds callers. Cheap to clone.
#[derive(Clone)]
pub struct Callers {
    host: Arc<dyn Host>,
    /// Asks the kernel.
    kernel_thread: Arc<KernelThread>,
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
    pub(crate) fn new(host: impl Host) -> Self {
        Self {
            host: Arc::new(host),
            kernel_thread: Arc::default(),
        }
    }

    /// Asks this host's kernel. The thread for that is one of `tasks`.
    #[must_use]
    pub fn of_kernel(tasks: Tasks) -> Self {
        Self {
            kernel_thread: Arc::new(KernelThread::new(tasks)),
            ..Self::default()
        }
    }

    /// Finds out who the client of a connection is that was just accepted. Where the kernel must be asked, a thread for
    /// that does it, and this waits.
    pub(crate) async fn find(&self, snapshot: &Arc<Snapshot>, ends: Endpoints) -> FoundCaller {
        if let Some(named) = self.without_kernel(snapshot, ends) {
            return settle(snapshot, named);
        }
        let (host, known) = (self.host.clone(), snapshot.clone());
        let found = self
            .kernel_thread
            .run(move || look_up(&*host, &known, ends))
            .await;
        found.unwrap_or_else(|| settle(snapshot, Err(How::UnknownOwner)))
    }

    /// Finds out who asks again on a connection whose client was `before`; `None`: it has not asked yet.
    pub(crate) async fn find_next(
        &self,
        snapshot: &Arc<Snapshot>,
        ends: Endpoints,
        before: Option<&FoundCaller>,
    ) -> FoundCaller {
        match before {
            // The kernel has answered, and is not asked for every request.
            Some(before) if is_of_kernel(before.how) => self.find_again(snapshot, ends, before),
            _ => self.find(snapshot, ends).await,
        }
    }

    /// Names the party in whose name descriptors are taken for a client: its address, or where `few` are left and it is on this host,
    /// the user whom the kernel names, because any program can use any address here. That is one look-up, in this thread.
    #[must_use]
    pub(crate) fn holder(&self, ends: Endpoints, few: bool) -> ShareHolder {
        let client = ends.client.ip().to_canonical();
        let is_here =
            || client.is_loopback() || self.host.addresses().is_some_and(|own| own.contains(&client));
        let user = (few && is_here()).then(|| {
            let mut sockets = self.host.sockets().ok()?;
            sockets.client(ends.client, ends.local)
        });
        user.flatten()
            .map_or_else(|| ShareHolder::at(client), ShareHolder::User)
    }

    /// Says what can be said at once. `None`: the kernel is to be asked.
    fn without_kernel(&self, snapshot: &Snapshot, ends: Endpoints) -> Option<NamedCaller> {
        let client = ends.client.ip().to_canonical();
        if !is_on_host(client, &*self.host.known_addresses()?) {
            return Some(by_address(&snapshot.callers, client));
        }
        (!snapshot.topology.names_callers()).then_some(Err(How::NotAsked))
    }

    /// Finds out the same and asks the kernel in this thread, which it may block for a moment.
    #[must_use]
    pub(crate) fn look_up(&self, snapshot: &Snapshot, ends: Endpoints) -> FoundCaller {
        look_up(&*self.host, snapshot, ends)
    }

    /// Finds the client of an open connection now that the snapshot is another one. What the kernel said holds for as
    /// long as the service is registered on this host: an instance that restarts does not make its clients strangers. A
    /// certificate that was shown holds until it is not believed any more, which others look after.
    #[must_use]
    pub(crate) fn find_again(
        &self,
        snapshot: &Snapshot,
        ends: Endpoints,
        before: &FoundCaller,
    ) -> FoundCaller {
        let found = self.look_again(snapshot, ends, before);
        found.showing(before.caller.identity.as_ref())
    }

    fn look_again(&self, snapshot: &Snapshot, ends: Endpoints, before: &FoundCaller) -> FoundCaller {
        match (before.how, &before.caller.service) {
            (How::ByOwner, Some(service)) => {
                let tags = self.still_here(&snapshot.callers, service, &before.caller.tags);
                let named = tags.map(|tags| (How::ByOwner, service.clone(), tags));
                settle(snapshot, named.ok_or(How::NoInstance))
            }
            (How::UnknownOwner | How::NoInstance | How::SeveralServices | How::TooManyInstances, _) => {
                before.clone()
            }
            _ => self.look_up(snapshot, ends),
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
}

/// Tells whether the kernel was asked.
fn is_of_kernel(how: How) -> bool {
    matches!(
        how,
        How::ByOwner | How::UnknownOwner | How::NoInstance | How::SeveralServices | How::TooManyInstances
    )
}

/// Finds out who a client is, asking the kernel where it must be asked.
fn look_up(host: &dyn Host, snapshot: &Snapshot, ends: Endpoints) -> FoundCaller {
    let client = ends.client.ip().to_canonical();
    let Some(own) = host.addresses() else {
        // Any address may be this host's own, and then it would name whoever uses it.
        return settle(snapshot, Err(How::UnknownOwner));
    };
    let named = if !is_on_host(client, &own) {
        by_address(&snapshot.callers, client)
    } else if snapshot.topology.names_callers() {
        by_owner(host, &snapshot.callers, ends, &own)
    } else {
        Err(How::NotAsked)
    };
    settle(snapshot, named)
}

fn by_owner(host: &dyn Host, index: &Index, ends: Endpoints, own: &BTreeSet<IpAddr>) -> NamedCaller {
    let mut sockets = host.sockets().map_err(|error| {
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

/// Names the client, given the kernel's word that these instances are its user's. A program that binds its clients to a
/// loopback address of its own (any but the two that the kernel chooses by itself) is told by it from others of the same user.
fn among_owned(owned: &[(SocketAddr, &RegisteredAddress)], client: IpAddr) -> NamedCaller {
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

fn by_address(index: &Index, client: IpAddr) -> NamedCaller {
    match index.holder(client) {
        Holder::One(service, tags) => Ok((How::ByAddress, service, tags)),
        Holder::Several => Err(How::SharedAddress),
        Holder::Nobody => Err(How::UnknownAddress),
    }
}

fn is_on_host(client: IpAddr, own: &BTreeSet<IpAddr>) -> bool {
    client.is_loopback() || own.contains(&client)
}

fn settle(snapshot: &Snapshot, named: NamedCaller) -> FoundCaller {
    let zone = snapshot.zone.clone();
    let named = named.and_then(|(how, service, tags)| {
        let may_run = snapshot.topology.may_run(&service, &zone);
        may_run.then_some((how, service, tags)).ok_or(How::MayNotRunHere)
    });
    match named {
        Ok((how, service, tags)) => FoundCaller {
            caller: Arc::new(Caller::service(zone, service, tags)),
            how,
        },
        Err(how) => FoundCaller {
            caller: Arc::new(Caller::anonymous(zone)),
            how,
        },
    }
}
