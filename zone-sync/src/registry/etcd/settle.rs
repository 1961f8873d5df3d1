//! Takes what etcd answered to writes into the view, before the watch tells it, and answers those who wait for it.

use std::{sync::atomic::Ordering, time::Instant};

use causeway_federation::name::GatewayName;
use causeway_federation::registry::{CallSession, InstanceKey, Registration};
use causeway_proto::etcd::mvccpb::KeyValue;

use super::{
    Inner,
    keys::{Key, SlotKey, decode_registration, decode_report, decode_session},
    lane::{EncodedOrder, NotWritten},
    view::{At, EtcdView},
    write::{Write, Written},
};

/// Takes what was written into the view at once, before the watch tells it, and answers those who wait for it.
pub(super) fn settle(inner: &Inner, batch: Vec<EncodedOrder>, written: Vec<Written>, is_first: bool) {
    let now = Instant::now();
    inner
        .counters
        .written
        .fetch_add(batch.len() as u64, Ordering::Relaxed);
    let mut answers = Vec::with_capacity(batch.len());
    inner.change(|view| {
        for (EncodedOrder { order, .. }, written) in batch.into_iter().zip(written) {
            let answer = match (&order.key, &written) {
                (_, Written::Fenced) => Err(fenced(inner, order.caller.as_ref(), is_first)),
                (Key::Slot(key), _) => {
                    settle_slot(view, now, key, (&order.write, order.value), &written);
                    Ok(written)
                }
                (Key::Health(key), _) => {
                    settle_report(view, key, &order.write, &written);
                    Ok(written)
                }
                (Key::Session(gateway), _) => {
                    settle_session(inner, view, gateway, &order.write, &written);
                    Ok(written)
                }
                // Who is there is told by the watch alone; marks are of no use to others.
                (Key::Gateway(_) | Key::Writer(_), _) => Ok(written),
            };
            answers.push((order.answer, answer));
        }
    });
    for (answer, written) in answers {
        // Who no longer listens needs no answer.
        let _ = answer.send(written);
    }
}

/// etcd holds another session of the gateway than the one that asked, which ends that one here too.
fn fenced(inner: &Inner, caller: Option<&CallSession>, is_first: bool) -> NotWritten {
    if let Some(caller) = caller {
        inner.sessions().end(&caller.gateway, caller.session);
    }
    NotWritten {
        // An earlier attempt may have been done, before there was another session.
        is_untouched: is_first,
        ..NotWritten::untouched("the gateway has attached itself anew since")
    }
}

/// Notes what became of the key of a gateway's last session.
fn settle_session(
    inner: &Inner,
    view: &mut EtcdView,
    gateway: &GatewayName,
    write: &Write,
    written: &Written,
) {
    let (value, revision) = match (written, write) {
        (Written::Done(revision), Write::Claim { value, .. }) => (value, *revision),
        (Written::Changed(held), _) => (&held.value, held.mod_revision),
        (Written::Absent(revision), _) => return view.delete_session(gateway, *revision),
        (Written::Done(_) | Written::Fenced, _) => return,
    };
    view.put_session(gateway, revision);
    if let Ok(session) = decode_session(gateway, value) {
        inner.sessions().told(gateway, session, revision);
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
        (Written::Fenced, _) => {}
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
