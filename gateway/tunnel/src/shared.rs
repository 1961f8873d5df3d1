//! State that every task of a gateway's tunnels shares, and how they tell the operator what was refused.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use causeway_federation::{
    name::{GatewayId, ZoneName},
    topology::Topology,
};
use causeway_host::{remembered::Remembered, resolve::NameResolver};
use causeway_identity::SpiffeId;
use causeway_telemetry::{RateLimited, Side, StreamRefusal};
use parking_lot::Mutex;
use quinn::ClientConfig;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{
    LastWord, StreamHandler, Tunnel, TunnelConfig, TunnelSet,
    demand::Demands,
    metrics::TunnelMetrics,
    refusal::{Ended, TunnelRefusal},
};

pub(super) struct TunnelShared {
    pub(super) config: TunnelConfig,
    /// Made of the identity in use; see `renew`.
    pub(super) client: ArcSwap<ClientConfig>,
    /// Counts the identities that were taken up since the start.
    pub(super) renewals: watch::Sender<u64>,
    pub(super) set: Arc<TunnelSet>,
    pub(super) handler: Arc<dyn StreamHandler>,
    pub(super) metrics: Arc<TunnelMetrics>,
    pub(super) topology: watch::Receiver<Arc<Topology>>,
    /// Set once this process is to end, and says how.
    pub(super) leaving: watch::Receiver<Option<Leaving>>,
    /// Random per process start.
    pub(super) start_id: u64,
    /// Start id of the process that this one takes the place of; 0: none.
    pub(super) succeeds: u64,
    pub(super) rate_limited: Mutex<RateLimited<LogKind>>,
    pub(super) resolver: NameResolver,
    /// Numbers of tunnels to dial.
    pub(super) demands: Demands,
    /// Hosts of peers that drain: that they take no new tunnel then is as it should be. By host, for a peer dials from another port than
    /// it listens on.
    pub(super) draining_peers: Remembered<IpAddr>,
}

/// Way in which this process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// Its gateway does, and streams under way may take so long.
    Drains(Duration),
    /// Another process takes its place.
    Succeeded,
}

/// Kind of log line, by which lines are held back; see [`RateLimited`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LogKind {
    Refused {
        address: IpAddr,
        refusal: TunnelRefusal,
        here: bool,
    },
    Unreachable(ZoneName),
    RunsTwice(GatewayId),
    /// Of this gateway, whichever peer says so.
    Twin,
    Stream(GatewayId, StreamRefusal),
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

impl TunnelShared {
    pub(super) fn own(&self) -> &GatewayId {
        self.config.identity.gateway()
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.borrow().is_some()
    }

    /// Waits until this process is to end; says how.
    pub(super) async fn leaving(&self) -> Leaving {
        let mut leaving = self.leaving.clone();
        let begun = leaving.wait_for(Option::is_some).await.ok().and_then(|way| *way);
        match begun {
            Some(way) => way,
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

    pub(super) fn last_word(&self, peer: &str, by: Option<Side>, reason: &'static str) {
        let at = Instant::now();
        self.set.last_words().note(peer, LastWord { by, reason, at });
    }

    /// Counts and logs that a tunnel was refused.
    pub(super) fn refused(&self, by: Side, refusal: TunnelRefusal, party: &Party, detail: &str) {
        self.metrics.tunnel_refused(by, refusal.word());
        self.last_word(&party.name, Some(by), refusal.word());
        if (by, refusal) == (Side::Local, TunnelRefusal::Garbage) {
            self.metrics.peer_broke_protocol(refusal.word());
        }
        let kind = LogKind::Refused {
            address: party.address.ip(),
            refusal,
            here: by == Side::Local,
        };
        if (by, refusal) == (Side::Peer, TunnelRefusal::Busy)
            && self.draining_peers.has(&party.address.ip(), Instant::now())
        {
            debug!(gateway = %self.own(), peer = %party.name, address = %party.address, detail, "a peer that drains takes no more tunnels");
            return;
        }
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

    /// Logs that a process said hello that another with the same identity has taken the place of.
    pub(super) fn runs_twice(&self, peer: &GatewayId, address: SocketAddr) {
        if let Some(repeats) = self.admit(LogKind::RunsTwice(peer.clone())) {
            warn!(
                gateway = %self.own(), %peer, %address, repeats,
                hint = "end one of them, or let it join under a name of its own; if one is not yours, `causeway revoke gateway` and let yours join anew",
                "two processes run with the identity of one gateway"
            );
        }
    }

    /// Logs that a peer knows another process that runs with the identity of this gateway.
    pub(super) fn has_twin(&self, peer: &GatewayId) {
        if let Some(repeats) = self.admit(LogKind::Twin) {
            warn!(
                gateway = %self.own(), %peer, repeats,
                hint = "look for one (`causeway get tunnels` at its peers, the CA's issued.jsonl): if there is one that is not yours, \
                    `causeway revoke gateway` this one and let it join anew; if there is none, the peer's word is wrong",
                "another process is alive with the identity of this gateway, says a peer; nothing here proves it"
            );
        }
    }

    /// Takes down, and logs once, that other gateways of the own zone do not share a registry with this one.
    pub(super) fn hear_of_siblings(&self, peer: &GatewayId, apart: &[String]) {
        let own = self.own();
        for sibling in self.set.siblings().hear(apart, &own.gateway, Instant::now()) {
            warn!(
                gateway = %own, %sibling, %peer,
                hint = "give every gateway of the zone --zone-sync, with the addresses of `causeway zone-sync` processes that share one etcd",
                "another gateway of this zone has a registry of its own: what is registered at one is not known at the other"
            );
        }
    }

    /// Decides whether to write a log line of this kind now, and tells how many were held back before it.
    pub(super) fn admit(&self, kind: LogKind) -> Option<u64> {
        self.rate_limited.lock().admit(Instant::now(), kind)
    }
}
