//! Drains of single instances: a fact of the zone's own registry, whatever an instance came from, which outlives a restart of the gateway and
//! of the instance. Instances never leave their zone, so nothing of it is in the topology; other zones see fewer that are healthy.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_federation::{
    name::ServiceName,
    registry::{InstanceKey, RegistryError},
    topology::Drain,
};
use causeway_host::files::{PRIVATE, replace_file, set_aside};
use causeway_zone_sync::registry::Durability;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc::WeakSender, oneshot};

use crate::{Instances, task::InstancesCommand};

/// The file in the data directory.
pub(crate) const DRAINS_FILE: &str = "drains.json";
/// Most instances of a zone that are drained at once; of those that are gone, the ones that have been for longest make room.
pub(crate) const MAX_DRAINS: usize = 10_000;
/// Largest file in bytes: 512 for each, twice what the longest names take.
const MAX_FILE_BYTES: u64 = 512 * MAX_DRAINS as u64;
const VERSION: u32 = 1;

/// Time between two looks for instances that are gone.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
/// Looks in a row at which an instance is not there until its drain is forgotten: 7 days, longer than a host is away for repair. Looks are
/// counted and not time, so that neither a clock that is set nor a gateway that was away makes one gone.
pub(crate) const MAX_ABSENT_LOOKS: u32 = 7 * 24;

/// An instance that is drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DrainedInstance {
    pub(crate) drain: Drain,
    /// Looks since it was there last.
    pub(crate) absent_looks: u32,
}

impl DrainedInstance {
    /// One that is there.
    pub(crate) fn new(drain: Drain) -> Self {
        Self {
            drain,
            absent_looks: 0,
        }
    }
}

/// Instances that are drained.
pub(crate) type DrainedInstances = BTreeMap<InstanceKey, DrainedInstance>;

#[derive(Debug, Serialize, Deserialize)]
struct StoredDrains {
    version: u32,
    drains: Vec<StoredDrain>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredDrain {
    service: ServiceName,
    id: String,
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    absent_hours: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The file of drains, which one writer has at a time.
#[derive(Debug, Clone)]
pub(crate) struct DrainFile(Arc<Mutex<Option<PathBuf>>>);

impl DrainFile {
    /// Reads what is there; a file that cannot be used is set aside, and nothing is drained then. Blocks on the disk.
    pub(crate) fn open(folder: Option<&Path>, unix_seconds: u64) -> (Self, DrainedInstances) {
        let path = folder.map(|folder| folder.join(DRAINS_FILE));
        let known = path.as_deref().map(|path| {
            read(path).unwrap_or_else(|error| {
                tracing::error!(file = %path.display(), %error,
                    "the drains of instances cannot be read and are set aside: no instance is drained now");
                // What cannot be set aside is replaced by the next drain.
                let _ = set_aside(path, unix_seconds);
                DrainedInstances::new()
            })
        });
        let known = known.unwrap_or_default();
        (Self(Arc::new(Mutex::new(path))), known)
    }
}

fn read(path: &Path) -> io::Result<DrainedInstances> {
    let about = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DrainedInstances::new()),
        about => about?,
    };
    if about.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!(
            "it is longer than {MAX_FILE_BYTES} bytes"
        )));
    }
    let stored: StoredDrains = serde_json::from_slice(&fs::read(path)?)?;
    if stored.version != VERSION || stored.drains.len() > MAX_DRAINS {
        return Err(io::Error::other("it is of another version of this program"));
    }
    let drains = stored.drains.into_iter().map(|stored| {
        let by = stored.by.map(Duration::from_secs);
        let by = by.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
        let drained = DrainedInstance {
            drain: Drain { by },
            absent_looks: stored.absent_hours,
        };
        (super::key(&stored.service, &stored.id), drained)
    });
    Ok(drains.collect())
}

