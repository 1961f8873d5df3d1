//! State with which a process that takes over goes on, beside services and tunnels: applied topologies, the TLS listener, unix sockets, and what is
//! known of instances.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use causeway_tests::{
    authority::{Authority, Leaf},
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance},
    process::run,
    talk::Client,
    wait::until_true,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    task::JoinHandle,
};

const PORT: u16 = 9000;
const WEB: &str = "spiffe://test.internal/app/web";

/// Asks over a unix socket again and again, on a connection of its own each time, until it is told to stop; returns the number of answers.
fn ask_over(socket: PathBuf, stop: Arc<AtomicBool>) -> JoinHandle<anyhow::Result<usize>> {
    tokio::spawn(async move {
        let mut answers = 0;
        while !stop.load(Ordering::Relaxed) {
            let mut stream = UnixStream::connect(&socket).await?;
            let request = "GET /v1/topology HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "after {answers}: {answer}");
            answers += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(answers)
    })
}

fn file_number(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

async fn whoever_cannot_read_what_would_rule_is_not_let_in(federation: &mut Federation) {
    let good = federation.zone("east").topology.clone();
    let bad = federation.folder().join("bad.yaml");
    fs::write(
        &bad,
        fs::read_to_string(&good)
            .unwrap()
            .replace("protocol: tcp", "protocol: tpc"),
    )
    .unwrap();
    let zone = federation.zone_mut("east");
    zone.topology = bad;
    zone.arguments.push("--take-over".to_owned());
    federation.start_zone("east").unwrap();
    let zone = federation.zone_mut("east");
    let status = zone.gateway().wait(PATIENCE).await;
    assert_eq!(status.code(), Some(65), "{}", zone.log());
    assert!(
        zone.log().contains("`tpc`") && zone.former().ended().is_none(),
        "{}",
        zone.log()
    );
    zone.topology = good;
    zone.arguments.clear();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_sockets_and_applied_topologies_are_there_all_the_time() {
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let plan = Plan::new().zone("east").ruled_by_applied();
    let mut federation = plan
        .instance("orders", instance.address(), "{}")
        .service("orders", &format!("port: {PORT}, protocol: tcp"))
        .start()
        .await
        .unwrap();
    whoever_cannot_read_what_would_rule_is_not_let_in(&mut federation).await;

    let zone = federation.zone("east");
    let (admin, registry) = (zone.admin_socket(), zone.registry_socket());
    let sockets = [admin.clone(), registry, zone.data.join("handover.sock")];
    let numbers = sockets.each_ref().map(|socket| file_number(socket));
    let text = fs::read_to_string(&zone.topology).unwrap();
    let applied = federation.folder().join("applied.yaml");
    fs::write(
        &applied,
        format!("{text}  stock: {{ port: 9001, protocol: tcp }}\n"),
    )
    .unwrap();
    let at = format!("unix:{}", admin.display());
    run(["apply", "-f", &applied.display().to_string(), "--admin", &at]).unwrap();
    let stock = federation.service_address("east", "stock", 9001).await;
    let stop = Arc::new(AtomicBool::new(false));
    let asking = ask_over(admin, stop.clone());
    for _ in 0..3 {
        federation.succeed_zone("east").await.unwrap();
        let page = http::get(federation.zone("east").admin, "/v1/topology")
            .await
            .unwrap();
        assert!(page.body.contains("\"generation\":1"), "{}", page.body);
        assert_eq!(federation.service_address("east", "stock", 9001).await, stock);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(asking.await.unwrap().unwrap() > 0);
    assert_eq!(sockets.each_ref().map(|socket| file_number(socket)), numbers);
    // The next one can be applied by it.
    fs::write(
        &applied,
        format!("{text}  parts: {{ port: 9002, protocol: tcp }}\n"),
    )
    .unwrap();
    run(["apply", "-f", &applied.display().to_string(), "--admin", &at]).unwrap();
    federation.service_address("east", "parts", 9002).await;
    // The last of them removes its files.
    federation
        .zone_mut("east")
        .gateway()
        .signal(rustix::process::Signal::TERM)
        .unwrap();
    assert!(
        federation
            .zone_mut("east")
            .gateway()
            .wait(PATIENCE)
            .await
            .success()
    );
    assert!(sockets.iter().all(|socket| !socket.exists()));
}

fn leaf(authority: &Authority, id: &str) -> Leaf {
    let mut wish = authority.wish("east", "gw1");
    wish.uris = vec![id.to_owned()];
    wish.purposes = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    authority.sign(&wish).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_with_certificates_keep_their_connections_and_new_ones_are_taken_all_the_time() {
    let instance = Instance::start("stock", Behaviour::Name).await.unwrap();
    let plan = Plan::new().takes_callers().argument("--drain").argument("60s");
    let mut federation = plan
        .zone("east")
        .instance("stock", instance.address(), "{}")
        .service(
            "stock",
            &format!("port: {PORT}, protocol: tcp, allow: [\"{WEB}\"]"),
        )
        .start()
        .await
        .unwrap();
    let callers = federation.zone("east").callers;
    let web = leaf(federation.authority(), WEB);
    let mut held = Client::call(callers, "stock.mesh", Some(&web)).await.unwrap();
    assert_eq!(held.say("one").await.unwrap(), "stock one");
    let stop = Arc::new(AtomicBool::new(false));
    let calling = {
        let (stop, web) = (stop.clone(), leaf(federation.authority(), WEB));
        tokio::spawn(async move {
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut client = Client::call(callers, "stock.mesh", Some(&web)).await?;
                let said = client.say("new").await?;
                anyhow::ensure!(said == "stock new", "after {calls}: {said}");
                calls += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(calls)
        })
    };
    for turn in 0..2 {
        federation.succeed_zone("east").await.unwrap();
        assert_eq!(held.say("held").await.unwrap(), "stock held", "{turn}");
        let mut client = Client::call(callers, "stock.mesh", Some(&web)).await.unwrap();
        assert_eq!(client.say("two").await.unwrap(), "stock two");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(calling.await.unwrap().unwrap() > 0);
}

#[tokio::test]
async fn an_instance_that_is_known_not_to_be_well_is_not_asked_by_the_successor_and_one_that_is_well_at_once()
{
    let well = Instance::start("well", Behaviour::Http).await.unwrap();
    // It accepts, and does not speak HTTP, which its check asks for.
    let unwell = Instance::start("unwell", Behaviour::Name).await.unwrap();
    let plan = Plan::new().zone("east");
    let mut federation = plan
        .instance("orders", well.address(), "{}")
        .instance("orders", unwell.address(), "{}")
        .service(
            "orders",
            &format!("port: {PORT}, protocol: http, health: {{ http: /, every: 1h }}"),
        )
        .start()
        .await
        .unwrap();
    let states = async |federation: &Federation| {
        let page = http::get(federation.zone("east").admin, "/v1/instances").await;
        let page = page.unwrap().body;
        let count = |word: &str| page.matches(word).count();
        (count("\"healthy\""), count("\"unhealthy\""))
    };
    until_true("one is found to be well and one not", PATIENCE, async || {
        states(&federation).await == (1, 1)
    })
    .await;
    let address = federation.service_address("east", "orders", PORT).await;
    federation.succeed_zone("east").await.unwrap();
    assert_eq!(states(&federation).await, (1, 1));
    for _ in 0..20 {
        let answer = http::get(address, "/").await.unwrap();
        assert!(answer.body.contains("well"), "{answer:?}");
    }
    assert_eq!(
        unwell
            .lines()
            .iter()
            .filter(|line| line.contains("GET /"))
            .count(),
        1,
        "its check"
    );
    let checks = federation.zone("east").metrics().await.unwrap();
    assert!(
        checks.sum("causeway_health_checks_total", &[]) < 1.0,
        "the successor has not checked anew"
    );
}
