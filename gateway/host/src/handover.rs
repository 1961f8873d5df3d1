//! The conversation of two processes of which one takes the place of the other: messages, and sockets beside them, over a unix
//! socket. What is said is not known here.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt::socket_peercred,
};

use crate::handed::AnySocket;

/// Longest message, in bytes: what is known of 100,000 instances fits.
const MAX_MESSAGE_BYTES: usize = 32 * 1024 * 1024;
/// Sockets that go along with one byte; the kernel takes 253 (unix(7)).
const SOCKETS_AT_ONCE: usize = 200;
/// Most sockets that are taken.
const MAX_SOCKETS: usize = 1 << 20;
/// The byte that sockets go along with.
const BESIDE: u8 = b's';

/// One end of the conversation. Everything waits for the other end, so it belongs on a thread that may wait.
#[derive(Debug)]
pub struct HandoverChannel(UnixStream);

impl HandoverChannel {
    /// Waits at most `patience` for each part of what the other end says or takes.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn new(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self(stream))
    }

    /// Waits at most `patience` for each part from now on.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn be_patient(&mut self, patience: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(patience))
    }

    /// User that runs the process at the other end, as the kernel has it.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn user(&self) -> io::Result<u32> {
        Ok(socket_peercred(&self.0)?.uid.as_raw())
    }

    /// # Errors
    /// When the other end is gone, or does not take it in time.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        self.0.write_all(&length.to_be_bytes())?;
        self.0.write_all(message)
    }

    /// # Errors
    /// When the other end is gone, says nothing in time, or too much.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
        if length > MAX_MESSAGE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message of {length} bytes"),
            ));
        }
        let mut message = Vec::new();
        // Not all at once: what is announced need not come.
        (&mut self.0)
            .take(u64::try_from(length).map_err(io::Error::other)?)
            .read_to_end(&mut message)?;
        match message.len() == length {
            true => Ok(message),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Hands over sockets; they stay open here.
    ///
    /// # Errors
    /// When the other end is gone, or does not take them in time.
    pub fn send_sockets(&mut self, sockets: &[Arc<AnySocket>]) -> io::Result<()> {
        for some in sockets.chunks(SOCKETS_AT_ONCE) {
            let some: Vec<BorrowedFd<'_>> = some.iter().map(|socket| socket.as_fd()).collect();
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !beside.push(SendAncillaryMessage::ScmRights(&some)) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let sent = sendmsg(
                &self.0,
                &[IoSlice::new(&[BESIDE])],
                &mut beside,
                SendFlags::NOSIGNAL,
            )?;
            if sent != 1 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Takes `count` sockets.
    ///
    /// # Errors
    /// When the other end is gone, sends something else, or this process may have no more descriptors.
    pub fn receive_sockets(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        if count > MAX_SOCKETS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{count} sockets"),
            ));
        }
        let mut taken = Vec::new();
        while taken.len() < count {
            let before = taken.len();
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            // One byte, so that what comes after is not taken along.
            let received = recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut byte)],
                &mut beside,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(sockets) = message {
                    taken.extend(sockets);
                }
            }
            let wanted = (count - before).min(SOCKETS_AT_ONCE);
            match (received.bytes, taken.len() - before) {
                (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
                (_, got) if byte != [BESIDE] || got != wanted => {
                    let text = format!("{got} sockets of {wanted} came; is the limit on open files too low?");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                _ => {}
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    fn pair() -> (HandoverChannel, HandoverChannel) {
        let (one, other) = UnixStream::pair().unwrap();
        let new = |stream| HandoverChannel::new(stream, Duration::from_secs(20)).unwrap();
        (new(one), new(other))
    }

    #[test]
    fn messages_and_sockets_arrive_in_order_and_are_the_same_ones() {
        let (mut one, mut other) = pair();
        let sockets: Vec<Arc<TcpListener>> = (0..450)
            .map(|_| Arc::new(TcpListener::bind("127.0.0.1:0").unwrap()))
            .collect();
        let addresses: Vec<_> = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap())
            .collect();
        assert_eq!(one.user().unwrap(), rustix::process::geteuid().as_raw());
        let sending = thread::spawn(move || {
            one.send(b"these").unwrap();
            let any: Vec<Arc<AnySocket>> = sockets.into_iter().map(|socket| socket as _).collect();
            one.send_sockets(&any).unwrap();
            one.send(&vec![7; 300_000]).unwrap();
        });
        assert_eq!(other.receive().unwrap(), b"these");
        let got = other.receive_sockets(450).unwrap();
        assert_eq!(other.receive().unwrap().len(), 300_000);
        sending.join().unwrap();
        let got: Vec<_> = got
            .into_iter()
            .map(|socket| TcpListener::from(socket).local_addr().unwrap())
            .collect();
        assert_eq!(got, addresses);
    }

    #[test]
    fn what_is_cut_short_too_long_or_something_else_is_an_error() {
        let (mut one, mut other) = pair();
        one.0.write_all(&10u32.to_be_bytes()).unwrap();
        one.0.write_all(b"half").unwrap();
        drop(one);
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (mut one, mut other) = pair();
        one.0.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut one, mut other) = pair();
        one.send(b"no socket").unwrap();
        assert!(other.receive_sockets(1).is_err());
        assert!(other.receive_sockets(usize::MAX).is_err());
        drop(one);
        let (one, mut other) = pair();
        drop(one);
        assert!(other.receive_sockets(1).is_err());
    }
}
