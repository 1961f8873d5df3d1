//! Gateways that are attached to this process: their presence, and what they report of the instances that they check.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use causeway_federation::name::GatewayName;
use causeway_federation::registry::{CallSession, GatewaySession, InstanceKey};
use causeway_proto::registry as proto;
use prost::Message as _;
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{
    Inner, MAX_REPORTS, SharedRegistry,
    keys::{Key, encode_session},
    lane::PATIENCE,
    leases::{HEALTH_TIME_TO_LIVE, LeaseClass},
    sessions::{SessionRefusal, SessionStanding},
    write::{Write, Written},
};

/// With the time that a renewal may take on top this makes a lease of 5 s: how long a gateway whose zone-sync died has to
/// attach to another before the others take over its checks.
const PRESENCE: Duration = Duration::from_secs(3);
/// Interval at which an attachment looks whether its lease still lives.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A gateway is present while this lives.
#[derive(Debug)]
pub struct GatewayPresence {
    inner: Arc<Inner>,
    gateway: GatewayName,
    session: Option<AttachedSession>,
    task: JoinHandle<Option<()>>,
}

/// Session of an attachment.
#[derive(Debug, Clone)]
struct AttachedSession {
    id: GatewaySession,
    standing: watch::Receiver<SessionStanding>,
    /// Revision of the gateway's session before it, as this process knew it when this one began.
    before: i64,
}

/// Report of health that is not in etcd yet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UnwrittenReport {
    report: proto::HealthReport,
    /// Session that it was made in: it is written only while that lasts.
    caller: Option<CallSession>,
}

impl SharedRegistry {
    /// A gateway attached itself to this process, and so ends what it said in any session before this one. Without a `session`, it is
    /// one of a version that names none.
    #[must_use]
    pub fn attach(&self, gateway: GatewayName, session: Option<GatewaySession>) -> GatewayPresence {
        let inner = Arc::clone(&self.inner);
        let (adopted, before) = inner.change(|view| (view.attach(&gateway), view.session_revision(&gateway)));
        let session = session.map(|id| AttachedSession {
            id,
            standing: inner.sessions().begin(&gateway, id),
            before,
        });
        let name = format!("presence of gateway {gateway}");
        let present = be_present(Arc::clone(&inner), gateway.clone(), session.clone());
        let presence = GatewayPresence {
            task: tokio::spawn(inner.tasks.guard(name, present)),
            gateway,
            session,
            inner,
        };
        presence.adopt(adopted);
        tracing::info!(zone = %self.inner.zone, gateway = %presence.gateway, "a gateway attached itself");
        presence
    }
}

impl GatewayPresence {
    /// Waits until the gateway's session is in force, or is over.
    pub async fn settled(&self) {
        if let Some(session) = &self.session {
            let mut standing = session.standing.clone();
            // A session without a sender is over.
            let _ = standing
                .wait_for(|standing| *standing != SessionStanding::Awaited)
                .await;
        }
    }

    /// Waits until the gateway has begun another session, here or elsewhere.
    pub async fn over(&self) {
        let Some(session) = &self.session else {
            return std::future::pending().await;
        };
        let mut standing = session.standing.clone();
        // A session without a sender is over.
        let _ = standing
            .wait_for(|standing| *standing == SessionStanding::Over)
            .await;
    }

    /// Takes up what the gateway found of an instance. Others that are attached here are told at once.
    pub fn report(&self, key: InstanceKey, mut report: proto::HealthReport) {
        let session = self.session.as_ref();
        if session.is_some_and(|session| *session.standing.borrow() == SessionStanding::Over) {
            return;
        }
        report.gateway = self.gateway.to_string();
        let must_be_written = self.inner.change(|view| {
            let is_known = view.report(&key).is_some();
            (is_known || view.reports().len() < MAX_REPORTS) && view.report_here(&key, &report)
        });
        if must_be_written {
            let report = self.unwritten(report);
            self.inner.reports().insert(key, report);
            self.inner.reported.notify_one();
        }
    }

    /// Has reports written anew that the gateway made elsewhere.
    fn adopt(&self, reports: Vec<proto::HealthReport>) {
        let keyed = reports.into_iter().filter_map(|report| {
            let key = causeway_federation::registry::wire::key(report.key.clone()?).ok()?;
            Some((key, self.unwritten(report)))
        });
        self.inner.reports().extend(keyed);
        self.inner.reported.notify_one();
    }

    fn unwritten(&self, report: proto::HealthReport) -> UnwrittenReport {
        let caller = self.session.as_ref().map(|session| CallSession {
            gateway: self.gateway.clone(),
            session: session.id,
            // It is never given up: the next one of its instance takes its place.
            epoch: u64::MAX,
        });
        UnwrittenReport { report, caller }
    }
}

