//! A client of admin APIs on unix sockets, which are reached from outside of a zone's network. It tells apart what a load
//! must tell apart: was the request answered, can it not have arrived, or may it have been carried out all the same?

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

/// Longest wait for an answer: longer than a gateway is ever stopped, so that a stopped one answers when it goes on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Outcome of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The status, and the body if it was JSON.
    Came(u16, Value),
    /// No connection could be made: nothing was carried out, and nothing will be.
    NotSent,
    /// The connection broke before an answer: it was carried out, or never will be.
    Broken,
    /// No answer in time: it may be carried out at any time.
    Late,
}

/// The admin API of one gateway.
#[derive(Debug, Clone)]
pub struct Admin {
    socket: PathBuf,
}

impl Admin {
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        timeout(PATIENCE, self.exchange(method, path, body))
            .await
            .unwrap_or(Answer::Late)
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let Ok(mut sender) = self.connect().await else {
            return Answer::NotSent;
        };
        match send(&mut sender, method, path, body).await {
            Ok((status, body)) => Answer::Came(status, serde_json::from_slice(&body).unwrap_or_default()),
            Err(_) => Answer::Broken,
        }
    }

    /// The items of a list under `/v1/`.
    ///
    /// # Errors
    /// When the gateway does not answer, or with something else.
    pub async fn items(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        match self.ask(Method::GET, path, None).await {
            Answer::Came(200, mut body) => match body.get_mut("items").map(Value::take) {
                Some(Value::Array(items)) => Ok(items),
                _ => anyhow::bail!("{path} of {} has no items", self.socket.display()),
            },
            other => anyhow::bail!("{path} of {}: {other:?}", self.socket.display()),
        }
    }

    /// A connection that stays open for one question after the other.
    ///
    /// # Errors
    /// When the gateway cannot be reached.
    pub async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = UnixStream::connect(&self.socket).await.context("connect")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("begin HTTP")?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// One request on an open connection.
///
/// # Errors
/// When the connection breaks.
pub async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<(u16, Bytes)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::from(body))?;
    sender.ready().await.context("wait for the connection")?;
    let response = sender.send_request(request).await.context("send the request")?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.context("read the body")?;
    Ok((status, body.to_bytes()))
}

/// As [`send`], for a page of JSON that must be there.
///
/// # Errors
/// When the connection breaks, or the answer is another.
pub async fn get_json(sender: &mut SendRequest<Full<Bytes>>, path: &str) -> anyhow::Result<Value> {
    let (status, body) = send(sender, Method::GET, path, None).await?;
    ensure!(status == 200, "GET {path} was answered with {status}");
    serde_json::from_slice(&body).with_context(|| format!("read {path}"))
}
