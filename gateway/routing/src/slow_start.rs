//! Slow start of zones: one that begins to serve an arm, because its instances are new or healthy again or because it is back, has a small
//! part of its weight, which grows. Single instances do so in [`balance`](crate::balance). Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use causeway_federation::name::ZoneName;

use crate::balance::{FIRST_PART, part_after};

/// Time at which each zone began to serve an arm; `None`: it did so before this gateway knew of it.
#[derive(Debug, Default)]
pub(crate) struct ZoneStarts {
    since: BTreeMap<ZoneName, Option<Duration>>,
    is_moving: bool,
}

/// Part (0 to 1) of its weight that each zone has. The default: all have all of it.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct StartingZones(Option<BTreeMap<ZoneName, f64>>);

impl StartingZones {
    /// Part that a zone has. One that does not serve yet has the first one as soon as it does.
    pub(crate) fn part(&self, zone: &ZoneName) -> f64 {
        match &self.0 {
            None => 1.0,
            Some(parts) => parts.get(zone).copied().unwrap_or(FIRST_PART),
        }
    }
}

impl ZoneStarts {
    /// Tells whether parts change by themselves.
    pub(crate) fn is_moving(&self) -> bool {
        self.is_moving
    }

    /// Takes the zones that serve at `now`, and gives their parts.
    pub(crate) fn step(
        &mut self,
        now: Duration,
        serving: BTreeSet<ZoneName>,
        slow_start: Duration,
        is_settled: bool,
    ) -> StartingZones {
        self.since.retain(|zone, _| serving.contains(zone));
        for zone in serving {
            self.since.entry(zone).or_insert(is_settled.then_some(now));
        }
        let part = |since: Option<Duration>| {
            since.map_or(1.0, |since| part_after(now.saturating_sub(since), slow_start))
        };
        let parts: BTreeMap<ZoneName, f64> = self
            .since
            .iter()
            .map(|(zone, since)| (zone.clone(), part(*since)))
            .collect();
        self.is_moving = parts.values().any(|part| *part < 1.0);
        StartingZones(is_settled.then_some(parts))
    }
}
