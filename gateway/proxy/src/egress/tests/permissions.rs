//! Tests of who may call what, over real sockets: local instances and another zone's, and what a change does to open
//! connections.

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc};

use causeway_federation::topology::Topology;
use causeway_host::kernel::{Host, Kernel, Sockets};
use causeway_routing::{
    callers::Index,
    snapshot::{Instance, Published, Snapshot},
    testbed::service,
};
use parking_lot::Mutex;
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    callers::Callers,
    egress::EgressConfig,
    testbed::{self, Client, Recorder, Zone, until},
};

/// `orders` with these keys in home and east, and the services that call it.
fn topology(permissions: &str, orders: &str) -> Arc<Topology> {
    let text = format!(
        "version: 1\ntrust_domain: test.internal\npermissions: {{ {permissions} }}\n\
         zones: {{ home: {{ gateways: [] }}, east: {{ gateways: [] }} }}\n\
         services:\n  orders: {{ port: 8080, {orders} }}\n  web: {{ port: 81 }}\n  batch: {{ port: 82 }}\n"
    );
    match causeway_federation::topology::parse(&text, "test.yaml") {
        Ok(parsed) => Arc::new(parsed.topology),
        Err(findings) => panic!("{findings:?}"),
    }
}

/// A service of this zone that calls others: an instance at a loopback address of its own, from which its clients come.
struct Calling {
    name: &'static str,
    instance: Arc<Instance>,
    // Listens for as long as the service runs: the kernel names the owner of listening sockets only.
    _listener: std::net::TcpListener,
}

impl Calling {
    fn start(name: &'static str) -> Self {
        let listener = std::net::TcpListener::bind(testbed::vip()).unwrap();
        let plain = testbed::instance(name, listener.local_addr().unwrap(), 1, &[]);
        let instance = Instance {
            service: service(name),
            ..Arc::into_inner(plain).unwrap()
        };
        Self {
            name,
            instance: Arc::new(instance),
            _listener: listener,
        }
    }

    async fn connect(&self, zone: &Zone) -> io::Result<Client> {
        listening(zone).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((self.instance.address.ip(), 0).into()).unwrap();
        socket.connect(zone.vip).await.map(Client)
    }

    async fn client(&self, zone: &Zone) -> Client {
        self.connect(zone).await.unwrap()
    }
}

/// Waits until the virtual address is listened on. Looks at the listener alone: a client would be one more caller.
async fn listening(zone: &Zone) {
    let bound = || std::net::TcpListener::bind(zone.vip).is_err();
    until("the virtual address is listened on", bound).await;
}

fn register(zone: &Zone, calling: &[&Calling]) {
    zone.change(|snapshot| {
        let mut instances = Snapshot::clone(snapshot).instances.as_ref().clone();
        instances.retain(|name, _| *name == service("orders"));
        for calling in calling {
            instances.insert(service(calling.name), vec![calling.instance.clone()].into());
        }
        let instances: Published = Arc::new(instances);
        snapshot.callers = Index::of(&instances);
        snapshot.instances = instances;
    });
    recheck(zone);
}

fn set_topology(zone: &Zone, topology: &Arc<Topology>) {
    zone.change(|snapshot| snapshot.topology = topology.clone());
    recheck(zone);
}

/// Does what the gateway does after every change.
fn recheck(zone: &Zone) {
    let snapshot = zone.snapshots.load_full();
    zone.egress.recheck(&snapshot);
    zone.ingress.recheck(&snapshot);
}

