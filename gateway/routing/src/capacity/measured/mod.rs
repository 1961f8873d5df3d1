//! Measured capacity: what the instances of a zone are found to take. The gateways that a service's clients connect to see every answer, and
//! tell the gateways of the zone that gave it; these put it together, estimate what their instances can take, and tell everybody who asks
//! what their clients ask for. So a zone speaks for its own instances alone.

mod answers;
mod estimate;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use causeway_federation::{
    catalog::{Export, ExportKey},
    name::{GatewayId, ServiceName, Tags, ZoneName},
    topology::{CapacityRule, Service, Topology},
};

use super::{
    HeardFrom, ToldDemand,
    places::own_exports,
    table::{HEARD_FOR, MAX_RATE},
    words::HeardWords,
};
use crate::snapshot::Snapshot;

pub use answers::{AnswerMeter, AwaitedAnswer, CountedAnswers};
pub use estimate::{CarriedBound, CarriedEstimate, CarriedPhase, SeenAnswers};

use estimate::CapacityEstimate;

/// Most places that one gateway measures, tells of, or believes another to tell of.
pub const MAX_MEASURED: usize = 1000;
/// Time for which an estimate that another process has left waits for its instances.
const AWAITED_FOR: Duration = Duration::from_secs(60);
/// Longest latency that anybody is believed, in seconds.
const MAX_LATENCY: f64 = 3600.0;

/// Answers of the instances of one zone to the clients of one gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct ZoneAnswers {
    pub service: ServiceName,
    pub zone: ZoneName,
    /// Tags that an instance had to carry.
    pub tags: Tags,
    pub seen: SeenAnswers,
}

/// Word of a gateway about instances of its zone.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredCapacity {
    pub service: ServiceName,
    /// Tags of the instances.
    pub tags: Tags,
    /// Requests that they can take in a second; `None`: nothing was seen that bounds it.
    pub per_second: Option<f64>,
    /// Answers to the clients of all gateways that it hears.
    pub seen: SeenAnswers,
}

/// Knowledge of each zone's instances, by service, zone and tags.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct MeasuredCapacities(BTreeMap<ServiceName, BTreeMap<ZoneName, BTreeMap<Tags, MeasuredCapacity>>>);

impl MeasuredCapacities {
    #[must_use]
    pub fn of(&self, service: &ServiceName, zone: &ZoneName, tags: &Tags) -> Option<&MeasuredCapacity> {
        self.0.get(service)?.get(zone)?.get(tags)
    }

    /// Requests or connections a second that the instances behind an export can take: what they declare, or what was found if that is less, and
    /// whether it was. Without either there is no bound.
    pub(crate) fn room_of(&self, zone: &ZoneName, export: &Export) -> (f64, bool) {
        let declared = export.capacity_per_second.map_or(f64::INFINITY, float);
        match self
            .of(&export.service, zone, &export.tags)
            .and_then(|found| found.per_second)
        {
            Some(measured) if measured < declared => (measured, true),
            _ => (declared, false),
        }
    }

    /// Leaves this part (0 to 1) of what was found of some instances.
    pub(crate) fn scale(&mut self, (service, zone, tags): (&ServiceName, &ZoneName, &Tags), part: f64) {
        let of_zones = self.0.get_mut(service);
        let found = of_zones.and_then(|zones| zones.get_mut(zone)?.get_mut(tags));
        if let Some(rate) = found.and_then(|found| found.per_second.as_mut()) {
            *rate *= part;
        }
    }

    /// Instances of a service in one zone, whatever tags they have. There is a bound only where there is one for all of them.
    pub fn of_zones(&self) -> impl Iterator<Item = (&ServiceName, &ZoneName, Option<f64>, SeenAnswers)> {
        let zones = self.0.iter().flat_map(|(service, zones)| {
            let zones = zones.iter();
            zones.map(move |(zone, all)| (service, zone, all))
        });
        zones.map(|(service, zone, all)| {
            let mut sum = SeenAnswers::default();
            for measured in all.values() {
                add(&mut sum, &measured.seen, 1.0);
            }
            sum.latency /= sum.well_per_second.max(f64::MIN_POSITIVE);
            let bound: Option<f64> = all.values().map(|measured| measured.per_second).sum();
            (service, zone, bound, sum)
        })
    }

