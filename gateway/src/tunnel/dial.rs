//! Dialling: each data thread keeps one tunnel to every gateway entry of every other zone, as the topology has it now.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use causeway_zone_sync::{
    name::ZoneName,
    topology::{GatewayAddresses, Topology},
};
use futures_util::{FutureExt, future::join_all};
use quinn::{Endpoint, RecvStream};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    net::lookup_host,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::{
    backoff::{FORGIVEN_AFTER, backoff},
    greeting::{Fault, hear_hello},
    race::{race, take_turns},
    refusal::{Close, Ended, Loss},
    session::{self, Greeted},
    shared::{Kind, Party, Shared},
};

/// How long one address may take for the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between the starts at two addresses of one gateway.
const STAGGER: Duration = Duration::from_millis(100);
/// How long one name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses of one gateway that are tried.
const MAX_ADDRESSES: usize = 16;
/// QUIC wants a server name; tunnels identify peers by SPIFFE id and send none.
const SERVER_NAME: &str = "gateway.causeway.invalid";

/// One gateway entry of another zone.
type Target = (ZoneName, GatewayAddresses);

/// Dials from one data thread.
pub(super) struct Dialler {
    pub(super) shared: Arc<Shared>,
    pub(super) endpoint: Endpoint,
    pub(super) thread: usize,
}

/// Why one attempt came to nothing.
#[derive(Debug)]
enum Failure {
    TimedOut,
    /// The peer or this side refused; that is told where it was found out.
    Refused,
    Lost(Loss),
    /// This host cannot dial the address.
    Undiallable,
    Closed,
}

impl Failure {
    fn word(&self) -> &'static str {
        match self {
            Self::TimedOut => "timeout",
            Self::Refused => "refused",
            Self::Lost(loss) => loss.word(),
            Self::Undiallable => "undiallable",
            Self::Closed => "closed",
        }
    }
}

/// What became of a tunnel that was dialled.
#[derive(Debug, PartialEq, Eq)]
enum Served {
    Ended,
    /// This gateway's identity was renewed: a new tunnel shall prove the new one.
    Superseded,
}

/// An attempt that won: the peer is who was dialled, and has accepted this side.
struct Won {
    connection: quinn::Connection,
    peer: crate::identity::SpiffeId,
    control_recv: RecvStream,
    hello: causeway_proto::tunnel::Hello,
}

/// What should be dialled from `own` zone.
fn targets(topology: &Topology, own: &ZoneName) -> BTreeSet<Target> {
    let others = topology.zones.iter().filter(|(zone, _)| *zone != own);
    others
        .flat_map(|(zone, declared)| {
            declared
                .gateways
                .iter()
                .map(|entry| (zone.clone(), entry.clone()))
        })
        .collect()
}

/// Follows the topology until `stop`: starts a keeper for each new entry and ends those of entries that went.
pub(super) async fn run(dialler: Arc<Dialler>, stop: CancellationToken) {
    let own = dialler.shared.own().zone.clone();
    let mut topology = dialler.shared.topology.clone();
    let mut keepers: BTreeMap<Target, DropGuard> = BTreeMap::new();
    loop {
        let wanted = targets(&topology.borrow_and_update(), &own);
        keepers.retain(|target, _| wanted.contains(target));
        for target in wanted {
            keepers.entry(target).or_insert_with_key(|target| {
                let ended = CancellationToken::new();
                tokio::spawn(keep(Arc::clone(&dialler), target.clone(), ended.clone()));
                ended.drop_guard()
            });
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = topology.changed() => if changed.is_err() {
                return stop.cancelled().await;
            },
        }
    }
}

/// Keeps one tunnel to one gateway entry until `ended`, or until this gateway drains and the tunnel is gone.
async fn keep(dialler: Arc<Dialler>, target: Target, ended: CancellationToken) {
    let shared = &dialler.shared;
    let mut rng = SmallRng::from_os_rng();
    let mut attempt = 0;
    loop {
        let won = tokio::select! {
            () = ended.cancelled() => return,
            _ = shared.draining() => return,
            won = dialler.dial(&target) => won,
        };
        if let Some(won) = won {
            let up = Instant::now();
            if dialler.serve(won, &ended).await == Served::Superseded {
                attempt = 0;
                continue;
            }
            if up.elapsed() >= FORGIVEN_AFTER {
                attempt = 0;
            }
        }
        let wait = backoff(attempt, &mut rng);
        attempt = attempt.saturating_add(1);
        tokio::select! {
            () = ended.cancelled() => return,
            _ = shared.draining() => return,
            () = sleep(wait) => {}
        }
    }
}

