//! Bodies on their way: of a request to its instance, and of an answer to its client. Nothing is held back, and trailers go along.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use causeway_routing::outlier::TryFailure;
use causeway_telemetry::ConnectionOutcome;
use http::{HeaderMap, Version};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{
    expect::{ContinueWait, ContinueWord},
    record::RequestRecord,
    replay::{BodyReplay, ReplayedBody},
    sent::SentWhole,
    tee::{BodyTee, MirroredBody},
    unread::UnreadAnswer,
    upstream::HttpUpstream,
    upstream_io::CarriedBytes,
    watched::SharedClient,
};
use crate::http::{
    answer_fault::AnswerFault,
    grpc::grpc_trailers,
    trailers::strip_trailers,
    verdict::{TryVerdict, judge_trailers},
};

/// Reason that a body is not whole. One of HTTP/2 is found in it by hyper and passed on.
type BodyError = Box<dyn Error + Send + Sync>;

/// Body of a request, which says when all of it has been handed over.
#[derive(Debug)]
pub(super) struct RequestBody {
    source: BodySource,
    sent_all: SentWhole,
    /// Its client has broken it off.
    broken_off: Arc<AtomicBool>,
    /// Its client waits for `100 Continue`.
    waits: Option<ContinueWait>,
    /// The end of it is told by HTTP/2.
    is_version_2: bool,
    /// Counts its bytes, where the connection's are those of others too.
    bytes: Option<Arc<CarriedBytes>>,
    /// A copy of it is made.
    tee: Option<BodyTee>,
}

#[derive(Debug)]
enum BodySource {
    Empty,
    Client(Incoming),
    Replayed(ReplayedBody),
    /// A copy, of what another passes.
    Mirrored(MirroredBody),
}

/// Substitute for a body that was given in vain.
pub(super) enum SpareBody {
    Empty,
    Replay { replay: BodyReplay, is_version_2: bool },
}

impl SpareBody {
    /// Tells whether all that was sent is remembered.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Replay { replay, .. } => replay.is_whole(),
        }
    }

    /// The body once more; `None`: too much of it was sent.
    pub(super) fn again(self) -> Option<RequestBody> {
        match self {
            Self::Empty => Some(RequestBody::of(BodySource::Empty)),
            Self::Replay { replay, is_version_2 } => Some(RequestBody {
                is_version_2,
                ..RequestBody::of(BodySource::Replayed(replay.again()?))
            }),
        }
    }
}

impl RequestBody {
    fn of(source: BodySource) -> Self {
        Self {
            source,
            sent_all: SentWhole::default(),
            broken_off: Arc::default(),
            waits: None,
            is_version_2: false,
            bytes: None,
            tee: None,
        }
    }

    pub(super) fn empty() -> Self {
        Self::of(BodySource::Empty)
    }

    pub(super) fn mirrored(body: MirroredBody) -> Self {
        Self::of(BodySource::Mirrored(body))
    }

    /// Has a copy made of what passes.
    pub(super) fn is_copied_to(&mut self, tee: BodyTee) {
        self.tee = Some(tee);
    }

    /// Hands the copy what passes, and the end.
    fn copy(&mut self, frame: Option<&Result<Frame<Bytes>, hyper::Error>>) {
        let Some(mut tee) = self.tee.take() else { return };
        match frame {
            Some(Ok(frame)) => {
                tee.pass(frame);
                if frame.is_trailers() || self.is_end_stream() {
                    return tee.finish();
                }
                self.tee = Some(tee);
            }
            // One that was broken off drops it.
            Some(Err(_)) => {}
            None if self.is_version_2 && !self.is_end_stream() => {}
            None => tee.finish(),
        }
    }

    /// Body that came by `version` and is given once.
    pub(super) fn new(body: Incoming, version: Version) -> Self {
        Self {
            is_version_2: version == Version::HTTP_2,
            ..Self::of(BodySource::Client(body))
        }
    }

    /// Body that came by `version` and may be given again.
    pub(super) fn replayed(body: Incoming, version: Version) -> Self {
        Self {
            is_version_2: version == Version::HTTP_2,
            ..Self::of(match body.is_end_stream() {
                true => BodySource::Empty,
                false => BodySource::Replayed(ReplayedBody::new(body)),
            })
        }
    }

