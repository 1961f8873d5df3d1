//! Traffic through two real gateways on loopback: every byte arrives, in order, and the ends of a connection travel too.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use causeway_tests::{
    dns,
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance, pattern},
    process,
    talk::{Client, say},
    wait::until_true,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const PORT: u16 = 9000;
/// The namespace tier moves 1 GiB; here a debug build must be done in seconds.
const DOWNLOAD_BYTES: u64 = if cfg!(debug_assertions) {
    256 << 20
} else {
    1 << 30
};

/// Two zones; the instance is in west, and the address is where clients in east find it.
async fn east_asks_west(behaviour: Behaviour) -> (Federation, Instance, SocketAddr) {
    let instance = Instance::start("west", behaviour).await.unwrap();
    let plan =
        Plan::new()
            .zone("east")
            .zone("west")
            .instance("orders", instance.address(), "{ version: v1 }");
    let federation = plan
        .service("orders", &format!("port: {PORT}, protocol: tcp"))
        .start()
        .await
        .unwrap();
    federation.wait_export("east", "west", "orders").await;
    let service = federation.service_address("east", "orders", PORT).await;
    (federation, instance, service)
}

#[tokio::test]
async fn bytes_come_back_through_two_gateways() {
    let (federation, instance, service) = east_asks_west(Behaviour::Echo).await;
    let sent: Vec<u8> = (0..1_000_000).map(pattern).collect();
    let (mut read, mut write) = TcpStream::connect(service).await.unwrap().into_split();
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        }
    });
    let mut heard = Vec::new();
    read.read_to_end(&mut heard).await.unwrap();
    writing.await.unwrap();
    assert!(heard == sent, "{} bytes came back of {}", heard.len(), sent.len());
    assert_eq!(instance.received().len(), 1);
    let carried = [("service", "orders"), ("role", "egress"), ("direction", "up")];
    federation
        .zone("east")
        .wait_metric("causeway_bytes_total", &carried, 1e6)
        .await;
}

#[tokio::test]
async fn a_zone_that_only_dials_out_is_served_and_serves() {
    let (west, plant) = (
        Instance::start("west", Behaviour::Name).await.unwrap(),
        Instance::start("plant", Behaviour::Name).await.unwrap(),
    );
    let plan = Plan::new().zone("west").instance("orders", west.address(), "{}");
    let plan = plan
        .zone("plant")
        .dials_only()
        .instance("machine", plant.address(), "{}");
    let plan = plan
        .service("orders", "port: 9000, protocol: tcp")
        .service("machine", "port: 9001, protocol: tcp");
    let federation = plan.start().await.unwrap();
    federation.wait_export("plant", "west", "orders").await;
    federation.wait_export("west", "plant", "machine").await;
    let orders = federation.service_address("plant", "orders", 9000).await;
    assert_eq!(say(orders, "hello").await.unwrap(), "west hello");
    let machine = federation.service_address("west", "machine", 9001).await;
    assert_eq!(say(machine, "hello").await.unwrap(), "plant hello");
}

#[tokio::test]
async fn the_answer_still_comes_after_the_client_has_closed_its_side() {
    let (_federation, instance, service) = east_asks_west(Behaviour::Count).await;
    let mut client = TcpStream::connect(service).await.unwrap();
    client.write_all(&[7; 300_000]).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "300000");
    let received = instance.received();
    assert!(
        received.len() == 1 && received[0].finished && !received[0].broken,
        "{received:?}"
    );
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_instance_as_a_reset() {
    let (_federation, instance, service) = east_asks_west(Behaviour::Echo).await;
    let mut client = TcpStream::connect(service).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    client.read_exact(&mut [0; 5]).await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    until_true("the instance sees a reset", PATIENCE, async || {
        instance.received()[0].broken
    })
    .await;
}

/// Two zones, with an instance in west that takes connections and says nothing, and does not read.
async fn east_asks_mute(service: &str) -> (Federation, TcpListener, SocketAddr) {
    let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = instance.local_addr().unwrap();
    let plan = Plan::new().zone("east").argument("--half-closed-timeout=1s");
    let plan = plan.zone("west").instance("orders", address, "{}");
    let federation = plan.service("orders", service).start().await.unwrap();
    federation.wait_export("east", "west", "orders").await;
    let service = federation.service_address("east", "orders", PORT).await;
    (federation, instance, service)
}

