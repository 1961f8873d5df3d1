//! Asking a CA: one secure connection, one call. How the bytes get to the CA is the caller's business; who answers is
//! checked here.

use std::{io, sync::Arc, time::Duration, time::SystemTime};

use causeway_federation::{
    name::{GatewayId, GatewayName},
    signing::{Purpose, SignError, Signed},
};
use causeway_host::{listen::Io, resolve::NameResolver};
use causeway_identity::{
    Identity, IdentityFileError, LiveIdentity, NewIdentity, NextKey, SpiffeId, TlsError,
    ca::{self, CaError, rejoin::rejoin_words, request},
    provider,
};
use causeway_proto::ca::{
    Certificates, JoinRequest, RenewRequest, certificate_authority_client::CertificateAuthorityClient,
};
use causeway_telemetry::log::in_one_line;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::KeyPair;
use rustls::{
    ClientConfig,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    version::TLS13,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};

use super::{
    CaAddress, JoinToken,
    server_check::{CaPin, NotTheCa, ServerCheck},
    watched::{EXPIRED, JoinVerdict, Watched, words},
};
use crate::protocol::{AuthorityRefusal, MAX_ANSWER_BYTES, told};

/// For a TCP connection to the CA.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// For the handshake, which may run through another zone.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// For the answer to a call.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Most certificates of a chain, and roots, that are taken.
const MAX_CERTIFICATES: usize = 16;
/// Protocol that gRPC is spoken over.
const ALPN: &[u8] = b"h2";
/// TLS and HTTP/2 want names; the CA is known by its certificate, and this one is not sent.
const NAME: &str = "ca.invalid";
const HOST: &str = "http://ca.invalid";

