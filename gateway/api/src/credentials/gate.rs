//! Gate that every API of a gateway asks before it does something: whether it may be done, and that it be written down.
//! It joins the [`Guard`] and the audit log, and counts what is refused.

use std::{
    error::Error as _,
    fmt,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use causeway_host::own_sockets::OwnSockets;
use causeway_telemetry::RateLimited;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::timeout};

use super::{Denied, Guard, RequiredRight, Rights, Scope, pace::BlockPace, tls::AcceptError};
use crate::ApiMetrics;
use crate::actor::{Actor, AskingConnection, Proof};
use crate::audit::{Attempt, Audit, AuditOutcome, Note};

/// Word for the admin API in the log and in the audit log.
pub(crate) const ADMIN_API: &str = "admin";
/// Changes that are carried out at once, by the admin API, and by all others together; further ones wait their turn on their
/// connections.
const MAX_CHANGES: usize = 256;
/// Longest time for one, the arrival of its request included. Longer than any API lets a call take.
const LONGEST_CHANGE: Duration = Duration::from_secs(150);

/// Proof that a listener wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProof {
    /// None: the operator said that whoever reaches it may do everything.
    Open,
    /// By the way that a connection came: the right user on a unix socket, credentials over TLS, and on loopback a token for
    /// what changes something.
    Proved,
}

impl ListenerProof {
    #[must_use]
    pub fn of(insecure: bool) -> Self {
        if insecure { Self::Open } else { Self::Proved }
    }
}

/// Shared by the APIs of one gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    /// `None`: no credentials are configured, so nobody gets in from elsewhere.
    pub(super) guard: Option<Arc<Guard>>,
    audit: Audit,
    metrics: Arc<ApiMetrics>,
    rate_limited: Arc<Mutex<RateLimited<Refused>>>,
    changes: Arc<Places>,
    block_pace: Arc<BlockPace>,
    /// Connections that this process has opened itself.
    own: OwnSockets,
    /// Path of the unix socket of the admin API, to be told; `None`: there is none.
    socket: Option<Arc<Path>>,
    /// User of this process.
    user: u32,
}

/// Places for changes that are carried out at once, those of the admin API apart: whoever may only register cannot keep a topology
/// from being applied.
#[derive(Debug)]
struct Places {
    admin: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(MAX_CHANGES));
        Self {
            admin: places(),
            others: places(),
        }
    }
}

impl Places {
    fn of(&self, api: &str) -> Arc<Semaphore> {
        match api {
            ADMIN_API => self.admin.clone(),
            _ => self.others.clone(),
        }
    }
}

/// A change that somebody asked for who may have it made.
#[derive(Debug, Clone)]
pub struct RequestedChange {
    pub connection: AskingConnection,
    pub actor: Actor,
    /// As in [`Attempt`].
    pub api: &'static str,
    pub method: String,
    pub path: String,
    /// Name of what is to be changed, as far as the request says it.
    pub object: Option<String>,
}

impl RequestedChange {
    fn attempt(&self) -> Attempt<'_> {
        Attempt {
            api: self.api,
            method: &self.method,
            path: &self.path,
        }
    }
}

/// Somebody who was let in, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmittedActor {
    pub actor: Actor,
    pub rights: Rights,
}

impl AdmittedActor {
    /// Actor at the other end, without further proof.
    fn unproved(connection: &AskingConnection, scope: Scope) -> Self {
        Self {
            actor: connection.unproved(),
            rights: Rights::of(scope),
        }
    }
}

