//! Demand of clients, as this gateway measures it, and as others tell of theirs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use causeway_federation::{
    catalog::Age,
    name::{GatewayId, GatewayName, ServiceName, Tags, ZoneName},
    topology::{Criticality, Topology},
};

use super::{
    DemandedRate, HeardFrom, MAX_DEMANDS, MeasuredCapacity, ZoneAnswers, ZoneDemands, words::HeardWords,
};
use crate::{
    limit_shares::{LimitUse, MAX_LIMIT_USES, OthersUse},
    snapshot::Snapshot,
};

/// Time in which what was counted longer ago loses two thirds of its weight.
const SMOOTHING: Duration = Duration::from_secs(2);
/// Standard deviations of chance beyond which a count says that the rate is another one.
const SURPRISE: f64 = 3.0;
/// Rates below this are forgotten.
const QUIET: f64 = 0.01;
/// Time for which the word of a gateway counts; longer if zone sync still hears it through others.
pub(super) const HEARD_FOR: Duration = Duration::from_secs(5);
/// Most gateways of one zone whose words are passed on.
const MAX_PASSED_ON: usize = 16;
/// Most that anybody is believed to ask for in a second.
pub(super) const MAX_RATE: f64 = 1e9;

type DemandKey = (ServiceName, Tags, Criticality);

/// Word of one gateway's clients, for another zone.
#[derive(Debug, Clone, PartialEq)]
pub struct ToldDemand {
    /// A gateway of the zone that is told, whose word is passed on; `None`: the gateway that tells.
    pub gateway: Option<GatewayName>,
    /// Time since the gateway said it.
    pub age: Duration,
    pub rates: Vec<DemandedRate>,
    /// Use by its clients of limits that the gateways of its zone share.
    pub limits: Vec<LimitUse>,
    /// Answers that its clients had of the instances of the zone that is told, and of its own.
    pub answers: Vec<ZoneAnswers>,
    /// Capacity of the instances of its own zone; nobody else says so.
    pub capacities: Vec<MeasuredCapacity>,
}

/// Demand of all gateways, as far as it is known.
#[derive(Debug, Default)]
pub struct DemandTable {
    /// Time of the last look, and the counts then.
    looked: Option<(Duration, BTreeMap<DemandKey, u64>)>,
    own: BTreeMap<DemandKey, f64>,
    own_limits: Vec<LimitUse>,
    heard: HeardWords<HeardDemand>,
}

#[derive(Debug)]
struct HeardDemand {
    rates: Vec<DemandedRate>,
    limits: Vec<LimitUse>,
}

impl DemandTable {
    /// Takes what has been counted until `now`, of any clock that never goes back.
    pub fn measure(&mut self, now: Duration, counts: Vec<(ServiceName, Tags, Criticality, u64)>) {
        let counts: BTreeMap<DemandKey, u64> = counts
            .into_iter()
            .map(|(service, tags, criticality, count)| ((service, tags, criticality), count))
            .collect();
        let Some((then, before)) = &self.looked else {
            self.looked = Some((now, counts));
            return;
        };
        let passed = now.saturating_sub(*then).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        let counted = |key: &DemandKey| {
            let before = before.get(key).copied().unwrap_or_default();
            rate(
                counts
                    .get(key)
                    .copied()
                    .unwrap_or_default()
                    .saturating_sub(before),
            )
        };
        let keys: BTreeSet<&DemandKey> = counts.keys().chain(self.own.keys()).collect();
        let smoothed = |key: &&DemandKey| {
            let known = self.own.get(*key).copied().unwrap_or_default();
            ((*key).clone(), smoothed(known, counted(key), passed))
        };
        let own: BTreeMap<DemandKey, f64> = keys.iter().map(smoothed).collect();
        self.own = own.into_iter().filter(|(_, rate)| *rate >= QUIET).collect();
        self.looked = Some((now, counts));
    }

    /// Takes what the clients of this gateway use of limits; of more than [`MAX_LIMIT_USES`] the largest.
    pub fn use_limits(&mut self, mut uses: Vec<LimitUse>) {
        uses.retain(|one| one.amount >= QUIET);
        uses.sort_by(|a, b| b.amount.total_cmp(&a.amount));
        uses.truncate(MAX_LIMIT_USES);
        self.own_limits = uses;
    }

