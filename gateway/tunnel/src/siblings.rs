//! Other gateways of this gateway's zone whose registry is not shared with it. Gateways of one zone have no tunnel between them, so
//! it is the gateways of other zones, which have tunnels with both, that tell them of each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use causeway_federation::name::GatewayName;
use parking_lot::Mutex;

use super::{Tunnel, TunnelSet};

/// Word in a hello: the sender keeps a registry that no other gateway of its zone has.
pub(super) const OWN_REGISTRY: &str = "own-registry";
/// Interval at which a peer is told again, so that what is over is forgotten.
pub(super) const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Time after which what is not told again is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(35);
/// Most that are told, and remembered; a zone has few gateways.
const MAX_SIBLINGS: usize = 64;

/// Gateways of the own zone that peers have told of, and when last.
#[derive(Debug, Default)]
pub(super) struct Siblings(Mutex<BTreeMap<GatewayName, Instant>>);

impl Siblings {
    /// Takes down what a peer tells. Gives those that were not known.
    pub(super) fn hear(&self, told: &[String], own: &GatewayName, now: Instant) -> Vec<GatewayName> {
        let mut known = self.0.lock();
        known.retain(|_, at| now.duration_since(*at) < FORGOTTEN_AFTER);
        let names = told.iter().take(MAX_SIBLINGS);
        let names = names.filter_map(|name| GatewayName::new(name).ok());
        let mut fresh = Vec::new();
        for name in names.filter(|name| name != own) {
            if known.len() >= MAX_SIBLINGS && !known.contains_key(&name) {
                break;
            }
            if known.insert(name.clone(), now).is_none() {
                fresh.push(name);
            }
        }
        fresh
    }

    fn known(&self, now: Instant) -> BTreeSet<GatewayName> {
        let known = self.0.lock();
        let lately = known
            .iter()
            .filter(|(_, at)| now.duration_since(**at) < FORGOTTEN_AFTER);
        lately.map(|(name, _)| name.clone()).collect()
    }
}

impl Tunnel {
    /// Tells whether the peer keeps a registry that no other gateway of its zone has.
    #[must_use]
    pub fn keeps_own_registry(&self) -> bool {
        self.capabilities().has(OWN_REGISTRY)
    }
}

impl TunnelSet {
    /// Other gateways of the own zone whose registry is not shared with this gateway, as peers tell.
    #[must_use]
    pub fn siblings_apart(&self) -> BTreeSet<GatewayName> {
        self.siblings().known(Instant::now())
    }

    /// Lists the gateways of the zone of a peer that do not share a registry with it, by name.
    pub(super) fn apart_from(&self, tunnel: &Tunnel) -> Vec<String> {
        let peer = tunnel.peer();
        let all = self.all();
        let others = all.iter().filter(|other| {
            let other_peer = other.peer();
            other_peer.zone == peer.zone && other_peer.gateway != peer.gateway
        });
        let apart = others.filter(|other| tunnel.keeps_own_registry() || other.keeps_own_registry());
        let names: BTreeSet<&str> = apart.map(|other| other.peer().gateway.as_str()).collect();
        names.into_iter().take(MAX_SIBLINGS).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_kept_for_a_while_within_bounds_and_is_news_once() {
        let (siblings, now) = (Siblings::default(), Instant::now());
        let own: GatewayName = "gw1".parse().unwrap();
        let told = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let fresh = siblings.hear(&told(&["gw1", "gw2", "No name!"]), &own, now);
        assert_eq!(fresh, ["gw2".parse().unwrap()]);
        assert_eq!(siblings.hear(&told(&["gw2"]), &own, now), []);
        assert_eq!(siblings.known(now).len(), 1);
        assert!(siblings.known(now + FORGOTTEN_AFTER).is_empty());
        let many: Vec<String> = (10..1_000).map(|number| format!("gw{number}")).collect();
        siblings.hear(&many, &own, now);
        siblings.hear(&many[500..], &own, now);
        assert_eq!(siblings.known(now).len(), MAX_SIBLINGS);
        let later = now + FORGOTTEN_AFTER;
        assert_eq!(siblings.hear(&told(&["gw2"]), &own, later).len(), 1, "news again");
    }
}
