//! Bytes of a client that travel with the header of a stream, before its `ready`.

use bytes::Bytes;

/// The first bytes of a client, and which asks they go along with.
#[derive(Debug, Clone, Default)]
pub(super) struct EarlyBytes {
    bytes: Bytes,
    /// A whole request of HTTP: it goes along with one ask at a time.
    is_request: bool,
}

impl EarlyBytes {
    /// First bytes of a client whose service is marked `early`: they go along with every ask.
    pub(super) fn of_client(bytes: Bytes) -> Self {
        Self {
            bytes,
            is_request: false,
        }
    }

    /// A request that may be made twice. No two instances are given it at once on purpose: it goes along with an ask beside which no
    /// other is under way. Any other ask waits for `ready`.
    pub(super) fn of_request(bytes: Bytes) -> Self {
        Self {
            bytes,
            is_request: true,
        }
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes that go along with an ask beside which others are under way.
    pub(super) fn beside_others(&self) -> Self {
        match self.is_request {
            true => Self::default(),
            false => self.clone(),
        }
    }

    /// Takes out what an upstream is to be given that has not been given it with a header. A request is written by those who speak HTTP.
    pub(super) fn take(&mut self) -> Bytes {
        match self.is_request {
            true => Bytes::new(),
            false => std::mem::take(&mut self.bytes),
        }
    }
}
