//! The sources with real files and a real, small DNS server on loopback.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
};

use crate::InstanceMetrics;
use causeway_federation::{
    name::ServiceName,
    registry::{InstanceSource, Registration},
    topology::parse,
};
use causeway_host::tasks::Tasks;
use causeway_routing::snapshot::{Instance, Published};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::{A, SRV},
    },
};
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::InstancesConfig;

/// Longest that a test waits for what must come; no test waits this long when it passes.
const LIMIT: Duration = Duration::from_secs(60);

/// A test's DNS server: answers from a table that the test changes, and with a server failure while there is none.
#[derive(Clone)]
struct TestDns {
    address: SocketAddr,
    records: Arc<Mutex<Option<Vec<Record>>>>,
}

impl TestDns {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: socket.local_addr().unwrap(),
            records: Arc::default(),
        };
        let records = server.records.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let answer = answer(asked, records.lock().as_deref());
                socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            }
        });
        server
    }

    fn set(&self, records: Vec<Record>) {
        *self.records.lock() = Some(records);
    }

    fn fail(&self) {
        *self.records.lock() = None;
    }
}

fn answer(asked: Message, records: Option<&[Record]>) -> Message {
    let (name, kind) = (asked.queries[0].name().clone(), asked.queries[0].query_type());
    let mut answer = asked;
    answer.metadata.message_type = MessageType::Response;
    let Some(records) = records else {
        answer.metadata.response_code = ResponseCode::ServFail;
        return answer;
    };
    let of_name: Vec<&Record> = records.iter().filter(|record| record.name == name).collect();
    if of_name.is_empty() {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    let wanted = of_name.into_iter().filter(|record| record.record_type() == kind);
    answer.answers = wanted.cloned().collect();
    answer
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn address(of: &str, last: u8) -> Record {
    let ip = Ipv4Addr::new(10, 0, 0, last);
    Record::from_rdata(name(of), 1, RData::A(A(ip)))
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Record {
    let data = RData::SRV(SRV::new(priority, weight, port, name(target)));
    Record::from_rdata(name("_orders._tcp.acme.internal."), 1, data)
}

const SRV_SOURCE: &str =
    "{ service: orders, srv: _orders._tcp.acme.internal, tags: { version: v1 }, weight_from_srv: true }";

fn topology(source: &str) -> Arc<Topology> {
    let text = format!(
        "version: 1\ntrust_domain: acme.internal\nzones:\n  east:\n    gateways: [\"127.0.0.1:7800\"]\n    sources: {{ dns: [{source}] }}\n\
         \x20 west:\n    gateways: [\"127.0.0.1:7801\"]\n    sources: {{ dns: [{{ service: orders, name: west.acme.internal, port: 1 }}] }}\n\
         services:\n  orders: {{ port: 80 }}\n"
    );
    Arc::new(
        parse(&text, "test.yaml")
            .unwrap_or_else(|e| panic!("{e:?}"))
            .topology,
    )
}

struct Bench {
    instances: Instances,
    topology: watch::Sender<Arc<Topology>>,
    published: watch::Receiver<Published>,
    troubles: Troubles,
    _stop: tokio_util::sync::DropGuard,
}

async fn start(source: &str, dns: Option<SocketAddr>, folder: Option<PathBuf>) -> Bench {
    let (sender, receiver) = watch::channel(topology(source));
    let zone = ZoneName::new("east").unwrap();
    let config = InstancesConfig {
        health: Default::default(),
        listeners: tokio::sync::watch::channel(Default::default()).1,
        zone: zone.clone(),
        data_dir: None,
        shared: None,
        tasks: Tasks::default(),
    };
    let instances = Instances::start(config, receiver.clone(), Arc::new(InstanceMetrics::default())).unwrap();
    let stop = CancellationToken::new();
    let config = SourcesConfig {
        zone,
        topology: receiver,
        folder,
        resolver: HostResolver::new(Some(dns.into_iter().collect()), &[]),
    };
    let troubles = super::start(config, &instances, |_, task| {
        tokio::spawn(stop.clone().run_until_cancelled_owned(task));
    })
    .await;
    Bench {
        published: instances.subscribe(),
        instances,
        topology: sender,
        troubles,
        _stop: stop.drop_guard(),
    }
}

impl Bench {
    /// The instances of `orders`, once they are as wanted: address, weight.
    async fn orders(&self, wanted: &[(&str, u32)]) -> Vec<Arc<Instance>> {
        let service = ServiceName::new("orders").unwrap();
        let of = |published: &Published| {
            published
                .get(&service)
                .map_or_else(Vec::new, |list| list.to_vec())
        };
        let mut published = self.published.clone();
        let reached = published.wait_for(|published| {
            let there = of(published);
            let there: Vec<_> = there.iter().map(|i| (i.id.as_str(), i.weight)).collect();
            there == wanted
        });
        match tokio::time::timeout(LIMIT, reached).await {
            Ok(reached) => of(&reached.unwrap()),
            Err(_) => panic!("still {:?}", of(&self.published.borrow())),
        }
    }

    async fn trouble(&self, wanted: impl Fn(&[(String, String)]) -> bool) {
        let reached = async {
            while !wanted(&self.troubles.list()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reached = tokio::time::timeout(LIMIT, reached).await;
        assert!(reached.is_ok(), "still {:?}", self.troubles.list());
    }
}

#[tokio::test]
async fn srv_records_become_instances_and_follow_dns() {
    let dns = TestDns::start().await;
    dns.set(vec![
        srv(10, 5, 8080, "a.acme.internal."),
        srv(10, 0, 8081, "b.acme.internal."),
        srv(20, 9, 8082, "reserve.acme.internal."),
        address("a.acme.internal.", 1),
        address("b.acme.internal.", 2),
        address("reserve.acme.internal.", 3),
        address("west.acme.internal.", 9),
    ]);
    let bench = start(SRV_SOURCE, Some(dns.address), None).await;
    let orders = bench.orders(&[("10.0.0.1:8080", 5), ("10.0.0.2:8081", 1)]).await;
    assert_eq!(orders[0].tags.value("version"), Some("v1"));
    assert_eq!(orders[0].source, InstanceSource::Dns);

    dns.set(vec![
        srv(10, 7, 8080, "a.acme.internal."),
        address("a.acme.internal.", 1),
    ]);
    bench.orders(&[("10.0.0.1:8080", 7)]).await;
    assert_eq!(bench.troubles.list(), []);
}

#[tokio::test]
async fn a_resolver_that_fails_costs_nothing_and_is_complained_of() {
    let dns = TestDns::start().await;
    dns.set(vec![address("orders.acme.internal.", 1)]);
    let source = "{ service: orders, name: orders.acme.internal, port: 80, weight: 3 }";
    let bench = start(source, Some(dns.address), None).await;
    bench.orders(&[("10.0.0.1:80", 3)]).await;
    dns.fail();
    bench
        .trouble(|troubles| {
            troubles
                .iter()
                .any(|(place, _)| place.contains("orders.acme.internal"))
        })
        .await;
    bench.orders(&[("10.0.0.1:80", 3)]).await;
    dns.set(vec![address("orders.acme.internal.", 2)]);
    bench.orders(&[("10.0.0.2:80", 3)]).await;
    bench.trouble(<[_]>::is_empty).await;
    // A name that does not exist, and a service scaled to nothing, are answered alike.
    dns.set(vec![]);
    bench.orders(&[]).await;
    let of_nothing =
        |troubles: &[(String, String)]| troubles.iter().any(|(_, why)| why.contains("names no instance"));
    bench.trouble(of_nothing).await;
}

#[tokio::test]
async fn a_source_that_the_topology_drops_takes_only_its_own_instances_along() {
    let dns = TestDns::start().await;
    dns.set(vec![
        address("orders.acme.internal.", 1),
        address("orders.acme.internal.", 2),
    ]);
    let source = "{ service: orders, name: orders.acme.internal, port: 80 }";
    let bench = start(source, Some(dns.address), None).await;
    bench.orders(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1)]).await;
    // Registered by itself as well, with a weight of its own, which counts.
    let mine = Registration {
        service: ServiceName::new("orders").unwrap(),
        id: "10.0.0.2:80".to_owned(),
        address: "10.0.0.2:80".parse().unwrap(),
        tags: Default::default(),
        weight: 9,
        capacity_per_second: None,
        time_to_live: None,
        provenance: causeway_federation::registry::Provenance::ThisHost,
    };
    bench.instances.register(mine).await.unwrap();
    bench.orders(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 9)]).await;
    bench.topology.send_replace(topology(""));
    bench.orders(&[("10.0.0.2:80", 9)]).await;
}

#[tokio::test]
async fn a_folder_of_files_is_taken_up_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let draft = folder.path().join(".draft");
        fs::write(&draft, text).unwrap();
        fs::rename(&draft, folder.path().join(name)).unwrap();
    };
    let one = "instances:\n  - { service: orders, address: \"10.0.0.1:80\", weight: 2 }\n";
    write("one.yaml", one);
    write("readme.txt", "not instances");
    let bench = start("", None, Some(folder.path().to_owned())).await;
    let there = bench.orders(&[("10.0.0.1:80", 2)]).await;
    assert_eq!(there[0].source, InstanceSource::Folder);

    write(
        "two.yaml",
        "instances: [{ service: orders, address: \"10.0.0.2:80\" }]\n",
    );
    bench.orders(&[("10.0.0.1:80", 2), ("10.0.0.2:80", 1)]).await;
    write("one.yaml", &one.replace("weight", "wieght"));
    bench
        .trouble(|troubles| troubles.iter().any(|(place, _)| place.ends_with("one.yaml")))
        .await;
    bench.orders(&[("10.0.0.1:80", 2), ("10.0.0.2:80", 1)]).await;
    write("one.yaml", &one.replace("weight: 2", "weight: 4"));
    bench.orders(&[("10.0.0.1:80", 4), ("10.0.0.2:80", 1)]).await;
    bench.trouble(<[_]>::is_empty).await;
    fs::remove_file(folder.path().join("one.yaml")).unwrap();
    bench.orders(&[("10.0.0.2:80", 1)]).await;
}

#[tokio::test]
async fn a_folder_that_vanishes_keeps_what_it_held() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("instances");
    fs::create_dir(&folder).unwrap();
    let text = "instances: [{ service: orders, address: \"10.0.0.1:80\" }]\n";
    fs::write(folder.join("one.yaml"), text).unwrap();
    let bench = start("", None, Some(folder.clone())).await;
    bench.orders(&[("10.0.0.1:80", 1)]).await;
    fs::rename(&folder, outer.path().join("elsewhere")).unwrap();
    bench.trouble(|troubles| !troubles.is_empty()).await;
    bench.orders(&[("10.0.0.1:80", 1)]).await;
    // An empty file where the topology's format asks for nothing at all is no file of instances.
    assert!(causeway_federation::topology::parse_instances("", "empty.yaml").is_err());
}
