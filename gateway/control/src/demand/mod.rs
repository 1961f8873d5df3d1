//! Demand of all gateways, and the plan that follows from it: measures once a second what the clients of this gateway ask for and use of
//! limits, asks the others for theirs, and publishes where everything goes by the capacity of zones, and what the other gateways of the zone
//! use of limits; and what instances are found to take, where that is measured. Decides nothing; see `causeway_routing::capacity` and `causeway_routing::limit_shares`.

mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use causeway_federation::name::{GatewayId, ServiceName, ZoneName};
use causeway_host::uptime::uptime;
use causeway_proto::tunnel::{Demand, StreamHeader, stream_header::Kind};
use causeway_routing::{
    capacity::{
        CapacityPlan, CarriedEstimate, DemandTable, HeardFrom, LoadRecorder, MeasuredTable, RecordedLoad,
        is_measured, is_respected, matters, plan,
    },
    limit_shares::{LimitUse, OthersUse, are_shared, has_several},
    snapshot::{Link, Snapshot, Snapshots},
};
use causeway_tunnel::{DEMAND, IncomingStream, TunnelSet, ask_for_documents, read_document, send_documents};
use parking_lot::Mutex;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, timeout},
};

/// Time between two looks.
const TICK: Duration = Duration::from_secs(1);
/// Longest wait for the word of one gateway. The next look begins without it.
const ANSWER_WITHIN: Duration = Duration::from_millis(900);
/// Most gateways of the own zone that one answer may tell of.
const MAX_SIBLINGS: usize = 16;
/// Most gateways that are asked in one look; of more, each has its turn.
const MAX_ASKED: usize = 256;

/// Knowledge of demand. Clones are the same.
#[derive(Debug, Clone)]
pub struct DemandBook {
    own: GatewayId,
    table: Arc<Mutex<DemandTable>>,
    loads: Arc<Mutex<LoadRecorder>>,
    measured: Arc<Mutex<MeasuredTable>>,
}

impl DemandBook {
    /// Goes on with the estimates of the process before, at the gateway `own`.
    #[must_use]
    pub fn carrying_on(own: &GatewayId, estimates: &[CarriedEstimate]) -> Self {
        let measured = MeasuredTable::carrying_on(uptime(), estimates);
        Self {
            own: own.clone(),
            table: Arc::default(),
            loads: Arc::default(),
            measured: Arc::new(Mutex::new(measured)),
        }
    }

    /// Estimates for the next process.
    #[must_use]
    pub fn carried(&self) -> Vec<CarriedEstimate> {
        self.measured.lock().carried(uptime())
    }

    /// Mean rates of what the clients of this gateway ask for of every service.
    #[must_use]
    pub fn loads(&self) -> Vec<RecordedLoad> {
        self.loads.lock().loads()
    }

    /// Tells a gateway that asks.
    pub async fn answer(&self, stream: IncomingStream) {
        let IncomingStream { mut send, tunnel, .. } = stream;
        let mut told = self.table.lock().told_to(tunnel.peer(), uptime());
        self.measured.lock().add_to(&mut told, tunnel.peer());
        if let Err(error) = send_documents(&mut send, [wire::encode(told)]).await {
            tracing::debug!(peer = %tunnel.peer(), %error, "a gateway asked for demand, and did not wait for the answer");
        }
    }

    /// Measures, asks and plans until it is dropped. `uses` tells what the clients of this gateway use of limits.
    pub async fn keep(
        self,
        snapshots: Snapshots,
        tunnels: Arc<TunnelSet>,
        uses: impl Fn() -> Vec<LimitUse> + Send + Sync + 'static,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked_before = None;
        loop {
            ticks.tick().await;
            let snapshot = snapshots.load_full();
            self.measure(&snapshot, &tunnels);
            let shares_limits = are_shared(&snapshot);
            let told = shares_limits && has_several(&snapshot.topology, &snapshot.zone);
            let used = if told { uses() } else { Vec::new() };
            self.table.lock().use_limits(used);
            let plans = decides(&snapshot).await;
            if !plans && !shares_limits {
                snapshot.capacity.limits.publish(OthersUse::default());
                self.estimate(&snapshot);
                continue;
            }
            let peers = to_ask(&snapshot, &tunnels, asked_before.as_ref());
            asked_before = peers.last().cloned();
            self.ask_all(peers, &snapshot, &tunnels).await;
            let snapshot = snapshots.load_full();
            let others = self.remembered(&snapshot);
            snapshot.capacity.limits.publish(others);
            self.estimate(&snapshot);
            if plans {
                self.publish(snapshot).await;
            }
        }
    }

    /// Counts what was asked for since the last look.
    fn measure(&self, snapshot: &Snapshot, tunnels: &TunnelSet) {
        let services = &snapshot.topology.services;
        let respected = |name: &ServiceName| services.get(name).is_some_and(is_respected);
        let counts = snapshot.capacity.meter.counts(respected);
        self.table.lock().measure(uptime(), counts);
        let asked = snapshot.capacity.asked.counts(|name| services.contains_key(name));
        self.loads.lock().look(uptime(), asked);
        let answers = &snapshot.capacity.answers;
        let measured = |name: &ServiceName| services.get(name).is_some_and(is_measured);
        let ways = match services.values().any(is_measured) {
            true => ways(snapshot, tunnels),
            false => BTreeMap::new(),
        };
        let way_to = |zone: &ZoneName| ways.get(zone).copied().unwrap_or_default();
        let answers = answers.counts(measured, way_to);
        self.measured.lock().look(uptime(), answers, way_to);
    }

