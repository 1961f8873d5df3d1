//! The registry service over real sockets: lists, whole sources, watches, limits and the end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use causeway_federation::{name::ZoneName, registry::wire::MAX_LIST, topology::parse};
use causeway_instances::InstancesConfig;
use causeway_proto::registry::{
    DeregisterRequest, HeartbeatRequest, InstanceKey, Outcome, RegisterRequest, Registration as Message,
    ReplaceRequest, WatchRequest, registry_client::RegistryClient, watch_event::Event,
};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt as _, net::UnixStream, sync::watch};
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::*;
use crate::audit::Audit;

/// Longest that a test waits for what must come; no test waits this long when it passes.
const LIMIT: Duration = Duration::from_secs(30);

struct Bench {
    registration: RegistrationServer,
    client: RegistryClient<Channel>,
    instances: Instances,
    _folder: tempfile::TempDir,
}

/// A client over a unix socket.
async fn over(socket: &Path) -> RegistryClient<Channel> {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    let endpoint = Endpoint::from_static("http://any.invalid");
    let channel = endpoint.connect_with_connector(connect).await.unwrap();
    RegistryClient::new(channel)
}

async fn start() -> Bench {
    start_with(Gate::default()).await
}

async fn start_with(gate: Gate) -> Bench {
    let text = "version: 1\ntrust_domain: acme.internal\nzones:\n  east: { gateways: [] }\nservices:\n  orders: { port: 80 }\n";
    let (sender, topology) = watch::channel(Arc::new(parse(text, "test.yaml").unwrap().topology));
    drop(sender);
    let config = InstancesConfig {
        health: Default::default(),
        listeners: tokio::sync::watch::channel(Default::default()).1,
        zone: ZoneName::new("east").unwrap(),
        data_dir: None,
        shared: None,
        tasks: Tasks::default(),
    };
    let instances = Instances::start(config, topology, Arc::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("registry.sock");
    let config = RegistrationConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        socket: Some(socket.clone()),
        insecure: false,
    };
    let registration = RegistrationServer::start(
        config,
        instances.clone(),
        gate,
        None,
        &HandedSockets::default(),
        (&Tasks::default(), Descriptors::default()),
    )
    .await
    .unwrap();
    Bench {
        client: over(&socket).await,
        registration,
        instances,
        _folder: folder,
    }
}

fn message(id: &str, port: u16) -> Message {
    Message {
        service: "orders".to_owned(),
        id: id.to_owned(),
        address: format!("10.0.0.1:{port}"),
        ..Default::default()
    }
}

fn key(id: &str) -> InstanceKey {
    InstanceKey {
        service: "orders".to_owned(),
        id: id.to_owned(),
    }
}

fn words(outcomes: &[Outcome]) -> Vec<&str> {
    outcomes.iter().map(|outcome| outcome.refusal.as_str()).collect()
}

impl Bench {
    async fn watch(&self, service: &str) -> Watched {
        let request = WatchRequest {
            service: service.to_owned(),
        };
        let stream = self.client.clone().watch(request).await.unwrap().into_inner();
        Watched {
            stream,
            view: BTreeMap::new(),
            synced: false,
        }
    }

    async fn replace(&self, source: &str, messages: Vec<Message>) -> causeway_proto::registry::ReplaceReply {
        let parts: Vec<_> = match messages.is_empty() {
            true => vec![ReplaceRequest {
                source: source.to_owned(),
                registrations: Vec::new(),
            }],
            false => messages
                .chunks(MAX_LIST)
                .map(|part| ReplaceRequest {
                    source: source.to_owned(),
                    registrations: part.to_vec(),
                })
                .collect(),
        };
        let reply = self.client.clone().replace(stream::iter(parts)).await;
        reply.unwrap().into_inner()
    }
}

/// A watcher, and what it believes: the port and the source of each instance.
struct Watched {
    stream: Streaming<causeway_proto::registry::WatchEvent>,
    view: BTreeMap<String, (String, String)>,
    synced: bool,
}

