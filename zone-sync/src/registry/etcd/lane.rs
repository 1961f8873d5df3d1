//! Writes what is ordered, in the order that it came for each key, as few and as large transactions as are at hand: while
//! one is on its way, the next gathers.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use causeway_federation::registry::{InstanceKey, Registration};
use causeway_proto::etcd::mvccpb::KeyValue;
use tokio::sync::{mpsc, oneshot};

use super::{
    EtcdError, EtcdView, Inner,
    keys::{Key, SlotKey, decode_registration, decode_report},
    leases::LeaseClass,
    view::At,
    write::{self, MAX_BYTES, MAX_WRITES, Write, Written},
};

/// Orders that may wait in one lane: a full request of the contract from each of some connectors.
pub(super) const MAX_ORDERS: usize = 16_384;
/// For how long an order is tried, from when it was given.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A write, and who waits for it.
#[derive(Debug)]
pub(super) struct WriteOrder {
    pub key: Key,
    pub write: Write,
    /// Registration that the value holds, for the view.
    pub value: Option<Registration>,
    /// The class of the lease that it goes with, and the lease that it had rather keep.
    pub lease: Option<(LeaseClass, Option<i64>)>,
    pub since: Instant,
    pub answer: oneshot::Sender<Result<Written, NotWritten>>,
}

/// It could not be written, or nobody knows whether it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotWritten {
    pub why: String,
    /// It was not written, for certain.
    pub is_untouched: bool,
}

impl NotWritten {
    fn untouched(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            is_untouched: true,
        }
    }
}

impl Inner {
    /// Gives an order to the lane of its key, and waits for room there.
    pub(super) async fn order(
        &self,
        key: Key,
        write: Write,
        value: Option<Registration>,
        lease: Option<(LeaseClass, Option<i64>)>,
    ) -> Result<oneshot::Receiver<Result<Written, NotWritten>>, NotWritten> {
        let (order, answer) = new_order(key, write, value, lease);
        let lane = self.lane(&order.key);
        match tokio::time::timeout(PATIENCE, lane.send(order)).await {
            Ok(Ok(())) => Ok(answer),
            Ok(Err(_)) => Err(NotWritten::untouched("zone sync is stopping")),
            Err(_) => Err(NotWritten::untouched("too many writes are waiting")),
        }
    }

    /// Gives an order whose outcome shows in the view alone. Whether there was room.
    pub(super) fn order_aside(
        &self,
        key: Key,
        write: Write,
        value: Option<Registration>,
        lease: Option<(LeaseClass, Option<i64>)>,
    ) -> bool {
        let (order, _) = new_order(key, write, value, lease);
        self.lane(&order.key).try_send(order).is_ok()
    }

    fn lane(&self, key: &Key) -> &mpsc::Sender<WriteOrder> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        // The remainder is below the number of lanes, whatever the hash.
        let place = usize::try_from(hasher.finish() % self.lanes.len() as u64).unwrap_or(0);
        &self.lanes[place]
    }

    /// A lease of that class for one more key.
    pub(super) async fn lease_for(&self, class: LeaseClass, left: Duration) -> Result<i64, EtcdError> {
        if let Some(lease) = self.leases().assign(class, 1) {
            return Ok(lease);
        }
        let _granting = self.granting.lock().await;
        if let Some(lease) = self.leases().assign(class, 1) {
            return Ok(lease);
        }
        let granted = self.client.grant(left, class.lease_seconds()).await?;
        self.view().add_lease(granted.id);
        let mut leases = self.leases();
        leases.add(Instant::now(), class, granted.id);
        leases.assign(class, 1);
        Ok(granted.id)
    }

    /// A lease was found gone.
    pub(super) fn lose_lease(&self, lease: i64) {
        self.leases().remove(lease);
        self.change(|view| view.lose_lease(Instant::now(), lease));
    }
}

fn new_order(
    key: Key,
    write: Write,
    value: Option<Registration>,
    lease: Option<(LeaseClass, Option<i64>)>,
) -> (WriteOrder, oneshot::Receiver<Result<Written, NotWritten>>) {
    let (answer, answered) = oneshot::channel();
    let order = WriteOrder {
        key,
        write,
        value,
        lease,
        since: Instant::now(),
        answer,
    };
    (order, answered)
}

