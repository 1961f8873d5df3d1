//! Listeners of virtual addresses: taken, removed, drained, cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use causeway_host::descriptors::Descriptors;
use causeway_routing::{reach::OwnListeners, snapshot::Instance, target::Target};
use tokio::{net::TcpStream, sync::watch};

use super::topology;
use crate::{
    egress::EgressConfig,
    testbed::{self, Recorder, Zone, until},
};

async fn home() -> (Zone, Recorder) {
    let here = Recorder::start("here").await;
    let home = Zone::start("home", &topology(), vec![here.instance(1, &[])]);
    (home, here)
}

#[tokio::test]
async fn an_address_that_is_taken_is_reported_disturbs_no_other_and_is_bound_once_it_is_free() {
    let (home, _here) = home().await;
    let taken = std::net::TcpListener::bind(testbed::vip()).unwrap();
    let address = taken.local_addr().unwrap();
    home.bindings.send_modify(|bindings| {
        let target = Target::service(testbed::service("orders"));
        Arc::make_mut(bindings).insert(address, target.into());
    });
    until("the failure is reported", || {
        !home.egress.bind_failures().is_empty()
    })
    .await;
    let failure = home.egress.bind_failures().remove(0);
    assert_eq!(failure.address, address);
    let holder = format!("this process itself listens at {address}");
    assert!(failure.error.ends_with(&holder), "{}", failure.error);
    assert_eq!(home.client().await.greeting().await.unwrap(), "here");
    drop(taken);
    until("the address is bound", || home.egress.bind_failures().is_empty()).await;
    let mut client = testbed::Client(testbed::connect(address).await);
    assert_eq!(client.greeting().await.unwrap(), "here");
}

#[tokio::test]
async fn clients_can_connect_once_an_egress_has_opened_and_what_is_taken_is_not_waited_for() {
    let taken = std::net::TcpListener::bind(testbed::vip()).unwrap();
    let config = EgressConfig::new(2);
    let home = Zone::with_config("home", &topology(), Vec::new(), config);
    home.bindings.send_modify(|bindings| {
        let target = Target::service(testbed::service("orders"));
        Arc::make_mut(bindings).insert(taken.local_addr().unwrap(), target.into());
    });
    home.egress.opened().await;
    assert!(TcpStream::connect(home.vip).await.is_ok());
}

#[tokio::test]
async fn a_binding_that_is_removed_stops_accepting_and_keeps_what_is_open() {
    let (home, _here) = home().await;
    let mut client = home.client().await;
    client.greeting().await.unwrap();
    home.bindings.send_replace(Arc::new(BTreeMap::new()));
    refused(&home).await;
    client.echo("still there").await;
}

