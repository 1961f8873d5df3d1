//! Lines that are appended, in segments of an hour or of some megabytes: files, or memory where nothing is kept or the disk takes
//! nothing. The oldest segments go, by age and by size; a segment that holds something else than lines is set aside, never deleted.

mod folder;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    time::Duration,
};

use causeway_host::files::PRIVATE;

pub(crate) use segment::{Segment, Shelf};

pub(crate) use folder::SegmentSetAside;
use segment::Body;

/// Time that one segment is of, in milliseconds.
const SEGMENT_MILLISECONDS: u64 = 60 * 60 * 1_000;
/// Parts of the limit that one segment may be, so that what goes at once is little.
const PARTS: u64 = 16;
/// Smallest and largest limit of a segment, in bytes; a reader has one of them in memory.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 16 * 1024..=4 * 1024 * 1024;
/// Bytes that are kept in memory while the disk takes nothing.
const WAITING_BYTES: u64 = 1024 * 1024;

/// Place of a line in its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineKey {
    /// Counts up from line to line.
    pub(crate) id: u64,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
}

/// Settings of one journal.
#[derive(Debug, Clone)]
pub(crate) struct JournalConfig {
    /// First part of the names of its files.
    pub(crate) name: &'static str,
    /// `None`: it is kept in memory alone.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) limit_bytes: u64,
    pub(crate) keep: Duration,
    /// Reads the key of a line; `None`: it is no line of this journal.
    pub(crate) key: fn(&str) -> Option<LineKey>,
}

/// A journal that is written to. It is the only one with its files.
#[derive(Debug)]
pub(crate) struct Journal {
    config: JournalConfig,
    shelf: Shelf,
    /// Of the last segment, where that is a file.
    file: Option<File>,
    last_id: u64,
}

/// Reason why a line was not kept on disk.
#[derive(Debug)]
pub(crate) enum NotKept {
    /// It waits in memory until the disk takes it.
    Waiting(io::Error),
    /// There is no more room for what waits.
    Lost,
}

