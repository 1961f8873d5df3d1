//! The task that owns the table: takes commands, runs the probes that are due, feeds the store, and publishes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::InstanceMetrics;
use causeway_federation::{
    name::ServiceName,
    registry::{InstanceKey, InstanceSource, Provenance, Registered, Registration, RegistryError},
    topology::{Drain, Topology},
};
use causeway_host::uptime::uptime;
use causeway_routing::snapshot::Health;
use causeway_zone_sync::registry::{Durability, Progress, Writer};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    task::{self, JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    CheckFailure, InstanceStatus, Published, RegistrationStanding,
    addresses::AddressCheck,
    drains::DrainedInstances,
    replacing::{self, Replacing},
    shared::{AttachmentShared, room},
    table::{HealthChange, Table},
};
use crate::{
    attach,
    health::{ProbeOrder, ProbeResult, probe},
};

/// Time for which a change waits for others to be published with it.
const GATHER: Duration = Duration::from_millis(5);
/// Under a stream of changes, publishing takes at most one part in this many of the task's time: where making the map
/// of 100,000 instances takes 8 ms, the next one waits 80 ms.
const PUBLISHING_SHARE: u32 = 10;
/// Longest that the end of the task waits for the disk.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// Shortest time between two warnings that this gateway cannot probe; when it cannot, it cannot probe thousands.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Request of a handle to the task.
#[derive(Debug)]
pub(super) enum InstancesCommand {
    Register {
        part: Vec<Registration>,
        reply: oneshot::Sender<Receipt<RegistrationStanding>>,
    },
    Renew {
        part: Vec<InstanceKey>,
        reply: oneshot::Sender<Vec<Result<(), RegistryError>>>,
    },
    Deregister {
        part: Vec<InstanceKey>,
        reply: oneshot::Sender<Receipt<()>>,
    },
    Replace {
        source: InstanceSource,
        wanted: Vec<Registration>,
        turn: OwnedSemaphorePermit,
        reply: replacing::Reply,
    },
    /// Answers with all drains.
    Drain {
        key: InstanceKey,
        drain: Option<Drain>,
        even_the_last: bool,
        reply: oneshot::Sender<Result<DrainedInstances, RegistryError>>,
    },
    /// Answers with all drains if anything is to be written.
    LookAtDrains {
        reply: oneshot::Sender<Option<DrainedInstances>>,
    },
    Status {
        service: Option<ServiceName>,
        reply: oneshot::Sender<Vec<InstanceStatus>>,
    },
    /// Asks how registrations would stand, whether or not they have come from the zone-sync yet.
    Standings {
        keys: Vec<InstanceKey>,
        reply: oneshot::Sender<Vec<RegistrationStanding>>,
    },
    LastFailure {
        key: InstanceKey,
        reply: oneshot::Sender<Option<CheckFailure>>,
    },
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}

/// A change that was made in memory, and the word to come on whether it is on disk.
#[derive(Debug)]
pub(super) struct Receipt<T> {
    /// In the order of what was asked.
    pub(super) each: Vec<Result<T, RegistryError>>,
    written: oneshot::Receiver<Durability>,
}

impl<T> Receipt<T> {
    pub(super) fn new(each: Vec<Result<T, RegistryError>>, written: oneshot::Receiver<Durability>) -> Self {
        Self { each, written }
    }

    pub(super) async fn durability(&mut self) -> Durability {
        // The store broke down with the answer in its hands.
        let answer = (&mut self.written).await;
        answer.unwrap_or(Durability::WriteFailed)
    }
}

#[derive(Debug)]
pub(super) struct InstancesTask {
    pub(super) table: Table,
    pub(super) writer: Writer,
    pub(super) shared: AttachmentShared,
    replacing: Replacing,
    pub(super) addresses: AddressCheck,
    topology: watch::Receiver<Arc<Topology>>,
    metrics: Arc<InstanceMetrics>,
    publish: watch::Sender<Published>,
    /// Time at which to publish; set while something is unpublished.
    publish_at: Option<Instant>,
    /// Time at which there may be a publication again.
    not_before: Instant,
    probes: JoinSet<ProbeResult>,
    orders: HashMap<task::Id, ProbeOrder>,
    /// Time at which it was last logged that a probe could not be made.
    warned: Option<Instant>,
    rng: SmallRng,
}

