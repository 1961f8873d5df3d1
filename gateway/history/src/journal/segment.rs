//! One part of a journal, and all of them as readers see them.

use std::{
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};

use super::LineKey;

/// Lines that follow each other.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(super) body: Body,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Milliseconds since 1970 of its oldest and newest line.
    pub(crate) oldest: u64,
    pub(crate) newest: u64,
    /// Those that are lines; more may be on their way.
    pub(super) bytes: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    File(PathBuf),
    Memory(Arc<RwLock<Vec<u8>>>),
}

impl Segment {
    pub(super) fn in_file(path: PathBuf, key: LineKey) -> Self {
        Self::empty(Body::File(path), key)
    }

    pub(super) fn in_memory(key: LineKey) -> Self {
        Self::empty(Body::Memory(Arc::default()), key)
    }

    fn empty(body: Body, key: LineKey) -> Self {
        Self {
            body,
            first: key.id,
            last: key.id,
            oldest: key.at,
            newest: key.at,
            bytes: 0,
        }
    }

    /// The segment with one more line, of so many bytes.
    pub(super) fn with(self, key: LineKey, bytes: u64) -> Self {
        Self {
            last: key.id,
            oldest: self.oldest.min(key.at),
            newest: self.newest.max(key.at),
            bytes: self.bytes + bytes,
            ..self
        }
    }

    pub(super) fn is_in_file(&self) -> bool {
        matches!(self.body, Body::File(_))
    }

    /// Removes its file. What cannot be removed now is found again at the next start.
    pub(super) fn remove(self) {
        if let Body::File(path) = self.body
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::debug!(%error, path = %path.display(), "an old part of the history is still there");
        }
    }

    /// Reads all of its lines.
    ///
    /// # Errors
    /// The file cannot be read; [`io::ErrorKind::NotFound`] if it was dropped meanwhile.
    pub(crate) fn read(&self) -> io::Result<String> {
        let mut text = Vec::new();
        match &self.body {
            Body::File(path) => {
                File::open(path)?.take(self.bytes).read_to_end(&mut text)?;
            }
            Body::Memory(held) => {
                let held = held.read();
                let end = usize::try_from(self.bytes).map_or(held.len(), |end| end.min(held.len()));
                text.extend_from_slice(&held[..end]);
            }
        }
        String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// The segments of a journal, oldest first. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Vec<Segment>>>);

impl Shelf {
    /// The segments as they are now; what is appended later is in none of them.
    pub(crate) fn list(&self) -> Vec<Segment> {
        self.0.lock().clone()
    }

    /// First and last id, if there is any.
    pub(crate) fn ids(&self) -> Option<(u64, u64)> {
        let segments = self.0.lock();
        let held = || segments.iter().filter(|segment| segment.bytes > 0);
        Some((held().next()?.first, held().next_back()?.last))
    }

    pub(super) fn replace(&self, segments: Vec<Segment>) {
        *self.0.lock() = segments;
    }

    /// A copy of the last one.
    pub(super) fn last(&self) -> Option<Segment> {
        self.0.lock().last().cloned()
    }

    /// Puts a segment in the place of the one with the same first id, or behind all.
    pub(super) fn put(&self, segment: Segment) {
        let mut segments = self.0.lock();
        match segments
            .iter_mut()
            .rev()
            .find(|other| other.first == segment.first)
        {
            Some(place) => *place = segment,
            None => segments.push(segment),
        }
    }

    pub(super) fn bytes_in_memory(&self) -> u64 {
        let segments = self.0.lock();
        let in_memory = segments.iter().filter(|segment| !segment.is_in_file());
        in_memory.map(|segment| segment.bytes).sum()
    }

    /// Takes out the oldest ones until none is older than `oldest` and all have no more than `limit` bytes. One stays.
    pub(super) fn drop_oldest(&self, oldest: u64, limit: u64) -> Vec<Segment> {
        let mut segments = self.0.lock();
        let mut bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let mut count = 0;
        while count + 1 < segments.len() && (bytes > limit || segments[count].newest < oldest) {
            bytes -= segments[count].bytes;
            count += 1;
        }
        segments.drain(..count).collect()
    }
}
