//! Places that lines are written to: a stream that was open before, such as standard output, and a file that is appended
//! to and opened anew once it was moved away.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Its owner alone reads and writes a file of lines: they say who works here.
const MODE: u32 = 0o600;

/// A place that lines are written to, by the thread of a [`LineWriter`](super::LineWriter).
pub trait LineSink: Send + 'static {
    /// Writes a whole line, its end included, or fails. What a failure left of it does not spoil the next one.
    ///
    /// # Errors
    /// When it is lost.
    fn write_line(&mut self, line: &str) -> io::Result<()>;

    /// Path of a file, for whoever is told that it cannot be written.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Hands on what was kept back to be written together.
    ///
    /// # Errors
    /// When it cannot be handed on now. It is tried again with the next line.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream. What could not be written of it is kept, and goes on at that very byte, so no line is torn.
#[derive(Debug)]
pub(super) struct LineStream<S: Write>(BufWriter<S>);

impl<S: Write> LineStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(BufWriter::new(stream))
    }
}

impl<S: Write + Send + 'static> LineSink for LineStream<S> {
    fn write_line(&mut self, line: &str) -> io::Result<()> {
        self.0.write_all(line.as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A file that is appended to. One that was moved away (by logrotate, say) is made anew, for its owner alone.
#[derive(Debug)]
pub struct AppendedFile {
    path: PathBuf,
    /// `None`: it could not be opened anew.
    file: Option<File>,
    /// Tells whether the last line in it has no end, because only a part of it could be written.
    torn: bool,
}

impl AppendedFile {
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Some(append(path)?),
            torn: false,
        })
    }

    /// Tells whether the path leads to another file than the one that is open, or to none.
    fn was_moved(&self) -> bool {
        let Some(open) = self.file.as_ref().and_then(|file| file.metadata().ok()) else {
            return true;
        };
        let there = std::fs::metadata(&self.path);
        !there.is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino()))
    }
}

impl LineSink for AppendedFile {
    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn write_line(&mut self, line: &str) -> io::Result<()> {
        if self.was_moved() {
            self.file = None;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                self.torn = false;
                self.file.insert(append(&self.path)?)
            }
        };
        let whole = match self.torn {
            true => format!("\n{line}"),
            false => line.to_owned(),
        };
        // One call for a whole line, so that two processes that share the file do not mix theirs.
        let length = file.write(whole.as_bytes())?;
        self.torn = length < whole.len() && length > 0;
        match length == whole.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(MODE).open(path)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_appended_for_the_owner_alone_and_a_moved_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
        let mut file = AppendedFile::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        file.write_line("one\n").unwrap();
        fs::rename(&path, &moved).unwrap();
        file.write_line("two\n").unwrap();
        assert_eq!(lines(&path), ["two"]);
        assert_eq!(lines(&moved), ["one"]);
    }

    #[test]
    fn a_line_that_was_torn_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut file = AppendedFile {
            torn: true,
            ..AppendedFile::open(&path).unwrap()
        };
        fs::write(&path, "{\"time\":").unwrap();
        file.write_line("{}\n").unwrap();
        assert_eq!(lines(&path), ["{\"time\":", "{}"]);
    }
}
