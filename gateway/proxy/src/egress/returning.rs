//! Clients that are another gateway's connections to its instances: asks the gateways at a client's address whether they have opened its
//! connection, and how many gateways it has come through, so that a loop which never goes through a tunnel ends at the same
//! number of gateways as any other. When it is asked is for `causeway_routing::suspicion` to say.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use causeway_federation::name::{GatewayId, ServiceName};
use causeway_host::own_sockets::SocketPair;
use causeway_proto::tunnel::{Opened, StreamHeader, stream_header::Kind};
use causeway_routing::suspicion::{Suspicions, is_reason};
use causeway_tunnel::{OPENED, TunnelSet, ask_for_documents, read_document};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::timeout};

use super::EgressShared;
use crate::dial::uptime;

/// Longest wait for the answers of all gateways. A client whose gateways are silent is taken for one.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Most gateways at one address that are asked about one client.
const MAX_ASKED: usize = 64;
/// Clients that it is asked about at once; others wait, within [`ASK_TIMEOUT`].
const MAX_CLIENTS: usize = 64;

/// Knowledge of clients that are gateways.
#[derive(Debug)]
pub(super) struct Returning {
    suspicions: Mutex<Suspicions>,
    /// Read at every connection, so that the lock is taken by few.
    has_found: AtomicBool,
    clients: Semaphore,
}

impl Default for Returning {
    fn default() -> Self {
        Self {
            suspicions: Mutex::default(),
            has_found: AtomicBool::new(false),
            clients: Semaphore::new(MAX_CLIENTS),
        }
    }
}

/// Way in which other gateways are asked about a client.
enum Asking {
    No,
    /// While the client is served: it is a suspicion, and most are wrong.
    Aside,
    /// Before the client is served: it is known that such clients come back.
    First,
}

impl Returning {
    fn asking(&self, service: &ServiceName, open: u64) -> Asking {
        let has_found = self.has_found.load(Ordering::Relaxed);
        if !has_found && !is_reason(open) {
            return Asking::No;
        }
        let (now, mut suspicions) = (uptime(), self.suspicions.lock());
        if has_found {
            self.has_found.store(suspicions.has_found(now), Ordering::Relaxed);
        }
        match suspicions.is_to_ask(now, service, open) {
            true if suspicions.is_found(now, service) => Asking::First,
            true => Asking::Aside,
            false => Asking::No,
        }
    }

    fn found(&self, service: &ServiceName) -> bool {
        let mut suspicions = self.suspicions.lock();
        let is_new = suspicions.found(uptime(), service);
        self.has_found.store(true, Ordering::Relaxed);
        is_new
    }
}

/// Number of gateways that a client's connection, which this process did not open, has come through. It is the `open`th of its
/// service that is under way.
pub(super) async fn hops(
    shared: &Arc<EgressShared>,
    client: SocketAddr,
    pair: SocketPair,
    service: &ServiceName,
    open: u64,
) -> u8 {
    let ask = || find_out(shared.clone(), client, pair, service.clone());
    match shared.returning.asking(service, open) {
        Asking::No => 0,
        Asking::Aside => {
            tokio::spawn(ask());
            0
        }
        Asking::First => ask().await,
    }
}

/// Asks the other gateways, and takes down that one of them has opened the client's connection.
async fn find_out(
    shared: Arc<EgressShared>,
    client: SocketAddr,
    pair: SocketPair,
    service: ServiceName,
) -> u8 {
    let asking = async {
        let _place = shared.returning.clients.acquire().await.ok()?;
        ask_all(&shared.tunnels, client, pair).await
    };
    let Ok(Some((gateway, hops))) = timeout(ASK_TIMEOUT, asking).await else {
        return 0;
    };
    if shared.returning.found(&service) {
        tracing::warn!(
            %service, %client, peer = %gateway, hops,
            "a client is another gateway's connection to an instance: what comes through too many gateways is refused"
        );
    }
    hops
}

/// Asks the gateways whose tunnels come from the client's address, until one has opened the connection.
async fn ask_all(tunnels: &Arc<TunnelSet>, client: SocketAddr, pair: SocketPair) -> Option<(GatewayId, u8)> {
    // None but those at the client's own address are believed, or a zone could have the clients of others refused.
    let all = tunnels.all().into_iter();
    let at_client = all.filter(|tunnel| is_one_host(tunnel.remote_address().ip(), client.ip()));
    let peers: BTreeSet<GatewayId> = at_client.map(|tunnel| tunnel.peer().clone()).collect();
    let asked: Vec<_> = peers
        .iter()
        .filter_map(|peer| tunnels.choose_for_control(peer))
        .filter(|tunnel| tunnel.capabilities().has(OPENED))
        .take(MAX_ASKED)
        .collect();
    let one = |peer: GatewayId| async move {
        let hops = ask_one(tunnels, &peer, pair).await?;
        Some((peer, hops))
    };
    let mut answers: FuturesUnordered<_> = asked.iter().map(|tunnel| one(tunnel.peer().clone())).collect();
    while let Some(answer) = answers.next().await {
        if answer.is_some() {
            return answer;
        }
    }
    None
}

fn is_one_host(a: IpAddr, b: IpAddr) -> bool {
    let (a, b) = (a.to_canonical(), b.to_canonical());
    a == b || (a.is_loopback() && b.is_loopback())
}

/// Asks one gateway; `None`: it did not open the connection, or does not say.
async fn ask_one(tunnels: &TunnelSet, peer: &GatewayId, pair: SocketPair) -> Option<u8> {
    let header = StreamHeader {
        kind: Some(Kind::Opened(Opened {
            client_sockets: pair.bits(),
        })),
    };
    let answered = match ask_for_documents(tunnels, peer, &header).await {
        Ok(mut recv) => read_document(&mut recv, 1).await,
        Err(error) => {
            tracing::debug!(%peer, %error, "a gateway does not say whether a client is its connection");
            return None;
        }
    };
    answered.ok()??.first().copied()
}
