//! The columns of the table of zones.

use causeway_api::admin::view::{ExchangeView, LinkView, ZoneView};

use super::{
    silent_tunnels::{round_trip, tunnels},
    tables::{Tabular, ago, bytes, milliseconds, number, refused, tags},
    zone_state::{self, GatewaysUp},
};
use crate::output::{Tone, Word};

impl Tabular for ZoneView {
    const HEADER: &'static [&'static str] = &[
        "ZONE", "STATE", "GATEWAYS", "TUNNELS", "RTT", "AGE", "HEARD", "TAGS",
    ];
    const WIDE: &'static [&'static str] = &[
        "ADDRESSES",
        "EXPORTS",
        "TOPOLOGY",
        "TRUST",
        "VERSION",
        "LAG",
        "SENT / RECEIVED",
        "REFUSED",
        "VIA",
        "REGISTRY",
    ];

    fn row(&self) -> Vec<Word> {
        let rtt = round_trip(&self.links);
        // The best age over the zone's gateways; the words happen to sort that way.
        let age = self
            .links
            .iter()
            .filter_map(|link| link.age.as_deref())
            .min()
            .unwrap_or_default();
        let heard = heard_ago(&self.links);
        vec![
            self.name.as_str().into(),
            zone_state::cell(self),
            GatewaysUp::of(self).map_or_else(|| "".into(), GatewaysUp::cell),
            if self.own { "".into() } else { tunnels(&self.links) },
            rtt.map(milliseconds).unwrap_or_default().into(),
            Word::state(age),
            heard.map(ago).unwrap_or_default().into(),
            tags(&self.tags).into(),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        let declared: Vec<_> = self
            .gateways
            .iter()
            .map(|addresses| addresses.join("|"))
            .collect();
        let exports: usize = self.links.iter().map(|link| link.exports).sum();
        let same = self
            .links
            .iter()
            .filter_map(|link| link.same_topology)
            .reduce(|all, one| all && one);
        let topology = match same {
            Some(true) => Word("same".to_owned(), Tone::Good),
            Some(false) => Word("differs".to_owned(), Tone::Doubtful),
            None => "".into(),
        };
        let each = |part: fn(&LinkView) -> Option<String>| {
            let parts: Vec<_> = self.links.iter().filter_map(part).collect();
            Word::from(parts.join(","))
        };
        let lag = self.links.iter().filter_map(|link| link.exchange.lag_versions);
        let (sent, received) = exchanged(&self.links);
        let moved = match self.links.is_empty() {
            true => String::new(),
            false => format!("{} / {}", bytes(sent), bytes(received)),
        };
        vec![
            declared.join(",").into(),
            if self.own { "".into() } else { exports.into() },
            topology,
            each(|link| link.trust_generation.map(|generation| generation.to_string())),
            each(|link| link.version.map(|version| version.to_string())),
            number(lag.max()),
            moved.into(),
            each(|link| Some(refused(&link.exchange)).filter(|text| !text.is_empty())),
            each(|link| link.via.clone()),
            registries(&self.links),
        ]
    }
    fn rank(&self, title: &str) -> Option<f64> {
        match title {
            "HEARD" => heard_ago(&self.links),
            "SENT / RECEIVED" => {
                let (sent, received) = exchanged(&self.links);
                Some(sent as f64 + received as f64)
            }
            _ => None,
        }
    }
}

/// Bytes of zone sync sent to a zone's gateways, and received.
fn exchanged(links: &[LinkView]) -> (u64, u64) {
    let sum = |part: fn(&ExchangeView) -> u64| links.iter().map(|link| part(&link.exchange)).sum();
    (
        sum(|exchange| exchange.sync_sent_bytes),
        sum(|exchange| exchange.sync_received_bytes),
    )
}

/// Since any gateway of the zone was heard, in seconds.
fn heard_ago(links: &[LinkView]) -> Option<f64> {
    let heard = links.iter().filter_map(|link| link.heard_seconds_ago);
    heard.reduce(f64::min)
}

/// Registries of a zone's gateways: `own` of one that is alone with it, `shared`, or each gateway by name where there are several that do not share one.
fn registries(links: &[LinkView]) -> Word {
    let told: Vec<_> = links
        .iter()
        .filter_map(|link| Some((link.gateway.as_str(), link.registry.as_deref()?)))
        .collect();
    match told.as_slice() {
        [] => "".into(),
        [(_, word @ ("own" | "shared"))] => (*word).into(),
        several if several.iter().all(|(_, word)| *word == "shared") => "shared".into(),
        several => {
            let each: Vec<_> = several
                .iter()
                .map(|(gateway, word)| format!("{gateway}:{word}"))
                .collect();
            Word(each.join(","), Tone::Doubtful)
        }
    }
}