impl Watched {
    async fn until(&mut self, wanted: impl Fn(&Self) -> bool) {
        while !wanted(self) {
            let next = tokio::time::timeout(LIMIT, self.stream.message()).await;
            let Ok(next) = next else {
                panic!("still {:?}", self.view);
            };
            match next.unwrap().unwrap().event.unwrap() {
                Event::Put(put) => {
                    let registration = put.registration.unwrap();
                    self.view
                        .insert(registration.id, (registration.address, put.source));
                }
                Event::Removed(key) => drop(self.view.remove(&key.id)),
                Event::Synced(_) => self.synced = true,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn each_element_of_a_list_is_answered_for_itself() {
    let mut bench = start().await;
    let mut bad = message("bad", 1);
    bad.address = "nowhere".to_owned();
    let mut heavy = message("heavy", 1);
    heavy.weight = Some(u32::MAX);
    let request = RegisterRequest {
        registrations: vec![message("a", 1), bad, message("", 2), heavy],
    };
    let reply = bench.client.register(request).await.unwrap().into_inner();
    assert_eq!(words(&reply.outcomes), ["", "bad_address", "", "bad_weight"]);
    assert!(!reply.durable, "there is no data directory");

    let keys = vec![key("a"), key("gone"), key("10.0.0.1:2"), key("")];
    let request = HeartbeatRequest { keys: keys.clone() };
    let reply = bench.client.heartbeat(request).await.unwrap().into_inner();
    assert_eq!(words(&reply.outcomes), ["", "not_found", "", "bad_id"]);
    let request = DeregisterRequest { keys };
    let reply = bench.client.deregister(request).await.unwrap().into_inner();
    assert_eq!(words(&reply.outcomes), ["", "not_found", "", "bad_id"]);
    assert!(bench.instances.status(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_watcher_is_told_what_there_is_and_then_every_change() {
    let mut bench = start().await;
    let request = RegisterRequest {
        registrations: vec![message("a", 1)],
    };
    bench.client.register(request).await.unwrap();
    let mut watched = bench.watch("").await;
    let mut other = bench.watch("users").await;
    watched.until(|w| w.synced && w.view.len() == 1).await;
    other.until(|w| w.synced).await;
    assert_eq!(
        watched.view["a"],
        ("10.0.0.1:1".to_owned(), "registered".to_owned())
    );
    let request = RegisterRequest {
        registrations: vec![message("a", 9), message("b", 2)],
    };
    bench.client.register(request).await.unwrap();
    watched
        .until(|w| w.view.len() == 2 && w.view["a"].0 == "10.0.0.1:9")
        .await;
    let request = DeregisterRequest { keys: vec![key("a")] };
    bench.client.deregister(request).await.unwrap();
    watched.until(|w| !w.view.contains_key("a")).await;
    assert!(other.view.is_empty());
}

#[tokio::test]
async fn a_source_is_replaced_as_a_whole_and_no_other_is_touched() {
    let mut bench = start().await;
    let request = RegisterRequest {
        registrations: vec![message("mine", 1), message("0", 7)],
    };
    bench.client.register(request).await.unwrap();
    let known = |from: u16, to: u16| (from..to).map(|n| message(&n.to_string(), n + 1)).collect();
    let reply = bench.replace("consul", known(0, 2500)).await;
    assert_eq!((reply.added, reply.changed, reply.removed), (2500, 0, 0));
    assert_eq!(reply.refused, []);
    let mut watched = bench.watch("").await;
    watched.until(|w| w.view.len() == 2501).await;
    assert_eq!(
        watched.view["0"].1, "registered",
        "an instance's own word goes before consul's"
    );

    let mut bad = message("bad", 1);
    bad.service = "No".to_owned();
    let mut second: Vec<_> = known(2000, 2600);
    second.extend([bad, message("2000", 1)]);
    let reply = bench.replace("consul", second).await;
    assert_eq!((reply.added, reply.removed), (100, 2000));
    assert_eq!(words(&reply.refused), ["bad_service", "twice"]);
    watched.until(|w| w.view.len() == 602).await;

    let reply = bench.replace("consul", Vec::new()).await;
    assert_eq!(reply.removed, 600);
    watched.until(|w| w.view.len() == 2).await;
}

#[tokio::test]
async fn a_replacement_that_breaks_off_or_breaks_a_rule_changes_nothing() {
    let bench = start().await;
    bench.replace("consul", vec![message("a", 1)]).await;
    let part = |source: &str, count: usize| ReplaceRequest {
        source: source.to_owned(),
        registrations: vec![message("b", 2); count],
    };
    for (stream, code) in [
        (vec![part("consul", 1), part("k8s", 1)], Code::InvalidArgument),
        (vec![part("topology", 1)], Code::InvalidArgument),
        (vec![part("No Label", 1)], Code::InvalidArgument),
        (vec![part("consul", MAX_LIST + 1)], Code::InvalidArgument),
        (Vec::new(), Code::InvalidArgument),
    ] {
        let refused = bench.client.clone().replace(stream::iter(stream)).await;
        assert_eq!(refused.unwrap_err().code(), code);
    }
    // A client that goes away in the middle.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(part("consul", 1)).await.unwrap();
    let mut client = bench.client.clone();
    let call = tokio::spawn(async move {
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        client.replace(stream).await
    });
    // Once there is room again, the first message has been taken.
    sender.reserve().await.unwrap();
    call.abort();
    let _ = call.await;
    let reply = bench.replace("other", vec![message("c", 3)]).await;
    assert_eq!(reply.added, 1);
    let status = bench.instances.status(None).await.unwrap();
    let ids: Vec<_> = status.iter().map(|s| s.instance.id.as_str()).collect();
    assert_eq!(ids, ["a", "c"]);
}

/// Frame of HTTP/2 on stream 1 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    [&head[..], payload].concat()
}

#[tokio::test]
async fn a_list_whose_stream_is_reset_without_an_error_is_not_taken_for_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let audit = Audit::file(&log, &Arc::default(), &Tasks::default()).unwrap();
    let bench = start_with(Gate::new(None, audit, Arc::default())).await;
    bench.replace("consul", vec![message("a", 1)]).await;

    let path = "/causeway.registry.v1.Registry/Replace";
    // HPACK (RFC 7541): POST, http, the path, an authority, the content type and `te`, none of them packed.
    let mut head = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    head.extend_from_slice(path.as_bytes());
    head.extend_from_slice(b"\x01\x01x\x0f\x10\x10application/grpc\x00\x02te\x08trailers");
    // One message of gRPC: the source, and none of its instances yet.
    let list = b"\0\0\0\0\x08\x0a\x06consul";
    let said = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        &frame(1, 4, &head),
        &frame(0, 0, list),
        // RST_STREAM with NO_ERROR.
        &frame(3, 0, &[0; 4]),
    ];
    let socket = bench._folder.path().join("registry.sock");
    let mut client = UnixStream::connect(socket).await.unwrap();
    client.write_all(&said.concat()).await.unwrap();
    let outcomes = tokio::time::timeout(LIMIT, async {
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            let results = text.lines().map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["result"].as_str().unwrap().to_owned()
            });
            let results: Vec<String> = results.collect();
            if results.len() == 4 {
                break results;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let outcomes = outcomes.await.unwrap();
    assert_eq!(outcomes[..3], ["asked", "done", "asked"]);
    assert_ne!(outcomes[3], "done");
    let status = bench.instances.status(None).await.unwrap();
    let ids: Vec<_> = status.iter().map(|s| s.instance.id.as_str()).collect();
    assert_eq!(ids, ["a"]);
}

#[tokio::test]
async fn lists_and_messages_have_their_limits() {
    let mut bench = start().await;
    let too_many = RegisterRequest {
        registrations: vec![message("a", 1); MAX_LIST + 1],
    };
    let refused = bench.client.register(too_many).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut long = message("a", 1);
    long.tags.insert("k".to_owned(), "v".repeat(MAX_MESSAGE_BYTES));
    let too_long = RegisterRequest {
        registrations: vec![long],
    };
    let refused = bench.client.register(too_long).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(bench.instances.status(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn attaching_is_refused_with_word_of_who_serves_it() {
    let mut bench = start().await;
    let refused = bench.client.attach(stream::pending()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("causeway zone-sync"), "{refused}");
}

#[tokio::test]
async fn it_says_that_it_serves_and_tells_watchers_why_it_ends() {
    let bench = start().await;
    let channel = Channel::from_shared(format!("http://{}", bench.registration.local_addr()));
    let channel = channel.unwrap().connect().await.unwrap();
    let asked = HealthCheckRequest {
        service: "causeway.registry.v1.Registry".to_owned(),
    };
    let answer = HealthClient::new(channel).check(asked).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);
    let mut watched = bench.watch("").await;
    watched.until(|w| w.synced).await;
    let began = std::time::Instant::now();
    bench.registration.shutdown().await;
    assert!(began.elapsed() < LIMIT);
    let ended = watched.stream.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.message().contains("shutting down"), "{ended}");
}

#[tokio::test]
async fn an_open_address_must_be_meant() {
    let bench = start().await;
    let open = |insecure| RegistrationConfig {
        socket: None,
        listen: "0.0.0.0:0".parse().unwrap(),
        insecure,
    };
    let start = async |config| {
        let instances = bench.instances.clone();
        RegistrationServer::start(
            config,
            instances,
            Gate::default(),
            None,
            &HandedSockets::default(),
            (&Tasks::default(), Descriptors::default()),
        )
        .await
    };
    let refused = start(open(false)).await;
    assert!(matches!(refused, Err(RegistrationError::NotLoopback(_))));
    let taken = RegistrationConfig {
        socket: None,
        listen: bench.registration.local_addr(),
        insecure: false,
    };
    let refused = start(taken).await;
    assert!(matches!(refused, Err(RegistrationError::Bind { .. })));
    let meant = start(open(true)).await.unwrap();
    meant.shutdown().await;
}

#[test]
fn the_flag_takes_an_address_or_off() {
    for text in ["off", "127.0.0.1:7820", "[::1]:7820"] {
        assert_eq!(text.parse::<RegistrationAddress>().unwrap().to_string(), text);
    }
    assert!("localhost".parse::<RegistrationAddress>().is_err());
}

#[tokio::test]
async fn over_loopback_one_may_watch_and_change_nothing_without_a_token() {
    let bench = start().await;
    let address = format!("http://{}", bench.registration.local_addr());
    let mut plain = RegistryClient::connect(address).await.unwrap();
    assert!(plain.watch(WatchRequest::default()).await.is_ok());
    let mut unknown = tonic::Request::new(WatchRequest::default());
    unknown
        .metadata_mut()
        .insert("authorization", "Bearer bad".parse().unwrap());
    let refused = plain.watch(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().starts_with("bad_token: "), "{refused}");
    let request = || RegisterRequest {
        registrations: vec![message("a", 1)],
    };
    let refused = plain.register(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(
        refused.message().starts_with("no_credentials: ") && refused.message().contains("unix"),
        "{refused}"
    );
    let refused = plain.heartbeat(HeartbeatRequest { keys: vec![key("a")] }).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let reply = bench.client.clone().register(request()).await.unwrap();
    assert_eq!(words(&reply.into_inner().outcomes), [""]);
}
