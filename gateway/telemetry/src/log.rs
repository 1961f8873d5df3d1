//! The program's own log: what happened to the gateway, on standard error. Connections are in the access log instead.
//!
//! A line that cannot be written is lost and counted: a reader that went away, stands still, or a disk that is full stops
//! nothing.

use std::{
    io::{self, IsTerminal, Write},
    sync::OnceLock,
    time::Duration,
};

use causeway_host::tasks::Tasks;
use clap::ValueEnum;
use tracing_subscriber::{
    EnvFilter, fmt, fmt::MakeWriter, layer::SubscriberExt as _, util::SubscriberInitExt,
};

use super::{LineWriter, LogTap, printable::log_line};

/// Longest wait at the end of the program for lines that are still to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The writer of the process's log, which is as global as standard error is.
static WRITER: OnceLock<LineWriter> = OnceLock::new();
/// The place from which a gateway of this process has the log's events.
static TAP: OnceLock<LogTap> = OnceLock::new();

/// Form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Failure to set up the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("`{filter}` is not a log level or filter")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("another log is already set up in this process")]
    Already(#[source] tracing_subscriber::util::TryInitError),
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
}

/// Sends log lines to standard error from now on, for the whole process. `filter` is a level (`info`), or several by
/// target (`info,causeway_tunnel=debug`).
///
/// # Errors
/// When `filter` cannot be understood, a log is already set up, or its thread cannot be started.
pub fn start(format: LogFormat, filter: &str, tasks: &Tasks) -> Result<LogGuard, LogError> {
    let filter = EnvFilter::try_new(filter).map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let writer = LineWriter::start_silent(io::stderr(), tasks).map_err(LogError::Thread)?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = Lines {
        writer: writer.clone(),
        coloured: colour && format == LogFormat::Text,
    };
    let lines = fmt::layer().with_writer(lines).log_internal_errors(false);
    let events = tracing_subscriber::registry().with(filter).with(tap());
    match format {
        LogFormat::Text => events.with(lines.with_ansi(colour)).try_init(),
        LogFormat::Json => events.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(LogError::Already)?;
    Ok(LogGuard(WRITER.get_or_init(|| writer)))
}

/// The place from which events of this process's log can be had.
#[must_use]
pub fn tap() -> LogTap {
    TAP.get_or_init(LogTap::default).clone()
}

/// Log lines of this process that were not written since the start, because nobody took them.
#[must_use]
pub fn lost_lines() -> u64 {
    WRITER.get().map_or(0, LineWriter::lost)
}

/// Sees to it that the last lines are written before the program ends, if anybody takes them.
#[derive(Debug)]
#[must_use = "without it the last lines of the log may be missing"]
pub struct LogGuard(&'static LineWriter);

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.0.flush(LAST_WORDS);
    }
}

/// Makes a line of each event.
struct Lines {
    writer: LineWriter,
    coloured: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            text: Vec::new(),
            to: self,
        }
    }
}

/// One event on its way: it is a line once it is dropped.
struct Line<'a> {
    text: Vec<u8>,
    to: &'a Lines,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            let event = String::from_utf8_lossy(&self.text);
            self.to.writer.send(log_line(&event, self.to.coloured));
        }
    }
}

/// An error and what caused it, the outermost first, in one line.
#[must_use]
pub fn in_one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
