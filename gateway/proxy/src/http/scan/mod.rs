//! Scan of a client's bytes before HTTP is read from them: where each request ends, and that there is one way to read it.
//!
//! It is stricter than the parser behind it: whatever two programs could read differently is a fault. It only looks: bytes that
//! may pass go on unchanged, and a head passes whole or not at all. Pure, and nothing but the standard library, so that the fuzz
//! targets can include it.

mod chunks;
mod fault;
mod head;
mod lines;
pub(crate) mod names;
pub(crate) mod trailers;

pub(crate) use fault::RequestFault;
#[allow(
    unused_imports,
    reason = "the fuzz targets, which include these files, have no HTTP/2"
)]
pub(crate) use head::{is_host, is_target, is_token, method_fault};

use chunks::{ChunkStep, Chunks};
use head::{BodyFraming, HeadFacts};
use lines::{Lines, NoLine};

/// Limits of what is scanned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScanLimits {
    /// Longest head in bytes.
    pub(crate) head_bytes: usize,
    /// Most fields of a head, and of trailers.
    pub(crate) fields: usize,
    /// Longest trailers in bytes.
    pub(crate) trailer_bytes: usize,
    /// Longest line before a chunk in bytes.
    pub(crate) chunk_line_bytes: usize,
    /// Most bytes of chunk extensions in a body.
    pub(crate) extension_bytes: usize,
}

/// Scanner of one client's bytes, from its first to its last.
#[derive(Debug)]
pub(crate) struct RequestScanner {
    limits: ScanLimits,
    place: ScanPlace,
    heads: u64,
    /// The request that is looked at asks for another protocol.
    may_upgrade: bool,
}

#[derive(Debug, Clone, Copy)]
enum ScanPlace {
    Head {
        lines: Lines,
        facts: HeadFacts,
        /// An empty line came before it, as some clients send one after a body.
        after_empty: bool,
    },
    Body(u64),
    Chunks(Chunks),
    /// The answer to the last request decides what the next bytes are.
    Paused,
    /// They are no HTTP any more.
    Opaque,
    Fault {
        fault: RequestFault,
        in_body: bool,
    },
}

impl ScanPlace {
    fn next_head() -> Self {
        Self::Head {
            lines: Lines::default(),
            facts: HeadFacts::default(),
            after_empty: false,
        }
    }
}

/// Result of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Bytes that may pass. What comes after them is to be given again, with more.
    pub(crate) passed: usize,
    /// Fault of what comes after them, of which nothing may pass.
    pub(crate) fault: Option<RequestFault>,
}

/// Next part of what is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScannedPart {
    /// A whole head, which may pass.
    Head {
        length: usize,
        /// The connection may change to another protocol after it.
        may_upgrade: bool,
    },
    /// Bytes of a body, or of another protocol, which may pass.
    Rest(usize),
    /// Nothing may pass before more has come, or before it is known what comes next.
    Nothing,
    Fault(RequestFault),
}

/// Progress of a scan by one step.
enum Step {
    Passed(usize),
    Partial,
    Fault(RequestFault),
}

impl RequestScanner {
    pub(crate) fn new(limits: ScanLimits) -> Self {
        Self {
            limits,
            place: ScanPlace::next_head(),
            heads: 0,
            may_upgrade: false,
        }
    }

