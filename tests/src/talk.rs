//! What clients of a service say: small exchanges that a test can put in one line.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client connection to an instance that answers line by line.
#[derive(Debug)]
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// # Errors
    /// When the connection is not accepted.
    pub async fn connect(service: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(service)
            .await
            .with_context(|| format!("connect to {service}"))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// As [`Client::connect`], from an address of this host, as the program of a service does that has one of its own.
    ///
    /// # Errors
    /// When the connection is not accepted.
    pub async fn connect_from(source: IpAddr, service: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4().context("make a socket")?;
        socket
            .bind(SocketAddr::new(source, 0))
            .with_context(|| format!("bind to {source}"))?;
        let stream = socket
            .connect(service)
            .await
            .with_context(|| format!("connect to {service} from {source}"))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a line and returns the line that comes back; empty when the other side closed.
    ///
    /// # Errors
    /// When the connection breaks or nothing comes within 10 s.
    pub async fn say(&mut self, line: &str) -> anyhow::Result<String> {
        let exchange = async {
            self.0
                .write_all(format!("{line}\n").as_bytes())
                .await
                .context("send a line")?;
            let mut answer = String::new();
            self.0.read_line(&mut answer).await.context("read a line")?;
            anyhow::Ok(answer.trim_end().to_owned())
        };
        timeout(PATIENCE, exchange).await.context("wait for a line")?
    }
}

/// One line on a connection of its own, and its answer.
///
/// # Errors
/// As [`Client::say`].
pub async fn say(service: SocketAddr, line: &str) -> anyhow::Result<String> {
    Client::connect(service).await?.say(line).await
}
