//! The health that gateways report, and which gateways are present.

use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_federation::name::GatewayName;
use causeway_federation::registry::InstanceKey;
use causeway_proto::registry as proto;

use super::{At, EtcdView, ViewChange};

/// Time for which a gateway that was found gone after an outage still counts as present: as long as its lease.
pub(super) const GATEWAY_GRACE: Duration = Duration::from_secs(5);

/// Finding of a gateway about an instance.
#[derive(Debug)]
pub(super) struct Reported {
    report: Arc<proto::HealthReport>,
    at: At,
    pub(super) reading: u32,
}

/// A gateway that is attached somewhere.
#[derive(Debug)]
pub(super) struct Present {
    at: At,
    /// Until when it is kept although etcd no longer has it.
    doubted: Option<Instant>,
    pub(super) reading: u32,
}

impl EtcdView {
    /// Every report of health.
    pub fn reports(&self) -> impl ExactSizeIterator<Item = &Arc<proto::HealthReport>> {
        self.health.values().map(|held| &held.report)
    }

    #[must_use]
    pub fn report(&self, key: &InstanceKey) -> Option<&Arc<proto::HealthReport>> {
        self.health.get(key).map(|held| &held.report)
    }

    /// The gateways that are present, here or anywhere, by name.
    #[must_use]
    pub(crate) fn gateway_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.gateways.keys().chain(self.attached.keys()).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(ToString::to_string).collect()
    }

    /// A gateway attached itself to this process. Returns the reports that it made through another process: they are to
    /// be written anew under a lease of this one, or they would go with the other.
    pub fn attach(&mut self, gateway: &GatewayName) -> Vec<proto::HealthReport> {
        let known = self.is_present(gateway);
        *self.attached.entry(gateway.clone()).or_default() += 1;
        if !known {
            self.changes.insert(ViewChange::Gateways);
        }
        let elsewhere = self
            .health
            .values()
            .filter(|held| !self.own_leases.contains_key(&held.at.lease));
        let of_gateway = elsewhere.filter(|held| held.report.gateway == gateway.as_str());
        of_gateway
            .map(|held| proto::HealthReport::clone(&held.report))
            .collect()
    }

    /// The counterpart of [`EtcdView::attach`]. Whether it was the last attachment of this gateway.
    pub fn detach(&mut self, gateway: &GatewayName) -> bool {
        let Some(times) = self.attached.get_mut(gateway) else {
            return true;
        };
        *times -= 1;
        if *times > 0 {
            return false;
        }
        self.attached.remove(gateway);
        if !self.is_present(gateway) {
            self.changes.insert(ViewChange::Gateways);
        }
        true
    }

    /// Gateways that are attached to this process.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.attached.len()
    }

    /// Takes up a gateway's presence, as etcd holds it.
    pub(crate) fn put_gateway(&mut self, name: &GatewayName, at: At) {
        let known = self.is_present(name);
        let reading = self.reading;
        let held = self.gateways.entry(name.clone()).or_insert(Present {
            at,
            doubted: None,
            reading,
        });
        held.reading = reading;
        if held.at.revision <= at.revision {
            held.at = at;
            held.doubted = None;
        }
        if !known {
            self.changes.insert(ViewChange::Gateways);
        }
    }

    /// Revision of a gateway's last session in etcd; 0: it has none there, as far as is known.
    #[must_use]
    pub(crate) fn session_revision(&self, gateway: &GatewayName) -> i64 {
        self.session_revisions.get(gateway).copied().unwrap_or(0)
    }

    /// Takes up that etcd holds a session of a gateway.
    pub(crate) fn put_session(&mut self, gateway: &GatewayName, revision: i64) {
        let held = self.session_revisions.entry(gateway.clone()).or_default();
        *held = revision.max(*held);
    }

    /// Before everything is read anew. Whoever begins a session by what is not read yet is refused by etcd, and begins another.
    pub(super) fn forget_sessions(&mut self) {
        self.session_revisions.clear();
    }

    /// Takes up that etcd holds no session of a gateway, as of `revision`.
    pub(crate) fn delete_session(&mut self, gateway: &GatewayName, revision: i64) {
        if self.session_revision(gateway) <= revision {
            self.session_revisions.remove(gateway);
        }
    }

    /// Gateways that were found gone after an outage and did not come back; to be called now and then.
    pub(crate) fn expire_gateways(&mut self, now: Instant) {
        let before = self.gateway_names();
        self.gateways
            .retain(|_, held| held.doubted.is_none_or(|until| until > now));
        if before != self.gateway_names() {
            self.changes.insert(ViewChange::Gateways);
        }
    }

    pub(super) fn delete_gateway(&mut self, now: Instant, name: &GatewayName, revision: i64) {
        let until = self
            .recovered
            .map(|from| from + GATEWAY_GRACE)
            .filter(|until| *until > now);
        let Some(held) = self.gateways.get_mut(name) else {
            return;
        };
        if held.at.revision > revision {
            return;
        }
        if until.is_some() {
            held.doubted = held.doubted.or(until);
            return;
        }
        self.gateways.remove(name);
        if !self.is_present(name) {
            self.changes.insert(ViewChange::Gateways);
        }
    }

    /// Takes what a gateway attached to this process found, which counts at once, before it is in etcd. Whether it must be written:
    /// it is news, or is not under a lease of this process.
    pub(crate) fn report_here(&mut self, key: &InstanceKey, report: &proto::HealthReport) -> bool {
        match self.health.get_mut(key) {
            Some(held) if *held.report == *report => !self.own_leases.contains_key(&held.at.lease),
            Some(held) => {
                held.report = Arc::new(report.clone());
                self.changes.insert(ViewChange::Health(key.clone()));
                true
            }
            None => {
                let at = At {
                    revision: 0,
                    lease: 0,
                };
                self.put_report(key, report.clone(), at);
                true
            }
        }
    }

    /// Takes up a report that etcd holds.
    pub(crate) fn put_report(&mut self, key: &InstanceKey, report: proto::HealthReport, at: At) {
        let reading = self.reading;
        let Some(held) = self.health.get_mut(key) else {
            let report = Arc::new(report);
            self.health.insert(key.clone(), Reported { report, at, reading });
            self.count_lease(0, at.lease);
            self.changes.insert(ViewChange::Health(key.clone()));
            return;
        };
        held.reading = reading;
        if held.at.revision > at.revision {
            return;
        }
        let from = held.at.lease;
        held.at = at;
        if *held.report != report {
            held.report = Arc::new(report);
            self.changes.insert(ViewChange::Health(key.clone()));
        }
        self.count_lease(from, at.lease);
    }

    pub(super) fn delete_report(&mut self, key: &InstanceKey, revision: i64) {
        let gone = self
            .health
            .get(key)
            .is_some_and(|held| held.at.revision <= revision && held.at.revision > 0);
        if let Some(held) = gone.then(|| self.health.remove(key)).flatten() {
            self.count_lease(held.at.lease, 0);
        }
    }

    /// Reports under a lease that ran out are as good as not written.
    pub(super) fn lose_reports(&mut self, lease: i64) {
        for held in self.health.values_mut().filter(|held| held.at.lease == lease) {
            held.at.lease = 0;
        }
    }

    /// Notes that the health of an instance that is gone can go too.
    pub(super) fn orphan(&mut self, key: &InstanceKey) {
        if self.instance(key).is_none()
            && let Some(held) = self.health.get(key)
        {
            self.orphans.push((key.clone(), held.at.revision));
        }
    }

    pub(super) fn forget_present_revisions(&mut self) {
        for held in self.health.values_mut() {
            held.at.revision = held.at.revision.min(1);
        }
        for held in self.gateways.values_mut() {
            held.at.revision = 0;
        }
    }

    fn is_present(&self, name: &GatewayName) -> bool {
        self.gateways.contains_key(name) || self.attached.contains_key(name)
    }
}
