//! The identity of a running gateway: read at the start, and read again when its files change.
//!
//! Whoever renews the files (the built-in CA's operator, step-ca, a Vault agent, cert-manager, spiffe-helper) need not
//! know of the gateway. A set of files is checked whole before it is used: that it is readable, that key and certificate
//! belong together, that it names the same gateway as before, and that peers would believe it now. One that fails
//! changes nothing: the identity before it stays in use, to its end, and the refusal is there to be asked for until a
//! good set comes. Files that were written a moment ago may be half of a set, and are not complained about yet. The trust
//! document changes an identity as well: whom it believes ([`super::trusted`]). What a new
//! identity does to tunnels is not decided here.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_federation::{name::GatewayId, trust::Trust};
use causeway_host::watch::watch_folder;
use causeway_telemetry::log::in_one_line;
use tokio::{
    sync::{Notify, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    HeldIdentity, Identity, IdentityFileError, NewIdentity, SpiffeId,
    held::IdentityOrigin,
    install,
    peers::Peers,
    trusted::{Keeping, TrustView},
    workload_api::AgentStatus,
};
use crate::IdentityMetrics;

/// Interval at which the files are read without being told to: they may be links to files elsewhere.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// For so long after they were written, files that do not go together may be half of a set that is being replaced.
const SETTLING: Duration = Duration::from_secs(2);
/// Interval at which such files are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The identity in use, now and whenever it changes. Who it names never changes.
#[derive(Debug, Clone)]
pub struct LiveIdentity {
    pub(super) id: SpiffeId,
    pub(super) current: watch::Receiver<Arc<Identity>>,
    pub(super) refused: watch::Receiver<Option<String>>,
    pub(super) trust: watch::Receiver<Arc<TrustView>>,
    /// `None`: it does not come from the Workload API.
    pub(super) agent: Option<watch::Receiver<AgentStatus>>,
    pub(super) peers: Arc<Peers>,
}

impl LiveIdentity {
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    #[must_use]
    pub fn gateway(&self) -> &GatewayId {
        &self.id.gateway
    }

    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.id.trust_domain
    }

    #[must_use]
    pub fn current(&self) -> Arc<Identity> {
        self.current.borrow().clone()
    }

    /// Reason why the files as they are now, or what the Workload API said last, are not in use, in one line; `None`: they are.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.refused.borrow().clone()
    }

    /// The trust document in force, and how it stands.
    #[must_use]
    pub fn trust(&self) -> Arc<TrustView> {
        self.trust.borrow().clone()
    }

    /// State of the agent that this identity comes from; `None`: it comes from files.
    #[must_use]
    pub fn agent(&self) -> Option<AgentStatus> {
        Some(self.agent.as_ref()?.borrow().clone())
    }

    /// Waits until there is another identity than the one this handle last waited for. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.current.changed().await.is_err() {
            // Nobody is left who could change it.
            std::future::pending().await
        }
    }
}

/// One that never changes.
impl From<Arc<Identity>> for LiveIdentity {
    fn from(identity: Arc<Identity>) -> Self {
        Self {
            id: identity.id().clone(),
            current: watch::channel(identity).1,
            refused: watch::channel(None).1,
            trust: watch::channel(Arc::default()).1,
            agent: None,
            peers: Arc::default(),
        }
    }
}

impl From<Identity> for LiveIdentity {
    fn from(identity: Identity) -> Self {
        Self::from(Arc::new(identity))
    }
}

/// Reason why files that are in place are not in use.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    #[error("the files in {folder} are no identity", folder = folder.display())]
    Unusable {
        folder: PathBuf,
        #[source]
        source: IdentityFileError,
    },
    #[error("the certificate in {folder} names {found}, and this gateway is {own}; start the gateway anew to make it another",
        folder = folder.display())]
    OtherGateway {
        folder: PathBuf,
        found: Box<SpiffeId>,
        own: Box<SpiffeId>,
    },
    #[error("peers would refuse the certificate in {folder}", folder = folder.display())]
    Doubtful {
        folder: PathBuf,
        #[source]
        source: IdentityFileError,
    },
}

/// Outcome of reading the files again, or of another word of the Workload API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// They say what they said last.
    Unchanged,
    Taken,
    /// They cannot be used; the identity before them stays.
    Refused,
    /// They cannot be used, and were written so lately that the rest may follow.
    Unsettled,
}

/// A folder with an identity, and what is in use of it.
#[derive(Debug)]
pub struct IdentityFolder {
    folder: PathBuf,
    held: Arc<HeldIdentity>,
}

