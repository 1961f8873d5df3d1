//! Sockets that a service manager holds for the next process (`FDSTORE=1` of sd_pid_notify_with_fds(3)): whoever connects between the end of
//! one process and the start of the next waits in the kernel. Each has a name that says its kind and address, by which it is taken out again
//! once nothing listens there.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixDatagram},
    sync::{Arc, Weak},
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::handed::{AnySocket, HandedSockets, PlaceOfSocket, SocketKind};

/// Beginning of the names of sockets that a gateway has stored.
const PREFIX: &str = "causeway-";
/// Longest time that the service manager may take for one word.
const WORD_MAY_TAKE: Duration = Duration::from_secs(5);

/// Store of the service manager, and what this process has put there.
#[derive(Debug)]
pub struct DescriptorStore {
    /// Path of the socket of words to the service manager.
    notify: OsString,
    /// Most sockets that it takes.
    most: usize,
    stored: BTreeMap<PlaceOfSocket, Weak<AnySocket>>,
    /// It was said that there is no room for some.
    is_full: bool,
    /// It was said that the service manager cannot be told.
    is_deaf: bool,
}

/// Changes that make the store what it should be.
#[derive(Default)]
struct StoreChanges {
    removed: Vec<PlaceOfSocket>,
    added: Vec<(PlaceOfSocket, Arc<AnySocket>)>,
    /// Number of those for which there is no room.
    left_out: usize,
}

