//! Has open connections follow: ends those that do not belong where they are any more, or are too old, so that their clients
//! come back and are routed anew. Which those are, when and at what pace is decided in `causeway_routing` (`route::belongs`,
//! `ending`); here it is carried out.
//!
//! The gateway that a client connected to has all of it follow. One that serves another zone sends away those whose instance is taken
//! out while others serve, which only it knows of; and only where no request can be under way that would be lost.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::{ConnectionPolicy, Service, Topology},
};
use causeway_host::moment::until;
use causeway_routing::{
    ending::{DueEndings, EndingReason, OpenForEnding, ServiceEndings},
    route::{Misplacement, Placement, belongs, leaves_instance_by, stays_here},
    snapshot::{InstanceList, Snapshot, Snapshots},
};
use causeway_telemetry::{ConnectionId, ConnectionOutcome, Role};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{
    ProxyMetrics,
    open::{ConnectionHandle, OpenConnection, OpenConnections},
};

/// Pause after each look, so that a snapshot that changes all the time does not keep a core busy with looking.
const BETWEEN: Duration = Duration::from_millis(100);
/// Time after which connections are looked at though nothing has changed: one may have been on its way to its place when something did, and
/// new ones grow old.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Longest wait for the end of a drain that is added to a clock; a later one is found at a later look.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 3600);

/// Memory of the connections of every service that has a limit.
type AllEndings = BTreeMap<ServiceName, ServiceEndings<ConnectionId>>;
type Handles = Vec<Arc<ConnectionHandle>>;

/// Open connections of one role, that follow.
#[derive(Debug, Clone)]
pub(crate) struct FollowingConnections {
    pub(crate) role: Role,
    pub(crate) open: Arc<OpenConnections>,
    pub(crate) snapshots: Snapshots,
    pub(crate) metrics: Arc<ProxyMetrics>,
}

impl FollowingConnections {
    /// Follows the snapshots until their publisher is gone. Dropping the future stops it.
    pub(crate) async fn keep_moving(self, mut generation: watch::Receiver<u64>) {
        let mut endings = AllEndings::new();
        loop {
            let snapshot = self.snapshots.load_full();
            let mut next = None;
            if self.has_limits(&snapshot) {
                let this = self.clone();
                // A look at a hundred thousand connections must not hold up DNS and zone sync.
                let looking = spawn_blocking(move || this.look(&snapshot, endings));
                (endings, next) = match looking.await {
                    Ok((endings, next)) => (endings, Some(next)),
                    Err(error) => {
                        tracing::error!(%error, "open connections were not looked at, and stay where they are");
                        (AllEndings::new(), Some(Instant::now() + LOOK_EVERY))
                    }
                };
            } else {
                self.forget(std::mem::take(&mut endings));
            }
            sleep(BETWEEN).await;
            tokio::select! {
                changed = generation.changed() => if changed.is_err() {
                    return;
                },
                () = until(next) => {}
            }
        }
    }

    /// The moments by which the zones that drain are to be empty, by this host's clock; the ingress leaves that to those who sent.
    fn deadlines(&self, topology: &Topology, now: Instant) -> HashMap<ZoneName, Instant> {
        let clock = SystemTime::now();
        let draining = topology.zones.iter().filter(|_| self.role == Role::Egress);
        let deadlines = draining.filter_map(|(zone, declared)| {
            let by = declared.drain.as_ref()?.by?;
            let left = by.duration_since(clock).unwrap_or_default().min(LONGEST_DRAIN);
            Some((zone.clone(), now + left))
        });
        deadlines.collect()
    }

    /// Limits of a service's connections that are for this role to hold.
    fn policy(&self, service: &Service) -> ConnectionPolicy {
        let mut policy = service.connections;
        if let Role::Ingress = self.role {
            policy.max_age = None;
            if service.ports.iter().all(|port| port.protocol.is_http()) {
                policy.linger = None;
            }
        }
        policy
    }

    /// Tells whether what becomes of a connection is for this role to say: requests are moved one by one, by the gateway of their client.
    fn is_for_this_role(&self, topology: &Topology, connection: &OpenConnection) -> bool {
        let port = || topology.port_of(&connection.service, connection.port.as_ref());
        match self.role {
            Role::Egress => true,
            Role::Ingress => port().is_some_and(|port| !port.protocol.is_http()),
        }
    }

    fn has_limits(&self, snapshot: &Snapshot) -> bool {
        let topology = &*snapshot.topology;
        let drains_some = || snapshot.instances.values().any(InstanceList::has_drained);
        let mut services = topology.services.values();
        services.any(|service| self.policy(service) != ConnectionPolicy::default())
            || !self.deadlines(topology, Instant::now()).is_empty()
            || drains_some()
    }

