//! Traffic while zones fail: instances that serve, one that sends more than anybody reads and one that reads nothing, and a
//! load of new connections of which each instance says what it was given. A connection may be lost here, for the client's own
//! gateway is killed too; but no instance may ever be given what another was given.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};

use super::zones::Zones;
use crate::{process::Process, wait::until};

/// Zones with an instance that answers, in the order of their tiers.
const SERVING: [&str; 2] = ["west", "north"];
/// The zone with the instances that clients hang on.
const HUNG: &str = "south";
/// The zone of the clients, and their rate.
const CLIENTS: &str = "east";
const PER_SECOND: &str = "20";
/// More than any window.
const DOWNLOAD_BYTES: &str = "1000000000";
/// Longest wait for the instances to serve.
const BEGIN_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait of the load for its last connections.
const END_WITHIN: Duration = Duration::from_secs(30);

/// Traffic under way. Dropping it ends it.
#[derive(Debug)]
pub struct Traffic {
    _instances: Vec<Process>,
    load: Process,
    stop: PathBuf,
}

impl Traffic {
    /// Starts instances, and once they serve, clients of them.
    ///
    /// # Errors
    /// When a program cannot be started.
    ///
    /// # Panics
    /// When the instances do not serve in time.
    pub async fn start(zones: &Zones) -> anyhow::Result<Self> {
        let mut instances = vec![
            zones.start_probe(HUNG, &["download", "127.0.0.1:9200", DOWNLOAD_BYTES])?,
            zones.start_probe(HUNG, &["sink", "127.0.0.1:9300"])?,
        ];
        let mut records = Vec::new();
        for zone in SERVING {
            let record = zones.folder().join(format!("{zone}.record"));
            let record = record.to_str().context("the folder's name is text")?.to_owned();
            instances.push(zones.start_probe(zone, &["instance", zone, "127.0.0.1:9100", &record])?);
            records.push(record);
        }
        for record in &records {
            let written = async || Path::new(record).exists().then_some(());
            until("the instances record what they are given", BEGIN_WITHIN, written).await;
        }
        let stop = zones.folder().join("stop");
        let shown = stop.to_str().context("the folder's name is text")?;
        let mut load = vec!["load", "echo.mesh:9100", PER_SECOND, shown, "--given-twice"];
        load.extend(records.iter().map(String::as_str));
        let load = zones.start_probe(CLIENTS, &load)?;
        Ok(Self {
            _instances: instances,
            load,
            stop,
        })
    }

    /// Ends the load and returns what became of it, in words.
    ///
    /// # Errors
    /// When an instance was given what another was given, or nobody was served.
    pub async fn judge(mut self) -> anyhow::Result<String> {
        fs::write(&self.stop, "").context("tell the load to stop")?;
        let status = self.load.wait(END_WITHIN).await;
        let said = self.load.log();
        ensure!(status.success(), "the load ended with {status}: {said}");
        Ok(said.trim_end().to_owned())
    }
}
