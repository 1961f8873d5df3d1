//! What every task of a gateway's tunnels shares, and how they tell the operator what was refused.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use causeway_zone_sync::{
    name::{GatewayId, ZoneName},
    topology::Topology,
};
use parking_lot::Mutex;
use quinn::ClientConfig;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{
    StreamHandler, Tunnel, TunnelConfig, TunnelSet,
    quiet::Quiet,
    refusal::{Ended, Refusal},
};
use crate::{
    identity::SpiffeId,
    telemetry::{Metrics, Side},
};

pub(super) struct Shared {
    pub(super) config: TunnelConfig,
    /// Made of the identity in use; see `renew`.
    pub(super) client: ArcSwap<ClientConfig>,
    /// Counts the identities that were taken up since the start.
    pub(super) renewals: watch::Sender<u64>,
    pub(super) set: Arc<TunnelSet>,
    pub(super) handler: Arc<dyn StreamHandler>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) topology: watch::Receiver<Arc<Topology>>,
    /// How long peers are told that streams under way may take, once this gateway drains.
    pub(super) drain: watch::Receiver<Option<Duration>>,
    /// Random per process start.
    pub(super) start_id: u64,
    pub(super) quiet: Mutex<Quiet<Kind>>,
}

/// What log lines are held back by; see [`Quiet`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Refused {
        address: IpAddr,
        refusal: Refusal,
        here: bool,
    },
    Unreachable(ZoneName),
    Stream(GatewayId, &'static str),
}

/// The other side of a connection, as far as it is known.
#[derive(Debug, Clone)]
pub(super) struct Party {
    pub(super) address: SocketAddr,
    /// The gateway that the peer proved to be, or the zone that was dialled.
    pub(super) name: String,
}

impl Party {
    pub(super) fn new(address: SocketAddr, name: impl ToString) -> Self {
        let ip = address.ip().to_canonical();
        Self {
            address: SocketAddr::new(ip, address.port()),
            name: name.to_string(),
        }
    }
}

impl Shared {
    pub(super) fn own(&self) -> &GatewayId {
        self.config.identity.gateway()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain.borrow().is_some()
    }

    /// Waits until this gateway drains; says how long streams under way may take.
    pub(super) async fn draining(&self) -> Duration {
        let mut drain = self.drain.clone();
        let begun = drain
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|within| *within);
        match begun {
            Some(within) => within,
            // Nobody is left who could ask for it.
            None => std::future::pending().await,
        }
    }

    /// Waits until the zone of a peer is no longer in the topology, or there it is of another trust domain than the peer.
    pub(super) async fn zone_left(&self, peer: &SpiffeId) {
        let zone = &peer.gateway.zone;
        let mut topology = self.topology.clone();
        if topology
            .wait_for(|now| !now.zones.contains_key(zone) || now.trust_domain_of(zone) != peer.trust_domain)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the topology demands what `tunnel` was not agreed with: a post-quantum key exchange.
    pub(super) async fn too_weak(&self, tunnel: &Tunnel) {
        if tunnel.is_post_quantum() {
            return std::future::pending().await;
        }
        let mut topology = self.topology.clone();
        if topology
            .wait_for(|now| now.tls.require_post_quantum)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// Counts and logs that a tunnel was refused.
    pub(super) fn refused(&self, by: Side, refusal: Refusal, party: &Party, detail: &str) {
        self.metrics.tunnel_refused(by, refusal.word());
        if (by, refusal) == (Side::Local, Refusal::Garbage) {
            self.metrics.peer_broke_protocol(refusal.word());
        }
        let kind = Kind::Refused {
            address: party.address.ip(),
            refusal,
            here: by == Side::Local,
        };
        let Some(repeats) = self.admit(kind) else {
            return;
        };
        let message = match by {
            Side::Local => "refused a tunnel",
            Side::Peer => "the peer refused a tunnel",
        };
        warn!(
            gateway = %self.own(),
            reason = refusal.word(),
            peer = %party.name,
            address = %party.address,
            detail,
            hint = refusal.hint(),
            repeats,
            "{message}"
        );
    }

    /// Counts and logs why a connection did not become a tunnel.
    pub(super) fn never_up(&self, ended: &Ended, party: &Party) {
        match ended {
            Ended::Refused { by, refusal, detail } => self.refused(*by, *refusal, party, detail),
            Ended::Closed { why, .. } => {
                debug!(peer = %party.name, address = %party.address, why, "the connection was closed before it was a tunnel");
            }
            Ended::Lost(loss) => {
                debug!(peer = %party.name, address = %party.address, loss = loss.word(), "lost a connection before it was a tunnel");
            }
        }
    }

    /// Whether to write a log line of this kind now, and how many were held back before it.
    pub(super) fn admit(&self, kind: Kind) -> Option<u64> {
        self.quiet.lock().admit(Instant::now(), kind)
    }
}
