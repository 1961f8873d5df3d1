//! Figures of one minute: what clients asked for and got, and how tunnels fared. Pure.

use std::collections::BTreeMap;

use causeway_federation::name::{GatewayId, ServiceName};
use causeway_telemetry::{ServiceCounts, WaitCounts};
use serde::{Deserialize, Serialize};

/// Most services of a minute, by how much was asked for; the rest are summed up.
const MAX_SERVICES: usize = 100;
/// Most tunnels of a minute, by the bytes that they carried; the rest are left out.
const MAX_TUNNELS: usize = 100;
/// Name of the rest: no service can have it.
const REST: &str = "(others)";

/// Figures of one minute, or of what there was of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MinuteFigures {
    /// Counts up, over restarts.
    #[serde(default)]
    pub id: u64,
    /// Its end: RFC 3339 in UTC.
    #[serde(default)]
    pub time: String,
    pub services: Vec<ServiceFigures>,
    pub tunnels: Vec<TunnelFigures>,
}

/// Connections to one service, or with HTTP requests, that ended in the minute.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceFigures {
    pub service: String,
    /// All of them; those whose client left early are in none of the others.
    pub begun: u64,
    pub ok: u64,
    pub failed: u64,
    pub shed: u64,
    pub refused: u64,
    /// Absent where none got as far as an instance.
    pub setup_milliseconds: Option<SetupFigures>,
    /// Places that took them.
    pub to: Vec<PlaceFigures>,
}

/// Percentiles of the time from accepting a client to its instance being ready, each within half of itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SetupFigures {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// Zone, and tags that were asked for there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceFigures {
    pub zone: String,
    pub tags: BTreeMap<String, String>,
    pub count: u64,
}

/// Tunnels with one gateway.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TunnelFigures {
    /// `zone/gateway`.
    pub peer: String,
    /// At the end of the minute, the lowest of them.
    pub round_trip_milliseconds: Option<f64>,
    /// Share (0 to 1) of the packets sent that were lost.
    pub loss: f64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

/// Counts of one tunnel since it is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelCounts {
    pub sent_packets: u64,
    pub lost_packets: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub round_trip_microseconds: u64,
}

/// Counts of every tunnel, by a number that is its own, and its peer.
pub type TunnelReadings = BTreeMap<(GatewayId, usize), TunnelCounts>;

/// Works out the figures of a minute, from what was counted in it and how tunnels stood before and after it. What a tunnel that ended did
/// since the look before its end is in no minute.
#[must_use]
pub fn figures(
    services: BTreeMap<ServiceName, ServiceCounts>,
    before: &TunnelReadings,
    after: &TunnelReadings,
) -> MinuteFigures {
    MinuteFigures {
        services: of_services(services),
        tunnels: of_tunnels(before, after),
        ..MinuteFigures::default()
    }
}

fn of_services(services: BTreeMap<ServiceName, ServiceCounts>) -> Vec<ServiceFigures> {
    let mut counted: Vec<_> = services.into_iter().collect();
    counted.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.ended));
    let rest = counted.split_off(counted.len().min(MAX_SERVICES));
    let mut all: Vec<_> = counted
        .iter()
        .map(|(name, counts)| of_service(name.as_str(), counts))
        .collect();
    if !rest.is_empty() {
        let mut sum = ServiceCounts::default();
        rest.iter().for_each(|(_, counts)| sum.plus(counts));
        all.push(of_service(REST, &sum));
    }
    all
}

fn of_service(name: &str, counts: &ServiceCounts) -> ServiceFigures {
    let place = |(place, count): (&causeway_telemetry::ServedPlace, &u64)| PlaceFigures {
        zone: place.zone.to_string(),
        tags: place
            .tags
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        count: *count,
    };
    ServiceFigures {
        service: name.to_owned(),
        begun: counts.ended,
        ok: counts.ok,
        failed: counts.failed,
        shed: counts.shed,
        refused: counts.refused,
        setup_milliseconds: setup(&counts.waits),
        to: counts.places.iter().map(place).collect(),
    }
}

