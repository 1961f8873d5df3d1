//! Clients and servers that show whatever credential they are given, and say how it went for them. They believe everybody:
//! what is tried is what a gateway believes.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use causeway_proto::{
    registry::{RegisterRequest, Registration, registry_client::RegistryClient},
    tunnel::ALPN,
};
use hyper_util::rt::TokioIo;
use quinn::{
    Endpoint,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    ClientConfig, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport;

use crate::{
    authority::Leaf,
    peer::{Peer, TrustAnyone},
};

/// Longest that one attempt may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that HTTP/2 begins with: the preface and an empty SETTINGS frame (RFC 9113 §3.4).
pub(super) const HTTP2_BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Server name where nobody looks at it.
pub(super) const ANY_NAME: &str = "any.invalid";

/// Credential that somebody shows.
#[derive(Debug, Clone, Default)]
pub struct Credential {
    pub leaf: Option<Leaf>,
    /// The SPIFFE id that a renewal asks for; empty: some gateway's.
    pub uri: String,
    /// Shown as a bearer token, and to the CA as a join token.
    pub token: Option<String>,
    /// Certificate that has ended, with whose key a gateway proves that it comes back.
    pub former: Option<Leaf>,
    /// A join token has another secret than the CA gave out.
    pub has_other_secret: bool,
    /// Speaks TLS 1.2 and nothing newer.
    pub is_tls12: bool,
    /// Asks for another protocol inside TLS than what is spoken there; as a server, for none.
    pub has_other_alpn: bool,
    /// Knows no other key exchange than X25519.
    pub is_classical: bool,
}

/// Outcome of an attempt, as whoever made it sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    Admitted,
    Refused(String),
}

impl Credential {
    #[must_use]
    pub fn of(leaf: Leaf) -> Self {
        Self {
            leaf: Some(leaf),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn token(token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..Self::default()
        }
    }

    fn provider(&self) -> Arc<CryptoProvider> {
        let whole = aws_lc_rs::default_provider();
        Arc::new(match self.is_classical {
            true => CryptoProvider {
                kx_groups: vec![aws_lc_rs::kx_group::X25519],
                ..whole
            },
            false => whole,
        })
    }

    fn client(&self, alpn: &[u8]) -> anyhow::Result<ClientConfig> {
        let provider = self.provider();
        let version = if self.is_tls12 { &TLS12 } else { &TLS13 };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAnyone(provider)));
        let mut config = match &self.leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let (chain, key) = parts(leaf)?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = match self.has_other_alpn {
            true => vec![b"other/1".to_vec()],
            false => vec![alpn.to_vec()],
        };
        Ok(config)
    }

    fn server(&self) -> anyhow::Result<ServerConfig> {
        let leaf = self.leaf.as_ref().context("a server has a certificate")?;
        let (chain, key) = parts(leaf)?;
        let mut config = ServerConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        if !self.has_other_alpn {
            config.alpn_protocols = vec![ALPN.to_vec()];
        }
        Ok(config)
    }
}

pub(super) fn parts(leaf: &Leaf) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<_, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?))
}

/// Dials a gateway from `from`; it is in when the gateway says hello.
///
/// # Errors
/// When nothing comes of it in time, one way or the other.
pub async fn dial(credential: &Credential, from: SocketAddr, to: SocketAddr) -> anyhow::Result<Trial> {
    let mut endpoint = Endpoint::client(from)?;
    let crypto = QuicClientConfig::try_from(credential.client(ALPN)?)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let tried = async {
        let connection = match endpoint.connect(to, "gateway")?.await {
            Ok(connection) => connection,
            Err(error) => return Ok(Trial::Refused(error.to_string())),
        };
        let mut peer = Peer::over(connection.clone(), endpoint.clone());
        // A gateway that has refused already hears no hello.
        let _ = peer.hello().await;
        // Its own hello comes when it has accepted this one.
        let heard = async {
            let mut control = connection.accept_uni().await?;
            control.read_chunk(1, true).await.ok();
            anyhow::Ok(())
        };
        tokio::select! {
            closed = connection.closed() => Ok(Trial::Refused(closed.to_string())),
            heard = heard => match heard {
                Ok(()) => settled(&connection).await,
                Err(_) => Ok(Trial::Refused(connection.closed().await.to_string())),
            },
        }
    };
    timeout(PATIENCE, tried)
        .await
        .context("wait for a word of the gateway")?
}

