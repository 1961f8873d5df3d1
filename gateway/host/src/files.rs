//! Files that are written whole or not at all, with their mode from their first moment, and folders for their owner alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use rustix::fs::{CWD, RenameFlags, renameat_with};

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
