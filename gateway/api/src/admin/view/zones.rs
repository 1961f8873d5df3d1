//! The zones of the federation and how each can be reached from here.

use std::{collections::BTreeSet, time::Duration};

use causeway_federation::{
    name::{GatewayId, GatewayName, Tags, ZoneName},
    topology::Zone,
};
use causeway_routing::snapshot::Snapshot;
use causeway_tunnel::{LastWord, LastWords};
use serde::{Deserialize, Serialize};

use super::{ExchangeView, age_word, exchange, link_word, milliseconds, moment};
use crate::admin::{SyncReadings, TunnelReading};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZoneView {
    pub name: String,
    /// Tells whether it is the zone that answers.
    pub own: bool,
    /// `own`, `up`, `stalled`, `draining` or `down`: the best over its gateways.
    pub state: String,
    pub tags: Tags,
    /// Declared addresses, gateway by gateway; empty: the zone dials out.
    pub gateways: Vec<Vec<String>>,
    /// Every gateway of the zone that was ever heard of.
    pub links: Vec<LinkView>,
    /// Reason why no tunnel to it came about lately; absent while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_word: Option<LastWordView>,
    /// Is there while the topology has the zone emptied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainView>,
}

/// The emptying of a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// Moment at which open connections that others can serve are ended (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Reason why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastWordView {
    /// Side that refused: `peer` or `local`; absent: nobody was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<String>,
    /// The word of the log and of `causeway_tunnel_refused_total`, such as `revoked`, or `timeout`.
    pub reason: String,
    pub seconds_ago: f64,
}

/// One gateway of another zone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkView {
    pub gateway: String,
    /// `up`, `stalled`, `draining` or `down`.
    pub state: String,
    pub tunnels: usize,
    /// The latest asks that had no answer in time, over its tunnels.
    #[serde(default)]
    pub unanswered: usize,
    /// Seconds that its clock is ahead of that of the gateway that answers, less than 0 if behind; absent where it tells none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_seconds: Option<f64>,
    /// `own`: it keeps a registry that no other gateway of its zone has; `shared`: it says nothing of the kind; `apart`: it is of this zone
    /// and does not share a registry with the gateway that answers. Absent while nobody tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// The lowest over its tunnels.
    pub rtt_ms: Option<f64>,
    /// `fresh`, `suspect` or `withdrawn`; absent while it has told nothing.
    pub age: Option<String>,
    pub heard_seconds_ago: Option<f64>,
    /// Tells whether a zone sync session with it is open.
    pub sync_session: bool,
    pub exports: usize,
    /// The first digits of its topology's fingerprint.
    pub topology: Option<String>,
    pub same_topology: Option<bool>,
    /// 0: its topology is from a file and was never applied.
    #[serde(default)]
    pub topology_generation: Option<u64>,
    /// Generation of the document that says whom it trusts; 0: it knows none.
    #[serde(default)]
    pub trust_generation: Option<u64>,
    #[serde(default)]
    pub incarnation: Option<u64>,
    #[serde(default)]
    pub version: Option<u64>,
    /// The gateway that passes its record on; absent when it tells it itself.
    #[serde(default)]
    pub via: Option<String>,
    #[serde(flatten)]
    pub exchange: ExchangeView,
}

#[must_use]
pub fn zones(
    snapshot: &Snapshot,
    tunnels: &[TunnelReading],
    sync: &SyncReadings,
    words: &LastWords,
    apart: &BTreeSet<GatewayName>,
) -> Vec<ZoneView> {
    let view = |(name, zone): (&ZoneName, &Zone)| {
        let mut view = zone_view(snapshot, name, zone, tunnels, sync);
        if view.own {
            add_apart(&mut view.links, apart);
        }
        let last_word = match view.state.as_str() {
            "down" => words.of(name).map(last_word),
            _ => None,
        };
        ZoneView { last_word, ..view }
    };
    snapshot.topology.zones.iter().map(view).collect()
}

/// Marks the gateways of the own zone that do not share a registry with this one, and adds those of which nothing else is known.
fn add_apart(links: &mut Vec<LinkView>, apart: &BTreeSet<GatewayName>) {
    for name in apart {
        let registry = Some("apart".to_owned());
        match links.iter_mut().find(|link| link.gateway == name.as_str()) {
            Some(link) => link.registry = registry,
            None => links.push(LinkView {
                gateway: name.to_string(),
                state: link_word(None).to_owned(),
                registry,
                ..LinkView::default()
            }),
        }
    }
}