/// Reason why the task woke up.
enum Event {
    Command(Option<InstancesCommand>),
    Hint(InstanceKey),
    Topology(bool),
    Probed(Result<(task::Id, ProbeResult), JoinError>),
    Stored(Progress),
    Changed(Vec<attach::SharedChange>),
    Time,
}

impl InstancesTask {
    pub(super) fn new(
        table: Table,
        writer: Writer,
        stored: Vec<(InstanceSource, Registration)>,
        shared: AttachmentShared,
        addresses: AddressCheck,
        mut topology: watch::Receiver<Arc<Topology>>,
        metrics: Arc<InstanceMetrics>,
    ) -> (Self, watch::Receiver<Published>) {
        let current = Arc::clone(&topology.borrow_and_update());
        let (publish, published) = watch::channel(Published::default());
        let mut task = Self {
            table,
            writer,
            replacing: Replacing::default(),
            shared,
            addresses,
            topology,
            metrics,
            publish,
            publish_at: None,
            not_before: Instant::now(),
            probes: JoinSet::new(),
            orders: HashMap::new(),
            warned: None,
            rng: SmallRng::from_os_rng(),
        };
        task.table.apply_topology(Instant::now().into_std(), &current);
        task.restore(stored);
        task.publish_now();
        (task, published)
    }

    /// Takes up what was registered before the restart. Each lease has its full time again from here on.
    fn restore(&mut self, stored: Vec<(InstanceSource, Registration)>) {
        let now = Instant::now().into_std();
        let count = stored.len();
        for (source, mut registration) in stored {
            if self.shared.is_shared() {
                // Older programs have not stored it.
                registration.provenance = Provenance::Elsewhere;
            }
            let key = registration.key();
            let allowed = self.addresses.check(&registration);
            match allowed.and_then(|()| self.table.put(now, &source, registration)) {
                Ok(_) => self.shared.note_stored(key, source),
                Err(error) => {
                    tracing::warn!(instance = %key, %source, %error, "a stored registration is not accepted any more");
                    self.writer.remove((source, key), None);
                }
            }
        }
        if count > 0 {
            tracing::info!(count, "took up stored registrations");
        }
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<InstancesCommand>,
        mut hints: mpsc::Receiver<InstanceKey>,
    ) {
        let mut topology_follows = true;
        let reports = self.shared.reports();
        loop {
            self.carry_out();
            let wake = self.wake();
            let event = tokio::select! {
                changes = self.shared.changes(), if !self.writer.is_full() => Event::Changed(changes),
                place = room(reports.as_ref()), if self.table.has_report() => {
                    if let Some(report) = self.table.take_report() {
                        place.send(report);
                    }
                    continue;
                }
                command = commands.recv(), if !self.writer.is_full() => Event::Command(command),
                Some(key) = hints.recv() => Event::Hint(key),
                changed = self.topology.changed(), if topology_follows => Event::Topology(changed.is_ok()),
                Some(probed) = self.probes.join_next_with_id() => Event::Probed(probed),
                progress = self.writer.progress() => Event::Stored(progress),
                () = sleep_until(wake) => Event::Time,
            };
            match event {
                Event::Command(None) => return self.end(None).await,
                Event::Command(Some(InstancesCommand::Shutdown { reply })) => {
                    return self.end(Some(reply)).await;
                }
                Event::Command(Some(command)) => self.handle_command(command),
                Event::Hint(key) => self.table.handle_hint(Instant::now().into_std(), &key),
                Event::Topology(follows) => {
                    topology_follows = follows;
                    self.take_topology();
                }
                Event::Probed(probed) => self.handle_probed(probed),
                Event::Changed(changes) => self.take_changes(changes),
                Event::Stored(Progress::StoreReplaced) => self.write_everything(),
                Event::Stored(Progress::Committed) | Event::Time => {}
            }
        }
    }

