//! The flags of the log, the same for every command that runs until it is told to stop.

use causeway_host::tasks::Tasks;
use causeway_telemetry::log::{self, LogFormat, LogGuard};

use super::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct LogArgs {
    /// Form of the log on standard error
    #[arg(
        long,
        value_name = "FORM",
        env = "CAUSEWAY_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
    /// Detail of the log: a level, or levels by module such as info,causeway_identity=debug
    #[arg(long, value_name = "FILTER", env = "CAUSEWAY_LOG", default_value = "info")]
    log_level: String,
}

impl LogArgs {
    /// Sends log lines to standard error from here on; the last of them are written when the guard is dropped.
    pub(super) fn start(&self, tasks: &Tasks) -> Result<LogGuard, Failure> {
        log::start(self.log_format, &self.log_level, tasks)
            .map_err(|error| Failure::usage("cannot start the log").because(&error))
    }
}
