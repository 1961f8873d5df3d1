//! Connections to instances that one stream of HTTP/1.1 has given back and the next one is lent: so that a request finds one that is
//! open, and may go to any instance.
//!
//! Lent are they within one zone alone. The gateway that gives one back says that nothing of a request or an answer is left on it, which no
//! other zone has to believe.

use std::{
    collections::BTreeMap,
    mem::MaybeUninit,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::name::ServiceName;
use causeway_host::{descriptors::HeldDescriptor, own_sockets::OwnSocket, share::ShareHolder};
use causeway_routing::{
    balance::{LoadGuard, takes_traffic},
    snapshot::{Instance, Snapshots},
};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{dial::InstanceConnection, http::limits::WARM_KEEP_ALIVE};

/// Connections that are kept for one instance, of those that one data thread opened for one zone: what a burst leaves behind.
const MAX_FOR_INSTANCE: usize = 64;
/// Connections that are kept in all, each of which holds a descriptor.
const MAX_WARM: usize = 4096;
/// Pause between two looks at what is to be closed.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// Connections to instances that wait for a stream. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct WarmConnections {
    state: Arc<Mutex<WarmState>>,
    snapshots: Snapshots,
}

#[derive(Debug, Default)]
struct WarmState {
    /// Of each place, the one that was given back last at the end.
    waiting: BTreeMap<WarmPlace, Vec<WarmConnection>>,
    count: usize,
    /// A task looks after what waits.
    is_swept: bool,
    /// Nothing is kept any more.
    is_closed: bool,
}

/// Streams among which a connection may change hands, and where it leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WarmPlace {
    service: ServiceName,
    instance: String,
    /// Address that the instance is registered with.
    registered: SocketAddr,
    /// Address that the connection leads to: each port of an instance is a place of its own.
    address: SocketAddr,
    /// Party in whose name its descriptor is held.
    holder: ShareHolder,
    /// Gateways that what goes out on it has come through.
    hops: u8,
    /// Data thread whose runtime has the socket.
    thread: usize,
}

#[derive(Debug)]
struct WarmConnection {
    /// Before the socket, because it is to be given up first.
    own: OwnSocket,
    socket: TcpStream,
    held: HeldDescriptor,
    since: Instant,
}

/// Way of one stream to the connections that it may be lent, and give back.
#[derive(Debug, Clone)]
pub(crate) struct WarmAccess {
    pub(crate) warm: WarmConnections,
    pub(crate) holder: ShareHolder,
    pub(crate) hops: u8,
    pub(crate) thread: usize,
    /// One that another stream gave back will do.
    pub(crate) takes: bool,
}

impl WarmAccess {
    pub(crate) fn place(&self, instance: &Instance, address: SocketAddr) -> WarmPlace {
        WarmPlace {
            service: instance.service.clone(),
            instance: instance.id.clone(),
            registered: instance.address,
            address,
            holder: self.holder.clone(),
            hops: self.hops,
            thread: self.thread,
        }
    }

    /// Closes those that wait, so that others have their descriptors. Returns whether there were any.
    pub(crate) fn give_way(&self) -> bool {
        self.warm.give_way()
    }

    /// Takes a connection to `address`, where `instance` serves; `None`: none is there, or it is to have a new one.
    pub(crate) fn take(&self, instance: &Arc<Instance>, address: SocketAddr) -> Option<InstanceConnection> {
        if !self.takes {
            return None;
        }
        let WarmConnection {
            own, socket, held, ..
        } = self.warm.take(&self.place(instance, address), Instant::now())?;
        Some(InstanceConnection {
            own,
            socket,
            held,
            instance: instance.clone(),
            load: LoadGuard::new(instance.load.clone()),
            is_warm: true,
        })
    }
}

impl WarmConnections {
    pub(crate) fn new(snapshots: Snapshots) -> Self {
        Self {
            state: Arc::default(),
            snapshots,
        }
    }

    /// Takes out the one that was given back last, if that is still of use.
    fn take(&self, place: &WarmPlace, now: Instant) -> Option<WarmConnection> {
        let mut state = self.state.lock();
        loop {
            let waiting = state.waiting.get_mut(place)?;
            let taken = waiting.pop();
            if waiting.is_empty() {
                state.waiting.remove(place);
            }
            let taken = taken?;
            state.count -= 1;
            if taken.is_of_use(now) {
                return Some(taken);
            }
        }
    }

    /// Keeps a connection on which nothing is under way for the next stream, if there is room for it.
    pub(crate) fn give_back(
        &self,
        place: WarmPlace,
        own: OwnSocket,
        socket: TcpStream,
        held: HeldDescriptor,
    ) {
        let given = WarmConnection {
            own,
            socket,
            held,
            since: Instant::now(),
        };
        let mut state = self.state.lock();
        let waiting = state.waiting.get(&place).map_or(0, Vec::len);
        if state.is_closed || state.count >= MAX_WARM || waiting >= MAX_FOR_INSTANCE || !given.is_quiet() {
            return;
        }
        state.waiting.entry(place).or_default().push(given);
        state.count += 1;
        if !std::mem::replace(&mut state.is_swept, true) {
            tokio::spawn(self.clone().sweep_until_empty());
        }
    }

    /// Closes all that wait, to make room; others may be kept after them.
    fn give_way(&self) -> bool {
        let mut state = self.state.lock();
        state.count = 0;
        !std::mem::take(&mut state.waiting).is_empty()
    }

    /// Closes all that wait, and keeps none any more.
    pub(crate) fn close(&self) {
        self.state.lock().is_closed = true;
        self.give_way();
    }

    async fn sweep_until_empty(self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            if self.sweep(Instant::now()) {
                return;
            }
        }
    }

    /// Closes what has waited for too long, was closed by its instance, or leads to one that takes no traffic any more. Returns whether
    /// none is left.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        let snapshot = self.snapshots.load();
        let mut state = self.state.lock();
        state.waiting.retain(|place, waiting| {
            let list = snapshot.instances.get(&place.service);
            let serves = |instance: &Arc<Instance>| {
                instance.id == place.instance
                    && instance.address == place.registered
                    && takes_traffic(instance)
            };
            if !list.is_some_and(|list| list.iter().any(serves)) {
                return false;
            }
            waiting.retain(|one| one.is_of_use(now));
            !waiting.is_empty()
        });
        state.count = state.waiting.values().map(Vec::len).sum();
        state.is_swept = state.count > 0;
        !state.is_swept
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.state.lock().count
    }
}

impl WarmConnection {
    fn is_of_use(&self, now: Instant) -> bool {
        now.duration_since(self.since) < WARM_KEEP_ALIVE && self.is_quiet()
    }

    /// Tells whether nothing has come on it, not even its end. Asked of the kernel, because the runtime may not have heard of it yet.
    fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = SockRef::from(&self.socket).peek(&mut byte);
        peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}
