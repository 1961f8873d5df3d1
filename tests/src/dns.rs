//! Asks one mesh DNS server one question over UDP.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};
use tokio::{net::UdpSocket, time::timeout};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer over UDP that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 4096;

/// # Errors
/// When no readable answer comes within 2 s.
pub async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> anyhow::Result<Message> {
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name).context("a DNS name")?, kind));
    let socket = UdpSocket::bind("127.0.0.1:0").await.context("open a socket")?;
    // Connected, so that a server that does not listen yet is heard of at once.
    socket.connect(server).await.context("connect the socket")?;
    let bytes = question.to_vec().context("encode the question")?;
    socket
        .send_to(&bytes, server)
        .await
        .context("send the question")?;
    let mut buffer = vec![0; MAX_ANSWER_BYTES];
    let received = timeout(PATIENCE, socket.recv(&mut buffer)).await;
    let length = received.with_context(|| format!("no answer from {server} for {name} {kind}"))??;
    Message::from_vec(&buffer[..length]).context("read the answer")
}

/// The addresses of a name.
///
/// # Errors
/// When no readable answer comes within 2 s.
pub async fn addresses(server: SocketAddr, name: &str) -> anyhow::Result<Vec<IpAddr>> {
    let answer = ask(server, name, RecordType::A).await?;
    let records = answer.answers.iter();
    Ok(records
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        })
        .collect())
}
