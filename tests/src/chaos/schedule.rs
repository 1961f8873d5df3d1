//! The schedule of faults: which begins when, and how long it lasts: a pure function of a seed. Two runs with one seed have the same
//! faults at the same times; what the processes do between them is theirs.

use std::{collections::BTreeMap, fmt, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

/// Time between the beginnings of two faults, in milliseconds.
const GAP: std::ops::RangeInclusive<u64> = 200..=2500;
/// Durations of a fault in milliseconds: some are over before a tunnel notices, some are not.
const LASTS: std::ops::RangeInclusive<u64> = 50..=7000;
/// Durations of a stop, as of a machine that is moved while it runs: longer than a tunnel waits for its peer, and less than
/// the time to live of a lease that is being renewed.
const STOPS: std::ops::RangeInclusive<u64> = 500..=20_000;

/// The zone whose gateway nothing happens to, so that its clients are to be served whatever happens elsewhere. Links to it fail.
pub(super) const CALM: &str = "calm";

/// Something that goes wrong with a gateway or with a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL; heals by a new start.
    Kill { zone: String },
    /// SIGTERM; heals by a new start.
    End { zone: String },
    /// SIGSTOP; heals by SIGCONT.
    Stop { zone: String },
    /// The zone's port leaves the bridge: it is cut off from all others, and nobody is told.
    Unplug { zone: String },
    /// The zone's own interface goes down: its gateway is told.
    Down { zone: String },
    /// No datagram passes between two zones.
    Cut { one: String, other: String },
    /// No datagram passes from one zone to the other; the way back is open.
    CutOneWay { from: String, to: String },
    /// Some datagrams are lost, in both directions.
    Lossy { one: String, other: String },
    /// Clients in the zone ask for downloads from another one and read nothing.
    Unread { zone: String },
    /// Clients in the zone send without end to an instance of another one that reads nothing.
    Flood { zone: String },
    /// The zone's gateway may open hardly any descriptor more.
    Descriptors { zone: String },
    /// The disk with the gateway's data is full.
    Disk { zone: String },
    /// The zone has hardly a port to connect from.
    Ports { zone: String },
}

/// Thing that a fault happens to. A thing has one fault at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Process(String),
    Interface(String),
    Link(String, String),
    Clients(String),
    Ports(String),
}

impl Fault {
    fn place(&self) -> Place {
        match self {
            Self::Kill { zone }
            | Self::End { zone }
            | Self::Stop { zone }
            | Self::Descriptors { zone }
            | Self::Disk { zone } => Place::Process(zone.clone()),
            Self::Ports { zone } => Place::Ports(zone.clone()),
            Self::Unplug { zone } | Self::Down { zone } => Place::Interface(zone.clone()),
            Self::Unread { zone } | Self::Flood { zone } => Place::Clients(zone.clone()),
            Self::Cut { one, other }
            | Self::Lossy { one, other }
            | Self::CutOneWay { from: one, to: other } => {
                Place::Link(one.min(other).clone(), one.max(other).clone())
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { zone } => write!(f, "kill {zone}"),
            Self::End { zone } => write!(f, "end {zone}"),
            Self::Stop { zone } => write!(f, "stop {zone}"),
            Self::Unplug { zone } => write!(f, "unplug {zone}"),
            Self::Down { zone } => write!(f, "interface of {zone} down"),
            Self::Cut { one, other } => write!(f, "cut {one} - {other}"),
            Self::CutOneWay { from, to } => write!(f, "cut {from} -> {to}"),
            Self::Lossy { one, other } => write!(f, "lose datagrams {one} - {other}"),
            Self::Unread { zone } => write!(f, "downloads in {zone} that nobody reads"),
            Self::Flood { zone } => write!(f, "uploads in {zone} that nobody takes"),
            Self::Descriptors { zone } => write!(f, "descriptors of {zone} used up"),
            Self::Disk { zone } => write!(f, "disk of {zone} full"),
            Self::Ports { zone } => write!(f, "ports of {zone} used up"),
        }
    }
}

/// One entry of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Since the beginning.
    pub at: Duration,
    pub begins: bool,
    pub fault: Fault,
}

