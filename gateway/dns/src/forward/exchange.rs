//! One question to one upstream: UDP first, TCP when the answer was cut short.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
};

use causeway_host::descriptors::{Descriptors, is_exhausted};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    serialize::binary::DecodeError,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use super::ForwardedQuestion;

/// Largest UDP answer asked for, in bytes: fits every path without fragments (DNS flag day 2020).
const UDP_BYTES: u16 = 1232;
/// Largest datagram read, in bytes: some upstreams ignore what was asked for.
const MAX_DATAGRAM_BYTES: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("cannot reach the upstream")]
    Io(#[from] io::Error),
    #[error("the upstream sent what is no DNS message")]
    Malformed(#[from] DecodeError),
    #[error("the upstream answered another question")]
    Mismatch,
    #[error("the question cannot be encoded")]
    Encode,
    #[error("no descriptor is left for it")]
    NoDescriptor,
}

impl ExchangeError {
    /// Tells whether it says something about the upstream, and not about a lack of descriptors here.
    pub(super) fn is_of_upstream(&self) -> bool {
        match self {
            Self::NoDescriptor => false,
            Self::Io(error) => !is_exhausted(error),
            Self::Malformed(_) | Self::Mismatch | Self::Encode => true,
        }
    }
}

/// Answer of an upstream, and the bytes that it came in.
#[derive(Debug)]
pub(super) struct UpstreamAnswer {
    pub message: Message,
    pub bytes: Vec<u8>,
}

impl UpstreamAnswer {
    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message = Message::from_vec(bytes)?;
        let bytes = bytes.to_vec();
        Ok(Self { message, bytes })
    }
}

/// Asks `upstream`. Waits for ever: the caller has the time limit.
pub(super) async fn exchange(
    upstream: SocketAddr,
    question: &ForwardedQuestion,
) -> Result<UpstreamAnswer, ExchangeError> {
    let answer = over_udp(upstream, question).await?;
    if answer.message.metadata.truncation {
        return over_tcp(upstream, question).await;
    }
    Ok(answer)
}

/// A new message with a random id (RFC 5452 §9.2).
fn message(question: &ForwardedQuestion) -> Message {
    let mut query = Query::query(question.name.clone().into(), question.kind);
    query.set_query_class(question.class);
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES);
    edns.set_dnssec_ok(question.dnssec);
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = question.unchecked;
    message.add_query(query);
    message.set_edns(edns);
    message
}

/// Tells whether `answer` belongs to `asked`: the same id and the same question (RFC 5452 §9.1).
fn belongs(asked: &Message, answer: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == asked.metadata.id
        && answer.metadata.op_code == OpCode::Query
        && answer.queries == asked.queries
}

/// From a socket, and so from a source port, of its own (RFC 5452 §9.2). Being connected, it hears only the upstream.
async fn over_udp(
    upstream: SocketAddr,
    question: &ForwardedQuestion,
) -> Result<UpstreamAnswer, ExchangeError> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    has_descriptor(&socket)?;
    socket.connect(upstream).await?;
    let asked = message(question);
    socket
        .send(&asked.to_vec().map_err(|_| ExchangeError::Encode)?)
        .await?;
    let mut buffer = vec![0u8; MAX_DATAGRAM_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Whatever does not fit is a forgery or a late answer to another question: the right one may still come.
        match UpstreamAnswer::read(&buffer[..length]) {
            Ok(answer) if belongs(&asked, &answer.message) => return Ok(answer),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Leaves some to the gateway's own APIs, however many questions wait for an upstream.
fn has_descriptor(socket: &impl AsRawFd) -> Result<(), ExchangeError> {
    match Descriptors::default().may_use(socket) {
        true => Ok(()),
        false => Err(ExchangeError::NoDescriptor),
    }
}

/// With two bytes of length before each message (RFC 7766 §8).
async fn over_tcp(
    upstream: SocketAddr,
    question: &ForwardedQuestion,
) -> Result<UpstreamAnswer, ExchangeError> {
    let asked = message(question);
    let bytes = asked.to_vec().map_err(|_| ExchangeError::Encode)?;
    let length = u16::try_from(bytes.len()).map_err(|_| ExchangeError::Encode)?;
    let mut stream = TcpStream::connect(upstream).await?;
    has_descriptor(&stream)?;
    stream
        .write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())
        .await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0u8; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = UpstreamAnswer::read(&buffer)?;
    match belongs(&asked, &answer.message) {
        true => Ok(answer),
        false => Err(ExchangeError::Mismatch),
    }
}
