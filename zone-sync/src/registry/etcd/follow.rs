//! Reads everything that etcd holds of the zone once, and then follows every change: a watch from the next revision on.
//!
//! A watch that breaks or falls silent is taken up at another member where it ended. Only when etcd has compacted that
//! away is everything read anew. To know that a watch lives, the member is asked for a sign of life every second; what
//! revision that sign names is not used, because etcd before 3.4.25 may send it ahead of events.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use causeway_proto::etcd::{
    etcdserverpb::{
        RangeRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
        watch_request::RequestUnion,
    },
    mvccpb::{Event, KeyValue, event::EventType},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use super::{
    Contact, Inner,
    client::{CALL_LIMIT, PAGE, pause},
    keys::{Key, decode_registration, decode_report, decode_session},
    view::{At, EtcdView},
};

/// Interval at which a sign of life is asked for.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A watch that says nothing for this long is taken up elsewhere.
const SILENCE: Duration = Duration::from_secs(3);
/// Requests on one watch that may wait to be sent.
const MAX_REQUESTS: usize = 8;

/// Reason why a watch ended.
enum Ended {
    /// The revision to go on from is gone: everything must be read anew.
    Compacted,
    /// etcd is of an earlier revision than what it told before: it was restored from a copy, or begun anew.
    SetBack,
    Failed(Status),
}

/// Runs until the registry is dropped.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut failures = 0;
    let mut must_read = true;
    loop {
        let member = inner.client.preferred();
        if must_read {
            match read(&inner).await {
                Ok(instances) => {
                    must_read = false;
                    let revision = inner.view().revision();
                    tracing::info!(zone = %inner.zone, instances, revision, "everything in etcd was read");
                }
                Err(error) => {
                    failures += 1;
                    tell(&inner, failures, &error);
                    sleep(pause(failures)).await;
                    continue;
                }
            }
        }
        let before = inner.view().revision();
        match watch(&inner, member).await {
            Ended::Compacted => {
                tracing::info!(zone = %inner.zone, "etcd has compacted its history; reading everything anew");
                must_read = true;
            }
            Ended::SetBack => must_read = true,
            Ended::Failed(error) => {
                // A watch that told something was a good one.
                failures = if inner.is_following() || inner.view().revision() > before {
                    1
                } else {
                    failures + 1
                };
                inner.lost_contact();
                inner.client.leave(member);
                tell(&inner, failures, &error);
                sleep(pause(failures)).await;
            }
        }
    }
}

/// Tells the operator once per outage, when it is more than a change of member; and once that etcd is waited for, when every member has
/// been tried.
fn tell(inner: &Inner, failures: u32, error: &dyn std::error::Error) {
    /// So many members or attempts in a row are an outage.
    const AN_OUTAGE: u32 = 4;
    let cause = error.source().map(ToString::to_string);
    if inner.is_waiting() {
        let why = cause
            .as_ref()
            .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        *inner.unreached() = Some(why);
        if failures as usize == inner.client.len() {
            let etcd = inner.client.addresses();
            tracing::warn!(zone = %inner.zone, etcd, %error, cause,
                "etcd is waited for; until it is reached nothing is known, no gateway can attach and nothing can be registered");
        }
    } else if failures == AN_OUTAGE {
        tracing::warn!(zone = %inner.zone, %error, cause, "etcd is out of reach; what is known is still served");
    } else {
        tracing::debug!(zone = %inner.zone, %error, cause, failures, "etcd could not be followed");
    }
}

/// Reads everything at one revision, page by page.
async fn read(inner: &Inner) -> Result<usize, super::EtcdError> {
    let mut request = RangeRequest {
        key: inner.layout.first(),
        range_end: inner.layout.end(),
        limit: PAGE,
        revision: 0,
    };
    let mut is_first = true;
    loop {
        // Nothing is lost by a failure then, and somebody waits for the word of it.
        let patience = match is_first && inner.is_waiting() {
            true => Duration::ZERO,
            false => 2 * CALL_LIMIT,
        };
        let page = inner.client.range(patience, &request).await?;
        if is_first {
            is_first = false;
            // Every page is of the revision of the first.
            request.revision = page.header.map_or(0, |header| header.revision);
            if inner.is_away() {
                inner.change(|view| view.recovered(Instant::now()));
            }
            check_set_back(inner, request.revision);
            inner.view().begin_reading();
        }
        let last = page.kvs.last().map(|last| last.key.clone());
        inner.change(|view| {
            for held in page.kvs {
                put(inner, view, held);
            }
        });
        match last.filter(|_| page.more) {
            // The next key after `last` is `last` with a zero byte.
            Some(mut last) => {
                last.push(0);
                request.key = last;
            }
            None => break,
        }
    }
    inner.change(|view| view.end_reading(Instant::now(), request.revision));
    Ok(inner.view().len())
}

