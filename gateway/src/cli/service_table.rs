//! The columns of the table of services.

use causeway_api::admin::view::ServiceView;

use super::tables::{Tabular, count, each_ejected, tags, tier};
use crate::output::Word;

impl Tabular for ServiceView {
    const HEADER: &'static [&'static str] = &["SERVICE", "PORT", "PROTOCOL", "VIP", "HERE", "ELSEWHERE"];
    const WIDE: &'static [&'static str] = &[
        "SPLIT",
        "FAILOVER",
        "SPILL",
        "CAPACITY",
        "ANSWERS",
        "CRITICALITY",
        "EXPORTED TO",
        "WHO MAY CALL",
        "HEALTH CHECK",
        "STICKY",
        "MIRRORS",
        "EJECTED",
    ];

    fn row(&self) -> Vec<Word> {
        let vips: Vec<_> = self.vips.iter().map(ToString::to_string).collect();
        let elsewhere = self.zones.iter().map(|zone| {
            let mark = match zone.usable {
                true if is_zone_ejected(self, &zone.zone) => " ejected",
                true => "",
                false => "!",
            };
            format!("{}{mark}:{}/{}", zone.zone, zone.healthy, zone.instances)
        });
        vec![
            self.name.as_str().into(),
            ports(self).into(),
            protocols(self).into(),
            vips.join(",").into(),
            count(self.local),
            elsewhere.collect::<Vec<_>>().join(" ").into(),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        let split = self.split.iter().map(|arm| match arm.tags.is_empty() {
            true => "any".to_owned(),
            false => format!("{}:{}", tags(&arm.tags), arm.weight),
        });
        let exported = self
            .export_to
            .as_ref()
            .map_or_else(|| "every zone".to_owned(), |zones| zones.join(","));
        let early = if self.early { " early" } else { "" };
        let limits = [
            ("idle_timeout", &self.idle_timeout),
            ("linger", &self.linger),
            ("max_age", &self.max_age),
        ];
        let limits = limits.into_iter().filter_map(|(key, limit)| {
            let limit = limit.as_ref()?;
            Some(format!(" {key}:{limit}"))
        });
        let shift = self.shift.as_ref().map(|shift| format!(" [{shift}]"));
        let split = split.collect::<Vec<_>>().join(" ") + &shift.unwrap_or_default();
        vec![
            (split + early + &limits.collect::<String>()).into(),
            self.failover
                .iter()
                .map(tier)
                .collect::<Vec<_>>()
                .join(" > ")
                .into(),
            self.spill.clone().unwrap_or_default().into(),
            capacity(self).into(),
            answers(self).into(),
            self.criticality.as_str().into(),
            exported.into(),
            self.callers.as_str().into(),
            self.health.clone().unwrap_or_default().into(),
            self.sticky.clone().unwrap_or_default().into(),
            self.mirrors.join("; ").into(),
            each_ejected(&self.ejected),
        ]
    }
}

fn is_zone_ejected(service: &ServiceView, zone: &str) -> bool {
    let mut ejected = service.ejected.iter();
    ejected.any(|ejection| ejection.part == "zone" && ejection.zone == zone)
}

/// `east:60/s(42) west:measured:40/s(40)`: what each zone can take, and what is meant to go there.
fn capacity(service: &ServiceView) -> String {
    let rooms = service.capacity.iter().map(|room| {
        let (zone, all, planned) = (&room.zone, room.capacity_per_second, room.planned_per_second);
        let measured = if room.measured { "measured:" } else { "" };
        format!("{zone}:{measured}{all:.0}/s({planned:.0})")
    });
    rooms.collect::<Vec<_>>().join(" ")
}

/// `west:38.2/s,41ms,12 in flight`: answers of each zone's instances, where capacity is measured by them.
fn answers(service: &ServiceView) -> String {
    let zones = service.answers.iter().map(|seen| {
        let (zone, all) = (&seen.zone, seen.well_per_second);
        format!(
            "{zone}:{all:.1}/s,{:.0}ms,{:.0} in flight",
            seen.latency_ms, seen.in_flight
        )
    });
    zones.collect::<Vec<_>>().join(" ")
}

/// `8080`, or `http:8080,admin:9090`.
fn ports(service: &ServiceView) -> String {
    let named = service
        .ports
        .iter()
        .map(|port| format!("{}:{}", port.name, port.port));
    let named: Vec<String> = named.collect();
    match named.is_empty() {
        true => service.port.to_string(),
        false => named.join(","),
    }
}

/// `http`, or one for each port, `http,tcp`, where they differ.
fn protocols(service: &ServiceView) -> String {
    let all: Vec<&str> = service.ports.iter().map(|port| port.protocol.as_str()).collect();
    match all.iter().all(|protocol| *protocol == service.protocol) {
        true => service.protocol.clone(),
        false => all.join(","),
    }
}