/// Faults for `lasting`, in order of time. Every fault that begins also heals, at the latest at the end.
#[must_use]
pub fn schedule(seed: u64, zones: &[&str], lasting: Duration) -> Vec<Step> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut free_at: BTreeMap<Place, Duration> = BTreeMap::new();
    let mut steps = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        at += Duration::from_millis(rng.random_range(GAP));
        if at >= lasting {
            break;
        }
        let Some(fault) = draw(&mut rng, zones) else { break };
        let lasts = match fault {
            Fault::Stop { .. } => STOPS,
            _ => LASTS,
        };
        let time = Duration::from_millis(rng.random_range(lasts));
        let heals = (at + time).min(lasting);
        let free = free_at.entry(fault.place()).or_default();
        if *free >= at {
            continue;
        }
        *free = heals;
        for (at, begins) in [(at, true), (heals, false)] {
            let fault = fault.clone();
            steps.push(Step { at, begins, fault });
        }
    }
    // Stable: a fault that begins and heals at the same moment begins first.
    steps.sort_by_key(|step| step.at);
    steps
}

/// `None` without two zones.
fn draw(rng: &mut SmallRng, zones: &[&str]) -> Option<Fault> {
    let mut pair = zones.choose_multiple(rng, 2).map(|zone| (*zone).to_owned());
    let (mut one, mut other) = (pair.next()?, pair.next()?);
    if one == CALM {
        (one, other) = (other, one);
    }
    Some(match rng.random_range(0..15) {
        0..=2 => Fault::Kill { zone: one },
        3 => Fault::End { zone: one },
        4 => Fault::Stop { zone: one },
        5 => Fault::Unplug { zone: one },
        6 => Fault::Down { zone: one },
        7 => Fault::Cut { one, other },
        8 => Fault::CutOneWay { from: one, to: other },
        9 => Fault::Unread { zone: one },
        10 => Fault::Flood { zone: one },
        11 => Fault::Descriptors { zone: one },
        12 => Fault::Disk { zone: one },
        13 => Fault::Ports { zone: one },
        _ => Fault::Lossy { one, other },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ZONES: [&str; 6] = ["east", "west", "north", "south", "plant", CALM];
    const TEN_MINUTES: Duration = Duration::from_secs(600);

    #[test]
    fn a_seed_decides_everything() {
        let once = schedule(7, &ZONES, TEN_MINUTES);
        assert_eq!(once, schedule(7, &ZONES, TEN_MINUTES));
        assert_ne!(once, schedule(8, &ZONES, TEN_MINUTES));
    }

    #[test]
    fn what_begins_heals_and_nothing_fails_twice_at_a_time() {
        for seed in 0..50 {
            let mut broken = BTreeSet::new();
            for step in schedule(seed, &ZONES, TEN_MINUTES) {
                assert!(step.at <= TEN_MINUTES);
                let place = step.fault.place();
                if step.begins {
                    assert!(broken.insert(place), "seed {seed}: {step:?}");
                } else {
                    assert!(broken.remove(&place), "seed {seed}: {step:?}");
                }
            }
            assert!(broken.is_empty(), "seed {seed}");
        }
    }

    #[test]
    fn nothing_but_links_fails_of_the_calm_zone() {
        for seed in 0..50 {
            for step in schedule(seed, &ZONES, TEN_MINUTES) {
                let place = step.fault.place();
                let calm = format!("{place:?}").contains(CALM);
                assert!(!calm || matches!(place, Place::Link(..)), "seed {seed}: {step:?}");
            }
        }
    }

    #[test]
    fn ten_minutes_hold_every_kind_of_fault_many_times() {
        let steps = schedule(1, &ZONES, TEN_MINUTES);
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for step in steps.iter().filter(|step| step.begins) {
            let kind = format!("{:?}", std::mem::discriminant(&step.fault));
            *kinds.entry(kind).or_default() += 1;
        }
        assert_eq!(kinds.len(), 13);
        assert!(kinds.values().all(|count| *count >= 10), "{kinds:?}");
    }
}
