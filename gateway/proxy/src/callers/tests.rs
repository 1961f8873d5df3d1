//! Tests of who a client is taken for, on a host whose kernel says what the test wants.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use causeway_federation::topology::Topology;
use causeway_host::kernel::{Sockets, UserId};
use causeway_routing::{
    snapshot::{Instance, Published},
    testbed::{service, tags, zone},
};
use parking_lot::Mutex;

use super::*;
use causeway_routing::testbed;

const WEB_USER: UserId = 1001;
const BATCH_USER: UserId = 1002;

/// A host at 10.0.0.5 whose listeners and clients belong to these users.
#[derive(Clone, Default)]
struct Told {
    listeners: Arc<Mutex<BTreeMap<SocketAddr, UserId>>>,
    client: Arc<Mutex<Option<UserId>>>,
    asked: Arc<Mutex<usize>>,
    /// The kernel does not even tell the host's addresses.
    mute: Arc<Mutex<bool>>,
}

impl Host for Told {
    fn addresses(&self) -> Option<Arc<BTreeSet<IpAddr>>> {
        let known = !*self.mute.lock();
        known.then(|| Arc::new(BTreeSet::from([ip("10.0.0.5")])))
    }

    fn sockets(&self) -> io::Result<Box<dyn Sockets>> {
        *self.asked.lock() += 1;
        Ok(Box::new(self.clone()))
    }
}

impl Sockets for Told {
    fn client(&mut self, _: SocketAddr, _: SocketAddr) -> Option<UserId> {
        *self.client.lock()
    }

    fn listener(&mut self, address: SocketAddr) -> Option<UserId> {
        self.listeners.lock().get(&address).copied()
    }
}

