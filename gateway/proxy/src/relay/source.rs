//! The socket that one direction reads from, while it is read and while it is not.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::Reader;

/// Source of one direction's bytes.
pub(super) enum ByteSource<'a, R> {
    Reading(&'a mut R),
    /// Nothing is read for now, because what was read is not taken yet or all has been read: only this tells that the other
    /// side has reset the connection. Boxed, so that an idle connection has no room for it.
    Watching(Pin<Box<dyn Future<Output = ()> + Send + 'a>>),
}

impl<'a, R: Reader> ByteSource<'a, R> {
    pub(super) fn new(reader: &'a mut R, is_read: bool) -> Self {
        if is_read {
            return Self::Reading(reader);
        }
        let reader: &'a R = reader;
        Self::Watching(Box::pin(reader.failed()))
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Reading(_))
    }

    /// Is ready when the connection has failed; one that is read is found out by reading.
    pub(super) fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Reading(_) => Poll::Pending,
            Self::Watching(failed) => failed.as_mut().poll(cx),
        }
    }
}