/// Follows changes until the watch fails.
async fn watch(inner: &Inner, member: usize) -> Ended {
    let (requests, outgoing) = mpsc::channel(MAX_REQUESTS);
    let create = RequestUnion::CreateRequest(WatchCreateRequest {
        key: inner.layout.first(),
        range_end: inner.layout.end(),
        start_revision: inner.view().revision() + 1,
        fragment: true,
    });
    // The channel is new and has room.
    let _ = requests.try_send(request(create));
    let mut answers = match inner.client.watch(member, ReceiverStream::new(outgoing)).await {
        Ok(answers) => answers,
        Err(error) => return Ended::Failed(error),
    };
    let mut asks = interval(ASK_EVERY);
    asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            answer = next(&mut answers) => {
                heard = Instant::now();
                match answer.and_then(|answer| take(inner, answer)) {
                    Ok(None) => {}
                    Ok(Some(Ended::SetBack)) => match is_set_back(inner).await {
                        Ok(true) => return Ended::SetBack,
                        Ok(false) => contact(inner),
                        Err(error) => return Ended::Failed(error),
                    },
                    Ok(Some(ended)) => return ended,
                    Err(error) => return Ended::Failed(error),
                }
            }
            _ = asks.tick() => {
                if heard.elapsed() > SILENCE {
                    return Ended::Failed(Status::deadline_exceeded(format!("no sign of life for {SILENCE:?}")));
                }
                // When requests pile up, the member is silent, and that is seen above.
                let _ = requests.try_send(request(RequestUnion::ProgressRequest(WatchProgressRequest {})));
            }
        }
    }
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest {
        request_union: Some(union),
    }
}

async fn next(answers: &mut Streaming<WatchResponse>) -> Result<WatchResponse, Status> {
    match answers.next().await {
        Some(answer) => answer,
        None => Err(Status::unavailable("the member ended the watch")),
    }
}

/// Looks whether etcd is of an earlier revision than what it told before: then nothing that is known counts as newer. Only to be
/// called with what a reading said: a member that lags may tell a watch of an earlier revision.
fn check_set_back(inner: &Inner, revision: i64) {
    let known = inner.view().revision();
    if revision >= known {
        return;
    }
    tracing::error!(zone = %inner.zone, known, revision,
        "etcd has been set back: it was restored from a copy or begun anew; what it lacks is put back from what is known here");
    inner.change(|view| view.set_back(Instant::now()));
}

/// Tells whether etcd as a whole is of an earlier revision than what is known, and not just the member that was asked.
async fn is_set_back(inner: &Inner) -> Result<bool, Status> {
    let request = RangeRequest {
        key: inner.layout.first(),
        limit: 1,
        ..RangeRequest::default()
    };
    let known = inner.view().revision();
    let answer = inner.client.range(CALL_LIMIT, &request).await;
    let answer = answer.map_err(|error| Status::unavailable(error.cause()))?;
    Ok(answer.header.map_or(0, |header| header.revision) < known)
}

/// Takes up one answer; `Some`: it was the last.
fn take(inner: &Inner, answer: WatchResponse) -> Result<Option<Ended>, Status> {
    if answer.compact_revision != 0 {
        return Ok(Some(Ended::Compacted));
    }
    if answer.canceled {
        return Err(Status::unavailable(answer.cancel_reason));
    }
    if answer.created {
        let revision = answer.header.map_or(0, |header| header.revision);
        if revision < inner.view().revision() {
            return Ok(Some(Ended::SetBack));
        }
        contact(inner);
        return Ok(None);
    }
    // Of a part, not everything up to its revision has been told.
    let told = if answer.fragment {
        None
    } else {
        answer.events.iter().filter_map(revision).max()
    };
    inner.change(|view| {
        for event in answer.events {
            apply(inner, view, event);
        }
        if let Some(told) = told {
            view.advance(told);
        }
    });
    Ok(None)
}

/// The watch stands.
fn contact(inner: &Inner) {
    let was = *inner.contact.borrow();
    if let Contact::Away { since } = was {
        inner.change(|view| view.recovered(Instant::now()));
        tracing::info!(zone = %inner.zone, away = ?since.elapsed(), "etcd is followed again");
    }
    if was != Contact::Following {
        inner.contact.send_replace(Contact::Following);
    }
}

fn revision(event: &Event) -> Option<i64> {
    Some(event.kv.as_ref()?.mod_revision)
}

fn apply(inner: &Inner, view: &mut EtcdView, event: Event) {
    let is_delete = event.r#type() == EventType::Delete;
    let Some(held) = event.kv else { return };
    if !is_delete {
        put(inner, view, held);
        return;
    }
    // What was never understood need not be forgotten.
    if let Ok(key) = inner.layout.decode(&held.key) {
        view.delete(Instant::now(), &key, held.mod_revision);
    }
}

fn put(inner: &Inner, view: &mut EtcdView, held: KeyValue) {
    let at = At {
        revision: held.mod_revision,
        lease: held.lease,
    };
    let taken = inner.layout.decode(&held.key).and_then(|key| {
        match key {
            Key::Slot(key) => {
                let registration = decode_registration(&key, &held.value)?;
                view.put_slot(Instant::now(), &key, registration, at);
            }
            Key::Health(key) => view.put_report(&key, decode_report(&key, &held.value)?, at),
            Key::Gateway(name) => view.put_gateway(&name, at),
            Key::Session(name) => {
                view.put_session(&name, at.revision);
                let session = decode_session(&name, &held.value)?;
                inner.sessions().told(&name, session, at.revision);
            }
            // Of no use but to who writes it.
            Key::Writer(_) => {}
        }
        Ok(())
    });
    if let Err(error) = taken {
        let before = inner.counters.strange.fetch_add(1, Ordering::Relaxed);
        // Somebody may write thousands of them; the counter in /metrics has them all.
        if before.is_power_of_two() || before == 0 {
            tracing::warn!(zone = %inner.zone, %error, "etcd holds something that is not understood; it is left alone");
        }
    }
}