#[tokio::test]
async fn closing_stops_accepting_and_a_cut_resets_and_empties() {
    let (home, _here) = home().await;
    let mut client = home.client().await;
    client.greeting().await.unwrap();
    home.egress.close();
    refused(&home).await;
    client.echo("still there").await;
    let open = home.egress.open_connections();
    assert!(!open.emptied(Duration::from_millis(20)).await);
    let left = open.list();
    assert_eq!((left.len(), left[0].client), (1, client.0.local_addr().ok()));
    home.egress.cut();
    assert!(open.emptied(Duration::from_secs(5)).await);
    let error = client.rest().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_cut_reaches_a_client_that_still_waits_for_an_instance() {
    let home = Zone::start("home", &topology(), vec![]);
    let mut client = home.client().await;
    until("the client has been accepted", || {
        home.egress.open_connections().count() == 1
    })
    .await;
    home.egress.cut();
    assert!(client.rest().await.is_err());
}

#[tokio::test]
async fn clients_beyond_the_limit_are_reset() {
    let here = Recorder::start("here").await;
    let config = EgressConfig {
        max_connections: 2,
        ..EgressConfig::new(1)
    };
    let home = Zone::with_config("home", &topology(), vec![here.instance(1, &[])], config);
    let mut first = home.client().await;
    let mut second = home.client().await;
    first.greeting().await.unwrap();
    second.greeting().await.unwrap();
    assert!(home.client().await.greeting().await.is_err());
    drop(first);
    until("there is room again", || {
        home.egress.open_connections().count() == 1
    })
    .await;
    assert_eq!(home.client().await.greeting().await.unwrap(), "here");
}

#[tokio::test]
async fn a_drain_goes_on_accepting_and_waits_for_nobody_who_came_later() {
    let (home, _here) = home().await;
    let open = home.egress.open_connections();
    let mut early = home.client().await;
    early.greeting().await.unwrap();
    home.egress.drain(Duration::from_secs(1));
    let mut late = home.client().await;
    assert_eq!(late.greeting().await.unwrap(), "here");
    let still = tokio::time::timeout(Duration::from_millis(20), open.drained()).await;
    assert!(still.is_err(), "one that came before it is open");
    drop(early);
    tokio::time::timeout(Duration::from_secs(20), open.drained())
        .await
        .expect("only the one that came before it is waited for");
    late.echo("still there").await;
    assert_eq!(open.count(), 1);
}

async fn refused(home: &Zone) {
    let wait = async {
        while let Ok(socket) = TcpStream::connect(home.vip).await {
            drop(socket);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), wait)
        .await
        .expect("the address is refused");
}

/// Two instances of `orders` that differ in a tag, and a target for each.
async fn two_versions() -> (Vec<Arc<Instance>>, [Target; 2], [Recorder; 2]) {
    let recorders = [Recorder::start("v1").await, Recorder::start("v2").await];
    let versions = [[("version", "v1")], [("version", "v2")]];
    let instances = recorders.iter().zip(&versions);
    let instances = instances
        .map(|(recorder, tags)| recorder.instance(1, tags))
        .collect();
    let targets = versions.map(|tags| Target {
        tags: testbed::tags(&tags),
        ..Target::service(testbed::service("orders"))
    });
    (instances, targets, recorders)
}

/// A zone whose virtual addresses are routed, on two data threads. What they are bound to is for the test to say.
fn routed(instances: Vec<Arc<Instance>>, config: EgressConfig) -> Zone {
    let topology = testbed::topology(
        "  home: { vips: { routed: [198.51.100.0/24] } }",
        "  orders: { port: 8080, protocol: tcp }",
    );
    let home = Zone::with_config("home", &topology, instances, config);
    home.bindings.send_replace(Arc::default());
    home
}

/// Listening TCP sockets of the whole host with this port, as the kernel lists them.
fn listening_sockets(port: u16) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let rows = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect());
    let of_port = format!(":{port:04X}");
    rows.filter(|row: &Vec<&str>| row[1].ends_with(&of_port) && row[3] == "0A")
        .map(|row| row[1].to_owned())
        .collect()
}

#[tokio::test]
async fn clients_beyond_the_descriptors_are_closed_counted_and_served_again_once_there_are_more() {
    let here = Recorder::start("here").await;
    let descriptors = Descriptors::limited_to(1_000_000);
    let config = EgressConfig {
        descriptors: descriptors.clone(),
        ..EgressConfig::new(1)
    };
    let home = Zone::with_config("home", &topology(), vec![here.instance(1, &[])], config);
    let mut first = home.client().await;
    first.greeting().await.unwrap();
    descriptors.set_limit(0);
    let error = home.client().await.greeting().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let counted = r#"causeway_stream_refused_total{side="local",reason="no_descriptors"} 1"#;
    let mut text = String::new();
    home.metrics.encode(&mut text).unwrap();
    assert!(text.contains(counted), "{text}");
    first.echo("still there").await;
    descriptors.set_limit(1_000_000);
    home.client().await.greeting().await.unwrap();
}

