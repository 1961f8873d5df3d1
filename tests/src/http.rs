//! A small HTTP client for admin APIs and for HTTP services behind a virtual address.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
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
