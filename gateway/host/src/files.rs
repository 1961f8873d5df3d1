//! Files that are written whole or not at all, with their mode from their first moment, and folders for their owner alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use rustix::fs::{CWD, RenameFlags, StatVfsMountFlags, renameat_with, statvfs};

/// Mode of a file that holds a private key: its owner alone.
pub const PRIVATE: u32 = 0o600;
/// Mode of a file that anyone may read.
pub const PUBLIC: u32 = 0o644;
/// Mode of a folder that holds private keys.
const PRIVATE_FOLDER: u32 = 0o700;

/// Mark that tells a file from the one that was there before it under its name. A writer that goes by [`replace_file`] changes it always; one
/// that writes into the file itself twice within a tick of the kernel's clock, to the same length, does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds of the last change of anything about it.
    changed: (i64, i64),
}

impl FileStamp {
    /// # Errors
    /// The file cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(Self {
            inode: file.ino(),
            bytes: file.len(),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// Writes a file that must not exist yet. It has its mode from its first moment, whatever the umask, so that a key is
/// never readable by others, not even while it is empty; and it appears whole or not at all.
pub fn create_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let fresh = write_beside(path, text.as_bytes(), mode)?;
    renameat_with(CWD, &fresh, CWD, path, RenameFlags::NOREPLACE)
        .map_err(io::Error::from)
        .and_then(|()| sync_folder(path))
        .inspect_err(|_| drop(fs::remove_file(&fresh)))
}

/// Like [`create_file`], but takes the place of a file that is there, whole or not at all.
pub fn replace_file(path: &Path, text: impl AsRef<[u8]>, mode: u32) -> io::Result<()> {
    let fresh = write_beside(path, text.as_ref(), mode)?;
    fs::rename(&fresh, path)
        .and_then(|()| sync_folder(path))
        .inspect_err(|_| drop(fs::remove_file(&fresh)))
}

/// Renames what cannot be read to `<path>.corrupt-<seconds since 1970>`, so that it is kept as it was, and gives that path.
///
/// # Errors
/// The folder does not let it.
pub fn set_aside(path: &Path, unix_seconds: u64) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".corrupt-{unix_seconds}"));
    let kept = PathBuf::from(name);
    fs::rename(path, &kept)?;
    Ok(kept)
}

/// Finds out whether [`replace_file`] could write there, before something is done that cannot be undone.
///
/// # Errors
/// A path that could not be written to.
pub fn check_replaceable(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    fs::remove_file(write_beside(path, &[], PRIVATE)?)
}

fn write_beside(path: &Path, text: &[u8], mode: u32) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two writers of one file must not meet in its temporary name.
    name.push(format!(".new-{:016x}", SmallRng::from_os_rng().random::<u64>()));
    let fresh = path.with_file_name(name);
    write_new(&fresh, text, mode).inspect_err(|_| drop(fs::remove_file(&fresh)))?;
    Ok(fresh)
}

fn write_new(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text)?;
    file.sync_all()
}

/// Writes a file that anyone may read, in the place of one that is there.
pub fn write_public(path: &Path, text: &str) -> io::Result<()> {
    replace_file(path, text, PUBLIC)
}

/// Makes a rename last over a crash of the machine.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes a folder for its owner alone, whatever the umask, and those above it as usual. One that is there stays as it is.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above)?;
    }
    fs::DirBuilder::new().mode(PRIVATE_FOLDER).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(PRIVATE_FOLDER))
}

/// Makes a folder, and those above it, for their owner alone; one that is there stays as it is.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_FOLDER)
        .create(path)
}

/// Risk that others than this user change what is in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FolderRisk {
    /// Whoever made the link can make it lead elsewhere.
    #[error("it is a symbolic link of user {0}")]
    LinkOf(u32),
    #[error("it is user {owner}'s, and others may write to it (mode {mode:04o})")]
    OfAnotherAndOpen { owner: u32, mode: u32 },
    #[error("it is user {0}'s, who may change everything in it")]
    OfAnother(u32),
    #[error("others than its owner may write to it (mode {0:04o})")]
    Open(u32),
}