#[test]
fn who_takes_a_descriptor_is_the_user_on_this_host_once_few_are_left_and_the_address_elsewhere() {
    let told = Told::default();
    let callers = Callers::new(told.clone());
    let holder = |client: &str, few| {
        let ends = Endpoints {
            client: format!("{client}:40000").parse().unwrap(),
            local: "127.0.0.1:80".parse().unwrap(),
        };
        callers.holder(ends, few).to_string()
    };
    *told.client.lock() = Some(WEB_USER);
    assert_eq!(holder("127.0.0.9", false), "programs of this host");
    assert_eq!(*told.asked.lock(), 0, "the kernel is asked only where it matters");
    assert_eq!(holder("127.0.0.9", true), "user 1001 of this host");
    assert_eq!(holder("10.0.0.5", true), "user 1001 of this host");
    assert_eq!(holder("10.0.0.6", true), "address 10.0.0.6");
    *told.client.lock() = None;
    assert_eq!(holder("127.0.0.9", true), "programs of this host");
    *told.mute.lock() = true;
    assert_eq!(holder("10.0.0.5", true), "address 10.0.0.5");
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn topology(rest: &str) -> Arc<Topology> {
    testbed::topology(
        "  home: {}\n  east: {}",
        &format!("  orders: {{ port: 80{rest} }}\n  web: {{ port: 81 }}"),
    )
}

/// Service, address and tags.
type Registered<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

fn snapshot(topology: &Arc<Topology>, instances: &[Registered<'_>]) -> Snapshot {
    let mut lists: BTreeMap<ServiceName, Vec<Arc<Instance>>> = BTreeMap::new();
    for (name, address, pairs) in instances {
        let plain = testbed::instance(address, address.parse().unwrap(), 1, pairs);
        let instance = Instance {
            service: service(name),
            ..Arc::into_inner(plain).unwrap()
        };
        lists.entry(service(name)).or_default().push(Arc::new(instance));
    }
    let published: Published = Arc::new(
        lists
            .into_iter()
            .map(|(name, list)| (name, list.into()))
            .collect(),
    );
    Snapshot {
        callers: Index::of(&published),
        instances: published,
        ..testbed::snapshot("home", topology, vec![], vec![], &[])
    }
}

fn from(client: &str) -> Endpoints {
    Endpoints {
        client: SocketAddr::new(ip(client), 40_000),
        local: "127.64.0.1:80".parse().unwrap(),
    }
}

fn told(found: &FoundCaller) -> (String, &'static str) {
    (found.caller.to_string(), found.how.word())
}

fn expect(found: &FoundCaller, caller: &str, how: &str) {
    assert_eq!(told(found), (caller.to_owned(), how));
}

/// web runs as one user at a port of every address, batch as another; both users' clients use 127.0.0.1.
fn two_services() -> (Told, Snapshot) {
    let host = Told::default();
    let mut listeners = host.listeners.lock();
    listeners.insert("10.0.0.5:8080".parse().unwrap(), WEB_USER);
    listeners.insert("127.0.0.1:9090".parse().unwrap(), BATCH_USER);
    drop(listeners);
    let snapshot = snapshot(
        &topology(", allow: [web]"),
        &[
            ("web", "10.0.0.5:8080", &[("env", "prod")]),
            ("batch", "127.0.0.1:9090", &[]),
        ],
    );
    (host, snapshot)
}

#[test]
fn a_client_of_another_host_is_the_one_service_at_its_address() {
    let snapshot = snapshot(
        &topology(""),
        &[
            ("web", "10.0.0.1:80", &[("env", "prod")]),
            ("web", "10.0.0.2:80", &[]),
            ("batch", "10.0.0.2:81", &[]),
        ],
    );
    let callers = Callers::new(Told::default());
    let found = callers.look_up(&snapshot, from("10.0.0.1"));
    expect(&found, "web@home", "by_address");
    assert_eq!(found.caller.tags, tags(&[("env", "prod")]));
    expect(
        &callers.look_up(&snapshot, from("10.0.0.2")),
        "anonymous@home",
        "shared_address",
    );
    expect(
        &callers.look_up(&snapshot, from("10.0.0.3")),
        "anonymous@home",
        "unknown_address",
    );
}

#[test]
fn on_this_host_the_user_decides_and_not_the_address() {
    let (host, snapshot) = two_services();
    let callers = Callers::new(host.clone());
    let find = |user: Option<UserId>, client: &str| {
        *host.client.lock() = user;
        callers.look_up(&snapshot, from(client))
    };
    for client in ["127.0.0.1", "10.0.0.5", "::1", "127.3.4.5"] {
        expect(&find(Some(WEB_USER), client), "web@home", "by_owner");
        expect(&find(Some(BATCH_USER), client), "batch@home", "by_owner");
        expect(&find(Some(7), client), "anonymous@home", "no_instance");
        expect(&find(None, client), "anonymous@home", "unknown_owner");
    }
}

#[test]
fn several_services_of_one_user_are_told_apart_by_a_loopback_address_of_their_own_only() {
    let host = Told::default();
    let own = ["127.9.0.1:80", "127.9.0.2:80", "127.0.0.1:82", "10.0.0.5:83"];
    for address in own {
        host.listeners.lock().insert(address.parse().unwrap(), WEB_USER);
    }
    *host.client.lock() = Some(WEB_USER);
    let snapshot = snapshot(
        &topology(", allow: [web]"),
        &[
            ("web", own[0], &[]),
            ("batch", own[1], &[]),
            ("orders", own[2], &[]),
            ("orders", own[3], &[]),
        ],
    );
    let callers = Callers::new(host);
    expect(
        &callers.look_up(&snapshot, from("127.9.0.1")),
        "web@home",
        "by_owner",
    );
    expect(
        &callers.look_up(&snapshot, from("127.9.0.2")),
        "batch@home",
        "by_owner",
    );
    // What the kernel chooses by itself names nobody, although instances are registered there.
    for client in ["127.0.0.1", "10.0.0.5", "127.9.0.3"] {
        expect(
            &callers.look_up(&snapshot, from(client)),
            "anonymous@home",
            "several_services",
        );
    }
}

#[test]
fn nobody_is_named_where_the_kernel_tells_nothing() {
    let (host, snapshot) = two_services();
    let callers = Callers::new(host.clone());
    *host.client.lock() = Some(WEB_USER);
    *host.mute.lock() = true;
    // 10.0.0.5 has one service, but is this host's own address.
    for client in ["10.0.0.5", "127.0.0.1", "10.0.0.9"] {
        expect(
            &callers.look_up(&snapshot, from(client)),
            "anonymous@home",
            "unknown_owner",
        );
    }
}

#[test]
fn the_kernel_is_asked_only_when_a_rule_asks_who_calls() {
    let (host, with_rules) = two_services();
    let callers = Callers::new(host.clone());
    *host.client.lock() = Some(WEB_USER);
    let without = Snapshot {
        topology: topology(""),
        ..with_rules.clone()
    };
    let found = callers.look_up(&without, from("127.0.0.1"));
    expect(&found, "anonymous@home", "not_asked");
    assert_eq!(*host.asked.lock(), 0);
    // A topology that comes to ask is answered for connections that are open by then.
    expect(
        &callers.find_again(&with_rules, from("127.0.0.1"), &found),
        "web@home",
        "by_owner",
    );
}

#[test]
fn an_open_connection_keeps_its_caller_while_the_service_is_registered_here() {
    let (host, with_web) = two_services();
    let callers = Callers::new(host.clone());
    *host.client.lock() = Some(WEB_USER);
    let found = callers.look_up(&with_web, from("127.0.0.1"));
    // The instance restarts: nobody listens for a moment, and the registration stays.
    host.listeners.lock().clear();
    assert_eq!(callers.find_again(&with_web, from("127.0.0.1"), &found), found);
    let without = snapshot(&topology(", allow: [web]"), &[("batch", "127.0.0.1:9090", &[])]);
    let gone = callers.find_again(&without, from("127.0.0.1"), &found);
    expect(&gone, "anonymous@home", "no_instance");
    let retagged = snapshot(
        &topology(", allow: [web]"),
        &[("web", "10.0.0.5:8080", &[("env", "test")])],
    );
    let found = callers.find_again(&retagged, from("127.0.0.1"), &found);
    assert_eq!(found.caller.tags, tags(&[("env", "test")]));
}

#[test]
fn a_zone_does_not_speak_for_a_service_that_may_not_run_in_it() {
    let elsewhere = testbed::topology(
        "  home: {}\n  east: {}",
        "  orders: { port: 80 }\n  web: { port: 81, run_in: [east] }",
    );
    let snapshot = snapshot(&elsewhere, &[("web", "10.0.0.1:80", &[])]);
    let found = Callers::new(Told::default()).look_up(&snapshot, from("10.0.0.1"));
    expect(&found, "anonymous@home", "may_not_run_here");
    assert_eq!(found.caller.zone, zone("home"));
}

/// A host whose kernel answers only once it is let, and counts who has waited for it in vain.
#[derive(Clone)]
struct Stuck {
    host: Told,
    go: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
}

impl Host for Stuck {
    fn addresses(&self) -> Option<Arc<BTreeSet<IpAddr>>> {
        let waited = self.go.lock().recv_timeout(std::time::Duration::from_secs(10));
        waited.expect("the thread that lets it go is not the one that waits");
        self.host.addresses()
    }

    fn sockets(&self) -> io::Result<Box<dyn Sockets>> {
        self.host.sockets()
    }
}

#[tokio::test]
async fn a_kernel_that_is_slow_holds_up_nobody_else_on_the_data_thread() {
    let (host, snapshot) = two_services();
    *host.client.lock() = Some(WEB_USER);
    let (let_go, go) = std::sync::mpsc::channel();
    let callers = Callers::new(Stuck {
        host,
        go: Arc::new(Mutex::new(go)),
    });
    let snapshot = Arc::new(snapshot);
    let finding = callers.find(&snapshot, from("127.0.0.1"));
    // Runs on this thread, which it can only while the look-up does not.
    let other = async { let_go.send(()).unwrap() };
    let (found, ()) = tokio::join!(finding, other);
    expect(&found, "web@home", "by_owner");
}