    /// Takes the word of another gateway, said at `at`.
    pub fn hear(
        &mut self,
        from: impl Into<HeardFrom>,
        at: Duration,
        mut rates: Vec<DemandedRate>,
        mut limits: Vec<LimitUse>,
    ) {
        let is_believed = |amount: f64| amount > 0.0 && amount <= MAX_RATE;
        rates.truncate(MAX_DEMANDS);
        rates.retain(|one| is_believed(one.per_second));
        limits.truncate(MAX_LIMIT_USES);
        limits.retain(|one| is_believed(one.amount));
        self.heard.hear(from.into(), at, HeardDemand { rates, limits });
    }

    /// Use of limits by the other gateways of the zone `own`, as far as they are heard.
    #[must_use]
    pub fn others_use(&self, own: &ZoneName, topology: &Topology, now: Duration) -> OthersUse {
        let mut others = OthersUse::default();
        let uses = self
            .heard
            .counting(topology, |heard| &heard.limits, |one| &one.service);
        for (gateway, heard, used) in uses {
            if gateway.zone == *own && heard.at + HEARD_FOR > now {
                others.add(std::slice::from_ref(used));
            }
        }
        others
    }

    /// Forgets the words of gateways that have gone.
    pub fn forget(&mut self, now: Duration, snapshot: &Snapshot) {
        self.heard.retain(|gateway, at| {
            // One without a tunnel may still send to zones that this one sends to.
            let lives = snapshot
                .catalog
                .entry(gateway)
                .is_some_and(|entry| entry.age == Age::Fresh);
            let is_known = snapshot.topology.zones.contains_key(&gateway.zone);
            is_known && (lives || at + HEARD_FOR > now)
        });
    }

    /// Demand of the clients of each zone, `own` being this one.
    #[must_use]
    pub fn known(&self, own: &ZoneName, topology: &Topology) -> ZoneDemands {
        let mut sums: BTreeMap<(&ZoneName, &ServiceName, &Tags, Criticality), f64> = BTreeMap::new();
        for ((service, tags, criticality), per_second) in &self.own {
            *sums.entry((own, service, tags, *criticality)).or_default() += per_second;
        }
        let rates = self
            .heard
            .counting(topology, |heard| &heard.rates, |one| &one.service);
        for (gateway, _, one) in rates {
            let key = (&gateway.zone, &one.service, &one.tags, one.criticality);
            *sums.entry(key).or_default() += one.per_second;
        }
        let mut demands = ZoneDemands::new();
        for ((zone, service, tags, criticality), per_second) in sums {
            demands.entry(zone.clone()).or_default().push(DemandedRate {
                service: service.clone(),
                tags: tags.clone(),
                criticality,
                per_second,
            });
        }
        demands
    }

    /// The word for a gateway of another zone, without what is measured of answers: of this gateway's clients, and of other gateways of that zone, which it has no tunnel to.
    #[must_use]
    pub fn told_to(&self, asker: &GatewayId, now: Duration) -> Vec<ToldDemand> {
        let mut rates: Vec<DemandedRate> = self.own.iter().map(demanded).collect();
        rates.sort_by(|a, b| b.per_second.total_cmp(&a.per_second));
        rates.truncate(MAX_DEMANDS);
        let own = ToldDemand {
            gateway: None,
            age: Duration::ZERO,
            rates,
            limits: self.own_limits.clone(),
            answers: Vec::new(),
            capacities: Vec::new(),
        };
        let siblings = self.heard.own().filter(|(gateway, heard)| {
            gateway.zone == asker.zone && *gateway != asker && heard.at + HEARD_FOR > now
        });
        let passed_on = siblings.take(MAX_PASSED_ON).map(|(gateway, heard)| ToldDemand {
            gateway: Some(gateway.gateway.clone()),
            age: now.saturating_sub(heard.at),
            rates: heard.word.rates.clone(),
            limits: heard.word.limits.clone(),
            answers: Vec::new(),
            capacities: Vec::new(),
        });
        std::iter::once(own).chain(passed_on).collect()
    }
}

fn demanded(((service, tags, criticality), per_second): (&DemandKey, &f64)) -> DemandedRate {
    DemandedRate {
        service: service.clone(),
        tags: tags.clone(),
        criticality: *criticality,
        per_second: *per_second,
    }
}

/// The rate after so many more within `passed` seconds: what was known and what is new, unless that is more than chance.
fn smoothed(known: f64, counted: f64, passed: f64) -> f64 {
    let new = counted / passed;
    let expected = known * passed;
    if (counted - expected).abs() > SURPRISE * expected.max(counted).max(1.0).sqrt() {
        return new;
    }
    let weight = 1.0 - (-passed / SMOOTHING.as_secs_f64()).exp();
    known + (new - known) * weight
}

#[expect(clippy::cast_precision_loss, reason = "a count of seconds fits a float")]
fn rate(count: u64) -> f64 {
    count as f64
}