#[tokio::test]
async fn an_address_has_one_socket_and_its_clients_are_spread_evenly_over_the_data_threads() {
    const THREADS: usize = 4;
    let here = Recorder::start("here").await;
    let config = EgressConfig::new(THREADS);
    let home = Zone::with_config("home", &topology(), vec![here.instance(1, &[])], config);
    let mut clients = Vec::new();
    for _ in 0..3 * THREADS {
        let mut client = home.client().await;
        client.greeting().await.unwrap();
        clients.push(client);
    }
    let open = home.egress.open_connections();
    let counts: Vec<usize> = (0..THREADS).map(|thread| open.count_of(thread)).collect();
    assert_eq!(counts, [3; THREADS]);
    let sockets = listening_sockets(home.vip.port());
    let [a, b, c, d] = match home.vip.ip() {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(_) => panic!("an address of 127.0.0.0/8"),
    };
    let own = format!("{d:02X}{c:02X}{b:02X}{a:02X}");
    let of_address = sockets.iter().filter(|socket| socket.starts_with(&own));
    assert_eq!(of_address.count(), 1, "{sockets:?}");
}

#[tokio::test]
async fn closing_ends_what_every_data_thread_runs() {
    let config = EgressConfig::new(3);
    let mut home = Zone::with_config("home", &topology(), Vec::new(), config);
    testbed::connect(home.vip).await;
    home.egress.close();
    for running in home.running.drain(..) {
        tokio::time::timeout(Duration::from_secs(20), running)
            .await
            .expect("it ends")
            .unwrap();
    }
}

#[tokio::test]
async fn closing_still_takes_every_client_that_the_kernel_has_accepted() {
    /// More than a task may accept in one turn.
    const WAITING: usize = 300;
    let config = EgressConfig {
        setup_deadline: Duration::from_secs(600),
        grace: Duration::from_secs(600),
        ..EgressConfig::new(1)
    };
    let home = Zone::with_config("home", &topology(), Vec::new(), config);
    testbed::connect(home.vip).await;
    // Without giving the egress a turn.
    let connect = |_| std::net::TcpStream::connect(home.vip).unwrap();
    let waiting: Vec<_> = (0..WAITING).map(connect).collect();
    home.egress.close();
    until("all of them wait for an instance", || {
        home.egress.open_connections().count() >= WAITING
    })
    .await;
    drop(waiting);
}

