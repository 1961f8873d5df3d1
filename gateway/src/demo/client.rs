//! The demo's applications: one resolves a service at its zone's mesh DNS and opens a new connection for every request, or keeps it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use causeway_federation::name::{PortName, ServiceName, ZoneName};
use futures_util::{StreamExt, stream};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    ask::DemoRequest,
    instance::{FRAME_HEAD_BYTES, InstanceAnswer, REQUEST_HEADER, framed},
};

/// Longest wait for a DNS answer.
const DNS_PATIENCE: Duration = Duration::from_secs(5);
/// Longest DNS answer that is read, in bytes.
const MAX_DNS_BYTES: usize = 4096;
/// Longest that an application waits for its answer; longer than a gateway looks for an instance.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;
const MAX_CALL_BYTES: usize = 64 * 1024;
/// Requests of one burst that are under way at once.
const AT_ONCE: usize = 8;

/// Reason why a request or a look-up failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("mesh DNS gives no address for {0}")]
    NoAddress(String),
    #[error("mesh DNS does not answer for {name}")]
    Dns {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("the connection failed")]
    Connection(#[from] io::Error),
    #[error("no answer within {PATIENCE:?}")]
    TimedOut,
    #[error("the answer is not one of an instance, or belongs to another request")]
    WrongAnswer,
}

/// One request and what became of it.
#[derive(Debug)]
pub(super) struct DemoOutcome {
    pub(super) zone: ZoneName,
    pub(super) service: ServiceName,
    /// Of the connection, to find it in the gateway's access log.
    pub(super) socket: Option<SocketAddr>,
    pub(super) started: Instant,
    /// From the start of the connect to the whole answer, or to the failure.
    pub(super) waited: Duration,
    pub(super) answer: Result<InstanceAnswer, ClientError>,
    /// Tells whether another place was asked because the first one did not answer in time; known once it is settled.
    pub(super) moved: bool,
}

impl DemoOutcome {
    pub(super) fn ended(&self) -> Instant {
        self.started + self.waited
    }

    pub(super) fn served_by(&self) -> Option<&ZoneName> {
        self.answer.as_ref().ok().map(|answer| &answer.zone)
    }
}

/// An application in one zone that calls one service.
#[derive(Debug, Clone)]
pub(super) struct DemoClient {
    pub(super) zone: ZoneName,
    pub(super) service: ServiceName,
    /// Name that it resolved: `orders.mesh`.
    pub(super) name: String,
    /// Answer of mesh DNS, with the service's port.
    pub(super) virtual_address: SocketAddr,
    /// Port of the service that its answers have to come from; `None`: whichever.
    port: Option<PortName>,
    /// It calls over gRPC.
    is_grpc: bool,
    asks: DemoRequest,
    numbers: Arc<AtomicU64>,
}

impl DemoClient {
    /// Resolves `service` at the mesh DNS server `dns`. `numbers` gives each request of the demo its own.
    pub(super) async fn resolve(
        (zone, service): (&ZoneName, &ServiceName),
        (dns, domain): (SocketAddr, &str),
        port: u16,
        numbers: Arc<AtomicU64>,
    ) -> Result<Self, ClientError> {
        let name = format!("{service}.{domain}");
        let looked_up = timeout(DNS_PATIENCE, look_up(dns, &name)).await;
        let looked_up = looked_up.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let address = looked_up.map_err(|source| ClientError::Dns {
            name: name.clone(),
            source,
        })?;
        Ok(Self {
            zone: zone.clone(),
            service: service.clone(),
            virtual_address: (address.ok_or_else(|| ClientError::NoAddress(name.clone()))?, port).into(),
            name,
            port: None,
            is_grpc: false,
            asks: DemoRequest::default(),
            numbers,
        })
    }

