//! A peer that is no gateway: opens a QUIC connection with whatever certificate it likes, and says what it likes.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use bytes::Bytes;
use causeway_proto::tunnel::{
    ALPN, ControlMessage, FRAME_PREFIX_BYTES, Hello, PROTOCOL, StreamHeader, StreamReply, control_message,
    decode_frame, encode_frame, frame_length,
};
use quinn::{Connection, Endpoint, SendStream, crypto::rustls::QuicClientConfig};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

use crate::authority::Leaf;

/// A QUIC client towards one gateway.
#[derive(Debug)]
pub struct Peer {
    pub connection: Connection,
    // The control stream must stay open; both live as long as the peer.
    _control: Option<SendStream>,
    _endpoint: Option<Endpoint>,
}

impl Peer {
    /// Connects with the certificate of `leaf`, or with none. Trusts whoever answers.
    ///
    /// # Errors
    /// When the handshake fails on this side. (TLS 1.3: a server that refuses the certificate is heard only later.)
    pub async fn connect(gateway: SocketAddr, leaf: Option<&Leaf>) -> anyhow::Result<Self> {
        let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let config = QuicClientConfig::try_from(tls(leaf)?).context("a TLS 1.3 configuration")?;
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
        let connection = endpoint
            .connect(gateway, "gateway")?
            .await
            .context("shake hands")?;
        Ok(Self::over(connection, endpoint))
    }

    /// On a connection that is there already; `endpoint` is kept for as long as the peer.
    pub fn over(connection: Connection, endpoint: impl Into<Option<Endpoint>>) -> Self {
        Self {
            connection,
            _control: None,
            _endpoint: endpoint.into(),
        }
    }

    /// Says hello on the control stream, as a gateway does.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn hello(&mut self) -> anyhow::Result<()> {
        self.hello_at(0).await
    }

    /// Says hello with this clock, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn hello_at(&mut self, clock_milliseconds: u64) -> anyhow::Result<()> {
        self.say_hello(Hello {
            clock_milliseconds,
            ..Hello::default()
        })
        .await
    }

    /// Says hello as a gateway that can do this.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn hello_with(&mut self, capability: &str) -> anyhow::Result<()> {
        self.say_hello(Hello {
            capabilities: vec![capability.to_owned()],
            ..Hello::default()
        })
        .await
    }

    async fn say_hello(&mut self, hello: Hello) -> anyhow::Result<()> {
        let mut control = self
            .connection
            .open_uni()
            .await
            .context("open the control stream")?;
        let hello = Hello {
            protocol: PROTOCOL,
            program: "test".to_owned(),
            start_id: 1,
            ..hello
        };
        let message = ControlMessage {
            body: Some(control_message::Body::Hello(hello)),
        };
        control
            .write_chunk(encode_frame(&message)?)
            .await
            .context("say hello")?;
        self._control = Some(control);
        Ok(())
    }

    /// Opens a stream with this header and reads the reply.
    ///
    /// # Errors
    /// When no reply comes.
    pub async fn ask(&self, header: &StreamHeader) -> anyhow::Result<StreamReply> {
        self.ask_raw(encode_frame(header)?).await
    }

    /// Opens a stream, writes these bytes and reads the reply.
    ///
    /// # Errors
    /// When no reply comes.
    pub async fn ask_raw(&self, bytes: Bytes) -> anyhow::Result<StreamReply> {
        let (mut send, mut recv) = self.connection.open_bi().await.context("open a stream")?;
        send.write_chunk(bytes).await.context("write the header")?;
        let mut prefix = [0; FRAME_PREFIX_BYTES];
        recv.read_exact(&mut prefix)
            .await
            .context("read the reply's length")?;
        let mut body = vec![0; frame_length(prefix)?];
        recv.read_exact(&mut body).await.context("read the reply")?;
        Ok(decode_frame(&body)?)
    }
}

/// Settings of a client that shows this certificate, and believes whomever it talks to.
pub(crate) fn tls(leaf: Option<&Leaf>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone(provider)));
    let mut config = match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let chain =
                CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?)?
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Accepts every server certificate: this peer tests what the gateway accepts.
#[derive(Debug)]
pub(crate) struct TrustAnyone(pub(crate) Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