/// A hello is said before the other side is judged; a stream is answered only by a tunnel.
async fn settled(connection: &quinn::Connection) -> anyhow::Result<Trial> {
    let asked = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        // A header that cannot be read is refused on the stream, and the tunnel goes on.
        send.write_all(&[0, 3, 0xff, 0xff, 0xff]).await?;
        let mut answer = [0; 1];
        recv.read_exact(&mut answer).await?;
        anyhow::Ok(())
    };
    match asked.await {
        Ok(()) => Ok(Trial::Admitted),
        Err(_) => Ok(Trial::Refused(connection.closed().await.to_string())),
    }
}

/// A server that gateways dial. Says how each attempt went for it.
///
/// # Errors
/// When it cannot be set up.
pub fn accept(credential: &Credential, at: SocketAddr) -> anyhow::Result<(Endpoint, mpsc::Receiver<Trial>)> {
    let crypto = QuicServerConfig::try_from(credential.server()?)?;
    let endpoint = Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(crypto)), at)?;
    let (told, hears) = mpsc::channel(1);
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            // Only the first words are kept; a gateway that was refused comes again and again.
            let _ = told.try_send(serve(incoming).await);
        }
    });
    Ok((endpoint, hears))
}

/// A gateway that dials says hello once it has heard one and is content.
async fn serve(incoming: quinn::Incoming) -> Trial {
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error) => return Trial::Refused(error.to_string()),
    };
    let mut peer = Peer::over(connection.clone(), None);
    let _ = peer.hello().await;
    tokio::select! {
        closed = connection.closed() => Trial::Refused(closed.to_string()),
        control = connection.accept_uni() => match control {
            Ok(_) => Trial::Admitted,
            Err(error) => Trial::Refused(error.to_string()),
        },
    }
}

pub(super) async fn connect(
    credential: &Credential,
    (name, alpn): (&str, &[u8]),
    from: SocketAddr,
    to: SocketAddr,
) -> anyhow::Result<Result<TlsStream<tokio::net::TcpStream>, io::Error>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(from)?;
    let stream = socket.connect(to).await.context("connect")?;
    let connector = TlsConnector::from(Arc::new(credential.client(alpn)?));
    let name = ServerName::try_from(name.to_owned()).context("a name")?;
    Ok(connector.connect(name, stream).await)
}

/// Says `said` over TLS to a server of this name, and reads at least a byte of the answer, or all of it.
async fn exchange(
    credential: &Credential,
    inside: (&str, &[u8]),
    ends: (SocketAddr, SocketAddr),
    said: &[u8],
    whole: bool,
) -> anyhow::Result<Result<Vec<u8>, String>> {
    let tried = async {
        let mut stream = match connect(credential, inside, ends.0, ends.1).await? {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(error.to_string())),
        };
        // In TLS 1.3 a client hears of a refusal only after its own side of the handshake.
        let _ = stream.write_all(said).await;
        let mut answer = Vec::new();
        let read = match whole {
            true => stream.read_to_end(&mut answer).await,
            false => stream.read_buf(&mut answer).await,
        };
        anyhow::Ok(match read {
            Ok(_) if answer.is_empty() => Err("the connection ended".to_owned()),
            Ok(_) => Ok(answer),
            Err(_) if !answer.is_empty() => Ok(answer),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
            Err(_) => Err("the connection ended".to_owned()),
        })
    };
    timeout(PATIENCE, tried).await.context("wait for an answer")?
}

/// Speaks HTTP/2 to a zone-sync; it is in when the other side does.
///
/// # Errors
/// When nothing comes of it in time.
pub async fn attach(credential: &Credential, from: SocketAddr, to: SocketAddr) -> anyhow::Result<Trial> {
    let answer = exchange(credential, (ANY_NAME, b"h2"), (from, to), HTTP2_BEGINNING, false).await?;
    Ok(answer.map_or_else(Trial::Refused, |_| Trial::Admitted))
}