/// Runs until the registry is dropped.
pub(super) async fn run(inner: Arc<Inner>, mut orders: mpsc::Receiver<WriteOrder>) {
    let mut waiting = Vec::new();
    loop {
        let room = MAX_WRITES.saturating_sub(waiting.len());
        if waiting.is_empty() {
            if orders.recv_many(&mut waiting, room).await == 0 {
                return;
            }
        } else {
            while waiting.len() < MAX_WRITES
                && let Ok(order) = orders.try_recv()
            {
                waiting.push(order);
            }
        }
        let batch = next_batch(&inner, &mut waiting);
        commit(&inner, batch).await;
    }
}

/// The first orders that fit into one transaction: no key twice.
fn next_batch(inner: &Inner, waiting: &mut Vec<WriteOrder>) -> Vec<(Vec<u8>, WriteOrder)> {
    let mut keys = HashSet::new();
    let mut bytes = 0;
    let mut batch = Vec::new();
    let mut rest = Vec::new();
    for order in waiting.drain(..) {
        let key = inner.layout.encode(&order.key);
        let size = order.write.bytes(&key);
        // Once one had to wait, all later ones of its key must.
        let fits = batch.len() < MAX_WRITES && (batch.is_empty() || bytes + size <= MAX_BYTES);
        if fits && keys.insert(key.clone()) {
            bytes += size;
            batch.push((key, order));
        } else {
            keys.insert(key);
            rest.push(order);
        }
    }
    *waiting = rest;
    batch
}

async fn commit(inner: &Inner, mut batch: Vec<(Vec<u8>, WriteOrder)>) {
    let now = Instant::now();
    let (late, in_time): (Vec<_>, Vec<_>) = batch
        .drain(..)
        .partition(|(_, order)| now > order.since + PATIENCE);
    let too_late = NotWritten::untouched("etcd is too slow, or out of reach");
    refuse(inner, late, &too_late);
    let mut batch = in_time;
    let Some(oldest) = batch.iter().map(|(_, order)| order.since).min() else {
        return;
    };
    let left = (oldest + PATIENCE)
        .saturating_duration_since(now)
        .max(super::client::CALL_LIMIT);
    let mut written = attempt(inner, &mut batch, left).await;
    if written.as_ref().is_err_and(EtcdError::is_lost_lease) {
        // One of the leases ran out and word of it has not come. New ones are granted, and all old ones asked after.
        for (_, order) in &mut batch {
            if let Some((_, kept)) = &mut order.lease {
                *kept = None;
            }
            if let Write::Put { lease, .. } | Write::Claim { lease, .. } = &order.write {
                inner.leases().close(*lease);
            }
        }
        inner.leases().all_due(now);
        written = attempt(inner, &mut batch, left).await;
    }
    match written {
        Ok(written) => {
            inner.refused().take();
            settle(inner, batch, written);
        }
        Err(error) => {
            let cause = error.cause();
            match &error {
                EtcdError::Refused { .. } => tracing::error!(
                    zone = %inner.zone, %error, cause,
                    "registrations cannot be written; is etcd's disk or quota full, does it ask for a password?"
                ),
                _ => {
                    tracing::warn!(zone = %inner.zone, %error, cause, writes = batch.len(), "writes were given up")
                }
            }
            let why = format!("{error}: {cause}");
            *inner.refused() = Some((now, why.clone()));
            let is_untouched = error.is_untouched();
            refuse(inner, batch, &NotWritten { why, is_untouched });
        }
    }
}

