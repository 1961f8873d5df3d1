//! The zones of the federation and how each can be reached from here.

use std::{collections::BTreeSet, time::Duration};

use causeway_zone_sync::{
    name::{GatewayId, Tags, ZoneName},
    topology::Zone,
};
use serde::{Deserialize, Serialize};

use super::{ExchangeView, age_word, exchange, link_word, milliseconds};
use crate::{
    snapshot::Snapshot,
    telemetry::{SyncReadings, TunnelReading},
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZoneView {
    pub name: String,
    /// Whether it is the zone that answers.
    pub own: bool,
    /// `own`, `up`, `stalled`, `draining` or `down`: the best over its gateways.
    pub state: String,
    pub tags: Tags,
    /// Declared addresses, gateway by gateway; empty: the zone dials out.
    pub gateways: Vec<Vec<String>>,
    /// Every gateway of the zone that was ever heard of.
    pub links: Vec<LinkView>,
}

/// One gateway of another zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkView {
    pub gateway: String,
    /// `up`, `stalled`, `draining` or `down`.
    pub state: String,
    pub tunnels: usize,
    /// The lowest over its tunnels.
    pub rtt_ms: Option<f64>,
    /// `fresh`, `suspect` or `withdrawn`; absent while it has told nothing.
    pub age: Option<String>,
    pub heard_seconds_ago: Option<f64>,
    /// Whether a zone sync session with it is open.
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
pub fn zones(snapshot: &Snapshot, tunnels: &[TunnelReading], sync: &SyncReadings) -> Vec<ZoneView> {
    let view = |(name, zone)| zone_view(snapshot, name, zone, tunnels, sync);
    snapshot.topology.zones.iter().map(view).collect()
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
