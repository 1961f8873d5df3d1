//! A body in chunks, to the end of its trailers.

use super::{
    RequestFault, ScanLimits,
    head::{field_of, is_token},
    lines::{Lines, NoLine},
    trailers::may_trail,
};

/// Most hexadecimal digits of a chunk's size: what every recipient can hold in 64 bits with a sign.
const MAX_SIZE_DIGITS: usize = 15;

/// Place in a body that comes in chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunks {
    place: ChunkPlace,
    /// Bytes of extensions so far.
    extensions: usize,
    /// Trailers so far.
    trailers: usize,
}

#[derive(Debug, Clone, Copy)]
enum ChunkPlace {
    Size(Lines),
    Data(u64),
    DataEnd,
    Trailers(Lines),
}

/// Part of the bytes given that may pass, and whether the body ends with it.
pub(super) struct ChunkStep {
    pub(super) passed: usize,
    pub(super) is_end: bool,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            place: ChunkPlace::Size(Lines::default()),
            extensions: 0,
            trailers: 0,
        }
    }

    /// Takes one step. `None`: more bytes are needed for it.
    pub(super) fn step(
        &mut self,
        bytes: &[u8],
        limits: &ScanLimits,
    ) -> Result<Option<ChunkStep>, RequestFault> {
        let (passed, next) = match &mut self.place {
            ChunkPlace::Size(lines) => {
                let line = match lines.next(bytes, limits.chunk_line_bytes) {
                    Ok(line) => line,
                    Err(NoLine::Partial) => return Ok(None),
                    Err(NoLine::TooLong) => return Err(RequestFault::ChunkExtension),
                    Err(NoLine::Fault(fault)) => return Err(fault),
                };
                let (size, extensions) = size_of(line)?;
                let passed = lines.length();
                self.extensions += extensions;
                if self.extensions > limits.extension_bytes {
                    return Err(RequestFault::ChunkExtension);
                }
                let next = match size {
                    0 => ChunkPlace::Trailers(Lines::default()),
                    _ => ChunkPlace::Data(size),
                };
                (passed, next)
            }
            ChunkPlace::Data(left) => {
                let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(*left);
                if here == 0 {
                    return Ok(None);
                }
                *left -= here;
                let next = match *left {
                    0 => ChunkPlace::DataEnd,
                    left => ChunkPlace::Data(left),
                };
                (usize::try_from(here).unwrap_or(bytes.len()), next)
            }
            ChunkPlace::DataEnd => match bytes {
                [b'\r', b'\n', ..] => (2, ChunkPlace::Size(Lines::default())),
                [] | [b'\r'] => return Ok(None),
                _ => return Err(RequestFault::ChunkEnd),
            },
            ChunkPlace::Trailers(_) => return self.trailers(bytes, limits),
        };
        self.place = next;
        Ok(Some(ChunkStep {
            passed,
            is_end: false,
        }))
    }

    fn trailers(&mut self, bytes: &[u8], limits: &ScanLimits) -> Result<Option<ChunkStep>, RequestFault> {
        let ChunkPlace::Trailers(lines) = &mut self.place else {
            return Ok(None);
        };
        loop {
            let line = match lines.next(bytes, limits.trailer_bytes) {
                Ok(line) => line,
                Err(NoLine::Partial) => return Ok(None),
                Err(NoLine::TooLong) => return Err(RequestFault::TrailersTooLong),
                Err(NoLine::Fault(fault)) => return Err(fault),
            };
            if line.is_empty() {
                let passed = lines.length();
                return Ok(Some(ChunkStep { passed, is_end: true }));
            }
            let (name, _) = field_of(line)?;
            if !may_trail(name) {
                return Err(RequestFault::Trailer);
            }
            self.trailers += 1;
            if self.trailers > limits.fields {
                return Err(RequestFault::TooManyFields);
            }
        }
    }
}

/// Size of a chunk and the bytes of its extensions.
fn size_of(line: &[u8]) -> Result<(u64, usize), RequestFault> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extensions) = line.split_at(digits);
    if !(1..=MAX_SIZE_DIGITS).contains(&digits) {
        return Err(RequestFault::ChunkSize);
    }
    match extensions {
        [] => {}
        [b';', name @ ..] => {
            let name = name.split(|byte| matches!(byte, b'=' | b';')).next();
            if !name.is_some_and(is_token) {
                return Err(RequestFault::ChunkExtension);
            }
        }
        _ => return Err(RequestFault::ChunkSize),
    }
    let text = std::str::from_utf8(size).unwrap_or_default();
    let size = u64::from_str_radix(text, 16).map_err(|_| RequestFault::ChunkSize)?;
    Ok((size, extensions.len()))
}
