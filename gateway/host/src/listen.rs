//! Sockets of this program: byte streams of any kind, and unix sockets that are never open to others. How connections are
//! taken is in `accept`.

use std::{
    fs, io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest},
    net::{UnixListener, UnixStream},
};

/// A port to ask the kernel about routes with; nothing is ever sent to it.
const DISCARD_PORT: u16 = 9;
/// Bytes that the kernel has for the path of a unix socket, the zero at its end included (unix(7)).
const SOCKET_PATH_BYTES: usize = 108;

/// A byte stream of any kind.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Waits until the other side has said something or has ended, and takes nothing. `readable` does not wait: tokio takes what it has just accepted
/// for readable, until a read has found nothing.
///
/// # Errors
/// The socket is broken.
pub async fn heard(stream: &UnixStream) -> io::Result<()> {
    let peek = || SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    stream.async_io(Interest::READABLE, peek).await.map(drop)
}

/// Tells whether `ip` is an address of this host: then the kernel talks to it from itself. Sends nothing.
#[must_use]
pub fn is_own_address(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, DISCARD_PORT))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == ip)
}

/// Binds beside the path, narrows the mode and renames: the socket is never open to others, not for a moment, and one
/// that a killed process left behind is replaced. Whether another process serves it is for the caller to ask before.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let (beside, _folder) = short_path(Path::new(&beside))?;
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

/// Device and number of a file, by which every process knows it.
pub type FileNumber = (u64, u64);

/// File of a unix socket of this process.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// `None`: it is not this process's, or was gone already.
    number: Mutex<Option<FileNumber>>,
}

impl SocketFile {
    /// Of the socket that this process has just bound at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            number: Mutex::new(file_number(path)),
        }
    }

    /// Of a socket at `path`, of which the file has this number.
    pub(crate) fn with_number(path: &Path, number: FileNumber) -> Self {
        Self {
            path: path.to_owned(),
            number: Mutex::new(Some(number)),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of the file; `None`: it is gone, or another process's.
    pub(crate) fn own_number(&self) -> Option<FileNumber> {
        let number = *self.number.lock();
        number.filter(|number| file_number(&self.path) == Some(*number))
    }

    /// Leaves it to another process, which goes on with the socket.
    pub fn leave(&self) {
        *self.number.lock() = None;
    }

    /// Removes it, unless it was left to another process, or another has put its own in its place.
    pub fn remove(&self) {
        if self.own_number().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Number of the file at `path`, if there is one.
pub(crate) fn file_number(path: &Path) -> Option<FileNumber> {
    let about = fs::symlink_metadata(path).ok()?;
    Some((about.dev(), about.ino()))
}

/// Connects to a unix socket, however long its path is.
///
/// # Errors
/// When nobody listens there, or this user may not open it.
pub async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let (path, _folder) = short_path(path)?;
    UnixStream::connect(path).await
}

/// Path that the kernel takes for a socket. One that is too long goes by its folder, which is to be held open meanwhile.
fn short_path(path: &Path) -> io::Result<(PathBuf, Option<fs::File>)> {
    if path.as_os_str().len() < SOCKET_PATH_BYTES {
        return Ok((path.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = fs::File::open(folder)?;
    let by_number = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    Ok((by_number.join(name), Some(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_its_owners_alone_however_long_its_path_is() {
        let made = tempfile::tempdir().unwrap();
        for length in [1, 60, 200] {
            let folder = made.path().join("f".repeat(length));
            fs::create_dir(&folder).unwrap();
            let path = folder.join("admin.sock");
            let listener = bind_unix(&path, 0o600).unwrap();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert_eq!(
                fs::read_dir(&folder).unwrap().count(),
                1,
                "nothing is left beside it"
            );
            let connecting = connect_unix(&path);
            let (connected, accepted) = tokio::join!(connecting, listener.accept());
            drop((connected.unwrap(), accepted.unwrap()));
        }
    }

    #[tokio::test]
    async fn a_socket_that_another_process_has_replaced_stays() {
        let made = tempfile::tempdir().unwrap();
        let path = made.path().join("admin.sock");
        let _first = bind_unix(&path, 0o600).unwrap();
        let first = SocketFile::new(&path);
        let _second = bind_unix(&path, 0o600).unwrap();
        let second = SocketFile::new(&path);
        first.remove();
        assert!(path.exists());
        second.remove();
        assert!(!path.exists());
        second.remove();
    }

    #[test]
    fn an_address_is_this_hosts_when_the_kernel_answers_for_it() {
        let own = |ip: &str| is_own_address(ip.parse().unwrap());
        assert!(own("127.0.0.1"));
        // Of TEST-NET-3, which no host has.
        assert!(!own("203.0.113.7"));
        assert!(!own("2001:db8::7"));
    }
}
