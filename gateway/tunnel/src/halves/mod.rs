//! Streams of a tunnel as all other crates see them: two halves, codes and errors of their own, so that what carries a
//! stream is known here alone. The halves are thin, and no byte is copied; what they count beside it is said in `credit`.

use quinn::{RecvStream, SendStream};

use super::{Tunnel, class::CarriedHalf};

mod code;
mod error;
mod recv;
mod send;

pub use code::StreamCode;
pub use error::{HalfEnded, LinkError, ReadError, ReadExactError, WriteError};
pub use recv::RecvHalf;
pub use send::SendHalf;

/// One stream, seen from either side.
#[derive(Debug)]
pub struct Stream {
    pub send: SendHalf,
    pub recv: RecvHalf,
}

impl Stream {
    pub(crate) fn of((send, recv): (SendStream, RecvStream)) -> Self {
        Self {
            send: SendHalf::of(send),
            recv: RecvHalf::of(recv),
        }
    }

    /// Has the stream carry a connection on this tunnel, count for it, and mind what of it lies unread at the other side where that tells;
    /// `None`: it carries none.
    pub(crate) fn carry(&mut self, on: Option<&Tunnel>) {
        let credit = on.and_then(Tunnel::credit);
        self.send.credit = credit.cloned();
        self.recv.credit = credit.cloned();
        let carried = on.map(Tunnel::carried);
        self.send.carried = CarriedHalf::of(carried);
        self.recv.carried = CarriedHalf::of(carried);
        self.recv.link = on.map(|tunnel| tunnel.connection().clone());
    }

    /// Has what is written go before the bytes of connections.
    pub(crate) fn hurry(&self) {
        self.send.hurry();
    }
}
