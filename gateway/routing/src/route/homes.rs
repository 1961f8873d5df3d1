//! Finds the zones and gateways that can serve one arm now.

use std::{cmp::Ordering, collections::BTreeMap};

use causeway_federation::{
    catalog::{Age, Catalog, CatalogEntry},
    name::{GatewayId, ServiceName, Tags, ZoneName},
    topology::{Service, Tier, TierTag, TierZone},
};
use rand::Rng;

use super::{
    Question,
    arms::Arm,
    draw,
    reason::{ReasonSubject, Reasons, Why},
    spill::{TierHealth, TierTally},
    starting::start_slowly,
    tiers::{spill, spills, tally_own, tally_remote},
};
use crate::{balance::Unusable, outlier::Ejected, snapshot::Link, sticky::StickyKey};

/// Factor of the weight of a place whose word is old and whose tunnels do not answer either.
const SUSPECT_CREDIT: f64 = 0.25;

/// The facts by which a place was taken, and by which it is ordered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grounds {
    /// Counts from 1; `None` when the name itself names the zone.
    pub(super) tier: Option<usize>,
    own: bool,
    age: Age,
    link: Link,
    /// Its gateway is shutting down, or the topology drains its zone; it still serves.
    draining: bool,
    failing: bool,
    /// Spill has drawn a tier, and it is another one.
    pub(super) passed_by: bool,
    /// Spill has drawn its tier in the place of an earlier one.
    pub(super) spilled: bool,
    /// Capacity has drawn its zone.
    pub(super) is_needed: bool,
    /// Its instances are ill, as are all others.
    pub(super) in_panic: bool,
}

/// The order of places; fields in the order in which they decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HomeRank {
    pub(super) silent: bool,
    pub(super) draining: bool,
    pub(super) failing: bool,
    pub(super) passed_by: bool,
    pub(super) tier: Option<usize>,
    pub(super) elsewhere: bool,
}

impl HomeRank {
    /// Index of the rank among those that gateways of one zone can have, which fail together.
    fn within_zone(self) -> usize {
        usize::from(self.silent) * 2 + usize::from(self.draining)
    }
}

impl Grounds {
    pub(super) fn why(self) -> Why {
        let Self {
            tier,
            own,
            age,
            link,
            draining,
            failing,
            passed_by: _,
            spilled,
            is_needed: _,
            in_panic,
        } = self;
        Why::Taken {
            tier,
            own,
            age,
            link,
            draining,
            failing,
            spilled,
            panic: in_panic,
        }
    }

    /// Tells whether its healthy instances count for its tier: only of those that come first in any case.
    pub(super) fn counts(self) -> bool {
        !(self.link == Link::Stalled || self.draining || self.failing)
    }

    /// Tells whether zone sync has not heard its gateway for a while.
    pub(super) fn is_suspect(self) -> bool {
        self.age != Age::Fresh
    }

    /// Factor of its weight. What zone sync has not heard of for a while is as good as before while its tunnel answers.
    fn credit(self) -> f64 {
        match self.is_suspect() && self.link != Link::Up {
            true => SUSPECT_CREDIT,
            false => 1.0,
        }
    }

    /// Tells whether it comes only after others because its instances fail or its gateway drains.
    pub(super) fn is_last_resort(self) -> bool {
        self.failing || self.draining
    }

    pub(super) fn rank(self) -> HomeRank {
        HomeRank {
            silent: self.link == Link::Stalled,
            draining: self.draining && !self.is_needed,
            failing: self.failing,
            passed_by: self.passed_by,
            tier: self.tier,
            elsewhere: !self.own,
        }
    }
}

/// A place that passed all filters of one arm.
#[derive(Debug)]
pub(super) struct Home<'s> {
    /// `None`: this zone.
    pub(super) gateway: Option<&'s GatewayId>,
    pub(super) grounds: Grounds,
    /// Weight that it tells of, as far as it is believed: those of one zone tell of the same instances.
    pub(super) weight: f64,
    /// Rate that [`weigh_all`] gives it, by which it is drawn without a key, and weight of its zone, by which that is drawn with one.
    pub(super) rate: f64,
    pub(super) zone_weight: f64,
    /// Exponential with its rate, so that ascending order is a weighted draw without replacement
    /// (Efraimidis and Spirakis 2006).
    draw: f64,
    /// Decides among gateways of one zone, where a key draws the zone first.
    within: f64,
}

