//! Checks of zones beside their links: clocks that differ, and zones that are drained.

use std::time::Duration;

use causeway_telemetry::Check;

use super::view::ZoneView;

/// Difference of clocks from which an operator is warned, in seconds: certificates begin a minute before they are made, so one that was made
/// just now is refused where the clock is further behind.
const CLOCK_WARN_SECONDS: f64 = 30.0;

/// Warns of each zone whose clock differs from this host's, or of this host's if it differs from all of at least two.
pub(super) fn clocks(zones: &[ZoneView]) -> Vec<Check> {
    let others = zones.iter().filter(|zone| !zone.own);
    let ahead: Vec<(&ZoneView, f64)> = others.filter_map(|zone| Some((zone, furthest(zone)?))).collect();
    let is_off = |seconds: f64| seconds.abs() >= CLOCK_WARN_SECONDS;
    let all = |sign: f64| {
        ahead
            .iter()
            .all(|(_, seconds)| is_off(*seconds) && seconds * sign > 0.0)
    };
    let hint = "set it, best by NTP: certificates and what is signed are judged by it; the word is of when the youngest tunnel came up";
    if ahead.len() > 1 && (all(1.0) || all(-1.0)) {
        let least = ahead.iter().map(|(_, seconds)| seconds.abs());
        let least = least.fold(f64::INFINITY, f64::min);
        let side = if all(1.0) { "behind" } else { "ahead of" };
        let message = format!("{} {side} every other zone's that tells its own", in_words(least));
        return vec![Check::warn("clocks", "this host", message, hint)];
    }
    let off = ahead.iter().filter(|(_, seconds)| is_off(*seconds));
    let warned = off.map(|(zone, seconds)| {
        let side = if *seconds > 0.0 { "ahead of" } else { "behind" };
        let message = format!("its clock is {} {side} this host's", in_words(seconds.abs()));
        Check::warn("clocks", format!("zone {}", zone.name), message, hint)
    });
    warned.collect()
}

/// The clock of a zone's gateways that differs most.
fn furthest(zone: &ZoneView) -> Option<f64> {
    let told = zone.links.iter().filter_map(|link| link.clock_ahead_seconds);
    told.max_by(|a, b| a.abs().total_cmp(&b.abs()))
}

/// To the second, and from ten minutes on to the minute.
fn in_words(seconds: f64) -> String {
    let step = if seconds < 600.0 { 1.0 } else { 60.0 };
    let whole = Duration::try_from_secs_f64((seconds / step).round() * step).unwrap_or(Duration::MAX);
    humantime::format_duration(whole).to_string()
}

/// Warns of zones that are drained, which is easily forgotten, and of a federation in which all are.
pub(super) fn drained_zones(zones: &[ZoneView]) -> Vec<Check> {
    let is_every = zones.iter().all(|zone| zone.drain.is_some());
    let drained = zones.iter().filter_map(|zone| Some((zone, zone.drain.as_ref()?)));
    let warned = drained.map(|(zone, drain)| {
        let mut message = match &drain.by {
            None => "drained: it serves only what no other zone can".to_owned(),
            Some(by) => format!("drained: it serves only what no other zone can, and is left by {by}"),
        };
        if is_every {
            message.push_str("; as every zone is drained, this moves nothing");
        }
        let hint = format!("`causeway undrain {}` when the work there is done", zone.name);
        Check::warn("drained zones", format!("zone {}", zone.name), message, hint)
    });
    warned.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{DrainView, LinkView};

    fn zone(name: &str, ahead: &[Option<f64>]) -> ZoneView {
        let link = |clock_ahead_seconds: &Option<f64>| LinkView {
            clock_ahead_seconds: *clock_ahead_seconds,
            ..LinkView::default()
        };
        ZoneView {
            name: name.to_owned(),
            own: name == "east",
            state: "up".to_owned(),
            tags: Default::default(),
            gateways: Vec::new(),
            links: ahead.iter().map(link).collect(),
            drain: None,
            last_word: None,
        }
    }

    fn told(zones: &[ZoneView]) -> Vec<String> {
        let checks = clocks(zones);
        checks
            .iter()
            .map(|check| format!("{}: {}", check.name, check.message))
            .collect()
    }

    #[test]
    fn a_clock_that_differs_is_told_of_the_zone_or_of_this_host() {
        let own = zone("east", &[]);
        assert!(
            told(&[
                own.clone(),
                zone("west", &[None]),
                zone("plant", &[Some(29.0), Some(-3.0)])
            ])
            .is_empty()
        );
        assert_eq!(
            told(&[
                own.clone(),
                zone("west", &[Some(0.2), Some(-7200.2)]),
                zone("plant", &[Some(0.1)])
            ]),
            ["zone west: its clock is 2h behind this host's"]
        );
        // One alone does not say which of the two is wrong; two against one do.
        assert_eq!(
            told(&[own.clone(), zone("west", &[Some(90.0)])]),
            ["zone west: its clock is 1m 30s ahead of this host's"]
        );
        assert_eq!(
            told(&[
                own.clone(),
                zone("west", &[Some(7201.0)]),
                zone("plant", &[Some(7199.6)])
            ]),
            ["this host: 2h behind every other zone's that tells its own"]
        );
        assert_eq!(
            told(&[own, zone("west", &[Some(60.0)]), zone("plant", &[Some(-60.0)])]).len(),
            2
        );
        assert_eq!(told(&[zone("west", &[Some(f64::MAX)])]).len(), 1);
    }

    #[test]
    fn drained_zones_are_told_and_so_is_that_all_are() {
        let mut zones = [zone("east", &[]), zone("west", &[])];
        assert!(drained_zones(&zones).is_empty());
        zones[1].drain = Some(DrainView {
            by: Some("2026-12-01T00:00:00Z".to_owned()),
        });
        let told = drained_zones(&zones);
        assert!(
            told[0].message.ends_with("is left by 2026-12-01T00:00:00Z"),
            "{told:?}"
        );
        zones[0].drain = Some(DrainView::default());
        let told = drained_zones(&zones);
        assert_eq!(told.len(), 2);
        assert!(told[0].message.ends_with("this moves nothing"), "{told:?}");
        assert_eq!(
            told[0].hint.as_deref(),
            Some("`causeway undrain east` when the work there is done")
        );
    }
}
