//! Limits of services, held: whoever comes beyond one is refused at once, which is counted and told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::name::ServiceName;
use causeway_routing::{
    capacity::is_respected,
    limit_shares::{LimitUse, MAX_CALLER_BYTES, SharedLimit},
    limits::{CarriedLimits, CarriedUse, RateTable, ServiceUse, UseGuard, UseKind},
    permit::Caller,
    route::{Decision, Request, Why},
};
use causeway_telemetry::{ConnectionOutcome, StreamRefusal};
use parking_lot::{Mutex, RwLock};
use rand::Rng;

use super::EgressShared;
use crate::dial::uptime;

/// Time for which it is told that a limit was reached.
const TOLD_FOR: Duration = Duration::from_secs(60);
/// Most services of which another process is told what is under way.
const MAX_CARRIED_USES: usize = 10_000;
/// Rates of fewer a second are not told of.
const QUIET: f64 = 0.01;
const SHED: &str = "capacity";
const RATE: &str = "rate";
const RATE_PER_CALLER: &str = "rate_per_caller";

/// Use of services that have limits, at one gateway.
#[derive(Debug, Default)]
pub(super) struct ServiceLimits {
    /// Written only when a service is seen for the first time.
    uses: RwLock<BTreeMap<ServiceName, Arc<ServiceUse>>>,
    /// Locked for one look-up, and only for services that have rates.
    rates: Mutex<RateTable>,
    /// Limits that were reached, and when last. At most one for each limit of the topology.
    reached: Mutex<BTreeMap<(ServiceName, &'static str), Instant>>,
}

impl ServiceLimits {
    fn of(&self, service: &ServiceName) -> Arc<ServiceUse> {
        if let Some(known) = self.uses.read().get(service) {
            return known.clone();
        }
        self.uses.write().entry(service.clone()).or_default().clone()
    }

    /// Begins with what the process before has left.
    pub(super) fn carrying_on(left: &CarriedLimits) -> Self {
        let limits = Self::default();
        limits.carry_on(left);
        limits
    }

    /// Goes on with what the process before has left, and counts what it holds now as taken.
    pub(super) fn carry_on(&self, left: &CarriedLimits) {
        self.rates.lock().carry_on(uptime(), &left.rates);
        for held in left.uses.iter().take(MAX_CARRIED_USES) {
            self.of(&held.service).set_elsewhere(held.counts);
        }
        let held: BTreeSet<&ServiceName> = left.uses.iter().map(|held| &held.service).collect();
        for (service, of) in self.uses.read().iter() {
            if !held.contains(service) {
                of.set_elsewhere(Default::default());
            }
        }
    }

    /// Collects what another process is to go on with: what rates have left, and what is held.
    pub(super) fn carried(&self) -> CarriedLimits {
        // Not within the expression below: both are never locked at once but as `uses` does it.
        let rates = self.rates.lock().carried(uptime());
        CarriedLimits { rates, ..self.held() }
    }

    /// Collects what is under way here, and in processes before.
    pub(super) fn held(&self) -> CarriedLimits {
        let uses = self.uses.read();
        let uses = uses.iter().filter_map(|(service, of)| {
            let counts = of.counts();
            (counts != <[u32; 4]>::default()).then(|| CarriedUse {
                service: service.clone(),
                counts,
            })
        });
        CarriedLimits {
            rates: Vec::new(),
            uses: uses.take(MAX_CARRIED_USES).collect(),
        }
    }

    /// Tells whether processes before hold anything that counts here.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.uses.read().values().any(|of| of.is_elsewhere())
    }

    /// Use of limits by clients, for the other gateways of the zone.
    pub(super) fn uses(&self) -> Vec<LimitUse> {
        let uses = self.uses.read();
        let places = uses.iter().flat_map(|(service, of)| {
            UseKind::ALL.into_iter().filter_map(|kind| {
                let taken = of.taken(kind);
                (taken > 0).then(|| LimitUse {
                    service: service.clone(),
                    limit: SharedLimit::AtOnce(kind),
                    amount: f64::from(taken),
                })
            })
        });
        let rates = self.rates.lock();
        let rates = rates
            .asked(uptime())
            .filter(|(_, caller, amount)| *amount >= QUIET && caller.len() <= MAX_CALLER_BYTES)
            .map(|(service, caller, amount)| LimitUse {
                service: service.clone(),
                limit: match caller {
                    "" => SharedLimit::Rate,
                    caller => SharedLimit::CallerRate(caller.to_owned()),
                },
                amount,
            });
        places.chain(rates).collect()
    }

