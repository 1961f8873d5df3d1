//! Sources that instances come from by themselves: a watched folder of YAML files, and DNS.
//!
//! Adding a source: work out all that it knows, whenever that changes, and give it to a [`SourceFeed`]; the registry works out
//! what that adds, changes and removes, and keeps other sources out of it. Say in [`Troubles`] what does not work, for
//! `causeway check`, and keep what was known until it is known to be gone. Decide in a pure value, as
//! `folder::files` and, with the time as an argument, `dns::polls` do, and leave a thin task around it, whose name stands in
//! gateway/tests/cli/tasks.rs. It needs a variant of its own of `InstanceSource`, whose comment says what that takes: two feeds
//! of one would take out each other's instances. What an operator sets for it is a field of [`SourcesConfig`], which
//! `start_sources` in gateway/src/gateway/start.rs fills from the gateway's configuration; ARCHITECTURE.md says where a flag
//! goes. A program outside the gateway does the same with `PUT /v1/sources/NAME` or the gRPC call `Replace`.

mod dns;
mod feed;
mod folder;

use std::{path::PathBuf, sync::Arc, time::Duration};

use causeway_dns::HostResolver;
use causeway_federation::{name::ZoneName, topology::Topology};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use feed::{SourceFeed, Troubles};

use crate::Instances;

/// Longest that a start waits for the folder's instances to be taken in, so that it is not without them at first.
const MAX_FIRST_READ: Duration = Duration::from_secs(5);

/// Settings that the sources of one gateway are started with.
#[derive(Debug)]
pub struct SourcesConfig {
    pub zone: ZoneName,
    pub topology: watch::Receiver<Arc<Topology>>,
    /// `None`: no folder is watched.
    pub folder: Option<PathBuf>,
    pub resolver: HostResolver,
}

/// Reads the folder once, and has the tasks spawned that follow it and DNS, each under its name. Returns what they have to
/// complain of.
pub async fn start(
    config: SourcesConfig,
    instances: &Instances,
    spawn: impl Fn(&'static str, BoxFuture<'static, ()>),
) -> Troubles {
    let troubles = Troubles::default();
    if let Some(folder) = config.folder {
        let mut source = folder::FolderSource::new(folder, instances.clone(), troubles.clone());
        // What takes longer, because the registry is shared and away, is done by the task below.
        let _ = tokio::time::timeout(MAX_FIRST_READ, source.read()).await;
        spawn("folder of instances", Box::pin(source.follow()));
    }
    let asking = dns::follow(
        config.zone,
        config.topology,
        config.resolver,
        instances.clone(),
        troubles.clone(),
    );
    spawn("instances from DNS", Box::pin(asking));
    troubles
}

#[cfg(test)]
mod tests;
