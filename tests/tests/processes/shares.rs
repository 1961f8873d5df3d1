//! Zones, users and clients that take as many descriptors of a gateway, or places at its APIs, as there are: others are still served, and
//! they are named.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use causeway_tests::{
    address::Block,
    dns,
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance},
    measured::measured,
    process::program,
    talk::Client,
    wait::until_true,
};
use hickory_proto::rr::RecordType;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// Descriptors of the gateway, of which 128 are kept for itself.
const LIMIT: u64 = 400;
const PORT: u16 = 9000;
/// Least that the greedy one is served.
const LEAST_SERVED: usize = 60;
/// Connections that are opened by who takes as many as there are.
const GREED: usize = 300;
/// Most of them: two thirds of what is not kept of [`LIMIT`].
const GREATEST_SHARE: usize = (LIMIT as usize - 128) * 2 / 3;
/// Connections that others open then.
const MODEST: usize = 8;

/// East, which has few descriptors and all instances of `orders`, and two other zones.
async fn wanted_by_two(instance: SocketAddr, descriptors: u64) -> Federation {
    let plan = Plan::new().zone("east").own_descriptors(descriptors);
    let plan = plan.instance("orders", instance, "{}");
    let plan = plan
        .service("orders", &format!("port: {PORT}, protocol: tcp"))
        .zone("west")
        .zone("north");
    let federation = plan.start().await.unwrap();
    for zone in ["west", "north"] {
        federation.wait_export(zone, "east", "orders").await;
    }
    federation
}

/// Connects so often at once, and returns those that are served.
async fn served_of(orders: SocketAddr, count: usize) -> Vec<Client> {
    let clients = (0..count).map(|_| async {
        let mut client = Client::connect(orders).await.ok()?;
        let answer = client.say("hello").await.ok()?;
        (answer == "here hello").then_some(client)
    });
    let clients = futures_util::future::join_all(clients).await;
    clients.into_iter().flatten().collect()
}

/// Number of times that east had no descriptor at all.
async fn lacking(federation: &Federation) -> f64 {
    let metrics = federation.zone("east").metrics().await.unwrap();
    metrics.sum("causeway_stream_refused_total", &[("reason", "no_descriptors")])
}

/// Reads what `causeway check` says of a zone's gateway.
fn checked(federation: &Federation, zone: &str) -> String {
    let admin = federation.zone(zone).admin.to_string();
    let checked = Command::new(program().unwrap())
        .args(["check", "--admin", &admin])
        .output()
        .unwrap();
    String::from_utf8_lossy(&checked.stdout).into_owned()
}

#[tokio::test]
async fn a_zone_that_takes_what_it_can_leaves_descriptors_to_others_and_is_named() {
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let federation = wanted_by_two(instance.address(), LIMIT).await;
    let mut entrances = Vec::new();
    for zone in ["west", "north", "east"] {
        entrances.push(federation.service_address(zone, "orders", PORT).await);
    }
    let greedy = served_of(entrances[0], GREED).await;
    measured(&format!(
        "of {GREED} streams of one zone, with {LIMIT} descriptors, {} are served",
        greedy.len()
    ));
    let labels = [("side", "local"), ("reason", "crowded")];
    let east = federation.zone("east");
    east.wait_metric("causeway_stream_refused_total", &labels, 1.0)
        .await;
    east.wait_log(&["WARN", "refused a stream", "crowded", "west"])
        .await;
    assert!(
        (LEAST_SERVED..=GREATEST_SHARE).contains(&greedy.len()),
        "{}",
        greedy.len()
    );
    let said = checked(&federation, "east");
    assert!(said.contains("zone west has its share"), "{said}");
    // Nothing was closed for want of any, and another zone and a client of the zone itself are served, several times.
    assert!(lacking(&federation).await < 1.0);
    for (zone, orders) in ["north", "east"].into_iter().zip(&entrances[1..]) {
        let modest = served_of(*orders, MODEST).await;
        assert_eq!(modest.len(), MODEST, "of {zone}");
    }
    drop(greedy);
}

