//! A client's socket on its way to hyper, with the scan between them: a head reaches hyper whole, and only if there is one way to
//! read it.
//!
//! After what is no request a stand-in takes its place, so that hyper comes to it when those before it were answered, and
//! the gateway answers it with the fault. Within a body a fault fails the read, and with it the request.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use http::{Method, Request};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::http::{
    limits::SCAN_LIMITS,
    scan::{RequestFault, RequestScanner},
};

/// Request that stands where the faulty one was. The scan lets none pass that looks like it.
const STAND_IN: &[u8] = b"GET * HTTP/1.1\r\n\r\n";
/// Bytes that are read at a time while a part is held back.
const READ_BYTES: usize = 8 * 1024;

/// Tells whether hyper has come to the place of a faulty request.
pub(super) fn is_stand_in<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET && request.uri().path() == "*"
}

/// Findings about a client's bytes, for its requests and its task.
#[derive(Debug, Default)]
pub(super) struct RequestChecks {
    findings: Mutex<Findings>,
    reader: AtomicWaker,
}

#[derive(Debug, Clone, Copy, Default)]
struct Findings {
    fault: Option<RequestFault>,
    /// It is within the body of a request that hyper has.
    is_body_bad: bool,
    /// A part of a head has come, and is held back.
    holds_head: bool,
    is_late: bool,
    /// Requests that asked for another protocol and have ended, and after which nobody has read on.
    not_upgraded: u32,
    is_upgraded: bool,
}

impl RequestChecks {
    /// The fault that hyper was told of.
    pub(super) fn fault(&self) -> Option<RequestFault> {
        self.findings.lock().fault
    }

    /// Tells whether the body of the request under way turned bad.
    pub(super) fn is_body_bad(&self) -> bool {
        self.findings.lock().is_body_bad
    }

    pub(super) fn holds_head(&self) -> bool {
        self.findings.lock().holds_head
    }

    /// Refuses the head of which the rest has not come in time. `false`: none has begun.
    pub(super) fn refuse_slow(&self) -> bool {
        let mut findings = self.findings.lock();
        findings.is_late = findings.holds_head && findings.fault.is_none();
        let is_late = findings.is_late;
        drop(findings);
        self.reader.wake();
        is_late
    }

    /// A request that asked for another protocol has come to its end: the next bytes are a request, or are no HTTP.
    pub(super) fn decide(&self, is_upgraded: bool) {
        let mut findings = self.findings.lock();
        match is_upgraded {
            true => findings.is_upgraded = true,
            false => findings.not_upgraded += 1,
        }
        drop(findings);
        self.reader.wake();
    }

    /// Takes the decision on what comes after the request that was read last; `None`: there is none yet.
    fn decision(&self) -> Option<bool> {
        let mut findings = self.findings.lock();
        if findings.is_upgraded {
            return Some(true);
        }
        findings.not_upgraded = findings.not_upgraded.checked_sub(1)?;
        Some(false)
    }
}

/// Client of which only whole requests are read.
#[derive(Debug)]
pub(super) struct CheckedClient<S> {
    socket: S,
    checks: Arc<RequestChecks>,
    scanner: RequestScanner,
    /// Bytes that cannot pass before more have come.
    held: BytesMut,
    /// Bytes that have passed and are still to be read.
    passed: Bytes,
    end: CheckedEnd,
}

/// End of what is read of a client.
#[derive(Debug, Clone, Copy)]
enum CheckedEnd {
    NotYet,
    /// After what has passed comes a fault.
    Fault(RequestFault),
    /// Hyper was told.
    Told,
}

impl<S> CheckedClient<S> {
    pub(super) fn new(socket: S, checks: Arc<RequestChecks>) -> Self {
        Self {
            socket,
            checks,
            scanner: RequestScanner::new(SCAN_LIMITS),
            held: BytesMut::new(),
            passed: Bytes::new(),
            end: CheckedEnd::NotYet,
        }
    }

    /// Notes the end, if there is one, and what is held back until then.
    fn note(&mut self, fault: Option<RequestFault>) {
        if let Some(fault) = fault {
            self.end = CheckedEnd::Fault(fault);
            self.held = BytesMut::new();
        }
        let is_head = !self.scanner.is_in_body() && !self.scanner.is_paused();
        let holds_head = !self.held.is_empty() && is_head;
        self.checks.findings.lock().holds_head = holds_head;
    }

    /// Tells hyper of a fault: as a request in the place of the faulty one, or within a body as an error.
    fn tell(&mut self, fault: RequestFault) -> io::Result<()> {
        self.end = CheckedEnd::Told;
        let in_body = self.scanner.is_in_body();
        let mut findings = self.checks.findings.lock();
        (findings.fault, findings.is_body_bad) = (Some(fault), in_body);
        drop(findings);
        if in_body {
            return Err(io::Error::new(io::ErrorKind::InvalidData, fault.text()));
        }
        self.passed = Bytes::from_static(STAND_IN);
        Ok(())
    }

    fn is_late(&self, cx: &Context<'_>) -> bool {
        if self.held.is_empty() || self.scanner.is_paused() {
            return false;
        }
        self.checks.reader.register(cx.waker());
        self.checks.findings.lock().is_late
    }

    /// Tells whether it is still open what the next bytes are; once it is not, they are looked at.
    fn waits_for_decision(&mut self, cx: &Context<'_>) -> bool {
        if !self.scanner.is_paused() {
            return false;
        }
        self.checks.reader.register(cx.waker());
        let Some(is_upgraded) = self.checks.decision() else {
            return true;
        };
        self.scanner.go_on(is_upgraded);
        self.look();
        false
    }

