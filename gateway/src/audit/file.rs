//! The file that audit lines are appended to, by a thread of its own.
//!
//! A line that cannot be written is lost; that is told once, with an ERROR, until lines can be written again. The thread
//! goes on trying with each line, so that a disk that was full needs no restart. A file that was moved away (by
//! logrotate, say) is made anew.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use crate::telemetry::Metrics;

/// Lines that may wait for the disk; more are lost. About 2 MiB at the length of a usual line.
const MAX_WAITING_LINES: usize = 8192;
/// Its owner alone reads and writes it: it says who works here.
const MODE: u32 = 0o600;

/// Why the audit log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AuditFileError {
    #[error("cannot open the audit log {path}", path = path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the thread that writes the audit log")]
    Thread(#[source] io::Error),
}

/// A file of audit lines. What waits is written when the last handle is dropped, as long as the process lives.
#[derive(Debug)]
pub struct AuditFile {
    lines: SyncSender<String>,
    metrics: Arc<Metrics>,
}

impl AuditFile {
    /// # Errors
    /// When the file cannot be opened, or the thread cannot be started.
    pub fn open(path: &Path, metrics: Arc<Metrics>) -> Result<Self, AuditFileError> {
        let file = append(path).map_err(|source| AuditFileError::Open {
            path: path.to_owned(),
            source,
        })?;
        let (lines, waiting) = sync_channel(MAX_WAITING_LINES);
        let mut log = Log {
            path: path.to_owned(),
            file: Some(file),
            torn: false,
            lost: 0,
        };
        let counted = metrics.clone();
        std::thread::Builder::new()
            .name("audit-log".into())
            .spawn(move || log.follow(&waiting, &counted))
            .map_err(AuditFileError::Thread)?;
        Ok(Self { lines, metrics })
    }

    /// Hands a line over. Never waits.
    pub fn write(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.metrics.audit_line(false);
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(MODE).open(path)
}

/// The file as its thread sees it.
struct Log {
    path: PathBuf,
    /// `None`: it could not be opened anew.
    file: Option<File>,
    /// Whether the last line in it has no end, because only a part of it could be written.
    torn: bool,
    /// Lines that could not be written since the last one that could.
    lost: u64,
}

impl Log {
    fn follow(&mut self, waiting: &Receiver<String>, metrics: &Metrics) {
        while let Ok(line) = waiting.recv() {
            let written = self.write(&line);
            metrics.audit_line(written.is_ok());
            match written {
                Ok(()) if self.lost > 0 => {
                    tracing::warn!(path = %self.path.display(), lost = self.lost,
                        "the audit log is written again; lines before this one are missing");
                    self.lost = 0;
                }
                Ok(()) => {}
                Err(error) => {
                    if self.lost == 0 {
                        tracing::error!(path = %self.path.display(), %error,
                            "the audit log cannot be written; lines are lost until it can");
                    }
                    self.lost += 1;
                }
            }
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
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

    /// Whether the path leads to another file than the one that is open, or to none.
    fn was_moved(&self) -> bool {
        let Some(open) = self.file.as_ref().and_then(|file| file.metadata().ok()) else {
            return true;
        };
        let there = std::fs::metadata(&self.path);
        !there.is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        time::{Duration, Instant},
    };

    use super::*;

    /// Longer than any wait here takes when all is well.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn until(what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < end, "waited in vain for {what}");
            std::thread::yield_now();
        }
    }

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_appended_for_the_owner_alone_and_a_moved_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
        let log = AuditFile::open(&path, Arc::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        log.write("one\n".to_owned());
        until("the first line", || lines(&path) == ["one"]);
        fs::rename(&path, &moved).unwrap();
        log.write("two\n".to_owned());
        until("the second line", || lines(&path) == ["two"]);
        assert_eq!(lines(&moved), ["one"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_costs_lines_that_are_counted_and_holds_up_nobody() {
        let metrics = Arc::new(Metrics::default());
        let log = AuditFile::open(Path::new("/dev/full"), metrics.clone()).unwrap();
        for _ in 0..2 * MAX_WAITING_LINES {
            log.write("a line\n".to_owned());
        }
        until("every line to be counted as lost", || {
            metrics.audit_lines(false) == 2 * MAX_WAITING_LINES as u64
        });
        assert_eq!(metrics.audit_lines(true), 0);
    }

    #[test]
    fn a_line_that_was_torn_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut log = Log {
            path: path.clone(),
            file: Some(append(&path).unwrap()),
            torn: true,
            lost: 1,
        };
        fs::write(&path, "{\"time\":").unwrap();
        log.write("{}\n").unwrap();
        assert_eq!(lines(&path), ["{\"time\":", "{}"]);
    }
}
