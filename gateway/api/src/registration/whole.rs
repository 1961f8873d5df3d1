//! Bodies of requests that must be whole to be carried out. To hyper the body of a stream that its client resets with NO_ERROR
//! ends like one that is complete, and half a list would remove the other half: only END_STREAM is an end.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tonic::body::Body;

/// Error of a request of which not all came. Without a source: for tonic a call that was given up is one whose client has said
/// everything, while here it must not be carried out.
#[derive(Debug, thiserror::Error)]
#[error("the request broke off: {0}")]
pub(super) struct BrokenOff(String);

/// A body that fails unless it comes to its end.
pub(super) struct WholeBody<B> {
    body: B,
    has_failed: bool,
}

/// Puts a [`WholeBody`] around the body of a request.
pub(super) fn whole(body: Body) -> Body {
    Body::new(WholeBody::new(body))
}

impl<B> WholeBody<B> {
    fn new(body: B) -> Self {
        Self {
            body,
            has_failed: false,
        }
    }
}

impl<B> hyper::body::Body for WholeBody<B>
where
    B: hyper::body::Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        let why = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => error.to_string(),
            None if self.body.is_end_stream() => return Poll::Ready(None),
            None => "its stream was reset before its end".to_owned(),
        };
        self.has_failed = true;
        Poll::Ready(Some(Err(BrokenOff(why))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_failed || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