fn write(path: &Path, drains: &DrainedInstances) -> io::Result<()> {
    let seconds = |by: SystemTime| {
        by.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    };
    let drains = drains.iter().map(|(key, drained)| StoredDrain {
        service: key.service.clone(),
        id: key.id.clone(),
        by: drained.drain.by.map(seconds),
        absent_hours: drained.absent_looks,
    });
    let stored = StoredDrains {
        version: VERSION,
        drains: drains.collect(),
    };
    replace_file(path, serde_json::to_vec_pretty(&stored)?, PRIVATE)
}

impl Instances {
    /// Has nothing new go to an instance, or with `None` has it serve again. `even_the_last`: also if no other of its service takes traffic in
    /// this zone. Returns when that is on disk, or is known not to be; it is in force either way.
    ///
    /// # Errors
    /// When there is no such instance, it is the last one that takes traffic, or the gateway is shutting down.
    pub async fn drain(
        &self,
        key: InstanceKey,
        drain: Option<Drain>,
        even_the_last: bool,
    ) -> Result<Durability, RegistryError> {
        if self.attach.is_some() {
            return Err(RegistryError::SharedDrain);
        }
        // Held until it is written, so that a later one is never overwritten by an earlier one.
        let file = self.drains.0.lock().await;
        let all = self.ask(|reply| InstancesCommand::Drain {
            key,
            drain,
            even_the_last,
            reply,
        });
        let all = all.await??;
        Ok(store(file.clone(), all).await)
    }
}

/// Writes all drains, where there is a folder for them.
async fn store(path: Option<PathBuf>, all: DrainedInstances) -> Durability {
    let Some(path) = path else {
        return Durability::NoStore;
    };
    let written = tokio::task::spawn_blocking(move || write(&path, &all)).await;
    match written.map_err(io::Error::other) {
        Ok(Ok(())) => Durability::Durable,
        Ok(Err(error)) | Err(error) => {
            tracing::error!(%error, "the drains of instances cannot be written: a restart would not know of the latest");
            Durability::WriteFailed
        }
    }
}

/// Looks after each such time which drained instances are gone, until there is nobody to ask any more; then it waits for ever.
pub(crate) async fn keep_forgetting(
    every: Duration,
    file: DrainFile,
    commands: WeakSender<InstancesCommand>,
) {
    loop {
        tokio::time::sleep(every).await;
        if look(&file, &commands).await.is_none() {
            return std::future::pending().await;
        }
    }
}

/// Has the table look once, and writes what has changed; `None`: nobody answers.
async fn look(file: &DrainFile, commands: &WeakSender<InstancesCommand>) -> Option<()> {
    let file = file.0.lock().await;
    let (reply, answer) = oneshot::channel();
    let commands = commands.upgrade()?;
    commands
        .send(InstancesCommand::LookAtDrains { reply })
        .await
        .ok()?;
    drop(commands);
    if let Some(all) = answer.await.ok()? {
        store(file.clone(), all).await;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drains_are_read_as_they_were_written_and_what_is_no_such_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DRAINS_FILE);
        let (_, none) = DrainFile::open(Some(folder.path()), 1);
        assert!(none.is_empty());
        let orders = ServiceName::new("orders").unwrap();
        let by = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let drains = DrainedInstances::from([
            (
                super::super::key(&orders, "10.0.0.1:80"),
                DrainedInstance::new(Drain { by: Some(by) }),
            ),
            (
                super::super::key(&orders, "10.0.0.2:80"),
                DrainedInstance {
                    drain: Drain { by: None },
                    absent_looks: 3,
                },
            ),
        ]);
        write(&path, &drains).unwrap();
        assert_eq!(DrainFile::open(Some(folder.path()), 2).1, drains);
        for (bad, at) in ["", "{}", r#"{"version":2,"drains":[]}"#].into_iter().zip(42..) {
            fs::write(&path, bad).unwrap();
            assert!(DrainFile::open(Some(folder.path()), at).1.is_empty(), "{bad}");
            let kept = path.with_extension(format!("json.corrupt-{at}"));
            assert!(!path.exists() && fs::read_to_string(kept).unwrap() == bad);
        }
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 3, "a later one does not take the place of an earlier one");
    }
}