    /// Heads that have passed.
    #[cfg_attr(
        not(test),
        allow(dead_code, reason = "only tests and fuzz targets count them")
    )]
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// Tells whether the place is within a body, whose head has passed. A fault keeps the place where it was found.
    pub(crate) fn is_in_body(&self) -> bool {
        match self.place {
            ScanPlace::Head { .. } | ScanPlace::Paused | ScanPlace::Opaque => false,
            ScanPlace::Body(_) | ScanPlace::Chunks(_) => true,
            ScanPlace::Fault { in_body, .. } => in_body,
        }
    }

    /// Tells whether nothing passes until it is known what the next bytes are.
    pub(crate) fn is_paused(&self) -> bool {
        matches!(self.place, ScanPlace::Paused)
    }

    /// Tells whether nothing of a request has been looked at since the last one ended.
    pub(crate) fn is_between(&self) -> bool {
        match &self.place {
            ScanPlace::Head {
                lines, after_empty, ..
            } => lines.length() == 0 && !after_empty,
            _ => false,
        }
    }

    /// Goes on after a pause: with the next request, or with bytes that are no HTTP.
    pub(crate) fn go_on(&mut self, is_upgraded: bool) {
        if self.is_paused() {
            self.place = match is_upgraded {
                true => ScanPlace::Opaque,
                false => ScanPlace::next_head(),
            };
        }
    }

    fn after_request(&self) -> ScanPlace {
        match self.may_upgrade {
            true => ScanPlace::Paused,
            false => ScanPlace::next_head(),
        }
    }

    /// Looks at bytes: those that did not pass last time, and whatever has come since.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut passed = 0;
        let fault = loop {
            match self.next_part(bytes.get(passed..).unwrap_or_default()) {
                ScannedPart::Head { length, .. } | ScannedPart::Rest(length) => passed += length,
                ScannedPart::Nothing => break None,
                ScannedPart::Fault(fault) => break Some(fault),
            }
        };
        Scanned { passed, fault }
    }

    /// Looks at bytes as [`RequestScanner::scan`] does, up to the end of a head or of what else there is of one kind.
    pub(crate) fn next_part(&mut self, bytes: &[u8]) -> ScannedPart {
        let is_head = matches!(self.place, ScanPlace::Head { .. });
        match self.step(bytes) {
            Step::Passed(length) if is_head => ScannedPart::Head {
                length,
                may_upgrade: self.may_upgrade,
            },
            Step::Passed(length) => ScannedPart::Rest(length),
            Step::Partial => ScannedPart::Nothing,
            Step::Fault(fault) => {
                let in_body = self.is_in_body();
                self.place = ScanPlace::Fault { fault, in_body };
                ScannedPart::Fault(fault)
            }
        }
    }

    fn step(&mut self, bytes: &[u8]) -> Step {
        match &mut self.place {
            ScanPlace::Head { .. } => match self.head(bytes) {
                Ok(Some((length, framing))) => {
                    self.heads += 1;
                    self.place = match framing {
                        BodyFraming::Bytes(0) => self.after_request(),
                        BodyFraming::Bytes(length) => ScanPlace::Body(length),
                        BodyFraming::Chunked => ScanPlace::Chunks(Chunks::new()),
                    };
                    Step::Passed(length)
                }
                Ok(None) => Step::Partial,
                Err(fault) => Step::Fault(fault),
            },
            ScanPlace::Body(left) => {
                let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(*left);
                *left -= here;
                match (*left, here) {
                    (0, _) => self.place = self.after_request(),
                    (_, 0) => return Step::Partial,
                    _ => {}
                }
                Step::Passed(usize::try_from(here).unwrap_or(bytes.len()))
            }
            ScanPlace::Chunks(chunks) => match chunks.step(bytes, &self.limits) {
                Ok(Some(ChunkStep { passed, is_end })) => {
                    if is_end {
                        self.place = self.after_request();
                    }
                    Step::Passed(passed)
                }
                Ok(None) => Step::Partial,
                Err(fault) => Step::Fault(fault),
            },
            ScanPlace::Paused => Step::Partial,
            ScanPlace::Opaque if bytes.is_empty() => Step::Partial,
            ScanPlace::Opaque => Step::Passed(bytes.len()),
            ScanPlace::Fault { fault, .. } => Step::Fault(*fault),
        }
    }

    /// Takes up the lines of a head. Returns its length once it is whole.
    fn head(&mut self, bytes: &[u8]) -> Result<Option<(usize, BodyFraming)>, RequestFault> {
        let ScanPlace::Head {
            lines,
            facts,
            after_empty,
        } = &mut self.place
        else {
            return Ok(None);
        };
        loop {
            let line = match lines.next(bytes, self.limits.head_bytes) {
                Ok(line) => line,
                Err(NoLine::Partial) => return Ok(None),
                Err(NoLine::TooLong) => {
                    return Err(match facts.has_request_line() {
                        true => RequestFault::HeadTooLong,
                        false => RequestFault::TargetTooLong,
                    });
                }
                Err(NoLine::Fault(fault)) => return Err(fault),
            };
            match (facts.has_request_line(), line.is_empty()) {
                (true, true) => {
                    self.may_upgrade = facts.may_upgrade();
                    return Ok(Some((lines.length(), facts.end()?)));
                }
                (true, false) => facts.field(line, self.limits.fields)?,
                (false, false) => facts.request_line(line)?,
                (false, true) if std::mem::replace(after_empty, true) => {
                    return Err(RequestFault::EmptyLines);
                }
                (false, true) => {}
            }
        }
    }
}
