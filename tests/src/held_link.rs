//! A relay in front of a zone-sync that can hold back what its clients say, and pass it on when they are long dead: as the kernel of a host
//! does whose network comes back after the process that wrote has ended.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::wait::until_true;

/// For a client to say what it is expected to.
const PATIENCE: Duration = Duration::from_secs(30);

/// A relay on a unix socket. Dropping it ends every connection.
#[derive(Debug)]
pub struct HeldLink {
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    target: Mutex<SocketAddr>,
    connections: Mutex<Vec<Arc<Connection>>>,
}

/// One connection: what its client said and was not passed on yet.
#[derive(Debug)]
struct Connection {
    waiting: watch::Sender<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    is_held: bool,
}

impl HeldLink {
    /// Listens on the unix socket `path`, before the socket beside the address of a zone-sync.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn open(path: &Path, target: SocketAddr) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path).context("bind a socket")?;
        let state = Arc::new(State {
            target: Mutex::new(target),
            connections: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { state, accepting })
    }

    /// Leads connections from now on to another zone-sync.
    pub fn lead_to(&self, target: SocketAddr) {
        *lock(&self.state.target) = target;
    }

    /// Holds back what comes on the connections that are open now. Later ones are free.
    pub fn hold(&self) {
        self.all(|waiting| waiting.is_held = true);
    }

    /// Passes on what was held back, also of clients that have ended.
    pub fn release(&self) {
        self.all(|waiting| waiting.is_held = false);
    }

    /// Waits until `text` is among what is held back.
    pub async fn until_held(&self, text: &str) {
        let is_held = |connection: &Arc<Connection>| {
            let waiting = connection.waiting.borrow();
            waiting.is_held
                && waiting
                    .bytes
                    .windows(text.len())
                    .any(|part| part == text.as_bytes())
        };
        until_true(&format!("{text:?} is held back"), PATIENCE, async || {
            lock(&self.state.connections).iter().any(is_held)
        })
        .await;
    }

    fn all(&self, change: impl Fn(&mut Waiting)) {
        for connection in lock(&self.state.connections).iter() {
            connection.waiting.send_modify(&change);
        }
    }
}

impl Drop for HeldLink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: UnixListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let beside = format!("\0causeway/{}", *lock(&state.target));
        let Ok(server) = UnixStream::connect(beside).await else {
            continue;
        };
        let connection = Arc::new(Connection {
            waiting: watch::Sender::default(),
        });
        lock(&state.connections).push(Arc::clone(&connection));
        let ((hear, mut answer), (mut back, there)) = (client.into_split(), server.into_split());
        tokio::spawn(hear_out(hear, Arc::clone(&connection)));
        tokio::spawn(pass_on(connection, there));
        tokio::spawn(async move {
            let _ = copy(&mut back, &mut answer).await;
            // The client is dead; the server does not know.
            let _ = copy(&mut back, &mut sink()).await;
        });
    }
}

/// Takes in all that the client says.
async fn hear_out(mut client: OwnedReadHalf, connection: Arc<Connection>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = client.read(&mut buffer).await {
        connection
            .waiting
            .send_modify(|waiting| waiting.bytes.extend_from_slice(&buffer[..length]));
    }
}

/// Passes on what is not held back. The end of a client is held back for good, as that of a host which is cut off again.
async fn pass_on(connection: Arc<Connection>, mut server: OwnedWriteHalf) {
    let mut changes = connection.waiting.subscribe();
    // The sender is this task's own, so it waits for ever.
    while changes
        .wait_for(|waiting| !waiting.is_held && !waiting.bytes.is_empty())
        .await
        .is_ok()
    {
        let mut bytes = Vec::new();
        connection.waiting.send_if_modified(|waiting| {
            bytes = std::mem::take(&mut waiting.bytes);
            false
        });
        if server.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