#[tokio::test]
async fn a_local_user_who_takes_what_there_is_leaves_descriptors_to_other_zones() {
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let federation = wanted_by_two(instance.address(), LIMIT).await;
    let orders = federation.service_address("east", "orders", PORT).await;
    let greedy = served_of(orders, GREED).await;
    measured(&format!(
        "of {GREED} clients of one local user, with {LIMIT} descriptors, {} are served",
        greedy.len()
    ));
    let labels = [("side", "local"), ("reason", "crowded")];
    let east = federation.zone("east");
    east.wait_metric("causeway_stream_refused_total", &labels, 1.0)
        .await;
    east.wait_log(&["WARN", "a client was closed", "crowded"]).await;
    // Whatever address of the host it takes.
    let block = Block::take().unwrap();
    let other = Client::connect_from(block.host(7), orders).await;
    let answer = match other {
        Ok(mut other) => other.say("hello").await.unwrap_or_default(),
        Err(_) => String::new(),
    };
    assert_eq!(answer, "");
    let said = checked(&federation, "east");
    let user = rustix::process::getuid().as_raw();
    assert!(
        said.contains(&format!("user {user} of this host has its share")),
        "{said}"
    );
    for zone in ["west", "north"] {
        let orders = federation.service_address(zone, "orders", PORT).await;
        assert_eq!(served_of(orders, MODEST).await.len(), MODEST, "of {zone}");
    }
    drop(greedy);
}

/// Connections to the admin API that are kept open: as many as one user may have.
const KEPT_OPEN: usize = 64;

#[tokio::test]
async fn connections_that_are_kept_open_keep_nobody_out_of_the_admin_api() {
    let plan = Plan::new().zone("east");
    let plan = plan.service("orders", &format!("port: {PORT}, protocol: tcp"));
    let federation = plan.start().await.unwrap();
    let admin = federation.zone("east").admin;
    let mut kept = Vec::new();
    for _ in 0..KEPT_OPEN {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        // So that it is not given up for its silence.
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        kept.push(stream);
    }
    for _ in 0..3 {
        let answer = http::get(admin, "/livez").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let said = checked(&federation, "east");
        assert!(said.contains("it takes connections"), "{said}");
    }
    drop(kept);
}

/// Descriptors of the gateway that idle connections are opened to, of which 128 are kept.
const IDLE_LIMIT: u64 = 512;
/// Connections that are opened to an API and left idle, and clients of a service beside them.
const IDLE: usize = 600;
const CLIENTS: usize = 400;
/// The preface of HTTP/2 and an empty SETTINGS frame: a client that has come up and asks nothing.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Wait for an answer of who is asked while others take what they can.
const ANSWER: Duration = Duration::from_secs(5);

/// Has this process open as many files as it may.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// Connects so often, says `begins` and no more, and keeps what is not refused.
async fn idle(api: SocketAddr, begins: &[u8]) -> Vec<TcpStream> {
    let opening = (0..IDLE).map(|_| async {
        let mut stream = TcpStream::connect(api).await.ok()?;
        stream.write_all(begins).await.ok()?;
        Some(stream)
    });
    let opened = futures_util::future::join_all(opening).await;
    opened.into_iter().flatten().collect()
}

/// Asks mesh DNS over TCP (RFC 1035 §4.2.2), and returns the length of its answer.
async fn asked_over_tcp(server: SocketAddr, name: &str) -> anyhow::Result<u16> {
    let mut question = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let mut message = u16::try_from(question.len())?.to_be_bytes().to_vec();
    message.extend(question);
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&message).await?;
    Ok(timeout(ANSWER, stream.read_u16()).await??)
}

/// Shakes hands with registration over gRPC: the first bytes of its SETTINGS come back.
async fn registration_answers(registry: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(registry).await?;
    stream.write_all(HTTP2_PREFACE).await?;
    timeout(ANSWER, stream.read_exact(&mut [0; 9])).await??;
    Ok(())
}

/// The APIs and mesh DNS of east answer whoever asks now.
async fn apis_answer(federation: &Federation, beside: &str) {
    let east = federation.zone("east");
    let alive = http::get(east.admin, "/livez").await.unwrap();
    assert_eq!(alive.status, 200, "beside {beside}");
    let found = dns::addresses(east.dns, "orders.mesh.").await.unwrap();
    assert_eq!(found.len(), 1, "beside {beside}");
    let asked = asked_over_tcp(east.dns, "orders.mesh").await;
    assert!(asked.is_ok(), "beside {beside}: {asked:?}");
    let registration = registration_answers(east.registry).await;
    assert!(registration.is_ok(), "beside {beside}: {registration:?}");
    assert!(lacking(federation).await < 1.0, "beside {beside}");
}