/// Tells whether a passed socket of this name was stored by a gateway, and not listed in a socket unit.
pub(crate) fn is_stored_name(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Name of a socket: letters, digits and what else is no colon.
fn store_name((kind, address): PlaceOfSocket) -> String {
    let kind = match kind {
        SocketKind::Tcp => "tcp",
        SocketKind::Udp => "udp",
    };
    format!("{PREFIX}{kind}-{address}").replace(':', "_")
}

/// Compares what is stored with what listens. One that was closed and opened again is another.
fn changes(
    stored: &BTreeMap<PlaceOfSocket, Weak<AnySocket>>,
    own: &[(PlaceOfSocket, Arc<AnySocket>)],
    most: usize,
) -> StoreChanges {
    let is_same = |place: &PlaceOfSocket, socket: &Arc<AnySocket>| {
        let known = stored.get(place).and_then(Weak::upgrade);
        known.is_some_and(|known| Arc::ptr_eq(&known, socket))
    };
    let here: BTreeMap<_, _> = own.iter().map(|(place, socket)| (*place, socket)).collect();
    let mut changes = StoreChanges::default();
    let goes_on = |place: &PlaceOfSocket| here.get(place).is_some_and(|socket| is_same(place, socket));
    changes.removed = stored.keys().filter(|place| !goes_on(place)).copied().collect();
    let mut room = most.saturating_sub(stored.len() - changes.removed.len());
    for (place, socket) in here {
        if is_same(&place, socket) {
            continue;
        }
        match room.checked_sub(1) {
            Some(left) => {
                room = left;
                changes.added.push((place, socket.clone()));
            }
            None => changes.left_out += 1,
        }
    }
    changes
}

impl DescriptorStore {
    /// Finds the store that the environment names: systemd sets `FDSTORE` to the number that `FileDescriptorStoreMax=` allows. `None`: there
    /// is none.
    #[must_use]
    pub fn of_environment() -> Option<Self> {
        let most = env::var("FDSTORE").ok()?.parse().ok()?;
        (most > 0).then_some(Self {
            notify: env::var_os("NOTIFY_SOCKET")?,
            most,
            stored: BTreeMap::new(),
            is_full: false,
            is_deaf: false,
        })
    }

    /// Makes the store hold the sockets that listen here, and no other of this process. Waits for the service manager; where that cannot be told,
    /// what it was told by then is known, and the next look goes on.
    pub fn follow(&mut self, sockets: &HandedSockets) {
        match self.try_follow(sockets) {
            Ok(()) => self.is_deaf = false,
            Err(error) if !self.is_deaf => {
                self.is_deaf = true;
                tracing::warn!(
                    %error,
                    hint = "it is tried again; meanwhile clients may be refused while the gateway is restarted",
                    "the service manager cannot be told which sockets to hold"
                );
            }
            Err(_) => {}
        }
    }

    fn try_follow(&mut self, sockets: &HandedSockets) -> io::Result<()> {
        let changes = changes(&self.stored, &sockets.own_by_place(), self.most);
        for place in changes.removed {
            self.remove(place)?;
        }
        for (place, socket) in changes.added {
            let words = format!("FDSTORE=1\nFDNAME={}\nFDPOLL=0\n", store_name(place));
            self.say(&words, Some(&socket))?;
            self.stored.insert(place, Arc::downgrade(&socket));
        }
        if changes.left_out > 0 && !self.is_full {
            tracing::warn!(
                left_out = changes.left_out,
                most = self.most,
                hint = "raise FileDescriptorStoreMax= of the unit: clients of the others are refused while the gateway is restarted",
                "the service manager's store has no room for some sockets"
            );
        }
        self.is_full = changes.left_out > 0;
        Ok(())
    }

    /// Takes out a socket that a process before has stored, and for which nothing here has a use; where the service manager cannot be told, the
    /// next [`Self::follow`] does.
    pub fn disown(&mut self, place: PlaceOfSocket) {
        if !self.stored.contains_key(&place) && self.remove(place).is_err() {
            let gone: Weak<AnySocket> = Weak::<UnixDatagram>::new();
            self.stored.insert(place, gone);
        }
    }

    fn remove(&mut self, place: PlaceOfSocket) -> io::Result<()> {
        let words = format!("FDSTOREREMOVE=1\nFDNAME={}\n", store_name(place));
        self.say(&words, None)?;
        self.stored.remove(&place);
        Ok(())
    }

    fn say(&self, words: &str, socket: Option<&Arc<AnySocket>>) -> io::Result<()> {
        let notify = UnixDatagram::unbound()?;
        notify.connect(&self.notify)?;
        notify.set_write_timeout(Some(WORD_MAY_TAKE))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let sockets = socket.map(|socket| [socket.as_fd()]);
        if let Some(sockets) = &sockets
            && !beside.push(SendAncillaryMessage::ScmRights(sockets))
        {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        sendmsg(
            &notify,
            &[IoSlice::new(words.as_bytes())],
            &mut beside,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn place(port: u16) -> PlaceOfSocket {
        (SocketKind::Tcp, ([127, 0, 0, 1], port).into())
    }

    fn socket() -> Arc<AnySocket> {
        Arc::new(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    #[test]
    fn names_say_kind_and_address_without_a_colon() {
        assert_eq!(store_name(place(80)), "causeway-tcp-127.0.0.1_80");
        let six = (SocketKind::Udp, "[fd00::1]:53".parse().unwrap());
        assert_eq!(store_name(six), "causeway-udp-[fd00__1]_53");
        assert!(is_stored_name(&store_name(six)) && !is_stored_name("causeway.socket"));
    }

    #[test]
    fn the_store_follows_what_listens_within_its_room() {
        let (one, two) = (socket(), socket());
        let all = [(place(1), one.clone()), (place(2), two.clone())];
        let first = changes(&BTreeMap::new(), &all, 1);
        assert_eq!((first.added.len(), first.left_out), (1, 1));
        let mut stored = BTreeMap::from([(place(1), Arc::downgrade(&one))]);
        let next = changes(&stored, &all, 8);
        assert!(next.removed.is_empty() && next.left_out == 0);
        assert_eq!(next.added.len(), 1);
        assert_eq!(next.added[0].0, place(2));
        // A service is gone; and one is there again, on another socket.
        stored.insert(place(2), Arc::downgrade(&two));
        let again = socket();
        let last = changes(&stored, &[(place(2), again)], 1);
        assert_eq!(last.removed, [place(1), place(2)]);
        assert_eq!((last.added.len(), last.left_out), (1, 0));
        drop((one, two, all));
        assert_eq!(changes(&stored, &[], 1).removed.len(), 2);
    }

    #[test]
    fn the_service_manager_is_given_each_socket_by_its_name_and_told_to_forget_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut store = DescriptorStore {
            notify: path.into(),
            most: 8,
            stored: BTreeMap::new(),
            is_full: false,
            is_deaf: false,
        };
        let (handed, listener) = (
            HandedSockets::default(),
            Arc::new(TcpListener::bind("127.0.0.1:0").unwrap()),
        );
        let tunnels = Arc::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        handed.keep(&listener);
        handed.keep_for_successor(&tunnels);
        let heard = || {
            let mut words = [0; 256];
            let length = manager.recv(&mut words).unwrap();
            String::from_utf8_lossy(&words[..length]).into_owned()
        };
        let name = store_name((SocketKind::Tcp, listener.local_addr().unwrap()));
        store.follow(&handed);
        assert_eq!(heard(), format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"));
        store.follow(&handed);
        drop(listener);
        store.follow(&handed);
        assert_eq!(heard(), format!("FDSTOREREMOVE=1\nFDNAME={name}\n"));
        // What a process before has left, and nothing here is for.
        store.disown(place(9));
        let name = store_name(place(9));
        assert_eq!(heard(), format!("FDSTOREREMOVE=1\nFDNAME={name}\n"));
        store.follow(&handed);
        manager.set_nonblocking(true).unwrap();
        assert!(manager.recv(&mut [0; 8]).is_err(), "nothing was said twice");
        // Where the service manager does not hear, it is told later.
        let folder = folder.path().join("notify");
        std::fs::remove_file(&folder).unwrap();
        store.disown(place(9));
        store.follow(&handed);
        assert!(store.is_deaf && store.stored.len() == 1);
        let _manager = UnixDatagram::bind(&folder).unwrap();
        store.follow(&handed);
        assert!(!store.is_deaf && store.stored.is_empty());
    }
}
