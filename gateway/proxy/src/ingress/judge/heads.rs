//! Requests of HTTP/1.1 on their way to an instance: whatever is permitted passes as it came, and what is not is answered in the
//! instance's place, after which nothing passes any more.
//!
//! A connection changes to another protocol with its first request or not at all, for then nothing but the answer to that comes from the
//! instance. The calling gateway asks for one thing after the other, so that the answer to what was refused comes when it is expected.
//! Of one that does not nothing can be said but that it gets nothing it may not have.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use causeway_telemetry::ConnectionOutcome;
use http::{HeaderValue, Response, header};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{JudgesRequests, head::JudgedHead};
use crate::{
    http::{
        answer::{own_answer, refusal},
        limits::{MAX_REFUSED_BYTES, PEER_SCAN_LIMITS},
        scan::{RequestFault, RequestScanner, ScannedPart},
    },
    open::UpgradeRequest,
    relay::{Reader, Socket},
};

/// Most bytes that wait while it is open whether they are HTTP.
const MAX_UNDECIDED_BYTES: usize = 8 * 1024;
/// Bytes of an answer that tell its status: `HTTP/1.1 101`.
const STATUS_BYTES: usize = 12;

/// An instance's socket that takes only requests which are permitted.
pub(super) struct JudgedSocket<S, J> {
    socket: S,
    requests: Mutex<JudgedStream<J>>,
}

/// Requests of one stream.
struct JudgedStream<J> {
    judge: J,
    scanner: RequestScanner,
    /// No request came before the next one, so that it is what the instance's next words answer. Nobody follows its answers from there on.
    is_unused: bool,
    /// Bytes that cannot pass before more have come.
    held: BytesMut,
    /// Bytes that may pass and that the instance has not taken.
    passed: BytesMut,
    /// The request that asks for another protocol last, and its answer.
    wish: Option<(UpgradeRequest, AnswerWatch)>,
    /// Answer in the place of the instance's, as far as it is not read; after it nothing passes.
    refusal: Option<Bytes>,
    thrown_away: usize,
    reader: Option<Waker>,
}

impl<S, J: JudgesRequests> JudgedSocket<S, J> {
    /// `is_unused`: no request went out on the socket before.
    pub(super) fn new(socket: S, judge: J, is_unused: bool) -> Self {
        let requests = Mutex::new(JudgedStream {
            judge,
            scanner: RequestScanner::new(PEER_SCAN_LIMITS),
            is_unused,
            held: BytesMut::new(),
            passed: BytesMut::new(),
            wish: None,
            refusal: None,
            thrown_away: 0,
            reader: None,
        });
        Self { socket, requests }
    }

    /// Tells whether no request is left on the socket that is not whole, was refused or has left HTTP.
    pub(super) fn is_whole(&self) -> bool {
        let requests = self.requests.lock();
        requests.refusal.is_none()
            && requests.held.is_empty()
            && requests.passed.is_empty()
            && requests.scanner.is_between()
    }

    pub(super) fn into_inner(self) -> S {
        self.socket
    }
}

impl<J: JudgesRequests> JudgedStream<J> {
    /// Looks at what is held, as far as can be said what it is.
    fn look(&mut self) -> io::Result<()> {
        while self.refusal.is_none() {
            if self.scanner.is_paused() {
                match self.wish.as_ref().and_then(|(_, answer)| answer.is_upgraded) {
                    None => return Ok(()),
                    Some(is_upgraded) => self.go_on(is_upgraded),
                }
            }
            let was_in_body = self.scanner.is_in_body();
            match self.scanner.next_part(&self.held) {
                ScannedPart::Head { length, may_upgrade } => self.head(length, may_upgrade),
                ScannedPart::Rest(length) => self.passed.unsplit(self.held.split_to(length)),
                ScannedPart::Nothing => return Ok(()),
                // The instance waits for the rest of what it has been given.
                ScannedPart::Fault(fault) if was_in_body => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, fault.text()));
                }
                ScannedPart::Fault(fault) => self.refuse(&refusal(fault), true),
            }
        }
        self.held.clear();
        Ok(())
    }

    fn go_on(&mut self, is_upgraded: bool) {
        if let Some((request, _)) = self.wish.take()
            && is_upgraded
        {
            self.judge.upgraded(request);
        }
        self.scanner.go_on(is_upgraded);
    }

    fn head(&mut self, length: usize, may_upgrade: bool) {
        let head = self.held.split_to(length);
        let judged = match JudgedHead::read(&head, self.judge.identity()) {
            // Bytes of an earlier answer would be taken for the one that agrees.
            Ok(_) if may_upgrade && !self.is_unused => Err(RequestFault::LateUpgrade),
            judged => judged,
        };
        self.is_unused = false;
        let JudgedHead { method, path } = match judged {
            Ok(judged) => judged,
            Err(fault) => return self.refuse(&refusal(fault), true),
        };
        match self.judge.judge(method, &path) {
            Ok(()) => {
                if may_upgrade {
                    let (method, path) = (method.to_owned(), path.into_owned());
                    self.wish = Some((UpgradeRequest { method, path }, AnswerWatch::default()));
                }
                self.passed.unsplit(head);
            }
            Err(outcome) => {
                let answer = match outcome {
                    ConnectionOutcome::BadRequest => refusal(RequestFault::Target),
                    outcome => own_answer(outcome),
                };
                self.refuse(&answer, method != "HEAD");
            }
        }
    }

    fn refuse(&mut self, answer: &Response<Bytes>, has_body: bool) {
        self.refusal = Some(written(answer, has_body));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Gives the instance what may pass.
    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.passed.is_empty() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.passed))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.passed.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// An answer as it goes over the wire, after which the connection closes.
