//! Tests of what tunnels agree on, and what becomes of those that agree on less than the topology requires.

use std::{net::SocketAddr, sync::Arc};

use causeway_federation::topology::Topology;
use causeway_identity::{Identity, ca::Ca};
use causeway_proto::tunnel::{ControlMessage, Hello, PROTOCOL, control_message::Body};
use causeway_telemetry::Side;
use causeway_tunnel::{Ended, SendHalf, TunnelRefusal, write_frame};
use quinn::{Connection, Endpoint, crypto::rustls::QuicServerConfig};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, NamedGroup, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};

use crate::support::{DAY, DOMAIN, Gate, Log, RawPeer, echo, id, none, one, pair, until};

const EAST: &str = "east/gw1";

/// All that a peer can do that was built before hybrid key exchanges.
fn classical() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

#[derive(Debug)]
struct TrustAnyone;

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
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Dials with a good certificate and X25519 alone.
fn classical_peer(identity: &Identity) -> RawPeer {
    let good = identity.client_tls().unwrap();
    let mut tls = ClientConfig::builder_with_provider(classical())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone))
        .with_client_cert_resolver(good.client_auth_cert_resolver.clone());
    tls.alpn_protocols = good.alpn_protocols;
    RawPeer::new(tls)
}

/// Accepts with a good certificate and X25519 alone.
fn classical_server(identity: &Identity) -> Endpoint {
    let good = identity.server_tls().unwrap();
    let mut tls = ServerConfig::builder_with_provider(classical())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(good.cert_resolver.clone());
    tls.alpn_protocols = good.alpn_protocols;
    let crypto = QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

async fn say_hello(connection: &Connection) -> SendHalf {
    let mut control = SendHalf::from(connection.open_uni().await.unwrap());
    let hello = Hello {
        protocol: PROTOCOL,
        ..Hello::default()
    };
    let message = ControlMessage {
        body: Some(Body::Hello(hello)),
    };
    write_frame(&mut control, &message).await.unwrap();
    control
}

/// The topology of `gate` from now on requires a post-quantum key exchange, or does not.
fn require(gate: &Gate, required: bool) {
    let mut topology = Topology::clone(&gate.topology.borrow());
    topology.tls.require_post_quantum = required;
    gate.topology.send_replace(Arc::new(topology));
}

fn refused_by_peer(ended: &Ended) -> Option<TunnelRefusal> {
    match ended {
        Ended::Refused {
            by: Side::Peer,
            refusal,
            ..
        } => Some(*refusal),
        _ => None,
    }
}

#[tokio::test]
async fn tunnels_agree_on_a_hybrid_key_exchange_and_tell_what_they_agreed_on() {
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = pair(&ca).await;
    for (gate, peer) in [(&east, "plant"), (&plant, "east")] {
        let tunnel = gate.tunnel_to(peer).await;
        let agreed = tunnel.negotiated().unwrap();
        assert_eq!(agreed.group, NamedGroup::X25519MLKEM768);
        assert!(agreed.is_post_quantum());
        assert_eq!(
            (agreed.group_name(), agreed.cipher_name()),
            ("X25519MLKEM768".to_owned(), "TLS13_AES_128_GCM_SHA256".to_owned())
        );
        let (identity, end) = tunnel.certificate().unwrap();
        assert_eq!(
            identity.to_string(),
            format!("spiffe://{DOMAIN}/zone/{peer}/gateway/gw1")
        );
        assert!(agreed.is_post_quantum());
        let left = end.duration_since(std::time::SystemTime::now()).unwrap();
        assert!(left > DAY / 2 && left <= DAY, "{left:?}");
    }
}

#[tokio::test]
async fn a_peer_that_cannot_is_refused_with_the_same_word_on_both_sides() {
    let log = Log::capture();
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = pair(&ca).await;
    require(&east, true);
    let raw = classical_peer(&ca.issue(&id("plant"), DAY).unwrap());
    // From the moment that the endpoint has its new settings it is the handshake that fails, with an alert.
    let alerted = async {
        loop {
            match raw.connect(east.address()).await {
                Err(error) => return Ended::of_connection(&error),
                Ok(connection) => assert_eq!(
                    refused_by_peer(&Ended::of_connection(&connection.closed().await)),
                    Some(TunnelRefusal::NotPostQuantum)
                ),
            }
        }
    };
    assert_eq!(
        refused_by_peer(&alerted.await),
        Some(TunnelRefusal::NotPostQuantum)
    );
    log.says(
        "refused a tunnel",
        &[("reason", "not_post_quantum"), ("gateway", EAST)],
    )
    .await;
    east.counts_refusal("local", "not_post_quantum").await;
    // Whoever can is not disturbed.
    echo(&plant.tunnel_to("east").await, b"undisturbed").await;
}

#[tokio::test]
async fn an_open_tunnel_without_it_is_closed_once_it_is_required_and_others_stay() {
    let log = Log::capture();
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = pair(&ca).await;
    let before = plant.tunnel_to("east").await;
    let raw = classical_peer(&ca.issue(&id("plant"), DAY).unwrap());
    let connection = raw.connect(east.address()).await.unwrap();
    let _control = say_hello(&connection).await;
    let weak = until("the classical tunnel", || {
        let all = east.set.all();
        let group = |tunnel: &causeway_tunnel::Tunnel| tunnel.negotiated().map(|agreed| agreed.group);
        all.into_iter()
            .find(|tunnel| group(tunnel) == Some(NamedGroup::X25519))
    })
    .await;
    require(&east, true);
    let ended = Ended::of_connection(&connection.closed().await);
    assert_eq!(refused_by_peer(&ended), Some(TunnelRefusal::NotPostQuantum));
    assert!(weak.ended().is_some());
    log.says(
        "refused a tunnel",
        &[("reason", "not_post_quantum"), ("gateway", EAST)],
    )
    .await;
    until("one tunnel to be left", || {
        (east.set.count(&id("plant")) == 1).then_some(())
    })
    .await;
    assert!(before.ended().is_none());
    echo(&before, b"undisturbed").await;
    // Taken back, the same peer is welcome again.
    require(&east, false);
    let again = async {
        loop {
            if let Ok(connection) = raw.connect(east.address()).await {
                let _control = say_hello(&connection).await;
                until("its fate", || {
                    let welcome = east.set.count(&id("plant")) == 2;
                    (welcome || connection.close_reason().is_some()).then_some(())
                })
                .await;
                if connection.close_reason().is_none() {
                    return connection;
                }
            }
        }
    };
    again.await.close(1u32.into(), b"done");
}

#[tokio::test]
async fn a_gateway_that_is_dialled_and_cannot_is_named_as_the_one_that_cannot() {
    let log = Log::capture();
    let ca = Ca::new(DOMAIN).unwrap();
    let server = classical_server(&ca.issue(&id("east"), DAY).unwrap());
    let accepting = server.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            tokio::spawn(async move { incoming.await.map(drop) });
        }
    });
    let known = [("east", none()), ("plant", none())];
    let plant = Gate::new(ca.issue(&id("plant"), DAY).unwrap(), &known);
    require(&plant, true);
    let zones = [("east", one(server.local_addr().unwrap())), ("plant", none())];
    let mut dialling = Topology::clone(&crate::support::topology(&zones));
    dialling.tls.require_post_quantum = true;
    plant.topology.send_replace(Arc::new(dialling));
    log.says(
        "the peer refused a tunnel",
        &[("reason", "not_post_quantum"), ("gateway", "plant/gw1")],
    )
    .await;
    plant.counts_refusal("peer", "not_post_quantum").await;
    assert!(plant.set.all().is_empty());
}

#[tokio::test]
async fn a_gateway_that_has_to_prove_its_address_first_comes_up_all_the_same() {
    let ca = Ca::new(DOMAIN).unwrap();
    let tls = ca.issue(&id("east"), DAY).unwrap().server_tls().unwrap();
    let crypto = QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let server = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let accepting = server.clone();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(incoming) = accepting.accept().await {
            if !incoming.remote_address_validated() {
                incoming.retry().unwrap();
                continue;
            }
            let connection = incoming.await.unwrap();
            kept.push((say_hello(&connection).await, connection));
        }
    });
    let zones = [("east", one(server.local_addr().unwrap())), ("plant", none())];
    let plant = Gate::new(ca.issue(&id("plant"), DAY).unwrap(), &zones);
    let tunnel = plant.tunnel_to("east").await;
    assert!(tunnel.negotiated().unwrap().is_post_quantum());
}
