//! Bodies on their way: of a request to its instance, and of an answer to its client. Nothing is held back, and trailers go along.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{
    expect::{ContinueWait, ContinueWord},
    record::RequestRecord,
    upstream::HttpUpstream,
    watched::SharedClient,
};

/// Body of a request, which says when all of it has been handed over.
#[derive(Debug)]
pub(super) struct RequestBody {
    /// `None`: there is none.
    from_client: Option<Incoming>,
    sent_all: Arc<AtomicBool>,
    /// Its client waits for `100 Continue`.
    waits: Option<ContinueWait>,
}

impl RequestBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            from_client: Some(body),
            sent_all: Arc::default(),
            waits: None,
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            from_client: None,
            sent_all: Arc::default(),
            waits: None,
        }
    }

    /// Has it wait until its instance asks for it.
    pub(super) fn wait(&mut self, wait: ContinueWait) {
        self.waits = Some(wait);
    }

    /// Has it say on `upstream` when all of it has been handed over.
    pub(super) fn goes_to(&mut self, upstream: &HttpUpstream) {
        self.sent_all = upstream.sent_all(self.is_end_stream());
    }

    fn note(&self) {
        if self.is_end_stream() {
            self.sent_all.store(true, Ordering::Relaxed);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(wait) = &mut self.waits {
            match ready!(wait.poll(cx)) {
                ContinueWord::Go => self.waits = None,
                // Without it the client's connection closes after the answer, and this one is used for nothing else.
                ContinueWord::Answered => {
                    self.from_client = None;
                    return Poll::Pending;
                }
            }
        }
        let Some(body) = &mut self.from_client else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        match &frame {
            None => self.sent_all.store(true, Ordering::Relaxed),
            Some(Ok(frame)) if frame.is_trailers() => self.sent_all.store(true, Ordering::Relaxed),
            Some(Ok(_)) => self.note(),
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.waits.is_none() && self.from_client.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from_client {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// Body of an answer: an instance's, or one of the gateway's own.
pub(super) enum AnswerBody {
    Own(Full<Bytes>),
    Forwarded(Box<ForwardedAnswer>),
}

/// Answer of an instance under way. With it the request ends.
pub(super) struct ForwardedAnswer {
    body: Incoming,
    socket: SharedClient,
    upstream: Option<HttpUpstream>,
    ended: bool,
    record: RequestRecord,
}

impl ForwardedAnswer {
    pub(super) fn new(
        body: Incoming,
        socket: SharedClient,
        upstream: HttpUpstream,
        record: RequestRecord,
    ) -> Self {
        Self {
            body,
            socket,
            upstream: Some(upstream),
            ended: false,
            record,
        }
    }
}

impl Drop for ForwardedAnswer {
    fn drop(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            match self.ended || self.body.is_end_stream() {
                true => self.record.served(upstream),
                false => self.record.left(&upstream.traffic),
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let answer = match &mut *self {
            Self::Own(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                return Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})));
            }
            Self::Forwarded(answer) => answer,
        };
        let frame = ready!(Pin::new(&mut answer.body).poll_frame(cx));
        match &frame {
            None => answer.ended = true,
            Some(Ok(frame)) => answer.ended |= frame.is_trailers(),
            Some(Err(_)) => {
                // A FIN could look like the end of the answer.
                answer.socket.reset_on_drop();
                if let Some(upstream) = answer.upstream.take() {
                    answer.record.broken(&upstream.traffic);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Forwarded(answer) => answer.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Forwarded(answer) => answer.body.size_hint(),
        }
    }
}
