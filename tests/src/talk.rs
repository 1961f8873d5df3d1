//! Exchanges of clients with a service: small exchanges that a test can put in one line.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{authority::Leaf, peer};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client connection to an instance that answers line by line.
#[derive(Debug)]
pub struct Client<S = TcpStream>(BufReader<S>);

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
}

impl Client<TlsStream<TcpStream>> {
    /// Connects to a gateway's TLS listener for the service with this mesh name, and shows a certificate, or none. The
    /// gateway may refuse it later, as the handshake ends with its word.
    ///
    /// # Errors
    /// When the connection is not accepted, or the handshake fails so far.
    pub async fn call(listener: SocketAddr, name: &str, leaf: Option<&Leaf>) -> anyhow::Result<Self> {
        let mut config = peer::tls(leaf)?;
        config.alpn_protocols.clear();
        let stream = TcpStream::connect(listener)
            .await
            .with_context(|| format!("connect to {listener}"))?;
        let name = ServerName::try_from(name.to_owned()).context("a server name")?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The certificate that the gateway shows.
    #[must_use]
    pub fn server(&self) -> Option<Vec<u8>> {
        let (_, session) = self.0.get_ref().get_ref();
        Some(session.peer_certificates()?.first()?.to_vec())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
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

    /// Ends the connection in good order.
    ///
    /// # Errors
    /// When it has broken.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.0.shutdown().await.context("end the connection")
    }
}

/// One line on a connection of its own, and its answer.
///
/// # Errors
/// As [`Client::say`].
pub async fn say(service: SocketAddr, line: &str) -> anyhow::Result<String> {
    Client::connect(service).await?.say(line).await
}