    /// Estimates what the instances here can take, and publishes what is known of those of all zones.
    fn estimate(&self, snapshot: &Snapshot) {
        let mut measured = self.measured.lock();
        measured.estimate(uptime(), snapshot);
        let known = measured.known(&snapshot.zone);
        if known != **snapshot.capacity.measured() {
            snapshot.capacity.found(known);
        }
    }

    async fn ask_all(&self, peers: Vec<GatewayId>, snapshot: &Snapshot, tunnels: &Arc<TunnelSet>) {
        let mut asking = JoinSet::new();
        for peer in peers {
            let (book, tunnels) = (self.clone(), tunnels.clone());
            let (own, topology) = (self.own.clone(), snapshot.topology.clone());
            asking.spawn(async move {
                let at = uptime();
                let Ok(Some(answer)) = timeout(ANSWER_WITHIN, ask(&tunnels, &peer)).await else {
                    return;
                };
                let mut table = book.table.lock();
                let mut siblings = 0;
                let is_told = |service: &ServiceName| {
                    let service = topology.services.get(service);
                    service.is_some_and(|service| service.is_exported_to(&peer.zone))
                };
                for mut told in wire::decode(&answer) {
                    told.answers.retain(|one| is_told(&one.service));
                    told.capacities.retain(|one| {
                        let service = topology.services.get(&one.service);
                        service.is_some_and(is_measured)
                    });
                    let from = match told.gateway {
                        None => HeardFrom::from(peer.clone()),
                        Some(_) if siblings == MAX_SIBLINGS => continue,
                        // Nobody tells this gateway of its own clients.
                        Some(sibling) if sibling == own.gateway => continue,
                        Some(sibling) => {
                            siblings += 1;
                            told.capacities.clear();
                            HeardFrom {
                                gateway: GatewayId::new(own.zone.clone(), sibling),
                                through: Some(peer.zone.clone()),
                            }
                        }
                    };
                    let said = at.saturating_sub(told.age);
                    table.hear(from.clone(), said, told.rates, told.limits);
                    let mut measured = book.measured.lock();
                    measured.hear(from, said, told.answers, told.capacities);
                }
            });
        }
        while asking.join_next().await.is_some() {}
    }

    /// Forgets gateways that have gone, and gives what the others of the zone use of limits.
    fn remembered(&self, snapshot: &Snapshot) -> OthersUse {
        let mut table = self.table.lock();
        table.forget(uptime(), snapshot);
        table.others_use(&snapshot.zone, &snapshot.topology, uptime())
    }

    async fn publish(&self, snapshot: Arc<Snapshot>) {
        let demands = self.table.lock().known(&snapshot.zone, &snapshot.topology);
        apart(move || snapshot.capacity.publish(plan(&snapshot, &demands))).await;
    }
}

/// Tells whether any service has a capacity that is respected. Where none has, no plan is in force any more.
async fn decides(snapshot: &Arc<Snapshot>) -> bool {
    let snapshot = snapshot.clone();
    let deciding = apart(move || {
        let matters = matters(&snapshot);
        if !matters && **snapshot.capacity.plan() != CapacityPlan::default() {
            snapshot.capacity.publish(CapacityPlan::default());
        }
        matters
    });
    deciding.await.unwrap_or(false)
}

/// Looks at every service where it holds up neither DNS nor zone sync: there may be ten thousand. `None`: it has failed, which is told.
async fn apart<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let looked = spawn_blocking(look).await;
    looked
        .inspect_err(|error| {
            tracing::error!(%error, "nothing was planned by capacity, and the plan of before is in force");
        })
        .ok()
}

/// Time to each zone and back on the fastest tunnel there.
fn ways<'s>(snapshot: &'s Snapshot, tunnels: &TunnelSet) -> BTreeMap<&'s ZoneName, Duration> {
    let mut ways = BTreeMap::new();
    for gateway in snapshot.links.keys() {
        if let Some(tunnel) = tunnels.choose_for_control(gateway) {
            let way = ways.entry(&gateway.zone).or_insert(Duration::MAX);
            *way = tunnel.rtt().min(*way);
        }
    }
    ways
}

/// Gateways whose turn it is, beginning after the last one.
fn to_ask(snapshot: &Snapshot, tunnels: &TunnelSet, last: Option<&GatewayId>) -> Vec<GatewayId> {
    let up = snapshot.links.iter().filter(|(_, link)| **link != Link::Stalled);
    let tells = |peer: &&GatewayId| {
        let tunnel = tunnels.choose_for_control(peer);
        tunnel.is_some_and(|tunnel| tunnel.capabilities().has(DEMAND))
    };
    let peers: BTreeSet<&GatewayId> = up.map(|(peer, _)| peer).filter(tells).collect();
    let after = peers.iter().filter(|peer| last.is_none_or(|last| **peer > last));
    let before = peers
        .iter()
        .filter(|peer| last.is_some_and(|last| **peer <= last));
    let turn = after.chain(before).take(MAX_ASKED);
    turn.map(|peer| (*peer).clone()).collect()
}

/// Asks one gateway; `None`: it does not say.
async fn ask(tunnels: &TunnelSet, peer: &GatewayId) -> Option<Vec<u8>> {
    let header = StreamHeader {
        kind: Some(Kind::Demand(Demand {})),
    };
    let answered = match ask_for_documents(tunnels, peer, &header).await {
        Ok(mut recv) => read_document(&mut recv, wire::MAX_BYTES).await,
        Err(error) => {
            tracing::debug!(%peer, %error, "a gateway does not say what its clients ask for");
            return None;
        }
    };
    answered.ok()?
}
