//! Filling of capacity by demand: the critical first, and of one criticality each demand its first tier before others spill to it.

use std::collections::BTreeMap;

use causeway_federation::{name::Tags, topology::Criticality};

use crate::route::{TierHealth, tier_shares};

/// Most rounds for one criticality. Each fills a zone, or serves all that is left.
const MAX_ROUNDS: usize = 256;
/// Less than this is nothing.
const NOTHING: f64 = 1e-6;

/// Instances of a zone with the same tags, and what they can still take.
#[derive(Debug, Clone)]
pub(super) struct CapacityPool {
    /// Place in the list of zones.
    pub(super) zone: usize,
    pub(super) tags: Tags,
    /// Infinite where nothing is known of it.
    pub(super) room: f64,
    /// It was measured.
    pub(super) is_measured: bool,
}

/// Demand of the clients of one zone.
#[derive(Debug, Clone)]
pub(super) struct CapacityClaim {
    pub(super) tags: Tags,
    pub(super) criticality: Criticality,
    pub(super) per_second: f64,
    /// Zones that may serve it.
    pub(super) zones: Vec<ClaimedZone>,
    /// Of its tiers, in their order (see `failback`).
    pub(super) ceilings: Vec<f64>,
}

/// Zone that may serve a claim.
#[derive(Debug, Clone)]
pub(super) struct ClaimedZone {
    /// Place in the list of zones.
    pub(super) zone: usize,
    /// Counts from 0.
    pub(super) tier: usize,
    /// The zone of the clients.
    pub(super) is_own: bool,
    pub(super) weight: f64,
    /// Of instances with the tags, none of them healthy where the zone is not to be used.
    pub(super) health: TierHealth,
    /// Of the same instances, where the zone is not to be used because the topology drains it; else of none.
    pub(super) drained: TierHealth,
}

impl ClaimedZone {
    /// The zone for what nobody else has room for: only one that is drained.
    pub(super) fn if_drained(&self) -> Self {
        Self {
            health: TierHealth {
                healthy: self.drained.healthy,
                ..self.health
            },
            drained: TierHealth::default(),
            ..self.clone()
        }
    }
}

/// Outcome of one claim.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct FilledClaim {
    /// Taken by each of its zones a second, in their order.
    pub(super) taken: Vec<f64>,
    /// Some of it did not fit where it would have gone first.
    pub(super) is_limited: bool,
}

/// Gives every claim what there is room for.
pub(super) fn fill(
    pools: &mut [CapacityPool],
    claims: &[CapacityClaim],
    healthy_below: f64,
) -> Vec<FilledClaim> {
    let empty = |claim: &CapacityClaim| FilledClaim {
        taken: vec![0.0; claim.zones.len()],
        is_limited: false,
    };
    let mut filled: Vec<FilledClaim> = claims.iter().map(empty).collect();
    for criticality in Criticality::ALL {
        let of_it: Vec<usize> = (0..claims.len())
            .filter(|at| claims[*at].criticality == criticality)
            .collect();
        for _ in 0..MAX_ROUNDS {
            if !round(pools, claims, &of_it, healthy_below, &mut filled) {
                break;
            }
        }
    }
    filled
}

/// Demand that is offered to a zone: place of the claim, that of the zone among the claim's, and how much.
type Offer = (usize, usize, f64);

/// Has each claim offer what is left of it to zones with room, which take of each the same part. `false`: nothing was taken.
fn round(
    pools: &mut [CapacityPool],
    claims: &[CapacityClaim],
    of_it: &[usize],
    healthy_below: f64,
    filled: &mut [FilledClaim],
) -> bool {
    let mut offers: BTreeMap<(usize, &Tags), Vec<Offer>> = BTreeMap::new();
    for at in of_it {
        let claim = &claims[*at];
        let left = claim.per_second - filled[*at].taken.iter().sum::<f64>();
        if left <= NOTHING * claim.per_second {
            continue;
        }
        let shares = shares(claim, pools, healthy_below);
        filled[*at].is_limited |= claim.zones.iter().any(|zone| is_full(zone, claim, pools));
        for (place, share) in shares.into_iter().enumerate().filter(|(_, share)| *share > 0.0) {
            let to = (claim.zones[place].zone, &claim.tags);
            offers.entry(to).or_default().push((*at, place, left * share));
        }
    }
    let any = !offers.is_empty();
    for ((zone, tags), offers) in offers {
        let offered: f64 = offers.iter().map(|(_, _, amount)| amount).sum();
        let room = room(pools, zone, tags);
        let part = if offered > room { room / offered } else { 1.0 };
        for (at, place, amount) in offers {
            filled[at].taken[place] += amount * part;
            filled[at].is_limited |= part < 1.0;
        }
        take(pools, (zone, tags), offered * part);
    }
    any
}

/// Tells whether a zone could serve a claim if it had room.
fn is_full(zone: &ClaimedZone, claim: &CapacityClaim, pools: &[CapacityPool]) -> bool {
    zone.health.healthy > 0 && room(pools, zone.zone, &claim.tags) <= NOTHING
}

/// Shares (0 to 1) of what is left of a claim that its zones are offered now, in their order. Tiers share by their health, as they do
/// without capacity; within a tier the clients' own zone comes first, and others by their weight.
fn shares(claim: &CapacityClaim, pools: &[CapacityPool], healthy_below: f64) -> Vec<f64> {
    let has_room = |zone: &ClaimedZone| room(pools, zone.zone, &claim.tags) > NOTHING;
    let roomy: Vec<bool> = claim.zones.iter().map(has_room).collect();
    let count = claim.zones.iter().map(|zone| zone.tier + 1).max().unwrap_or(0);
    let mut tiers = vec![TierHealth::default(); count];
    let mut weights = vec![0.0; count];
    let mut own_first = vec![false; count];
    for (zone, roomy) in claim.zones.iter().zip(&roomy) {
        // One that is full has nothing to say about how well the others of its tier are.
        if *roomy || zone.health.healthy == 0 {
            tiers[zone.tier] = tiers[zone.tier].plus(zone.health);
        }
        if *roomy && zone.health.healthy > 0 {
            weights[zone.tier] += zone.weight;
            own_first[zone.tier] |= zone.is_own;
        }
    }
    let of_tiers = tier_shares(&tiers, healthy_below, &claim.ceilings);
    let share = |(zone, roomy): (&ClaimedZone, &bool)| {
        let takes = *roomy && zone.health.healthy > 0;
        match (takes, own_first[zone.tier]) {
            (false, _) => 0.0,
            (true, true) => of_tiers[zone.tier] * f64::from(u8::from(zone.is_own)),
            (true, false) => of_tiers[zone.tier] * zone.weight / weights[zone.tier].max(f64::MIN_POSITIVE),
        }
    };
    claim.zones.iter().zip(&roomy).map(share).collect()
}

/// Room that instances of a zone with these tags have left.
fn room(pools: &[CapacityPool], zone: usize, tags: &Tags) -> f64 {
    let fitting = pools
        .iter()
        .filter(|pool| pool.zone == zone && pool.tags.matches(tags));
    fitting.map(|pool| pool.room).sum()
}

/// Takes so much of the room of instances with these tags, of each its part.
fn take(pools: &mut [CapacityPool], (zone, tags): (usize, &Tags), amount: f64) {
    let room = room(pools, zone, tags);
    if !room.is_finite() || room <= 0.0 {
        return;
    }
    let left = (1.0 - amount / room).max(0.0);
    let fitting = pools
        .iter_mut()
        .filter(|pool| pool.zone == zone && pool.tags.matches(tags));
    fitting.for_each(|pool| pool.room *= left);
}
