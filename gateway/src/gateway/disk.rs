//! Checks of what the gateway writes: room in the file system of `--data`, seen before the first write fails, the file of the
//! audit log, and the lines that others read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use causeway_api::ApiMetrics;
use causeway_instances::Instances;
use causeway_telemetry::{AccessLog, Check, log};
use causeway_zone_sync::service::Disk;
use rustix::fs::statvfs;

use super::sync_status::SyncView;

/// Room below which an operator is warned whatever the size of the file system, in bytes: some ten times what one gateway writes.
const FEWEST_BYTES: u64 = 64 << 20;
/// Room at which nobody is warned, however small a share of the file system it is, in bytes.
const ENOUGH_BYTES: u64 = 1 << 30;
/// Files below which an operator is warned: each change makes one anew before it takes the place of the old one.
const FEWEST_FILES: u64 = 1_000;
/// Parts of a file system of which the last one free is too few.
const PARTS: u64 = 100;

/// Room in a file system for somebody without privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    bytes: u64,
    all_bytes: u64,
    files: u64,
    /// 0: it has no limit on files.
    all_files: u64,
}

impl Room {
    /// `None`: it cannot be found out, which is left to the first write to tell.
    fn of(folder: &Path) -> Option<Self> {
        let found = statvfs(folder).ok()?;
        Some(Self {
            bytes: found.f_bavail.saturating_mul(found.f_frsize),
            all_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            files: found.f_favail,
            all_files: found.f_files,
        })
    }

    /// Words for what is scarce; `None`: nothing is.
    fn shortage(self) -> Option<String> {
        let is_small_share = self.bytes < ENOUGH_BYTES && self.bytes < self.all_bytes / PARTS;
        let (free, all) = (self.bytes >> 20, self.all_bytes >> 20);
        if self.bytes < FEWEST_BYTES {
            let least = FEWEST_BYTES >> 20;
            return Some(format!(
                "{free} MiB of {all} MiB are free, less than the {least} MiB that a gateway should have"
            ));
        }
        if is_small_share {
            return Some(format!("{free} MiB of {all} MiB are free, less than 1 %"));
        }
        let few = self.all_files > 0 && self.files < FEWEST_FILES.min(self.all_files / PARTS);
        few.then(|| format!("room for {} of {} files is free", self.files, self.all_files))
    }
}

/// Check that what must outlive a restart is written, and that there is room for it.
pub(super) fn check(
    sync: SyncView,
    registered: Instances,
    data: Option<PathBuf>,
) -> impl Fn() -> Check + Send + Sync {
    move || match sync.status().map(|status| status.disk) {
        _ if registered.is_store_failing() => Check::warn(
            "gateway",
            "disk",
            "registrations cannot be written to disk; a restart would forget those of late",
            "is the --data folder full or read-only? it is tried again every few seconds",
        ),
        Some(Disk::Failing) => Check::warn(
            "gateway",
            "disk",
            "the catalog cannot be written to disk; a restart would serve an older one",
            "is the --data folder full or read-only?",
        ),
        Some(Disk::Working | Disk::Absent) | None => room(data.as_deref().and_then(Room::of)),
    }
}

fn room(found: Option<Room>) -> Check {
    match found.and_then(Room::shortage) {
        Some(shortage) => Check::warn(
            "gateway",
            "disk",
            format!(
                "what must outlive a restart is written, and there is little room in the file system of --data: {shortage}"
            ),
            "make room, or move --data: once it is full nothing can be registered or applied",
        ),
        None => Check::ok("gateway", "disk", "what must outlive a restart is written"),
    }
}

/// The file of the audit log. A line that is lost stays lost, so it is told until the gateway is started again.
pub(super) fn audit(metrics: Arc<ApiMetrics>) -> impl Fn() -> Check + Send + Sync {
    move || {
        let lines = metrics.audit_lines();
        match lines.lost.get() {
            0 => Check::ok("gateway", "audit log", "no line was lost"),
            lost => Check::warn(
                "gateway",
                "audit log",
                format!(
                    "{lost} lines were lost since the start, and {} written: changes are not all on record",
                    lines.written.get()
                ),
                "is the disk of --audit-log full or read-only? the log says since when, and whether lines are written again",
            ),
        }
    }
}