    /// Everything that is known, with the zone of the instances.
    pub fn iter(&self) -> impl Iterator<Item = (&ZoneName, &MeasuredCapacity)> {
        let zones = self.0.values().flatten();
        zones.flat_map(|(zone, of_tags)| of_tags.values().map(move |measured| (zone, measured)))
    }

    fn add(&mut self, zone: &ZoneName, measured: MeasuredCapacity) {
        let of_zones = self.0.entry(measured.service.clone()).or_default();
        let of_tags = of_zones.entry(zone.clone()).or_default();
        of_tags.insert(measured.tags.clone(), measured);
    }
}

impl FromIterator<(ZoneName, MeasuredCapacity)> for MeasuredCapacities {
    fn from_iter<I: IntoIterator<Item = (ZoneName, MeasuredCapacity)>>(all: I) -> Self {
        let mut known = Self::default();
        for (zone, measured) in all {
            known.add(&zone, measured);
        }
        known
    }
}

impl MeasuredCapacity {
    /// Weight of a word among those of several gateways: the answers that it was found by.
    fn weight(&self) -> f64 {
        self.seen.well_per_second + self.seen.refused_per_second
    }

    /// One word for those of several gateways about the same instances: each counts by the answers that it has heard of. `None`: there is none.
    #[must_use]
    pub fn joined(told: &[&Self]) -> Option<Self> {
        let most = told.iter().max_by(|a, b| a.weight().total_cmp(&b.weight()))?;
        let bounds = told
            .iter()
            .filter_map(|one| Some((one.per_second?, one.weight())));
        let (sum, weights) = bounds.fold((0.0, 0.0), |(sum, weights), (rate, weight)| {
            let weight = weight.max(f64::MIN_POSITIVE);
            (sum + rate * weight, weights + weight)
        });
        Some(Self {
            per_second: (weights > 0.0).then_some(sum / weights),
            ..Self::clone(most)
        })
    }
}

/// Tells whether what instances of a service can take is measured.
#[must_use]
pub fn is_measured(service: &Service) -> bool {
    let rule = service.spill.as_ref().map(|spill| spill.capacity);
    rule == Some(CapacityRule::Measured) && service.ports.iter().any(|port| port.protocol.is_http())
}

/// Answers of this zone's instances, as far as they are heard of, and of others to the clients of this gateway.
#[derive(Debug, Default)]
pub struct MeasuredTable {
    /// Zone of this gateway, once it has estimated anything.
    zone: Option<ZoneName>,
    looked: Option<Duration>,
    own: Vec<ZoneAnswers>,
    heard: HeardWords<HeardAnswers>,
    /// Of the exports of this zone.
    estimates: BTreeMap<ExportKey, (CapacityEstimate, SeenAnswers)>,
    /// Those that another process has left, until their instances are seen.
    left: BTreeMap<ExportKey, CapacityEstimate>,
    /// Time for which the process before, or those before that, have kept the estimates.
    before: Duration,
    /// Time of the first look of this process.
    begun: Option<Duration>,
}

#[derive(Debug)]
struct HeardAnswers {
    answers: Vec<ZoneAnswers>,
    capacities: Vec<MeasuredCapacity>,
}

impl MeasuredTable {
    /// Begins with the estimates of another process. What cannot be so is left out.
    #[must_use]
    pub fn carrying_on(now: Duration, carried: &[CarriedEstimate]) -> Self {
        let carried = carried.iter().take(MAX_MEASURED);
        let before = carried.clone().map(CarriedEstimate::age).max();
        let before = before.unwrap_or_default();
        let now = before.saturating_add(now);
        let known = carried.filter_map(|from| {
            let key = (from.service.clone(), from.tags.clone());
            Some((key, CapacityEstimate::carrying_on(now, from)?))
        });
        Self {
            left: known.collect(),
            before,
            ..Self::default()
        }
    }