impl Drop for GatewayPresence {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(session) = &self.session {
            self.inner.sessions().end(&self.gateway, session.id);
        }
        let is_last = self.inner.change(|view| view.detach(&self.gateway));
        if !is_last || self.inner.stopping.load(Ordering::Relaxed) {
            return;
        }
        tracing::info!(zone = %self.inner.zone, gateway = %self.gateway, "a gateway is attached here no more");
        // The key is deleted by its lease: when the gateway is attached elsewhere by now, the key goes with another.
        if let Some(lease) = self.inner.presences().remove(&self.gateway) {
            self.inner.leases().remove(lease);
            let inner = Arc::clone(&self.inner);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    // If it fails, the lease runs out by itself.
                    let _ = inner.client.revoke(PATIENCE, lease).await;
                });
            }
        }
    }
}

/// Keeps the gateway's key in etcd, under a lease that others renew together with theirs, once its session is there.
async fn be_present(inner: Arc<Inner>, gateway: GatewayName, mut session: Option<AttachedSession>) {
    loop {
        if let Some(session) = &mut session
            && *session.standing.borrow() == SessionStanding::Awaited
            && inner.is_following()
        {
            begin_session(&inner, &gateway, session).await;
        }
        let lease = inner.presences().get(&gateway).copied();
        let lives = lease.is_some_and(|lease| inner.leases().contains(lease));
        if !lives && inner.is_following() {
            appear(&inner, &gateway).await;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Puts a session into etcd as the gateway's last, unless another has been put there since it began.
async fn begin_session(inner: &Inner, gateway: &GatewayName, session: &mut AttachedSession) {
    let write = Write::Claim {
        value: encode_session(session.id),
        lease: 0,
        revision: session.before,
        recreate: false,
    };
    let key = Key::Session(gateway.clone());
    let Ok(order) = inner.order(key, write, None, None, None).await else {
        return;
    };
    match order.await {
        // It is this one if it was written by an attempt whose answer was lost.
        Ok(Ok(Written::Changed(held))) if held.value != encode_session(session.id) => {
            inner.sessions().end(gateway, session.id);
        }
        // etcd was set back.
        Ok(Ok(Written::Absent(_))) => session.before = 0,
        // What is not known to be done is tried again.
        Ok(Ok(_) | Err(_)) | Err(_) => {}
    }
}

async fn appear(inner: &Inner, gateway: &GatewayName) {
    let class = LeaseClass::of(PRESENCE);
    let Ok(granted) = inner.client.grant(PATIENCE, class.lease_seconds()).await else {
        return;
    };
    inner.leases().add_apart(Instant::now(), class, granted.id);
    inner.presences().insert(gateway.clone(), granted.id);
    let write = Write::Put {
        value: Vec::new(),
        lease: granted.id,
    };
    let Ok(order) = inner
        .order(Key::Gateway(gateway.clone()), write, None, None, None)
        .await
    else {
        return;
    };
    if !matches!(order.await, Ok(Ok(_))) {
        // It is tried again: without its key the lease is worth nothing.
        inner.leases().remove(granted.id);
    }
}

impl Inner {
    /// Writes the reports that are not in etcd yet. What cannot be written stays for the next time.
    pub(super) async fn write_reports(&self) {
        let waiting: Vec<_> = self.reports().clone().into_iter().collect();
        let class = LeaseClass::of(HEALTH_TIME_TO_LIVE);
        let mut orders = Vec::with_capacity(waiting.len());
        for (key, unwritten) in waiting {
            let caller = unwritten.caller.as_ref();
            match caller.map_or(Ok(()), |caller| self.sessions().check(caller)) {
                Ok(()) => {}
                Err(SessionRefusal::Awaited) => continue,
                Err(SessionRefusal::Over | SessionRefusal::GivenUp) => {
                    self.forget_report(&key, &unwritten);
                    continue;
                }
            }
            let write = Write::Put {
                value: unwritten.report.encode_to_vec(),
                lease: 0,
            };
            let lease = Some((class, None));
            let Ok(order) = self
                .order(Key::Health(key.clone()), write, None, lease, caller)
                .await
            else {
                return;
            };
            orders.push((key, unwritten, order));
        }
        for (key, report, order) in orders {
            if !matches!(order.await, Ok(Ok(_))) {
                return;
            }
            self.forget_report(&key, &report);
        }
    }

    /// Takes a report out of those to be written; what was reported since must be written as well.
    fn forget_report(&self, key: &InstanceKey, report: &UnwrittenReport) {
        let mut reports = self.reports();
        if reports.get(key) == Some(report) {
            reports.remove(key);
        }
    }
}
