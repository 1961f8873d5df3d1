//! The body of a request that may have to be given twice: HTTP/2 says which requests an instance has not read, and those go to
//! another one with all that was sent of them; so do those that their service has tried again.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;

use crate::http::limits::MAX_REPLAYED_BYTES;

/// Body on its way to an instance. A later one takes its place once the request goes to another instance.
#[derive(Debug)]
pub(super) struct ReplayedBody {
    shared: Arc<Mutex<ReplayState>>,
    turn: u32,
    /// The next of what was given before.
    next: usize,
}

/// Right to give the body again, for as long as all that was sent of it is remembered.
#[derive(Debug)]
pub(super) struct BodyReplay(Arc<Mutex<ReplayState>>);

#[derive(Debug)]
struct ReplayState {
    body: Incoming,
    given: Vec<GivenFrame>,
    bytes: usize,
    is_remembered: bool,
    turn: u32,
}

#[derive(Debug, Clone)]
enum GivenFrame {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl GivenFrame {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        let data = frame.data_ref().cloned().map(Self::Data);
        data.or_else(|| frame.trailers_ref().cloned().map(Self::Trailers))
    }

    fn again(self) -> Frame<Bytes> {
        match self {
            Self::Data(bytes) => Frame::data(bytes),
            Self::Trailers(fields) => Frame::trailers(fields),
        }
    }
}

impl ReplayedBody {
    pub(super) fn new(body: Incoming) -> Self {
        let state = ReplayState {
            body,
            given: Vec::new(),
            bytes: 0,
            is_remembered: false,
            turn: 0,
        };
        Self {
            shared: Arc::new(Mutex::new(state)),
            turn: 0,
            next: 0,
        }
    }

    /// Tells whether a later one has taken its place.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.shared.lock().turn != self.turn
    }

    /// Has it remembered what is sent from here on, which is the beginning.
    pub(super) fn replay(&self) -> BodyReplay {
        self.shared.lock().is_remembered = true;
        BodyReplay(self.shared.clone())
    }
}

impl BodyReplay {
    /// Tells whether all that was sent is remembered.
    pub(super) fn is_whole(&self) -> bool {
        self.0.lock().is_remembered
    }

    /// The whole body once more; `None`: it was too long to be remembered. The one before ends.
    pub(super) fn again(self) -> Option<ReplayedBody> {
        let mut state = self.0.lock();
        state.turn += 1;
        state.is_remembered.then(|| ReplayedBody {
            shared: self.0.clone(),
            turn: state.turn,
            next: 0,
        })
    }
}

impl Drop for BodyReplay {
    fn drop(&mut self) {
        self.0.lock().is_remembered = false;
    }
}

impl ReplayState {
    fn remember(&mut self, frame: &Frame<Bytes>) {
        self.bytes += frame.data_ref().map_or(0, Bytes::len);
        if self.bytes > MAX_REPLAYED_BYTES {
            self.is_remembered = false;
        } else {
            self.given.extend(GivenFrame::of(frame));
        }
    }
}

impl Body for ReplayedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { shared, turn, next } = &mut *self;
        let mut state = shared.lock();
        if state.turn != *turn {
            // Whoever asks has had its stream taken away.
            return Poll::Ready(None);
        }
        if let Some(frame) = state.given.get(*next).cloned() {
            *next += 1;
            return Poll::Ready(Some(Ok(frame.again())));
        }
        if !state.is_remembered {
            (state.given, *next) = (Vec::new(), 0);
        }
        let frame = ready!(Pin::new(&mut state.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && state.is_remembered
        {
            state.remember(frame);
            *next = state.given.len();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.lock();
        state.turn == self.turn && self.next >= state.given.len() && state.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.shared.lock();
        match state.given.is_empty() {
            true => state.body.size_hint(),
            false => SizeHint::default(),
        }
    }
}