    /// Resolves the SRV record of a port, and the address that it is at.
    pub(super) async fn resolve_port(
        who: (&ZoneName, &ServiceName),
        port: &PortName,
        (dns, domain): (SocketAddr, &str),
        numbers: Arc<AtomicU64>,
    ) -> Result<Self, ClientError> {
        let name = port_record(who.1, port, domain);
        let looked_up = timeout(DNS_PATIENCE, look_up_port(dns, &name)).await;
        let looked_up = looked_up.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let number = looked_up.map_err(|source| ClientError::Dns {
            name: name.clone(),
            source,
        })?;
        let number = number.ok_or(ClientError::NoAddress(name))?;
        let client = Self::resolve(who, (dns, domain), number, numbers).await?;
        Ok(Self {
            port: Some(port.clone()),
            ..client
        })
    }

    /// The same application with other requests.
    pub(super) fn asking(self, asks: DemoRequest) -> Self {
        Self { asks, ..self }
    }

    /// The same application of a service that speaks gRPC, or does not.
    pub(super) fn calling(self, is_grpc: bool) -> Self {
        Self { is_grpc, ..self }
    }

    /// One request over a connection of its own.
    pub(super) async fn request(&self) -> DemoOutcome {
        let started = Instant::now();
        let mut socket = None;
        let exchange = timeout(PATIENCE, self.exchange(self.number(), &mut socket)).await;
        self.outcome(started, socket, exchange.unwrap_or(Err(ClientError::TimedOut)))
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn outcome(
        &self,
        started: Instant,
        socket: Option<SocketAddr>,
        answer: Result<InstanceAnswer, ClientError>,
    ) -> DemoOutcome {
        DemoOutcome {
            zone: self.zone.clone(),
            service: self.service.clone(),
            answer,
            waited: started.elapsed(),
            socket,
            started,
            moved: false,
        }
    }

    /// The answer in this text, if it is that to the request of this number.
    fn answer_in(&self, text: &[u8], number: u64) -> Result<InstanceAnswer, ClientError> {
        let body = text
            .split(|byte| *byte == b'\n')
            .rev()
            .find(|line| !line.is_empty());
        let answer: Option<InstanceAnswer> = body.and_then(|line| serde_json::from_slice(line).ok());
        let is_own = |answer: &InstanceAnswer| {
            let mut port = self.port.iter();
            answer.request == Some(number)
                && answer.service == self.service
                && port.all(|port| answer.ports.contains(port))
        };
        answer.filter(is_own).ok_or(ClientError::WrongAnswer)
    }

    /// `count` requests, some at once.
    pub(super) async fn burst(&self, count: usize) -> Vec<DemoOutcome> {
        stream::iter(0..count)
            .map(|_| self.request())
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }

    async fn exchange(
        &self,
        number: u64,
        own: &mut Option<SocketAddr>,
    ) -> Result<InstanceAnswer, ClientError> {
        let mut socket = TcpStream::connect(self.virtual_address).await?;
        *own = socket.local_addr().ok();
        if self.is_grpc {
            return self.call(&mut open(socket).await?, number).await;
        }
        let request = self.asks.head(&self.name, number);
        socket.write_all(request.as_bytes()).await?;
        let mut text = Vec::new();
        socket.take(MAX_ANSWER_BYTES).read_to_end(&mut text).await?;
        self.answer_in(&text, number)
    }

    /// One call: a message without content goes, and one comes that says who had it.
    async fn call(&self, calls: &mut CallSender, number: u64) -> Result<InstanceAnswer, ClientError> {
        calls.ready().await.map_err(broken)?;
        let request = self.asks.call(&self.name, number, framed(&[]));
        let request = request.map_err(io::Error::other)?;
        let answer = calls.send_request(request).await.map_err(broken)?;
        let body = Limited::new(answer.into_body(), MAX_CALL_BYTES).collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        let message = body.get(FRAME_HEAD_BYTES..).unwrap_or_default();
        self.answer_in(message, number)
    }
}

/// Takes a connection into use for calls.
async fn open(socket: TcpStream) -> Result<CallSender, ClientError> {
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (sender, connection) = handshake.map_err(broken)?;
    // The calls on it hear of its end.
    tokio::spawn(connection);
    Ok(sender)
}

fn broken(error: hyper::Error) -> ClientError {
    io::Error::other(error).into()
}

type CallSender = http2::SendRequest<Full<Bytes>>;

/// An application that keeps its connection, and makes another when that has ended.
#[derive(Debug)]
pub(super) struct KeptClient {
    client: DemoClient,
    socket: Option<BufReader<TcpStream>>,
    calls: Option<CallSender>,
    connections: usize,
}

impl KeptClient {
    pub(super) fn new(client: DemoClient) -> Self {
        Self {
            client,
            socket: None,
            calls: None,
            connections: 0,
        }
    }

