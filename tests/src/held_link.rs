//! A relay in front of a zone-sync, or of etcd, that can hold back what its clients say, and pass it on when they are long dead or have long gone
//! on without it: as the kernel of a host does whose network comes back after the process that wrote has ended.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink, split},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

use crate::wait::until_true;

/// For a client to say what it is expected to.
const PATIENCE: Duration = Duration::from_secs(30);

/// Type of the frame with which a client of HTTP/2 gives up a request (RFC 9113, section 6.4), and length of the head of each frame, in bytes.
const RST_STREAM: u8 = 3;
const FRAME_HEAD: usize = 9;

/// A relay on a unix socket or a port. Dropping it ends every connection.
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

impl State {
    fn leading_to(target: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            target: Mutex::new(target),
            connections: Mutex::default(),
        })
    }
}

impl HeldLink {
    /// Listens on the unix socket `path`, before the socket beside the address of a zone-sync.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn open(path: &Path, target: SocketAddr) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path).context("bind a socket")?;
        let state = State::leading_to(target);
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { state, accepting })
    }

    /// Listens on the port `listen`, before the server at `target`.
    ///
    /// # Errors
    /// Fails when the port cannot be bound.
    pub async fn open_port(listen: SocketAddr, target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await.context("bind a port")?;
        let state = State::leading_to(target);
        let accepting = tokio::spawn(accept_on_port(listener, Arc::clone(&state)));
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

    /// Passes on what was held back of clients of HTTP/2, but not that they have given up requests since. It must have been held back while
    /// they were silent, so that it begins with a frame.
    pub fn release_without_giving_up(&self) {
        self.all(|waiting| {
            waiting.bytes = without_resets(&waiting.bytes);
            waiting.is_held = false;
        });
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

/// Frames of HTTP/2 but for those that give up a request.
fn without_resets(bytes: &[u8]) -> Vec<u8> {
    let (mut kept, mut rest) = (Vec::new(), bytes);
    while let Some(&[a, b, c, kind, ..]) = rest.first_chunk::<FRAME_HEAD>() {
        let length = FRAME_HEAD + usize::from(a) * 0x1_0000 + usize::from(b) * 0x100 + usize::from(c);
        let (frame, after) = rest.split_at(length.min(rest.len()));
        if kind != RST_STREAM {
            kept.extend_from_slice(frame);
        }
        rest = after;
    }
    kept
}

async fn accept_on_port(listener: TcpListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let target = *lock(&state.target);
        if let Ok(server) = TcpStream::connect(target).await {
            relay(client, server, &state);
        }
    }
}

async fn accept(listener: UnixListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let beside = format!("\0causeway/{}", *lock(&state.target));
        let Ok(server) = UnixStream::connect(beside).await else {
            continue;
        };
        relay(client, server, &state);
    }
}

fn relay<T>(client: T, server: T, state: &State)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let connection = Arc::new(Connection {
        waiting: watch::Sender::default(),
    });
    lock(&state.connections).push(Arc::clone(&connection));
    let ((hear, mut answer), (mut back, there)) = (split(client), split(server));
    tokio::spawn(hear_out(hear, Arc::clone(&connection)));
    tokio::spawn(pass_on(connection, there));
    tokio::spawn(async move {
        let _ = copy(&mut back, &mut answer).await;
        // The client is dead; the server does not know.
        let _ = copy(&mut back, &mut sink()).await;
    });
}

/// Takes in all that the client says.
async fn hear_out(mut client: impl AsyncRead + Unpin, connection: Arc<Connection>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = client.read(&mut buffer).await {
        connection
            .waiting
            .send_modify(|waiting| waiting.bytes.extend_from_slice(&buffer[..length]));
    }
}

/// Passes on what is not held back. The end of a client is held back for good, as that of a host which is cut off again.
async fn pass_on(connection: Arc<Connection>, mut server: impl AsyncWrite + Unpin) {
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