async fn attempt(
    inner: &Inner,
    batch: &mut [(Vec<u8>, WriteOrder)],
    left: Duration,
) -> Result<Vec<Written>, EtcdError> {
    for (_, order) in batch.iter_mut() {
        let Some((class, kept)) = order.lease else {
            continue;
        };
        let chosen = match kept {
            Some(kept) => kept,
            None => inner.lease_for(class, left).await?,
        };
        if let Write::Put { lease, .. } | Write::Claim { lease, .. } = &mut order.write {
            *lease = chosen;
        }
    }
    let request = write::transaction(batch.iter().map(|(key, order)| (key.as_slice(), &order.write)));
    let (answer, is_first) = inner.client.txn(left, &request).await?;
    let mut written = write::outcomes(answer);
    if !is_first {
        // The earlier attempt may have been done after all; then what it deleted is absent now.
        for (outcome, (_, order)) in written.iter_mut().zip(batch.iter()) {
            if let (Written::Absent(revision), Write::Delete { revision: None }) = (&*outcome, &order.write) {
                *outcome = Written::Done(*revision);
            }
        }
    }
    Ok(written)
}

fn refuse(inner: &Inner, batch: Vec<(Vec<u8>, WriteOrder)>, why: &NotWritten) {
    inner
        .counters
        .failed
        .fetch_add(batch.len() as u64, Ordering::Relaxed);
    for (_, order) in batch {
        // An instance that lives must get its key back sooner or later.
        if let (Key::Slot(key), Write::Claim { recreate: true, .. }) = (&order.key, &order.write) {
            inner.view().claim_later(key.clone());
        }
        // Who no longer listens needs no answer.
        let _ = order.answer.send(Err(why.clone()));
    }
}

/// Takes what was written into the view at once, before the watch tells it, and answers those who wait for it.
fn settle(inner: &Inner, batch: Vec<(Vec<u8>, WriteOrder)>, written: Vec<Written>) {
    let now = Instant::now();
    inner
        .counters
        .written
        .fetch_add(batch.len() as u64, Ordering::Relaxed);
    let mut answers = Vec::with_capacity(batch.len());
    inner.change(|view| {
        for ((_, order), written) in batch.into_iter().zip(written) {
            match &order.key {
                Key::Slot(key) => settle_slot(view, now, key, (&order.write, order.value), &written),
                Key::Health(key) => settle_report(view, key, &order.write, &written),
                // Who is there is told by the watch alone.
                Key::Gateway(_) => {}
            }
            answers.push((order.answer, written));
        }
    });
    for (answer, written) in answers {
        // Who no longer listens needs no answer.
        let _ = answer.send(Ok(written));
    }
}

/// Notes in the view what became of a write to the slot of an instance.
fn settle_slot(
    view: &mut EtcdView,
    now: Instant,
    key: &SlotKey,
    (write, value): (&Write, Option<Registration>),
    written: &Written,
) {
    match (written, write) {
        (Written::Done(revision), Write::Put { lease, .. } | Write::Claim { lease, .. }) => {
            if let Some(value) = value {
                let (revision, lease) = (*revision, *lease);
                view.put_slot(now, key, value, At { revision, lease });
                view.heard(now, key);
            }
        }
        (Written::Done(revision), Write::Delete { .. }) => view.removed(key, *revision),
        // Somebody changed it while it fell silent here: the watch will tell.
        (Written::Absent(_), Write::Delete { revision: Some(_) }) => {}
        (Written::Absent(revision), _) => view.removed(key, *revision),
        (Written::Changed(held), _) => take_up(view, now, key, held),
    }
}

/// Notes in the view what became of a write of what an instance's checks have found.
fn settle_report(view: &mut EtcdView, key: &InstanceKey, write: &Write, written: &Written) {
    let (Written::Done(revision), Write::Put { value, lease }) = (written, write) else {
        return;
    };
    if let Ok(report) = decode_report(key, value) {
        let (revision, lease) = (*revision, *lease);
        view.put_report(key, report, At { revision, lease });
    }
}

/// Takes up what a comparison came upon.
fn take_up(view: &mut EtcdView, now: Instant, key: &SlotKey, held: &KeyValue) {
    let at = At {
        revision: held.mod_revision,
        lease: held.lease,
    };
    if let Ok(registration) = decode_registration(key, &held.value) {
        view.put_slot(now, key, registration, at);
        view.heard(now, key);
    }
}