impl Dialler {
    /// One round over all addresses of the entry, resolved anew.
    async fn dial(&self, (zone, entry): &Target) -> Option<Won> {
        let addresses = take_turns(resolve(&entry.addresses).await, MAX_ADDRESSES);
        if addresses.is_empty() {
            self.unreachable(zone, &entry.addresses, "resolve");
            return None;
        }
        let raced = race(addresses, STAGGER, |address| {
            self.attempt(address, zone)
                .inspect(move |result| {
                    if let Err(failure) = result {
                        debug!(%zone, %address, ?failure, "an attempt to reach a gateway failed");
                    }
                })
                .boxed()
        });
        match raced.await {
            Ok(won) => Some(won),
            Err(failures) => {
                for (_, failure) in failures {
                    if !matches!(failure, Failure::Refused | Failure::Closed) {
                        self.unreachable(zone, &entry.addresses, failure.word());
                    }
                }
                None
            }
        }
    }

    /// Handshake, identity and the peer's hello, at one address. Dropping it closes the connection.
    async fn attempt(&self, address: SocketAddr, zone: &ZoneName) -> Result<Won, Failure> {
        let party = Party::new(address, zone);
        let config = quinn::ClientConfig::clone(&self.shared.client.load());
        let connecting = self
            .endpoint
            .connect_with(config, address, SERVER_NAME)
            .map_err(|error| {
                debug!(%zone, %address, %error, "an address cannot be dialled");
                Failure::Undiallable
            })?;
        let connection = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(self.failed(&Ended::of(&error), &party)),
            Err(_) => return Err(Failure::TimedOut),
        };
        let greeted = async {
            let peer = self.shared.admit_peer(&connection, Some(zone))?;
            Ok((peer, hear_hello(&connection).await?))
        };
        match greeted.await {
            Ok((peer, (control_recv, hello))) => Ok(Won {
                connection,
                peer,
                control_recv,
                hello,
            }),
            Err(Fault::Lost(error)) => Err(self.failed(&Ended::of(&error), &party)),
            Err(fault) => {
                self.shared.turn_away(&connection, fault, &party).await;
                Err(Failure::Refused)
            }
        }
    }

    fn failed(&self, ended: &Ended, party: &Party) -> Failure {
        self.shared.never_up(ended, party);
        match ended {
            Ended::Lost(Loss::TimedOut) => Failure::TimedOut,
            Ended::Lost(loss) => Failure::Lost(*loss),
            Ended::Refused { .. } => Failure::Refused,
            Ended::Closed { .. } => Failure::Closed,
        }
    }

    /// Says hello, which makes the connection a tunnel for the peer, and serves it until it ends or another is to take
    /// its place; it then goes on by itself for as long as it carries streams.
    async fn serve(&self, won: Won, ended: &CancellationToken) -> Served {
        let connection = won.connection.clone();
        let mut renewals = self.shared.renewals.subscribe();
        let control_send = match self.shared.say_hello(&connection).await {
            Ok(control_send) => control_send,
            Err(fault) => {
                let party = Party::new(connection.remote_address(), &won.peer.gateway);
                self.shared.turn_away(&connection, fault, &party).await;
                return Served::Ended;
            }
        };
        let greeted = Greeted {
            connection: won.connection,
            peer: won.peer,
            hello: won.hello,
            control_send,
            control_recv: won.control_recv,
        };
        let serving = hold(Arc::clone(&self.shared), greeted, self.thread, ended.clone());
        let serving = tokio::spawn(serving);
        tokio::select! {
            _ = serving => Served::Ended,
            Ok(()) = renewals.changed() => Served::Superseded,
        }
    }

    fn unreachable(&self, zone: &ZoneName, addresses: &[String], why: &'static str) {
        self.shared.metrics.dial_failed(why);
        if let Some(repeats) = self.shared.admit(Kind::Unreachable(zone.clone())) {
            let addresses = addresses.join(", ");
            warn!(%zone, addresses, why, repeats, "cannot reach a gateway; trying on");
        }
    }
}

/// Serves a dialled tunnel to its end, which comes at the latest when the topology no longer lists the gateway.
async fn hold(shared: Arc<Shared>, greeted: Greeted, thread: usize, ended: CancellationToken) {
    let connection = greeted.connection.clone();
    let mut session = std::pin::pin!(session::run(&shared, greeted, thread, true));
    tokio::select! {
        () = &mut session => {}
        () = ended.cancelled() => {
            connection.close(Close::UNNEEDED.code(), b"the topology no longer lists this gateway");
            session.await;
        }
    }
}

/// All addresses of all names, in order; names that do not resolve in time are passed over.
async fn resolve(names: &[String]) -> Vec<SocketAddr> {
    let lookups = names.iter().map(|name| async move {
        match timeout(RESOLVE_TIMEOUT, lookup_host(name.as_str())).await {
            Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
            Ok(Err(error)) => {
                debug!(name, %error, "a gateway's name does not resolve");
                Vec::new()
            }
            Err(_) => {
                debug!(name, "a gateway's name does not resolve in time");
                Vec::new()
            }
        }
    });
    join_all(lookups).await.concat()
}
