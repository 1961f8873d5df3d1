//! Sockets that one process hands to the next, which goes on with them: whoever connects meanwhile waits in the kernel and is
//! refused by nobody. What the process before had, or a service manager has passed, is found by its address; how sockets get here is
//! `handover`'s and `passed`'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf, absolute},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use socket2::{Domain, SockRef, Socket, Type};

use crate::listen::{FileNumber, SocketFile, file_number};

/// A socket of any kind.
pub type AnySocket = dyn AsFd + Send + Sync;

/// Sockets of this process that its successor is to have, and those that it has of the process before. Clones are the same.
#[derive(Clone, Default)]
pub struct HandedSockets(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    own: Vec<OwnSocket>,
    /// Number of own ones from which it is looked which are closed.
    look_at: usize,
    listeners: BTreeMap<SocketAddr, TcpListener>,
    /// Several may share an address.
    udp: BTreeMap<SocketAddr, Vec<UdpSocket>>,
    /// Those of them that a service manager has passed.
    passed: BTreeSet<PlaceOfSocket>,
    /// By their files, which every process finds, by whatever path.
    unix: BTreeMap<FileNumber, (PathBuf, UnixListener)>,
    own_unix: Vec<(Arc<SocketFile>, Weak<AnySocket>)>,
}

/// Socket that a successor is to have.
struct OwnSocket {
    /// `None`: it is for a successor alone.
    place: Option<PlaceOfSocket>,
    socket: Weak<AnySocket>,
}

/// Unix socket that a successor is to have, and its file. The socket itself knows only the path that it was bound at, before it was renamed.
#[derive(Clone)]
pub struct OwnUnixSocket {
    pub path: PathBuf,
    pub number: FileNumber,
    pub socket: Arc<AnySocket>,
}

/// Kind and address of a socket.
pub type PlaceOfSocket = (SocketKind, SocketAddr);

/// Kind of a socket that has an address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketKind {
    Tcp,
    Udp,
}

/// Socket that nobody has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnclaimedSocket {
    pub kind: SocketKind,
    pub address: SocketAddr,
    /// A service manager has passed it, and not a process before.
    pub is_passed: bool,
}

impl fmt::Display for SocketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP listener",
            Self::Udp => "UDP socket",
        })
    }
}

/// Tells whether it is a socket of datagrams, and not a listener.
#[must_use]
pub fn is_datagram(socket: &AnySocket) -> bool {
    SockRef::from(&socket)
        .r#type()
        .is_ok_and(|kind| kind == Type::DGRAM)
}

/// Connections that the kernel holds for a listener until they are accepted.
const BACKLOG: i32 = 1024;

fn new_socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Kind and address of a socket that can be gone on with.
fn place_of(socket: &impl AsFd) -> io::Result<PlaceOfSocket> {
    let about = SockRef::from(socket);
    let local = about.local_addr()?;
    let address = local.as_socket().ok_or_else(|| {
        let path = local.as_pathname().map(|path| path.display().to_string());
        let path = path.map_or_else(String::new, |path| format!(" at {path}"));
        io::Error::new(io::ErrorKind::InvalidInput, format!("a unix socket{path}"))
    })?;
    match about.r#type()? {
        Type::STREAM if about.is_listener()? => Ok((SocketKind::Tcp, address)),
        Type::DGRAM => Ok((SocketKind::Udp, address)),
        _ => {
            let text = format!("a socket at {address} that does not listen");
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

impl fmt::Debug for HandedSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedSockets").finish_non_exhaustive()
    }
}

impl HandedSockets {
    /// Takes up what the process before has handed over. What is neither a TCP listener nor a UDP socket is closed.
    #[must_use]
    pub fn inherited(sockets: impl IntoIterator<Item = OwnedFd>) -> Self {
        let all = Self::default();
        for socket in sockets {
            // A socket that says nothing of itself is of no use.
            let _ = all.take_up(socket);
        }
        all
    }

