//! The start: what is on disk, or the topology to begin with.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use causeway_federation::{
    name::GatewayId,
    topology::{
        Parsed,
        applied::{Applied, Own, StoredTopology, TopologyRefusal},
    },
};
use causeway_host::files::make_private_folder;
use causeway_zone_sync::topology::applied::{TopologyFileError, TopologyStore};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{AppliedTopology, Disk, Inner, Keys, RulingTopology, Work, words};
use crate::ControlMetrics;
use crate::reload::{LoadError, load};

/// Settings that a gateway which is ruled by applied topologies starts from.
#[derive(Debug, Clone)]
pub struct AppliedConfig {
    pub id: GatewayId,
    /// Of this gateway's certificate.
    pub trust_domain: String,
    pub keys: Keys,
    /// Rules until something is applied; not even read after that.
    pub initial: Option<PathBuf>,
    /// Folder in which applied topologies outlive a restart; `None`: they do not.
    pub data_dir: Option<PathBuf>,
    pub metrics: Arc<ControlMetrics>,
}

/// Reason why there is no topology to start with.
#[derive(Debug, thiserror::Error)]
pub enum TopologyOpenError {
    #[error("cannot use the data directory {}", path.display())]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the applied topologies in {}", path.display())]
    Store {
        path: PathBuf,
        #[source]
        source: TopologyFileError,
    },
    #[error("nothing was applied here yet, and there is no topology to start from")]
    Nothing,
    #[error("nothing was applied here yet, and the topology to start from cannot be used")]
    Initial(#[source] LoadError),
    #[error("this program can use none of the topologies that were applied here")]
    Unusable(#[source] Option<TopologyRefusal>),
}

impl AppliedTopology {
    /// Reads what was applied before and, if there is nothing, the initial topology. Blocks on files.
    ///
    /// # Errors
    /// When neither can be used.
    pub fn open(config: AppliedConfig) -> Result<Self, TopologyOpenError> {
        let (disk, stored) = match &config.data_dir {
            None => (Disk::Absent, StoredTopology::default()),
            Some(folder) => open_disk(folder)?,
        };
        let initial = initial(&config, stored.documents.is_empty())?;
        let own = Own {
            zone: config.id.zone.clone(),
            trust_domain: config.trust_domain,
        };
        let text = initial.as_ref().map(|parsed| parsed.warnings.text().clone());
        let applied = Applied::new(own, initial.map(|parsed| parsed.topology), stored);
        words::begun(&applied);
        Self::begin(config.id, config.keys, (applied, disk), text, config.metrics)
    }

    /// One that begins with `initial` and keeps nothing on disk.
    ///
    /// # Errors
    /// Never: an initial topology rules.
    pub fn in_memory(
        id: GatewayId,
        keys: Keys,
        initial: Parsed,
        metrics: Arc<ControlMetrics>,
    ) -> Result<Self, TopologyOpenError> {
        let own = Own {
            zone: id.zone.clone(),
            trust_domain: initial.topology.trust_domain.clone(),
        };
        let text = initial.warnings.text().clone();
        let applied = Applied::new(own, Some(initial.topology), StoredTopology::default());
        Self::begin(id, keys, (applied, Disk::Absent), Some(text), metrics)
    }

    fn begin(
        id: GatewayId,
        keys: Keys,
        (applied, disk): (Applied, Disk),
        initial_text: Option<Arc<str>>,
        metrics: Arc<ControlMetrics>,
    ) -> Result<Self, TopologyOpenError> {
        let Some(topology) = applied.topology().cloned() else {
            let why = applied.refused().last().map(|(_, refused)| refused.why.clone());
            return Err(TopologyOpenError::Unusable(why));
        };
        let view = RulingTopology {
            applied: applied.clone(),
            disk_fails: false,
        };
        Ok(Self(Arc::new(Inner {
            by: id,
            keys,
            work: Mutex::new(Work { applied, disk }),
            initial_text,
            topology: watch::Sender::new(topology),
            view: watch::Sender::new(Arc::new(view)),
            rivals: watch::Sender::default(),
            metrics,
        })))
    }
}

fn open_disk(folder: &Path) -> Result<(Disk, StoredTopology), TopologyOpenError> {
    make_private_folder(folder).map_err(|source| TopologyOpenError::DataDir {
        path: folder.to_owned(),
        source,
    })?;
    let (store, stored) = store(folder).map_err(|source| TopologyOpenError::Store {
        path: folder.to_owned(),
        source,
    })?;
    let folder = folder.to_owned();
    Ok((Disk::Open { store, folder }, stored))
}

/// Opens the file, and says so when a damaged one had to be set aside.
pub(super) fn store(folder: &Path) -> Result<(TopologyStore, StoredTopology), TopologyFileError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs());
    let (store, stored, aside) = TopologyStore::open(folder, seconds)?;
    if let Some(aside) = aside {
        tracing::error!(kept_as = %aside.kept.display(), error = &aside.why as &dyn std::error::Error,
            "the file of applied topologies is damaged and was set aside; the other gateways are asked for what is in force");
    }
    Ok((store, stored))
}

/// The topology to start from. Once something was applied it is only a fallback, and a bad one is no error.
fn initial(config: &AppliedConfig, needed: bool) -> Result<Option<Parsed>, TopologyOpenError> {
    let Some(path) = &config.initial else {
        return if needed {
            Err(TopologyOpenError::Nothing)
        } else {
            Ok(None)
        };
    };
    match load(path) {
        Ok(parsed) => {
            if needed && !parsed.warnings.is_empty() {
                tracing::warn!(file = %path.display(), found = %parsed.warnings.summary(),
                    "the initial topology is in force, but `causeway validate` has something to say about it");
            }
            Ok(Some(parsed))
        }
        Err(error) if needed => Err(TopologyOpenError::Initial(error)),
        Err(error) => {
            tracing::info!(file = %path.display(), found = %error.summary(),
                "the initial topology cannot be used, and is not needed: one was applied");
            Ok(None)
        }
    }
}
