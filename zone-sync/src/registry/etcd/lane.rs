//! Writes what is ordered, in the order that it came for each key, as few and as large transactions as are at hand: while
//! one is on its way, the next gathers.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use causeway_federation::registry::{CallSession, Registration};
use causeway_proto::etcd::etcdserverpb::ResponseOp;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::{
    EtcdError, Inner,
    error::WRITE,
    keys::{Key, WriterKey, encode_session},
    leases::LeaseClass,
    mark::{LaneMark, MarkAnswer},
    settle::settle,
    write::{self, Fence, KeyedWrite, MAX_BYTES, MAX_WRITES, Write, Written},
};

/// Orders that may wait in one lane: a full request of the contract from each of some connectors.
pub(super) const MAX_ORDERS: usize = 16_384;
/// For how long an order is tried, from when it was given.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Time to live of a lane's mark after its process.
const MARK_TIME_TO_LIVE: Duration = Duration::from_secs(60);
/// Transactions for one batch, of which the last ones are needed when the mark is not as it was left.
const MAX_TRANSACTIONS: usize = 4;

/// A write, and who waits for it.
#[derive(Debug)]
pub(super) struct WriteOrder {
    pub key: Key,
    pub write: Write,
    /// Registration that the value holds, for the view.
    pub value: Option<Registration>,
    /// The class of the lease that it goes with, and the lease that it had rather keep.
    pub lease: Option<(LeaseClass, Option<i64>)>,
    /// Session of the gateway that asked for it: it is written only while that lasts.
    pub caller: Option<CallSession>,
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
    pub(super) fn untouched(why: &str) -> Self {
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
        caller: Option<&CallSession>,
    ) -> Result<oneshot::Receiver<Result<Written, NotWritten>>, NotWritten> {
        let (mut order, answer) = new_order(key, write, value, lease);
        order.caller = caller.cloned();
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

    /// Condition in etcd of a write in this session.
    fn fence(&self, caller: &CallSession) -> Fence {
        Fence {
            key: self.layout.encode(&Key::Session(caller.gateway.clone())),
            value: encode_session(caller.session),
        }
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
        caller: None,
        since: Instant::now(),
        answer,
    };
    (order, answered)
}

/// Mark of a lane, and the lease that it goes with.
struct Lane {
    mark: LaneMark,
    lease: Option<i64>,
}

impl Lane {
    /// A lease for the mark.
    async fn lease(&mut self, inner: &Inner, left: Duration) -> Result<i64, EtcdError> {
        if let Some(lease) = self.lease
            && inner.leases().contains(lease)
        {
            return Ok(lease);
        }
        let class = LeaseClass::of(MARK_TIME_TO_LIVE);
        let granted = inner.client.grant(left, class.lease_seconds()).await?;
        inner.leases().add_apart(Instant::now(), class, granted.id);
        self.lease = Some(granted.id);
        Ok(granted.id)
    }
}

/// Runs until the registry is dropped.
pub(super) async fn run(inner: Arc<Inner>, key: WriterKey, mut orders: mpsc::Receiver<WriteOrder>) {
    let mut lane = Lane {
        mark: LaneMark::new(inner.layout.encode(&Key::Writer(key))),
        lease: None,
    };
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
        commit(&inner, &mut lane, batch).await;
    }
}

/// An order with its key as etcd has it, and what must hold for it to be done.
pub(super) struct EncodedOrder {
    key: Vec<u8>,
    fence: Option<Fence>,
    pub order: WriteOrder,
}

impl EncodedOrder {
    fn bytes(&self) -> usize {
        self.order.write.bytes(&self.key) + self.fence.as_ref().map_or(0, Fence::bytes)
    }

    fn keyed(&self) -> KeyedWrite<'_> {
        KeyedWrite {
            key: &self.key,
            write: &self.order.write,
            fence: self.fence.as_ref(),
        }
    }
}

/// The first orders that fit into one transaction: no key twice.
fn next_batch(inner: &Inner, waiting: &mut Vec<WriteOrder>) -> Vec<EncodedOrder> {
    let mut keys = HashSet::new();
    let mut bytes = 0;
    let mut batch = Vec::new();
    let mut rest = Vec::new();
    for order in waiting.drain(..) {
        let encoded = EncodedOrder {
            key: inner.layout.encode(&order.key),
            fence: order.caller.as_ref().map(|caller| inner.fence(caller)),
            order,
        };
        let size = encoded.bytes();
        // Once one had to wait, all later ones of its key must.
        let fits = batch.len() < MAX_WRITES && (batch.is_empty() || bytes + size <= MAX_BYTES);
        let is_new = keys.insert(encoded.key.clone());
        if fits && is_new {
            bytes += size;
            batch.push(encoded);
        } else {
            rest.push(encoded.order);
        }
    }
    *waiting = rest;
    batch
}