impl IdentityFolder {
    /// Reads the folder for the first time. Unlike later, an identity that peers would refuse is taken: a gateway that
    /// starts with one serves its own zone.
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and what to do.
    pub fn open(folder: &Path) -> Result<Self, IdentityFileError> {
        if let Err(error) = install::finish(folder) {
            tracing::error!(folder = %folder.display(), %error,
                "cannot finish a renewal that was interrupted; the identity before it stays in use");
        }
        let identity = Identity::load(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            held: Arc::new(HeldIdentity::new(
                identity,
                IdentityOrigin::Folder(folder.to_owned()),
            )),
        })
    }

    /// Identity in use, for those who change whom it believes.
    #[must_use]
    pub fn held(&self) -> &Arc<HeldIdentity> {
        &self.held
    }

    #[must_use]
    pub fn identity(&self) -> LiveIdentity {
        self.held.identity()
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Puts a new identity into the folder and takes it up. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be written; the identity before it stays in use.
    pub fn install(&self, new: &NewIdentity, now: SystemTime) -> io::Result<RefreshOutcome> {
        let keeping = self.held.changing.lock();
        new.install(&self.folder)?;
        Ok(self.read_again(&keeping, now, Duration::ZERO))
    }

    /// Reads the files again, and takes them up if they are good and new. Blocks on the disk.
    pub fn reload(&self, now: SystemTime) -> RefreshOutcome {
        let keeping = self.held.changing.lock();
        self.read_again(&keeping, now, Duration::ZERO)
    }

    /// As [`IdentityFolder::reload`], but waits for the rest of a set that is being written.
    fn reload_settled(&self, now: SystemTime) -> RefreshOutcome {
        let keeping = self.held.changing.lock();
        self.read_again(&keeping, now, SETTLING)
    }

    fn read_again(&self, keeping: &Keeping, now: SystemTime, settling: Duration) -> RefreshOutcome {
        let current = self.held.identity.borrow().clone();
        match self.check(&current, &keeping.trust, now) {
            Ok(found) => self.held.take_up(found),
            Err(error) => {
                let told = in_one_line(&error);
                let written = install::written_at(&self.folder);
                let fresh = written.is_some_and(|at| now.duration_since(at).is_ok_and(|ago| ago < settling));
                match fresh && !self.held.is_told(&told) {
                    true => RefreshOutcome::Unsettled,
                    false => self.held.refuse(told),
                }
            }
        }
    }

    fn check(&self, current: &Identity, trust: &Trust, now: SystemTime) -> Result<Identity, RenewalError> {
        let folder = || self.folder.clone();
        let found =
            crate::pem_files::load(&self.folder, trust, now).map_err(|source| RenewalError::Unusable {
                folder: folder(),
                source,
            })?;
        if found.id() != current.id() {
            return Err(RenewalError::OtherGateway {
                folder: folder(),
                found: Box::new(found.id().clone()),
                own: Box::new(current.id().clone()),
            });
        }
        if found.same_files(current) {
            // In use already, whatever has become of it since.
            return Ok(found);
        }
        match found.doubt {
            None => Ok(found),
            Some(source) => Err(RenewalError::Doubtful {
                folder: folder(),
                source,
            }),
        }
    }

    /// Takes up changes of the files until `stop`.
    pub async fn watch(self: Arc<Self>, metrics: Arc<IdentityMetrics>, stop: CancellationToken) {
        let changed = Arc::new(Notify::new());
        let watcher = watch_folder(&self.folder, changed.clone());
        if let Err(error) = &watcher {
            tracing::warn!(folder = %self.folder.display(), %error,
                "cannot watch the identity's folder; changes are noticed within {LOOK_EVERY:?}");
        }
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unsettled = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed.notified() => {}
                _ = look.tick() => {}
                () = tokio::time::sleep(LOOK_AGAIN), if unsettled => {}
            }
            let files = self.clone();
            let read = tokio::task::spawn_blocking(move || files.reload_settled(SystemTime::now())).await;
            unsettled = matches!(read, Ok(RefreshOutcome::Unsettled));
            match read {
                Ok(RefreshOutcome::Unchanged | RefreshOutcome::Unsettled) => {}
                Ok(RefreshOutcome::Taken) => metrics.identity_reloaded(true),
                Ok(RefreshOutcome::Refused) => metrics.identity_reloaded(false),
                Err(error) => tracing::error!(%error, "reading the identity again has failed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::{
        CERTIFICATE_FILE, KEY_FILE, ROOTS_FILE,
        ca::{self, LEAF_VALIDITY},
    };

    /// Longer than any wait of these tests takes when all is well.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn gateway(zone: &str) -> GatewayId {
        GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap())
    }

    fn authority() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        ca::init(folder.path(), "acme.internal").unwrap();
        folder
    }

    fn put(out: &Path, authority: &TempDir, zone: &str, validity: Duration) {
        ca::issue(authority.path(), &gateway(zone), out, validity).unwrap();
    }

    fn folder_of(authority: &TempDir) -> (TempDir, IdentityFolder) {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), authority, "east", LEAF_VALIDITY);
        let opened = IdentityFolder::open(folder.path()).unwrap();
        (folder, opened)
    }

    fn leaf(identity: &LiveIdentity) -> Vec<u8> {
        identity.current().chain[0].to_vec()
    }

    #[test]
    fn a_renewed_certificate_is_taken_up_once() {
        let authority = authority();
        let (folder, files) = folder_of(&authority);
        let identity = files.identity();
        let before = leaf(&identity);
        assert_eq!(files.reload(SystemTime::now()), RefreshOutcome::Unchanged);
        put(folder.path(), &authority, "east", LEAF_VALIDITY);
        assert_eq!(files.reload(SystemTime::now()), RefreshOutcome::Taken);
        assert_ne!(leaf(&identity), before);
        assert_eq!(files.reload(SystemTime::now()), RefreshOutcome::Unchanged);
    }

    /// Spoils a good set in a folder.
    type Spoil<'a> = (&'static str, &'a dyn Fn());

    #[test]
    fn a_bad_set_is_refused_while_the_old_one_stays_and_a_good_one_ends_that() {
        let (own, stranger) = (authority(), authority());
        let (folder, files) = folder_of(&own);
        let (identity, at) = (files.identity(), |name: &str| folder.path().join(name));
        let before = leaf(&identity);
        let good =
            [CERTIFICATE_FILE, KEY_FILE, ROOTS_FILE].map(|name| (at(name), fs::read(at(name)).unwrap()));
        let other = tempfile::tempdir().unwrap();
        put(other.path(), &own, "east", LEAF_VALIDITY);
        let bad: [Spoil<'_>; 5] = [
            ("another zone", &|| {
                put(folder.path(), &own, "west", LEAF_VALIDITY)
            }),
            ("another CA", &|| {
                put(folder.path(), &stranger, "east", LEAF_VALIDITY);
                fs::write(at(ROOTS_FILE), &good[2].1).unwrap();
            }),
            ("expired", &|| {
                put(folder.path(), &own, "east", Duration::from_secs(60))
            }),
            ("half", &|| {
                fs::copy(other.path().join(KEY_FILE), at(KEY_FILE)).unwrap();
            }),
            ("empty", &|| fs::write(at(CERTIFICATE_FILE), "").unwrap()),
        ];
        for (what, spoil) in bad {
            spoil();
            let later = SystemTime::now() + Duration::from_secs(3600);
            assert_eq!(files.reload(later), RefreshOutcome::Refused, "{what}");
            assert_eq!(
                files.reload(later),
                RefreshOutcome::Unchanged,
                "{what} is told once"
            );
            assert!(identity.refused().is_some());
            assert_eq!(leaf(&identity), before, "{what}");
            for (path, text) in &good {
                fs::write(path, text).unwrap();
            }
            assert_eq!(files.reload(later), RefreshOutcome::Unchanged);
            assert_eq!(identity.refused(), None);
        }
    }

    #[test]
    fn half_a_set_is_complained_about_only_when_the_rest_does_not_come() {
        let authority = authority();
        let (folder, files) = folder_of(&authority);
        let other = tempfile::tempdir().unwrap();
        put(other.path(), &authority, "east", LEAF_VALIDITY);
        let copy = |name| fs::copy(other.path().join(name), folder.path().join(name)).unwrap();
        copy(KEY_FILE);
        let now = SystemTime::now();
        assert_eq!(files.reload_settled(now), RefreshOutcome::Unsettled);
        assert_eq!(files.identity().refused(), None);
        assert_eq!(files.reload_settled(now + 2 * SETTLING), RefreshOutcome::Refused);
        copy(CERTIFICATE_FILE);
        assert_eq!(files.reload_settled(now), RefreshOutcome::Taken);
    }

    #[tokio::test]
    async fn changed_files_are_noticed() {
        let authority = authority();
        let (folder, files) = folder_of(&authority);
        let mut identity = files.identity();
        let stop = CancellationToken::new();
        let _ending = stop.clone().drop_guard();
        tokio::spawn(Arc::new(files).watch(Arc::default(), stop));
        put(folder.path(), &authority, "east", LEAF_VALIDITY);
        tokio::time::timeout(PATIENCE, identity.changed()).await.unwrap();
    }
}
