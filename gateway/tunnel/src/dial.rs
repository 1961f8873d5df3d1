//! Dialling: data threads keep tunnels to every gateway entry of every other zone, as the topology has it now: one for each thread
//! whose turn it is, of which there are as many as there is work (see `demand`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use causeway_federation::{
    name::{GatewayId, ZoneName},
    topology::{GatewayAddresses, Topology},
};
use causeway_host::{backoff::reconnect, resolve::NameResolver};
use futures_util::{FutureExt, future::join_all};
use quinn::Endpoint;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::{
    greeting::{Fault, chain_of, hear_hello},
    halves::RecvHalf,
    race::{race, take_turns},
    refusal::{Close, Ended, Loss},
    renew,
    session::{self, Greeted},
    shared::{LogKind, Party, TunnelShared},
};

/// A tunnel that was up this long starts from the shortest waits again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);
/// Longest time that one address may take for the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between the starts at two addresses of one gateway.
const STAGGER: Duration = Duration::from_millis(100);
/// Longest time that one name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses of one gateway that are tried.
const MAX_ADDRESSES: usize = 16;
/// QUIC wants a server name; tunnels identify peers by SPIFFE id and send none.
const SERVER_NAME: &str = "gateway.causeway.invalid";

/// One gateway entry of another zone.
type Target = (ZoneName, GatewayAddresses);

/// Dials from one data thread.
pub(super) struct Dialler {
    pub(super) shared: Arc<TunnelShared>,
    pub(super) endpoint: Endpoint,
    pub(super) thread: usize,
}

/// Reason that one attempt came to nothing.
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

/// Change of a tunnel that was dialled, after which another is to be dialled.
#[derive(Debug, PartialEq, Eq)]
enum Served {
    Ended,
    /// An identity was renewed, or should have been: a new tunnel shall prove the new one.
    Superseded,
    /// Another process has taken the place of the peer's.
    Succeeded,
    /// Fewer tunnels do: it goes once nothing is open on it.
    Unneeded,
    /// Nothing is heard on it. It may come back, and is kept meanwhile with all that is open on it.
    Silent,
}

/// A tunnel that was dialled, in the care of a task of its own.
struct Dialled {
    peer: GatewayId,
    /// Number of the connection, as in [`super::Tunnel::id`].
    id: usize,
    /// Process of the peer that said hello.
    start: u64,
    up: Instant,
    task: JoinHandle<()>,
    /// Ends when this gateway's identity was renewed, or the peer's should have been.
    due: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

/// An attempt that won: the peer is who was dialled, and has accepted this side.
struct Won {
    connection: quinn::Connection,
    peer: causeway_identity::SpiffeId,
    control_recv: RecvHalf,
    hello: causeway_proto::tunnel::Hello,
}

/// Lists what should be dialled from `own` zone.
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
                let name = format!("tunnels to {} by data thread {}", target.0, dialler.thread);
                let keeping = keep(Arc::clone(&dialler), target.clone(), ended.clone());
                tokio::spawn(dialler.shared.config.tasks.guard(name, keeping));
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

/// Keeps one tunnel to one gateway entry while it is this thread's turn, until `ended`, or until this gateway drains and the
/// tunnel is gone. While nothing is heard on it a second one is dialled, which takes its place unless it is heard again first.
async fn keep(dialler: Arc<Dialler>, target: Target, ended: CancellationToken) {
    let shared = &dialler.shared;
    let rank = shared.demands.rank(dialler.thread, &target);
    let mut rng = SmallRng::from_os_rng();
    let mut attempt = 0;
    let mut dialled: Option<Dialled> = None;
    loop {
        let mut wait = Duration::ZERO;
        if let Some(mut tunnel) = dialled.take() {
            match tunnel.wait(shared, rank).await {
                Served::Unneeded => {
                    attempt = 0;
                    shared.set.retire(&tunnel.peer, tunnel.id);
                }
                Served::Silent => (attempt, dialled) = (0, Some(tunnel)),
                Served::Superseded | Served::Succeeded => attempt = 0,
                Served::Ended => {
                    if tunnel.up.elapsed() >= FORGIVEN_AFTER {
                        attempt = 0;
                    }
                    wait = reconnect(attempt, &mut rng);
                    attempt = attempt.saturating_add(1);
                }
            }
        }
        let dialling = async {
            if dialled.is_none() {
                shared.demands.until(&target.0, rank, true).await;
            }
            sleep(wait).await;
            dialler.dial(&target, dialled.as_ref()).await
        };
        let won = tokio::select! {
            () = ended.cancelled() => return,
            _ = shared.leaving() => return,
            () = heard(shared, dialled.as_ref()) => continue,
            won = dialling => won,
        };
        let begun = match won {
            Some(won) => dialler.begin(won, &ended).await,
            None => None,
        };
        if let Some(tunnel) = begun {
            if let Some(silent) = dialled.replace(tunnel) {
                shared.set.retire(&silent.peer, silent.id);
            }
            continue;
        }
        let wait = reconnect(attempt, &mut rng);
        attempt = attempt.saturating_add(1);
        tokio::select! {
            () = ended.cancelled() => return,
            _ = shared.leaving() => return,
            () = heard(shared, dialled.as_ref()) => {}
            () = sleep(wait) => {}
        }
    }
}

/// Waits until a tunnel that was silent is heard again; for ever, if it ends.
async fn heard(shared: &TunnelShared, silent: Option<&Dialled>) {
    match silent {
        Some(tunnel) => shared.set.until_stalled(&tunnel.peer, tunnel.id, false).await,
        None => std::future::pending().await,
    }
}

impl Dialled {
    /// Waits until another tunnel is to be dialled.
    async fn wait(&mut self, shared: &TunnelShared, rank: usize) -> Served {
        tokio::select! {
            biased;
            // A panic in the task was told where it happened.
            _ = &mut self.task => Served::Ended,
            () = &mut self.due => Served::Superseded,
            () = shared.set.until_succeeded(&self.peer, self.id) => Served::Succeeded,
            () = shared.set.until_stalled(&self.peer, self.id, true) => Served::Silent,
            () = shared.demands.until(&self.peer.zone, rank, false) => Served::Unneeded,
        }
    }
}

impl Dialler {
    /// One round over all addresses of the entry, resolved anew. Where the same process answers to which there is a tunnel that
    /// is `silent`, that one is given a moment: what was dialled is not needed if it is heard again.
    async fn dial(&self, target: &Target, silent: Option<&Dialled>) -> Option<Won> {
        let won = self.dial_all(target).await?;
        if silent.is_some_and(|silent| silent.start == won.hello.start_id) {
            sleep(self.shared.config.keep_alive).await;
        }
        Some(won)
    }