    /// Right to give it again; `None`: it can be given once.
    pub(super) fn spare(&self) -> Option<SpareBody> {
        match &self.source {
            BodySource::Replayed(body) => Some(SpareBody::Replay {
                replay: body.replay(),
                is_version_2: self.is_version_2,
            }),
            _ => self.is_end_stream().then_some(SpareBody::Empty),
        }
    }

    /// Has it wait until its instance asks for it.
    pub(super) fn wait(&mut self, wait: ContinueWait) {
        self.waits = Some(wait);
    }

    /// Tells later whether its client has broken it off, for which no instance is to blame.
    pub(super) fn broken_off(&self) -> Arc<AtomicBool> {
        self.broken_off.clone()
    }

    /// Has it say on `upstream` when all of it has been handed over.
    pub(super) fn goes_to(&mut self, upstream: &HttpUpstream) {
        self.sent_all = upstream.sent_all(self.is_end_stream());
        self.bytes = upstream.call_bytes().cloned();
    }

    /// Tells whether the rest of it is given to another instance.
    fn is_elsewhere(&self) -> bool {
        matches!(&self.source, BodySource::Replayed(body) if body.is_elsewhere())
    }

    fn note(&self) {
        if self.is_end_stream() {
            self.sent_all.done();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(wait) = &mut self.waits {
            match ready!(wait.poll(cx)) {
                ContinueWord::Go => self.waits = None,
                // Without it the client's connection closes after the answer, and this one is used for nothing else.
                ContinueWord::Answered => {
                    self.source = BodySource::Empty;
                    return Poll::Pending;
                }
            }
        }
        let mut frame = ready!(match &mut self.source {
            BodySource::Empty => return Poll::Ready(None),
            BodySource::Client(body) => Pin::new(body).poll_frame(cx),
            BodySource::Replayed(body) => Pin::new(body).poll_frame(cx),
            BodySource::Mirrored(body) => {
                let frame = ready!(body.poll_next(cx));
                return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
            }
        });
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            strip_trailers(trailers);
        }
        self.copy(frame.as_ref());
        if let (Some(bytes), Some(Ok(frame))) = (&self.bytes, &frame) {
            bytes.went_up(frame.data_ref().map_or(0, Bytes::len));
        }
        if self.is_version_2 && frame.is_none() && !self.is_end_stream() {
            self.broken_off.store(true, Ordering::Relaxed);
        }
        match &frame {
            // Hyper takes a stream that was reset without an error for one that has ended; and half a body that goes on elsewhere must not
            // look whole here.
            None if (self.is_version_2 && !self.is_end_stream()) || self.is_elsewhere() => {
                return Poll::Ready(Some(Err(BodyError::from(h2::Error::from(h2::Reason::CANCEL)))));
            }
            None => self.sent_all.done(),
            Some(Ok(frame)) if frame.is_trailers() => self.sent_all.done(),
            Some(Ok(_)) => self.note(),
            Some(Err(_)) => self.broken_off.store(true, Ordering::Relaxed),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        let is_over = match &self.source {
            BodySource::Empty => true,
            BodySource::Client(body) => body.is_end_stream(),
            BodySource::Replayed(body) => body.is_end_stream(),
            BodySource::Mirrored(_) => false,
        };
        is_over && self.waits.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Empty => SizeHint::with_exact(0),
            BodySource::Client(body) => body.size_hint(),
            BodySource::Replayed(body) => body.size_hint(),
            BodySource::Mirrored(body) => body.hint(),
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
    ending: BrokenEnding,
    upstream: Option<HttpUpstream>,
    ended: bool,
    broken: bool,
    /// A part of it has come.
    has_begun: bool,
    /// Account of what its client has not read; `None`: nothing of it waits here.
    unread: Option<UnreadAnswer>,
    record: RequestRecord,
}

/// Way to tell a client that its answer is not whole.
pub(super) enum BrokenEnding {
    /// A FIN could look like the end of the answer.
    Reset(SharedClient),
    /// The stream is reset, with the instance's reason if it gave one.
    Stream,
    /// A gRPC program is told in trailers, unless the instance itself has ended the call.
    Grpc,
}

impl BrokenEnding {
    fn end(&self, error: BodyError, outcome: ConnectionOutcome) -> Result<Frame<Bytes>, BodyError> {
        match self {
            Self::Reset(socket) => socket.reset_on_drop(),
            Self::Stream => {}
            Self::Grpc if is_stream_reset(&*error) => {}
            Self::Grpc => return Ok(Frame::trailers(grpc_trailers(outcome))),
        }
        Err(error)
    }
}

fn is_stream_reset(error: &(dyn Error + 'static)) -> bool {
    let error = error.source().and_then(|error| error.downcast_ref::<h2::Error>());
    error.is_some_and(h2::Error::is_reset)
}

impl ForwardedAnswer {
    pub(super) fn new(
        body: Incoming,
        ending: BrokenEnding,
        upstream: HttpUpstream,
        record: RequestRecord,
    ) -> Self {
        let connection = record.connection();
        let unread = match ending {
            BrokenEnding::Reset(_) => None,
            BrokenEnding::Stream | BrokenEnding::Grpc => Some(UnreadAnswer::new(
                connection.unread.clone(),
                connection.shared.unread.clone(),
            )),
        };
        Self {
            body,
            ending,
            unread,
            upstream: Some(upstream),
            ended: false,
            broken: false,
            has_begun: false,
            record,
        }
    }
}

impl ForwardedAnswer {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.broken {
            return Poll::Ready(None);
        }
        if self.unread.is_some() && self.upstream.is_some() && self.record.connection().is_cut() {
            let cut = BodyError::from(h2::Error::from(h2::Reason::CANCEL));
            return Poll::Ready(Some(self.breaks(cut, None)));
        }
        if let Some(unread) = &self.unread {
            ready!(unread.poll_room(cx));
        }
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            // As for requests.
            None if self.is_cut_short() => {
                Some(self.breaks(BodyError::from(h2::Error::from(h2::Reason::INTERNAL_ERROR)), None))
            }
            None => {
                self.ended = true;
                None
            }
            Some(Ok(frame)) => {
                self.ended |= frame.is_trailers();
                self.has_begun |= frame.data_ref().is_some_and(|data| !data.is_empty());
                if let Some(trailers) = frame.trailers_ref() {
                    self.record.tells_end(trailers);
                    self.judge(trailers);
                }
                let bytes = self.upstream.as_ref().and_then(HttpUpstream::call_bytes);
                if let (Some(bytes), Some(data)) = (bytes, frame.data_ref()) {
                    bytes.came_down(data.len());
                }
                Some(Ok(match &self.unread {
                    Some(unread) => frame.map_data(|data| unread.hold(data)),
                    None => frame,
                }))
            }
            Some(Err(error)) => {
                let fault = AnswerFault::of(&error);
                Some(self.breaks(error.into(), fault))
            }
        })
    }

