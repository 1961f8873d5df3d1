//! A gateway that has fewer descriptors than its services and clients want: who is told, what goes on, and the way back. And a
//! loop, which would take all of them.

#![allow(clippy::unwrap_used, reason = "what fails in a test program fails the test")]

use std::{fs, io, net::SocketAddr, process::Command};

use causeway_tests::{
    address::Block,
    dns,
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance},
    measured::measured,
    process::{self, Process, program},
    talk::{Client, say},
    wait::{until, until_true},
};
use tokio::net::{TcpSocket, TcpStream};

/// Descriptors of the gateway. 128 of them are kept for itself, and of the rest three in four may listen for clients.
const LIMIT: u64 = 400;
const SERVICES: usize = 300;
/// Services that are left once there were too many.
const FEWER: usize = 50;
const PORT: u16 = 9000;
/// Clients that are served of a burst where 300 descriptors are: 128 are kept, the gateway itself has some 60, and one user has two
/// thirds of the second half.
const LEAST_ALIVE: usize = 30;
/// Most clients that find a descriptor.
const MOST_CLIENTS: usize = LIMIT as usize;

fn service(number: usize) -> String {
    format!("service-{number:03}")
}

/// Two zones, of which east has an instance of every service.
async fn prepare(instance: SocketAddr) -> Federation {
    let mut plan = Plan::new().descriptors(LIMIT).zone("west").zone("east");
    for number in 0..SERVICES {
        let name = service(number);
        plan = plan
            .service(&name, &format!("port: {PORT}, protocol: tcp"))
            .instance(&name, instance, "{}");
    }
    plan.prepare().await.unwrap()
}

/// Address that DNS gives out for a service; `None`: none.
async fn address(federation: &Federation, number: usize) -> Option<SocketAddr> {
    let name = format!("{}.mesh.", service(number));
    let found = dns::addresses(federation.zone("east").dns, &name).await.ok()?;
    Some(SocketAddr::new(*found.first()?, PORT))
}

async fn readiness(federation: &Federation) -> (u16, String) {
    let answer = http::get(federation.zone("east").admin, "/readyz?verbose").await;
    answer.map_or((0, String::new()), |answer| (answer.status, answer.body))
}

async fn until_unready(federation: &Federation, words: &str) {
    let what = format!("readiness says `{words}`");
    until_true(&what, PATIENCE, async || {
        let (status, page) = readiness(federation).await;
        status == 503 && page.contains(words)
    })
    .await;
}

/// Services that DNS gives an address of, and one that it does not.
async fn listened_on(federation: &Federation) -> (Vec<SocketAddr>, usize) {
    let (mut heard, mut unheard) = (Vec::new(), None);
    for number in 0..SERVICES {
        match address(federation, number).await {
            Some(address) => heard.push(address),
            None => unheard = Some(number),
        }
    }
    (heard, unheard.expect("a service that is not listened on"))
}

/// The first address of those at which a client is served.
async fn first_served(heard: &[SocketAddr]) -> SocketAddr {
    for address in heard {
        if say(*address, "hello")
            .await
            .is_ok_and(|answer| answer == "here hello")
        {
            return *address;
        }
    }
    panic!("nobody is served");
}

/// Has the gateways run the first few services alone.
fn take_services_away(federation: &Federation) {
    for zone in federation.names() {
        let file = &federation.zone(&zone).topology;
        let text = fs::read_to_string(file).unwrap();
        let gone: Vec<String> = (FEWER..SERVICES).map(service).collect();
        let stays = |line: &&str| !gone.iter().any(|name| line.contains(name.as_str()));
        let lines: Vec<&str> = text.lines().filter(stays).collect();
        fs::write(file, lines.join("\n") + "\n").unwrap();
    }
}

#[tokio::test]
async fn a_gateway_without_descriptors_for_its_services_says_so_and_is_repaired_by_taking_some_away() {
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let mut federation = prepare(instance.address()).await;
    federation.start_zone("east").unwrap();

    // Listeners: not all, and that is said everywhere.
    until_unready(&federation, "descriptors").await;
    let (heard, unheard) = listened_on(&federation).await;
    assert!(heard.len() > FEWER, "only {} are listened on", heard.len());
    let unheard = service(unheard);
    let port = format!(":{PORT}");
    federation
        .zone("east")
        .wait_log(&["WARN", "cannot be listened on", &unheard, &port, "descriptor"])
        .await;
    let admin = federation.zone("east").admin.to_string();
    let checked = Command::new(program().unwrap())
        .args(["check", "--admin", &admin])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(
        !checked.status.success() && said.contains("LimitNOFILE"),
        "{said}"
    );

    // Clients of those that are listened on are served, until there are too many of them too.
    let served = first_served(&heard).await;
    let mut clients = Vec::new();
    while clients.len() < MOST_CLIENTS {
        let mut client = Client::connect(served).await.unwrap();
        match client.say("hello").await {
            Ok(answer) if answer == "here hello" => clients.push(client),
            Ok(answer) => panic!("{answer}"),
            Err(_) => break,
        }
    }
    assert!(
        (1..MOST_CLIENTS).contains(&clients.len()),
        "{} clients",
        clients.len()
    );
    let labels = [("side", "local"), ("reason", "crowded")];
    let zone = federation.zone("east");
    zone.wait_metric("causeway_stream_refused_total", &labels, 1.0)
        .await;
    zone.wait_log(&["WARN", "a client was closed", "crowded"]).await;

    // The gateway itself goes on: other zones, and what is needed to repair it.
    federation.start_zone("west").unwrap();
    federation.zone("west").wait_tunnel("east").await;
    federation.zone("east").wait_tunnel("west").await;
    take_services_away(&federation);
    federation.zone("east").wait_ready().await;
    for number in 0..FEWER {
        let what = format!("{} is served", service(number));
        until(&what, PATIENCE, async || {
            let mut client = Client::connect(address(&federation, number).await?).await.ok()?;
            client.say("again").await.ok()
        })
        .await;
    }
    for client in &mut clients {
        assert_eq!(client.say("still there").await.unwrap(), "here still there");
    }
}

