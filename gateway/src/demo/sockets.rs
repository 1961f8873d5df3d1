//! Folder for the sockets of the demo's admin APIs, over which the commands of this host change something.

use std::{
    env,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
};

use causeway_federation::name::GatewayId;

/// Removed with all in it when it is dropped.
#[derive(Debug)]
pub(super) struct SocketFolder(PathBuf);

impl SocketFolder {
    /// Makes one of its own, for its owner alone; `None`: there is no place for it, and the demo goes on without.
    pub(super) fn make() -> Option<Self> {
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let mut places = runtime.into_iter().chain([env::temp_dir()]);
        places.find_map(|place| {
            let folder = place.join(format!("causeway-demo-{:016x}", rand::random::<u64>()));
            // Never one that somebody else has made.
            DirBuilder::new().mode(0o700).create(&folder).ok()?;
            Some(Self(folder))
        })
    }

    pub(super) fn socket(&self, gateway: &GatewayId) -> PathBuf {
        self.0.join(format!("{}-{}.sock", gateway.zone, gateway.gateway))
    }
}

impl Drop for SocketFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
