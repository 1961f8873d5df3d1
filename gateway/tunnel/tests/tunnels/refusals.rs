//! Every way in which a tunnel is refused: each with its own word, in the logs of both sides.

use std::time::SystemTime;

use causeway_identity::ca::{Ca, Leaf};
use causeway_proto::tunnel::{ControlMessage, Hello, PROTOCOL, control_message::Body};
use causeway_telemetry::Side;
use causeway_tunnel::{Ended, SendHalf, TunnelRefusal, write_frame};
use quinn::{Connection, VarInt};

use crate::support::{DAY, DOMAIN, Gate, Log, RawPeer, echo, id, none, one, pair};

const HERE: &str = "refused a tunnel";
const THERE: &str = "the peer refused a tunnel";

/// `east` listens and `dialler` dials it as `zone`; `by` names who refuses.
async fn refusal(listener: (&Ca, &Leaf), dialler: (&Ca, &Leaf), zone: &str, by: &str, word: &str) {
    let log = Log::capture();
    let known = [("east", none()), ("plant", none())];
    let listener_id = listener.1.gateway.to_string();
    let dialler_id = dialler.1.gateway.to_string();
    let east = Gate::new(listener.0.issue_leaf(listener.1).unwrap(), &known);
    let zones = [(zone, one(east.address())), ("other", none())];
    let plant = Gate::new(dialler.0.issue_leaf(dialler.1).unwrap(), &zones);

    let other = if by == listener_id {
        &dialler_id
    } else {
        &listener_id
    };
    let line = log.says(HERE, &[("reason", word), ("gateway", by)]).await;
    assert!(!line["hint"].is_empty() && !line["address"].is_empty());
    log.says(THERE, &[("reason", word), ("gateway", other)]).await;
    let (here, there) = if by == listener_id {
        (&east, &plant)
    } else {
        (&plant, &east)
    };
    here.counts_refusal("local", word).await;
    there.counts_refusal("peer", word).await;
    assert!(east.set.all().is_empty() && plant.set.all().is_empty());
}

fn good(ca: &Ca, zone: &str) -> Leaf {
    ca.leaf(&id(zone), DAY).unwrap()
}

fn expired(leaf: Leaf) -> Leaf {
    let now = SystemTime::now();
    Leaf {
        not_before: now - 2 * DAY,
        not_after: now - DAY,
        ..leaf
    }
}

fn not_yet_valid(leaf: Leaf) -> Leaf {
    let now = SystemTime::now();
    Leaf {
        not_before: now + DAY,
        not_after: now + 2 * DAY,
        ..leaf
    }
}

const EAST: &str = "east/gw1";
const PLANT: &str = "plant/gw1";

#[tokio::test]
async fn a_gateway_of_another_ca_is_refused() {
    let (ours, theirs) = (Ca::new(DOMAIN).unwrap(), Ca::new(DOMAIN).unwrap());
    let (east, plant) = (good(&ours, "east"), good(&theirs, "plant"));
    refusal((&ours, &east), (&theirs, &plant), "east", PLANT, "unknown_issuer").await;
}

