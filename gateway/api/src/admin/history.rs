//! What happened: `GET /v1/events`.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use axum::{
    Extension,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use causeway_history::{EventKind, EventQuery, HistoryEvent, MAX_EVENTS_AT_ONCE};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{AdminState, error::ApiError, large::LargeAnswers};

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
        events: page.events,
        kept_for_seconds,
    };
    Ok(axum::Json(view).into_response())
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
    let at = ago.map(|ago| now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH));
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
