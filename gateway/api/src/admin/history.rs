//! Events: `GET /v1/events`, the figures of each minute: `GET /v1/figures`, and as it happens `GET /v1/events/stream` (server-sent events, WHATWG HTML §9.2).

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Extension,
    extract::{Query, State, rejection::QueryRejection},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use causeway_history::{EventKind, EventQuery, History, HistoryEvent, MAX_EVENTS_AT_ONCE, MinuteFigures};
use causeway_host::share::{NoShare, ShareHolder, ShareTable, ShareUse};
use futures_util::StreamExt as _;
use http::{Extensions, HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{AdminState, error::ApiError, large::LargeAnswers, reader::PageReader};
use crate::actor::share_holder;

/// Streams at once, of all who follow; each has a place among the connections as well.
const MAX_STREAMS: u64 = 64;
/// Time after which something is said where nothing happens, so that who is gone is noticed at both ends.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Longest life of a stream: whoever follows comes again with the last event that they have, and so may have no stream for longer than that
/// with a token or certificate that counts no more.
const STREAM_LIFE: Duration = Duration::from_secs(60);
/// Time of which figures are shown where nothing else is said.
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Events in one answer where nothing else is said.
const EVENTS: usize = 500;
const EVENTS_EXAMPLE: &str = "/v1/events?since=2h&service=orders&kind=failover_begun&limit=100";

/// Answer to a question about events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsView {
    /// Oldest first.
    pub events: Vec<HistoryEvent>,
    /// First and last id of all that is kept; absent while nothing is.
    pub first: Option<u64>,
    pub last: Option<u64>,
    /// Time for which events are kept, if there is room.
    pub kept_for_seconds: u64,
}

/// Parameters of the question.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventParameters {
    since: Option<String>,
    until: Option<String>,
    service: Option<String>,
    /// One word, or several with commas between them.
    kind: Option<String>,
    after: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn events(
    State(state): State<AdminState>,
    Extension(large): Extension<LargeAnswers>,
    Extension(reader): Extension<PageReader>,
    parameters: Result<Query<EventParameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = parameters.map_err(|error| wrong(error.body_text()))?;
    let query = query(asked, SystemTime::now())?;
    state.history.opened().await;
    let history = state.history.clone();
    let kept_for_seconds = history.limits().keep.as_secs();
    let found = large.make(move || history.events(&query)).await?;
    let page = found.map_err(unreadable)?;
    let some = |id: u64| (id > 0).then_some(id);
    let view = EventsView {
        first: some(page.first),
        last: some(page.last),
        events: reader.events(page.events),
        kept_for_seconds,
    };
    Ok(axum::Json(view).into_response())
}

/// Answer to a question about figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FiguresView {
    /// Oldest first.
    pub minutes: Vec<MinuteFigures>,
}

/// Parameters of a question about figures.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FigureParameters {
    since: Option<String>,
    until: Option<String>,
    service: Option<String>,
}

/// Figures of each minute; of the last hour where nothing else is said.
pub(super) async fn figures(
    State(state): State<AdminState>,
    Extension(large): Extension<LargeAnswers>,
    parameters: Result<Query<FigureParameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = parameters.map_err(|error| wrong_figures(error.body_text()))?;
    let now = SystemTime::now();
    let of = |text: &Option<String>| text.as_deref().map(|text| moment(text, now)).transpose();
    let since = of(&asked.since)?.unwrap_or(now.checked_sub(HOUR).unwrap_or(SystemTime::UNIX_EPOCH));
    let until = of(&asked.until)?.unwrap_or(now);
    state.history.opened().await;
    let history = state.history.clone();
    let answer = large.make(move || {
        let mut minutes = history.minutes(since, until)?;
        if let Some(service) = &asked.service {
            for minute in &mut minutes {
                minute.services.retain(|one| one.service == *service);
            }
        }
        // Here, as a day of it takes a while to write.
        Ok(axum::Json(FiguresView { minutes }).into_response())
    });
    answer.await?.map_err(unreadable)
}

fn wrong_figures(error: impl Into<String>) -> ApiError {
    ApiError::bad_request(error.into()).hint("ask as in /v1/figures?since=1h&service=orders")
}

/// Parameters of a stream.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamParameters {
    after: Option<u64>,
}

