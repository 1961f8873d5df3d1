//! Traffic while zones fail: instances that serve, one that sends more than anybody reads and one that reads nothing, and a
//! load of new connections of which each instance says what it was given. A connection may be lost here, for the client's own
//! gateway is killed too; but no instance may ever be given what another was given.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context;

use super::{schedule::CALM, zones::Zones};
use crate::{
    process::Process,
    wait::until,
    waits::{Wait, longest_after},
};

/// Zones with an instance that answers, in the order of their tiers.
const SERVING: [&str; 3] = ["west", "north", CALM];
/// The zone with the instances that clients hang on.
const HUNG: &str = "south";
/// Zones of the clients, with the promises that are kept to them, and their rate. The gateway of the first fails too; to the
/// other one both are kept, with the longest wait of a client in milliseconds.
const CLIENTS: [(&str, &[&str]); 2] = [("east", &["--given-twice"]), (CALM, &["--limit", "5000"])];
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
    loads: Vec<(&'static str, Process)>,
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
        let mut loads = Vec::new();
        for (zone, promises) in CLIENTS {
            let mut load = vec!["load", "echo.mesh:9100", PER_SECOND, shown];
            load.extend(promises);
            load.extend(records.iter().map(String::as_str));
            loads.push((zone, zones.start_probe(zone, &load)?));
        }
        Ok(Self {
            _instances: instances,
            loads,
            stop,
        })
    }

    /// Ends the load and returns what became of it, in words, with the longest wait after one of `restarts`, and the promises
    /// that were broken.
    ///
    /// # Errors
    /// When it cannot be told to end.
    pub async fn judge(mut self, restarts: &[SystemTime]) -> anyhow::Result<(String, Vec<String>)> {
        fs::write(&self.stop, "").context("tell the load to stop")?;
        let (mut words, mut broken) = (Vec::new(), Vec::new());
        for (zone, load) in &mut self.loads {
            let status = load.wait(END_WITHIN).await;
            let log = load.log();
            let told = log.lines().filter(|line| Wait::parse(line).is_none());
            let told: Vec<&str> = told.collect();
            words.push(format!("clients in {zone}: {}", told.join("\n").trim_end()));
            if *zone == CALM {
                let longest = longest_after(restarts, log.lines().filter_map(Wait::parse));
                let longest = longest.map_or_else(|| "under 100 ms".to_owned(), |wait| format!("{wait:?}"));
                words.push(format!(
                    "clients in {zone} after {} restarts of other gateways: longest wait {longest}",
                    restarts.len()
                ));
            }
            if !status.success() {
                broken.push(format!("the load of {zone} ended with {status}"));
            }
        }
        Ok((words.join("\n"), broken))
    }
}
