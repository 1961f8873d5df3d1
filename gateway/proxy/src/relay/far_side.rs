//! Watch for the far side of a stream to go, while nothing is read from it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use causeway_tunnel::{LinkError, RecvHalf, SendHalf, StreamCode};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, Sleep, sleep};

use super::{RelayEnd, SocketToStream, StreamToSocket};

/// Interval at which a stream is looked at whose reset nobody tells of.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Way in which the end of the far side is found out. What it takes is boxed, as in [`super::source::ByteSource`].
#[derive(Default)]
pub(super) enum FarSide {
    /// By reading or writing.
    #[default]
    Heard,
    /// By its stop of what is sent to it.
    Stopping(BoxFuture<'static, Result<Option<StreamCode>, LinkError>>),
    /// By looking, since all has been sent, and nothing more is read.
    Looking(Pin<Box<Sleep>>),
}

impl FarSide {
    pub(super) fn poll_ended(
        &mut self,
        cx: &mut Context<'_>,
        (up, down): (&SocketToStream, &mut StreamToSocket),
        send: &SendHalf,
        recv: &mut RecvHalf,
    ) -> Poll<RelayEnd> {
        let waits = down.waiting().is_some();
        match (up.done, down.done || waits) {
            // A far side that goes stops what is sent to it too. Waiting for the reset of what it sends would leave a waker in
            // quinn for a stream that is then read to its end.
            (false, true) => self.poll_stopped(cx, send),
            // It can stop nothing any more.
            (true, _) if waits => self.poll_looked(cx, down, recv),
            _ => {
                *self = Self::Heard;
                Poll::Pending
            }
        }
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>, send: &SendHalf) -> Poll<RelayEnd> {
        if !matches!(self, Self::Stopping(_)) {
            *self = Self::Stopping(Box::pin(send.stopped()));
        }
        match self {
            Self::Stopping(stopped) => stopped.as_mut().poll(cx).map(|stop| end_of_stop(&stop)),
            _ => Poll::Pending,
        }
    }

    fn poll_looked(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut StreamToSocket,
        recv: &mut RecvHalf,
    ) -> Poll<RelayEnd> {
        if !matches!(self, Self::Looking(_)) {
            *self = Self::Looking(Box::pin(sleep(LOOK_EVERY)));
        }
        let Self::Looking(pause) = self else {
            return Poll::Pending;
        };
        while pause.as_mut().poll(cx).is_ready() {
            if let Poll::Ready(error) = recv.poll_failed(cx) {
                return Poll::Ready(RelayEnd::of_read(&error));
            }
            // An answer that has come whole is the client's, however slowly it reads.
            if recv.is_lost()
                && let Err(end) = down.take_rest(cx, recv)
            {
                return Poll::Ready(end);
            }
            pause.as_mut().reset(Instant::now() + LOOK_EVERY);
        }
        Poll::Pending
    }
}

fn end_of_stop(stop: &Result<Option<StreamCode>, LinkError>) -> RelayEnd {
    match stop {
        Ok(code) => code.map_or(RelayEnd::PeerReset, RelayEnd::of_code),
        Err(_) => RelayEnd::TunnelLost,
    }
}
