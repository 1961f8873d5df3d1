//! Answers that list everything there is: of 100,000 exports one has 13 MB. So few are there at once, and each keeps its place
//! until its client has taken nearly all of it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use causeway_routing::snapshot::Snapshot;
use http::{StatusCode, header};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use tokio::{sync::Semaphore, time::timeout};

use super::{error::ApiError, view::Envelope};

/// Answers of that kind at once, from being made until they are taken; the memory that they may take.
const MAX_LARGE_ANSWERS: usize = 4;
/// Answers of other kinds that are made at once.
const MAX_MADE: usize = 4;
/// Topologies that are looked at at once without being applied: each may take seconds, and whoever may read may hand one in.
const MAX_READ: usize = 1;
/// Longest wait for a place among them.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Size of the pieces that an answer is handed on in, in bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// End of an envelope's JSON behind its items.
const END: &[u8] = b"]}";

/// Places for large answers, and for making others that take a while.
#[derive(Debug, Clone)]
pub(super) struct LargeAnswers {
    answers: Arc<Semaphore>,
    making: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

impl Default for LargeAnswers {
    fn default() -> Self {
        Self {
            answers: Arc::new(Semaphore::new(MAX_LARGE_ANSWERS)),
            making: Arc::new(Semaphore::new(MAX_MADE)),
            reading: Arc::new(Semaphore::new(MAX_READ)),
        }
    }
}

impl LargeAnswers {
    /// Answers with an envelope and the items that `list` adds to it, which may take a while and holds up nobody else.
    pub(super) async fn answer(
        &self,
        (kind, snapshot): (&'static str, Arc<Snapshot>),
        list: impl FnOnce(&Snapshot, &mut JsonItems) + Send + 'static,
    ) -> Result<Response, ApiError> {
        self.answer_within(PLACE_TIMEOUT, (kind, snapshot), list).await
    }

    async fn answer_within(
        &self,
        wait: Duration,
        (kind, snapshot): (&'static str, Arc<Snapshot>),
        list: impl FnOnce(&Snapshot, &mut JsonItems) + Send + 'static,
    ) -> Result<Response, ApiError> {
        let Ok(Ok(place)) = timeout(wait, self.answers.clone().acquire_owned()).await else {
            let error = format!("{MAX_LARGE_ANSWERS} large answers are made or read already");
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error).hint("try again in a moment"));
        };
        let make = move || {
            let mut items = JsonItems::of(&Envelope::<()>::new(kind, &snapshot, Vec::new()))?;
            list(&snapshot, &mut items);
            // The place goes along: whoever asked may be gone by now.
            Ok::<_, serde_json::Error>((items.finish()?, place))
        };
        let made = tokio::task::spawn_blocking(make).await;
        let Ok(Ok((json, place))) = made else {
            return Err(not_made());
        };
        Ok(held(json.into(), place))
    }

    /// Makes an answer that takes a while, but is not large, where it holds up nobody else.
    ///
    /// # Errors
    /// So many are being made, and none was done in time.
    pub(super) async fn make<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        within(&self.making, make, || {
            format!("{MAX_MADE} answers are being made already")
        })
        .await
    }

    /// Looks at the text of a topology, where it holds up nobody else.
    ///
    /// # Errors
    /// Others are being looked at, and none was done in time.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        within(&self.reading, read, || {
            "another topology is being looked at".to_owned()
        })
        .await
    }
}

/// Does what takes a while in one of these places, which is held until it is done, whoever waits for it.
async fn within<T: Send + 'static>(
    places: &Arc<Semaphore>,
    make: impl FnOnce() -> T + Send + 'static,
    crowded: impl FnOnce() -> String,
) -> Result<T, ApiError> {
    let Ok(Ok(place)) = timeout(PLACE_TIMEOUT, places.clone().acquire_owned()).await else {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, crowded()).hint("try again in a moment"));
    };
    let made = tokio::task::spawn_blocking(move || (make(), place)).await;
    made.map(|(made, _)| made).map_err(|_| not_made())
}