fn written(answer: &Response<Bytes>, has_body: bool) -> Bytes {
    let mut text = format!("HTTP/1.1 {}\r\n", answer.status()).into_bytes();
    let length = HeaderValue::from(answer.body().len());
    let closing = HeaderValue::from_static("close");
    let own = [
        (&header::CONTENT_LENGTH, &length),
        (&header::CONNECTION, &closing),
    ];
    let theirs = answer.headers().iter();
    for (name, value) in theirs.filter(|(name, _)| **name != header::CONNECTION).chain(own) {
        text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend_from_slice(b"\r\n");
    if has_body {
        text.extend_from_slice(answer.body());
    }
    text.into()
}

/// Look at an instance's answer for whether it agrees to another protocol.
#[derive(Debug, Default)]
struct AnswerWatch {
    status: Vec<u8>,
    /// The line that is read has been empty so far, and was not the first.
    is_empty_line: bool,
    is_upgraded: Option<bool>,
}

impl AnswerWatch {
    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.is_upgraded.is_some() {
                return;
            }
            if self.status.len() < STATUS_BYTES {
                self.status.push(*byte);
                if self.status.len() == STATUS_BYTES {
                    self.is_upgraded = match self.status.as_slice() {
                        [b'H', b'T', b'T', b'P', b'/', .., b'1', b'0', b'1'] => Some(true),
                        // One before the answer.
                        [b'H', b'T', b'T', b'P', b'/', .., b'1', _, _] => None,
                        _ => Some(false),
                    };
                }
                continue;
            }
            match byte {
                b'\n' if self.is_empty_line => *self = Self::default(),
                b'\n' => self.is_empty_line = true,
                b'\r' => {}
                _ => self.is_empty_line = false,
            }
        }
    }
}

pub(super) struct JudgedReader<'a, R, J> {
    inner: R,
    requests: &'a Mutex<JudgedStream<J>>,
}

pub(super) struct JudgedWriter<'a, W, J> {
    inner: W,
    requests: &'a Mutex<JudgedStream<J>>,
}

impl<S: Socket, J: JudgesRequests> Socket for JudgedSocket<S, J> {
    type Reader<'a>
        = JudgedReader<'a, S::Reader<'a>, J>
    where
        Self: 'a;
    type Writer<'a>
        = JudgedWriter<'a, S::Writer<'a>, J>
    where
        Self: 'a;

    fn split(&mut self) -> (Self::Reader<'_>, Self::Writer<'_>) {
        let (reader, writer) = self.socket.split();
        let requests = &self.requests;
        (
            JudgedReader {
                inner: reader,
                requests,
            },
            JudgedWriter {
                inner: writer,
                requests,
            },
        )
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        self.socket.reset_on_drop()
    }
}

impl<R: Reader, J: JudgesRequests> Reader for JudgedReader<'_, R, J> {
    fn failed(&self) -> impl Future<Output = ()> + Send {
        self.inner.failed()
    }
}

impl<R: Reader, J: JudgesRequests> AsyncRead for JudgedReader<'_, R, J> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut requests = this.requests.lock();
        if let Some(refusal) = &mut requests.refusal {
            let count = refusal.len().min(buffer.remaining());
            buffer.put_slice(&refusal.split_to(count));
            return Poll::Ready(Ok(()));
        }
        requests.reader = Some(cx.waker().clone());
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        if let Some((_, answer)) = &mut requests.wish {
            answer.read(read);
            // One task reads and writes.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncWrite + Unpin, J: JudgesRequests> AsyncWrite for JudgedWriter<'_, W, J> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut requests = this.requests.lock();
        requests.look()?;
        ready!(requests.poll_drain(cx, &mut this.inner))?;
        if requests.refusal.is_some() {
            requests.thrown_away += bytes.len();
            return Poll::Ready(match requests.thrown_away > MAX_REFUSED_BYTES {
                true => Err(io::ErrorKind::InvalidData.into()),
                false => Ok(bytes.len()),
            });
        }
        // The reader wakes it once it is known what they are.
        if requests.scanner.is_paused() && requests.held.len() >= MAX_UNDECIDED_BYTES {
            return Poll::Pending;
        }
        requests.held.extend_from_slice(bytes);
        requests.look()?;
        if let Poll::Ready(drained) = requests.poll_drain(cx, &mut this.inner) {
            drained?;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut requests = this.requests.lock();
        requests.look()?;
        ready!(requests.poll_drain(cx, &mut this.inner))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.requests.lock().poll_drain(cx, &mut this.inner))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}