/// Follows what happens, from behind the event that `Last-Event-ID` or `after` names, or from now on.
pub(super) async fn stream(
    State(state): State<AdminState>,
    Extension(stop): Extension<StreamStop>,
    Extension(places): Extension<StreamPlaces>,
    extensions: Extensions,
    headers: HeaderMap,
    parameters: Result<Query<StreamParameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = parameters.map_err(|error| wrong(error.body_text()))?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = match last.map(str::parse::<u64>) {
        None => asked.after,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => return Err(wrong("Last-Event-ID is no number")),
    };
    let place = places.take(share_holder(&extensions)).map_err(|full| {
        let (status, error) = match full {
            NoShare::NoneFree => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{MAX_STREAMS} follow what happens already"),
            ),
            NoShare::Crowded { held, free } => (
                StatusCode::TOO_MANY_REQUESTS,
                format!("{held} of whoever asks follow what happens already, and {free} places are left for all others"),
            ),
        };
        ApiError::new(status, error).hint("ask /v1/events?after=ID now and then")
    })?;
    state.history.opened().await;
    let follower = Follower {
        live: state.history.follow(),
        sent: after,
        is_reading: after.is_some(),
        history: state.history.clone(),
        waiting: VecDeque::new(),
        _place: place,
    };
    let items = futures_util::stream::unfold(follower, Follower::next);
    let ends = async move {
        tokio::select! {
            () = stop.0.cancelled_owned() => {}
            () = tokio::time::sleep(STREAM_LIFE) => {}
        }
    };
    let items = items.take_until(Box::pin(ends));
    let answer = Sse::new(items).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("alive"));
    // A proxy in between hands each event on at once.
    Ok(([("x-accel-buffering", "no")], answer).into_response())
}

/// Ends streams when their listener stops.
#[derive(Debug, Clone)]
pub(super) struct StreamStop(pub(super) CancellationToken);

/// Places for those who follow. One caller may have half as many as are free, which is a third of all at most.
#[derive(Debug, Clone, Default)]
pub(super) struct StreamPlaces(Arc<Mutex<ShareTable>>);

impl StreamPlaces {
    fn take(&self, holder: ShareHolder) -> Result<StreamPlace, NoShare> {
        let mut taken = self.0.lock();
        let free = MAX_STREAMS.saturating_sub(taken.total());
        match free > 0 && taken.held_by(&holder) == 0 {
            // The last place is for whoever has none.
            true => taken.add(&holder),
            false => taken.take(&holder, free, ShareUse::Apis)?,
        }
        let places = self.0.clone();
        Ok(StreamPlace { places, holder })
    }
}

/// Place of one who follows. It is free again when this is dropped.
#[derive(Debug)]
struct StreamPlace {
    places: Arc<Mutex<ShareTable>>,
    holder: ShareHolder,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.places.lock().give_back(&self.holder);
    }
}

/// One who follows: first what is kept behind the last event that it has, then what comes.
struct Follower {
    history: History,
    live: broadcast::Receiver<Arc<HistoryEvent>>,
    /// Id of the last event that it has; `None`: it has none, and wants none from before.
    sent: Option<u64>,
    /// Until what is kept is read to its end.
    is_reading: bool,
    waiting: VecDeque<HistoryEvent>,
    _place: StreamPlace,
}

impl Follower {
    /// The next event; `None`: it has fallen behind, and comes again with the id of the last one that it has.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        if self.waiting.is_empty() && self.is_reading {
            self.waiting = self.kept_behind(self.sent.unwrap_or_default()).await?;
            self.is_reading = !self.waiting.is_empty();
        }
        if let Some(event) = self.waiting.pop_front() {
            self.sent = Some(event.id);
            return Some((Ok(told(&event)), self));
        }
        loop {
            let event = self.live.recv().await.ok()?;
            // Those that were read already, or before the stream was asked for.
            if self.sent.is_none_or(|sent| event.id > sent) {
                self.sent = Some(event.id);
                return Some((Ok(told(&event)), self));
            }
        }
    }

    async fn kept_behind(&self, after: u64) -> Option<VecDeque<HistoryEvent>> {
        let query = EventQuery {
            after: Some(after),
            limit: MAX_EVENTS_AT_ONCE,
            ..EventQuery::default()
        };
        let history = self.history.clone();
        let read = tokio::task::spawn_blocking(move || history.events(&query)).await;
        Some(read.ok()?.ok()?.events.into())
    }
}

