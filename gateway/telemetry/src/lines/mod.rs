//! Lines for a person or a program to read, written by a thread of their own: the log, the access log and the audit log.
//!
//! Lines wait in a bounded queue. A slow disk, a full one, a reader that stands still or went away costs lines, which are
//! counted, and never holds up whoever writes them; once lines can be written again, they are.

mod sink;

use std::{
    io::{self, Write},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    time::{Duration, Instant},
};

use causeway_host::tasks::Tasks;
use prometheus_client::metrics::counter::Counter;

use sink::LineStream;
pub use sink::{AppendedFile, LineSink};

/// Lines that may wait for the writer; more are lost. About 2 MiB at the length of a usual line.
pub(crate) const MAX_WAITING_LINES: usize = 8192;
/// Pause after which a full queue is tried again by who waits for it to be written.
const FLUSH_PAUSE: Duration = Duration::from_millis(10);

/// Hands lines to a thread that writes them. The thread ends, with everything written, when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct LineWriter {
    waiting: SyncSender<Waiting>,
    lost: Counter,
}

/// Counts of the lines of one writer since its start.
#[derive(Debug, Clone, Default)]
pub struct LineCounts {
    pub written: Counter,
    pub lost: Counter,
}

#[derive(Debug)]
enum Waiting {
    Line(String),
    /// Is dropped once everything before it is written, or cannot be.
    Flush {
        _done: SyncSender<()>,
    },
}

