//! Questions about what happened, answered from the segments of a journal. Reading blocks.

use std::{io, time::SystemTime};

use crate::{
    event::{HistoryEvent, moment},
    figures::MinuteFigures,
    journal::{Segment, Shelf},
};

/// Most events in one answer.
pub const MAX_EVENTS_AT_ONCE: usize = 1_000;

/// Most minutes in one answer: somewhat more than a day.
pub const MAX_MINUTES_AT_ONCE: usize = 1_500;

/// Events that are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    pub since: Option<SystemTime>,
    pub until: Option<SystemTime>,
    pub service: Option<String>,
    /// Words of kinds; empty: all.
    pub kinds: Vec<String>,
    /// Events behind this id, the oldest first to be cut; `None`: the newest ones.
    pub after: Option<u64>,
    pub limit: usize,
}

/// Events that were found, oldest first, and the ids that are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    pub events: Vec<HistoryEvent>,
    /// First and last id of all that is kept; 0: nothing is.
    pub first: u64,
    pub last: u64,
}

/// The query, as lines are compared with it.
struct Filter<'q> {
    query: &'q EventQuery,
    since: Option<String>,
    until: Option<String>,
}

impl Filter<'_> {
    fn admits(&self, event: &HistoryEvent) -> bool {
        let query = self.query;
        let is_of = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        self.since.as_ref().is_none_or(|since| event.time >= *since)
            && self.until.as_ref().is_none_or(|until| event.time < *until)
            && is_of(&query.service, &event.service)
            && (query.kinds.is_empty() || query.kinds.contains(&event.kind))
            && query.after.is_none_or(|after| event.id > after)
    }

    fn may_be_in(&self, segment: &Segment) -> bool {
        let of = |at: Option<SystemTime>| at.map(crate::event::milliseconds);
        of(self.query.since).is_none_or(|since| segment.newest >= since)
            && of(self.query.until).is_none_or(|until| segment.oldest < until)
            && self.query.after.is_none_or(|after| segment.last > after)
    }

    fn found_in(&self, segment: &Segment) -> io::Result<Vec<HistoryEvent>> {
        let text = read(segment)?;
        let events = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        Ok(events.filter(|event| self.admits(event)).collect())
    }
}

/// Reads the figures of the minutes that ended from `since` and before `until`; the latest where they are too many.
pub(crate) fn minutes(
    shelf: &Shelf,
    (since, until): (SystemTime, SystemTime),
) -> io::Result<Vec<MinuteFigures>> {
    let (from, to) = (moment(since), moment(until));
    let (oldest, newest) = (
        crate::event::milliseconds(since),
        crate::event::milliseconds(until),
    );
    let may_be_in = |segment: &&Segment| segment.newest >= oldest && segment.oldest < newest;
    let mut found = Vec::new();
    for segment in shelf.list().iter().filter(may_be_in) {
        let text = read(segment)?;
        let minutes = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        found.extend(minutes.filter(|minute: &MinuteFigures| minute.time >= from && minute.time < to));
    }
    found.drain(..found.len().saturating_sub(MAX_MINUTES_AT_ONCE));
    Ok(found)
}

/// Reads a segment, which may have been dropped since the list was made.
fn read(segment: &Segment) -> io::Result<String> {
    match segment.read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// Reads what is asked for.
pub(crate) fn events(shelf: &Shelf, query: &EventQuery) -> io::Result<EventPage> {
    let limit = query.limit.min(MAX_EVENTS_AT_ONCE);
    let filter = Filter {
        query,
        since: query.since.map(moment),
        until: query.until.map(moment),
    };
    let (first, last) = shelf.ids().unwrap_or_default();
    let segments = shelf.list();
    let candidates = segments.iter().filter(|segment| filter.may_be_in(segment));
    let mut events = Vec::new();
    if query.after.is_some() {
        for segment in candidates {
            events.extend(filter.found_in(segment)?);
            if events.len() >= limit {
                break;
            }
        }
        events.truncate(limit);
    } else {
        for segment in candidates.rev() {
            let mut found = filter.found_in(segment)?;
            let missing: usize = limit - events.len();
            found.drain(..found.len().saturating_sub(missing));
            found.append(&mut events);
            events = found;
            if events.len() >= limit {
                break;
            }
        }
    }
    Ok(EventPage { events, first, last })
}
