//! The registry that the gateways of one zone share: etcd and a `causeway zone-sync`, both in the hub, where no fault meets them.
//! What it is like when they fail is for the tests of the shared registry.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;

use super::zones::Programs;
use crate::{etcd::Etcd, http, process::Process, wait::until_true};

/// The zone that has it.
pub(super) const ZONE: &str = "trio";
/// Address in the hub where gateways attach.
pub(super) const ADDRESS: &str = "10.80.0.1:7820";
const ADMIN: &str = "127.0.0.1:7821";
/// Longest wait for it to serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both processes. Dropping it ends them.
#[derive(Debug)]
pub struct SharedRegistry {
    _etcd: Etcd,
    _zone_sync: Process,
}

impl SharedRegistry {
    /// Starts both and waits until they serve.
    ///
    /// # Errors
    /// When one of them cannot be started.
    ///
    /// # Panics
    /// When they do not serve in time.
    pub async fn start(programs: &Programs, folder: &Path) -> anyhow::Result<Self> {
        let etcd = Etcd::start(1).await?;
        let mut command = std::process::Command::new(&programs.causeway);
        command
            .args(["zone-sync", "--zone", ZONE, "--etcd", &etcd.addresses().join(",")])
            .args(["--listen", ADDRESS, "--insecure", "--admin", ADMIN]);
        let zone_sync = Process::start("zone-sync", &mut command, &folder.join("zone-sync.log"))?;
        let admin: SocketAddr = ADMIN.parse().context("an address")?;
        until_true("zone sync is ready", PATIENCE, async || {
            http::get(admin, "/readyz")
                .await
                .is_ok_and(|answer| answer.status == 200)
        })
        .await;
        Ok(Self {
            _etcd: etcd,
            _zone_sync: zone_sync,
        })
    }
}