fn setup(waits: &WaitCounts) -> Option<SetupFigures> {
    let of = |percent| {
        let wait = waits.percentile(percent)?;
        // With three decimals.
        Some((wait.as_secs_f64() * 1_000_000.0).round() / 1_000.0)
    };
    Some(SetupFigures {
        p50: of(50)?,
        p95: of(95)?,
        p99: of(99)?,
    })
}

#[expect(clippy::cast_precision_loss, reason = "packets and microseconds of a minute")]
fn of_tunnels(before: &TunnelReadings, after: &TunnelReadings) -> Vec<TunnelFigures> {
    let mut of_peers: BTreeMap<&GatewayId, (TunnelCounts, u64)> = BTreeMap::new();
    for (key, now) in after {
        let then = before.get(key).copied().unwrap_or_default();
        let (sum, lowest) = of_peers
            .entry(&key.0)
            .or_insert((TunnelCounts::default(), u64::MAX));
        sum.sent_packets += now.sent_packets.saturating_sub(then.sent_packets);
        sum.lost_packets += now.lost_packets.saturating_sub(then.lost_packets);
        sum.sent_bytes += now.sent_bytes.saturating_sub(then.sent_bytes);
        sum.received_bytes += now.received_bytes.saturating_sub(then.received_bytes);
        *lowest = (*lowest).min(now.round_trip_microseconds);
    }
    let figures = of_peers.into_iter().map(|(peer, (sum, lowest))| TunnelFigures {
        peer: peer.to_string(),
        round_trip_milliseconds: (lowest < u64::MAX).then(|| lowest as f64 / 1_000.0),
        loss: sum.lost_packets as f64 / sum.sent_packets.max(1) as f64,
        sent_bytes: sum.sent_bytes,
        received_bytes: sum.received_bytes,
    });
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by_key(|tunnel| std::cmp::Reverse(tunnel.sent_bytes + tunnel.received_bytes));
    figures.truncate(MAX_TUNNELS);
    figures
}

#[cfg(test)]
mod tests {
    use causeway_routing::testbed::{gateway, service};

    use super::*;

    fn counts(ended: u64) -> ServiceCounts {
        ServiceCounts {
            ended,
            ok: ended,
            ..ServiceCounts::default()
        }
    }

    #[test]
    fn the_largest_services_are_told_one_by_one_and_the_rest_in_a_sum() {
        let services = (0..120).map(|nth| (service(&format!("s{nth}")), counts(nth)));
        let told = of_services(services.collect());
        assert_eq!(told.len(), MAX_SERVICES + 1);
        assert_eq!((told[0].service.as_str(), told[0].begun), ("s119", 119));
        let rest = told.last().unwrap();
        assert_eq!((rest.service.as_str(), rest.begun), (REST, (0..20).sum::<u64>()));
    }

    #[test]
    fn tunnels_are_summed_by_peer_and_only_what_came_in_the_minute_counts() {
        let at = |sent_packets, lost_packets, sent_bytes, round_trip_microseconds| TunnelCounts {
            sent_packets,
            lost_packets,
            sent_bytes,
            received_bytes: 1,
            round_trip_microseconds,
        };
        let before = TunnelReadings::from([((gateway("west"), 1), at(100, 50, 1_000, 9))]);
        let after = TunnelReadings::from([
            ((gateway("west"), 1), at(150, 51, 1_500, 2_000)),
            ((gateway("west"), 2), at(50, 0, 70, 1_500)),
        ]);
        let told = of_tunnels(&before, &after);
        assert_eq!(told.len(), 1);
        let west = &told[0];
        assert_eq!(
            (west.peer.as_str(), west.sent_bytes, west.received_bytes),
            ("west/gw1", 570, 1)
        );
        assert_eq!((west.loss, west.round_trip_milliseconds), (0.01, Some(1.5)));
    }
}