/// The reset may come before the client has seen that it was accepted.
async fn assert_refused(client: io::Result<Client>) {
    let error = match client {
        Ok(mut client) => client.greeting().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

async fn assert_closed(client: &mut Client) {
    let error = client.rest().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

struct Scene {
    home: Zone,
    web: Calling,
    batch: Calling,
    there: Recorder,
}

impl Scene {
    /// One zone, in which web and batch run, and an instance of `orders`.
    async fn local(topology: &Arc<Topology>) -> Self {
        let there = Recorder::start("here").await;
        let home = Zone::start("home", topology, vec![there.instance(1, &[])]);
        let (web, batch) = (Calling::start("web"), Calling::start("batch"));
        register(&home, &[&web, &batch]);
        Self {
            home,
            web,
            batch,
            there,
        }
    }

    /// home, in which web and batch run, and east with an instance of `orders` and a topology of its own.
    async fn remote(at_home: &Arc<Topology>, in_east: &Arc<Topology>) -> (Self, Zone) {
        let there = Recorder::start("there").await;
        let east = Zone::start("east", in_east, vec![there.instance(1, &[])]);
        let home = Zone::with_config("home", at_home, vec![], EgressConfig::new(1));
        home.join("east", east.ingress.clone()).await;
        let (web, batch) = (Calling::start("web"), Calling::start("batch"));
        register(&home, &[&web, &batch]);
        (
            Self {
                home,
                web,
                batch,
                there,
            },
            east,
        )
    }

    /// Counts the connections that the instance of `orders` has been given by now, of clients that did more than look.
    fn given(&self) -> usize {
        self.there
            .given()
            .iter()
            .filter(|bytes| !bytes.is_empty())
            .count()
    }
}

#[tokio::test]
async fn an_instance_of_the_own_zone_is_given_only_what_is_permitted() {
    let scene = Scene::local(&topology("", "allow: [web]")).await;
    let mut web = scene.web.client(&scene.home).await;
    assert_eq!(web.greeting().await.unwrap(), "here");
    assert_refused(scene.batch.connect(&scene.home).await).await;
    assert_refused(TcpStream::connect(scene.home.vip).await.map(Client)).await;
    assert_eq!(scene.there.given().len(), 1);
}

#[tokio::test]
async fn the_far_zone_decides_even_when_the_calling_zone_permits() {
    let (open, strict) = (topology("", "deny: []"), topology("", "allow: [web@home]"));
    // `names_callers` holds at home too, or nobody would look who calls.
    let at_home = topology("", "allow: [web, batch]");
    let (scene, _east) = Scene::remote(&at_home, &strict).await;
    let mut web = scene.web.client(&scene.home).await;
    assert_eq!(web.greeting().await.unwrap(), "there");
    assert_refused(scene.batch.connect(&scene.home).await).await;
    assert_eq!(scene.there.given().len(), 1);
    set_topology(&scene.home, &open);
    // Where no rule asks, nobody is named.
    assert_refused(scene.web.connect(&scene.home).await).await;
}

#[tokio::test]
async fn a_changed_topology_closes_what_it_no_longer_permits_and_nothing_else() {
    let both = topology("", "allow: [web, batch]");
    for far in [false, true] {
        let (scene, east) = match far {
            false => (Scene::local(&both).await, None),
            true => {
                let (scene, east) = Scene::remote(&both, &both).await;
                (scene, Some(east))
            }
        };
        let mut web = scene.web.client(&scene.home).await;
        let mut batch = scene.batch.client(&scene.home).await;
        web.greeting().await.unwrap();
        batch.greeting().await.unwrap();
        set_topology(
            east.as_ref().unwrap_or(&scene.home),
            &topology("", "allow: [web, batch], deny: [batch]"),
        );
        assert_closed(&mut batch).await;
        web.echo("still here").await;
        assert_eq!(scene.given(), 1);
        assert_eq!(scene.home.egress.open_connections().count(), 1);
    }
}

#[tokio::test]
async fn a_caller_that_is_registered_no_more_loses_what_it_had_open() {
    let scene = Scene::local(&topology("", "allow: [web, batch]")).await;
    let mut web = scene.web.client(&scene.home).await;
    let mut batch = scene.batch.client(&scene.home).await;
    web.greeting().await.unwrap();
    batch.greeting().await.unwrap();
    register(&scene.home, &[&scene.web]);
    assert_closed(&mut batch).await;
    web.echo("still here").await;
}

#[tokio::test]
async fn a_dry_run_lets_through_what_it_counts() {
    let dry = topology("dry_run: true", "allow: [web]");
    let (scene, east) = Scene::remote(&dry, &dry).await;
    let mut batch = scene.batch.client(&scene.home).await;
    assert_eq!(batch.greeting().await.unwrap(), "there");
    recheck(&scene.home);
    recheck(&east);
    batch.echo("still here").await;
    set_topology(&scene.home, &topology("", "allow: [web]"));
    assert_closed(&mut batch).await;
}

#[tokio::test]
async fn a_zone_that_an_export_is_taken_from_loses_what_it_had_open() {
    let open = topology("", "allow: [web]");
    let (scene, east) = Scene::remote(&open, &open).await;
    let mut web = scene.web.client(&scene.home).await;
    web.greeting().await.unwrap();
    set_topology(&east, &topology("", "allow: [web], export_to: [east]"));
    assert_closed(&mut web).await;
    until("nothing is open", || east.ingress.open_connections().count() == 0).await;
}

/// A host whose kernel is asked just when a change comes.
struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

#[derive(Clone)]
struct Interrupted(Arc<Meanwhile>);

impl Host for Interrupted {
    fn addresses(&self) -> Option<Arc<BTreeSet<IpAddr>>> {
        Some(Arc::default())
    }

    fn sockets(&self) -> io::Result<Box<dyn Sockets>> {
        if let Some(change) = self.0.0.lock().take() {
            change();
        }
        Kernel::default().sockets()
    }
}

#[tokio::test]
async fn a_change_that_comes_while_a_client_is_looked_at_is_not_missed() {
    let host = Interrupted(Arc::new(Meanwhile(Mutex::new(None))));
    let config = EgressConfig {
        callers: Callers::new(host.clone()),
        ..EgressConfig::new(1)
    };
    let there = Recorder::start("here").await;
    let open = topology("", "allow: [web]");
    let home = Zone::with_config("home", &open, vec![there.instance(1, &[])], config);
    let web = Calling::start("web");
    register(&home, &[&web]);
    let (snapshots, egress) = (home.snapshots.clone(), home.egress.clone());
    *host.0.0.lock() = Some(Box::new(move || {
        let closed = Snapshot {
            topology: topology("", "allow: [batch]"),
            ..Snapshot::clone(&snapshots.load())
        };
        snapshots.store(Arc::new(closed));
        // The client is not known yet, so this does not find it.
        egress.recheck(&snapshots.load());
    }));
    assert_refused(web.connect(&home).await).await;
    assert!(there.given().is_empty());
}
