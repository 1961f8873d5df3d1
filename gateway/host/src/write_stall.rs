//! The limit of a write of which the other side takes nothing.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// Timer of writes to one side. Holds no memory while they go through.
#[derive(Debug)]
pub struct WriteStall {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl WriteStall {
    /// Makes the timer of writes that may wait for `limit`.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    /// Passes on what came of a write, or an error of [`io::ErrorKind::TimedOut`] once none has gone through for as long as the limit.
    pub fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the other side took nothing for {limit:?}"),
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Tells whether a write failed because nothing was taken.
#[must_use]
pub fn is_stall(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}
