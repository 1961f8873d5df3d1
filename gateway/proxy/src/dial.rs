//! Connects to an instance of this zone: picks one, and a second when it is late or refuses. Both roles use it: ingress for
//! other zones, egress for this one.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{
    name::{ServiceName, Tags},
    topology::Service,
};
use causeway_host::{
    descriptors::{Descriptors, HeldDescriptor, PromiseTicket, is_exhausted},
    listen::is_own_address,
    own_sockets::{OwnSocket, OwnSockets},
    share::{NoShare, ShareHolder},
};
use causeway_routing::{
    balance::{Choice, InstanceList, LoadGuard},
    failures::ConnectFailures,
    reach::{self, AddressRefusal},
    snapshot::{Instance, Snapshot},
    sticky::StickyKey,
};
use causeway_telemetry::StreamRefusal;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rand::rngs::SmallRng;
use tokio::net::{TcpSocket, TcpStream};

pub(crate) use causeway_host::uptime::uptime;

use crate::{ProxyMetrics, warm::WarmAccess};

/// Longest wait for one instance to accept. A SYN that was lost is sent again after 1 s, and once more 2 s later.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that an instance may take to accept before another one is tried too. Instances are in this zone, where it takes
/// milliseconds.
const HEDGE_AFTER: Duration = Duration::from_millis(150);
/// Most instances tried for one connection.
const MAX_INSTANCES_TRIED: usize = 3;
/// Most instances passed over for one connection because no instance may be where they are. They cost no time, and take no try from
/// those that can be connected to.
const MAX_PASSED_OVER: usize = 64;

/// A connection to an instance that has been given no byte yet.
#[derive(Debug)]
pub(crate) struct InstanceConnection {
    /// By which it is known again if it comes back; before the socket, because it is to be given up first.
    pub(crate) own: OwnSocket,
    pub(crate) socket: TcpStream,
    /// The socket's, for as long as it is open.
    pub(crate) held: HeldDescriptor,
    pub(crate) instance: Arc<Instance>,
    pub(crate) load: LoadGuard,
    /// Another stream has given it back.
    pub(crate) is_warm: bool,
}

/// Way of a connection up to this gateway, which goes along with what is opened for it.
#[derive(Debug, Clone)]
pub(crate) struct Passage {
    pub(crate) own: OwnSockets,
    /// Gateways that it has come through, this one with them.
    pub(crate) hops: u8,
    /// Descriptors that may be taken for it.
    pub(crate) descriptors: Descriptors,
    pub(crate) claim: DescriptorClaim,
    /// Numbers of the instances that it is not given to, because they have failed it already.
    pub(crate) besides: Vec<u64>,
    /// Decides which instance takes it, in the place of load and chance.
    pub(crate) key: Option<StickyKey>,
    /// Numbers of the instances that it is given to if there is no other.
    pub(crate) avoid: Vec<u64>,
    /// Port of an instance that it leads to; `None`: the one that the instance is registered with.
    pub(crate) port: Option<u16>,
    /// Connections that are open already; `None`: it is to have one of its own.
    pub(crate) warm: Option<WarmAccess>,
}

impl Passage {
    /// Address at which `instance` is connected to.
    pub(crate) fn address_of(&self, instance: &Instance) -> SocketAddr {
        let registered = instance.address;
        SocketAddr::new(registered.ip(), self.port.unwrap_or(registered.port()))
    }
}

/// Claim of a connection to descriptors for instances.
#[derive(Debug, Clone)]
pub(crate) struct DescriptorClaim {
    /// Party in whose name they are taken.
    pub(crate) holder: ShareHolder,
    /// One of them was promised.
    pub(crate) promised: Option<PromiseTicket>,
}

/// Failure to reach an instance.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("no descriptor may be taken for a connection to an instance: {0}")]
    NoDescriptor(NoShare),
    #[error("no healthy instance of {service} carries {tags}")]
    NoInstance { service: ServiceName, tags: Tags },
    #[error("connect to {tried} instances of {service}: the last is {instance}")]
    Connect {
        service: ServiceName,
        tried: usize,
        instance: String,
        #[source]
        source: io::Error,
    },
}