impl Journal {
    /// Goes on with what is in the folder.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub(crate) fn open(
        config: JournalConfig,
        shelf: Shelf,
        unix_seconds: u64,
    ) -> io::Result<(Self, Vec<SegmentSetAside>)> {
        let mut journal = Self::in_memory(config, shelf);
        let Some(folder) = &journal.config.folder else {
            return Ok((journal, Vec::new()));
        };
        let found = folder::read(folder, &journal.config, unix_seconds)?;
        journal.last_id = found.last_id;
        journal.shelf.replace(found.segments);
        Ok((journal, found.set_aside))
    }

    /// Begins with nothing.
    pub(crate) fn in_memory(config: JournalConfig, shelf: Shelf) -> Self {
        Self {
            config,
            shelf,
            file: None,
            last_id: 0,
        }
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// Adds a line, which has no end of line in it.
    pub(crate) fn append(&mut self, key: LineKey, line: &str) -> Result<(), NotKept> {
        self.last_id = self.last_id.max(key.id);
        let bytes = line.len() as u64 + 1;
        self.drop_old(key.at, bytes);
        let last = self.shelf.last().filter(|last| self.takes(last, key, bytes));
        if last.is_none() {
            self.file = None;
        }
        let failure = match last {
            None if self.config.folder.is_some() && !self.is_waiting() => match self.begin_file(key) {
                Ok(begun) => match self.write(begun, key, line) {
                    Ok(()) => return Ok(()),
                    Err(error) => Some(error),
                },
                Err(error) => Some(error),
            },
            Some(last) if last.is_in_file() => match self.write(last, key, line) {
                Ok(()) => return Ok(()),
                Err(error) => Some(error),
            },
            Some(last) => return self.remember(last, key, line, None),
            None => None,
        };
        self.remember(Segment::in_memory(key), key, line, failure)
    }

    /// Writes a line into the file of a segment.
    fn write(&mut self, segment: Segment, key: LineKey, line: &str) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if let Err(error) = write_line(file, line, segment.bytes) {
            self.file = None;
            if segment.bytes == 0 {
                // It has its name for what waits.
                segment.remove();
            }
            return Err(error);
        }
        self.shelf.put(segment.with(key, line.len() as u64 + 1));
        Ok(())
    }

    /// Puts a line into a segment in memory.
    fn remember(
        &mut self,
        segment: Segment,
        key: LineKey,
        line: &str,
        failure: Option<io::Error>,
    ) -> Result<(), NotKept> {
        let bytes = line.len() as u64 + 1;
        let waits = self.config.folder.is_some();
        if waits && self.shelf.bytes_in_memory() + bytes > WAITING_BYTES {
            return Err(NotKept::Lost);
        }
        if let Body::Memory(text) = &segment.body {
            let mut text = text.write();
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
        }
        self.shelf.put(segment.with(key, bytes));
        match (waits, failure) {
            (false, _) => Ok(()),
            (true, Some(error)) => Err(NotKept::Waiting(error)),
            (true, None) => Err(NotKept::Waiting(io::ErrorKind::StorageFull.into())),
        }
    }

    /// Tells whether a line still belongs into this segment.
    fn takes(&self, last: &Segment, key: LineKey, bytes: u64) -> bool {
        let is_open = !last.is_in_file() || self.file.is_some();
        let hour = |at: u64| at / SEGMENT_MILLISECONDS;
        is_open && hour(last.oldest) == hour(key.at) && last.bytes + bytes <= self.segment_bytes()
    }

    fn segment_bytes(&self) -> u64 {
        (self.config.limit_bytes / PARTS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end())
    }

    fn begin_file(&mut self, key: LineKey) -> io::Result<Segment> {
        let folder = self.config.folder.as_deref().unwrap_or(std::path::Path::new("."));
        let path = folder.join(folder::file_name(self.config.name, key.id));
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(PRIVATE)
            .open(&path)?;
        self.file = Some(file);
        Ok(Segment::in_file(path, key))
    }

    /// Tells whether there are lines in memory that belong on disk.
    pub(crate) fn is_waiting(&self) -> bool {
        self.config.folder.is_some() && self.shelf.bytes_in_memory() > 0
    }

    /// Writes down what waits in memory.
    ///
    /// # Errors
    /// The disk still does not take it. What was written until then is written.
    pub(crate) fn write_waiting(&mut self) -> io::Result<()> {
        let Some(folder) = self.config.folder.clone() else {
            return Ok(());
        };
        let waiting = self
            .shelf
            .list()
            .into_iter()
            .filter(|segment| !segment.is_in_file());
        for mut segment in waiting {
            let path = folder.join(folder::file_name(self.config.name, segment.first));
            let text = segment.read()?;
            causeway_host::files::create_file(&path, &text, PRIVATE)?;
            segment.body = Body::File(path);
            self.shelf.put(segment);
        }
        Ok(())
    }

    /// Lets go of what is older than is kept.
    pub(crate) fn drop_aged(&mut self, now: u64) {
        self.drop_old(now, 0);
    }

    /// Drops the oldest segments, by age and to make room. The last one stays, as it says which id comes next.
    fn drop_old(&mut self, now: u64, room: u64) {
        let keep = u64::try_from(self.config.keep.as_millis()).unwrap_or(u64::MAX);
        let oldest = now.saturating_sub(keep);
        let limit = self.config.limit_bytes.saturating_sub(room);
        for dropped in self.shelf.drop_oldest(oldest, limit) {
            dropped.remove();
        }
    }

    /// Makes what was written last over a crash of the machine.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}

/// Writes a line whole, or takes back what was written of it.
fn write_line(file: &mut File, line: &str, before: u64) -> io::Result<()> {
    let mut text = String::with_capacity(line.len() + 1);
    text.push_str(line);
    text.push('\n');
    file.write_all(text.as_bytes()).inspect_err(|_| {
        // A line in part would be told as corrupt at the next start.
        let _ = file.set_len(before);
    })
}