/// Takes out what comes too late: because it has waited for too long, or because its gateway has gone on without it.
fn sift(inner: &Inner, now: Instant, batch: Vec<EncodedOrder>) -> Vec<EncodedOrder> {
    let mut kept = Vec::with_capacity(batch.len());
    for encoded in batch {
        let order = &encoded.order;
        let refusal = match &order.caller {
            _ if now > order.since + PATIENCE => Some("etcd is too slow, or out of reach".to_owned()),
            Some(caller) => inner.sessions().check(caller).err().map(|why| why.to_string()),
            None => None,
        };
        match refusal {
            Some(why) => refuse(inner, vec![encoded], &NotWritten::untouched(&why)),
            None => kept.push(encoded),
        }
    }
    kept
}

async fn commit(inner: &Inner, lane: &mut Lane, batch: Vec<EncodedOrder>) {
    let now = Instant::now();
    let mut batch = sift(inner, now, batch);
    let Some(oldest) = batch.iter().map(|encoded| encoded.order.since).min() else {
        return;
    };
    let left = (oldest + PATIENCE)
        .saturating_duration_since(now)
        .max(super::client::CALL_LIMIT);
    let mut written = attempt(inner, lane, &mut batch, left).await;
    if written.as_ref().is_err_and(EtcdError::is_lost_lease) {
        // One of the leases ran out and word of it has not come. New ones are granted, and all old ones asked after.
        for EncodedOrder { order, .. } in &mut batch {
            if let Some((_, kept)) = &mut order.lease {
                *kept = None;
            }
            if let Write::Put { lease, .. } | Write::Claim { lease, .. } = &order.write {
                inner.leases().close(*lease);
            }
        }
        if let Some(lease) = lane.lease.take() {
            inner.leases().remove(lease);
        }
        inner.leases().all_due(now);
        written = attempt(inner, lane, &mut batch, left).await;
    }
    match written {
        Ok((written, is_first)) => {
            inner.refused().take();
            settle(inner, batch, written, is_first);
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

/// Tries to write, and says what became of each and whether it was tried only once.
async fn attempt(
    inner: &Inner,
    lane: &mut Lane,
    batch: &mut [EncodedOrder],
    left: Duration,
) -> Result<(Vec<Written>, bool), EtcdError> {
    let until = Instant::now() + left;
    for EncodedOrder { order, .. } in batch.iter_mut() {
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
    let (revision, responses, is_first) = send(inner, lane, batch, until).await?;
    let fenced = batch.iter().map(|encoded| encoded.fence.is_some());
    let mut written = write::outcomes(revision, responses, fenced);
    if !is_first {
        // The earlier attempt may have been done after all; then what it deleted is absent now.
        for (outcome, encoded) in written.iter_mut().zip(batch.iter()) {
            let write = &encoded.order.write;
            if let (Written::Absent(revision), Write::Delete { revision: None }) = (&*outcome, write) {
                *outcome = Written::Done(*revision);
            }
        }
    }
    Ok((written, is_first))
}

/// Sends the transaction with the lane's mark, again where that is not as it was left. Returns the revision, the answers to the writes, and
/// whether they were tried only once.
async fn send(
    inner: &Inner,
    lane: &mut Lane,
    batch: &[EncodedOrder],
    until: Instant,
) -> Result<(i64, Vec<ResponseOp>, bool), EtcdError> {
    let left = || until.saturating_duration_since(Instant::now());
    let lease = lane.lease(inner, left()).await?;
    let mut is_first = true;
    for _ in 0..MAX_TRANSACTIONS {
        let mark = &lane.mark;
        let has_writes = !mark.is_missing();
        let request = |attempt| {
            let writes = write::operations(batch.iter().map(EncodedOrder::keyed));
            mark.transaction(attempt, lease, writes)
        };
        let sent = inner.client.txn(left(), request).await;
        let (answer, attempts) = sent.map_err(|error| {
            lane.mark.give_up();
            if is_first { error } else { error.after_another() }
        })?;
        is_first &= attempts == 1 || !has_writes;
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        if let MarkAnswer::Written(responses) = lane.mark.answered(attempts, answer) {
            return Ok((revision, responses, is_first));
        }
    }
    Err(EtcdError::Unreachable {
        what: WRITE,
        source: Status::aborted("somebody else changes this process's own key in etcd"),
    })
}

fn refuse(inner: &Inner, batch: Vec<EncodedOrder>, why: &NotWritten) {
    inner
        .counters
        .failed
        .fetch_add(batch.len() as u64, Ordering::Relaxed);
    for EncodedOrder { order, .. } in batch {
        // An instance that lives must get its key back sooner or later.
        if let (Key::Slot(key), Write::Claim { recreate: true, .. }) = (&order.key, &order.write) {
            inner.view().claim_later(key.clone());
        }
        // Who no longer listens needs no answer.
        let _ = order.answer.send(Err(why.clone()));
    }
}
