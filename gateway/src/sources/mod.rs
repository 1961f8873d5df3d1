//! Where instances come from by themselves: a watched folder of YAML files, and DNS.
//!
//! Adding a source: work out all that it knows, whenever that changes, and give it to a [`Feed`]; the registry works out
//! what that adds, changes and removes, and keeps other sources out of it. Say in [`Troubles`] what does not work, for
//! `causeway check`, and keep what was known until it is known to be gone. Decide in a value that is told the time, as
//! `dns::polls` and `folder::files` do, and leave a thin task around it. A program outside the gateway does the same
//! with `PUT /v1/sources/NAME` or the gRPC call `Replace`.

mod dns;
mod feed;
mod folder;

use std::{path::PathBuf, sync::Arc, time::Duration};

use causeway_zone_sync::{name::ZoneName, topology::Topology};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use feed::{Feed, Troubles};

use crate::{dns::Resolver, instances::Instances};

/// Longest that a start waits for the folder's instances to be taken in, so that it is not without them at first.
const MAX_FIRST_READ: Duration = Duration::from_secs(5);

/// What the sources of one gateway are started with.
#[derive(Debug)]
pub struct SourcesConfig {
    pub zone: ZoneName,
    pub topology: watch::Receiver<Arc<Topology>>,
    /// `None`: no folder is watched.
    pub folder: Option<PathBuf>,
    pub resolver: Resolver,
}

/// Reads the folder once, and starts the tasks that follow it and DNS until `stop`. Returns what they have to complain of.
pub async fn start(
    config: SourcesConfig,
    instances: &Instances,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Troubles {
    let troubles = Troubles::default();
    if let Some(folder) = config.folder {
        let mut source = folder::FolderSource::new(folder, instances.clone(), troubles.clone());
        // What takes longer, because the registry is shared and away, is done by the task below.
        let _ = tokio::time::timeout(MAX_FIRST_READ, source.read()).await;
        tasks.spawn(source.follow(stop.clone()));
    }
    let asking = dns::follow(
        config.zone,
        config.topology,
        config.resolver,
        instances.clone(),
        troubles.clone(),
    );
    tasks.spawn(stop.clone().run_until_cancelled_owned(asking));
    troubles
}

#[cfg(test)]
mod tests;