/// Clients that are sent round one after the other.
const ROUNDS: usize = 5;

async fn refused(federation: &Federation, zone: &str, reason: &str) -> f64 {
    let metrics = federation.zone(zone).metrics().await.unwrap();
    let labels = [("side", "local"), ("reason", reason)];
    metrics.sum("causeway_stream_refused_total", &labels)
}

#[tokio::test]
async fn instances_at_each_others_virtual_addresses_do_not_send_a_client_round_until_descriptors_are_gone() {
    let plan = Plan::new().descriptors(LIMIT).zone("east").zone("west");
    let plan = plan.service("orders", &format!("port: {PORT}, protocol: tcp"));
    let federation = plan.start().await.unwrap();
    let zones = ["east", "west"];
    let mut entrances = Vec::new();
    for zone in zones {
        entrances.push(federation.service_address(zone, "orders", PORT).await);
    }
    for (zone, there) in zones.iter().zip(entrances.iter().rev()) {
        let (admin, address) = (federation.zone(zone).admin.to_string(), there.to_string());
        let arguments = ["register", "orders", "--id", "back", "--address", &address];
        process::run(arguments.into_iter().chain(["--admin", &admin])).unwrap();
    }
    for _ in 0..ROUNDS {
        until_true(
            "a client has been sent round, and was refused",
            PATIENCE,
            async || {
                let before = refused(&federation, "east", "too_many_hops").await
                    + refused(&federation, "west", "too_many_hops").await;
                assert!(say(entrances[0], "hello").await.is_err());
                let after = refused(&federation, "east", "too_many_hops").await
                    + refused(&federation, "west", "too_many_hops").await;
                after > before
            },
        )
        .await;
    }
    for zone in zones {
        assert!(refused(&federation, zone, "no_descriptors").await < 1.0);
        let log = federation.zone(zone).log();
        assert!(!log.contains("no_descriptors"), "{log}");
    }
    let told = zones.iter().any(|zone| {
        let log = federation.zone(zone).log();
        log.contains("a client is another gateway's connection")
    });
    assert!(told);
}

/// Has a zone's topology give an instance to one more service.
fn add_instance(federation: &Federation, number: usize, instance: SocketAddr) {
    for zone in federation.names() {
        let file = &federation.zone(&zone).topology;
        let text = fs::read_to_string(file).unwrap();
        let like = format!("service: {}, address: {instance}", service(SERVICES - 1));
        let line = text.lines().find(|line| line.contains(&like)).unwrap();
        let more = line.replace(&service(SERVICES - 1), &service(number));
        fs::write(file, text.replacen(line, &format!("{line}\n{more}"), 1)).unwrap();
    }
}

#[tokio::test]
async fn services_that_nobody_serves_give_their_descriptors_to_those_that_have_instances() {
    const USED: usize = 20;
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let mut plan = Plan::new().descriptors(LIMIT).zone("east");
    for number in 0..SERVICES {
        let name = service(number);
        plan = plan.service(&name, &format!("port: {PORT}, protocol: tcp"));
        // Those that come last.
        if number >= SERVICES - USED {
            plan = plan.instance(&name, instance.address(), "{}");
        }
    }
    let mut federation = plan.prepare().await.unwrap();
    federation.start_zone("east").unwrap();
    until_unready(&federation, "descriptors").await;
    let served = async |number: usize| {
        let what = format!("{} is served", service(number));
        until(&what, PATIENCE, async || {
            say(address(&federation, number).await?, "hello").await.ok()
        })
        .await;
    };
    for number in SERVICES - USED..SERVICES {
        served(number).await;
    }
    // One that has none yet, and no descriptor either, gets both.
    let (_, unheard) = listened_on(&federation).await;
    add_instance(&federation, unheard, instance.address());
    served(unheard).await;
}

