//! The sockets of mesh DNS. One task reads each UDP socket and answers at once what can be answered at once; everything
//! else, and every TCP connection, is a task of its own, and all of them are counted.
//!
//! hickory-server's own `Server` is not used: it starts a task for every question without a bound, queues at most 32
//! answers for a socket and drops the rest, and logs every question at INFO. Its request and response types are.

use std::{io, net::SocketAddr, sync::Arc, time::Duration, time::Instant};

use causeway_host::{
    accept::{AcceptConnection, AcceptLimits, AcceptRefusal, ConnectionPlace, accept},
    descriptors::Descriptors,
    handed::HandedSockets,
    places::Place,
    tasks::Tasks,
};
use hickory_server::net::xfer::Protocol;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::handler::{DnsReply, Handler, Later};

/// Most questions that wait for an upstream or a new address.
pub(super) const MAX_WAITING: usize = 1024;
/// Time for which a TCP connection may be idle, and how long one read or write may take.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);
/// TCP connections of one host, or one user of this host.
pub(super) const MAX_CONNECTIONS_OF_HOST: usize = 64;
/// TCP connections at once. Whoever keeps connections open keeps nobody else out: the idlest gives way.
const TCP_LIMITS: AcceptLimits = AcceptLimits {
    connections: 256,
    of_address: MAX_CONNECTIONS_OF_HOST,
    setup: TCP_TIMEOUT,
};
/// Connections that the kernel holds until they are accepted.
const TCP_BACKLOG: i32 = 256;
/// Kernel buffer for questions that came in a burst, in bytes.
const UDP_BUFFER_BYTES: usize = 1024 * 1024;
/// Largest question over UDP, in bytes.
const MAX_QUESTION_BYTES: usize = 4096;
/// Number of tries to find a free port for both UDP and TCP when port 0 was asked for.
const PORT_ATTEMPTS: usize = 16;

