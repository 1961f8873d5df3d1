//! Gateways that are attached to this process: their presence, and what they report of the instances that they check.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use causeway_federation::name::GatewayName;
use causeway_federation::registry::InstanceKey;
use causeway_proto::registry as proto;
use prost::Message as _;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    Inner, MAX_REPORTS, SharedRegistry,
    keys::Key,
    lane::PATIENCE,
    leases::{HEALTH_TIME_TO_LIVE, LeaseClass},
    write::Write,
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
    task: JoinHandle<Option<()>>,
}

impl SharedRegistry {
    /// A gateway attached itself to this process.
    #[must_use]
    pub fn attach(&self, gateway: GatewayName) -> GatewayPresence {
        let inner = Arc::clone(&self.inner);
        let adopted = inner.change(|view| view.attach(&gateway));
        let own = |report: &proto::HealthReport| {
            report
                .key
                .clone()
                .and_then(|key| causeway_federation::registry::wire::key(key).ok())
        };
        inner.reports().extend(
            adopted
                .into_iter()
                .filter_map(|report| Some((own(&report)?, report))),
        );
        inner.reported.notify_one();
        let name = format!("presence of gateway {gateway}");
        let present = be_present(Arc::clone(&inner), gateway.clone());
        let task = tokio::spawn(inner.tasks.guard(name, present));
        tracing::info!(zone = %inner.zone, %gateway, "a gateway attached itself");
        GatewayPresence { inner, gateway, task }
    }
}

impl GatewayPresence {
    /// Takes up what the gateway found of an instance. Others that are attached here are told at once.
    pub fn report(&self, key: InstanceKey, mut report: proto::HealthReport) {
        report.gateway = self.gateway.to_string();
        let must_be_written = self.inner.change(|view| {
            let is_known = view.report(&key).is_some();
            (is_known || view.reports().len() < MAX_REPORTS) && view.report_here(&key, &report)
        });
        if must_be_written {
            self.inner.reports().insert(key, report);
            self.inner.reported.notify_one();
        }
    }
}

impl Drop for GatewayPresence {
    fn drop(&mut self) {
        self.task.abort();
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

/// Keeps the gateway's key in etcd, under a lease that others renew together with theirs.
async fn be_present(inner: Arc<Inner>, gateway: GatewayName) {
    loop {
        let lease = inner.presences().get(&gateway).copied();
        let lives = lease.is_some_and(|lease| inner.leases().contains(lease));
        if !lives && inner.is_following() {
            appear(&inner, &gateway).await;
        }
        sleep(LOOK_EVERY).await;
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
        .order(Key::Gateway(gateway.clone()), write, None, None)
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
        for (key, report) in waiting {
            let write = Write::Put {
                value: report.encode_to_vec(),
                lease: 0,
            };
            let Ok(order) = self
                .order(Key::Health(key.clone()), write, None, Some((class, None)))
                .await
            else {
                return;
            };
            orders.push((key, report, order));
        }
        for (key, report, order) in orders {
            if !matches!(order.await, Ok(Ok(_))) {
                return;
            }
            let mut reports = self.reports();
            // What was reported since must be written as well.
            if reports.get(&key) == Some(&report) {
                reports.remove(&key);
            }
        }
    }
}
