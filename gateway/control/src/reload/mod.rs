//! The topology file of a running gateway: read at the start, read again when it changes or on SIGHUP.
//!
//! A file that is not a topology changes nothing: the old one stays in force, the log says so once, and the refusal is
//! there to be asked for until a good file comes. What a new topology does to the gateway is not decided here; whoever
//! needs it holds a receiver.

use causeway_federation::{
    edition::Fingerprint,
    topology::{Diagnostics, Diff, Parsed, Style, Topology, diff},
};

mod load;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch as channel;

pub use load::{LoadError, check_text, load, load_for, read_file, read_from, read_with_limit};

/// Most changes that one log line names.
const MAX_CHANGES_LOGGED: usize = 20;

/// Most findings of a refused file that the log and `causeway check` tell, in a line each.
const MAX_FINDINGS_TOLD: usize = 20;

/// Reason why the file is read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// It may have changed.
    Change,
    /// Somebody asked (SIGHUP), and gets an answer in the log even when nothing changes.
    Request,
}

/// Outcome of reading the file again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// It is the file that was read last.
    Unchanged,
    /// Its topology is in force now; these are the changes.
    Taken(Diff),
    /// It cannot be used; the old topology stays in force.
    Refused,
}

/// State of the file on disk: whether it is what is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadState {
    /// Reason why the file as it is now was refused; `None`: it is in force.
    pub refused: Option<ReloadRefusal>,
}

/// A file that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadRefusal {
    /// One line: `topology.yaml: 2 errors`.
    pub summary: String,
    /// The findings, errors first, in a line each; only the first of very many.
    pub lines: Vec<String>,
    /// All findings with their lines and hints, for people.
    pub details: String,
}

/// The topology in force and the file it comes from.
#[derive(Debug)]
pub struct TopologyFile {
    path: PathBuf,
    topology: channel::Sender<Arc<Topology>>,
    state: channel::Sender<ReloadState>,
    /// The text of the last good file, with its fingerprint.
    text: Mutex<(Fingerprint, Arc<str>)>,
    /// Result of the last attempt, good or bad, so that each content is taken up or logged once. Also keeps two
    /// attempts from overtaking each other.
    last: Mutex<Attempt>,
}

#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    Good(Fingerprint),
    Bad(String),
}

impl TopologyFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// When it cannot be read or is not a topology.
    pub fn open(path: PathBuf) -> Result<Self, LoadError> {
        let Parsed {
            topology, warnings, ..
        } = load(&path)?;
        tell_warnings(&path, &warnings);
        let fingerprint = topology.fingerprint;
        Ok(Self {
            path,
            text: Mutex::new((fingerprint, warnings.text().clone())),
            topology: channel::Sender::new(Arc::new(topology)),
            state: channel::Sender::default(),
            last: Mutex::new(Attempt::Good(fingerprint)),
        })
    }

    /// The topology in force, now and whenever it changes.
    #[must_use]
    pub fn topology(&self) -> channel::Receiver<Arc<Topology>> {
        self.topology.subscribe()
    }

    /// Tells whether the file on disk is in force, now and whenever that changes.
    #[must_use]
    pub fn state(&self) -> channel::Receiver<ReloadState> {
        self.state.subscribe()
    }

    /// The text of the topology in force, which the file may no longer have; `None`: it is not one that the file had last.
    #[must_use]
    pub fn text(&self) -> Option<Arc<str>> {
        let (fingerprint, text) = self.text.lock().clone();
        (self.topology.borrow().fingerprint == fingerprint).then_some(text)
    }

    /// Puts a topology in force that does not come from the file. The file's next change replaces it.
    pub fn publish(&self, topology: Arc<Topology>) {
        self.topology.send_replace(topology);
    }

    /// Reads the file again, and puts it in force if it is good and new. Blocks on the file.
    pub fn reload(&self, trigger: Trigger) -> ReloadOutcome {
        let mut last = self.last.lock();
        let loaded = load(&self.path);
        let attempt = match &loaded {
            Ok(parsed) => Attempt::Good(parsed.topology.fingerprint),
            Err(error) => Attempt::Bad(error.render(Style::Plain)),
        };
        let repeated = *last == attempt;
        *last = attempt;
        match loaded {
            Ok(_) if repeated => self.unchanged(trigger),
            Ok(parsed) => self.take(parsed),
            Err(_) if repeated && trigger == Trigger::Change => ReloadOutcome::Unchanged,
            Err(error) => self.refuse(&error),
        }
    }

    fn unchanged(&self, trigger: Trigger) -> ReloadOutcome {
        if trigger == Trigger::Request {
            tracing::info!(file = %self.path.display(), "the topology has not changed");
        }
        ReloadOutcome::Unchanged
    }

    fn take(
        &self,
        Parsed {
            topology, warnings, ..
        }: Parsed,
    ) -> ReloadOutcome {
        let changes = diff(&self.topology.borrow(), &topology);
        let named: Vec<String> = changes
            .changes
            .iter()
            .take(MAX_CHANGES_LOGGED)
            .map(ToString::to_string)
            .collect();
        tracing::info!(
            file = %self.path.display(),
            topology = %topology.fingerprint,
            changes = changes.changes.len(),
            warnings = warnings.warnings(),
            "took up the topology: {}",
            if named.is_empty() { "it means the same".to_owned() } else { named.join("; ") }
        );
        tell_warnings(&self.path, &warnings);
        *self.text.lock() = (topology.fingerprint, warnings.text().clone());
        self.topology.send_replace(Arc::new(topology));
        self.state.send_replace(ReloadState::default());
        ReloadOutcome::Taken(changes)
    }

    fn refuse(&self, error: &LoadError) -> ReloadOutcome {
        let mut lines = error.lines();
        let left_out = lines.len().saturating_sub(MAX_FINDINGS_TOLD);
        lines.truncate(MAX_FINDINGS_TOLD);
        let refusal = ReloadRefusal {
            summary: error.summary(),
            lines,
            details: error.render(Style::Plain),
        };
        tracing::error!(
            file = %self.path.display(),
            in_force = %self.topology.borrow().fingerprint,
            "the topology file is refused and the old topology stays in force: {}",
            refusal.summary
        );
        for line in &refusal.lines {
            tracing::error!("{line}");
        }
        if left_out > 0 {
            tracing::error!(
                "{left_out} more findings: `causeway validate {}` shows all",
                self.path.display()
            );
        }
        self.state.send_replace(ReloadState {
            refused: Some(refusal),
        });
        ReloadOutcome::Refused
    }
}

/// Says once for a topology that comes into force that there is more to know of it.
fn tell_warnings(path: &Path, warnings: &Diagnostics) {
    if !warnings.is_empty() {
        tracing::warn!(file = %path.display(), found = %warnings.summary(),
            "the topology is in force, but `causeway validate` has something to say about it");
    }
}
