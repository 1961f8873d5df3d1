//! The client of the admin API that the commands use: one request on one connection, over TCP, TLS or a unix socket, with
//! limits on time and size, and errors that say what to do.

use std::{convert::Infallible, fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use bytes::Bytes;
use causeway_api::admin::view::{Envelope, SocketView};
use causeway_host::listen::{Io, connect_unix};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    Failure,
    admin_args::{Credentials, DEFAULT_PORT},
    local_socket, secure,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the first byte of the request to the last of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest answer in bytes; about 200,000 instances.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Page that is posted to, and changes nothing.
const COMPARE: &str = "/v1/topology/diff";

/// An admin API, as a client names it, and what it is shown there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub(super) address: Address,
    pub(super) credentials: Credentials,
}

/// Address of an admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// `HOST:PORT`, in the clear; a name is resolved when it is used.
    Tcp(String),
    /// The same over TLS.
    Tls(String),
    Unix(PathBuf),
}

/// In the clear and without credentials, unless it begins with `https://`.
impl FromStr for Endpoint {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let rest = text.trim_end_matches('/');
        let address = match (text.strip_prefix("unix:"), rest.strip_prefix("https://")) {
            (Some(path), _) => Address::Unix(path.into()),
            (None, Some(authority)) => Address::Tls(with_port(authority)),
            (None, None) => Address::Tcp(rest.trim_start_matches("http://").to_owned()),
        };
        Ok(Self {
            address,
            credentials: Credentials::default(),
        })
    }
}

