//! Criticality by a field of the request, through a real gateway: it counts from a caller that may say it, and from no other.

use std::{net::SocketAddr, time::Duration};

use causeway_tests::{
    federation::{Federation, Plan},
    instance::{Behaviour, Instance},
    measured::measured,
    pace::ask_at,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PORT: u16 = 9000;
/// Requests a second that each instance can take, and that are asked for with the field and without.
const CAPACITY: f64 = 40.0;
const CRITICAL: f64 = 25.0;
const OTHERS: f64 = 50.0;
const FIELD: &str = "causeway-criticality: critical\r\n";
/// Time in which shares settle, and time for which is counted after it.
const SETTLES: Duration = Duration::from_secs(5);
const COUNTED: Duration = Duration::from_secs(6);

/// Status of the answer to one request with this field.
async fn status(server: SocketAddr, field: &str) -> u16 {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: a.example\r\n{field}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Asks so often in a second, and counts what is served and what is shed once the shares have settled.
async fn ask(server: SocketAddr, field: &'static str, per_second: f64) -> (usize, usize) {
    let (mut served, mut shed) = (0, 0);
    for answer in ask_at(per_second, (SETTLES, COUNTED), || status(server, field)).await {
        match answer {
            (false, _) => {}
            (true, 200) => served += 1,
            (true, 503) => shed += 1,
            (true, other) => panic!("{other}"),
        }
    }
    (served, shed)
}

async fn start(open: &Instance, closed: &Instance) -> Federation {
    let service = |port: u16, callers: &str| {
        format!("port: {port}, protocol: http, spill: {{}}, criticality_from: [{callers}]")
    };
    let plan = Plan::new().zone("east");
    let with_capacity = format!("{{}}, capacity: {CAPACITY:.0}/s");
    let plan = plan.instance("open", open.address(), &with_capacity);
    let plan = plan.instance("closed", closed.address(), &with_capacity);
    // Clients of this host whose user runs nothing that is registered are anonymous.
    let plan = plan.service("open", &service(PORT, "'*@east'"));
    let plan = plan
        .service("closed", &service(PORT, "web"))
        .service("web", "port: 9001");
    plan.start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_says_its_criticality_where_its_caller_may() {
    let open = Instance::start("open", Behaviour::Http).await.unwrap();
    let closed = Instance::start("closed", Behaviour::Http).await.unwrap();
    let federation = start(&open, &closed).await;
    let mut asked = Vec::new();
    for name in ["open", "closed"] {
        let address = federation.service_address("east", name, PORT).await;
        for (field, rate) in [(FIELD, CRITICAL), ("", OTHERS)] {
            asked.push(tokio::spawn(ask(address, field, rate)));
        }
    }
    let mut counts = Vec::new();
    for asking in asked {
        counts.push(asking.await.unwrap());
    }
    let told = format!(
        "served and shed of {} s: may say it {:?}, beside others {:?}; may not {:?}, beside others {:?}",
        COUNTED.as_secs(),
        counts[0],
        counts[1],
        counts[2],
        counts[3]
    );
    measured(&told);
    assert_eq!(counts[0].1, 0, "none of the critical is shed: {told}");
    assert!(counts[1].1 > counts[1].0, "the others have what is left: {told}");
    let share = |(served, shed): (usize, usize)| served as f64 / (served + shed) as f64;
    assert!(
        (share(counts[2]) - share(counts[3])).abs() < 0.25,
        "all are alike: {told}"
    );
    assert!(counts[2].1 > 0, "{told}");

    let has_field = |instance: &Instance| {
        let received = instance.received();
        let mut texts = received
            .iter()
            .map(|one| String::from_utf8_lossy(&one.bytes).to_lowercase());
        texts.any(|text| text.contains("causeway-criticality"))
    };
    assert!(has_field(&open), "the instance may pass it on");
    assert!(!has_field(&closed), "what does not count is taken out");

    for (name, caller, told) in [
        ("open", "anonymous", "critical: its caller may say so"),
        (
            "closed",
            "anonymous",
            "its caller may not say one (criticality_from)",
        ),
        ("closed", "web", "critical: its caller may say so"),
    ] {
        let header = "causeway-criticality:critical";
        let asked = [name, "--caller", caller, "--header", header];
        let out = federation.explained("east", &asked).await.unwrap();
        assert!(out.contains(told), "{name} {caller}: {out}");
    }
}
