//! Peers that are asked to pass on the records of zones that this gateway has no session with.
//!
//! Each such zone is asked for at up to [`WANT_PEERS`] peers. Whoever passes on no sign of life for a while is replaced
//! by the next, so that in the end everybody who may know is asked. The order is a zone's own (rendezvous hashing), so
//! that different zones are asked for at different peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Instant,
};

use causeway_federation::name::{GatewayId, ZoneName};

use super::limits::{MAX_WANTED_ZONES, WANT_AFTER, WANT_PATIENCE, WANT_PEERS};

/// A peer that was asked for a zone.
#[derive(Debug)]
struct Asked {
    peer: GatewayId,
    /// Time at which it last passed on a sign of life of the zone, or was asked.
    served: Instant,
}

/// A zone without a session.
#[derive(Debug)]
struct Missing {
    since: Instant,
    asked: Vec<Asked>,
    /// Tells whether it is still too early to ask.
    early: bool,
    /// Number of peers that were asked or passed over so far: where in the zone's order to go on.
    turn: usize,
}

#[derive(Debug, Default)]
pub(super) struct Wants {
    missing: BTreeMap<ZoneName, Missing>,
}

impl Wants {
    /// Brings up to date what is wanted: `zones` are those of the topology without the own, `direct` those with a
    /// session, `peers` those that could be asked.
    pub(super) fn update(
        &mut self,
        now: Instant,
        zones: &BTreeSet<ZoneName>,
        direct: &BTreeSet<ZoneName>,
        peers: &BTreeSet<GatewayId>,
    ) {
        let is_missing = |zone: &ZoneName| zones.contains(zone) && !direct.contains(zone);
        self.missing.retain(|zone, _| is_missing(zone));
        for zone in zones.iter().filter(|zone| !direct.contains(*zone)) {
            if self.missing.len() >= MAX_WANTED_ZONES && !self.missing.contains_key(zone) {
                break;
            }
            let missing = self.missing.entry(zone.clone()).or_insert(Missing {
                since: now,
                asked: Vec::new(),
                early: true,
                turn: 0,
            });
            missing.ask(now, zone, peers);
        }
    }

    /// A sign of life of `zone` came through `peer`.
    pub(super) fn served(&mut self, now: Instant, zone: &ZoneName, peer: &GatewayId) {
        let missing = self.missing.get_mut(zone).into_iter();
        for asked in missing.flat_map(|m| m.asked.iter_mut()) {
            if asked.peer == *peer {
                asked.served = now;
            }
        }
    }

    /// Asks somebody else, since what `peer` passed on of `zone` cannot be used.
    pub(super) fn failed(&mut self, zone: &ZoneName, peer: &GatewayId) {
        if let Some(missing) = self.missing.get_mut(zone) {
            missing.asked.retain(|asked| asked.peer != *peer);
        }
    }

    /// Peers that are asked, and for which zones.
    pub(super) fn asked(&self) -> BTreeMap<GatewayId, BTreeSet<ZoneName>> {
        let mut asked: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (zone, missing) in &self.missing {
            for one in &missing.asked {
                let zones = asked.entry(one.peer.clone()).or_default();
                zones.insert(zone.clone());
            }
        }
        asked
    }

    /// Time at which [`Wants::update`] has something to do without anything having happened.
    pub(super) fn next_change(&self) -> Option<Instant> {
        self.missing.values().filter_map(Missing::next_change).min()
    }
}

impl Missing {
    fn ask(&mut self, now: Instant, zone: &ZoneName, peers: &BTreeSet<GatewayId>) {
        self.asked
            .retain(|asked| peers.contains(&asked.peer) && now < asked.served + WANT_PATIENCE);
        self.early = now < self.since + WANT_AFTER;
        if self.early || self.asked.len() >= WANT_PEERS {
            return;
        }
        let mut order: Vec<_> = peers.iter().filter(|peer| peer.zone != *zone).collect();
        order.sort_by_cached_key(|peer| score(zone, peer));
        // Once around at most: the same peer is not asked twice.
        for _ in 0..order.len() {
            if self.asked.len() >= WANT_PEERS {
                break;
            }
            let peer = order[self.turn % order.len()];
            self.turn = self.turn.wrapping_add(1);
            if self.asked.iter().all(|asked| asked.peer != *peer) {
                let (peer, served) = (peer.clone(), now);
                self.asked.push(Asked { peer, served });
            }
        }
    }

    fn next_change(&self) -> Option<Instant> {
        let patience = self.asked.iter().map(|asked| asked.served + WANT_PATIENCE).min();
        // Without a peer to ask, nothing is to be done before one comes.
        patience.or(self.early.then_some(self.since + WANT_AFTER))
    }
}

fn score(zone: &ZoneName, peer: &GatewayId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (zone, peer).hash(&mut hasher);
    hasher.finish()
}
