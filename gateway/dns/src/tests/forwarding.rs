//! The forwarder against a pretended upstream.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, SOA},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

use super::{Fixture, addresses, ask, question};
use crate::DnsConfig;

/// Does as the upstream with a question, by the first label of its name.
fn upstream_answer(asked: &Message, over_tcp: bool) -> Vec<Message> {
    let name = asked.queries[0].name().clone();
    let mut answer = asked.clone();
    answer.metadata.message_type = MessageType::Response;
    let address = |last| Record::from_rdata(name.clone(), 60, RData::A(A::new(192, 0, 2, last)));
    let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, 30);
    match name.iter().next().unwrap_or_default() {
        b"missing" => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.authorities = vec![Record::from_rdata(name, 600, RData::SOA(soa))];
        }
        b"broken" => answer.metadata.response_code = ResponseCode::ServFail,
        b"silent" => return Vec::new(),
        b"long" if !over_tcp => answer.metadata.truncation = true,
        b"long" => answer.answers = (0..200).map(address).collect(),
        b"forged" => {
            answer.answers = vec![address(1)];
            let (mut wrong_id, mut wrong_name) = (answer.clone(), answer.clone());
            wrong_id.metadata.id = wrong_id.metadata.id.wrapping_add(1);
            wrong_id.answers = vec![address(66)];
            wrong_name.queries[0].set_name(name.base_name());
            wrong_name.answers = vec![address(67)];
            return vec![wrong_id, wrong_name, answer];
        }
        b"meddling" => {
            let of = |name: &str, last| {
                let name = Name::from_ascii(name).unwrap();
                Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, last)))
            };
            answer.answers = vec![address(1), of("orders.MESH.", 66)];
            answer.authorities = vec![of("mesh.", 66)];
            answer.additionals = vec![of("a.b.mesh.", 66), of("ns.mesh.example.org.", 2)];
        }
        _ => answer.answers = vec![address(1)],
    }
    vec![answer]
}

struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicU32>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).await.unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        tokio::spawn(serve_udp(socket, asked.clone()));
        tokio::spawn(serve_tcp(listener, asked.clone()));
        Self { address, asked }
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn serve_udp(socket: UdpSocket, asked: Arc<AtomicU32>) {
    let mut buffer = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        asked.fetch_add(1, Ordering::SeqCst);
        for answer in upstream_answer(&Message::from_vec(&buffer[..length]).unwrap(), false) {
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, asked: Arc<AtomicU32>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut buffer = vec![0; usize::from(length)];
        stream.read_exact(&mut buffer).await.unwrap();
        asked.fetch_add(1, Ordering::SeqCst);
        for answer in upstream_answer(&Message::from_vec(&buffer).unwrap(), true) {
            let bytes = answer.to_vec().unwrap();
            stream
                .write_u16(u16::try_from(bytes.len()).unwrap())
                .await
                .unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    }
}

fn forwarding_to(upstreams: &[SocketAddr]) -> Fixture {
    Fixture::start(DnsConfig {
        upstreams: Some(upstreams.to_vec()),
        ..DnsConfig::default()
    })
}

#[tokio::test]
async fn an_answer_is_remembered_and_counts_down() {
    let upstream = Upstream::start().await;
    let fixture = forwarding_to(&[upstream.address]);
    let first = fixture.ask("www.example.org.", RecordType::A).await;
    assert_eq!(
        addresses(&first),
        ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert!(!first.metadata.authoritative);
    assert_eq!(first.answers[0].ttl, 60);
    let mut ttl = 60;
    while ttl == 60 {
        ttl = fixture.ask("WWW.example.org.", RecordType::A).await.answers[0].ttl;
        assert!((58..=60).contains(&ttl));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn no_such_name_is_remembered_and_failure_is_not() {
    let upstream = Upstream::start().await;
    let fixture = forwarding_to(&[upstream.address]);
    for _ in 0..3 {
        let answer = fixture.ask("missing.example.org.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.authorities.len(), 1);
    }
    assert_eq!(upstream.asked(), 1);
    for _ in 0..3 {
        let answer = fixture.ask("broken.example.org.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(upstream.asked(), 4);
}

#[tokio::test]
async fn equal_questions_at_once_travel_upstream_once() {
    let upstream = Upstream::start().await;
    let fixture = forwarding_to(&[upstream.address]);
    let ask = || fixture.ask("www.example.org.", RecordType::A);
    for answer in futures_util::future::join_all((0..50).map(|_| ask())).await {
        assert_eq!(addresses(&answer).len(), 1);
    }
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let upstream = Upstream::start().await;
    let fixture = forwarding_to(&[upstream.address]);
    let answer = fixture.ask("forged.example.org.", RecordType::A).await;
    assert_eq!(
        addresses(&answer),
        ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[tokio::test]
async fn a_cut_answer_is_asked_for_again_over_tcp() {
    let upstream = Upstream::start().await;
    let fixture = forwarding_to(&[upstream.address]);
    let answer = fixture.ask("long.example.org.", RecordType::A).await;
    assert!(
        answer.metadata.truncation,
        "200 records do not fit the client's UDP either"
    );
    assert_eq!(upstream.asked(), 2);
    let again = ask(fixture.address(), &question("long.example.org.", RecordType::A)).await;
    assert!(again.metadata.truncation);
    assert_eq!(upstream.asked(), 2, "the whole answer was remembered");
}

#[tokio::test]
async fn a_dead_upstream_is_passed_over_and_then_skipped() {
    let upstream = Upstream::start().await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let fixture = forwarding_to(&[silent.local_addr().unwrap(), upstream.address]);
    let start = Instant::now();
    let answer = fixture.ask("www.example.org.", RecordType::A).await;
    assert_eq!(addresses(&answer).len(), 1);
    assert!(start.elapsed() >= Duration::from_secs(2));
    let start = Instant::now();
    fixture.ask("other.example.org.", RecordType::A).await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "asked the dead one again"
    );
}

#[tokio::test]
async fn without_a_living_upstream_the_answer_is_a_failure() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let closed = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let fixture = forwarding_to(&[silent.local_addr().unwrap(), closed]);
    let answer = fixture.ask("www.example.org.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let mesh = fixture.ask("orders.mesh.", RecordType::A).await;
    assert_eq!(addresses(&mesh), [fixture.vip("orders")]);
    let none = forwarding_to(&[]);
    let answer = none.ask("www.example.org.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn mesh_names_are_never_asked_upstream() {
    let upstream = Upstream::start().await;
    let fixture = forwarding_to(&[upstream.address]);
    for name in [
        "orders.mesh.",
        "nowhere.mesh.",
        "a.b.c.mesh.",
        "2.0.100.127.in-addr.arpa.",
    ] {
        fixture.ask(name, RecordType::A).await;
        fixture.ask(name, RecordType::PTR).await;
    }
    assert_eq!(upstream.asked(), 0);
    fixture.ask("1.2.0.192.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn nobody_upstream_speaks_for_the_mesh_domain() {
    let upstream = Upstream::start().await;
    let fixture = forwarding_to(&[upstream.address]);
    // Asked of the upstream, and then remembered.
    for _ in 0..2 {
        let answer = fixture.ask("meddling.example.org.", RecordType::A).await;
        let sections = [answer.answers, answer.authorities, answer.additionals];
        let names = sections.map(|records| {
            let names = records.iter().map(|record| record.name.to_string());
            names.collect::<Vec<_>>()
        });
        assert_eq!(
            names,
            [
                vec!["meddling.example.org."],
                vec![],
                vec!["ns.mesh.example.org."]
            ]
        );
    }
    assert_eq!(upstream.asked(), 1);
}