    /// Looks at what is held.
    fn look(&mut self) {
        let scanned = self.scanner.scan(&self.held);
        self.passed = self.held.split_to(scanned.passed).freeze();
        self.note(scanned.fault);
    }
}

impl<S: AsyncRead + Unpin> CheckedClient<S> {
    /// Reads and scans. `true`: nothing more comes.
    fn poll_scan(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        if !self.held.is_empty() {
            self.held.reserve(READ_BYTES);
            let read = ready!(poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.held))?;
            self.look();
            return Poll::Ready(Ok(read == 0));
        }
        // Nothing is copied as long as requests come whole.
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        let is_end = read.is_empty();
        let scanned = self.scanner.scan(read);
        let (_, held) = read.split_at(scanned.passed);
        self.held.extend_from_slice(held);
        buffer.set_filled(before + scanned.passed);
        self.note(scanned.fault);
        Poll::Ready(Ok(is_end))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CheckedClient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        loop {
            if !this.passed.is_empty() {
                let count = this.passed.len().min(buffer.remaining());
                buffer.put_slice(&this.passed.split_to(count));
                return Poll::Ready(Ok(()));
            }
            // Meanwhile it is read from, for its end to be seen, but not for ever.
            let is_full = this.waits_for_decision(cx) && this.held.len() >= READ_BYTES;
            match this.end {
                CheckedEnd::NotYet if is_full => return Poll::Pending,
                CheckedEnd::NotYet if !this.passed.is_empty() => {}
                CheckedEnd::NotYet if this.is_late(cx) => this.end = CheckedEnd::Fault(RequestFault::Slow),
                CheckedEnd::NotYet => {
                    let is_end = ready!(this.poll_scan(cx, buffer))?;
                    if is_end || buffer.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                }
                CheckedEnd::Fault(fault) => this.tell(fault)?,
                // The answer closes the connection, and nothing is read after it.
                CheckedEnd::Told => return Poll::Pending,
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CheckedClient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn checked() -> (DuplexStream, CheckedClient<DuplexStream>, Arc<RequestChecks>) {
        let (client, server) = duplex(1024);
        let checks = Arc::<RequestChecks>::default();
        let reading = CheckedClient::new(server, checks.clone());
        (client, reading, checks)
    }

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    #[tokio::test]
    async fn a_head_is_read_whole_however_it_comes() {
        let (mut client, mut reading, checks) = checked();
        let sending = tokio::spawn(async move {
            for byte in HEAD {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            client
        });
        let mut buffer = [0; 1024];
        let read = reading.read(&mut buffer).await.unwrap();
        assert_eq!(buffer.get(..read), Some(HEAD));
        assert!(!checks.holds_head() && checks.fault().is_none());
        drop(sending.await.unwrap());
        assert_eq!(reading.read(&mut buffer).await.unwrap(), 0, "its end passes");
    }

    #[tokio::test]
    async fn a_head_passes_in_the_pieces_that_its_reader_has_room_for() {
        let (mut client, mut reading, _) = checked();
        client.write_all(&HEAD[..5]).await.unwrap();
        let mut piece = [0; 7];
        let first = tokio::spawn(async move {
            let mut all = Vec::new();
            while all.len() < HEAD.len() {
                let read = reading.read(&mut piece).await.unwrap();
                all.extend_from_slice(&piece[..read]);
            }
            all
        });
        client.write_all(&HEAD[5..]).await.unwrap();
        assert_eq!(first.await.unwrap(), HEAD);
    }

    #[tokio::test]
    async fn a_stand_in_comes_after_what_is_good_and_nothing_after_it() {
        let (mut client, mut reading, checks) = checked();
        client.write_all(HEAD).await.unwrap();
        client.write_all(b"GET /\n").await.unwrap();
        let mut all = vec![0; HEAD.len() + STAND_IN.len()];
        reading.read_exact(&mut all).await.unwrap();
        assert_eq!(all, [HEAD, STAND_IN].concat());
        assert_eq!(checks.fault(), Some(RequestFault::LineEnd));
        assert!(!checks.is_body_bad());
        client.write_all(HEAD).await.unwrap();
        let more = futures_util::poll!(std::pin::pin!(reading.read(&mut all)));
        assert!(more.is_pending());
    }

    #[tokio::test]
    async fn a_fault_in_a_body_fails_its_read() {
        let (mut client, mut reading, checks) = checked();
        let head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(head).await.unwrap();
        client.write_all(b"1\r\nx\r\n+1\r\n").await.unwrap();
        let mut all = Vec::new();
        let error = reading.read_to_end(&mut all).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(all.ends_with(b"\r\n\r\n1\r\nx\r\n"));
        assert!(checks.is_body_bad());
    }

    #[tokio::test]
    async fn a_head_whose_rest_does_not_come_is_refused_when_it_is_due() {
        let (mut client, mut reading, checks) = checked();
        assert!(!checks.refuse_slow(), "none has begun");
        client.write_all(&HEAD[..9]).await.unwrap();
        let mut buffer = [0; 1024];
        let mut first = Box::pin(reading.read(&mut buffer));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(checks.holds_head() && checks.refuse_slow());
        let read = first.await.unwrap();
        assert_eq!(buffer.get(..read), Some(STAND_IN));
        assert_eq!(checks.fault(), Some(RequestFault::Slow));
    }

    #[test]
    fn the_scan_lets_no_request_pass_that_looks_like_the_stand_in() {
        let scanned = RequestScanner::new(SCAN_LIMITS).scan(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((scanned.passed, scanned.fault), (0, Some(RequestFault::Target)));
        assert_eq!(RequestScanner::new(SCAN_LIMITS).scan(STAND_IN).passed, 0);
        let request = Request::get("*").body(()).unwrap();
        assert!(is_stand_in(&request));
    }
}
