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
    topology::{CapacityRule, Service},
};

use super::{
    ToldDemand,
    places::own_exports,
    table::{HEARD_FOR, MAX_RATE},
};
use crate::snapshot::Snapshot;

pub use answers::{AnswerMeter, AwaitedAnswer, CountedAnswers};
pub use estimate::SeenAnswers;

use estimate::CapacityEstimate;

/// Most places that one gateway measures, tells of, or believes another to tell of.
pub const MAX_MEASURED: usize = 1000;
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

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ZoneName, &MeasuredCapacity)> {
        let zones = self.0.values().flatten();
        zones.flat_map(|(zone, of_tags)| of_tags.values().map(move |measured| (zone, measured)))
    }

    fn add(&mut self, zone: &ZoneName, measured: MeasuredCapacity) {
        let of_zones = self.0.entry(measured.service.clone()).or_default();
        let of_tags = of_zones.entry(zone.clone()).or_default();
        of_tags.insert(measured.tags.clone(), measured);
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
    heard: BTreeMap<GatewayId, HeardAnswers>,
    /// Of the exports of this zone.
    estimates: BTreeMap<ExportKey, (CapacityEstimate, SeenAnswers)>,
}

#[derive(Debug)]
struct HeardAnswers {
    at: Duration,
    answers: Vec<ZoneAnswers>,
    capacities: Vec<MeasuredCapacity>,
}

impl MeasuredTable {
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
        gateway: GatewayId,
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
        let heard = HeardAnswers {
            at,
            answers,
            capacities,
        };
        if self.heard.get(&gateway).is_none_or(|known| known.at < at) {
            self.heard.insert(gateway, heard);
        }
    }

    /// Estimates anew what the instances of this zone can take, and forgets words that are old.
    pub fn estimate(&mut self, now: Duration, snapshot: &Snapshot) {
        self.zone = Some(snapshot.zone.clone());
        self.heard.retain(|_, heard| heard.at + HEARD_FOR > now);
        let services = snapshot.topology.services.iter();
        let (mut kept, mut found) = (BTreeSet::new(), Vec::new());
        let here = self.answers_of(&snapshot.zone);
        for (name, _) in services.filter(|(_, service)| is_measured(service)) {
            let exports = own_exports(snapshot, name);
            let answers = here.get(name).map_or(&[][..], Vec::as_slice);
            let keys = exports.iter().map(|export| (name.clone(), export.tags.clone()));
            found.extend(keys.zip(seen_of(answers, &exports)));
        }
        for (key, seen) in found {
            let (estimate, last) = self.estimates.entry(key.clone()).or_default();
            estimate.look(now, &seen);
            *last = seen;
            kept.insert(key);
        }
        self.estimates.retain(|key, _| kept.contains(key));
    }

    /// Answers of the instances of this zone, by service.
    fn answers_of(&self, own: &ZoneName) -> BTreeMap<&ServiceName, Vec<&ZoneAnswers>> {
        let mut of_services: BTreeMap<&ServiceName, Vec<&ZoneAnswers>> = BTreeMap::new();
        let heard = self.heard.values().flat_map(|heard| &heard.answers);
        for one in self.own.iter().chain(heard).filter(|one| one.zone == *own) {
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
                    let heard = self.heard.get(&sibling).into_iter();
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
        for (gateway, heard) in self.heard.iter().filter(|(gateway, _)| gateway.zone != *own) {
            for one in &heard.capacities {
                let key = (one.service.clone(), one.tags.clone());
                of_zones.entry((&gateway.zone, key)).or_default().push(one);
            }
        }
        let mut known = MeasuredCapacities::default();
        for measured in self.own_capacities() {
            known.add(own, measured);
        }
        for ((zone, _), told) in of_zones {
            let weight = |one: &&MeasuredCapacity| one.seen.well_per_second + one.seen.refused_per_second;
            let most = told
                .iter()
                .copied()
                .max_by(|a, b| weight(a).total_cmp(&weight(b)));
            let bounds = told.iter().filter_map(|one| Some((one.per_second?, weight(one))));
            let (sum, weights) = bounds.fold((0.0, 0.0), |(sum, weights), (rate, weight)| {
                let weight = weight.max(f64::MIN_POSITIVE);
                (sum + rate * weight, weights + weight)
            });
            if let Some(most) = most {
                let per_second = (weights > 0.0).then_some(sum / weights);
                known.add(
                    zone,
                    MeasuredCapacity {
                        per_second,
                        ..most.clone()
                    },
                );
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
