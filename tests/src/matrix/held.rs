//! Connections that are let in and left open: by them is seen when they end.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use tonic::transport::Channel;

use super::clients::{ANY_NAME, Credential, HTTP2_BEGINNING, PATIENCE, channel, connect};

/// Opens a connection over TLS, says `said`, reads the beginning of the answer, and leaves the connection open.
///
/// # Errors
/// When it is not answered in time.
pub async fn hold(
    credential: &Credential,
    alpn: &[u8],
    to: SocketAddr,
    said: &[u8],
) -> anyhow::Result<TlsStream<TcpStream>> {
    let from = SocketAddr::from(([127, 0, 0, 1], 0));
    let opened = async {
        let mut stream = connect(credential, (ANY_NAME, alpn), from, to).await??;
        stream.write_all(said).await.context("say something")?;
        let mut answer = [0; 1];
        stream.read_exact(&mut answer).await.context("read the answer")?;
        anyhow::Ok(stream)
    };
    timeout(PATIENCE, opened).await.context("wait for an answer")?
}

/// As [`hold`], with the beginning of HTTP/2 and no call.
///
/// # Errors
/// When it is not answered in time.
pub async fn hold_http2(credential: &Credential, to: SocketAddr) -> anyhow::Result<TlsStream<TcpStream>> {
    hold(credential, b"h2", to, HTTP2_BEGINNING).await
}

/// Opens a gRPC connection and leaves it open.
///
/// # Errors
/// When it is refused, or nothing comes of it in time.
pub async fn grpc(credential: &Credential, to: SocketAddr) -> anyhow::Result<Channel> {
    let from = SocketAddr::from(([127, 0, 0, 1], 0));
    let opened = channel(credential, from, to).await?;
    opened.map_err(anyhow::Error::msg)
}
