//! The registry service over real sockets: lists, whole sources, watches, limits and the end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use causeway_proto::registry::{
    DeregisterRequest, HeartbeatRequest, InstanceKey, Outcome, RegisterRequest, Registration as Message,
    ReplaceRequest, WatchRequest, registry_client::RegistryClient, watch_event::Event,
};
use causeway_zone_sync::{name::ZoneName, registry::wire::MAX_LIST, topology::parse};
use futures_util::stream;
use tokio::sync::watch;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::*;
use crate::{instances::InstancesConfig, telemetry::Metrics};

/// Longest that a test waits for what must come; no test waits this long when it passes.
const LIMIT: Duration = Duration::from_secs(30);

struct Bench {
    registration: Registration,
    client: RegistryClient<Channel>,
    instances: Instances,
}

async fn start() -> Bench {
    let text = "version: 1\ntrust_domain: acme.internal\nzones:\n  east: { gateways: [] }\nservices:\n  orders: { port: 80 }\n";
    let (sender, topology) = watch::channel(Arc::new(parse(text, "test.yaml").unwrap().topology));
    drop(sender);
    let config = InstancesConfig {
        zone: ZoneName::new("east").unwrap(),
        data_dir: None,
        shared: None,
    };
    let instances = Instances::start(config, topology, Arc::new(Metrics::default())).unwrap();
    let config = RegistrationConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        insecure: false,
    };
    let registration = Registration::start(config, instances.clone(), Gate::default(), None)
        .await
        .unwrap();
    let client = RegistryClient::connect(format!("http://{}", registration.local_addr()));
    Bench {
        client: client.await.unwrap(),
        registration,
        instances,
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
        listen: "0.0.0.0:0".parse().unwrap(),
        insecure,
    };
    let refused = Registration::start(open(false), bench.instances.clone(), Gate::default(), None).await;
    assert!(matches!(refused, Err(RegistrationError::NotLoopback(_))));
    let taken = RegistrationConfig {
        listen: bench.registration.local_addr(),
        insecure: false,
    };
    let refused = Registration::start(taken, bench.instances.clone(), Gate::default(), None).await;
    assert!(matches!(refused, Err(RegistrationError::Bind { .. })));
    let meant = Registration::start(open(true), bench.instances.clone(), Gate::default(), None)
        .await
        .unwrap();
    meant.shutdown().await;
}

#[test]
fn the_flag_takes_an_address_or_off() {
    for text in ["off", "127.0.0.1:7820", "[::1]:7820"] {
        assert_eq!(text.parse::<RegistrationAddress>().unwrap().to_string(), text);
    }
    assert!("localhost".parse::<RegistrationAddress>().is_err());
}