#[tokio::test]
async fn idle_connections_to_any_api_leave_descriptors_to_clients_zones_and_the_other_apis() {
    raise_limit();
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let federation = wanted_by_two(instance.address(), IDLE_LIMIT).await;
    let mut entrances = BTreeMap::new();
    for zone in ["west", "north", "east"] {
        let orders = federation.service_address(zone, "orders", PORT).await;
        entrances.insert(zone, orders);
    }
    let east = federation.zone("east");
    let apis = [
        ("registration", east.registry, HTTP2_PREFACE),
        ("admin", east.admin, b"GET / HTTP/1.1\r\n"),
        ("DNS over TCP", east.dns, b"\0"),
    ];
    for (api, address, begins) in apis {
        // Whoever has them is still served as a client.
        let kept = idle(address, begins).await;
        assert_eq!(served_of(entrances["east"], MODEST).await.len(), MODEST, "{api}");
        apis_answer(&federation, api).await;
        // And with as many clients as it gets, other zones are, and everybody at the APIs.
        let clients = served_of(entrances["east"], CLIENTS).await;
        let more = idle(address, begins).await;
        for zone in ["west", "north"] {
            let served = served_of(entrances[zone], MODEST).await;
            assert_eq!(served.len(), MODEST, "of {zone} beside {api}");
        }
        apis_answer(&federation, api).await;
        measured(&format!(
            "with {IDLE_LIMIT} descriptors and {IDLE} idle connections to {api}, {} of {CLIENTS} clients of one user are served",
            clients.len()
        ));
        drop((kept, clients, more));
    }
    // All of it at once, from this host and from both other zones.
    let clients = served_of(entrances["east"], CLIENTS).await;
    let mut taken = Vec::new();
    for (_, address, begins) in apis {
        taken.extend(idle(address, begins).await);
    }
    apis_answer(&federation, "all").await;
    let mut streams = Vec::new();
    for zone in ["west", "north"] {
        streams.extend(served_of(entrances[zone], GREED).await);
    }
    apis_answer(&federation, "all and two zones").await;
    drop((clients, taken, streams));
}

/// Questions that wait for a resolver that does not answer.
const WAITING: usize = 900;

#[tokio::test]
async fn questions_that_wait_for_a_resolver_leave_descriptors_to_apis_and_a_zone_comes_back() {
    raise_limit();
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = silent.local_addr().unwrap().to_string();
    let plan = Plan::new().zone("west").zone("east").own_descriptors(IDLE_LIMIT);
    let plan = plan.argument("--dns-upstream").argument(&resolver);
    let plan = plan
        .instance("orders", instance.address(), "{}")
        .service("orders", &format!("port: {PORT}, protocol: tcp"));
    let mut federation = plan.start().await.unwrap();
    let (admin, server) = (federation.zone("east").admin, federation.zone("east").dns);
    let asking = (0..WAITING).map(|number| async move {
        let name = format!("n{number}.example.org.");
        dns::ask(server, &name, RecordType::A).await
    });
    let asking = futures_util::future::join_all(asking);
    let (east, most) = (federation.zone_mut("east").gateway(), AtomicUsize::new(0));
    let sampling = async {
        loop {
            let (descriptors, _) = east.descriptors_and_threads().unwrap();
            most.fetch_max(descriptors, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let many = || most.load(Ordering::Relaxed) > IDLE_LIMIT as usize - 128;
    let going_on = async {
        until_true("many questions wait", PATIENCE, async || many()).await;
        let alive = http::get(admin, "/livez").await.unwrap();
        assert_eq!(alive.status, 200);
        assert!(asked_over_tcp(server, "orders.mesh").await.is_ok());
    };
    tokio::select! {
        _ = async { tokio::join!(asking, going_on) } => {}
        () = sampling => {}
    }
    let most = most.into_inner();
    measured(&format!(
        "with {IDLE_LIMIT} descriptors and {WAITING} waiting questions, {most} are in use"
    ));
    assert!(most <= IDLE_LIMIT as usize - 128 / 2 + 16, "{most}");
    // Tunnels take none: a peer that starts anew is back.
    federation.zone_mut("west").kill().unwrap();
    federation.start_zone("west").unwrap();
    federation.ready("west").await;
}