impl LineWriter {
    /// Writes to standard output. `what` names the lines where it is said that they cannot be written.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn stdout(what: &'static str, tasks: &Tasks) -> io::Result<Self> {
        Self::start(what, io::stdout(), tasks)
    }

    /// Writes to a stream.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(what: &'static str, stream: impl Write + Send + 'static, tasks: &Tasks) -> io::Result<Self> {
        Self::start_counted(what, LineStream::new(stream), LineCounts::default(), tasks)
    }

    /// Writes to anything, and counts lines where others read it.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start_counted(
        what: &'static str,
        sink: impl LineSink,
        counts: LineCounts,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let path = sink.path().map(|path| path.display().to_string());
        let told = move |change: Change<'_>| match change {
            Change::Lost(error) => {
                tracing::error!(path, %error, "the {what} cannot be written; lines are lost until it can");
            }
            Change::Again { lost } => {
                tracing::warn!(
                    path,
                    lost,
                    "the {what} is written again; lines before this one are missing"
                );
            }
        };
        Self::start_told(sink, counts, tasks, told)
    }

    /// Writes to a stream without a word about what is lost; for the log itself.
    pub(crate) fn start_silent(stream: impl Write + Send + 'static, tasks: &Tasks) -> io::Result<Self> {
        Self::start_told(LineStream::new(stream), LineCounts::default(), tasks, |_| {})
    }

    fn start_told(
        sink: impl LineSink,
        counts: LineCounts,
        tasks: &Tasks,
        tell: impl Fn(Change<'_>) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, waiting) = sync_channel(MAX_WAITING_LINES);
        let lost = counts.lost.clone();
        let mut writer = Writer {
            sink,
            counts,
            lost_in_a_row: 0,
            tell,
        };
        tasks.thread("lines", move || writer.follow(&waiting))?;
        Ok(Self {
            waiting: sender,
            lost,
        })
    }

    /// Hands a line over, its end included. Never waits.
    pub fn send(&self, line: String) {
        if self.waiting.try_send(Waiting::Line(line)).is_err() {
            self.lost.inc();
        }
    }

    /// Lines that were not written since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// Waits until everything that was sent is written or cannot be, and at most `longest`. Blocks the thread.
    pub fn flush(&self, longest: Duration) {
        let deadline = Instant::now() + longest;
        let (done, written) = sync_channel(0);
        let mut flush = Waiting::Flush { _done: done };
        while let Err(TrySendError::Full(again)) = self.waiting.try_send(flush) {
            flush = again;
            // Nothing is ever sent on it: this waits for room in the queue.
            let pause = written.recv_timeout(FLUSH_PAUSE);
            if pause == Err(RecvTimeoutError::Disconnected) || Instant::now() >= deadline {
                return;
            }
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// A change in whether lines can be written.
enum Change<'a> {
    Lost(&'a io::Error),
    Again { lost: u64 },
}

/// The thread's side.
struct Writer<S, T> {
    sink: S,
    counts: LineCounts,
    /// Since the last line that could be written.
    lost_in_a_row: u64,
    tell: T,
}

impl<S: LineSink, T: Fn(Change<'_>)> Writer<S, T> {
    /// Writes until the senders are gone; flushes whenever nothing waits, so that a reader sees every line soon.
    fn follow(&mut self, waiting: &Receiver<Waiting>) {
        while let Ok(first) = waiting.recv() {
            let mut flushes = Vec::new();
            let mut next = Some(first);
            while let Some(one) = next {
                match one {
                    Waiting::Line(line) => self.write(&line),
                    flush @ Waiting::Flush { .. } => flushes.push(flush),
                }
                next = waiting.try_recv().ok();
            }
            // What cannot be written now is tried again with the next line.
            let _ = self.sink.flush();
            drop(flushes);
        }
    }

    fn write(&mut self, line: &str) {
        match self.sink.write_line(line) {
            Ok(()) => {
                self.counts.written.inc();
                if self.lost_in_a_row > 0 {
                    (self.tell)(Change::Again {
                        lost: self.lost_in_a_row,
                    });
                    self.lost_in_a_row = 0;
                }
            }
            Err(error) => {
                self.counts.lost.inc();
                if self.lost_in_a_row == 0 {
                    (self.tell)(Change::Lost(&error));
                }
                self.lost_in_a_row += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A sink that fails while it is full, and keeps what it was given.
    #[derive(Clone, Default)]
    struct Disk {
        full: Arc<AtomicBool>,
        text: Arc<Mutex<String>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.full.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.text
                .lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_writer_that_is_stuck_costs_lines_and_no_time() {
        struct Stuck(mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
                // Held until the test lets go by dropping the sender.
                let _ = self.0.recv();
                Ok(buffer.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (hold, held) = mpsc::channel();
        let writer = LineWriter::start("test", Stuck(held), &Tasks::default()).unwrap();
        for _ in 0..3 * MAX_WAITING_LINES {
            writer.send("a line\n".to_owned());
        }
        assert!(writer.lost() > 0);
        let begun = Instant::now();
        writer.flush(Duration::from_millis(50));
        assert!(begun.elapsed() < PATIENCE, "a flush gives up");
        drop(hold);
    }

    #[test]
    fn every_line_is_written_once_it_is_flushed() {
        let disk = Disk::default();
        let writer = LineWriter::start("test", disk.clone(), &Tasks::default()).unwrap();
        for _ in 0..100 {
            writer.send("a line\n".to_owned());
        }
        writer.flush(PATIENCE);
        assert_eq!(disk.text.lock().unwrap().lines().count(), 100);
        assert_eq!(writer.lost(), 0);
    }

    #[test]
    fn lines_are_written_again_once_the_disk_has_room_and_none_is_torn() {
        let disk = Disk::default();
        let writer = LineWriter::start("test", disk.clone(), &Tasks::default()).unwrap();
        disk.full.store(true, Ordering::Relaxed);
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..100 {
            writer.send(line.clone());
        }
        writer.flush(PATIENCE);
        let lost = writer.lost();
        assert!(lost > 0, "a buffer does not hold that much");
        disk.full.store(false, Ordering::Relaxed);
        writer.send(line);
        writer.flush(PATIENCE);
        let text = disk.text.lock().unwrap();
        assert_eq!(text.lines().count() as u64, 101 - lost);
        assert!(text.lines().all(|written| written.len() == 999));
        assert_eq!(writer.lost(), lost);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_costs_lines_that_are_counted_where_others_read_it() {
        let counts = LineCounts::default();
        let full = AppendedFile::open(std::path::Path::new("/dev/full")).unwrap();
        let writer = LineWriter::start_counted("test", full, counts.clone(), &Tasks::default()).unwrap();
        for _ in 0..2 * MAX_WAITING_LINES {
            writer.send("a line\n".to_owned());
        }
        writer.flush(PATIENCE);
        assert_eq!(counts.lost.get(), 2 * MAX_WAITING_LINES as u64);
        assert_eq!(counts.written.get(), 0);
    }

    #[test]
    fn a_writer_that_panics_is_told_of() {
        struct Broken;
        impl LineSink for Broken {
            fn write_line(&mut self, _: &str) -> io::Result<()> {
                std::panic::panic_any("as a test wants it")
            }
        }
        let tasks = Tasks::default();
        let writer = LineWriter::start_counted("test", Broken, LineCounts::default(), &tasks).unwrap();
        writer.send("a line\n".to_owned());
        writer.flush(PATIENCE);
        let begun = Instant::now();
        while tasks.ended().count == 0 {
            assert!(begun.elapsed() < PATIENCE, "it was not told of");
            std::thread::yield_now();
        }
        assert_eq!(tasks.ended().first[0].name, "lines");
    }
}