/// Key by which lines about refusals are held back.
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
    pub fn new(guard: Option<Arc<Guard>>, audit: Audit, metrics: Arc<ApiMetrics>) -> Self {
        Self {
            guard,
            audit,
            metrics,
            rate_limited: Arc::new(Mutex::new(RateLimited::new())),
            changes: Arc::default(),
            block_pace: Arc::default(),
            own: OwnSockets::default(),
            socket: None,
            user: rustix::process::geteuid().as_raw(),
        }
    }

    /// Counts a change of the topology by somebody who may change single services only.
    ///
    /// # Errors
    /// They have made too many; it gives the time until there is room for one.
    pub(crate) fn count_block_change(&self, actor: &Actor) -> Result<(), Duration> {
        self.block_pace.count(&actor.to_string(), Instant::now())
    }

    /// Has it know which connections this process has opened itself: none of them is let in without credentials.
    #[must_use]
    pub fn knowing(self, own: OwnSockets) -> Self {
        Self { own, ..self }
    }

    /// Has it tell where the unix socket is over which this host changes things.
    #[must_use]
    pub fn with_socket(self, socket: Option<Arc<Path>>) -> Self {
        Self { socket, ..self }
    }

    /// Path of the admin API's unix socket.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Tells whether somebody from elsewhere could prove anything.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.knows_anybody())
    }

    /// Decides about one request.
    ///
    /// # Errors
    /// Why it may not be done; that is counted, and in the audit log.
    pub fn admit(
        &self,
        access: ListenerProof,
        connection: &AskingConnection,
        authorization: Option<&[u8]>,
        attempt: &Attempt<'_>,
        needs: Option<RequiredRight>,
    ) -> Result<AdmittedActor, Denied> {
        let needs = match (needs, access) {
            (_, ListenerProof::Open) => return Ok(AdmittedActor::unproved(connection, Scope::Write)),
            (None, ListenerProof::Proved) => {
                return Ok(AdmittedActor {
                    actor: connection.unproved(),
                    rights: Rights::default(),
                });
            }
            (Some(needs), ListenerProof::Proved) => needs,
        };
        let admitted = match &connection.proof {
            Proof::Local(Some(user)) if [0, self.user].contains(user) => {
                Ok(AdmittedActor::unproved(connection, Scope::Write))
            }
            Proof::Local(user) => Err(Denied::OtherUser(*user)),
            Proof::Plain => self.over_loopback(connection, authorization, &needs),
            Proof::Nobody | Proof::Identity(_) | Proof::Useless { .. } => {
                self.proved(connection, authorization, &needs)
            }
        };
        if let Err(denied) = &admitted {
            self.refused(connection, attempt, denied, needs.service());
        }
        admitted
    }

    /// Decides about a request that came in the clear: a header counts where there is one, and reading is free without. A connection of this
    /// process's own has been opened for somebody who may be anywhere.
    fn over_loopback(
        &self,
        connection: &AskingConnection,
        authorization: Option<&[u8]>,
        needs: &RequiredRight,
    ) -> Result<AdmittedActor, Denied> {
        let is_own = connection.pair.is_some_and(|pair| self.own.hops(pair).is_some());
        match authorization {
            Some(_) => self.proved(connection, authorization, needs),
            None if *needs == RequiredRight::Everything(Scope::Read) && !is_own => {
                Ok(AdmittedActor::unproved(connection, Scope::Read))
            }
            None if is_own => Err(Denied::OwnConnection),
            None => Err(Denied::Loopback {
                socket: self.socket.clone(),
            }),
        }
    }

    fn proved(
        &self,
        connection: &AskingConnection,
        authorization: Option<&[u8]>,
        needs: &RequiredRight,
    ) -> Result<AdmittedActor, Denied> {
        let none = Guard::default();
        let guard = self.guard.as_deref().unwrap_or(&none);
        guard.admit(connection, authorization, needs, SystemTime::now())
    }

    pub(super) fn refused(
        &self,
        connection: &AskingConnection,
        attempt: &Attempt<'_>,
        denied: &Denied,
        object: Option<String>,
    ) {
        self.metrics.api_refused(denied.word());
        let Some(repeats) = self.hold_back(denied.word(), connection) else {
            return;
        };
        let note = Note {
            object,
            error: Some(denied.word().to_owned()),
            ..Note::default()
        };
        let status = if denied.is_unauthenticated() { 401 } else { 403 };
        let outcome = AuditOutcome {
            repeats,
            ..AuditOutcome::of_http(status, note)
        };
        self.audit.write(connection, &denied.who(), attempt, &outcome);
    }

    /// A handshake that came to nothing.
    pub(super) fn handshake_failed(&self, api: &'static str, from: &AskingConnection, error: &AcceptError) {
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

    /// Writes down that a change was asked for, has it carried out, and writes down what came of it. Whoever asked may be gone long
    /// before: the work goes on without the connection, and its outcome is written all the same. `None`: it has failed half-way,
    /// which is written as well.
    pub async fn carry_out<T: Send + 'static>(
        &self,
        change: RequestedChange,
        work: impl Future<Output = (T, AuditOutcome)> + Send + 'static,
    ) -> Option<T> {
        let place = self.changes.of(change.api).acquire_owned().await.ok()?;
        self.write(&change, &AuditOutcome::asked(change.object.clone()));
        let gate = self.clone();
        // Its end is written by the task that waits for it, so that a panic leaves a line as well.
        let written = tokio::spawn(async move {
            let done = tokio::spawn(timeout(LONGEST_CHANGE, work)).await;
            drop(place);
            let (answer, outcome) = match done {
                Ok(Ok((answer, outcome))) => (Some(answer), outcome),
                Ok(Err(_)) | Err(_) => (None, AuditOutcome::of_http(500, Note::default())),
            };
            gate.write(&change, &outcome);
            answer
        });
        written.await.ok().flatten()
    }

    fn write(&self, change: &RequestedChange, outcome: &AuditOutcome) {
        let who = change.actor.to_string();
        self.audit
            .write(&change.connection, &who, &change.attempt(), outcome);
    }

    fn hold_back(&self, word: &'static str, connection: &AskingConnection) -> Option<u64> {
        let kind = (word, connection.from.map(|from| from.ip()));
        self.rate_limited.lock().admit(Instant::now(), kind)
    }
}

