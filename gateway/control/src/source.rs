//! Source of the topology in force, and its text: the same questions of a file, of what was applied, and of somebody
//! who holds it in memory.

use std::sync::Arc;

use causeway_federation::topology::Topology;
use tokio::sync::watch;

use crate::{reload::TopologyFile, topology::AppliedTopology};

/// Source of a gateway's topology. Clones share it.
#[derive(Debug, Clone)]
pub enum TopologySource {
    /// A file (`--topology`), which is followed; nothing can be applied.
    File(Arc<TopologyFile>),
    /// Topology that was applied last, beginning with an initial topology.
    Applied(AppliedTopology),
    /// Whoever holds the sender; there is no text, and nothing can be applied.
    Held(watch::Receiver<Arc<Topology>>),
}

impl TopologySource {
    /// The topology in force, now and whenever it changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Topology>> {
        match self {
            Self::File(file) => file.topology(),
            Self::Applied(applied) => applied.topology(),
            Self::Held(topology) => topology.clone(),
        }
    }

    /// The topology in force now.
    #[must_use]
    pub fn current(&self) -> Arc<Topology> {
        self.subscribe().borrow().clone()
    }

    /// Returns the applied topologies, if this is where topologies can be applied.
    #[must_use]
    pub fn applied(&self) -> Option<&AppliedTopology> {
        match self {
            Self::Applied(applied) => Some(applied),
            Self::File(_) | Self::Held(_) => None,
        }
    }

    /// The text of the topology in force, whatever became of a file since it was read; `None`: it is not known here.
    #[must_use]
    pub fn text(&self) -> Option<Arc<str>> {
        match self {
            Self::File(file) => file.text(),
            Self::Applied(applied) => {
                let view = applied.view();
                let document = view.applied.document().map(|document| document.text().clone());
                document.or_else(|| applied.initial_text())
            }
            Self::Held(_) => None,
        }
    }
}