    /// Limits that were reached within the last minute.
    pub(super) fn reached_lately(&self, now: Instant) -> Vec<(ServiceName, &'static str)> {
        let mut reached = self.reached.lock();
        reached.retain(|_, at| *at + TOLD_FOR > now);
        reached.keys().cloned().collect()
    }
}

impl EgressShared {
    /// Takes a place within a limit of `service`; `Ok(None)`: it has no such limit.
    ///
    /// # Errors
    /// With the outcome of whoever comes beyond it.
    pub(super) fn take_place(
        &self,
        service: &ServiceName,
        kind: UseKind,
    ) -> Result<Option<UseGuard>, ConnectionOutcome> {
        let snapshot = self.snapshots.load();
        let declared = snapshot.topology.services.get(service);
        let Some(most) = declared.and_then(|service| kind.most(&service.limits)) else {
            return Ok(None);
        };
        let shared = SharedLimit::AtOnce(kind);
        let most = snapshot.capacity.limits.allowed(service, &shared, most.into());
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let taken = self.limits.of(service).take(kind, most);
        if taken.is_none() {
            self.reached(service, kind.word());
            return Err(ConnectionOutcome::refused_here(StreamRefusal::Overloaded));
        }
        Ok(taken)
    }

    /// Takes one from the rates of `service`.
    ///
    /// # Errors
    /// With the outcome of whoever comes too soon.
    pub(super) fn take_turn(&self, service: &ServiceName, caller: &Caller) -> Result<(), ConnectionOutcome> {
        let snapshot = self.snapshots.load();
        let Some(declared) = snapshot.topology.services.get(service) else {
            return Ok(());
        };
        let limits = &declared.limits;
        let take = |limit: SharedLimit, per_second| {
            let caller = match &limit {
                SharedLimit::CallerRate(caller) => caller.as_str(),
                _ => "",
            };
            let per_second = snapshot.capacity.limits.allowed(service, &limit, per_second);
            let mut rates = self.limits.rates.lock();
            rates.take(uptime(), service, caller, per_second)
        };
        // That of the caller first: what one of them is refused takes nothing from the others.
        let reached = match (limits.rate_per_caller, limits.rate_per_second) {
            (None, None) => return Ok(()),
            (Some(own), _) if !take(SharedLimit::CallerRate(caller.to_string()), own) => RATE_PER_CALLER,
            (_, Some(all)) if !take(SharedLimit::Rate, all) => RATE,
            _ => return Ok(()),
        };
        self.reached(service, reached);
        Err(ConnectionOutcome::RateLimited)
    }

    /// Counts a decision, and what was asked for by it, whether or not that can be served.
    pub(super) fn decided<R: Rng>(&self, request: &Request, decision: &Decision<'_, R>) {
        let service = &request.target.service;
        let why = decision.why();
        self.metrics.decided(service.as_str(), why);
        let snapshot = self.snapshots.load();
        // A zone in the name stands for the tiers.
        let declared = snapshot.topology.services.get(service);
        if let Some(declared) = declared.filter(|_| request.target.zone.is_none()) {
            let asked = request.criticality.unwrap_or(declared.criticality);
            let capacity = &snapshot.capacity;
            capacity.asked.count(service, &request.target.tags, asked);
            if let Some((tags, criticality)) = decision.demanded()
                && is_respected(declared)
            {
                capacity.meter.count(service, tags, criticality);
            }
        }
        if why == Why::Shed {
            self.reached(service, SHED);
        }
    }

    fn reached(&self, service: &ServiceName, limit: &'static str) {
        let now = Instant::now();
        self.metrics.limited(service.as_str(), limit);
        self.limits.reached.lock().insert((service.clone(), limit), now);
        let admitted = self.rate_limited.lock().admit(now, (service.clone(), limit));
        if let Some(repeats) = admitted {
            tracing::warn!(%service, limit, repeats, "a limit of a service was reached: clients are refused");
        }
    }
}