    async fn dial_all(&self, (zone, entry): &Target) -> Option<Won> {
        let addresses = take_turns(
            resolve(&self.shared.resolver, &entry.addresses).await,
            MAX_ADDRESSES,
        );
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

    /// Says hello, which makes the connection a tunnel for the peer, and has it served to its end.
    async fn begin(&self, won: Won, ended: &CancellationToken) -> Option<Dialled> {
        let connection = won.connection.clone();
        let chain = chain_of(&connection);
        let due = Box::pin(renew::due(&self.shared, &chain));
        let control_send = match self.shared.say_hello(&connection).await {
            Ok(control_send) => control_send,
            Err(fault) => {
                let party = Party::new(connection.remote_address(), &won.peer.gateway);
                self.shared.turn_away(&connection, fault, &party).await;
                return None;
            }
        };
        let (peer, start) = (won.peer.gateway.clone(), won.hello.start_id);
        let greeted = Greeted {
            connection: won.connection,
            peer: won.peer,
            hello: won.hello,
            control_send,
            control_recv: won.control_recv,
        };
        let serving = hold(Arc::clone(&self.shared), greeted, self.thread, ended.clone());
        Some(Dialled {
            peer,
            id: connection.stable_id(),
            start,
            up: Instant::now(),
            task: tokio::spawn(serving),
            due,
        })
    }

    fn unreachable(&self, zone: &ZoneName, addresses: &[String], why: &'static str) {
        self.shared.metrics.dial_failed(why);
        self.shared.last_word(zone.as_str(), None, why);
        if let Some(repeats) = self.shared.admit(LogKind::Unreachable(zone.clone())) {
            let addresses = addresses.join(", ");
            let hint = (why == Failure::TimedOut.word()).then_some(
                "is it running, is its UDP port open on the way, and do IP packets of 1,228 bytes pass?",
            );
            warn!(%zone, addresses, why, hint, repeats, "cannot reach a gateway; trying on");
        }
    }
}

/// Serves a dialled tunnel to its end, which comes at the latest when the topology no longer lists the gateway.
async fn hold(shared: Arc<TunnelShared>, greeted: Greeted, thread: usize, ended: CancellationToken) {
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
async fn resolve(resolver: &NameResolver, names: &[String]) -> Vec<SocketAddr> {
    let lookups = names.iter().map(|name| async move {
        match timeout(RESOLVE_TIMEOUT, resolver.resolve(name)).await {
            Ok(Ok(addresses)) => addresses.to_vec(),
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
