//! The part of the table that has to do with the other gateways of the zone: whose check an instance is, what they said of
//! it, and what they are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use causeway_federation::registry::InstanceKey;
use causeway_routing::snapshot::Health;

use super::{CheckFailure, CheckId, Instance, Table};
use crate::health::{Duty, Finding};

impl Table {
    /// Takes up what the zone knows; [`Table::settle_shares`] must follow.
    pub(in super::super) fn join(
        &mut self,
        now: Instant,
        gateways: BTreeSet<String>,
        verdicts: BTreeMap<InstanceKey, Finding>,
    ) {
        self.sharing.join(now, gateways, verdicts);
    }

    pub(in super::super) fn set_gateways(&mut self, now: Instant, gateways: BTreeSet<String>) {
        self.sharing.set_gateways(gateways);
        self.settle_shares(now);
    }

    pub(in super::super) fn cut_off(&mut self, now: Instant) {
        self.sharing.cut_off();
        self.settle_shares(now);
    }

    /// Begins and ends checks where this gateway's share is another than before.
    pub(in super::super) fn settle_shares(&mut self, now: Instant) {
        let ids = self.members.iter();
        let members =
            ids.flat_map(|(service, ids)| ids.iter().map(move |(id, member)| (service, id, member)));
        let altered = members.filter_map(|(service, id, member)| {
            let before = member.duty?;
            let key = super::super::key(service, id);
            let told = self.sharing.told(&key).map(|told| told.verdict.health);
            let is_news = before == Duty::Watch && told.is_some_and(|told| told != member.instance.health);
            (is_news || self.sharing.duty(&key) != before).then_some(key)
        });
        let altered: Vec<_> = altered.collect();
        for key in altered {
            self.reconcile(now, &key);
        }
    }

    /// Takes in what another gateway found. Says how the instance is now, if that is another than before.
    pub(in super::super) fn hear(
        &mut self,
        now: Instant,
        key: InstanceKey,
        verdict: Finding,
    ) -> Option<Arc<Instance>> {
        self.sharing.hear(now, key.clone(), verdict);
        let before = self.member(&key)?;
        if before.duty? == Duty::Check {
            return None;
        }
        let before = before.instance.health;
        self.reconcile(now, &key);
        let after = &self.member(&key)?.instance;
        (after.health != before).then(|| Arc::clone(after))
    }

    pub(in super::super) fn has_report(&self) -> bool {
        self.sharing.has_report()
    }

    pub(in super::super) fn take_report(&mut self) -> Option<(InstanceKey, Finding)> {
        self.sharing.take_report()
    }

    /// Number of instances that this gateway checks, and of those for which it goes by the word of others.
    pub(in super::super) fn shares(&self) -> (usize, usize) {
        let duties = || {
            self.members
                .values()
                .flat_map(BTreeMap::values)
                .filter_map(|m| m.duty)
        };
        let checked = duties().filter(|duty| *duty == Duty::Check).count();
        (checked, duties().count() - checked)
    }

    /// Removes an instance that is gone, or is another process from now on. Where this gateway checks it, a new one under
    /// its key is looked at before it counts. The others go by what was last said: the store may keep it, and does not say
    /// it again when it is still so.
    pub(super) fn let_go(&mut self, key: &InstanceKey) {
        let duty = self.member(key).and_then(|member| member.duty);
        self.remove(key);
        if duty == Some(Duty::Check) {
            self.sharing.forget(key);
        }
        let Self { sharing, members, .. } = self;
        let is_here = |key: &InstanceKey| {
            members
                .get(&key.service)
                .is_some_and(|ids| ids.contains_key(&key.id))
        };
        sharing.prune(self.registry.len(), is_here);
    }

    /// After a check: tells the others, or gives up a doubt.
    pub(super) fn share_result(&mut self, now: Instant, check: CheckId) {
        let (Some(key), Some(state)) = (self.by_check.get(&check), self.checks.state(check)) else {
            return;
        };
        let health = state.health();
        match self.member(key).and_then(|member| member.duty) {
            Some(Duty::Check) => {
                let failure = state.last_failure().map_or("", |last| last.reason.as_str());
                self.sharing.found(now, key, health, failure);
            }
            Some(Duty::Doubt) if health == Health::Healthy => {
                let key = key.clone();
                self.sharing.trust(&key);
                self.reconcile(now, &key);
            }
            // Until somebody says how it is, this gateway goes on by itself.
            Some(Duty::Doubt | Duty::Watch) | None => {}
        }
    }

    /// Reason why another gateway found the instance unhealthy.
    pub(super) fn told_failure(&self, now: Instant, key: &InstanceKey) -> Option<CheckFailure> {
        let told = self.sharing.told(key)?;
        let Finding { failure, gateway, .. } = &told.verdict;
        (!failure.is_empty()).then(|| CheckFailure {
            reason: format!("{failure} (found by {gateway})"),
            ago: now.saturating_duration_since(told.since),
        })
    }
}