/// Lets in whom the kernel names, readers on loopback, and nobody elsewhere; and writes to the log.
impl Default for Gate {
    fn default() -> Self {
        Self::new(None, Audit::default(), Arc::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_loopback_reading_is_free_and_a_header_that_is_no_known_token_is_refused() {
        let gate = Gate::default();
        let attempt = Attempt {
            api: ADMIN_API,
            method: "GET",
            path: "/v1/zones",
        };
        let connection = AskingConnection {
            from: "127.0.0.1:4000".parse().ok(),
            pair: None,
            proof: Proof::Plain,
        };
        let admitted = |authorization: Option<&[u8]>, needs| {
            let access = ListenerProof::Proved;
            let admitted = gate.admit(access, &connection, authorization, &attempt, needs);
            admitted
                .map(|admitted| admitted.rights)
                .map_err(|denied| denied.word())
        };
        let read = || Some(RequiredRight::Everything(Scope::Read));
        assert_eq!(admitted(None, read()), Ok(Rights::of(Scope::Read)));
        for header in [&b"Bearer bad"[..], b"Basic dTpw", b"", b"Bearer "] {
            assert_eq!(admitted(Some(header), read()), Err("bad_token"), "{header:?}");
        }
        assert!(
            admitted(Some(b"Bearer bad"), None).is_ok(),
            "a load balancer's question"
        );
    }

    #[test]
    fn on_a_unix_socket_the_own_user_and_root_get_in_and_nobody_else() {
        let gate = Gate::default();
        let attempt = Attempt {
            api: ADMIN_API,
            method: "PUT",
            path: "/v1/topology",
        };
        let admitted = |user: Option<u32>| {
            let connection = AskingConnection::local(user);
            let admitted = gate.admit(
                ListenerProof::Proved,
                &connection,
                None,
                &attempt,
                Some(RequiredRight::Everything(Scope::Write)),
            );
            admitted
                .map(|admitted| admitted.actor)
                .map_err(|denied| denied.word())
        };
        let own = gate.user;
        assert_eq!(admitted(Some(own)), Ok(Actor::User(own)));
        assert_eq!(admitted(Some(0)), Ok(Actor::User(0)));
        assert_eq!(admitted(Some(own + 1)), Err("other_user"));
        assert_eq!(admitted(None), Err("other_user"));
    }
}