#[tokio::test]
async fn a_certificate_of_another_zone_is_refused() {
    let ca = Ca::new(DOMAIN).unwrap();
    refusal(
        (&ca, &good(&ca, "east")),
        (&ca, &good(&ca, "plant")),
        "west",
        PLANT,
        "wrong_zone",
    )
    .await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_whichever_side_has_it() {
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = (good(&ca, "east"), good(&ca, "plant"));
    refusal(
        (&ca, &east),
        (&ca, &expired(plant.clone())),
        "east",
        EAST,
        "expired",
    )
    .await;
    refusal((&ca, &expired(east)), (&ca, &plant), "east", PLANT, "expired").await;
}

#[tokio::test]
async fn a_certificate_that_is_not_yet_valid_is_refused_whichever_side_has_it() {
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = (good(&ca, "east"), good(&ca, "plant"));
    refusal(
        (&ca, &east),
        (&ca, &not_yet_valid(plant.clone())),
        "east",
        EAST,
        "not_yet_valid",
    )
    .await;
    refusal(
        (&ca, &not_yet_valid(east)),
        (&ca, &plant),
        "east",
        PLANT,
        "not_yet_valid",
    )
    .await;
}

#[tokio::test]
async fn a_zone_that_the_topology_does_not_list_is_refused() {
    let ca = Ca::new(DOMAIN).unwrap();
    refusal(
        (&ca, &good(&ca, "east")),
        (&ca, &good(&ca, "nowhere")),
        "east",
        EAST,
        "unknown_zone",
    )
    .await;
}

#[tokio::test]
async fn a_peer_that_claims_the_own_zone_is_refused() {
    let ca = Ca::new(DOMAIN).unwrap();
    let leaf = Leaf {
        gateway: id("nowhere"),
        ..good(&ca, "east")
    };
    refusal((&ca, &good(&ca, "east")), (&ca, &leaf), "east", EAST, "own_zone").await;
}

#[tokio::test]
async fn another_trust_domain_under_the_same_root_is_refused() {
    let ca = Ca::new(DOMAIN).unwrap();
    let uris = vec!["spiffe://evil.example/zone/plant/gateway/gw1".to_owned()];
    let leaf = Leaf {
        uris,
        ..good(&ca, "plant")
    };
    refusal(
        (&ca, &good(&ca, "east")),
        (&ca, &leaf),
        "east",
        EAST,
        "wrong_trust_domain",
    )
    .await;
    refusal(
        (&ca, &leaf),
        (&ca, &good(&ca, "east")),
        "plant",
        EAST,
        "wrong_trust_domain",
    )
    .await;
}

#[tokio::test]
async fn a_certificate_that_names_no_gateway_or_two_is_refused() {
    let ca = Ca::new(DOMAIN).unwrap();
    let plant = good(&ca, "plant");
    let two = [plant.uris.clone(), good(&ca, "west").uris].concat();
    for uris in [vec![], two, vec!["spiffe://acme.internal/host/x".to_owned()]] {
        let leaf = Leaf {
            uris,
            ..plant.clone()
        };
        refusal(
            (&ca, &good(&ca, "east")),
            (&ca, &leaf),
            "east",
            EAST,
            "bad_identity",
        )
        .await;
    }
}

#[tokio::test]
async fn a_ca_certificate_is_no_gateways_certificate() {
    let ca = Ca::new(DOMAIN).unwrap();
    let leaf = Leaf {
        is_ca: true,
        ..good(&ca, "plant")
    };
    refusal(
        (&ca, &good(&ca, "east")),
        (&ca, &leaf),
        "east",
        EAST,
        "bad_certificate",
    )
    .await;
}

/// Waits for a raw peer to be thrown out, sees that a bystander's tunnel is undisturbed, and returns what the peer learns.
async fn thrown_out(gate: &Gate, bystander: &Gate, connection: Connection) -> TunnelRefusal {
    let ended = Ended::of_connection(&connection.closed().await);
    echo(&bystander.tunnel_to("east").await, b"undisturbed").await;
    echo(&gate.tunnel_to("plant").await, b"undisturbed").await;
    assert_eq!(gate.set.all().len(), 1);
    match ended {
        Ended::Refused {
            by: Side::Peer,
            refusal,
            ..
        } => refusal,
        other => panic!("{other:?}"),
    }
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused() {
    let log = Log::capture();
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = pair(&ca).await;
    let mut tls = ca.issue(&id("plant"), DAY).unwrap().client_tls().unwrap();
    tls.client_auth_cert_resolver = std::sync::Arc::new(NoCertificate);
    let raw = RawPeer::new(tls);
    let connection = raw.connect(east.address()).await.unwrap();
    assert_eq!(
        thrown_out(&east, &plant, connection).await,
        TunnelRefusal::NoCertificate
    );
    log.says(HERE, &[("reason", "no_certificate"), ("gateway", EAST)])
        .await;
}

#[tokio::test]
async fn a_peer_that_speaks_no_known_protocol_is_refused() {
    let log = Log::capture();
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = pair(&ca).await;
    let mut tls = ca.issue(&id("plant"), DAY).unwrap().client_tls().unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let error = RawPeer::new(tls).connect(east.address()).await.unwrap_err();
    let Ended::Refused {
        by: Side::Peer,
        refusal,
        ..
    } = Ended::of_connection(&error)
    else {
        panic!("{error:?}");
    };
    assert_eq!(refusal, TunnelRefusal::WrongAlpn);
    log.says(HERE, &[("reason", "wrong_alpn"), ("gateway", EAST)])
        .await;
    echo(&plant.tunnel_to("east").await, b"undisturbed").await;
}

/// A raw peer with a good certificate that says `bytes` on its control stream.
async fn says_on_control(bytes: &[u8], word: &str) -> TunnelRefusal {
    let log = Log::capture();
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, plant) = pair(&ca).await;
    let raw = RawPeer::new(ca.issue(&id("plant"), DAY).unwrap().client_tls().unwrap());
    let connection = raw.connect(east.address()).await.unwrap();
    let mut control = connection.open_uni().await.unwrap();
    control.write_all(bytes).await.unwrap();
    let refusal = thrown_out(&east, &plant, connection).await;
    east.counts_refusal("local", word).await;
    if refusal == TunnelRefusal::Garbage {
        east.counts("causeway_peer_broke_protocol_total{reason=\"garbage\"}")
            .await;
    }
    log.says(HERE, &[("reason", word), ("gateway", EAST), ("peer", PLANT)])
        .await;
    refusal
}

fn hello(protocol: u32) -> Vec<u8> {
    let hello = Hello {
        protocol,
        ..Hello::default()
    };
    let message = ControlMessage {
        body: Some(Body::Hello(hello)),
    };
    causeway_proto::tunnel::encode_frame(&message).unwrap().to_vec()
}

#[tokio::test]
async fn another_version_of_the_protocol_is_refused() {
    assert_eq!(
        says_on_control(&hello(PROTOCOL + 8), "protocol_version").await,
        TunnelRefusal::ProtocolVersion
    );
}

#[tokio::test]
async fn garbage_in_place_of_a_hello_is_refused() {
    assert_eq!(
        says_on_control(b"GET / HTTP/1.1\r\n\r\n", "garbage").await,
        TunnelRefusal::Garbage
    );
    assert_eq!(says_on_control(&[0, 0], "garbage").await, TunnelRefusal::Garbage);
}

#[tokio::test]
async fn a_tunnel_whose_peer_turns_to_garbage_is_closed_alone() {
    let bytes = [hello(PROTOCOL), vec![0xff; 100]].concat();
    assert_eq!(says_on_control(&bytes, "garbage").await, TunnelRefusal::Garbage);
    let twice = [hello(PROTOCOL), hello(PROTOCOL)].concat();
    assert_eq!(says_on_control(&twice, "garbage").await, TunnelRefusal::Garbage);
}

#[tokio::test]
async fn a_peer_that_never_says_hello_is_refused() {
    assert_eq!(says_on_control(&[], "no_hello").await, TunnelRefusal::NoHello);
}

#[tokio::test]
async fn an_unknown_control_message_is_passed_over() {
    let ca = Ca::new(DOMAIN).unwrap();
    let (east, _plant) = pair(&ca).await;
    let raw = RawPeer::new(ca.issue(&id("plant"), DAY).unwrap().client_tls().unwrap());
    let connection = raw.connect(east.address()).await.unwrap();
    let mut control = SendHalf::from(connection.open_uni().await.unwrap());
    control.write_all(&hello(PROTOCOL)).await.unwrap();
    write_frame(&mut control, &ControlMessage::default())
        .await
        .unwrap();
    crate::support::until("the raw peer's tunnel", || {
        (east.set.count(&id("plant")) == 2).then_some(())
    })
    .await;
    connection.close(1u32.into(), b"done");
    crate::support::until("it to go", || (east.set.count(&id("plant")) == 1).then_some(())).await;
}

#[tokio::test]
async fn a_peer_that_fails_for_ever_fills_no_log() {
    let log = Log::capture();
    let ca = Ca::new(DOMAIN).unwrap();
    let east = Gate::new(ca.issue(&id("east"), DAY).unwrap(), &[("east", none())]);
    for _ in 0..20 {
        let raw = RawPeer::new(ca.issue(&id("nowhere"), DAY).unwrap().client_tls().unwrap());
        let connection = raw.connect(east.address()).await.unwrap();
        connection.closed().await;
        raw.endpoint.close(VarInt::from_u32(0), b"");
    }
    let told = log
        .lines()
        .into_iter()
        .filter(|line| line["message"] == HERE)
        .count();
    assert_eq!(told, 1);
}