    /// Estimates for another process to go on with, those with a bound first.
    #[must_use]
    pub fn carried(&self, now: Duration) -> Vec<CarriedEstimate> {
        let now = self.before.saturating_add(now);
        let estimates = self.estimates.iter().map(|(key, (estimate, _))| (key, estimate));
        let all = self.left.iter().chain(estimates);
        let mut carried: Vec<CarriedEstimate> = all
            .filter_map(|(key, estimate)| estimate.carried(now, key))
            .collect();
        carried.sort_by_key(|one| one.bound.is_none());
        carried.truncate(MAX_MEASURED);
        carried
    }

    /// Takes what was counted since the last look. `way_to` tells the time to a zone and back, in which a request is on its way and not with an
    /// instance.
    pub fn look(
        &mut self,
        now: Duration,
        counts: Vec<CountedAnswers>,
        way_to: impl Fn(&ZoneName) -> Duration,
    ) {
        let Some(then) = self.looked.replace(now) else {
            return;
        };
        let passed = now.saturating_sub(then).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        let answers = |counted: CountedAnswers| {
            let way = way_to(&counted.zone).as_secs_f64();
            let well_per_second = float(counted.well) / passed;
            let seen = SeenAnswers {
                well_per_second,
                refused_per_second: float(counted.refused) / passed,
                latency: counted.latency.as_secs_f64(),
                in_flight: (float(counted.in_flight) - well_per_second * way).max(0.0),
            };
            ZoneAnswers {
                service: counted.service,
                zone: counted.zone,
                tags: counted.tags,
                seen,
            }
        };
        self.own = counts.into_iter().map(answers).collect();
        self.own
            .sort_by(|a, b| b.seen.well_per_second.total_cmp(&a.seen.well_per_second));
        self.own.truncate(MAX_MEASURED);
    }

    /// Takes the word of another gateway, said at `at`: the answers that its clients had, and what it says of its own zone's instances.
    pub fn hear(
        &mut self,
        from: impl Into<HeardFrom>,
        at: Duration,
        mut answers: Vec<ZoneAnswers>,
        mut capacities: Vec<MeasuredCapacity>,
    ) {
        answers.truncate(MAX_MEASURED);
        answers.retain(|one| is_believed(&one.seen));
        capacities.truncate(MAX_MEASURED);
        capacities.retain(|one| {
            is_believed(&one.seen) && one.per_second.is_none_or(|rate| rate > 0.0 && rate <= MAX_RATE)
        });
        let heard = HeardAnswers { answers, capacities };
        self.heard.hear(from.into(), at, heard);
    }

    /// Estimates anew what the instances of this zone can take, and forgets words that are old.
    pub fn estimate(&mut self, now: Duration, snapshot: &Snapshot) {
        self.zone = Some(snapshot.zone.clone());
        self.heard.retain(|_, at| at + HEARD_FOR > now);
        let services = snapshot.topology.services.iter();
        let (mut kept, mut found) = (BTreeSet::new(), Vec::new());
        let here = self.answers_of(&snapshot.zone, &snapshot.topology);
        for (name, _) in services.filter(|(_, service)| is_measured(service)) {
            let exports = own_exports(snapshot, name);
            let answers = here.get(name).map_or(&[][..], Vec::as_slice);
            let keys = exports.iter().map(|export| (name.clone(), export.tags.clone()));
            found.extend(keys.zip(seen_of(answers, &exports)));
        }
        for (key, seen) in found {
            let left = self.left.remove(&key).unwrap_or_default();
            let (estimate, last) = self
                .estimates
                .entry(key.clone())
                .or_insert_with(|| (left, SeenAnswers::default()));
            estimate.look(self.before.saturating_add(now), &seen);
            *last = seen;
            kept.insert(key);
        }
        self.estimates.retain(|key, _| kept.contains(key));
        // An instance that registers again, or is checked first, may come later than the first look.
        let begun = *self.begun.get_or_insert(now);
        if now.saturating_sub(begun) >= AWAITED_FOR {
            self.left.clear();
        }
    }

