//! The columns of each table. A table shows what is asked for most; `wide` adds the rest.

use std::time::Duration;

use causeway_api::admin::view::{
    Count, EjectionView, ExchangeView, ExportView, FailureView, GenerationView, InstanceView, RecordView,
    TierView, TopologyView, TunnelView,
};

use crate::output::{Tone, Word, table, wide_table};

/// Something that `get` can show as a row.
pub(crate) trait Tabular {
    const HEADER: &'static [&'static str];
    /// Titles of the columns that only `wide` has.
    const WIDE: &'static [&'static str];

    fn row(&self) -> Vec<Word>;
    fn wide(&self) -> Vec<Word>;

    /// Value by which a column is sorted, where its words have another order.
    fn rank(&self, _title: &str) -> Option<f64> {
        None
    }
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
    let rows = items.iter().map(row).collect();
    match wide {
        true => wide_table(&header, rows, colour),
        false => table(&header, rows, colour),
    }
}

impl Tabular for GenerationView {
    const HEADER: &'static [&'static str] = &[
        "GENERATION",
        "STANDING",
        "APPLIED BY",
        "APPLIED AT",
        "FINGERPRINT",
        "WHY",
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
            self.reason.as_deref().unwrap_or_default().into(),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        vec![self.follows.into(), self.text.len().into()]
    }
}

impl Tabular for TopologyView {
    const HEADER: &'static [&'static str] = &[
        "GENERATION",
        "SOURCE",
        "FINGERPRINT",
        "APPLIED BY",
        "APPLIED AT",
        "WHY",
    ];
    const WIDE: &'static [&'static str] = &["ZONES", "SERVICES"];

    fn row(&self) -> Vec<Word> {
        vec![
            self.generation.into(),
            self.source.as_str().into(),
            self.fingerprint.as_str().into(),
            self.applied_by.as_deref().unwrap_or_default().into(),
            self.applied_at.as_deref().unwrap_or_default().into(),
            self.reason.as_deref().unwrap_or_default().into(),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        vec![self.zones.len().into(), self.services.len().into()]
    }
}

impl Tabular for InstanceView {
    const HEADER: &'static [&'static str] =
        &["SERVICE", "ID", "ADDRESS", "HEALTH", "WEIGHT", "SOURCE", "TAGS"];
    const WIDE: &'static [&'static str] = &[
        "OPEN",
        "LATENCY",
        "CAPACITY",
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
            self.source.as_str().into(),
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
            self.expires_in_seconds.map(lasting).unwrap_or_default().into(),
            self.last_failure.as_ref().map(failure).unwrap_or_default().into(),
            self.number.as_str().into(),
            each_ejected(self.ejected.as_slice()),
        ]
    }

    fn rank(&self, title: &str) -> Option<f64> {
        match title {
            "EXPIRES" => self.expires_in_seconds,
            "LAST FAILURE" => self.last_failure.as_ref().map(|failure| failure.seconds_ago),
            _ => None,
        }
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

    fn rank(&self, title: &str) -> Option<f64> {
        match title {
            "SENT" => Some(self.sent_bytes as f64),
            "RECEIVED" => Some(self.received_bytes as f64),
            "UP" => Some(self.up_seconds),
            "WINDOW" => Some(self.congestion_window_bytes as f64),
            _ => None,
        }
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

    fn rank(&self, title: &str) -> Option<f64> {
        match title {
            "HEALTHY" => Some(f64::from(self.healthy)),
            "HEARD" => self.heard_seconds_ago,
            _ => None,
        }
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

    fn rank(&self, title: &str) -> Option<f64> {
        match title {
            "HEARD" => self.heard_seconds_ago,
            "SENT" => Some(self.exchange.sync_sent_bytes as f64),
            "RECEIVED" => Some(self.exchange.sync_received_bytes as f64),
            _ => None,
        }
    }
}

pub(super) fn number(value: Option<u64>) -> Word {
    value.map(|value| value.to_string()).unwrap_or_default().into()
}

/// `too_fast:3 us:bad_signature:1`: reasons and how often, those for which this gateway refused after `us:`.
pub(super) fn refused(exchange: &ExchangeView) -> String {
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

pub(super) fn milliseconds(value: f64) -> String {
    format!("{value:.2}ms")
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    format!("{:.2}%", part as f64 * 100.0 / whole as f64)
}

/// `1.5 MiB`: binary units.
pub(super) fn bytes(value: u64) -> String {
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
pub(super) fn lasting(seconds: f64) -> String {
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