    /// Number of connections that it has made so far.
    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    /// `count` requests, one after the other.
    pub(super) async fn requests(&mut self, count: usize) -> Vec<DemoOutcome> {
        let mut outcomes = Vec::with_capacity(count);
        for _ in 0..count {
            outcomes.push(self.request().await);
        }
        outcomes
    }

    /// One request on the connection that is open, or on a new one. It has no line of its own in the access log by its socket.
    pub(super) async fn request(&mut self) -> DemoOutcome {
        let started = Instant::now();
        let exchange = async {
            match self.client.is_grpc {
                true => self.call().await,
                false => self.exchange().await,
            }
        };
        let exchange = timeout(PATIENCE, exchange).await;
        let answer = exchange.unwrap_or(Err(ClientError::TimedOut));
        if answer.is_err() {
            (self.socket, self.calls) = (None, None);
        }
        self.client.outcome(started, None, answer)
    }

    async fn call(&mut self) -> Result<InstanceAnswer, ClientError> {
        // The gateway may have asked it to come back on another one.
        let mut calls = match self.calls.take().filter(|calls| !calls.is_closed()) {
            Some(calls) => calls,
            None => {
                self.connections += 1;
                open(TcpStream::connect(self.client.virtual_address).await?).await?
            }
        };
        let answer = self.client.call(&mut calls, self.client.number()).await?;
        self.calls = Some(calls);
        Ok(answer)
    }

    async fn exchange(&mut self) -> Result<InstanceAnswer, ClientError> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                self.connections += 1;
                BufReader::new(TcpStream::connect(self.client.virtual_address).await?)
            }
        };
        let (name, number) = (&self.client.name, self.client.number());
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {name}\r\n{REQUEST_HEADER}: {number}\r\ncontent-length: 0\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if (&mut socket).take(MAX_ANSWER_BYTES).read_line(&mut line).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| ClientError::WrongAnswer)?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = Vec::new();
        let read = (&mut socket)
            .take(MAX_ANSWER_BYTES.min(length))
            .read_to_end(&mut body)
            .await?;
        let answer = self.client.answer_in(&body, number)?;
        if read as u64 == length {
            self.socket = Some(socket);
        }
        Ok(answer)
    }
}

/// Name of a port's SRV record.
pub(super) fn port_record(service: &ServiceName, port: &PortName, domain: &str) -> String {
    format!("_{port}._tcp.{service}.{domain}")
}

async fn look_up(dns: SocketAddr, name: &str) -> io::Result<Option<IpAddr>> {
    let answer = ask(dns, name, RecordType::A).await?;
    Ok(answer.answers.iter().find_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        _ => None,
    }))
}

async fn look_up_port(dns: SocketAddr, name: &str) -> io::Result<Option<u16>> {
    let answer = ask(dns, name, RecordType::SRV).await?;
    Ok(answer.answers.iter().find_map(|record| match &record.data {
        RData::SRV(record) => Some(record.port),
        _ => None,
    }))
}

async fn ask(dns: SocketAddr, name: &str, kind: RecordType) -> io::Result<Message> {
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(name).map_err(io::Error::other)?;
    question.add_query(Query::query(name, kind));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(dns).await?;
    socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = vec![0; MAX_DNS_BYTES];
    let length = socket.recv(&mut buffer).await?;
    Message::from_vec(&buffer[..length]).map_err(io::Error::other)
}