/// State that the tasks share.
#[derive(Debug, Clone)]
pub(super) struct DnsState {
    pub handler: Arc<Handler>,
    pub waiting: Arc<Semaphore>,
    /// Descriptors that connections may take.
    pub descriptors: Descriptors,
    /// Ends what takes questions; what was taken goes on.
    pub taking: CancellationToken,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

/// Binds UDP and TCP to the same address and port, or goes on with those of the process before.
pub(super) fn bind(
    address: SocketAddr,
    handed: &HandedSockets,
) -> io::Result<(Arc<UdpSocket>, Arc<TcpListener>)> {
    let (udp, tcp) = match (handed.take_udp(address).pop(), handed.take_listener(address)) {
        (Some(udp), Some(tcp)) => (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?),
        // A service manager may have passed one alone.
        (Some(udp), None) => (UdpSocket::from_std(udp)?, bind_tcp(address)?),
        (None, Some(tcp)) => (bind_udp(address)?, TcpListener::from_std(tcp)?),
        (None, None) => bind_anew(address)?,
    };
    let (udp, tcp) = (Arc::new(udp), Arc::new(tcp));
    handed.keep(&udp);
    handed.keep(&tcp);
    Ok((udp, tcp))
}

fn bind_anew(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
    let mut failure = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..attempts {
        let listener = bind_tcp(address)?;
        match bind_udp(listener.local_addr()?) {
            Ok(socket) => return Ok((socket, listener)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address, Type::STREAM)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = new_socket(address, Type::DGRAM)?;
    // A smaller buffer than asked for still works.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES);
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn new_socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` can then be listened on side by side.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Lets everybody in: who is answered what is the handler's business.
struct AnyClient;

impl AcceptConnection<TcpStream> for AnyClient {
    type Connection = (TcpStream, SocketAddr);
    type Error = io::Error;

    async fn enter(&self, stream: TcpStream, _: Option<SocketAddr>) -> io::Result<Self::Connection> {
        let client = stream.peer_addr()?;
        Ok((stream, client))
    }

    fn refused(&self, from: Option<SocketAddr>, why: AcceptRefusal<io::Error>) {
        tracing::debug!(?from, ?why, "a DNS connection is not served");
    }
}

impl DnsState {
    pub(super) fn serve(&self, udp: Arc<UdpSocket>, tcp: Arc<TcpListener>, tasks: &Tasks) {
        let (service, stop) = (self.clone(), self.taking.clone());
        let serving = stop.run_until_cancelled_owned(service.serve_udp(udp));
        self.tasks.spawn(tasks.keep("mesh DNS over UDP", serving));
        let (entered, clients) = mpsc::channel(1);
        let tcp = (tcp, self.descriptors.clone());
        let (service, stop) = (self.clone(), self.taking.clone());
        let serving = async move {
            tokio::join!(
                accept("mesh DNS over TCP", tcp, TCP_LIMITS, AnyClient, entered),
                service.serve_tcp(clients),
            );
        };
        self.tasks
            .spawn(tasks.keep("mesh DNS over TCP", stop.run_until_cancelled_owned(serving)));
    }

    async fn serve_udp(self, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0u8; MAX_QUESTION_BYTES];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // Such as an earlier client that closed its port before its answer came.
                    tracing::debug!(%error, "cannot read a DNS question");
                    continue;
                }
            };
            if client.port() == 0 {
                continue;
            }
            match self
                .handler
                .reply(&buffer[..length], client, Protocol::Udp, Instant::now())
            {
                DnsReply::None => {}
                DnsReply::Ready(bytes) => send(&socket, &bytes, client).await,
                DnsReply::Later(later) => self.answer_later(&socket, later, client).await,
            }
        }
    }

    async fn answer_later(&self, socket: &Arc<UdpSocket>, later: Box<Later>, client: SocketAddr) {
        let Ok(permit) = self.waiting.clone().try_acquire_owned() else {
            if let Some(bytes) = self.handler.give_up(&later) {
                send(socket, &bytes, client).await;
            }
            return;
        };
        let (handler, socket) = (self.handler.clone(), socket.clone());
        let answer = async move {
            let _permit = permit;
            if let Some(bytes) = handler.finish(*later).await {
                send(&socket, &bytes, client).await;
            }
        };
        let stop = self.stop.clone();
        self.tasks
            .spawn(async move { stop.run_until_cancelled(answer).await });
    }

    async fn serve_tcp(self, mut clients: mpsc::Receiver<((TcpStream, SocketAddr), ConnectionPlace)>) {
        while let Some(((stream, client), place)) = clients.recv().await {
            let (service, stop) = (self.clone(), self.stop.clone());
            self.tasks.spawn(async move {
                stop.run_until_cancelled(service.serve_connection(stream, client, &place.place))
                    .await
            });
        }
    }

    async fn serve_connection(self, mut stream: TcpStream, client: SocketAddr, place: &Arc<Place>) {
        while let Some(question) = next_question(&mut stream, place).await {
            let _under_way = place.call();
            let answer = match self
                .handler
                .reply(&question, client, Protocol::Tcp, Instant::now())
            {
                DnsReply::None => None,
                DnsReply::Ready(bytes) => Some(bytes),
                DnsReply::Later(later) => match self.waiting.try_acquire() {
                    Ok(_permit) => self.handler.finish(*later).await,
                    Err(_) => self.handler.give_up(&later),
                },
            };
            // Whoever sends what is no question over TCP has nothing more to say.
            let Some(answer) = answer else { return };
            match timeout(TCP_TIMEOUT, write_message(&mut stream, &answer)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "cannot send a DNS answer");
    }
}

/// The next question of a connection; `None` when it is over, or gives way to another one.
async fn next_question(stream: &mut TcpStream, place: &Place) -> Option<Vec<u8>> {
    // What has arrived is answered first.
    tokio::select! {
        biased;
        question = timeout(TCP_TIMEOUT, read_message(stream)) => question.ok()?.ok(),
        () = place.gives_way().cancelled() => None,
    }
}

/// Two bytes of length, then the message (RFC 1035 §4.2.2).
async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0u8; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}