/// Reason that a CA gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateRequestError {
    #[error("cannot connect to {address}")]
    Connect {
        address: CaAddress,
        #[source]
        source: io::Error,
    },
    #[error("{0} took too long")]
    Slow(&'static str),
    #[error("whoever answers there is not the CA")]
    NotTheCa(#[from] NotTheCa),
    #[error("the CA does not accept the certificate of this gateway ({0})")]
    Unwelcome(&'static str),
    #[error("the TLS handshake with the CA failed")]
    Handshake(#[source] io::Error),
    #[error("cannot use the own identity")]
    Identity(#[from] TlsError),
    #[error("cannot prepare TLS")]
    Tls(#[from] rustls::Error),
    #[error("the CA refuses: {}: {text}", .refusal.word())]
    Refused { refusal: AuthorityRefusal, text: String },
    #[error("the call to the CA failed: {0}")]
    Broken(String),
    #[error("cannot make a key and a request")]
    Request(#[from] CaError),
    #[error("cannot prove to have had a certificate")]
    Proof(#[from] SignError),
    #[error("the CA's answer is no identity: {0}")]
    Answer(&'static str),
    #[error("the CA's answer is no identity")]
    Unusable(#[source] IdentityFileError),
}

impl CertificateRequestError {
    /// Tells whether the certificate has ended by the CA's clock, whatever the own one says.
    #[must_use]
    pub fn is_too_late(&self) -> bool {
        matches!(self, Self::Unwelcome(words) if *words == EXPIRED)
    }

    /// Says what the operator can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Connect { .. } | Self::Slow(_) => {
                "is `causeway ca serve` running there, and is its port (7830/tcp) open on the way?"
            }
            Self::NotTheCa(_) => {
                "nothing was sent to it; check the address, and that the token was issued by the CA that is served there"
            }
            Self::Unwelcome(_) => "was it issued by this CA, and has it not ended? join anew with a token",
            Self::Handshake(_) => "is it `causeway ca serve` that listens there?",
            Self::Refused { refusal, .. } => refusal.hint(),
            Self::Broken(_) | Self::Answer(_) | Self::Unusable(_) => {
                "the log of `causeway ca serve` may say more; a token that was used needs another"
            }
            Self::Identity(_) | Self::Tls(_) | Self::Request(_) | Self::Proof(_) => {
                "this host cannot make keys or use its identity; `causeway check` may say more"
            }
        }
    }
}

/// Connects to where the CA is served, whose name `resolver` looks up.
///
/// # Errors
/// When nothing answers there in time.
pub async fn connect(
    address: &CaAddress,
    resolver: &NameResolver,
) -> Result<TcpStream, CertificateRequestError> {
    let failed = |source| CertificateRequestError::Connect {
        address: address.clone(),
        source,
    };
    let dial = resolver.connect(&address.host, address.port);
    match timeout(CONNECT_LIMIT, dial).await {
        Ok(stream) => stream.map_err(failed),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

/// Trades a join token for an identity. The key is made here and stays here.
///
/// # Errors
/// When the server is not the CA that issued the token, or refuses, or what it answers is not what was asked for.
pub async fn join(
    io: impl Io + 'static,
    token: &JoinToken,
    gateway: &GatewayName,
) -> Result<NewIdentity, CertificateRequestError> {
    let check = Arc::new(ServerCheck::new(
        CaPin::Fingerprint(token.fingerprint),
        provider(),
    ));
    let config = builder(&check)?.with_no_client_auth();
    let (mut client, verdict) = secure(io, config, &check).await?;
    let root = check
        .root()
        .ok_or(CertificateRequestError::Answer("it shows no root"))?;
    let trust_domain =
        ca::trust_domain(&root).map_err(|_| CertificateRequestError::Answer("its root is no CA's"))?;
    let id = SpiffeId::new(&trust_domain, GatewayId::new(token.zone.clone(), gateway.clone()));
    let key = KeyPair::generate().map_err(CaError::Certificate)?;
    let call = client.join(JoinRequest {
        token_id: token.id.0.to_vec(),
        secret: token.secret.0.to_vec(),
        request: request::request(&id, &key)?,
        ..JoinRequest::default()
    });
    let answer = answered(timeout(ANSWER_LIMIT, call).await, &verdict)?;
    if !answer.roots.iter().any(|given| *given == *root) {
        return Err(CertificateRequestError::Answer(
            "its own root is not among the roots",
        ));
    }
    identity(&id, &key, answer)
}

/// Gets the next certificate of an identity, for `key`: whoever asks again with the same one, because an answer was lost, is given
/// the same certificate.
///
/// # Errors
/// As [`join`].
pub async fn renew(
    io: impl Io + 'static,
    own: &Identity,
    key: &NextKey,
) -> Result<NewIdentity, CertificateRequestError> {
    let (check, config) = shown_by(own)?;
    let (mut client, verdict) = secure(io, config, &check).await?;
    let key = key.pair();
    let call = client.renew(RenewRequest {
        request: request::request(own.id(), key)?,
    });
    let answer = answered(timeout(ANSWER_LIMIT, call).await, &verdict)?;
    identity(own.id(), key, answer)
}

/// Comes back after the certificate of `own` has ended, with a token that was given out for that: the key that has ended signs the
/// request, so that nobody else can use the token. `key` is as in [`renew`].
///
/// # Errors
/// As [`join`].
pub async fn rejoin(
    io: impl Io + 'static,
    own: &Arc<Identity>,
    token: &JoinToken,
    key: &NextKey,
) -> Result<NewIdentity, CertificateRequestError> {
    let check = Arc::new(ServerCheck::new(known_to(own), provider()));
    let config = builder(&check)?.with_no_client_auth();
    let (mut client, verdict) = secure(io, config, &check).await?;
    let key = key.pair();
    let request = request::request(own.id(), key)?;
    let signer = LiveIdentity::from(own.clone()).signer()?;
    let words = rejoin_words(token.id, &request);
    let proof = Signed::by(&*signer, Purpose::Rejoin, own.gateway(), &words)?;
    let call = client.join(JoinRequest {
        token_id: token.id.0.to_vec(),
        secret: token.secret.0.to_vec(),
        request,
        former: proof.credential.0.clone(),
        proof: proof.signature.to_vec(),
    });
    let answer = answered(timeout(ANSWER_LIMIT, call).await, &verdict)?;
    identity(own.id(), key, answer)
}

/// Shows the CA an identity that was taken up: from then on the one before it is renewed for nobody else.
///
/// # Errors
/// When the CA does not see it.
pub async fn show(io: impl Io + 'static, own: &Identity) -> Result<(), CertificateRequestError> {
    let (check, config) = shown_by(own)?;
    let mut stream = handshake(io, config, &check).await?;
    // All that the CA needs is under way, and arrives before this.
    stream
        .shutdown()
        .await
        .map_err(CertificateRequestError::Handshake)
}

/// Settings of a connection on which `own` is shown to its CA.
fn shown_by(own: &Identity) -> Result<(Arc<ServerCheck>, ClientConfig), CertificateRequestError> {
    let check = Arc::new(ServerCheck::new(known_to(own), provider()));
    let config = builder(&check)?.with_client_auth_cert(own.chain().to_vec(), own.key())?;
    Ok((check, config))
}

/// Sign by which `own` knows its CA.
fn known_to(own: &Identity) -> CaPin {
    CaPin::Roots {
        roots: own.roots(),
        trust_domain: own.trust_domain().to_owned(),
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn builder(check: &Arc<ServerCheck>) -> Result<Builder, CertificateRequestError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(check.clone()))
}

/// Makes the connection secure and opens gRPC on it.
async fn secure(
    io: impl Io + 'static,
    config: ClientConfig,
    check: &ServerCheck,
) -> Result<(CertificateAuthorityClient<Channel>, JoinVerdict), CertificateRequestError> {
    let (stream, verdict) = Watched::new(handshake(io, config, check).await?);
    let channel = channel(stream).await.map_err(|error| match verdict.get() {
        Some(words) => CertificateRequestError::Unwelcome(words),
        None => CertificateRequestError::Broken(in_one_line(&error)),
    })?;
    let client = CertificateAuthorityClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    Ok((client, verdict))
}

/// Makes the connection secure, with the CA and nobody else.
async fn handshake<I: Io + 'static>(
    io: I,
    mut config: ClientConfig,
    check: &ServerCheck,
) -> Result<TlsStream<I>, CertificateRequestError> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    let name = ServerName::try_from(NAME)
        .map_err(|error| CertificateRequestError::Handshake(io::Error::other(error)))?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, io);
    match timeout(HANDSHAKE_LIMIT, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let refused = check.refused().map(CertificateRequestError::NotTheCa);
            let refused = refused.or_else(|| words(&error).map(CertificateRequestError::Unwelcome));
            Err(refused.unwrap_or(CertificateRequestError::Handshake(error)))
        }
        Err(_) => Err(CertificateRequestError::Slow("the TLS handshake with the CA")),
    }
}

/// gRPC on a connection that is there already; it cannot be made a second time.
async fn channel(stream: impl Io + 'static) -> Result<Channel, tonic::transport::Error> {
    let stream = Arc::new(Mutex::new(Some(stream)));
    let dial = tower::service_fn(move |_: Uri| {
        let stream = stream.lock().take();
        async move {
            let stream = stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static(HOST).connect_with_connector(dial).await
}

/// Reads what became of a call.
fn answered(
    called: Result<Result<tonic::Response<Certificates>, Status>, tokio::time::error::Elapsed>,
    verdict: &JoinVerdict,
) -> Result<Certificates, CertificateRequestError> {
    let status = match called {
        Ok(Ok(answer)) => return Ok(answer.into_inner()),
        Ok(Err(status)) => status,
        Err(_) => return Err(CertificateRequestError::Slow("the answer of the CA")),
    };
    Err(match (AuthorityRefusal::of(&status), verdict.get()) {
        (Some(refusal), _) => CertificateRequestError::Refused {
            refusal,
            text: told(&status),
        },
        (None, Some(words)) => CertificateRequestError::Unwelcome(words),
        (None, None) => CertificateRequestError::Broken(told(&status)),
    })
}

/// The identity that an answer makes, if it is the one that was asked for and stands up to its own roots.
fn identity(
    id: &SpiffeId,
    key: &KeyPair,
    answer: Certificates,
) -> Result<NewIdentity, CertificateRequestError> {
    if answer.chain.len() > MAX_CERTIFICATES || answer.roots.len() > MAX_CERTIFICATES {
        return Err(CertificateRequestError::Answer("it holds too many certificates"));
    }
    let owned = |der: Vec<Vec<u8>>| der.into_iter().map(CertificateDer::from).collect::<Vec<_>>();
    let (chain, roots) = (owned(answer.chain), owned(answer.roots));
    if !chain.first().is_some_and(|leaf| request::is_for(leaf, key)) {
        return Err(CertificateRequestError::Answer(
            "its certificate is for another key",
        ));
    }
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let made =
        NewIdentity::new(chain, key, roots, SystemTime::now()).map_err(CertificateRequestError::Unusable)?;
    match made.id() == id {
        true => Ok(made),
        false => Err(CertificateRequestError::Answer(
            "its certificate is for another gateway",
        )),
    }
}
