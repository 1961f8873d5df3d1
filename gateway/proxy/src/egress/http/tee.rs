//! The body of a copy: what passes of the body of its request, as long as the copy keeps up. Nothing here makes the request wait.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::http::limits::MAX_MIRROR_LAG_BYTES;

/// Most parts of a body that wait for its copy.
const MAX_PARTS: usize = 256;

#[derive(Debug)]
enum CopiedPart {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Debug, Default)]
struct TeeState {
    waiting: AtomicUsize,
    /// All of it has passed.
    is_whole: AtomicBool,
}

/// End at which the body of the request passes.
#[derive(Debug)]
pub(super) struct BodyTee {
    /// `None`: the copy has all of it, or was given up.
    parts: Option<mpsc::Sender<CopiedPart>>,
    state: Arc<TeeState>,
}

/// End at which the copy is given it.
#[derive(Debug)]
pub(super) struct MirroredBody {
    parts: mpsc::Receiver<CopiedPart>,
    state: Arc<TeeState>,
    hint: SizeHint,
}

impl BodyTee {
    /// Takes over what passes, if the copy has room for it; if not, there is no copy of it.
    pub(super) fn pass(&mut self, frame: &Frame<Bytes>) {
        let Some(parts) = &self.parts else { return };
        let (part, bytes) = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => (CopiedPart::Data(data.clone()), data.len()),
            (None, Some(trailers)) => (CopiedPart::Trailers(trailers.clone()), 0),
            (None, None) => return,
        };
        let waiting = self.state.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if waiting > MAX_MIRROR_LAG_BYTES || parts.try_send(part).is_err() {
            self.parts = None;
        }
    }

    /// All of it has passed.
    pub(super) fn finish(&mut self) {
        if self.parts.is_some() {
            self.state.is_whole.store(true, Ordering::Release);
            self.parts = None;
        }
    }
}

impl MirroredBody {
    /// A body of this size.
    pub(super) fn of(hint: SizeHint) -> (Self, BodyTee) {
        let (sender, receiver) = mpsc::channel(MAX_PARTS);
        let state = Arc::<TeeState>::default();
        let tee = BodyTee {
            parts: Some(sender),
            state: state.clone(),
        };
        let parts = receiver;
        (Self { parts, state, hint }, tee)
    }

    pub(super) fn hint(&self) -> SizeHint {
        self.hint
    }

    /// The next of it; an error: the copy is given up, and half a body must not look whole.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = match ready!(Pin::new(&mut self.parts).poll_recv(cx)) {
            Some(CopiedPart::Data(data)) => {
                self.state.waiting.fetch_sub(data.len(), Ordering::Relaxed);
                Frame::data(data)
            }
            Some(CopiedPart::Trailers(trailers)) => Frame::trailers(trailers),
            None if self.state.is_whole.load(Ordering::Acquire) => return Poll::Ready(None),
            None => return Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into()))),
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn next(body: &mut MirroredBody) -> Poll<Option<io::Result<Bytes>>> {
        let polled = body.poll_next(&mut Context::from_waker(Waker::noop()));
        polled.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default())))
    }

    fn data(bytes: usize) -> Frame<Bytes> {
        Frame::data(Bytes::from(vec![7; bytes]))
    }

    #[test]
    fn what_passes_comes_out_and_ends_where_it_ended() {
        let (mut body, mut tee) = MirroredBody::of(SizeHint::default());
        assert!(next(&mut body).is_pending());
        tee.pass(&data(3));
        tee.pass(&data(4));
        tee.finish();
        let lengths: Vec<_> = std::iter::from_fn(|| match next(&mut body) {
            Poll::Ready(Some(Ok(data))) => Some(data.len()),
            _ => None,
        })
        .collect();
        assert_eq!(lengths, [3, 4]);
        assert!(matches!(next(&mut body), Poll::Ready(None)));
    }

    #[test]
    fn a_copy_that_does_not_keep_up_or_is_cut_short_is_broken_off() {
        let (mut body, mut tee) = MirroredBody::of(SizeHint::default());
        tee.pass(&data(MAX_MIRROR_LAG_BYTES));
        tee.pass(&data(1));
        tee.finish();
        assert!(matches!(next(&mut body), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(next(&mut body), Poll::Ready(Some(Err(_)))));
        let (mut body, tee) = MirroredBody::of(SizeHint::default());
        drop(tee);
        assert!(matches!(next(&mut body), Poll::Ready(Some(Err(_)))));
        // Whoever keeps up may have more than that in all.
        let (mut body, mut tee) = MirroredBody::of(SizeHint::default());
        for _ in 0..3 {
            tee.pass(&data(MAX_MIRROR_LAG_BYTES));
            assert!(matches!(next(&mut body), Poll::Ready(Some(Ok(_)))));
        }
        tee.finish();
        assert!(matches!(next(&mut body), Poll::Ready(None)));
    }
}
