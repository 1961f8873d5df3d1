//! The columns of each table. A table shows what is asked for most; `wide` adds the rest.

use std::time::Duration;

use causeway_api::admin::view::{
    Count, EjectionView, ExchangeView, ExportView, FailureView, GenerationView, InstanceView, LinkView,
    RecordView, TierView, TopologyView, TunnelView, ZoneView,
};

use super::silent_tunnels::{round_trip, tunnels};
use crate::output::{Tone, Word, table};

/// Something that `get` can show as a row.
pub(crate) trait Tabular {
    const HEADER: &'static [&'static str];
    /// Titles of the columns that only `wide` has.
    const WIDE: &'static [&'static str];

    fn row(&self) -> Vec<Word>;
    fn wide(&self) -> Vec<Word>;
}

pub(crate) fn render<T: Tabular>(items: &[T], wide: bool, colour: bool) -> String {
    let mut header = T::HEADER.to_vec();
    if wide {
        header.extend(T::WIDE);
    }
    let row = |item: &T| {
        let mut row = item.row();
        if wide {
            row.extend(item.wide());
        }
        row
    };
    table(&header, items.iter().map(row).collect(), colour)
}

impl Tabular for GenerationView {
    const HEADER: &'static [&'static str] = &[
        "GENERATION",
        "STANDING",
        "APPLIED BY",
        "APPLIED AT",
        "FINGERPRINT",
    ];
    const WIDE: &'static [&'static str] = &["FOLLOWS", "BYTES"];

    fn row(&self) -> Vec<Word> {
        let tone = match self.standing.as_str() {
            "in force" => Tone::Good,
            "overruled" | "unusable" => Tone::Doubtful,
            _ => Tone::Plain,
        };
        vec![
            self.generation.into(),
            Word(self.standing.clone(), tone),
            self.applied_by.as_str().into(),
            self.applied_at.as_str().into(),
            self.fingerprint.as_str().into(),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        vec![self.follows.into(), self.text.len().into()]
    }
}

impl Tabular for TopologyView {
    const HEADER: &'static [&'static str] =
        &["GENERATION", "SOURCE", "FINGERPRINT", "APPLIED BY", "APPLIED AT"];
    const WIDE: &'static [&'static str] = &["ZONES", "SERVICES"];

    fn row(&self) -> Vec<Word> {
        vec![
            self.generation.into(),
            self.source.as_str().into(),
            self.fingerprint.as_str().into(),
            self.applied_by.as_deref().unwrap_or_default().into(),
            self.applied_at.as_deref().unwrap_or_default().into(),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        vec![self.zones.len().into(), self.services.len().into()]
    }
}