#[tokio::test]
async fn a_burst_of_clients_leaves_descriptors_to_the_instances_of_those_that_are_taken() {
    const CLIENTS: usize = 250;
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let plan = Plan::new()
        .descriptors(300)
        .zone("east")
        .service("orders", &format!("port: {PORT}, protocol: tcp"))
        .instance("orders", instance.address(), "{}");
    let federation = plan.start().await.unwrap();
    let orders = federation.service_address("east", "orders", PORT).await;
    until_true("the instance is served", PATIENCE, async || {
        say(orders, "hello").await.is_ok()
    })
    .await;

    let clients = (0..CLIENTS).map(|_| async {
        let mut client = Client::connect(orders).await.ok()?;
        client.say("hello").await.ok()?;
        Some(client)
    });
    let clients = futures_util::future::join_all(clients).await;
    let alive: Vec<Client> = clients.into_iter().flatten().collect();
    measured(&format!(
        "of {CLIENTS} clients at once, with 300 descriptors, {} are served",
        alive.len()
    ));
    let zone = federation.zone("east");
    let refused = [("side", "local"), ("reason", "crowded")];
    zone.wait_metric("causeway_stream_refused_total", &refused, 1.0)
        .await;
    let metrics = zone.metrics().await.unwrap();
    for outcome in ["no_descriptors", "crowded"] {
        let starved = metrics.sum("causeway_connections_total", &[("outcome", outcome)]);
        assert!(
            starved == 0.0,
            "{starved} were taken and had no descriptor for their instance: {outcome}"
        );
    }
    assert!(alive.len() >= LEAST_ALIVE, "{} are served", alive.len());

    // Once they are gone, it is still told for a while.
    drop(alive);
    until_true("there are descriptors again", PATIENCE, async || {
        let (status, page) = readiness(&federation).await;
        status == 200 && page.contains("few were left within the last minute")
    })
    .await;
}

/// Descriptors of a process whose reserve is tried; half of so few are kept.
const FEW: u64 = 100;
const KEPT: usize = FEW as usize / 2;
/// Connections that are taken and just being closed.
const PASSING: usize = 8;
/// Connections of one host, of which each process takes some more, and hosts that they come from.
const OF_HOST: usize = 30;
const HOSTS: usize = 4;

/// Command of the program with so few descriptors.
fn with_few_descriptors(arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &FEW.to_string()]);
    command.arg(program().unwrap()).args(arguments);
    command
}

/// Connects from several hosts of the block, more often than there are descriptors, and holds what is taken.
async fn crowd(block: &Block, to: SocketAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for number in 0..HOSTS * OF_HOST {
        let socket = TcpSocket::new_v4().unwrap();
        let from = block.host(u8::try_from(10 + number % HOSTS).unwrap());
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        held.push(socket.connect(to).await.unwrap());
    }
    held
}

/// Waits until somebody of the crowd was closed, and returns the most descriptors that the process has had.
async fn most_descriptors(process: &Process, crowd: &[TcpStream]) -> usize {
    let mut most = 0;
    until_true("some are closed for want of descriptors", PATIENCE, async || {
        most = most.max(process.descriptors_and_threads().unwrap().0);
        let is_closed = |stream: &&TcpStream| match stream.try_read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        crowd.iter().filter(is_closed).count() >= HOSTS * OF_HOST - KEPT
    })
    .await;
    most
}

#[tokio::test]
async fn a_zone_sync_and_a_ca_keep_descriptors_for_themselves_however_many_connect() {
    let (folder, block) = (tempfile::tempdir().unwrap(), Block::take().unwrap());
    let at = |host: u8, port| SocketAddr::new(block.host(host), port);
    let [sync, readiness, ca] = [at(0, 7820), at(0, 7821), at(1, 7830)];
    let [sync_at, readiness_at, ca_at] = [sync, readiness, ca].map(|at| at.to_string());

    // etcd is away, which it bears.
    let arguments = ["zone-sync", "--zone", "east", "--etcd", "http://127.0.0.1:1"];
    let mut command = with_few_descriptors(&arguments);
    command.args(["--listen", &sync_at, "--admin", &readiness_at]);
    let zone_sync = Process::start("zone-sync", &mut command, &folder.path().join("zone-sync.log")).unwrap();
    until("zone-sync answers", PATIENCE, async || {
        http::get(readiness, "/livez").await.ok()
    })
    .await;
    let crowding = crowd(&block, sync).await;
    let most = most_descriptors(&zone_sync, &crowding).await;
    assert!(most <= KEPT + PASSING, "{most} descriptors are open");
    let answer = http::get(readiness, "/livez").await.unwrap();
    assert_eq!(answer.status, 200, "its own port answers");

    let root = folder.path().join("ca");
    let root = root.to_str().unwrap();
    process::run(["ca", "init", root, "--trust-domain", "acme.internal"]).unwrap();
    let mut command = with_few_descriptors(&["ca", "serve", "--ca", root, "--listen", &ca_at]);
    let authority = Process::start("the CA", &mut command, &folder.path().join("ca.log")).unwrap();
    until("the CA listens", PATIENCE, async || {
        TcpStream::connect(ca).await.ok()
    })
    .await;
    let crowding = crowd(&block, ca).await;
    let most = most_descriptors(&authority, &crowding).await;
    assert!(most <= KEPT + PASSING, "{most} descriptors are open");
}
