//! Real questions over real sockets.

use std::{net::SocketAddr, time::Duration};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use super::{Fixture, LOOPBACK, addresses, ask, question, snapshot, with_edns};
use crate::{DnsConfig, vips::VipTable};

async fn ask_tcp(stream: &mut TcpStream, question: &Message) -> Message {
    let bytes = question.to_vec().unwrap();
    stream
        .write_u16(u16::try_from(bytes.len()).unwrap())
        .await
        .unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

#[tokio::test]
async fn udp_and_tcp_give_the_same_address() {
    let fixture = Fixture::start(DnsConfig::default());
    let over_udp = fixture.ask("orders.mesh.", RecordType::A).await;
    assert_eq!(addresses(&over_udp), [fixture.vip("orders")]);
    assert!(over_udp.metadata.authoritative && over_udp.metadata.recursion_available);
    assert_eq!(over_udp.answers[0].ttl, 5);
    let mut stream = TcpStream::connect(fixture.address()).await.unwrap();
    for _ in 0..2 {
        let over_tcp = ask_tcp(&mut stream, &question("orders.mesh.", RecordType::A)).await;
        assert_eq!(over_tcp.answers, over_udp.answers);
    }
}

#[tokio::test]
async fn several_addresses_are_served() {
    let listen = vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
    let fixture = Fixture::start(DnsConfig {
        listen,
        ..DnsConfig::default()
    });
    for address in fixture.dns.local_addrs() {
        let answer = ask(*address, &question("orders.mesh.", RecordType::A)).await;
        assert_eq!(addresses(&answer), [fixture.vip("orders")]);
    }
}

#[tokio::test]
async fn a_question_keeps_its_case() {
    let fixture = Fixture::start(DnsConfig::default());
    let answer = fixture.ask("oRdErS.MeSh.", RecordType::A).await;
    assert_eq!(answer.queries[0].name().to_ascii(), "oRdErS.MeSh.");
    assert_eq!(answer.answers[0].name.to_ascii(), "oRdErS.MeSh.");
    assert_eq!(addresses(&answer), [fixture.vip("orders")]);
}

#[tokio::test]
async fn every_record_type_comes_over_the_wire() {
    let fixture = Fixture::start(DnsConfig::default());
    let srv = fixture.ask("_orders._tcp.orders.mesh.", RecordType::SRV).await;
    assert!(matches!(&srv.answers[0].data, RData::SRV(srv) if srv.port == 8080));
    assert_eq!(srv.additionals.len(), 1);
    let txt = fixture.ask("orders.mesh.", RecordType::TXT).await;
    assert_eq!(txt.answers.len(), 3);
    for (name, kind) in [
        ("mesh.", RecordType::SOA),
        ("mesh.", RecordType::NS),
        ("orders.mesh.", RecordType::ANY),
    ] {
        assert_eq!(fixture.ask(name, kind).await.answers.len(), 1, "{name} {kind}");
    }
    let reverse = hickory_proto::rr::Name::from(fixture.vip("orders")).to_string();
    let ptr = fixture.ask(&reverse, RecordType::PTR).await;
    assert!(matches!(&ptr.answers[0].data, RData::PTR(name) if name.0.to_string() == "orders.mesh."));
}

#[tokio::test]
async fn negative_answers_tell_no_name_from_no_record() {
    let fixture = Fixture::start(DnsConfig::default());
    for (name, kind, code) in [
        ("nowhere.mesh.", RecordType::A, ResponseCode::NXDomain),
        ("secret.mesh.", RecordType::A, ResponseCode::NXDomain),
        ("orders.mesh.", RecordType::AAAA, ResponseCode::NoError),
    ] {
        let answer = fixture.ask(name, kind).await;
        assert_eq!(answer.metadata.response_code, code, "{name}");
        assert!(answer.answers.is_empty());
        assert!(matches!(&answer.authorities[0].data, RData::SOA(soa) if soa.minimum == 5));
    }
}

#[tokio::test]
async fn a_name_by_tag_has_its_address_bound_before_it_is_answered() {
    let fixture = Fixture::start(DnsConfig::default());
    let bindings = fixture.vips.bindings();
    let answer = fixture
        .ask("version-v2.orders.west.zone.mesh.", RecordType::A)
        .await;
    let [address] = addresses(&answer)[..] else {
        panic!("{answer}");
    };
    assert_ne!(address, fixture.vip("orders"));
    let target = bindings.borrow()[&SocketAddr::new(address, 8080)].clone();
    assert_eq!(target.to_string(), "orders{version=v2}@west");
    // The order of tags does not matter, and the address is kept.
    let one = fixture
        .ask("version-v2.runtime-k8s.orders.mesh.", RecordType::A)
        .await;
    let other = fixture
        .ask("runtime-k8s.version-v2.orders.mesh.", RecordType::A)
        .await;
    assert_eq!(addresses(&one), addresses(&other));
}

#[tokio::test]
async fn the_answer_for_a_new_name_waits_until_the_egress_listens() {
    let fixture = Fixture::start(DnsConfig::default());
    let (vips, mut bindings) = (fixture.vips.clone(), fixture.vips.bindings());
    bindings.mark_unchanged();
    let egress = tokio::spawn(async move {
        bindings.changed().await.unwrap();
        for address in bindings.borrow_and_update().keys() {
            vips.listening().began(*address);
        }
    });
    let answer = fixture.ask("version-v1.orders.mesh.", RecordType::A).await;
    assert!(egress.is_finished());
    assert_eq!(addresses(&answer).len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_too_long_for_udp_is_cut_and_whole_over_tcp() {
    let mut snapshot = snapshot(LOOPBACK);
    let entry = super::west_entry();
    let entries = (0..40).map(|i| {
        let mut record = (*entry.record).clone();
        record.origin.gateway = format!("a-gateway-with-a-long-name-{i}").parse().unwrap();
        causeway_federation::catalog::CatalogEntry {
            record: record.into(),
            ..entry.clone()
        }
    });
    snapshot.catalog = causeway_federation::catalog::Catalog::new(entries).into();
    let fixture = Fixture::with(DnsConfig::default(), snapshot, VipTable::in_memory());
    let plain = question("orders.mesh.", RecordType::TXT);
    for (question, max_bytes) in [(plain.clone(), 512), (with_edns(plain.clone(), 60_000), 1232)] {
        let answer = ask(fixture.address(), &question).await;
        assert!(answer.metadata.truncation);
        assert!(answer.to_vec().unwrap().len() <= max_bytes);
        assert_eq!(answer.queries, question.queries);
    }
    let mut stream = TcpStream::connect(fixture.address()).await.unwrap();
    let whole = ask_tcp(&mut stream, &plain).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 42);
}

#[tokio::test]
async fn what_is_no_question_gets_no_answer_or_an_error() {
    let fixture = Fixture::start(DnsConfig::default());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // An answer, garbage, and two questions in one message; only the last is answered.
    let mut answer = question("orders.mesh.", RecordType::A);
    answer.metadata.message_type = hickory_proto::op::MessageType::Response;
    socket
        .send_to(&answer.to_vec().unwrap(), fixture.address())
        .await
        .unwrap();
    socket.send_to(b"garbage", fixture.address()).await.unwrap();
    let mut two = question("orders.mesh.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let refused = ask(fixture.address(), &two).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::FormErr);
    let mut notify = question("orders.mesh.", RecordType::A);
    notify.metadata.op_code = hickory_proto::op::OpCode::Notify;
    let refused = ask(fixture.address(), &notify).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::NotImp);
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(hickory_proto::rr::DNSClass::CH);
    assert_eq!(
        ask(fixture.address(), &chaos).await.metadata.response_code,
        ResponseCode::Refused
    );
    let mut buffer = [0; 512];
    assert!(socket.try_recv(&mut buffer).is_err(), "no question, no answer");
}

#[tokio::test]
async fn a_new_snapshot_is_answered_from_at_once() {
    let fixture = Fixture::start(DnsConfig::default());
    let mut next = snapshot(LOOPBACK);
    next.generation = 8;
    fixture.snapshots.store(next.into());
    let soa = fixture.ask("mesh.", RecordType::SOA).await;
    assert!(matches!(&soa.answers[0].data, RData::SOA(soa) if soa.serial == 8));
}

#[tokio::test]
async fn addresses_outlive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let now = std::time::SystemTime::now();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let vips = VipTable::open(folder.path(), now).unwrap();
        let fixture = Fixture::with(DnsConfig::default(), snapshot(LOOPBACK), vips);
        let tagged = fixture.ask("version-v2.orders.mesh.", RecordType::A).await;
        seen.push((fixture.vip("orders"), addresses(&tagged)));
        let Fixture { dns, vips, .. } = fixture;
        dns.shutdown().await;
        assert_eq!(
            std::sync::Arc::strong_count(&vips),
            1,
            "nothing holds the file after the end"
        );
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn connections_that_are_kept_keep_no_others_out() {
    let fixture = Fixture::start(DnsConfig::default());
    let plain = question("orders.mesh.", RecordType::A);
    let mut kept = Vec::new();
    for _ in 0..crate::serve::MAX_CONNECTIONS_OF_HOST {
        let mut stream = TcpStream::connect(fixture.address()).await.unwrap();
        ask_tcp(&mut stream, &plain).await;
        kept.push(stream);
    }
    let mut late = TcpStream::connect(fixture.address()).await.unwrap();
    assert_eq!(
        addresses(&ask_tcp(&mut late, &plain).await),
        [fixture.vip("orders")]
    );
    let end = tokio::time::timeout(Duration::from_secs(10), kept[0].read(&mut [0])).await;
    assert_eq!(end.expect("the idlest gives way").unwrap(), 0);
    for stream in &mut kept[1..] {
        ask_tcp(stream, &plain).await;
    }
}

/// A program that asks over one socket as fast as it can is refused, and others are answered all the same.
#[tokio::test]
async fn one_socket_of_this_host_has_a_rate() {
    let handler = super::properties::handler();
    let bytes = question("orders.mesh.", RecordType::A).to_vec().unwrap();
    let now = std::time::Instant::now();
    let code = |client: &str| {
        let client = client.parse().unwrap();
        match handler.reply(&bytes, client, hickory_server::net::xfer::Protocol::Udp, now) {
            crate::handler::DnsReply::Ready(answer) => {
                Message::from_vec(&answer).unwrap().metadata.response_code
            }
            _ => panic!("not answered at once"),
        }
    };
    for _ in 0..crate::rate::QUESTIONS_PER_SECOND {
        assert_eq!(code("127.0.0.1:5000"), ResponseCode::NoError);
    }
    assert_eq!(code("127.0.0.1:5000"), ResponseCode::Refused);
    assert_eq!(code("127.0.0.1:5001"), ResponseCode::NoError);
}

#[tokio::test]
async fn the_ports_are_free_after_the_end() {
    let fixture = Fixture::start(DnsConfig::default());
    let address = fixture.address();
    let mut idle = TcpStream::connect(address).await.unwrap();
    ask_tcp(&mut idle, &question("orders.mesh.", RecordType::A)).await;
    tokio::time::timeout(Duration::from_secs(2), fixture.dns.shutdown())
        .await
        .unwrap();
    let listen = vec![address];
    let again = Fixture::start(DnsConfig {
        listen,
        ..DnsConfig::default()
    });
    assert_eq!(again.address(), address);
}