    /// Answers of the instances of this zone, by service.
    fn answers_of<'t>(
        &'t self,
        own: &ZoneName,
        topology: &'t Topology,
    ) -> BTreeMap<&'t ServiceName, Vec<&'t ZoneAnswers>> {
        let mut of_services: BTreeMap<&ServiceName, Vec<&ZoneAnswers>> = BTreeMap::new();
        let heard = self
            .heard
            .counting(topology, |heard| &heard.answers, |one| &one.service);
        for one in self
            .own
            .iter()
            .chain(heard.map(|(_, _, one)| one))
            .filter(|one| one.zone == *own)
        {
            of_services.entry(&one.service).or_default().push(one);
        }
        of_services
    }

    /// Adds to the word for a gateway of another zone what it is to know: the answers of its zone, and those of this one for its
    /// siblings to hear; and what this zone's instances can take.
    pub fn add_to(&self, told: &mut [ToldDemand], asker: &GatewayId) {
        let Some(own) = &self.zone else { return };
        for told in told {
            match &told.gateway {
                None => {
                    let is_its = |one: &&ZoneAnswers| one.zone == asker.zone || one.zone == *own;
                    told.answers = self.own.iter().filter(is_its).cloned().collect();
                    told.capacities = self.own_capacities().take(MAX_MEASURED).collect();
                }
                Some(sibling) => {
                    let sibling = GatewayId::new(asker.zone.clone(), sibling.clone());
                    let heard = self.heard.own_of(&sibling).into_iter();
                    let heard = heard.flat_map(|heard| &heard.answers);
                    told.answers = heard.filter(|one| one.zone == asker.zone).cloned().collect();
                }
            }
        }
    }

    fn own_capacities(&self) -> impl Iterator<Item = MeasuredCapacity> {
        self.estimates
            .iter()
            .map(|((service, tags), (estimate, seen))| MeasuredCapacity {
                service: service.clone(),
                tags: tags.clone(),
                per_second: estimate.per_second(),
                seen: *seen,
            })
    }

    /// Everything that is known of the instances of all zones. Of several gateways of a zone each counts by the answers that it has heard of.
    #[must_use]
    pub fn known(&self, own: &ZoneName) -> MeasuredCapacities {
        let mut of_zones: BTreeMap<(&ZoneName, ExportKey), Vec<&MeasuredCapacity>> = BTreeMap::new();
        for (gateway, heard) in self.heard.own().filter(|(gateway, _)| gateway.zone != *own) {
            for one in &heard.word.capacities {
                let key = (one.service.clone(), one.tags.clone());
                of_zones.entry((&gateway.zone, key)).or_default().push(one);
            }
        }
        let mut known = MeasuredCapacities::default();
        for measured in self.own_capacities() {
            known.add(own, measured);
        }
        for ((zone, _), told) in of_zones {
            if let Some(joined) = MeasuredCapacity::joined(&told) {
                known.add(zone, joined);
            }
        }
        known
    }
}

/// Answers of the instances behind each of these exports: of what was asked for by tags that several carry each has its part.
fn seen_of(answers: &[&ZoneAnswers], exports: &[Export]) -> Vec<SeenAnswers> {
    let mut sums = vec![SeenAnswers::default(); exports.len()];
    for one in answers {
        let fits = |export: &&Export| export.healthy > 0 && export.tags.matches(&one.tags);
        let all: u64 = exports.iter().filter(fits).map(|export| export.weight).sum();
        for (export, sum) in exports.iter().zip(&mut sums) {
            if fits(&export) && export.weight > 0 {
                add(sum, &one.seen, float(export.weight) / float(all));
            }
        }
    }
    for sum in &mut sums {
        // So far it is the sum.
        sum.latency /= sum.well_per_second.max(f64::MIN_POSITIVE);
    }
    sums
}

fn add(sum: &mut SeenAnswers, seen: &SeenAnswers, part: f64) {
    sum.well_per_second += seen.well_per_second * part;
    sum.refused_per_second += seen.refused_per_second * part;
    sum.in_flight += seen.in_flight * part;
    sum.latency += seen.latency * seen.well_per_second * part;
}

/// Tells whether a peer may say so: it is a number, and of a size that there can be.
fn is_believed(seen: &SeenAnswers) -> bool {
    let rates = [seen.well_per_second, seen.refused_per_second, seen.in_flight];
    rates.iter().all(|rate| (0.0..=MAX_RATE).contains(rate)) && (0.0..=MAX_LATENCY).contains(&seen.latency)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a second fit a float")]
fn float(count: u64) -> f64 {
    count as f64
}