fn with_port(authority: &str) -> String {
    let name = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    match name.contains(':') {
        true => authority.to_owned(),
        false => format!("{authority}:{DEFAULT_PORT}"),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(address) => f.write_str(address),
            Address::Tls(address) => write!(f, "https://{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Answer of the API when it does not do something.
#[derive(Debug, Deserialize)]
struct RefusalBody {
    error: String,
    hint: Option<String>,
    details: Option<String>,
}

/// A connection to an admin API.
struct Connected {
    stream: Box<dyn Io>,
    /// The address that listens, where that is one of loopback and nothing is encrypted.
    on_loopback: Option<SocketAddr>,
}

enum Stream {
    Tcp(TcpStream),
    Local(UnixStream),
}

impl Endpoint {
    /// Finds out whether what is to be shown there can be used. Nothing is sent.
    ///
    /// # Errors
    /// What is missing or cannot be used.
    pub fn check_credentials(&self) -> Result<(), Failure> {
        match self.address {
            Address::Tls(_) => secure::check_credentials(&self.credentials),
            Address::Tcp(_) | Address::Unix(_) => Ok(()),
        }
    }

    /// Reads a JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = self.send(Method::GET, path, Bytes::new()).await?;
        self.understand(&answer)
    }

    /// Asks whether the gateway is ready, and for a line on each thing that is looked at for it.
    pub async fn readiness(&self) -> Result<(bool, String), Failure> {
        let connected = self.connect().await?;
        let (status, answer) = self
            .answer(connected, Method::GET, "/readyz?verbose", Bytes::new())
            .await?;
        match status {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => {
                Ok((status.is_success(), String::from_utf8_lossy(&answer).into_owned()))
            }
            _ => Err(self.refusal(status, &answer)),
        }
    }

    /// Sends JSON and reads a JSON answer.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body =
            serde_json::to_vec(body).map_err(|error| Failure::new("cannot write JSON").because(&error))?;
        let answer = self.send(Method::PUT, path, body.into()).await?;
        self.understand(&answer)
    }

    /// As [`Endpoint::put`], for what is done each time that it is asked for.
    pub async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body =
            serde_json::to_vec(body).map_err(|error| Failure::new("cannot write JSON").because(&error))?;
        let answer = self.send(Method::POST, path, body.into()).await?;
        self.understand(&answer)
    }

    /// Sends a JSON list and reads a JSON answer.
    pub async fn post_list<T: DeserializeOwned>(
        &self,
        path: &str,
        list: &[impl Serialize],
    ) -> Result<T, Failure> {
        self.post_json(path, &list).await
    }

    /// Sends a topology and reads a JSON answer.
    pub async fn put_text<T: DeserializeOwned>(&self, path: &str, text: &str) -> Result<T, Failure> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let answer = self.send(Method::PUT, path, body).await?;
        self.understand(&answer)
    }

    /// Sends bytes and reads a JSON answer.
    pub async fn put_bytes<T: DeserializeOwned>(&self, path: &str, bytes: Vec<u8>) -> Result<T, Failure> {
        let answer = self.send(Method::PUT, path, bytes.into()).await?;
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
        let reads = method == Method::GET || path == COMPARE;
        let mut connected = self.connect().await?;
        if let (false, Some(listener), None) = (reads, connected.on_loopback, &self.credentials.token_file) {
            let told = self.told_socket(connected).await?;
            connected = match local_socket::open(self, listener, told).await? {
                Some(socket) => Connected {
                    stream: Box::new(socket),
                    on_loopback: None,
                },
                None => self.connect().await?,
            };
        }
        self.ask(connected, method, path, body).await
    }

    /// Asks the gateway where its socket is; `None`: it names none.
    async fn told_socket(&self, connected: Connected) -> Result<Option<SocketView>, Failure> {
        let answer = self.ask(connected, Method::GET, "/v1/socket", Bytes::new()).await;
        let told: Envelope<SocketView> = match answer {
            Ok(answer) => self.understand(&answer)?,
            // A gateway of before the socket knows no such page.
            Err(failure) if failure.is_not_found() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        Ok(told.items.into_iter().next())
    }

    async fn ask(
        &self,
        stream: Connected,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let (status, answer) = self.answer(stream, method, path, body).await?;
        match status.is_success() {
            true => Ok(answer),
            false => Err(self.refusal(status, &answer)),
        }
    }

    async fn answer(
        &self,
        stream: Connected,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let exchanged = timeout(ANSWER_TIMEOUT, self.exchange(stream, method, path, body)).await;
        exchanged.map_err(|_| {
            let seconds = ANSWER_TIMEOUT.as_secs();
            Failure::new(format!("the gateway at {self} did not answer within {seconds} s"))
                .hint("is it overloaded? see its log and `/livez`")
                .passing()
        })?
    }

    fn refusal(&self, status: StatusCode, answer: &[u8]) -> Failure {
        let refused = match serde_json::from_slice::<RefusalBody>(answer) {
            Ok(refusal) => Failure::new(refusal.error).told(refusal.hint, refusal.details),
            Err(_) => Failure::new(format!("{self} answered {status}")).hint("is this a causeway gateway?"),
        };
        match status {
            StatusCode::SERVICE_UNAVAILABLE => refused.passing(),
            StatusCode::NOT_FOUND => refused.refused().not_found(),
            status if status.is_client_error() => refused.refused(),
            _ => refused,
        }
    }

    async fn connect(&self) -> Result<Connected, Failure> {
        let connecting = async {
            Ok::<_, std::io::Error>(match &self.address {
                Address::Unix(path) => Stream::Local(connect_unix(path).await?),
                Address::Tcp(address) | Address::Tls(address) => {
                    Stream::Tcp(TcpStream::connect(address.as_str()).await?)
                }
            })
        };
        let unreachable = || {
            Failure::new(format!("cannot reach the gateway's admin API at {self}"))
                .hint("is it running? name another address with --admin or CAUSEWAY_ADMIN")
                .passing()
        };
        let refused = |error: &std::io::Error| unreachable().hint(self.no_way(error.kind())).because(error);
        let stream = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(unreachable().hint(local_socket::OTHER_USER).because(&error));
            }
            Ok(Err(error)) => return Err(refused(&error)),
            Err(elapsed) => return Err(unreachable().because(&elapsed)),
        };
        let mut on_loopback = None;
        let stream: Box<dyn Io> = match (stream, &self.address) {
            (Stream::Local(stream), _) => Box::new(stream),
            (Stream::Tcp(stream), Address::Tls(_)) => {
                let securing = secure::secure(stream, &self.credentials);
                match timeout(CONNECT_TIMEOUT, securing).await {
                    Ok(secured) => Box::new(secured?),
                    Err(elapsed) => return Err(unreachable().because(&elapsed)),
                }
            }
            (Stream::Tcp(stream), _) => {
                let peer = stream.peer_addr().ok();
                on_loopback = peer.filter(|peer| peer.ip().to_canonical().is_loopback());
                Box::new(stream)
            }
        };
        Ok(Connected { stream, on_loopback })
    }

    /// Says what is missing where nobody takes a connection.
    fn no_way(&self, kind: std::io::ErrorKind) -> &'static str {
        match (&self.address, kind) {
            (Address::Unix(_), _) => {
                "is it running? its socket is admin.sock in its --data folder, or where its --admin unix:/PATH says"
            }
            (_, std::io::ErrorKind::ConnectionRefused) => {
                "is it running? Nobody listens there. Other hosts reach it at an address that it was given as --admin IP:7810, \
                 with --admin-tokens FILE or --admin-allow SCOPE=SPIFFE-ID beside it; else name another with --admin or CAUSEWAY_ADMIN"
            }
            _ => {
                "is it running, and is there a way to it? name another address with --admin or CAUSEWAY_ADMIN"
            }
        }
    }

    async fn exchange(
        &self,
        connected: Connected,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let broken = |error: &(dyn std::error::Error + 'static)| {
            let failure = Failure::new(format!("the exchange with {self} broke off"))
                .because(error)
                .passing();
            match &self.address {
                Address::Tcp(address) => failure.hint(format!(
                    "where others than its host reach it, the admin API speaks TLS: name it https://{address}, with --admin-ca FILE, \
                     --admin-zone ZONE and --admin-token-file FILE"
                )),
                Address::Tls(_) | Address::Unix(_) => failure,
            }
        };
        let host = match &self.address {
            Address::Tcp(address) | Address::Tls(address) => address.as_str(),
            Address::Unix(_) => "localhost",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host);
        // Never in the clear, where others could read it: on loopback and on a socket of this host nobody is in between. A gateway that asks
        // another zone vouches with it there.
        let unread =
            matches!(self.address, Address::Tls(_) | Address::Unix(_)) || connected.on_loopback.is_some();
        if let (true, Some(token)) = (unread, secure::authorization(&self.credentials)?) {
            request = request.header(header::AUTHORIZATION, token);
        }
        let request = request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::usage(format!("cannot ask {self} for {path}")).because(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(connected.stream))
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
        for (text, shown) in [
            ("http://localhost:7810/", "localhost:7810"),
            ("https://gw.east:7810/", "https://gw.east:7810"),
            ("https://gw.east", "https://gw.east:7810"),
            ("https://[fd00::1]", "https://[fd00::1]:7810"),
            ("https://[fd00::1]:1", "https://[fd00::1]:1"),
        ] {
            let Ok(url) = text.parse::<Endpoint>();
            assert_eq!(url.to_string(), shown);
        }
    }
}
