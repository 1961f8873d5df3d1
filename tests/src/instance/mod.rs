//! Instances of services: TCP servers that record what they were given, so that a test can prove who got what.

mod serve;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::{net::TcpListener, task::JoinHandle};

/// Bytes that are kept of each connection; beyond that they are only counted.
const KEPT_BYTES: usize = 64 * 1024;

/// Behaviour of an instance towards a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends back every byte, and closes its side when the client has closed its own.
    Echo,
    /// Answers each line with its own name and that line.
    Name,
    /// An HTTP/1.1 server whose pages hold its name. `/bytes/N` is N bytes of the download (see [`pattern`]).
    Http,
    /// As `Http`, but works on so many requests at once, for so long each, while the others wait.
    Busy { at_once: usize, takes: Duration },
    /// Sends this many bytes of the download, then closes; reads nothing.
    Download { bytes: u64 },
    /// Reads to the end, then answers with the number of bytes and closes.
    Count,
}

/// One connection, as the instance saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// The first bytes that came, at most 64 KiB.
    pub bytes: Vec<u8>,
    /// Number of bytes that came altogether.
    pub length: u64,
    /// The client closed its side in order.
    pub finished: bool,
    /// The connection broke.
    pub broken: bool,
}

/// A running instance. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct Instance {
    name: String,
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    accepting: JoinHandle<()>,
}

impl Instance {
    /// Starts an instance on a port of its own.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(name: &str, behaviour: Behaviour) -> anyhow::Result<Self> {
        Self::start_at(name, behaviour, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// As [`Instance::start`], at a given address.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn start_at(name: &str, behaviour: Behaviour, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        let address = listener.local_addr()?;
        let received = Arc::new(Mutex::default());
        let accepting = tokio::spawn(serve::accept(
            listener,
            name.to_owned(),
            behaviour,
            Arc::clone(&received),
        ));
        Ok(Self {
            name: name.to_owned(),
            address,
            received,
            accepting,
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every connection so far, in the order in which they came.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        locked(&self.received).clone()
    }

    /// The lines that any connection brought, in no order.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let received = locked(&self.received);
        let texts = received
            .iter()
            .map(|r| String::from_utf8_lossy(&r.bytes).into_owned());
        texts
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// Connections that brought no byte: somebody was here, and went or was cut off.
    #[must_use]
    pub fn empty_connections(&self) -> usize {
        locked(&self.received).iter().filter(|r| r.length == 0).count()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn locked(received: &Mutex<Vec<Received>>) -> MutexGuard<'_, Vec<Received>> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The byte at one place of the download: a fixed sequence without a short period, so that a hole or a repeat shows.
#[must_use]
pub fn pattern(offset: u64) -> u8 {
    let block = offset / 251;
    (offset % 251) as u8 ^ (block as u8).wrapping_mul(31) ^ ((block >> 8) as u8)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn talk(instance: &Instance, say: &str) -> String {
        let mut client = TcpStream::connect(instance.address()).await.unwrap();
        client.write_all(say.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        heard
    }

    #[tokio::test]
    async fn an_echo_comes_back_and_is_recorded() {
        let instance = Instance::start("east", Behaviour::Echo).await.unwrap();
        assert_eq!(talk(&instance, "hello").await, "hello");
        let received = instance.received();
        assert_eq!(
            (received.len(), received[0].bytes.as_slice()),
            (1, b"hello".as_slice())
        );
        assert!(received[0].finished && !received[0].broken);
    }

    #[tokio::test]
    async fn lines_are_answered_with_the_name() {
        let instance = Instance::start("east", Behaviour::Name).await.unwrap();
        assert_eq!(talk(&instance, "a\nb\n").await, "east a\neast b\n");
        assert_eq!(instance.lines(), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_page_holds_the_name_and_a_download_its_length() {
        let instance = Instance::start("east", Behaviour::Http).await.unwrap();
        let page = crate::http::get(instance.address(), "/").await.unwrap();
        assert_eq!((page.status, page.body.trim()), (200, "east"));
        let page = crate::http::get(instance.address(), "/bytes/1000").await.unwrap();
        assert_eq!((page.status, page.body.is_empty()), (200, false));
    }

    #[tokio::test]
    async fn what_is_counted_is_counted_to_the_end() {
        let instance = Instance::start("east", Behaviour::Count).await.unwrap();
        assert_eq!(talk(&instance, &"x".repeat(100_000)).await, "100000");
        assert_eq!(instance.received()[0].bytes.len(), KEPT_BYTES);
    }
}