/// An answer of JSON that keeps its place until its client has taken nearly all of it.
pub(crate) fn held<P: Send + Unpin + 'static>(json: Bytes, place: P) -> Response {
    let body = InPieces {
        rest: json,
        _place: place,
    };
    ([(header::CONTENT_TYPE, "application/json")], Body::new(body)).into_response()
}

fn not_made() -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made")
}

/// Items of an envelope as JSON, written one after another: there are never as many views as there are items.
pub(super) struct JsonItems {
    json: Vec<u8>,
    is_first: bool,
    failure: Option<serde_json::Error>,
}

impl JsonItems {
    /// Begins with an envelope without items, whose last field they are.
    fn of(empty: &Envelope<()>) -> Result<Self, serde_json::Error> {
        let mut json = serde_json::to_vec(empty)?;
        json.truncate(json.len() - END.len());
        Ok(Self {
            json,
            is_first: true,
            failure: None,
        })
    }

    /// Adds one.
    pub(super) fn add(&mut self, item: &impl Serialize) {
        if !std::mem::take(&mut self.is_first) {
            self.json.push(b',');
        }
        if let Err(error) = serde_json::to_writer(&mut self.json, item) {
            self.failure.get_or_insert(error);
        }
    }

    fn finish(mut self) -> Result<Vec<u8>, serde_json::Error> {
        self.json.extend_from_slice(END);
        self.failure.map_or(Ok(self.json), Err)
    }
}

/// Body whose place is free again when its last piece was taken.
struct InPieces<P> {
    rest: Bytes,
    _place: P,
}

impl<P: Unpin> hyper::body::Body for InPieces<P> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(length);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use causeway_routing::testbed;
    use http_body_util::BodyExt as _;

    use super::*;

    fn snapshot() -> Arc<Snapshot> {
        let topology = testbed::topology("  east: {}", "  orders: { port: 80 }");
        Arc::new(testbed::snapshot("east", &topology, Vec::new(), Vec::new(), &[]))
    }

    fn list(count: usize) -> impl FnOnce(&Snapshot, &mut JsonItems) + Send + 'static {
        move |_, items| {
            for _ in 0..count {
                items.add(&"a long \"item\"".repeat(100));
            }
        }
    }

    #[tokio::test]
    async fn answers_that_nobody_reads_are_few_and_one_that_is_read_makes_room() {
        let large = LargeAnswers::default();
        let mut unread = Vec::new();
        for _ in 0..MAX_LARGE_ANSWERS {
            unread.push(large.answer(("tests", snapshot()), list(1000)).await.unwrap());
        }
        let one_more = || large.answer_within(Duration::from_millis(20), ("tests", snapshot()), list(1000));
        let refused = one_more().await.unwrap_err().into_response();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let read = unread.pop().unwrap();
        assert_eq!(read.headers()[header::CONTENT_TYPE], "application/json");
        let body = read.into_body();
        let length = hyper::body::Body::size_hint(&body).exact();
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!(length, Some(body.len() as u64));
        assert!(one_more().await.is_ok());
    }

    #[tokio::test]
    async fn a_place_is_held_until_the_work_is_done_whoever_waits_for_it() {
        let places = Arc::new(Semaphore::new(1));
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let waiting = tokio::spawn({
            let places = places.clone();
            async move {
                within(&places, move || ended.recv(), String::new)
                    .await
                    .map(|_| ())
            }
        });
        while places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        assert_eq!(
            places.available_permits(),
            0,
            "nobody waits for it, and it goes on"
        );
        end.send(()).unwrap();
        assert!(places.acquire().await.is_ok());
    }

    #[tokio::test]
    async fn items_that_are_added_one_by_one_are_the_envelope_with_all_of_them() {
        let large = LargeAnswers::default();
        for count in [0, 1, 3] {
            let answer = large.answer(("tests", snapshot()), list(count)).await.unwrap();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let items = vec!["a long \"item\"".repeat(100); count];
            let whole = Envelope::new("tests", &snapshot(), items);
            assert_eq!(body, serde_json::to_vec(&whole).unwrap());
        }
    }
}