    /// Does what is due: ends leases, starts probes, publishes.
    fn carry_out(&mut self) {
        let now = Instant::now();
        for key in self.table.expire(now.into_std()) {
            tracing::info!(service = %key.service, id = key.id, "the registration expired");
            self.writer.remove((InstanceSource::Registered, key), None);
        }
        self.replacing
            .advance(now.into_std(), &mut self.table, &mut self.writer, &self.addresses);
        while let Some(order) = self.table.poll_order(now.into_std()) {
            self.start_probe(order);
        }
        if self.table.is_dirty() {
            let at = self.not_before.max(now + GATHER);
            self.publish_at.get_or_insert(at);
        }
        if self.publish_at.is_some_and(|at| at <= now) {
            self.publish_now();
        }
    }

    fn wake(&self) -> Instant {
        if !self.replacing.is_idle() {
            return Instant::now();
        }
        let due = self.table.poll_timeout().map(Instant::from_std);
        let due = [due, self.publish_at].into_iter().flatten().min();
        // Nothing to wake up for: any time that is far away serves.
        due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    fn publish_now(&mut self) {
        let began = Instant::now();
        self.publish.send_replace(self.table.publish(uptime()));
        self.publish_at = None;
        let ended = Instant::now();
        self.not_before = ended + (ended - began) * PUBLISHING_SHARE;
    }

    fn start_probe(&mut self, order: ProbeOrder) {
        let (address, check) = (order.address, Arc::clone(&order.check));
        let provenance = self.table.provenance_of(&order);
        let allowed = self.addresses.check_at(address, provenance);
        // A server that tells its sites apart by name is asked by the one that clients use.
        let service = self.table.service_of(&order).map(ToString::to_string);
        let host = format!(
            "{}.{}",
            service.unwrap_or_default(),
            self.topology.borrow().dns.domain
        );
        let started = self.probes.spawn(async move {
            if let Err(refusal) = allowed {
                return ProbeResult::Failed(refusal.to_string());
            }
            match probe(address, &host, &check.probe, check.timeout).await {
                Ok(()) => ProbeResult::Passed,
                Err(failure) => failure.outcome(),
            }
        });
        self.orders.insert(started.id(), order);
    }

    fn handle_probed(&mut self, probed: Result<(task::Id, ProbeResult), JoinError>) {
        let (id, outcome) = match probed {
            Ok(done) => done,
            Err(error) => (
                error.id(),
                ProbeResult::NotAsked(format!("the probe broke down: {error}")),
            ),
        };
        let Some(order) = self.orders.remove(&id) else {
            return;
        };
        if let Some(service) = self.table.service_of(&order) {
            let passed = outcome == ProbeResult::Passed;
            self.metrics.health_checked(service.as_str(), passed);
        }
        let reason = match &outcome {
            ProbeResult::Passed => String::new(),
            ProbeResult::Failed(reason) => reason.clone(),
            ProbeResult::NotAsked(reason) => {
                self.warn_not_asked(&order, reason);
                String::new()
            }
        };
        let now = Instant::now().into_std();
        let change = self.table.handle_result(now, &order, outcome, &mut self.rng);
        if let Some(change) = change {
            log_change(&change, &reason);
        }
    }

    fn warn_not_asked(&mut self, order: &ProbeOrder, reason: &str) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!(address = %order.address, reason, "cannot check instances");
        }
    }

    fn take_topology(&mut self) {
        let topology = Arc::clone(&self.topology.borrow_and_update());
        self.table.apply_topology(Instant::now().into_std(), &topology);
        self.look_at_left_out();
    }

    fn handle_command(&mut self, command: InstancesCommand) {
        let now = Instant::now().into_std();
        // Whoever asked may have left; what was asked for is done all the same.
        match command {
            InstancesCommand::Register { part, reply } => drop(reply.send(self.register(part))),
            InstancesCommand::Renew { part, reply } => {
                let renewed = part.iter().map(|key| self.table.renew(now, key));
                drop(reply.send(renewed.collect()));
            }
            InstancesCommand::Deregister { part, reply } => drop(reply.send(self.deregister(part))),
            InstancesCommand::Replace {
                source,
                wanted,
                turn,
                reply,
            } => self.replacing.push(source, wanted, turn, reply),
            InstancesCommand::Drain {
                key,
                drain,
                even_the_last,
                reply,
            } => {
                tracing::info!(service = %key.service, id = key.id, ?drain, "an instance is to be drained, or to serve again");
                drop(reply.send(self.table.drain(now, &key, drain, even_the_last)));
            }
            InstancesCommand::LookAtDrains { reply } => drop(reply.send(self.table.look_at_drains())),
            InstancesCommand::Status { service, reply } => {
                drop(reply.send(self.table.status(now, service.as_ref())));
            }
            InstancesCommand::Standings { keys, reply } => {
                let standings = keys.iter().map(|key| self.table.standing(key));
                drop(reply.send(standings.collect()));
            }
            InstancesCommand::LastFailure { key, reply } => {
                drop(reply.send(self.table.last_failure(now, &key)));
            }
            // The loop ends on it before it comes here.
            InstancesCommand::Shutdown { reply } => drop(reply.send(())),
        }
    }

    fn register(&mut self, part: Vec<Registration>) -> Receipt<RegistrationStanding> {
        let now = Instant::now().into_std();
        let mut each = Vec::with_capacity(part.len());
        let mut changed = 0;
        for registration in part {
            let allowed = self.addresses.check(&registration);
            let done = allowed.and_then(|()| {
                self.table
                    .put(now, &InstanceSource::Registered, registration.clone())
            });
            if let Ok((Registered::Added | Registered::Replaced, standing)) = done {
                changed += 1;
                tracing::debug!(service = %registration.service, id = registration.id,
                    address = %registration.address, ?standing, "registered");
                self.writer.put(InstanceSource::Registered, registration, None);
            }
            each.push(done.map(|(_, standing)| standing));
        }
        if changed > 0 {
            tracing::info!(changed, "took up registrations");
        }
        let (answer, written) = oneshot::channel();
        self.writer.wait(Some(answer));
        Receipt { each, written }
    }

    fn deregister(&mut self, part: Vec<InstanceKey>) -> Receipt<()> {
        let now = Instant::now().into_std();
        let mut each = Vec::with_capacity(part.len());
        let mut removed = 0;
        for key in part {
            let done = self.table.deregister(now, &key);
            if done.is_ok() {
                removed += 1;
                tracing::debug!(service = %key.service, id = key.id, "deregistered");
                self.writer.remove((InstanceSource::Registered, key), None);
            }
            each.push(done);
        }
        if removed > 0 {
            tracing::info!(removed, "removed registrations");
        }
        let (answer, written) = oneshot::channel();
        self.writer.wait(Some(answer));
        Receipt { each, written }
    }

    fn write_everything(&mut self) {
        for (source, registration) in self.table.stored() {
            self.writer.put(source.clone(), registration.clone(), None);
        }
    }

    async fn end(mut self, reply: Option<oneshot::Sender<()>>) {
        self.probes.shutdown().await;
        if self.table.is_dirty() {
            self.publish_now();
        }
        if !self.writer.flush(Instant::now() + FLUSH_LIMIT).await {
            tracing::error!(
                "registrations of the last moments are not on disk and will not survive the restart"
            );
        }
        // The store's lock is given back before whoever waits is told.
        drop(self.writer);
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }
}

fn log_change(change: &HealthChange, reason: &str) {
    let instance = &change.instance;
    let (service, id, address) = (&instance.service, &instance.id, instance.address);
    match change.transition.to {
        Health::Unhealthy => {
            tracing::warn!(%service, id, %address, reason, "an instance is unhealthy");
        }
        _ => tracing::info!(%service, id, %address, "an instance is healthy"),
    }
}
