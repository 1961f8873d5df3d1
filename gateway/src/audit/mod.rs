//! The audit log: one line for every change that somebody asked this gateway's APIs for, done or refused. It holds who,
//! from where, what and how it ended; never a body, a token or a key.
//!
//! Whether something may be done is not decided here. Lines wait in a bounded queue; a disk that is full or stuck costs
//! lines, which are counted and told, and holds up no request.

mod file;
mod record;

use std::{path::Path, sync::Arc, time::SystemTime};

pub use file::{AuditFile, AuditFileError};
pub use record::{Attempt, MAX_TEXT_CHARACTERS, Note, Outcome, Record};

use crate::{credentials::Connection, telemetry::Metrics};

/// Where records go. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Audit(Sink);

#[derive(Debug, Clone, Default)]
enum Sink {
    /// The gateway's own log, under the target `causeway::audit`.
    #[default]
    Log,
    File(Arc<AuditFile>),
}

impl Audit {
    /// Appends to a file, which is made readable by its owner alone if it is missing.
    ///
    /// # Errors
    /// When it cannot be opened, or the thread that writes it cannot be started.
    pub fn file(path: &Path, metrics: Arc<Metrics>) -> Result<Self, AuditFileError> {
        Ok(Self(Sink::File(Arc::new(AuditFile::open(path, metrics)?))))
    }

    /// Writes one record down. Never waits.
    pub fn write(&self, connection: &Connection, who: &str, attempt: &Attempt<'_>, outcome: &Outcome) {
        let record = Record::new(SystemTime::now(), connection, who, attempt, outcome);
        match &self.0 {
            Sink::Log => tell(&record),
            Sink::File(file) => file.write(record.line()),
        }
    }
}

fn tell(record: &Record) {
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
