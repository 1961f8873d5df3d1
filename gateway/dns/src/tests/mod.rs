//! Mesh DNS over tables, real sockets and a pretended upstream.

mod forwarding;
mod names;
mod properties;
mod sockets;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use causeway_federation::{
    catalog::{Age, CatalogEntry},
    topology::parse,
};
use causeway_host::{descriptors::Descriptors, handed::HandedSockets, tasks::Tasks};
use causeway_routing::snapshot::{Health, Instance, Link, Snapshot, Snapshots};
use causeway_routing::testbed;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};
use tokio::net::UdpSocket;

use super::{DnsConfig, DnsServer};
use crate::vips::VipTable;

/// The zone `east` sees `orders` (instances here, in `west` and tags that only a split knows), `zone`, `quotes` (UDP) and
/// not `secret`.
const TOPOLOGY: &str = "
version: 1
trust_domain: acme.internal
dns: { domain: mesh, ttl: 5s }
zones:
  east:
    gateways: [127.0.0.1:7800]
    vips: VIPS
  west:
    gateways: [127.0.0.1:7801]
    instances:
      - { service: orders, address: 10.1.0.11:8080, tags: { version: v2, runtime: k8s } }
      - { service: orders, address: 10.1.0.12:8080, tags: { Build: '1.2_3', a-b: c, a: b-c } }
services:
  orders:
    port: 8080
    protocol: http
    split: [{ tags: { version: v1 }, weight: 95 }, { tags: { version: v2 }, weight: 5 }]
  zone: { port: 81, protocol: tcp }
  quotes: { port: 82, protocol: tcp }
  secret: { port: 83, protocol: tcp, export_to: [west] }
";

pub(super) fn snapshot(vips: &str) -> Snapshot {
    let mut topology = parse(&TOPOLOGY.replace("VIPS", vips), "test.yaml")
        .unwrap()
        .topology;
    // A file may not say it yet.
    let quotes = topology.services.get_mut("quotes").unwrap();
    quotes.ports.primary.protocol = causeway_federation::topology::Protocol::Udp;
    let address = "127.0.0.1:1".parse().unwrap();
    let unhealthy = Instance {
        health: Health::Unhealthy,
        tags: testbed::tags(&[("version", "v1"), ("rack", "r7")]),
        load: Arc::default(),
        ..Arc::into_inner(testbed::instance("two", address, 1, &[])).unwrap()
    };
    let own = vec![
        testbed::instance("one", address, 1, &[("version", "v1")]),
        Arc::new(unhealthy),
    ];
    let links = [("west/gw1", Link::Up)];
    let mut snapshot = testbed::snapshot("east", &Arc::new(topology), own, vec![west_entry()], &links);
    snapshot.generation = 7;
    snapshot
}

fn west_entry() -> CatalogEntry {
    let tags: &[(&str, &str)] = &[("version", "v2"), ("runtime", "k8s")];
    testbed::entry("west/gw1", Age::Suspect, false, &[(tags, 3, 2)])
}

const LOOPBACK: &str = "{ loopback: 127.64.0.0/10 }";

/// A running server, what it serves, and how to ask it.
struct Fixture {
    dns: DnsServer,
    vips: Arc<VipTable>,
    snapshots: Snapshots,
}

impl Fixture {
    fn start(config: DnsConfig) -> Self {
        Self::with(config, snapshot(LOOPBACK), VipTable::in_memory())
    }

    fn with(mut config: DnsConfig, snapshot: Snapshot, vips: VipTable) -> Self {
        vips.refresh(&snapshot, SystemTime::now()).unwrap();
        if config.listen.is_empty() {
            config.listen.push("127.0.0.1:0".parse().unwrap());
        }
        config.upstreams.get_or_insert_default();
        let (vips, snapshots) = (Arc::new(vips), Arc::new(ArcSwap::from_pointee(snapshot)));
        let dns = DnsServer::start(
            config,
            snapshots.clone(),
            vips.clone(),
            Arc::default(),
            &HandedSockets::default(),
            (&Tasks::default(), Descriptors::default()),
        )
        .unwrap();
        Self { dns, vips, snapshots }
    }

    fn address(&self) -> SocketAddr {
        self.dns.local_addrs()[0]
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        ask(self.address(), &question(name, kind)).await
    }

    fn vip(&self, name: &str) -> IpAddr {
        self.vips
            .names()
            .service(name)
            .unwrap()
            .addresses()
            .next()
            .unwrap()
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, bytes: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(bytes);
    message.set_edns(edns);
    message
}

/// Over UDP, until the answer with the right id is there.
async fn ask(server: SocketAddr, question: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let received = tokio::time::timeout(std::time::Duration::from_secs(10), socket.recv(&mut buffer));
    let length = received.await.expect("no answer in 10 s").unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    answer
}

fn addresses(answer: &Message) -> Vec<IpAddr> {
    let data = answer.answers.iter().map(|record| &record.data);
    data.filter_map(|data| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    })
    .collect()
}