#[tokio::test]
async fn routed_addresses_of_one_port_share_a_socket_and_the_address_says_what_is_wanted() {
    let (instances, targets, _recorders) = two_versions().await;
    let own = watch::Sender::<OwnListeners>::default();
    let config = EgressConfig {
        own: own.clone(),
        ..EgressConfig::new(2)
    };
    let home = routed(instances, config);
    let [one, two, other] = [testbed::vip().ip(), testbed::vip().ip(), testbed::vip().ip()];
    let port = shared_port(&home, &own, [(one, &targets[0]), (two, &targets[1])]).await;
    for (ip, name) in [(one, "v1"), (two, "v2"), (one, "v1")] {
        let mut client = testbed::Client(testbed::connect((ip, port).into()).await);
        assert_eq!(client.greeting().await.unwrap(), name);
    }
    // An address of the host that is no virtual one: nothing is there.
    let mut stranger = testbed::Client(testbed::connect((other, port).into()).await);
    let error = stranger.greeting().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    // A service that comes or goes does not disturb the socket of the others.
    let mut client = testbed::Client(testbed::connect((one, port).into()).await);
    client.greeting().await.unwrap();
    bind(&home, [((two, port).into(), &targets[0])]);
    let wait = async {
        loop {
            let mut client = testbed::Client(testbed::connect((two, port).into()).await);
            if client.greeting().await.is_ok_and(|name| name == "v1") {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
    client.echo("still there").await;
}

/// Binds two addresses at ports, until there is one at which the egress has a socket at every address of the host.
async fn shared_port(home: &Zone, own: &watch::Sender<OwnListeners>, wanted: [(IpAddr, &Target); 2]) -> u16 {
    // Below those that the kernel gives to connections.
    for port in 20_000..20_100 {
        bind(home, wanted.map(|(ip, target)| ((ip, port).into(), target)));
        let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
        let egress = &home.egress.shared;
        until("the port is shared, or is not to be had", || {
            own.borrow().contains(&everywhere) || egress.apart.borrow().contains(&everywhere)
        })
        .await;
        if own.borrow().contains(&everywhere) {
            assert_eq!(listening_sockets(port).len(), 1);
            return port;
        }
    }
    panic!("no port is free");
}

fn bind<const N: usize>(home: &Zone, bindings: [(SocketAddr, &Target); N]) {
    let bindings = bindings.map(|(address, target)| (address, target.clone().into()));
    home.bindings.send_replace(Arc::new(BTreeMap::from(bindings)));
}

#[tokio::test]
async fn a_port_that_a_program_has_at_another_address_is_listened_on_address_by_address() {
    let (instances, targets, _recorders) = two_versions().await;
    let home = routed(instances, EgressConfig::new(2));
    let program = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = program.local_addr().unwrap().port();
    let [one, two] = [testbed::vip().ip(), testbed::vip().ip()].map(|ip| SocketAddr::new(ip, port));
    bind(&home, [(one, &targets[0]), (two, &targets[1])]);
    for (address, name) in [(one, "v1"), (two, "v2")] {
        let mut client = testbed::Client(testbed::connect(address).await);
        assert_eq!(client.greeting().await.unwrap(), name);
    }
    assert!(home.egress.bind_failures().is_empty());
}

#[tokio::test]
async fn this_processs_own_ports_are_not_taken_from_it_at_other_addresses() {
    let (instances, targets, _recorders) = two_versions().await;
    let port = testbed::vip().port();
    // The admin API, say, which is bound only after the services are.
    let admin = SocketAddr::from(([127, 0, 0, 1], port));
    let config = EgressConfig {
        own: watch::Sender::new(Arc::new(BTreeSet::from([admin]))),
        ..EgressConfig::new(1)
    };
    let home = routed(instances, config);
    let address = SocketAddr::new(testbed::vip().ip(), port);
    bind(&home, [(address, &targets[0])]);
    let mut client = testbed::Client(testbed::connect(address).await);
    client.greeting().await.unwrap();
    assert_eq!(listening_at_every_address(port), 0);
}

fn listening_at_every_address(port: u16) -> usize {
    let sockets = listening_sockets(port);
    sockets
        .iter()
        .filter(|socket| socket.starts_with("00000000:"))
        .count()
}

#[tokio::test]
async fn a_routed_address_that_is_not_routed_here_is_reported_and_disturbs_no_other() {
    let (instances, targets, _recorders) = two_versions().await;
    let own = watch::Sender::<OwnListeners>::default();
    let config = EgressConfig {
        own: own.clone(),
        ..EgressConfig::new(1)
    };
    let listening = config.listening.clone();
    let home = routed(instances, config);
    let here = testbed::vip().ip();
    // Of TEST-NET-3, which no host has.
    let away = IpAddr::from([203, 0, 113, 7]);
    let port = shared_port(&home, &own, [(here, &targets[0]), (away, &targets[1])]).await;
    let away = SocketAddr::new(away, port);
    until("it is reported", || !home.egress.bind_failures().is_empty()).await;
    let failures = home.egress.bind_failures();
    assert_eq!((failures.len(), failures[0].address), (1, away));
    assert!(failures[0].advice.contains("ip route add local"));
    assert!(!listening.may_be_given_out(away));
    let mut client = testbed::Client(testbed::connect((here, port).into()).await);
    assert_eq!(client.greeting().await.unwrap(), "v1");
    bind(&home, [((here, port).into(), &targets[0])]);
    until("it is forgotten", || home.egress.bind_failures().is_empty()).await;
    assert!(listening.may_be_given_out(away));
}
