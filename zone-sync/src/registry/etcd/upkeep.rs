//! Work that has to be done now and then: deleting what fell silent, claiming anew what lost its lease, writing reports of
//! health, and keeping the leases of this process alive.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_proto::etcd::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use super::{Inner, client::pause, keys::Key, lane::PATIENCE, write::Write};

/// Interval at which it is looked what there is to do. An instance is deleted up to this much too late.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Number of looks between two in which leases without keys are looked for.
const LOOKS_BETWEEN_SWEEPS: u32 = 40;
/// Interval at which it is looked which leases are to be renewed.
const RENEW_EVERY: Duration = Duration::from_millis(200);
/// A stream of renewals that says nothing for this long, although it was asked, is left for another member.
const SILENCE: Duration = Duration::from_secs(2);
/// Renewals that may wait to be sent: more than there are leases.
const MAX_RENEWALS: usize = 4_096;

/// Runs until the registry is dropped.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked: u32 = 0;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = inner.reported.notified() => {}
        }
        if !inner.is_following() {
            // A report that came meanwhile is written at the first look after contact is regained.
            looks.tick().await;
            continue;
        }
        look(&inner);
        inner.write_reports().await;
        looked = looked.wrapping_add(1);
        if looked.is_multiple_of(LOOKS_BETWEEN_SWEEPS) {
            give_back(&inner).await;
        }
    }
}

fn look(inner: &Inner) {
    let now = Instant::now();
    let (overdue, claims, orphans) = inner.change(|view| {
        view.expire_gateways(now);
        (view.expire(now), view.take_claims(), view.take_orphans())
    });
    if !overdue.is_empty() {
        tracing::info!(zone = %inner.zone, instances = overdue.len(), "instances fell silent");
    }
    for silent in overdue {
        let revision = Some(silent.revision);
        // Without room, it is named again a few seconds later.
        inner.order_aside(Key::Slot(silent.key), Write::Delete { revision }, None, None);
    }
    for claim in claims {
        let (key, write, value, lease) = inner.claim_parts(claim);
        if !inner.order_aside(Key::Slot(key.clone()), write, Some(value), lease) {
            inner.view().claim_later(key);
        }
    }
    for (key, revision) in orphans {
        let revision = Some(revision);
        // Without room it stays until the lease of its reporter goes.
        inner.order_aside(Key::Health(key), Write::Delete { revision }, None, None);
    }
}

/// Gives back leases that no key goes with any more.
async fn give_back(inner: &Inner) {
    let empty = {
        let view = inner.view();
        inner
            .leases()
            .empty(Instant::now(), |lease| view.keys_of_lease(lease))
    };
    for lease in empty {
        if inner.client.revoke(PATIENCE, lease).await.is_ok() {
            inner.lose_lease(lease);
        }
    }
}

/// Renews the leases of this process until the registry is dropped.
pub(super) async fn keep_leases(inner: Arc<Inner>) {
    let mut failures = 0;
    loop {
        let member = inner.client.preferred();
        let (requests, outgoing) = mpsc::channel(MAX_RENEWALS);
        let opened = inner.client.keep_alive(member, ReceiverStream::new(outgoing));
        // etcd answers the headers of the stream with the first renewal, so one that names no lease goes first.
        let _ = requests.try_send(LeaseKeepAliveRequest { id: 1 });
        let ended = match opened.await {
            Ok(answers) => {
                failures = 0;
                inner.leases().all_due(Instant::now());
                renew(&inner, &requests, answers).await
            }
            Err(error) => error,
        };
        tracing::debug!(member = %inner.client.address(member), %ended, "renewing leases ended");
        inner.client.leave(member);
        failures += 1;
        sleep(pause(failures)).await;
    }
}

/// Renews until the stream fails, and says how.
async fn renew(
    inner: &Inner,
    requests: &mpsc::Sender<LeaseKeepAliveRequest>,
    mut answers: Streaming<LeaseKeepAliveResponse>,
) -> Status {
    let mut looks = interval(RENEW_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Since when an answer is awaited.
    let mut asked: Option<Instant> = None;
    loop {
        tokio::select! {
            answer = answers.next() => match answer {
                Some(Ok(answer)) => {
                    asked = None;
                    take_answer(inner, &answer);
                }
                Some(Err(error)) => return error,
                None => return Status::unavailable("the member ended the stream"),
            },
            _ = looks.tick() => {
                let now = Instant::now();
                if asked.is_some_and(|asked| now.duration_since(asked) > SILENCE) {
                    return Status::deadline_exceeded(format!("no answer within {SILENCE:?}"));
                }
                for lease in inner.leases().due(now) {
                    if requests.try_send(LeaseKeepAliveRequest { id: lease }).is_err() {
                        return Status::unavailable("the member does not take renewals");
                    }
                    asked = asked.or(Some(now));
                }
            }
        }
    }
}

fn take_answer(inner: &Inner, answer: &LeaseKeepAliveResponse) {
    if answer.ttl > 0 {
        inner.leases().renewed(Instant::now(), answer.id);
    } else if inner.leases().contains(answer.id) {
        let keys = inner.view().keys_of_lease(answer.id);
        tracing::warn!(zone = %inner.zone, lease = answer.id, keys,
            "a lease ran out although it was renewed: etcd was out of reach for too long; its instances are put back");
        inner.lose_lease(answer.id);
    }
}