impl FolderRisk {
    /// Tells whether nobody can have meant it so.
    #[must_use]
    pub fn is_grave(self) -> bool {
        match self {
            Self::LinkOf(_) | Self::OfAnotherAndOpen { .. } => true,
            Self::OfAnother(_) | Self::Open(_) => false,
        }
    }
}

/// User and mode of a file or folder.
#[derive(Debug, Clone, Copy)]
struct FileOwner {
    user: u32,
    mode: u32,
}

impl FileOwner {
    fn of(file: &fs::Metadata) -> Self {
        Self {
            user: file.uid(),
            mode: file.mode() & 0o7777,
        }
    }
}

/// Looks whether others than the user `own`, and root, may change what is in a folder.
///
/// # Errors
/// It cannot be looked at.
pub fn folder_risk(folder: &Path, own: u32) -> io::Result<Option<FolderRisk>> {
    let named = fs::symlink_metadata(folder)?;
    let link = named.is_symlink().then(|| FileOwner::of(&named));
    let found = FileOwner::of(&fs::metadata(folder)?);
    let risk = judge_folder(link, found, own);
    // As a Secret of Kubernetes is: the folder is open to all, and mounted so that nobody can write to it.
    Ok(risk.filter(|risk| !matches!(risk, FolderRisk::Open(_)) || !is_read_only(folder)))
}

/// Tells whether the file system, as it is mounted there, takes no change of anybody.
fn is_read_only(folder: &Path) -> bool {
    statvfs(folder).is_ok_and(|about| about.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn judge_folder(link: Option<FileOwner>, folder: FileOwner, own: u32) -> Option<FolderRisk> {
    const ROOT: u32 = 0;
    /// Write permission of the group, and of all others.
    const OTHERS_WRITE: u32 = 0o022;
    let is_trusted = |user: u32| user == own || user == ROOT;
    if let Some(link) = link.filter(|link| !is_trusted(link.user)) {
        return Some(FolderRisk::LinkOf(link.user));
    }
    let FileOwner { user: owner, mode } = folder;
    match (is_trusted(owner), mode & OTHERS_WRITE != 0) {
        (true, false) => None,
        (true, true) => Some(FolderRisk::Open(mode)),
        (false, false) => Some(FolderRisk::OfAnother(owner)),
        (false, true) => Some(FolderRisk::OfAnotherAndOpen { owner, mode }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_may_change_is_told_and_one_that_nobody_can_have_meant_is_grave() {
        let own = 1000;
        let of = |user, mode| FileOwner { user, mode };
        for (link, folder, risk, grave) in [
            (None, of(own, 0o700), None, false),
            (None, of(0, 0o755), None, false),
            (Some(of(0, 0o777)), of(own, 0o700), None, false),
            (None, of(own, 0o777), Some(FolderRisk::Open(0o777)), false),
            (None, of(0, 0o1777), Some(FolderRisk::Open(0o1777)), false),
            (None, of(own, 0o770), Some(FolderRisk::Open(0o770)), false),
            (None, of(7, 0o755), Some(FolderRisk::OfAnother(7)), false),
            (
                None,
                of(7, 0o775),
                Some(FolderRisk::OfAnotherAndOpen {
                    owner: 7,
                    mode: 0o775,
                }),
                true,
            ),
            (
                Some(of(7, 0o777)),
                of(own, 0o700),
                Some(FolderRisk::LinkOf(7)),
                true,
            ),
        ] {
            let judged = judge_folder(link, folder, own);
            assert_eq!(judged, risk, "{link:?} {folder:?}");
            assert_eq!(judged.is_some_and(FolderRisk::is_grave), grave, "{risk:?}");
        }
    }

    #[test]
    fn a_folder_is_looked_at_where_its_link_leads() {
        let above = tempfile::tempdir().unwrap();
        let (folder, link) = (above.path().join("folder"), above.path().join("link"));
        make_private_folder(&folder).unwrap();
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(folder_risk(&link, own).unwrap(), None);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(folder_risk(&link, own).unwrap(), Some(FolderRisk::Open(0o777)));
    }
}