    /// Takes up what a service manager has passed, where there is none of the process before, which had the same one. Returns what each
    /// is that nothing here could use, which is closed.
    pub fn pass(&self, sockets: impl IntoIterator<Item = OwnedFd>) -> Vec<String> {
        let before: BTreeSet<PlaceOfSocket> = self.places().into_iter().collect();
        let mut strange = Vec::new();
        for socket in sockets {
            match place_of(&socket) {
                Ok(place) if before.contains(&place) => {}
                Ok(place) => match self.take_up(socket) {
                    Ok(()) => {
                        self.0.lock().passed.insert(place);
                    }
                    Err(error) => strange.push(format!("a {} at {}: {error}", place.0, place.1)),
                },
                Err(error) => strange.push(error.to_string()),
            }
        }
        strange
    }

    /// Takes up what a service manager has held since the process before, beside what it has passed otherwise.
    pub fn take_up_stored(&self, sockets: impl IntoIterator<Item = OwnedFd>) {
        let before: BTreeSet<PlaceOfSocket> = self.places().into_iter().collect();
        for socket in sockets {
            let is_new = place_of(&socket).is_ok_and(|place| !before.contains(&place));
            if is_new {
                // As above: what says nothing of itself is of no use.
                let _ = self.take_up(socket);
            }
        }
    }

    fn places(&self) -> Vec<PlaceOfSocket> {
        let state = self.0.lock();
        let tcp = state.listeners.keys().map(|at| (SocketKind::Tcp, *at));
        let udp = state.udp.keys().map(|at| (SocketKind::Udp, *at));
        tcp.chain(udp).collect()
    }

    fn take_up(&self, socket: OwnedFd) -> io::Result<()> {
        let (kind, address) = place_of(&socket)?;
        SockRef::from(&socket).set_nonblocking(true)?;
        let mut state = self.0.lock();
        match kind {
            SocketKind::Tcp => drop(state.listeners.insert(address, socket.into())),
            SocketKind::Udp => state.udp.entry(address).or_default().push(socket.into()),
        }
        Ok(())
    }

    /// Takes up a unix socket of the process before, of which the file was at `path` there.
    pub fn take_up_unix(&self, (path, number): (PathBuf, FileNumber), socket: OwnedFd) {
        let about = SockRef::from(&socket);
        let is_unix = about
            .local_addr()
            .is_ok_and(|address| address.domain() == Domain::UNIX);
        let listens = is_unix && about.is_listener().unwrap_or(false);
        if listens && about.set_nonblocking(true).is_ok() {
            self.0.lock().unix.insert(number, (path, socket.into()));
        }
    }

