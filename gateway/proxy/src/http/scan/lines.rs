//! Lines of a head, of trailers and before a chunk: each ends with CR and LF and has no control byte.

use super::RequestFault;

/// Place in bytes that are read line by line. What it is given always begins at the same byte.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lines {
    /// Bytes that were looked at.
    looked: usize,
    /// Start of the line that they end in.
    start: usize,
    after_cr: bool,
}

/// Cause for which there is no next line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoLine {
    /// Its end has not come.
    Partial,
    /// There are more bytes than the limit, without an end.
    TooLong,
    Fault(RequestFault),
}

impl Lines {
    /// Bytes of all lines so far, with their ends.
    pub(super) fn length(&self) -> usize {
        self.start
    }

    /// Returns the next line without its end. The lines together, with their ends, have at most `limit` bytes.
    pub(super) fn next<'a>(&mut self, bytes: &'a [u8], limit: usize) -> Result<&'a [u8], NoLine> {
        let within = bytes.get(..limit).unwrap_or(bytes);
        loop {
            let rest = within.get(self.looked..).unwrap_or_default();
            if !self.after_cr {
                let plain = rest.iter().position(|byte| !PLAIN[usize::from(*byte)]);
                self.looked += plain.unwrap_or(rest.len());
            }
            let Some(byte) = within.get(self.looked) else {
                return Err(match bytes.len() > limit {
                    true => NoLine::TooLong,
                    false => NoLine::Partial,
                });
            };
            self.looked += 1;
            match (byte, self.after_cr) {
                (b'\n', true) => {
                    let line = within.get(self.start..self.looked - 2);
                    (self.start, self.after_cr) = (self.looked, false);
                    return Ok(line.unwrap_or_default());
                }
                (b'\r', false) => self.after_cr = true,
                (b'\r' | b'\n', _) | (_, true) => return Err(NoLine::Fault(RequestFault::LineEnd)),
                _ => return Err(NoLine::Fault(RequestFault::ControlByte)),
            }
        }
    }
}

/// Bytes that a line may have: blanks, tabs, what is visible, and what is beyond ASCII.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        plain[byte] = byte == 0x09 || (byte >= 0x20 && byte != 0x7f);
        byte += 1;
    }
    plain
};
