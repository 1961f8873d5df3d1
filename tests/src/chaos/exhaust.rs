//! Takes from a zone what its gateway lives on: descriptors, room on the disk of its `--data`, ports to connect from.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
    process::Command,
};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::zones::Zones;

/// Descriptors that a gateway may still open.
const DESCRIPTORS_LEFT: u64 = 4;
/// Ports to connect from: all that there are, and the few that are left.
const PORTS: &str = "32768 60999";
const FEW_PORTS: &str = "32768 32771";
/// File that takes all the room of a disk.
const FILLER: &str = "filler";
/// Bytes that are written at once.
const BLOCK: usize = 64 * 1024;
/// Most blocks of a filler: the disk of a zone is small, and this program may not fill another.
const MOST_BLOCKS: usize = 4096;

/// Lets the gateway of a zone open hardly any more descriptors, or as many as this program again.
///
/// # Errors
/// When the gateway is gone.
pub(super) fn set_descriptors(zones: &Zones, zone: &str, scarce: bool) -> anyhow::Result<()> {
    let gateway = zones.gateway(zone)?;
    let pid = i32::try_from(gateway.pid()).ok().and_then(Pid::from_raw);
    let usual = getrlimit(Resource::Nofile);
    let current = match scarce {
        true => {
            let (open, _) = gateway.descriptors_and_threads()?;
            Some(u64::try_from(open)? + DESCRIPTORS_LEFT)
        }
        false => usual.maximum,
    };
    let limit = Rlimit {
        current,
        maximum: usual.maximum,
    };
    prlimit(pid, Resource::Nofile, limit).with_context(|| format!("limit the descriptors of {zone}"))?;
    Ok(())
}

/// Fills the disk with the data of a zone's gateway, or frees it.
///
/// # Errors
/// When the disk is none of its own, or takes more than a test may write.
pub(super) fn set_disk_full(zones: &Zones, zone: &str, full: bool) -> anyhow::Result<()> {
    let filler = zones.folder().join(zone).join("data").join(FILLER);
    if !full {
        return fs::remove_file(&filler).context("free the disk");
    }
    fill(&filler).with_context(|| format!("fill the disk of {zone}"))
}

fn fill(filler: &Path) -> anyhow::Result<()> {
    let mut file = File::create(filler)?;
    let block = [0; BLOCK];
    for _ in 0..MOST_BLOCKS {
        match file.write_all(&block) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    fs::remove_file(filler)?;
    anyhow::bail!("it is larger than {MOST_BLOCKS} blocks of {BLOCK} bytes")
}

/// Leaves a zone hardly a port to connect from, or all.
///
/// # Errors
/// When its namespace does not allow that.
pub(super) fn set_ports(zones: &Zones, zone: &str, scarce: bool) -> anyhow::Result<()> {
    let range = if scarce { FEW_PORTS } else { PORTS };
    let mut command: Command = zones.zone(zone)?.place.command(Path::new("sh"));
    let script = format!("echo '{range}' > /proc/sys/net/ipv4/ip_local_port_range");
    let output = command.args(["-c", &script]).output().context("run sh")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "set the ports of {zone}: {said}");
    Ok(())
}