    /// Ends those that are due, and returns what is to be kept in mind and the time of the next look.
    fn look(&self, snapshot: &Snapshot, mut before: AllEndings) -> (AllEndings, Instant) {
        let now = Instant::now();
        let (mut endings, mut next) = (AllEndings::new(), now + LOOK_EVERY);
        let deadlines = self.deadlines(&snapshot.topology, now);
        for (service, (policy, handles)) in self.by_service(snapshot, &deadlines) {
            let mut known = before.remove(&service).unwrap_or_default();
            let open = self.for_ending(snapshot, (now, policy), &deadlines, &handles);
            let misplaced = open.iter().filter(|one| one.misplaced.is_some()).count();
            self.metrics.misplaced(self.role, service.as_str(), misplaced);
            let DueEndings { end, look_again } = known.look(now, policy, &open);
            if !end.is_empty() {
                let by_id = handles.iter().map(|handle| (handle.connection.id, handle));
                let by_id: HashMap<ConnectionId, _> = by_id.collect();
                for (id, reason) in end {
                    if let Some(handle) = by_id.get(&id) {
                        self.end(handle, reason);
                    }
                }
            }
            next = look_again.map_or(next, |at| next.min(at));
            endings.insert(service, known);
        }
        self.forget(before);
        (endings, next)
    }

    /// Counts nothing any more of services of which no connection is open, or whose limits are gone.
    fn forget(&self, gone: AllEndings) {
        for service in gone.keys() {
            self.metrics.misplaced(self.role, service.as_str(), 0);
        }
    }

    /// The connections of each service that has a limit, and of the others those in a zone that is to be empty by a moment, but for those
    /// that are ending already.
    fn by_service(
        &self,
        snapshot: &Snapshot,
        deadlines: &HashMap<ZoneName, Instant>,
    ) -> BTreeMap<ServiceName, (ConnectionPolicy, Handles)> {
        let topology = &*snapshot.topology;
        let mut all: BTreeMap<ServiceName, (ConnectionPolicy, Handles)> = BTreeMap::new();
        let handles = self.open.handles().filter(|handle| !handle.is_leaving());
        for handle in handles {
            // At an instance that is drained it is for the gateway that has the instance, requests too.
            let leaves = handle
                .placement()
                .and_then(|placement| leaves_instance_by(snapshot, placement));
            if leaves.is_none() && !self.is_for_this_role(topology, &handle.connection) {
                continue;
            }
            let service = &handle.connection.service;
            let zone = handle.placement().map(|placement| placement.zone(&snapshot.zone));
            let is_to_leave = leaves.is_some() || zone.is_some_and(|zone| deadlines.contains_key(zone));
            let policy = topology.services.get(service).map(|service| self.policy(service));
            let counts = |policy: &ConnectionPolicy| is_to_leave || *policy != ConnectionPolicy::default();
            let Some(policy) = policy.filter(counts) else {
                continue;
            };
            match all.get_mut(service) {
                Some((_, handles)) => handles.push(handle),
                None => drop(all.insert(service.clone(), (policy, vec![handle]))),
            }
        }
        all
    }

    fn for_ending(
        &self,
        snapshot: &Snapshot,
        (now, policy): (Instant, ConnectionPolicy),
        deadlines: &HashMap<ZoneName, Instant>,
        handles: &[Arc<ConnectionHandle>],
    ) -> Vec<OpenForEnding<ConnectionId>> {
        // Most connections of a service are at few places.
        let mut places: HashMap<&Placement, Option<Misplacement>> = HashMap::new();
        let mut misplaced = |placement| {
            let found = places.entry(placement);
            let judge = || match self.role {
                Role::Egress => belongs(snapshot, placement),
                Role::Ingress => stays_here(snapshot, placement),
            };
            *found.or_insert_with(|| judge().err())
        };
        let one = |handle: &'_ Arc<ConnectionHandle>| OpenForEnding {
            key: handle.connection.id,
            opened: handle.connection.since,
            jitter: jitter(handle.connection.id),
            misplaced: None,
            leave_by: None,
        };
        let mut open: Vec<_> = handles.iter().map(one).collect();
        let clock = SystemTime::now();
        for (one, handle) in open.iter_mut().zip(handles) {
            let placement = handle.placement();
            let zone = placement.map(|placement| placement.zone(&snapshot.zone));
            one.leave_by = zone.and_then(|zone| deadlines.get(zone)).copied();
            if let Some(left) = placement.and_then(|placement| leaves_instance_by(snapshot, placement)) {
                // Whoever drains the instance is about to end it: to stay would be no better.
                let left = now + left.duration_since(clock).unwrap_or_default().min(LONGEST_DRAIN);
                one.leave_by = Some(one.leave_by.map_or(left, |by| by.min(left)));
                one.misplaced = Some(Misplacement::Draining);
                continue;
            }
            if policy.linger.is_some() || one.leave_by.is_some() {
                one.misplaced = placement.and_then(&mut misplaced);
            }
        }
        open
    }

    fn end(&self, handle: &ConnectionHandle, reason: EndingReason) {
        let connection = &handle.connection;
        self.metrics.followed(connection.service.as_str(), reason);
        tracing::debug!(connection = %connection.id, service = %connection.service, why = reason.word(),
            "a connection is ended so that it comes back where it belongs");
        handle.send_away(match reason {
            EndingReason::Misplaced(_) => ConnectionOutcome::Moved,
            EndingReason::MaxAge => ConnectionOutcome::MaxAge,
        });
    }
}

/// Place of a connection among those of its age, from 0 to 1: its id is random, and stays as it is.
#[expect(
    clippy::cast_precision_loss,
    reason = "what is lost are the last of 64 random bits"
)]
fn jitter(id: ConnectionId) -> f64 {
    id.bits() as f64 / u64::MAX as f64
}
