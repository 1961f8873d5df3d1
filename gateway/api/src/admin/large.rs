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
use http::{StatusCode, header};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{error::ApiError, view::Envelope};

/// Answers of that kind at once, from being made until they are taken; the memory that they may take.
const MAX_LARGE_ANSWERS: usize = 4;
/// Longest wait for a place among them.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Size of the pieces that an answer is handed on in, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// Places for large answers.
#[derive(Debug, Clone)]
pub(super) struct LargeAnswers(Arc<Semaphore>);

impl Default for LargeAnswers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LARGE_ANSWERS)))
    }
}

impl LargeAnswers {
    /// Answers with what `make` gives, which may take a while and holds up nobody else.
    pub(super) async fn answer<T: Serialize + 'static>(
        &self,
        make: impl FnOnce() -> Envelope<T> + Send + 'static,
    ) -> Result<Response, ApiError> {
        self.answer_within(PLACE_TIMEOUT, make).await
    }

    async fn answer_within<T: Serialize + 'static>(
        &self,
        wait: Duration,
        make: impl FnOnce() -> Envelope<T> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let Ok(Ok(place)) = timeout(wait, self.0.clone().acquire_owned()).await else {
            let error = format!("{MAX_LARGE_ANSWERS} large answers are made or read already");
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error).hint("try again in a moment"));
        };
        let made = tokio::task::spawn_blocking(move || (serde_json::to_vec(&make()), place)).await;
        let Ok((Ok(json), place)) = made else {
            let error = "the answer could not be made";
            return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error));
        };
        let body = InPieces {
            rest: json.into(),
            _place: place,
        };
        Ok(([(header::CONTENT_TYPE, "application/json")], Body::new(body)).into_response())
    }
}

/// Body whose place is free again when its last piece was taken.
struct InPieces {
    rest: Bytes,
    _place: OwnedSemaphorePermit,
}

impl hyper::body::Body for InPieces {
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
    use http_body_util::BodyExt as _;

    use super::*;

    fn made(items: usize) -> Envelope<String> {
        Envelope {
            version: 1,
            kind: "tests".to_owned(),
            zone: "east".to_owned(),
            generation: 1,
            items: vec!["a long item".repeat(100); items],
        }
    }

    #[tokio::test]
    async fn answers_that_nobody_reads_are_few_and_one_that_is_read_makes_room() {
        let large = LargeAnswers::default();
        let mut unread = Vec::new();
        for _ in 0..MAX_LARGE_ANSWERS {
            unread.push(large.answer(|| made(1000)).await.unwrap());
        }
        let one_more = || large.answer_within(Duration::from_millis(20), || made(1000));
        let refused = one_more().await.unwrap_err().into_response();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let read = unread.pop().unwrap();
        assert_eq!(read.headers()[header::CONTENT_TYPE], "application/json");
        let body = read.into_body();
        let expected = serde_json::to_vec(&made(1000)).unwrap();
        let length = hyper::body::Body::size_hint(&body).exact();
        assert_eq!(length, Some(expected.len() as u64));
        assert_eq!(body.collect().await.unwrap().to_bytes(), expected);
        assert!(one_more().await.is_ok());
    }
}
