//! Matters that were told to have begun and not yet to have ended, over restarts. They keep an end from being told whose beginning nobody was told of,
//! and end what was over before a process began.

use std::collections::BTreeMap;

use causeway_federation::{
    catalog::Age,
    name::{ServiceName, ZoneName},
};
use causeway_routing::snapshot::Health;

use super::{Picture, instances, peers};
use crate::event::{EventKind, HistoryEvent, NewEvent};

/// Most matters that are remembered. Beyond them every end is told.
const MAX_OPEN: usize = 10_000;
/// Cause of an end that no process saw.
const UNSEEN: &str =
    "this process found it so; it ended while none was there to see it, or soon after this one began";

/// Matters that are open, by what began and what it is about.
#[derive(Debug, Default)]
pub struct OpenMatters {
    open: BTreeMap<Matter, Beginning>,
    is_full: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Matter {
    /// Kind of the event with which it began.
    kind: EventKind,
    service: Option<String>,
    subject: Option<String>,
}

#[derive(Debug)]
struct Beginning {
    text: String,
    /// An earlier process told of it.
    is_recorded: bool,
}

impl OpenMatters {
    /// Kinds that begin or end a matter.
    pub const KINDS: &[EventKind] = &[
        EventKind::ZoneSuspect,
        EventKind::ZoneWithdrawn,
        EventKind::ZoneFresh,
        EventKind::InstanceUnhealthy,
        EventKind::InstanceHealthy,
        EventKind::InstanceRemoved,
        EventKind::HomeLost,
        EventKind::HomeFound,
        EventKind::PanicBegun,
        EventKind::PanicEnded,
        EventKind::FailoverBegun,
        EventKind::FailoverEnded,
        EventKind::SpillBegun,
        EventKind::SpillEnded,
        EventKind::ShedBegun,
        EventKind::ShedEnded,
    ];

    /// Those that earlier processes have left open, by their events, oldest first.
    #[must_use]
    pub fn recorded(events: &[HistoryEvent]) -> Self {
        let mut matters = Self::default();
        for event in events.iter().filter(|event| event.count == 1) {
            let kind = Self::KINDS.iter().find(|kind| kind.word() == event.kind);
            let Some(kind) = kind else { continue };
            let about = (event.service.clone(), event.subject.clone());
            matters.note(*kind, about, &event.text, true);
        }
        matters
    }

    /// Takes those away that end what nobody was told of, or begin a panic that an earlier process has told of, and remembers the rest.
    pub fn admit(&mut self, mut events: Vec<NewEvent>) -> Vec<NewEvent> {
        events.retain(|event| {
            let about = (event.service.clone(), event.subject.clone());
            let was_open = self.note(event.kind, about, &event.text, false);
            let needs_beginning = matches!(event.kind, EventKind::ZoneFresh | EventKind::InstanceHealthy);
            match event.kind {
                EventKind::PanicBegun => !was_open,
                _ => was_open || !needs_beginning || self.is_full,
            }
        });
        events
    }

    /// Takes an event down. Tells whether what it ends was open, or what it begins was left open by an earlier process: of this one it was ended
    /// without a word, with its arm or its tiers.
    fn note(
        &mut self,
        kind: EventKind,
        (service, subject): (Option<String>, Option<String>),
        text: &str,
        is_recorded: bool,
    ) -> bool {
        let Some((kind, begins)) = beginning(kind) else {
            return false;
        };
        let matter = Matter {
            kind,
            service,
            subject,
        };
        if !begins {
            return self.open.remove(&matter).is_some();
        }
        if self.open.len() >= MAX_OPEN {
            self.is_full = true;
            return self.open.get(&matter).is_some_and(|open| open.is_recorded);
        }
        let text = text.to_owned();
        self.open
            .insert(matter, Beginning { text, is_recorded })
            .is_some_and(|before| before.is_recorded)
    }

    /// Ends what earlier processes left open and what holds no more. To be asked once a process has had time to hear of the other zones.
    pub fn reconcile(&mut self, now: &Picture) -> Vec<NewEvent> {
        let mut ends = Vec::new();
        self.open.retain(|matter, beginning| {
            let end = match beginning.is_recorded {
                true => matter.end(&beginning.text, now),
                false => None,
            };
            let is_open = end.is_none();
            ends.extend(end.map(|end| end.because(UNSEEN)));
            is_open
        });
        ends
    }
}

impl Matter {
    /// Event of its end, if it holds no more.
    fn end(&self, text: &str, now: &Picture) -> Option<NewEvent> {
        match (self.kind, self.service.as_deref(), self.subject.as_deref()) {
            (EventKind::ZoneSuspect, _, Some(zone)) => {
                let zone = ZoneName::new(zone).ok()?;
                let is_fresh = peers::zone_ages(now).get(&zone) == Some(&Age::Fresh);
                is_fresh.then(|| peers::fresh(&zone))
            }
            (EventKind::InstanceUnhealthy, Some(service), Some(id)) => {
                let list = now.snapshot.instances.get(&ServiceName::new(service).ok()?)?;
                let place = list.binary_search_by(|instance| instance.id.as_str().cmp(id));
                let instance = list.get(place.ok()?)?;
                (instance.health == Health::Healthy).then(|| instances::healthy(instance))
            }
            (kind, Some(service), arm) => now.plans.end_of(kind, (service, arm), text),
            _ => None,
        }
    }
}

/// Kind under which a matter is remembered, and whether the event begins it; `None`: the event does neither.
fn beginning(kind: EventKind) -> Option<(EventKind, bool)> {
    Some(match kind {
        EventKind::ZoneSuspect | EventKind::ZoneWithdrawn => (EventKind::ZoneSuspect, true),
        EventKind::ZoneFresh => (EventKind::ZoneSuspect, false),
        EventKind::InstanceUnhealthy => (EventKind::InstanceUnhealthy, true),
        EventKind::InstanceHealthy | EventKind::InstanceRemoved => (EventKind::InstanceUnhealthy, false),
        EventKind::HomeLost => (EventKind::HomeLost, true),
        EventKind::HomeFound => (EventKind::HomeLost, false),
        EventKind::PanicBegun => (EventKind::PanicBegun, true),
        EventKind::PanicEnded => (EventKind::PanicBegun, false),
        EventKind::FailoverBegun => (EventKind::FailoverBegun, true),
        EventKind::FailoverEnded => (EventKind::FailoverBegun, false),
        EventKind::SpillBegun => (EventKind::SpillBegun, true),
        EventKind::SpillEnded => (EventKind::SpillBegun, false),
        EventKind::ShedBegun => (EventKind::ShedBegun, true),
        EventKind::ShedEnded => (EventKind::ShedBegun, false),
        _ => return None,
    })
}