fn told(event: &HistoryEvent) -> Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    // A file that somebody has changed must not end the stream's task.
    let kind = match event.kind.contains(char::is_control) {
        true => "unknown",
        false => &event.kind,
    };
    Event::default().id(event.id.to_string()).event(kind).data(data)
}

fn wrong(error: impl Into<String>) -> ApiError {
    ApiError::bad_request(error.into()).hint(format!("ask as in {EVENTS_EXAMPLE}"))
}

fn unreadable(error: std::io::Error) -> ApiError {
    let text = format!("the history cannot be read: {error}");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, text).hint("look at history/ in the --data folder")
}

fn query(asked: EventParameters, now: SystemTime) -> Result<EventQuery, ApiError> {
    let moment = |text: Option<String>| text.map(|text| moment(&text, now)).transpose();
    Ok(EventQuery {
        since: moment(asked.since)?,
        until: moment(asked.until)?,
        service: asked.service,
        kinds: asked.kind.map_or_else(|| Ok(Vec::new()), |kinds| words(&kinds))?,
        after: asked.after,
        limit: asked.limit.unwrap_or(EVENTS).clamp(1, MAX_EVENTS_AT_ONCE),
    })
}

/// Reads a moment, or a time before now.
fn moment(text: &str, now: SystemTime) -> Result<SystemTime, ApiError> {
    if let Ok(at) = humantime::parse_rfc3339_weak(text) {
        return Ok(at);
    }
    let ago: Option<Duration> = humantime::parse_duration(text).ok();
    let first = SystemTime::UNIX_EPOCH;
    let at = ago.map(|ago| now.checked_sub(ago).map_or(first, |at| at.max(first)));
    at.ok_or_else(|| {
        wrong(format!(
            "`{text}` is no time such as 2h, and no moment such as 2026-11-30T14:00:00Z"
        ))
    })
}

fn words(kinds: &str) -> Result<Vec<String>, ApiError> {
    let known: BTreeSet<&str> = EventKind::ALL.iter().map(|kind| kind.word()).collect();
    let word = |word: &str| match known.contains(word) {
        true => Ok(word.to_owned()),
        false => {
            let all: Vec<&str> = known.iter().copied().collect();
            let error = ApiError::bad_request(format!("`{word}` is no kind of event"));
            Err(error.hint(format!("the kinds are {}", all.join(", "))))
        }
    };
    kinds.split(',').map(|kind| word(kind.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_or_a_time_ago() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ago = moment("2h", now).unwrap();
        assert_eq!(now.duration_since(ago).unwrap(), Duration::from_secs(7_200));
        let at = moment("1970-01-02T00:00:00Z", now).unwrap();
        assert_eq!(at, SystemTime::UNIX_EPOCH + Duration::from_secs(86_400));
        assert_eq!(moment("300y", now).unwrap(), SystemTime::UNIX_EPOCH);
        assert!(moment("yesterday", now).is_err());
    }

    #[test]
    fn one_who_follows_on_many_streams_leaves_places_to_others() {
        let places = StreamPlaces::default();
        let fill = |name: &str| {
            let place = || places.take(ShareHolder::Named(name.into())).ok();
            std::iter::from_fn(place).collect::<Vec<_>>()
        };
        let one = fill("token viewer");
        assert_eq!(one.len(), 21);
        let others: Vec<_> = ["a", "b", "c", "d"].into_iter().map(fill).collect();
        assert!(others.iter().all(|other| !other.is_empty()), "{others:?}");
        drop(others);
        drop(one);
        assert_eq!(fill("token viewer").len(), 21, "they are free again");
    }

    #[test]
    fn kinds_are_known_words_and_a_wrong_one_is_refused() {
        assert_eq!(
            words("tunnel_up, tunnel_down").unwrap(),
            ["tunnel_up", "tunnel_down"]
        );
        assert!(words("tunnel_upp").is_err());
        let asked = EventParameters {
            limit: Some(usize::MAX),
            ..EventParameters::default()
        };
        assert_eq!(query(asked, SystemTime::now()).unwrap().limit, MAX_EVENTS_AT_ONCE);
    }
}