impl<'s> Home<'s> {
    fn new(gateway: Option<&'s GatewayId>, grounds: Grounds, weight: u64) -> Self {
        Self {
            gateway,
            grounds,
            weight: rate(weight) * grounds.credit(),
            rate: 0.0,
            zone_weight: 0.0,
            draw: f64::INFINITY,
            within: 0.0,
        }
    }

    /// `None`: this zone.
    pub(super) fn zone(&self) -> Option<&'s ZoneName> {
        self.gateway.map(|gateway| &gateway.zone)
    }

    fn order(&self, other: &Self) -> Ordering {
        let rank = self.grounds.rank().cmp(&other.grounds.rank());
        rank.then_with(|| self.draw.total_cmp(&other.draw))
            .then_with(|| self.within.total_cmp(&other.within))
    }
}

/// The homes of one arm in order, sorted only when more than the first is asked for: most connections need no other.
#[derive(Debug, Default)]
pub(super) struct Homes<'s> {
    pub(super) left: Vec<Home<'s>>,
    progress: Progress,
    /// Shares of the tiers by spill; empty without it.
    pub(super) shares: Vec<f64>,
    /// It fits nowhere.
    pub(super) is_shed: bool,
    /// Health of the tiers; empty where it decides nothing.
    pub(super) tiers: Vec<TierHealth>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Progress {
    #[default]
    Untouched,
    FirstGiven,
    /// The next one is the last of the list.
    Sorted,
}

impl<'s> Homes<'s> {
    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Tells whether every one of them comes after others because its instances fail or its gateway drains. Asked before the first is
    /// given.
    pub(super) fn is_last_resort(&self) -> bool {
        !self.left.is_empty() && self.left.iter().all(|home| home.grounds.is_last_resort())
    }

    pub(super) fn next(&mut self) -> Option<Home<'s>> {
        match self.progress {
            Progress::Untouched => {
                self.progress = Progress::FirstGiven;
                let places = self.left.iter().enumerate();
                let (first, _) = places.min_by(|(_, a), (_, b)| a.order(b))?;
                return Some(self.left.swap_remove(first));
            }
            Progress::FirstGiven => {
                self.progress = Progress::Sorted;
                self.left.sort_unstable_by(|a, b| b.order(a));
            }
            Progress::Sorted => {}
        }
        self.left.pop()
    }
}

/// Every place that passes the filters for `arm`.
pub(super) fn of_arm<'s>(
    question: &Question<'s>,
    (arm, ejected): (&Arm, &Ejected),
    reasons: &mut Reasons,
    rng: &mut impl Rng,
) -> Homes<'s> {
    let snapshot = question.snapshot;
    let mut homes = Homes::default();
    let own = own_zone(question, arm, ejected);
    // What is passed over in panic too has its reason already.
    let is_told = |why: &Why| why.taken() || !question.in_panic;
    let why = Some(own.map_or_else(|why| why, Grounds::why));
    let subject = || ReasonSubject::OwnZone(snapshot.zone.clone());
    reasons.note_if(why.filter(is_told), subject, &arm.split_tags);
    if let Ok(grounds) = own {
        homes.left.push(Home::new(None, grounds, 1));
    }
    let mut tally = spills(question).then(TierTally::default);
    if let Some(tally) = &mut tally {
        tally_own(question, arm, own, tally);
    }
    // Who exports nothing of the service is passed over in any case; that is looked at only to say why.
    let exporters = (!reasons.wanted()).then(|| snapshot.catalog.exporters(&question.target.service));
    let everybody = reasons.wanted().then(|| snapshot.catalog.entries());
    let entries = exporters.into_iter().flatten();
    for entry in entries.chain(everybody.into_iter().flatten()) {
        let gateway = &entry.record.origin;
        let verdict = remote(question, entry, arm, ejected);
        let why = Some(verdict.map_or_else(|why| why, |(grounds, _)| grounds.why()));
        let subject = || ReasonSubject::Gateway(gateway.clone());
        reasons.note_if(why.filter(is_told), subject, &arm.split_tags);
        if let Ok((grounds, weight)) = verdict {
            homes.left.push(Home::new(Some(gateway), grounds, weight));
        }
        if let Some(tally) = &mut tally {
            tally_remote(question, entry, arm, verdict.map(|(grounds, _)| grounds), tally);
        }
    }
    if let Some(tally) = tally {
        homes.tiers = tally.finish();
        spill(question, arm, &mut homes, (reasons, rng));
    }
    start_slowly(question, arm, &mut homes, rng);
    weigh_all(&mut homes.left);
    draw_all(&mut homes.left, question.key, rng);
    if reasons.wanted() && !question.in_panic {
        note_unheard(question, arm, reasons);
    }
    homes
}

