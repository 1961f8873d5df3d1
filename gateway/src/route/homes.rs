//! Which zones and gateways can serve one arm now.

use std::collections::BTreeMap;

use causeway_zone_sync::{
    catalog::{Age, Catalog, Entry},
    name::{GatewayId, ServiceName, Tags, ZoneName},
    topology::{Tier, TierTag, TierZone},
};
use rand::Rng;

use super::{
    Question, Ranked,
    arms::Arm,
    draw, rank,
    reason::{Reasons, Subject, Why},
};
use crate::{
    balance,
    snapshot::{Health, Instance, Link},
};

/// Every place that passes the filters for `arm`, in order.
pub(super) fn of_arm<'s>(
    question: &Question<'s>,
    arm: &Arm,
    reasons: &mut Reasons,
    rng: &mut impl Rng,
) -> Vec<Ranked<'s>> {
    let mut homes = Vec::new();
    let snapshot = question.snapshot;
    let own = own_zone(question, arm);
    let why = own.unwrap_or_else(|why| why);
    reasons.note(
        || Subject::OwnZone(snapshot.zone.clone()),
        Some(&arm.split_tags),
        why,
    );
    if let Ok(why) = own {
        homes.push(ranked(None, why, 1, rng));
    }
    let mut links = snapshot.links.iter().peekable();
    for entry in snapshot.catalog.entries() {
        let gateway = &entry.record.origin;
        // Both maps are in the order of gateways, so that one pass finds each gateway's link.
        while links.next_if(|(other, _)| *other < gateway).is_some() {}
        let link = links
            .next_if(|(other, _)| *other == gateway)
            .map(|(_, link)| *link);
        let verdict = remote(question, entry, link, arm);
        let why = verdict.map_or_else(|why| why, |(why, _)| why);
        reasons.note(|| Subject::Gateway(gateway.clone()), Some(&arm.split_tags), why);
        if let Ok((why, weight)) = verdict {
            homes.push(ranked(Some(gateway), why, weight, rng));
        }
    }
    if reasons.wanted() {
        note_unheard(question, arm, reasons);
    }
    homes.sort_by(Ranked::order);
    homes
}

fn ranked<'s>(gateway: Option<&'s GatewayId>, why: Why, weight: u64, rng: &mut impl Rng) -> Ranked<'s> {
    let rank = match why {
        Why::Taken { tier, own, age, link } => rank(link, age, tier.unwrap_or(0), own),
        _ => rank(Link::Stalled, Age::Withdrawn, usize::MAX, false),
    };
    Ranked {
        gateway,
        why,
        rank,
        draw: draw(weight, rng),
    }
}

/// Whether this zone's own instances can serve: `Ok` with why, or why not.
fn own_zone(question: &Question<'_>, arm: &Arm) -> Result<Why, Why> {
    let snapshot = question.snapshot;
    if !question.service.may_run_in(&snapshot.zone) {
        return Err(Why::MayNotRun);
    }
    let tier = tier(question, &snapshot.zone, question.own_tags)?;
    let instances = snapshot.instances.get(&question.target.service);
    has_instance(instances.map_or(&[], |list| &**list), &arm.tags)?;
    Ok(Why::Taken {
        tier,
        own: true,
        age: Age::Fresh,
        link: Link::Up,
    })
}

fn has_instance(instances: &[std::sync::Arc<Instance>], selector: &Tags) -> Result<(), Why> {
    let mut why = Why::NoInstance;
    for instance in instances.iter().filter(|i| i.tags.matches(selector)) {
        if balance::takes_traffic(instance) {
            return Ok(());
        }
        why = match (instance.health, why) {
            (Health::Healthy, _) | (_, Why::NoWeight) => Why::NoWeight,
            _ => Why::NoneHealthy,
        };
    }
    Err(why)
}

/// Whether one gateway of another zone can serve: why and its weight, or why not.
fn remote(question: &Question<'_>, entry: &Entry, link: Option<Link>, arm: &Arm) -> Result<(Why, u64), Why> {
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
    if entry.record.draining {
        return Err(Why::ZoneDraining);
    }
    let link = match link {
        None => return Err(Why::NoTunnel),
        Some(Link::Draining) => return Err(Why::TunnelDraining),
        Some(link) => link,
    };
    let weight = healthy_weight(entry, &question.target.service, &arm.tags)?;
    let tags = &snapshot.topology.zones.get(zone).ok_or(Why::NotInTopology)?.tags;
    let why = Why::Taken {
        tier: tier(question, zone, tags)?,
        own: false,
        age: entry.age,
        link,
    };
    Ok((why, weight))
}

/// The weight of the healthy instances that carry `selector`.
fn healthy_weight(entry: &Entry, service: &ServiceName, selector: &Tags) -> Result<u64, Why> {
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

/// The first tier that `zone` matches, counted from 1; `None` when the name itself names the zone.
fn tier(question: &Question<'_>, zone: &ZoneName, tags: &Tags) -> Result<Option<usize>, Why> {
    if let Some(named) = &question.target.zone {
        return if named == zone {
            Ok(None)
        } else {
            Err(Why::OtherZoneNamed)
        };
    }
    let matches = |tier: &Tier| {
        let zone_matches = match &tier.zone {
            None => true,
            Some(TierZone::Own) => *zone == question.snapshot.zone,
            Some(TierZone::Named(named)) => named == zone,
        };
        zone_matches && tags_match(&tier.tags, tags, question.own_tags)
    };
    let index = question.service.failover.iter().position(matches);
    index.map(|index| Some(index + 1)).ok_or(Why::NoTier)
}

/// `self` matches only where this zone itself carries the key.
fn tags_match(wanted: &BTreeMap<String, TierTag>, tags: &Tags, own: &Tags) -> bool {
    wanted.iter().all(|(key, value)| {
        let value = match value {
            TierTag::Own => own.value(key),
            TierTag::Is(value) => Some(value.as_str()),
        };
        value.is_some() && tags.value(key) == value
    })
}

/// Zones of the topology that zone sync knows nothing of.
fn note_unheard(question: &Question<'_>, arm: &Arm, reasons: &mut Reasons) {
    let snapshot = question.snapshot;
    for zone in snapshot.topology.zones.keys() {
        if *zone != snapshot.zone && snapshot.catalog.zone(zone).next().is_none() {
            reasons.note(
                || Subject::Zone(zone.clone()),
                Some(&arm.split_tags),
                Why::NeverHeard,
            );
        }
    }
}