    /// Tells those who choose how a call has ended.
    fn judge(&self, trailers: &HeaderMap) {
        if let (Some(upstream), Some(verdict)) = (&self.upstream, judge_trailers(trailers, self.has_begun)) {
            self.record.tell(&upstream.facts, verdict);
        }
    }

    fn is_cut_short(&self) -> bool {
        let upstream = self.upstream.as_ref();
        let is_version_2 = upstream.is_some_and(HttpUpstream::says_what_is_unread);
        is_version_2 && !self.ended && !self.body.is_end_stream()
    }

    fn breaks(&mut self, error: BodyError, fault: Option<AnswerFault>) -> Result<Frame<Bytes>, BodyError> {
        self.broken = true;
        let upstream = self.upstream.take();
        let outcome = upstream.map(|upstream| {
            let outcome = match fault {
                Some(fault) => self.record.faulty(&upstream, fault),
                None => self.record.broken(&upstream),
            };
            if fault.map_or(
                outcome == ConnectionOutcome::InstanceReset,
                AnswerFault::is_failure,
            ) {
                let verdict = TryVerdict::Failed(TryFailure::Reset);
                self.record.tell(&upstream.facts, verdict);
            }
            outcome
        });
        let ended = self
            .ending
            .end(error, outcome.unwrap_or(ConnectionOutcome::InstanceReset));
        if let Some(trailers) = ended.as_ref().ok().and_then(Frame::trailers_ref) {
            self.record.tells_end(trailers);
        }
        ended
    }
}

impl Drop for ForwardedAnswer {
    fn drop(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            match self.ended || self.body.is_end_stream() {
                true => self.record.served(upstream),
                false => self.record.left(&upstream),
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let answer = match &mut *self {
            Self::Own(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                return Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})));
            }
            Self::Forwarded(answer) => answer,
        };
        Poll::Ready(ready!(answer.poll_frame(cx)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Forwarded(answer) => answer.broken || answer.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Forwarded(answer) => answer.body.size_hint(),
        }
    }
}