/// Sum and maximum of the weights that some gateways of one zone tell of.
#[derive(Debug, Default, Clone, Copy)]
struct AnnouncedWeights {
    sum: f64,
    most: f64,
}

/// Divides the weight of each zone. A zone has its weight once, however many gateways it has: the most that
/// one of them tells of. Those of them with one rank divide it among themselves, each by what it tells; one of a lower rank
/// takes nothing from it. `homes` has the gateways of a zone beside each other.
fn weigh_all(homes: &mut [Home<'_>]) {
    for zone in homes.chunk_by_mut(|one, next| one.zone() == next.zone()) {
        // Tier and zone are the same for all of them, so that a rank is two bits.
        let mut told = [AnnouncedWeights::default(); 4];
        for home in &*zone {
            let (told, weight) = (&mut told[home.grounds.rank().within_zone()], home.weight);
            told.sum += weight;
            told.most = told.most.max(weight);
        }
        for home in zone {
            let AnnouncedWeights { sum, most } = told[home.grounds.rank().within_zone()];
            home.rate = home.weight / sum * most;
            home.zone_weight = most;
        }
    }
}

/// Draws the order of places whose ranks are equal. A key draws the zone by its weight, and then the gateway, so that a gateway that leaves
/// moves nobody to another zone.
fn draw_all(homes: &mut [Home<'_>], key: Option<StickyKey>, rng: &mut impl Rng) {
    for home in homes {
        match (key, home.gateway) {
            (Some(key), Some(gateway)) => {
                home.draw = key.draw_named(gateway.zone.as_str(), home.zone_weight);
                home.within = key.draw_named(&gateway.to_string(), home.weight);
            }
            _ => home.draw = draw(home.rate, rng),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a weight above 2^53 loses nothing that matters"
)]
fn rate(weight: u64) -> f64 {
    weight as f64
}

/// Checks whether this zone's own instances can serve: `Ok` with its grounds, or why not.
fn own_zone(question: &Question<'_>, arm: &Arm, ejected: &Ejected) -> Result<Grounds, Why> {
    let snapshot = question.snapshot;
    if !question.service.may_run_in(&snapshot.zone) {
        return Err(Why::MayNotRun);
    }
    let tier = tier(question, &snapshot.zone, question.own_tags)?;
    let instances = snapshot.instances.get(&question.target.service);
    let usable = instances.map_or(Err(Unusable::NoInstance), |list| match list.usable(&arm.tags) {
        Err(Unusable::NoneHealthy | Unusable::Drained) if question.in_panic && list.has_ill(&arm.tags) => {
            Ok(())
        }
        usable => usable,
    });
    usable.map_err(|why| match why {
        Unusable::NoInstance => Why::NoInstance,
        Unusable::NoneHealthy => Why::NoneHealthy,
        Unusable::Drained => Why::Drained,
        Unusable::NoWeight => Why::NoWeight,
    })?;
    Ok(Grounds {
        tier,
        own: true,
        age: Age::Fresh,
        link: Link::Up,
        draining: snapshot.drains(&snapshot.zone),
        failing: ejected.has_place(
            (&question.target.service, question.port),
            &snapshot.zone,
            &arm.tags,
        ),
        passed_by: false,
        spilled: false,
        is_needed: false,
        in_panic: question.in_panic,
    })
}

/// Checks whether one gateway of another zone can serve: its grounds and its weight, or why not.
fn remote(
    question: &Question<'_>,
    entry: &CatalogEntry,
    arm: &Arm,
    ejected: &Ejected,
) -> Result<(Grounds, u64), Why> {
    let snapshot = question.snapshot;
    let zone = &entry.record.origin.zone;
    if question.target.zone.as_ref().is_some_and(|named| named != zone) {
        return Err(Why::OtherZoneNamed);
    }
    if !question.service.is_exported_to(&snapshot.zone) {
        return Err(Why::NotExported);
    }
    if !question.service.may_run_in(zone) {
        return Err(Why::MayNotRun);
    }
    if entry.age == Age::Withdrawn {
        return Err(Why::Withdrawn);
    }
    let link = *snapshot.links.get(&entry.record.origin).ok_or(Why::NoTunnel)?;
    let weight = match question.in_panic {
        false => healthy_weight(entry, &question.target.service, &arm.tags)?,
        true => ill_weight(entry, &question.target.service, &arm.tags)?,
    };
    let declared = snapshot.topology.zones.get(zone).ok_or(Why::NotInTopology)?;
    let grounds = Grounds {
        tier: tier(question, zone, Some(&declared.tags))?,
        own: false,
        age: entry.age,
        link,
        draining: entry.record.draining || link == Link::Draining || declared.drain.is_some(),
        failing: ejected.has_place((&question.target.service, question.port), zone, &arm.tags),
        passed_by: false,
        spilled: false,
        is_needed: false,
        in_panic: question.in_panic,
    };
    Ok((grounds, weight))
}

/// The weight of the healthy instances that carry `selector`.
pub(super) fn healthy_weight(
    entry: &CatalogEntry,
    service: &ServiceName,
    selector: &Tags,
) -> Result<u64, Why> {
    let mut why = Why::NoInstance;
    let mut weight = 0u64;
    for export in Catalog::exports(entry, service, selector) {
        if export.healthy > 0 {
            weight = weight.saturating_add(export.weight);
            why = Why::NoWeight;
        } else if export.instances > 0 && why == Why::NoInstance {
            why = Why::NoneHealthy;
        }
    }
    if weight > 0 { Ok(weight) } else { Err(why) }
}

/// The weight of the instances that carry `selector` where none of them is healthy.
fn ill_weight(entry: &CatalogEntry, service: &ServiceName, selector: &Tags) -> Result<u64, Why> {
    let healthy = healthy_weight(entry, service, selector);
    if healthy != Err(Why::NoneHealthy) {
        return healthy;
    }
    let exports = Catalog::exports(entry, service, selector);
    let weight = exports.fold(0u64, |sum, export| sum.saturating_add(export.weight));
    if weight > 0 { Ok(weight) } else { healthy }
}

/// The first tier that `zone` matches, counted from 1; `None` when the name itself names the zone.
pub(super) fn tier(
    question: &Question<'_>,
    zone: &ZoneName,
    tags: Option<&Tags>,
) -> Result<Option<usize>, Why> {
    if let Some(named) = &question.target.zone {
        return if named == zone {
            Ok(None)
        } else {
            Err(Why::OtherZoneNamed)
        };
    }
    let own = (&question.snapshot.zone, question.own_tags);
    let tier = tier_between(question.service, own, (zone, tags));
    tier.map(|index| Some(index + 1)).ok_or(Why::NoTier)
}

/// The first tier (from 0) of the clients of one zone that another, or the same, matches.
pub(crate) fn tier_between(
    service: &Service,
    (own, own_tags): (&ZoneName, Option<&Tags>),
    (zone, tags): (&ZoneName, Option<&Tags>),
) -> Option<usize> {
    let matches = |tier: &Tier| {
        let zone_matches = match &tier.zone {
            None => true,
            Some(TierZone::Own) => zone == own,
            Some(TierZone::Named(named)) => named == zone,
        };
        zone_matches && tags_match(&tier.tags, tags, own_tags)
    };
    service.failover.iter().position(matches)
}

/// `self` matches only where this zone itself carries the key.
fn tags_match(wanted: &BTreeMap<String, TierTag>, tags: Option<&Tags>, own: Option<&Tags>) -> bool {
    wanted.iter().all(|(key, value)| {
        let value = match value {
            TierTag::Own => own.and_then(|own| own.value(key)),
            TierTag::Is(value) => Some(value.as_str()),
        };
        value.is_some() && tags.and_then(|tags| tags.value(key)) == value
    })
}

/// Zones of the topology that zone sync knows nothing of.
fn note_unheard(question: &Question<'_>, arm: &Arm, reasons: &mut Reasons) {
    let snapshot = question.snapshot;
    for zone in snapshot.topology.zones.keys() {
        if *zone != snapshot.zone && snapshot.catalog.zone(zone).next().is_none() {
            reasons.note(
                || ReasonSubject::Zone(zone.clone()),
                Some(&arm.split_tags),
                Why::NeverHeard,
            );
        }
    }
}