#[tokio::test]
async fn a_reset_by_the_client_is_seen_while_its_upload_is_blocked() {
    let (federation, instance, service) = east_asks_mute(&format!("port: {PORT}, protocol: tcp")).await;
    let client = TcpStream::connect(service).await.unwrap();
    let (mut taken, _) = instance.accept().await.unwrap();
    let carried = AtomicU64::new(0);
    // Until nothing goes any more, from the client or into the instance.
    until_true("the upload is blocked", PATIENCE, async || {
        let wrote = client.try_write(&[7; 1 << 16]).is_ok();
        let labels = [("service", "orders"), ("direction", "up")];
        let mut bytes = 0;
        for zone in ["east", "west"] {
            let metrics = federation.zone(zone).metrics().await.unwrap();
            bytes += metrics.sum("causeway_bytes_total", &labels) as u64;
        }
        carried.swap(bytes, Ordering::Relaxed) == bytes && !wrote && bytes > 0
    })
    .await;
    client.set_zero_linger().unwrap();
    drop(client);
    for (zone, role) in [("east", "egress"), ("west", "ingress")] {
        let reset = [("role", role), ("service", "orders"), ("outcome", "client_reset")];
        let zone = federation.zone(zone);
        zone.wait_metric("causeway_connections_total", &reset, 1.0).await;
    }
    let error = taken.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn connections_that_say_nothing_end_when_their_service_or_the_gateway_says_so() {
    let service = format!("port: {PORT}, protocol: tcp, idle_timeout: 2s");
    let (federation, instance, service) = east_asks_mute(&service).await;
    let mut idle = TcpStream::connect(service).await.unwrap();
    let mut half_closed = TcpStream::connect(service).await.unwrap();
    half_closed.shutdown().await.unwrap();
    let _taken = (instance.accept().await.unwrap(), instance.accept().await.unwrap());
    for (client, outcome) in [
        (&mut half_closed, "half_closed_timeout"),
        (&mut idle, "idle_timeout"),
    ] {
        let error = client.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let ended = [("role", "egress"), ("outcome", outcome)];
        let zone = federation.zone("east");
        zone.wait_metric("causeway_connections_total", &ended, 1.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_download_arrives_whole() {
    let (_federation, _instance, service) = east_asks_west(Behaviour::Download {
        bytes: DOWNLOAD_BYTES,
    })
    .await;
    let want = tokio::task::spawn_blocking(|| {
        let mut hash = Sha256::new();
        let mut block = Vec::with_capacity(1 << 20);
        for start in (0..DOWNLOAD_BYTES).step_by(1 << 20) {
            block.clear();
            block.extend((start..start + (1 << 20)).map(pattern));
            hash.update(&block);
        }
        hash.finalize()
    });
    let mut client = TcpStream::connect(service).await.unwrap();
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let length = client.read(&mut buffer).await.unwrap();
        if length == 0 {
            break;
        }
        hash.update(&buffer[..length]);
        bytes += length as u64;
    }
    assert_eq!(bytes, DOWNLOAD_BYTES);
    assert!(
        hash.finalize() == want.await.unwrap(),
        "the bytes arrived changed"
    );
}

#[tokio::test]
async fn mesh_names_resolve_and_others_are_told_apart() {
    let (federation, _instance, service) = east_asks_west(Behaviour::Name).await;
    let server = federation.zone("east").dns;
    let answer = dns::ask(server, "orders.mesh.", RecordType::A).await.unwrap();
    assert_eq!((answer.answers.len(), answer.answers[0].ttl), (1, 5));
    let nothing = dns::ask(server, "nothing.mesh.", RecordType::A).await.unwrap();
    assert_eq!(nothing.metadata.response_code, ResponseCode::NXDomain);
    let no_address = dns::ask(server, "orders.mesh.", RecordType::AAAA).await.unwrap();
    assert_eq!(
        (no_address.metadata.response_code, no_address.answers.len()),
        (ResponseCode::NoError, 0)
    );
    // Names by zone and by tag lead to other virtual addresses, and are served as well.
    for name in ["orders.west.zone.mesh.", "version-v1.orders.mesh."] {
        let addresses = dns::addresses(server, name).await.unwrap();
        assert_eq!(addresses.len(), 1, "{name}");
        assert_ne!(addresses[0], service.ip(), "{name}");
        let answer = say(SocketAddr::new(addresses[0], PORT), "hello").await.unwrap();
        assert_eq!(answer, "west hello", "{name}");
    }
}

#[tokio::test]
async fn sigterm_lets_connections_finish_and_sends_new_ones_elsewhere() {
    let (west, north) = (
        Instance::start("west", Behaviour::Name).await.unwrap(),
        Instance::start("north", Behaviour::Name).await.unwrap(),
    );
    let plan = Plan::new()
        .zone("east")
        .zone("west")
        .instance("orders", west.address(), "{}");
    let plan = plan.zone("north").instance("orders", north.address(), "{}");
    let service = format!("port: {PORT}, protocol: tcp, failover: [{{ zone: west }}, {{ zone: north }}]");
    let mut federation = plan.service("orders", &service).start().await.unwrap();
    federation.wait_export("east", "west", "orders").await;
    federation.wait_export("east", "north", "orders").await;
    let service = federation.service_address("east", "orders", PORT).await;
    let mut held = Client::connect(service).await.unwrap();
    assert_eq!(held.say("one").await.unwrap(), "west one");

    federation
        .zone_mut("west")
        .gateway()
        .signal(rustix::process::Signal::TERM)
        .unwrap();
    until_true("new connections go to north", PATIENCE, async || {
        // None may fail on the way there: the zone that drains says so before it refuses.
        say(service, "new").await.unwrap() == "north new"
    })
    .await;
    assert_eq!(held.say("two").await.unwrap(), "west two");
    drop(held);
    let status = federation
        .zone_mut("west")
        .gateway()
        .wait(Duration::from_secs(10))
        .await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn the_admin_api_and_the_command_line_tell_what_is_there() {
    let (federation, _instance, _service) = east_asks_west(Behaviour::Name).await;
    let east = federation.zone("east");
    let live = http::get(east.admin, "/livez").await.unwrap();
    assert_eq!(live.status, 200);
    for what in ["zones", "services", "tunnels", "exports"] {
        let admin = east.admin.to_string();
        let text = process::run(["get", what, "-o", "json", "--admin", &admin]).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(text.contains("west") || what == "services", "{what}: {value}");
    }
}