    /// Puts a listener at this address beside those of the process before, if that had none.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen_too(&self, address: SocketAddr) -> io::Result<()> {
        if self.0.lock().listeners.contains_key(&address) {
            return Ok(());
        }
        let socket = new_socket(address, Type::STREAM)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        self.0.lock().listeners.insert(address, socket.into());
        Ok(())
    }

    /// Puts a UDP socket at this address beside those of the process before, if that had none.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind_udp_too(&self, address: SocketAddr) -> io::Result<()> {
        if self.0.lock().udp.contains_key(&address) {
            return Ok(());
        }
        let socket = new_socket(address, Type::DGRAM)?;
        socket.bind(&address.into())?;
        self.0.lock().udp.insert(address, vec![socket.into()]);
        Ok(())
    }

    /// Takes the listener at this address, if the process before had one.
    #[must_use]
    pub fn take_listener(&self, address: SocketAddr) -> Option<TcpListener> {
        self.0.lock().listeners.remove(&address)
    }

    /// Takes the UDP sockets at this address, all that the process before had.
    #[must_use]
    pub fn take_udp(&self, address: SocketAddr) -> Vec<UdpSocket> {
        self.0.lock().udp.remove(&address).unwrap_or_default()
    }

    /// Takes the unix socket of which the file is at `path`, if the process before had one.
    #[must_use]
    pub fn take_unix(&self, path: &Path) -> Option<UnixListener> {
        let number = file_number(path)?;
        let (_, listener) = self.0.lock().unix.remove(&number)?;
        Some(listener)
    }

    /// Closes what nobody has taken, unix sockets aside, and returns what that was.
    pub fn close_the_rest(&self) -> Vec<UnclaimedSocket> {
        let unclaimed = self.places();
        let mut state = self.0.lock();
        let sockets = (
            std::mem::take(&mut state.listeners),
            std::mem::take(&mut state.udp),
        );
        let passed = std::mem::take(&mut state.passed);
        drop(state);
        drop(sockets);
        let unclaimed = unclaimed.into_iter().map(|place| UnclaimedSocket {
            kind: place.0,
            address: place.1,
            is_passed: passed.contains(&place),
        });
        unclaimed.collect()
    }

    /// Closes the unix sockets that nobody has taken, removes their files, and returns their paths.
    pub fn close_unix(&self) -> Vec<PathBuf> {
        let unclaimed = std::mem::take(&mut self.0.lock().unix);
        let paths = unclaimed.into_iter().map(|(number, (path, _))| {
            SocketFile::with_number(&path, number).remove();
            path
        });
        paths.collect()
    }

    /// Has the successor be given this socket, if it is still there by then; a service manager may hold it for the next process.
    pub fn keep<S: AsFd + Send + Sync + 'static>(&self, socket: &Arc<S>) {
        self.keep_at(place_of(socket).ok(), socket);
    }

    /// Has the successor be given this socket, if it is still there by then. Of no use to a process that comes after the end of this one.
    pub fn keep_for_successor<S: AsFd + Send + Sync + 'static>(&self, socket: &Arc<S>) {
        self.keep_at(None, socket);
    }

    fn keep_at<S: AsFd + Send + Sync + 'static>(&self, place: Option<PlaceOfSocket>, socket: &Arc<S>) {
        let socket: Weak<S> = Arc::downgrade(socket);
        let mut state = self.0.lock();
        if state.own.len() >= state.look_at {
            state.own.retain(|own| own.socket.strong_count() > 0);
            state.look_at = (2 * state.own.len()).max(64);
        }
        state.own.push(OwnSocket { place, socket });
    }

    /// Every socket that a service manager may hold for the next process, and its place.
    pub(crate) fn own_by_place(&self) -> Vec<(PlaceOfSocket, Arc<AnySocket>)> {
        let state = self.0.lock();
        let own = state
            .own
            .iter()
            .filter_map(|own| Some((own.place?, own.socket.upgrade()?)));
        own.collect()
    }

    /// Has the successor be given this unix socket and its file.
    pub fn keep_unix<S: AsFd + Send + Sync + 'static>(&self, file: &Arc<SocketFile>, socket: &Arc<S>) {
        let socket: Weak<S> = Arc::downgrade(socket);
        self.0.lock().own_unix.push((file.clone(), socket));
    }

    /// Every unix socket that a successor is to have: those of which the file is still there.
    #[must_use]
    pub fn own_unix(&self) -> Vec<OwnUnixSocket> {
        let state = self.0.lock();
        let own = state.own_unix.iter().filter_map(|(file, socket)| {
            Some(OwnUnixSocket {
                path: absolute(file.path()).ok()?,
                number: file.own_number()?,
                socket: socket.upgrade()?,
            })
        });
        own.collect()
    }

    /// Leaves the files of unix sockets to a successor that has the sockets.
    pub fn leave_unix(&self) {
        self.0.lock().own_unix.iter().for_each(|(file, _)| file.leave());
    }

    /// Every socket that a successor is to have.
    #[must_use]
    pub fn own(&self) -> Vec<Arc<AnySocket>> {
        self.0
            .lock()
            .own
            .iter()
            .filter_map(|own| own.socket.upgrade())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::bind_unix;

    fn copy(socket: &impl AsFd) -> OwnedFd {
        socket.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn what_was_handed_over_is_found_by_its_address_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        let [tcp_at, udp_at] = [listener.local_addr().unwrap(), udp.local_addr().unwrap()];
        let handed = HandedSockets::inherited([copy(&listener), copy(&udp), copy(&udp), copy(&pair.0)]);
        // What is there is not bound again.
        handed.listen_too(tcp_at).unwrap();
        handed.bind_udp_too(udp_at).unwrap();
        assert_eq!(
            handed.take_listener(tcp_at).unwrap().local_addr().unwrap(),
            tcp_at
        );
        assert!(handed.take_listener(tcp_at).is_none());
        assert_eq!(handed.take_udp(udp_at).len(), 2);
        assert_eq!(handed.close_the_rest(), []);
        let rest = HandedSockets::inherited([copy(&listener)]);
        let unclaimed = UnclaimedSocket {
            kind: SocketKind::Tcp,
            address: tcp_at,
            is_passed: false,
        };
        assert_eq!(rest.close_the_rest(), [unclaimed]);
        assert!(rest.take_listener(tcp_at).is_none());
        assert!(
            rest.listen_too(tcp_at).is_err() && rest.bind_udp_too(udp_at).is_err(),
            "others have them"
        );
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        rest.listen_too(free).unwrap();
        assert!(rest.take_listener(free).is_some());
    }

    #[tokio::test]
    async fn a_unix_socket_goes_on_with_its_file_and_whoever_waits_at_it() {
        let made = tempfile::tempdir().unwrap();
        let path = made.path().join("admin.sock");
        let first = Arc::new(bind_unix(&path, 0o600).unwrap());
        let (before, file) = (HandedSockets::default(), Arc::new(SocketFile::new(&path)));
        before.keep_unix(&file, &first);
        let mut waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let mut own = before.own_unix();
        let OwnUnixSocket {
            path: at,
            number,
            socket,
        } = own.pop().unwrap();
        assert!(own.is_empty());
        let next = HandedSockets::default();
        next.take_up_unix((at.clone(), number), copy(&socket));
        next.take_up_unix(
            (made.path().join("none"), (0, 0)),
            copy(&TcpListener::bind("127.0.0.1:0").unwrap()),
        );
        before.leave_unix();
        drop((first, socket));
        file.remove();
        assert!(path.exists(), "it is the next one's");
        assert!(before.own_unix().is_empty());
        assert!(next.take_unix(&made.path().join("none")).is_none());
        // The next one may know the folder by another path.
        let link = made.path().join("link");
        std::os::unix::fs::symlink(made.path(), &link).unwrap();
        let listener = next.take_unix(&link.join("admin.sock")).unwrap();
        std::io::Write::write_all(&mut waiting, b"x").unwrap();
        assert!(listener.accept().is_ok());
        // One that has no use for it does not leave its file behind.
        let last = HandedSockets::default();
        last.take_up_unix((at.clone(), number), copy(&listener));
        assert_eq!(last.close_unix(), [at]);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_passed_is_used_once_beside_what_was_handed_over_and_the_rest_is_named() {
        let [handed, passed] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(passed.local_addr().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let [handed_at, passed_at] = [&handed, &passed].map(|one| one.local_addr().unwrap());
        let udp_at = udp.local_addr().unwrap();
        let all = HandedSockets::inherited([copy(&handed)]);
        let given = [
            copy(&handed),
            copy(&passed),
            copy(&udp),
            copy(&connected),
            copy(&unix),
        ];
        let strange = all.pass(given);
        let expected = [
            format!(
                "a socket at {} that does not listen",
                connected.local_addr().unwrap()
            ),
            format!("a unix socket at {}", path.display()),
        ];
        assert_eq!(strange, expected);
        let taken = all.take_listener(passed_at).unwrap();
        assert!(SockRef::from(&taken).nonblocking().unwrap());
        let unclaimed = |kind, address, is_passed| UnclaimedSocket {
            kind,
            address,
            is_passed,
        };
        let expected = [
            unclaimed(SocketKind::Tcp, handed_at, false),
            unclaimed(SocketKind::Udp, udp_at, true),
        ];
        assert_eq!(all.close_the_rest(), expected);
    }

    #[test]
    fn a_socket_that_was_closed_is_not_handed_on() {
        let handed = HandedSockets::default();
        let listeners: Vec<_> = (0..100)
            .map(|_| Arc::new(TcpListener::bind("127.0.0.1:0").unwrap()))
            .collect();
        listeners.iter().for_each(|listener| handed.keep(listener));
        assert_eq!(handed.own().len(), 100);
        drop(listeners);
        let last = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        for _ in 0..200 {
            handed.keep(&last);
        }
        assert_eq!(handed.own().len(), 200);
        assert!(handed.0.lock().own.len() < 300, "closed ones are forgotten");
    }
}
