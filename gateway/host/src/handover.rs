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
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recv, recvmsg, sendmsg, sockopt::socket_peercred,
    },
};

use crate::handed::AnySocket;

/// Longest message, in bytes: what is known of 100,000 instances fits.
const MAX_MESSAGE_BYTES: usize = 32 * 1024 * 1024;
/// Sockets that go along with one byte; the kernel takes 253 (unix(7)).
const SOCKETS_AT_ONCE: usize = 200;
/// Most sockets that are taken.
const MAX_SOCKETS: usize = 1 << 20;
/// Bytes of a message that are written or read at once: few enough that the kernel waits for room only once, as it counts its time limit
/// anew each time.
const PART_BYTES: usize = 16 * 1024;
/// The byte that sockets go along with.
const BESIDE: u8 = b's';

/// One end of the conversation. Everything waits for the other end, so it belongs on a thread that may wait.
#[derive(Debug)]
pub struct HandoverChannel {
    stream: UnixStream,
    patience: Duration,
}

impl HandoverChannel {
    /// Waits at most `patience` for each message that the other end says or takes, however small the pieces are that it comes in.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn new(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self { stream, patience })
    }

    /// Waits at most `patience` for each message from now on.
    pub fn be_patient(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Tells whether the other end has closed; does not wait.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(&self.stream, &mut [0u8; 1], flags) {
            Ok((_, length)) => length == 0,
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => true,
        }
    }

    /// User that runs the process at the other end, as the kernel has it.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn user(&self) -> io::Result<u32> {
        Ok(socket_peercred(&self.stream)?.uid.as_raw())
    }

    /// # Errors
    /// When the other end is gone, or does not take it in time.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.patience;
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        self.write(&length.to_be_bytes(), deadline)?;
        self.write(message, deadline)
    }

    /// # Errors
    /// When the other end is gone, has not said it in time, or says too much.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + self.patience;
        let mut length = [0; 4];
        let mut got = 0;
        while got < length.len() {
            got += self.read(&mut length[got..], deadline)?;
        }
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
        if length > MAX_MESSAGE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message of {length} bytes"),
            ));
        }
        // Not all at once: what is announced need not come.
        let (mut message, mut part) = (Vec::new(), vec![0; PART_BYTES]);
        while message.len() < length {
            let most = (length - message.len()).min(PART_BYTES);
            let got = self.read(&mut part[..most], deadline)?;
            message.extend_from_slice(&part[..got]);
        }
        Ok(message)
    }

    /// Hands over sockets; they stay open here.
    ///
    /// # Errors
    /// When the other end is gone, or does not take them in time.
    pub fn send_sockets(&mut self, sockets: &[Arc<AnySocket>]) -> io::Result<()> {
        let deadline = Instant::now() + self.patience;
        for some in sockets.chunks(SOCKETS_AT_ONCE) {
            let some: Vec<BorrowedFd<'_>> = some.iter().map(|socket| socket.as_fd()).collect();
            self.send_some(&some, deadline)?;
        }
        Ok(())
    }

    /// Takes `count` sockets.
    ///
    /// # Errors
    /// When the other end is gone, has not sent them in time or sends something else, or this process may have no more descriptors.
    pub fn receive_sockets(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        if count > MAX_SOCKETS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{count} sockets"),
            ));
        }
        let deadline = Instant::now() + self.patience;
        let mut taken = Vec::new();
        while taken.len() < count {
            let wanted = (count - taken.len()).min(SOCKETS_AT_ONCE);
            let some = self.receive_some(deadline)?;
            if some.len() != wanted {
                let text = format!(
                    "{} sockets of {wanted} came; is the limit on open files too low?",
                    some.len()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            taken.extend(some);
        }
        Ok(taken)
    }

    fn write(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline)?))?;
            match (&self.stream).write(&bytes[..bytes.len().min(PART_BYTES)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => bytes = &bytes[taken..],
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has come, at least one byte.
    fn read(&self, bytes: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match (&self.stream).read(bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if is_passing(&error) => {}
                read => return read,
            }
        }
    }

    fn send_some(&self, sockets: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<()> {
        loop {
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            self.stream.set_write_timeout(Some(left(deadline)?))?;
            let sent = sendmsg(
                &self.stream,
                &[IoSlice::new(&[BESIDE])],
                &mut beside,
                SendFlags::NOSIGNAL,
            );
            match sent {
                Ok(1) => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the sockets that come along with one byte.
    fn receive_some(&self, deadline: Instant) -> io::Result<Vec<OwnedFd>> {
        loop {
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            // One byte, so that what comes after is not taken along.
            let received = recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(&mut byte)],
                &mut beside,
                RecvFlags::CMSG_CLOEXEC,
            );
            match received {
                Ok(received) if received.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut taken = Vec::new();
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(sockets) = message {
                    taken.extend(sockets);
                }
            }
            return match byte == [BESIDE] {
                true => Ok(taken),
                false => Err(io::Error::new(io::ErrorKind::InvalidData, "no sockets came")),
            };
        }
    }
}

/// Time until `deadline`; an error once that has passed.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the other process has taken too long",
        )),
        false => Ok(left),
    }
}

/// Tells whether a call is to be made again, as long as there is time.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
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
        one.stream.write_all(&10u32.to_be_bytes()).unwrap();
        one.stream.write_all(b"half").unwrap();
        drop(one);
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (mut one, mut other) = pair();
        one.stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
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

    #[test]
    fn whoever_speaks_a_byte_at_a_time_or_listens_as_slowly_is_waited_for_no_longer() {
        let (one, mut other) = pair();
        other.be_patient(Duration::from_millis(100));
        let mut speaker = one.stream.try_clone().unwrap();
        let speaking = thread::spawn(move || {
            speaker.write_all(&2000u32.to_be_bytes()).unwrap();
            // Until all is said, or the other end is gone.
            for _ in 0..2000 {
                if speaker.write_all(b"x").is_err() {
                    break;
                }
                thread::park_timeout(Duration::from_millis(2));
            }
        });
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut listener = one.stream.try_clone().unwrap();
        let listening = thread::spawn(move || {
            while listener.read(&mut [0; PART_BYTES]).is_ok_and(|read| read > 0) {
                thread::park_timeout(Duration::from_millis(2));
            }
        });
        let message = vec![7; 8 * 1024 * 1024];
        assert_eq!(other.send(&message).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(other);
        speaking.join().unwrap();
        drop(one);
        listening.join().unwrap();
    }
}