/// Word for want of a descriptor.
#[must_use]
pub(crate) fn no_descriptor(why: NoShare) -> StreamRefusal {
    match why {
        NoShare::NoneFree => StreamRefusal::NoDescriptors,
        NoShare::Crowded { .. } => StreamRefusal::Crowded,
    }
}

/// Connects to a healthy instance of `service` that carries `tags`, or to one that is ill where none is healthy and the service panics.
///
/// # Errors
/// When there is none, or none of those tried accepts.
pub(crate) async fn dial(
    snapshot: &Snapshot,
    service: &ServiceName,
    tags: &Tags,
    metrics: &ProxyMetrics,
    failures: &dyn ConnectFailures,
    passage: &Passage,
    rng: &mut SmallRng,
) -> Result<InstanceConnection, DialError> {
    let none = InstanceList::default();
    let list = snapshot.instances.get(service).unwrap_or(&none);
    let declared = snapshot.topology.services.get(service);
    let mut choice = Choice::new(list, tags)
        .with_panic(declared.is_some_and(Service::panics))
        .with_slow_start(declared.and_then(|service| service.slow_start))
        .keyed(passage.key)
        .besides(&passage.besides)
        .after(&passage.avoid);
    let mut connecting = FuturesUnordered::<BoxFuture<'_, Result<InstanceConnection, ConnectFailure>>>::new();
    let (mut tried, mut passed_over, mut last, mut has_descriptors) = (0, 0, None, true);
    loop {
        let next = (has_descriptors && tried < MAX_INSTANCES_TRIED && passed_over < MAX_PASSED_OVER)
            .then(|| choice.pick(uptime(), rng))
            .flatten();
        let exhausted = next.is_none();
        if let Some(instance) = next {
            let address = passage.address_of(instance);
            if let Err(refusal) = may_be_instance(snapshot, instance, address) {
                passed_over += 1;
                last = Some(pass_over(instance, address, refusal, metrics));
                continue;
            }
            let warm = passage.warm.as_ref();
            if let Some(warm) = warm.and_then(|warm| warm.take(instance, address)) {
                return Ok(warm);
            }
            tried += 1;
            match open_socket(address, passage) {
                Ok(socket) => connecting.push(Box::pin(connect(socket, instance, address, metrics, passage))),
                Err(none) if connecting.is_empty() => return Err(DialError::NoDescriptor(none)),
                // One that is under way may still answer.
                Err(_) => has_descriptors = false,
            }
        }
        // Without another instance there is nothing to do when those under way are late.
        let hedge = if exhausted {
            CONNECT_TIMEOUT + HEDGE_AFTER
        } else {
            HEDGE_AFTER
        };
        match tokio::time::timeout(hedge, connecting.next()).await {
            Ok(Some(Ok(dialled))) => return Ok(dialled),
            Ok(Some(Err(refused))) => {
                let (id, error) = (&refused.instance.id, &refused.error);
                tracing::debug!(%service, instance = id, %error, "an instance does not accept");
                // That another of its ports refuses says nothing of the one that is checked.
                if passage.address_of(&refused.instance) == refused.instance.address {
                    failures.report(service, id);
                }
                last = Some(refused);
            }
            Ok(None) => break,
            Err(_late) => {}
        }
    }
    Err(match last {
        Some(ConnectFailure { instance, error }) => DialError::Connect {
            service: service.clone(),
            tried: tried + passed_over,
            instance: instance.id.clone(),
            source: error,
        },
        None => DialError::NoInstance {
            service: service.clone(),
            tags: tags.clone(),
        },
    })
}

/// Checks once more what was checked when the instance was registered: the topology and the listeners may have changed, it may be another
/// port of it, and the topology's own instances were not asked.
fn may_be_instance(
    snapshot: &Snapshot,
    instance: &Instance,
    address: SocketAddr,
) -> Result<(), AddressRefusal> {
    let (topology, listeners) = (&snapshot.topology, &snapshot.listeners);
    reach::check(
        (address, instance.provenance),
        topology,
        &snapshot.zone,
        listeners,
        is_own_address,
    )
}

