//! A small HTTP client for admin APIs and for HTTP services behind a virtual address.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, header::CONNECTION};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// Longest that one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answer of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// One `GET` on a connection of its own.
///
/// # Errors
/// When there is no whole answer within 10 s.
pub async fn get(server: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let asked = async {
        let stream = TcpStream::connect(server).await.context("connect")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header("host", server.to_string());
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .context("read the body")?
            .to_bytes();
        anyhow::Ok(Answer {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    let answer = timeout(PATIENCE, asked).await.context("wait for the answer")?;
    answer.with_context(|| format!("GET http://{server}{path}"))
}

/// Client that keeps its connection for the next request, and makes a new one when it is told that this one ends.
#[derive(Debug)]
pub struct Kept {
    server: SocketAddr,
    sender: SendRequest<Empty<Bytes>>,
    is_ending: bool,
}

impl Kept {
    /// # Errors
    /// When the connection is not accepted.
    pub async fn connect(server: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self {
            server,
            sender: Self::open(server).await?,
            is_ending: false,
        })
    }

    async fn open(server: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(server).await.context("connect")?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// One `GET` on the connection that is kept.
    ///
    /// # Errors
    /// When there is no whole answer within 10 s.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        if self.is_ending {
            self.sender = Self::open(self.server).await?;
        }
        let request = Request::get(path).header("host", self.server.to_string());
        let request = request.body(Empty::<Bytes>::new())?;
        let asked = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let closing = response.headers().get(CONNECTION);
            self.is_ending = closing.is_some_and(|value| value.as_bytes() == b"close");
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.context("read the body")?;
            anyhow::Ok(Answer {
                status,
                body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            })
        };
        let answer = timeout(PATIENCE, asked).await.context("wait for the answer")?;
        answer.with_context(|| format!("GET http://{}{path} on a kept connection", self.server))
    }
}