impl Tabular for ZoneView {
    const HEADER: &'static [&'static str] = &["ZONE", "STATE", "TUNNELS", "RTT", "AGE", "HEARD", "TAGS"];
    const WIDE: &'static [&'static str] = &[
        "GATEWAYS", "EXPORTS", "TOPOLOGY", "TRUST", "VERSION", "LAG", "SENT", "RECEIVED", "REFUSED", "VIA",
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
        let heard = self
            .links
            .iter()
            .filter_map(|link| link.heard_seconds_ago)
            .reduce(f64::min);
        vec![
            self.name.as_str().into(),
            match &self.drain {
                None => Word::state(&self.state),
                Some(drain) => Word::doubtful(match &drain.by {
                    None => format!("{}, drains", self.state),
                    Some(by) => format!("{}, drains by {by}", self.state),
                }),
            },
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
        let sum = |part: fn(&ExchangeView) -> u64| self.links.iter().map(|link| part(&link.exchange)).sum();
        let moved = |value: u64| match self.links.is_empty() {
            true => "".into(),
            false => bytes(value).into(),
        };
        vec![
            declared.join(",").into(),
            if self.own { "".into() } else { exports.into() },
            topology,
            each(|link| link.trust_generation.map(|generation| generation.to_string())),
            each(|link| link.version.map(|version| version.to_string())),
            number(lag.max()),
            moved(sum(|exchange| exchange.sync_sent_bytes)),
            moved(sum(|exchange| exchange.sync_received_bytes)),
            each(|link| Some(refused(&link.exchange)).filter(|text| !text.is_empty())),
            each(|link| link.via.clone()),
            registries(&self.links),
        ]
    }
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

impl Tabular for InstanceView {
    const HEADER: &'static [&'static str] = &["SERVICE", "ID", "ADDRESS", "HEALTH", "WEIGHT", "TAGS"];
    const WIDE: &'static [&'static str] = &[
        "OPEN",
        "LATENCY",
        "CAPACITY",
        "SOURCE",
        "EXPIRES",
        "LAST FAILURE",
        "NUMBER",
        "EJECTED",
    ];

    fn row(&self) -> Vec<Word> {
        vec![
            self.service.as_str().into(),
            self.id.as_str().into(),
            self.address.into(),
            match (self.declared, &self.drain, &self.ejected) {
                (false, ..) => Word("undeclared".to_owned(), Tone::Bad),
                (true, Some(drain), _) => Word::doubtful(match &drain.by {
                    None => format!("{}, drains", self.health),
                    Some(by) => format!("{}, drains by {by}", self.health),
                }),
                (true, None, Some(_)) => Word(format!("{}, ejected", self.health), Tone::Doubtful),
                (true, None, None) => Word::state(&self.health),
            },
            self.weight.into(),
            tags(&self.tags).into(),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        vec![
            self.outstanding.into(),
            self.latency_ms.map(milliseconds).unwrap_or_default().into(),
            self.capacity_per_second
                .map(|capacity| format!("{capacity}/s"))
                .unwrap_or_default()
                .into(),
            self.source.as_str().into(),
            self.expires_in_seconds.map(lasting).unwrap_or_default().into(),
            self.last_failure.as_ref().map(failure).unwrap_or_default().into(),
            self.number.as_str().into(),
            each_ejected(self.ejected.as_slice()),
        ]
    }
}

impl Tabular for TunnelView {
    const HEADER: &'static [&'static str] = &[
        "PEER", "STATE", "RTT", "STREAMS", "LOST", "SENT", "RECEIVED", "UP",
    ];
    const WIDE: &'static [&'static str] = &[
        "DIALLED",
        "THREAD",
        "REMOTE",
        "WINDOW",
        "MTU",
        "KEY EXCHANGE",
        "CIPHER",
        "IDENTITY",
        "CERTIFICATE ENDS",
    ];

    fn row(&self) -> Vec<Word> {
        vec![
            format!("{}/{}", self.zone, self.gateway).into(),
            Word::state(&self.state),
            milliseconds(self.rtt_ms).into(),
            self.streams.into(),
            share(self.lost_packets, self.sent_packets).into(),
            bytes(self.sent_bytes).into(),
            bytes(self.received_bytes).into(),
            lasting(self.up_seconds).into(),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        vec![
            if self.dialled { "by us" } else { "by peer" }.into(),
            self.thread.into(),
            self.remote.into(),
            bytes(self.congestion_window_bytes).into(),
            self.mtu_bytes.into(),
            self.key_exchange.clone().unwrap_or_default().into(),
            self.cipher.clone().unwrap_or_default().into(),
            self.identity.clone().unwrap_or_default().into(),
            self.certificate_ends.clone().unwrap_or_default().into(),
        ]
    }
}

impl Tabular for ExportView {
    const HEADER: &'static [&'static str] = &["SERVICE", "ZONE", "TAGS", "HEALTHY", "WEIGHT", "AGE", "LINK"];
    const WIDE: &'static [&'static str] = &["GATEWAY", "CAPACITY", "VERSION", "HEARD", "VIA"];

    fn row(&self) -> Vec<Word> {
        vec![
            self.service.as_str().into(),
            self.zone.as_str().into(),
            tags(&self.tags).into(),
            count(Count {
                instances: self.instances,
                healthy: self.healthy,
            }),
            self.weight.into(),
            Word::state(&self.age),
            Word::state(&self.link),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        vec![
            self.gateway.clone().unwrap_or_default().into(),
            self.capacity_per_second
                .map(|capacity| format!("{capacity}/s"))
                .unwrap_or_default()
                .into(),
            self.version
                .map(|version| version.to_string())
                .unwrap_or_default()
                .into(),
            self.heard_seconds_ago.map(ago).unwrap_or_default().into(),
            self.via.clone().unwrap_or_default().into(),
        ]
    }
}

