//! What every API of a gateway asks before it does something: whether it may be done, and that it be written down. It
//! joins the [`Guard`] and the audit log, and counts what is refused.

use std::{
    error::Error as _,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use parking_lot::Mutex;

use super::{Actor, Connection, Denied, Guard, Scope, tls::AcceptError};
use crate::{
    audit::{Attempt, Audit, Note, Outcome},
    telemetry::Metrics,
    tunnel::Quiet,
};

/// Shared by the APIs of one gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    /// `None`: no credentials are configured, so nobody gets in from elsewhere.
    guard: Option<Arc<Guard>>,
    audit: Audit,
    metrics: Arc<Metrics>,
    quiet: Arc<Mutex<Quiet<Refused>>>,
}

/// What lines about refusals are held back by.
type Refused = (&'static str, Option<IpAddr>);

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

impl Gate {
    #[must_use]
    pub fn new(guard: Option<Arc<Guard>>, audit: Audit, metrics: Arc<Metrics>) -> Self {
        Self {
            guard,
            audit,
            metrics,
            quiet: Arc::new(Mutex::new(Quiet::new())),
        }
    }

    /// Whether somebody from elsewhere could prove anything.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.knows_anybody())
    }

    /// Decides about one request. `guarded`: it came to a listener that others than this host reach.
    ///
    /// # Errors
    /// Why it may not be done; that is counted, and in the audit log.
    pub fn admit(
        &self,
        guarded: bool,
        connection: &Connection,
        authorization: Option<&[u8]>,
        attempt: &Attempt<'_>,
        needs: Option<Scope>,
    ) -> Result<Actor, Denied> {
        let (Some(needs), true) = (needs, guarded) else {
            return Ok(connection.unproved());
        };
        let none = Guard::default();
        let guard = self.guard.as_deref().unwrap_or(&none);
        let admitted = guard.admit(connection, authorization, needs, SystemTime::now());
        if let Err(denied) = &admitted {
            self.refused(connection, attempt, denied);
        }
        admitted
    }

    fn refused(&self, connection: &Connection, attempt: &Attempt<'_>, denied: &Denied) {
        self.metrics.api_refused(denied.word());
        let Some(repeats) = self.hold_back(denied.word(), connection) else {
            return;
        };
        let note = Note {
            error: Some(denied.word().to_owned()),
            ..Note::default()
        };
        let status = if denied.is_unauthenticated() { 401 } else { 403 };
        let outcome = Outcome {
            repeats,
            ..Outcome::of_http(status, note)
        };
        self.audit.write(connection, &denied.who(), attempt, &outcome);
    }

    /// A handshake that came to nothing.
    pub(super) fn handshake_failed(&self, api: &'static str, from: &Connection, error: &AcceptError) {
        let word = error.word();
        let cause = error
            .source()
            .map_or_else(|| error.to_string(), ToString::to_string);
        self.metrics.api_refused(word);
        if let Some(repeats) = self.hold_back(word, from) {
            tracing::warn!(
                reason = word,
                address = from.place(),
                api,
                cause,
                repeats,
                "refused a connection to an API"
            );
        }
    }

    /// Writes down what was done, or not, for somebody who was let in.
    pub fn write(&self, connection: &Connection, actor: &Actor, attempt: &Attempt<'_>, outcome: &Outcome) {
        self.audit.write(connection, &actor.to_string(), attempt, outcome);
    }

    fn hold_back(&self, word: &'static str, connection: &Connection) -> Option<u64> {
        let kind = (word, connection.from.map(|from| from.ip()));
        self.quiet.lock().admit(Instant::now(), kind)
    }
}

/// Lets everybody in on loopback and nobody elsewhere, and writes to the log.
impl Default for Gate {
    fn default() -> Self {
        Self::new(None, Audit::default(), Arc::default())
    }
}
