//! The audit log of the changes that somebody asked this gateway's APIs for: one line for each that is refused at the door, and two
//! for each that is not, before it is carried out and afterwards. It holds who, from where, what and how it ended; never a body, a
//! token or a key.
//!
//! Whether something may be done is not decided here. Lines wait in a bounded queue; a disk that is full or stuck costs
//! lines, which are counted and told, and holds up no request. A file that was moved away (by logrotate, say) is made anew.

mod record;

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use causeway_host::tasks::Tasks;
use causeway_telemetry::{AppendedFile, LineWriter};

pub use record::{Attempt, AuditOutcome, AuditRecord, MAX_TEXT_CHARACTERS, Note};

use crate::ApiMetrics;
use crate::actor::AskingConnection;

/// Sink of the records. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Audit(Sink);

#[derive(Debug, Clone, Default)]
enum Sink {
    /// The gateway's own log, under the target `causeway::audit`.
    #[default]
    Log,
    File(LineWriter),
}

/// Reason why the audit log could not be started.
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

impl Audit {
    /// Appends to a file, which is made readable by its owner alone if it is missing.
    ///
    /// # Errors
    /// When it cannot be opened, or the thread that writes it cannot be started.
    pub fn file(path: &Path, metrics: &ApiMetrics, tasks: &Tasks) -> Result<Self, AuditFileError> {
        let file = AppendedFile::open(path).map_err(|source| AuditFileError::Open {
            path: path.to_owned(),
            source,
        })?;
        let lines = LineWriter::start_counted("audit log", file, metrics.audit_lines(), tasks);
        Ok(Self(Sink::File(lines.map_err(AuditFileError::Thread)?)))
    }

    /// Writes one record down. Never waits.
    pub fn write(
        &self,
        connection: &AskingConnection,
        who: &str,
        attempt: &Attempt<'_>,
        outcome: &AuditOutcome,
    ) {
        let record = AuditRecord::new(SystemTime::now(), connection, who, attempt, outcome);
        match &self.0 {
            Sink::Log => tell(&record),
            Sink::File(lines) => lines.send(record.line()),
        }
    }
}

fn tell(record: &AuditRecord) {
    tracing::info!(
        target: "causeway::audit",
        who = record.who,
        from = record.from,
        api = record.api,
        method = record.method,
        path = record.path,
        object = record.object,
        generation = record.generation,
        done = record.done,
        refused = record.refused,
        result = record.result,
        status = record.status,
        error = record.error,
        repeats = record.repeats,
        "audit"
    );
}
