//! The client of the admin API that the commands use: one request on one connection, over TCP or a unix socket, with
//! limits on time and size, and errors that say what to do.

use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the first byte of the request to the last of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest answer in bytes; about 200,000 instances.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Where the gateway is that a command talks to.
#[derive(Debug, Clone, clap::Args)]
pub struct AdminArgs {
    /// The gateway's admin API: HOST:PORT, or unix:/PATH
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAUSEWAY_ADMIN",
        default_value = "127.0.0.1:7810",
        global = true
    )]
    pub admin: Endpoint,
}

/// An admin API, as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `HOST:PORT`; a name is resolved when it is used.
    Tcp(String),
    Unix(PathBuf),
}

impl FromStr for Endpoint {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(
                text.trim_start_matches("http://")
                    .trim_end_matches('/')
                    .to_owned(),
            ),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What the API says when it does not do something.
#[derive(Debug, Deserialize)]
struct Refusal {
    error: String,
    hint: Option<String>,
    details: Option<String>,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Endpoint {
    /// Reads a JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = self.send(Method::GET, path, Bytes::new()).await?;
        self.understand(&answer)
    }

    /// Sends JSON and reads a JSON answer.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body =
            serde_json::to_vec(body).map_err(|error| Failure::new("cannot write JSON").because(&error))?;
        let answer = self.send(Method::PUT, path, body.into()).await?;
        self.understand(&answer)
    }

    /// Sends a JSON list and reads a JSON answer.
    pub async fn post_list<T: DeserializeOwned>(
        &self,
        path: &str,
        list: &[impl Serialize],
    ) -> Result<T, Failure> {
        let body =
            serde_json::to_vec(list).map_err(|error| Failure::new("cannot write JSON").because(&error))?;
        let answer = self.send(Method::POST, path, body.into()).await?;
        self.understand(&answer)
    }

    /// Sends a topology and reads a JSON answer.
    pub async fn put_text<T: DeserializeOwned>(&self, path: &str, text: &str) -> Result<T, Failure> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let answer = self.send(Method::PUT, path, body).await?;
        self.understand(&answer)
    }

    /// As [`Endpoint::put_text`], for a question that changes nothing.
    pub async fn post_text<T: DeserializeOwned>(&self, path: &str, text: &str) -> Result<T, Failure> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let answer = self.send(Method::POST, path, body).await?;
        self.understand(&answer)
    }

    fn understand<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(answer).map_err(|error| {
            Failure::new(format!("cannot understand the answer of {self}"))
                .because(&error)
                .hint("is this a causeway gateway, and of this version? see `causeway --version`")
        })
    }

    pub async fn post(&self, path: &str) -> Result<(), Failure> {
        self.send(Method::POST, path, Bytes::new()).await.map(drop)
    }

    pub async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(Method::DELETE, path, Bytes::new()).await.map(drop)
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let stream = self.connect().await?;
        let exchanged = timeout(ANSWER_TIMEOUT, self.exchange(stream, method, path, body)).await;
        let (status, answer) = exchanged.map_err(|_| {
            let seconds = ANSWER_TIMEOUT.as_secs();
            Failure::new(format!("the gateway at {self} did not answer within {seconds} s"))
                .hint("is it overloaded? see its log and `/livez`")
        })??;
        if status.is_success() {
            return Ok(answer);
        }
        Err(match serde_json::from_slice::<Refusal>(&answer) {
            Ok(refusal) => Failure::new(refusal.error).told(refusal.hint, refusal.details),
            Err(_) => Failure::new(format!("{self} answered {status}")).hint("is this a causeway gateway?"),
        })
    }

    async fn connect(&self) -> Result<Box<dyn Io>, Failure> {
        let connecting = async {
            Ok::<Box<dyn Io>, std::io::Error>(match self {
                Self::Tcp(address) => Box::new(TcpStream::connect(address.as_str()).await?),
                Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
            })
        };
        let unreachable = || {
            Failure::new(format!("cannot reach the gateway's admin API at {self}"))
                .hint("is it running? name another address with --admin or CAUSEWAY_ADMIN")
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(unreachable().because(&error)),
            Err(elapsed) => Err(unreachable().because(&elapsed)),
        }
    }

    async fn exchange(
        &self,
        stream: Box<dyn Io>,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let broken = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(format!("the exchange with {self} broke off")).because(error)
        };
        let host = match self {
            Self::Tcp(address) => address.as_str(),
            Self::Unix(_) => "localhost",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host);
        let request = request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::usage(format!("cannot ask {self} for {path}")).because(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken(&e))?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        driver.abort();
        let body = body.map_err(|error| broken(error.as_ref()))?;
        Ok((status, body.to_bytes()))
    }
}

/// One segment of a path or one value of a query, with everything but letters, digits and `-._~` escaped (RFC 3986
/// §2.1).
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_break_out_of_its_place_in_a_url() {
        assert_eq!(
            escape("version=v2&zone=x/../?#%"),
            "version%3Dv2%26zone%3Dx%2F..%2F%3F%23%25"
        );
        assert_eq!(escape("ü"), "%C3%BC");
    }

    #[test]
    fn an_endpoint_prints_as_it_was_given() {
        for text in [
            "127.0.0.1:7810",
            "localhost:7810",
            "[::1]:7810",
            "unix:/run/causeway.sock",
        ] {
            let Ok(endpoint) = text.parse::<Endpoint>();
            assert_eq!(endpoint.to_string(), text);
        }
        let Ok(url) = "http://localhost:7810/".parse::<Endpoint>();
        assert_eq!(url.to_string(), "localhost:7810");
    }
}