fn last_word(word: LastWord) -> LastWordView {
    LastWordView {
        side: word.by.map(|side| side.word().to_owned()),
        reason: word.reason.to_owned(),
        seconds_ago: word.at.elapsed().as_secs_f64(),
    }
}

fn zone_view(
    snapshot: &Snapshot,
    name: &ZoneName,
    zone: &Zone,
    tunnels: &[TunnelReading],
    sync: &SyncReadings,
) -> ZoneView {
    let own = *name == snapshot.zone;
    let known = snapshot.catalog.zone(name).map(|entry| &entry.record.origin);
    let linked = snapshot.links.keys().filter(|gateway| gateway.zone == *name);
    let gateways: BTreeSet<&GatewayId> = known.chain(linked).collect();
    let links = gateways
        .into_iter()
        .map(|gateway| link_view(snapshot, gateway, tunnels, sync));
    let best = snapshot
        .links
        .iter()
        .filter(|(gateway, _)| gateway.zone == *name)
        .map(|(_, link)| *link)
        .min();
    ZoneView {
        name: name.to_string(),
        own,
        state: if own { "own" } else { link_word(best) }.to_owned(),
        tags: zone.tags.clone(),
        gateways: zone
            .gateways
            .iter()
            .map(|gateway| gateway.addresses.clone())
            .collect(),
        links: links.collect(),
        last_word: None,
        drain: zone.drain.as_ref().map(|drain| DrainView {
            by: drain.by.map(moment),
        }),
    }
}

fn link_view(
    snapshot: &Snapshot,
    gateway: &GatewayId,
    tunnels: &[TunnelReading],
    sync: &SyncReadings,
) -> LinkView {
    let entry = snapshot.catalog.entry(gateway);
    let record = entry.map(|entry| &entry.record);
    let to_it = || tunnels.iter().filter(|tunnel| tunnel.peer == *gateway);
    let heard = sync.of(gateway);
    LinkView {
        gateway: gateway.gateway.to_string(),
        state: link_word(snapshot.links.get(gateway).copied()).to_owned(),
        tunnels: to_it().count(),
        unanswered: to_it().map(|tunnel| tunnel.unanswered).sum(),
        // The youngest tunnel says it latest.
        clock_ahead_seconds: to_it()
            .min_by_key(|tunnel| tunnel.up)
            .and_then(|tunnel| tunnel.clock_ahead),
        registry: to_it().next().map(|tunnel| {
            let word = if tunnel.own_registry { "own" } else { "shared" };
            word.to_owned()
        }),
        rtt_ms: to_it().map(|tunnel| tunnel.rtt).min().map(milliseconds),
        age: entry.map(|entry| age_word(entry.age).to_owned()),
        heard_seconds_ago: heard
            .and_then(|reading| reading.heard_ago)
            .as_ref()
            .map(Duration::as_secs_f64),
        sync_session: heard.is_some_and(|reading| reading.session),
        exports: record.map_or(0, |record| record.exports.len()),
        topology: record.map(|record| record.topology.to_string()),
        same_topology: record.map(|record| record.topology == snapshot.topology.fingerprint),
        topology_generation: record.map(|record| record.topology_generation),
        trust_generation: record.map(|record| record.trust.generation),
        incarnation: record.map(|record| record.incarnation),
        version: record.map(|record| record.version),
        via: entry
            .and_then(|entry| entry.via.as_ref())
            .map(ToString::to_string),
        exchange: heard.map(exchange).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_of_the_own_zone_that_share_no_registry_with_this_one_are_listed() {
        let known = LinkView {
            gateway: "gw2".to_owned(),
            exports: 3,
            ..LinkView::default()
        };
        let mut links = vec![known];
        add_apart(&mut links, &BTreeSet::new());
        assert_eq!((links.len(), &links[0].registry), (1, &None));
        add_apart(
            &mut links,
            &["gw2", "gw3"].map(|name| name.parse().unwrap()).into(),
        );
        let told = |link: &LinkView| (link.gateway.clone(), link.exports, link.registry.clone());
        let apart = || Some("apart".to_owned());
        let expected = [("gw2".to_owned(), 3, apart()), ("gw3".to_owned(), 0, apart())];
        assert_eq!(links.iter().map(told).collect::<Vec<_>>(), expected);
    }
}