impl Tabular for RecordView {
    const HEADER: &'static [&'static str] = &["GATEWAY", "AGE", "HEARD", "VERSION", "LAG", "EXPORTS", "VIA"];
    const WIDE: &'static [&'static str] = &[
        "INCARNATION",
        "BEHIND",
        "PROTOCOL",
        "SENT",
        "RECEIVED",
        "REFUSED",
        "TOPOLOGY",
        "GENERATION",
        "DRAINING",
    ];

    fn row(&self) -> Vec<Word> {
        let lag = self.exchange.lag_versions;
        vec![
            self.origin.as_str().into(),
            Word::state(&self.age),
            self.heard_seconds_ago.map(ago).unwrap_or_default().into(),
            self.version.into(),
            number(lag),
            self.exports.len().into(),
            self.via.clone().unwrap_or_default().into(),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        let own = self.age == "own";
        let moved = |value| match own {
            true => "".into(),
            false => bytes(value).into(),
        };
        let tone = match self.same_topology {
            true => Tone::Good,
            false => Tone::Doubtful,
        };
        vec![
            self.incarnation.into(),
            number(self.exchange.behind_versions),
            number(self.exchange.sync_protocol.map(u64::from)),
            moved(self.exchange.sync_sent_bytes),
            moved(self.exchange.sync_received_bytes),
            refused(&self.exchange).into(),
            Word(self.topology.clone(), tone),
            self.topology_generation.into(),
            if self.draining { "yes" } else { "" }.into(),
        ]
    }
}

/// `too_fast:3 us:bad_signature:1`: reasons and how often, those for which this gateway refused after `us:`.
fn number(value: Option<u64>) -> Word {
    value.map(|value| value.to_string()).unwrap_or_default().into()
}

fn refused(exchange: &ExchangeView) -> String {
    let word = |refusal: &causeway_api::admin::view::RefusalView| {
        let us = if refusal.side == "local" { "us:" } else { "" };
        format!("{us}{}:{}", refusal.reason, refusal.count)
    };
    exchange.refusals.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn failure(failure: &FailureView) -> String {
    format!("{} ({})", failure.reason, ago(failure.seconds_ago))
}

/// As far as it fits on a line.
pub(super) fn each_ejected(ejected: &[EjectionView]) -> Word {
    const SHOWN: usize = 3;
    let mut told: Vec<String> = ejected.iter().take(SHOWN).map(ToString::to_string).collect();
    if ejected.len() > SHOWN {
        told.push(format!("and {} more", ejected.len() - SHOWN));
    }
    let tone = if told.is_empty() {
        Tone::Plain
    } else {
        Tone::Doubtful
    };
    Word(told.join("; "), tone)
}

/// `2/3`: healthy of all.
pub(super) fn count(count: Count) -> Word {
    let tone = match count.healthy {
        0 if count.instances == 0 => return "".into(),
        0 => Tone::Bad,
        healthy if healthy < count.instances => Tone::Doubtful,
        _ => Tone::Good,
    };
    Word(format!("{}/{}", count.healthy, count.instances), tone)
}

pub(crate) fn tags(tags: &causeway_federation::name::Tags) -> String {
    tags.iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

pub(super) fn tier(tier: &TierView) -> String {
    let mut parts: Vec<_> = tier
        .tags
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    parts.splice(0..0, tier.zone.clone());
    if parts.is_empty() {
        "any".to_owned()
    } else {
        parts.join(",")
    }
}

fn milliseconds(value: f64) -> String {
    format!("{value:.2}ms")
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    format!("{:.2}%", part as f64 * 100.0 / whole as f64)
}

/// `1.5 MiB`: binary units.
fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0);
    format!("{scaled:.decimals$} {}", UNITS[unit])
}

/// `2h 5m`: whole seconds, the two largest units.
fn lasting(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    let text = humantime::format_duration(Duration::from_secs(whole)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

pub(super) fn ago(seconds: f64) -> String {
    if seconds < 1.0 {
        "just now".to_owned()
    } else {
        format!("{} ago", lasting(seconds))
    }
}
