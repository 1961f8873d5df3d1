//! The files of a journal as a start finds them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use causeway_host::files::{self, PRIVATE, replace_file};

use super::{JournalConfig, LineKey, Segment};

const ENDING: &str = ".jsonl";
/// Ids are below this, so that there is always a next one, and programs that know no whole numbers but those of a double tell them apart.
const MAX_ID: u64 = 1 << 53;
/// Largest file that is read; a segment is far smaller.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// A file that held something else than lines of its journal.
#[derive(Debug)]
pub(crate) struct SegmentSetAside {
    /// Place where it lies now, as it was.
    pub(crate) kept: PathBuf,
    /// Lines of it that are still read, and parts that are none.
    pub(crate) lines: u64,
    pub(crate) bad: u64,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) segments: Vec<Segment>,
    pub(super) set_aside: Vec<SegmentSetAside>,
    pub(super) last_id: u64,
}

/// `events-00000000000000000017.jsonl`: sorted as the ids are.
pub(super) fn file_name(journal: &str, first: u64) -> String {
    format!("{journal}-{first:020}{ENDING}")
}

fn first_id(journal: &str, name: &str) -> Option<u64> {
    let number = name.strip_prefix(journal)?.strip_prefix('-')?;
    number.strip_suffix(ENDING)?.parse().ok()
}

/// Reads every segment in the folder.
///
/// # Errors
/// The folder, or a file in it, cannot be read.
pub(super) fn read(folder: &Path, config: &JournalConfig, unix_seconds: u64) -> io::Result<Found> {
    let mut files = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name();
        let first = name.to_str().and_then(|name| first_id(config.name, name));
        let first = first.filter(|first| *first < MAX_ID);
        files.extend(first.map(|first| (first, file.path())));
    }
    files.sort_unstable();
    let mut found = Found::default();
    for (first, path) in files {
        // Whatever is in it, its name says which ids were given out.
        let before = found.last_id;
        found.last_id = found.last_id.max(first);
        let about = fs::metadata(&path)?;
        // Reading from a pipe would never end.
        let text = match about.is_file() && about.len() <= MAX_FILE_BYTES {
            true => fs::read(&path)?,
            false => Vec::new(),
        };
        let sound = Sound::of(&text, before, config.key);
        if sound.bad > 0 || text.is_empty() {
            found.set_aside.push(set_aside(&path, &sound, unix_seconds)?);
        }
        if let Some((oldest, newest)) = sound.ages {
            found.last_id = found.last_id.max(sound.last);
            let key = LineKey {
                id: sound.first,
                at: oldest,
            };
            let last = LineKey {
                id: sound.last,
                at: newest,
            };
            let bytes = sound.text.len() as u64;
            let segment = Segment::in_file(path, key);
            found.segments.push(segment.with(last, bytes));
        }
    }
    Ok(found)
}

/// Lines of a file that can be used.
#[derive(Debug, Default)]
struct Sound {
    text: String,
    lines: u64,
    bad: u64,
    first: u64,
    last: u64,
    ages: Option<(u64, u64)>,
}

impl Sound {
    fn of(text: &[u8], before: u64, key: fn(&str) -> Option<LineKey>) -> Self {
        let mut sound = Self {
            last: before,
            ..Self::default()
        };
        for part in text.split_inclusive(|byte| *byte == b'\n') {
            let line = part.strip_suffix(b"\n");
            let line = line.and_then(|line| std::str::from_utf8(line).ok());
            let read = line.and_then(|line| Some((line, key(line)?)));
            match read.filter(|(_, key)| key.id > sound.last && key.id < MAX_ID) {
                Some((line, key)) => sound.add(line, key),
                None => sound.bad += 1,
            }
        }
        sound
    }

    fn add(&mut self, line: &str, key: LineKey) {
        if self.lines == 0 {
            self.first = key.id;
        }
        self.lines += 1;
        self.last = key.id;
        let (oldest, newest) = self.ages.unwrap_or((key.at, key.at));
        self.ages = Some((oldest.min(key.at), newest.max(key.at)));
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// Renames a file, and writes what of it can be used in its place.
fn set_aside(path: &Path, sound: &Sound, unix_seconds: u64) -> io::Result<SegmentSetAside> {
    let kept = files::set_aside(path, unix_seconds)?;
    if sound.lines > 0 {
        replace_file(path, &sound.text, PRIVATE)?;
    }
    Ok(SegmentSetAside {
        kept,
        lines: sound.lines,
        bad: sound.bad,
    })
}