/// Writes down that an instance is not connected to at all.
fn pass_over(
    instance: &Arc<Instance>,
    address: SocketAddr,
    refusal: AddressRefusal,
    metrics: &ProxyMetrics,
) -> ConnectFailure {
    if address == instance.address {
        instance.load.refused(uptime());
    }
    let (service, id, word) = (&instance.service, &instance.id, refusal.word());
    metrics.instance_connect_failed(service.as_str(), Duration::ZERO);
    tracing::debug!(%service, instance = id, word, "an instance is not connected to: {refusal}");
    ConnectFailure {
        error: io::Error::other(refusal),
        instance: instance.clone(),
    }
}

/// An instance that did not accept.
struct ConnectFailure {
    instance: Arc<Instance>,
    error: io::Error,
}

/// Tells the balancer of an instance that was given up for a faster one: it took at least so long.
struct GivenUp<'a> {
    instance: &'a Instance,
    begun: Instant,
    settled: bool,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.instance.load.took(uptime(), self.begun.elapsed());
        }
    }
}

/// Socket that is to be connected, and its descriptor.
type HeldSocket = (TcpSocket, HeldDescriptor);

/// Opens a socket to connect to `address` with.
///
/// # Errors
/// There is no descriptor for it, which says nothing about the instance.
fn open_socket(address: SocketAddr, passage: &Passage) -> Result<io::Result<HeldSocket>, NoShare> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) if is_exhausted(&error) => return Err(NoShare::NoneFree),
        Err(error) => return Ok(Err(error)),
    };
    let DescriptorClaim { holder, promised } = &passage.claim;
    // The one that was promised serves one instance at a time.
    let as_promised = promised.as_ref().and_then(|ticket| ticket.take(&socket));
    let held = match as_promised {
        Some(held) => held,
        None => match passage.descriptors.hold(&socket, holder) {
            Err(_) if passage.warm.as_ref().is_some_and(WarmAccess::give_way) => {
                passage.descriptors.hold(&socket, holder)?
            }
            held => held?,
        },
    };
    Ok(Ok((socket, held)))
}

async fn connect(
    socket: io::Result<HeldSocket>,
    instance: &Arc<Instance>,
    address: SocketAddr,
    metrics: &ProxyMetrics,
    passage: &Passage,
) -> Result<InstanceConnection, ConnectFailure> {
    // Counted while it is being dialled, so that others do not crowd onto an instance that is slow to accept.
    let load = LoadGuard::new(instance.load.clone());
    let begun = Instant::now();
    let mut given_up = GivenUp {
        instance,
        begun,
        settled: address != instance.address,
    };
    let connecting = async {
        let (socket, held) = socket?;
        Ok::<_, io::Error>((socket.connect(address).await?, held))
    };
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
    let took = begun.elapsed();
    given_up.settled = true;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let service = instance.service.as_str();
    // What is known of the port that is checked is not for another one to say.
    let is_checked = address == instance.address;
    match &connected {
        Ok(_) => {
            if is_checked {
                instance.load.connected(uptime(), took);
            }
            metrics.instance_connected(service, took);
        }
        Err(_) => {
            if is_checked {
                instance.load.refused(uptime());
            }
            metrics.instance_connect_failed(service, took);
        }
    }
    // Entered at once, because whoever accepts it may be a gateway that asks this one.
    let entered = connected.and_then(|(socket, held)| {
        let own = passage.own.enter(&socket, passage.hops)?;
        socket.set_nodelay(true)?;
        Ok((own, socket, held))
    });
    let instance = instance.clone();
    match entered {
        Ok((own, socket, held)) => Ok(InstanceConnection {
            own,
            socket,
            held,
            instance,
            load,
            is_warm: false,
        }),
        Err(error) => Err(ConnectFailure { instance, error }),
    }
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