/// One request to an admin API; the whole answer, or why there was none.
///
/// # Errors
/// When nothing comes of it in time.
pub async fn ask(
    credential: &Credential,
    from: SocketAddr,
    to: SocketAddr,
    line: &str,
) -> anyhow::Result<Result<String, String>> {
    let token = credential.token.as_ref();
    let token = token
        .map(|token| format!("Authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: any.invalid\r\n{token}Connection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let inside: (_, &[u8]) = (ANY_NAME, b"http/1.1");
    let answer = exchange(credential, inside, (from, to), request.as_bytes(), true).await?;
    Ok(answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Asks an admin API to deregister what is not there: who is let in hears just that.
///
/// # Errors
/// When nothing comes of it in time.
pub async fn deregister(credential: &Credential, from: SocketAddr, to: SocketAddr) -> anyhow::Result<Trial> {
    let answer = ask(credential, from, to, "DELETE /v1/instances/orders/nobody").await?;
    Ok(match answer {
        Ok(answer) if answer.starts_with("HTTP/1.1 404") => Trial::Admitted,
        Ok(answer) => Trial::Refused(answer.lines().next().unwrap_or_default().to_owned()),
        Err(error) => Trial::Refused(error),
    })
}

/// A gRPC connection; or why there is none. The handshake is tried by itself first, because gRPC keeps to itself why a
/// connection ended.
pub(super) async fn channel(
    credential: &Credential,
    from: SocketAddr,
    to: SocketAddr,
) -> anyhow::Result<Result<transport::Channel, String>> {
    if let Trial::Refused(why) = attach(credential, from, to).await? {
        return Ok(Err(why));
    }
    let shown = credential.clone();
    let connector = tower::service_fn(move |_| {
        let shown = shown.clone();
        async move {
            let connected = connect(&shown, (ANY_NAME, b"h2"), from, to).await;
            connected.map_err(io::Error::other)?.map(TokioIo::new)
        }
    });
    let endpoint = transport::Endpoint::from_static("http://any.invalid");
    let connecting = timeout(PATIENCE, endpoint.connect_with_connector(connector));
    let channel = connecting.await.context("wait for a connection")?;
    Ok(channel.map_err(|error| chain(&error)))
}

/// Registers an instance over gRPC.
///
/// # Errors
/// When nothing comes of it in time.
pub async fn register(credential: &Credential, from: SocketAddr, to: SocketAddr) -> anyhow::Result<Trial> {
    let channel = match channel(credential, from, to).await? {
        Ok(channel) => channel,
        Err(why) => return Ok(Trial::Refused(why)),
    };
    let registration = Registration {
        service: "orders".to_owned(),
        id: "a".to_owned(),
        address: "10.0.0.1:80".to_owned(),
        ..Registration::default()
    };
    let mut request = tonic::Request::new(RegisterRequest {
        registrations: vec![registration],
    });
    if let Some(token) = &credential.token {
        let value = format!("Bearer {token}").parse().context("a header")?;
        request.metadata_mut().insert("authorization", value);
    }
    let mut client = RegistryClient::new(channel);
    let registered = timeout(PATIENCE, client.register(request)).await;
    Ok(match registered.context("wait for an answer")? {
        Ok(reply) if reply.get_ref().outcomes.iter().all(|o| o.refusal.is_empty()) => Trial::Admitted,
        Ok(reply) => bail!("an outcome that nobody expected: {reply:?}"),
        Err(status) => Trial::Refused(status.message().to_owned()),
    })
}

/// Calls an HTTP service by its mesh name; it is in when the instance answers.
///
/// # Errors
/// When nothing comes of it in time.
pub async fn call(
    credential: &Credential,
    from: SocketAddr,
    to: SocketAddr,
    name: &str,
) -> anyhow::Result<Trial> {
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    let answer = exchange(
        credential,
        (name, b"http/1.1"),
        (from, to),
        request.as_bytes(),
        false,
    )
    .await?;
    Ok(match answer {
        Ok(answer) if answer.starts_with(b"HTTP/1.1 200") => Trial::Admitted,
        Ok(answer) => bail!(
            "an answer that nobody expected: {}",
            String::from_utf8_lossy(&answer)
        ),
        Err(error) => Trial::Refused(error),
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