/// The lines that this process writes to its standard output and error. What is lost stays lost, as above.
pub(super) fn lines(access: AccessLog) -> impl Fn() -> Check + Send + Sync {
    move || lost_lines(access.lost(), log::lost_lines())
}

fn lost_lines(access: u64, log: u64) -> Check {
    match (access, log) {
        (0, 0) => Check::ok("gateway", "log lines", "no line was lost"),
        _ => Check::warn(
            "gateway",
            "log lines",
            format!("{access} lines of the access log and {log} of the log were lost since the start"),
            "whoever reads the gateway's standard output and error has stopped or is too slow, or its disk is full",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Room = Room {
        bytes: 50 << 30,
        all_bytes: 100 << 30,
        files: 1 << 20,
        all_files: 1 << 21,
    };

    #[test]
    fn a_file_system_that_is_nearly_full_is_warned_of_before_a_write_fails() {
        for (room, expected) in [
            (ROOMY, None),
            (
                Room {
                    bytes: 63 << 20,
                    ..ROOMY
                },
                Some("63 MiB of 102400 MiB are free, less than the 64 MiB that a gateway should have"),
            ),
            (
                Room {
                    bytes: 11 << 20,
                    all_bytes: 12 << 20,
                    ..ROOMY
                },
                Some("11 MiB of 12 MiB are free, less than the 64 MiB"),
            ),
            (
                Room {
                    bytes: 900 << 20,
                    ..ROOMY
                },
                Some("900 MiB of 102400 MiB are free, less than 1 %"),
            ),
            // A small one of which much is free, and a large one of which a small share is much.
            (
                Room {
                    bytes: 100 << 20,
                    all_bytes: 1 << 30,
                    ..ROOMY
                },
                None,
            ),
            (
                Room {
                    bytes: 2 << 30,
                    all_bytes: 10 << 40,
                    ..ROOMY
                },
                None,
            ),
            (
                Room { files: 999, ..ROOMY },
                Some("room for 999 of 2097152 files"),
            ),
            (
                Room {
                    files: 0,
                    all_files: 0,
                    ..ROOMY
                },
                None,
            ),
        ] {
            let shortage = room.shortage();
            let told = |text: &str| expected.is_some_and(|expected| text.contains(expected));
            assert!(
                shortage.as_deref().map_or(expected.is_none(), told),
                "{shortage:?}"
            );
        }
    }

    #[test]
    fn a_small_file_system_is_not_said_to_be_full() {
        let small = Room {
            bytes: 11 << 20,
            all_bytes: 12 << 20,
            ..ROOMY
        };
        let told = room(Some(small));
        assert!(
            !told.message.contains("full") && told.message.contains("little room"),
            "{told:?}"
        );
    }

    #[test]
    fn lines_that_the_audit_log_has_lost_are_told() {
        let metrics = Arc::new(ApiMetrics::default());
        let check = audit(metrics.clone());
        assert_eq!(check().message, "no line was lost");
        metrics.audit_lines().lost.inc();
        let told = check();
        assert!(
            told.message.starts_with("1 lines were lost") && told.hint.is_some(),
            "{told:?}"
        );
    }

    #[test]
    fn lines_that_nobody_took_are_told() {
        assert_eq!(lost_lines(0, 0).message, "no line was lost");
        for (access, log) in [(7, 0), (0, 9)] {
            let check = lost_lines(access, log);
            let words = format!("{access} lines of the access log and {log} of the log");
            assert!(
                check.message.starts_with(&words) && check.hint.is_some(),
                "{check:?}"
            );
        }
    }

    #[test]
    fn the_room_of_a_folder_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let found = Room::of(folder.path()).unwrap();
        assert!(found.all_bytes >= found.bytes && found.all_bytes > 0);
        assert_eq!(Room::of(Path::new("/no/such/folder")), None);
    }
}
