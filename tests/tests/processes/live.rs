//! Settings of a running gateway: its zone's virtual addresses change, of which clients hold those of before; flags do not, and are named.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use causeway_tests::{
    ca::causeway,
    dns,
    federation::{Federation, PATIENCE, Plan},
    instance::{Behaviour, Instance},
    talk::{Client, say},
    wait::{until, until_true},
};

/// Long enough for a busy machine to call meanwhile.
const KEPT: Duration = Duration::from_secs(8);

/// Address of orders, as mesh DNS tells it.
async fn told(federation: &Federation) -> SocketAddr {
    let server = federation.zone("east").dns;
    until("mesh DNS answers", PATIENCE, async || {
        let address = dns::addresses(server, "orders.mesh.")
            .await
            .ok()?
            .into_iter()
            .next()?;
        Some(SocketAddr::new(address, 9000))
    })
    .await
}

#[tokio::test]
async fn an_address_of_before_a_change_of_vips_is_served_for_a_while_and_then_refused() {
    let instance = Instance::start("east", Behaviour::Name).await.unwrap();
    let plan = Plan::new()
        .zone("east")
        .instance("orders", instance.address(), "{}")
        .service("orders", "port: 9000, protocol: tcp")
        .argument(&format!("--keep-vips={}s", KEPT.as_secs()));
    let federation = plan.start().await.unwrap();
    let held = told(&federation).await;
    assert_eq!(say(held, "before").await.unwrap(), "east before");
    let mut lasting = Client::connect(held).await.unwrap();
    assert_eq!(lasting.say("one").await.unwrap(), "east one");

    let file = &federation.zone("east").topology;
    let topology = fs::read_to_string(file).unwrap();
    let (ours, other) = (federation.virtual_range(0), federation.virtual_range(5));
    assert!(topology.contains(&ours));
    let changing = Instant::now();
    fs::write(file, topology.replace(&ours, &other)).unwrap();
    until_true("mesh DNS tells another address", PATIENCE, async || {
        told(&federation).await != held
    })
    .await;
    let new = told(&federation).await;
    assert_eq!(say(new, "new").await.unwrap(), "east new");
    let mut calls = 0;
    while changing.elapsed() < KEPT / 2 {
        assert_eq!(say(held, "old").await.unwrap(), "east old", "after {calls} calls");
        calls += 1;
    }
    until_true(
        "who holds the address of before is refused",
        PATIENCE,
        async || say(held, "late").await.is_err(),
    )
    .await;
    assert!(changing.elapsed() >= KEPT, "{:?}", changing.elapsed());
    assert_eq!(
        lasting.say("two").await.unwrap(),
        "east two",
        "what is open goes on"
    );
    assert_eq!(say(new, "still").await.unwrap(), "east still");
    federation
        .zone("east")
        .wait_log(&["WARN", "other addresses than before", "taken_for"])
        .await;
}

#[tokio::test]
async fn what_differs_from_the_settings_in_force_is_named_with_both_values() {
    let plan = Plan::new()
        .zone("east")
        .service("orders", "port: 9000, protocol: tcp");
    let federation = plan.argument("--drain=3s").start().await.unwrap();
    let file = federation.folder().join("gateway.env");
    let admin = federation.zone("east").admin.to_string();
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let output = causeway(&["check", "--admin", &admin, "--environment", file]).unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (_, same) = check("# as it runs\nCAUSEWAY_DRAIN=3s\nCAUSEWAY_STALL_TIMEOUT=300s\nPATH=/bin\n");
    assert!(
        same.contains("√ environment: ") && same.contains("gateway.env: as in force"),
        "{same}"
    );
    let (code, other) =
        check("CAUSEWAY_DRAIN=60s\nEnvironment=\"CAUSEWAY_STALL_TIMEOUT=1m\"\nCAUSEWAY_NOPE=1\n");
    for words in [
        "CAUSEWAY_STALL_TIMEOUT=1m differs from the command line in force, which has --stall-timeout 5m",
        "CAUSEWAY_DRAIN=60s differs from the command line in force: --drain 3s there beats it",
        "CAUSEWAY_NOPE is no variable of the gateway",
        "hint: a running gateway takes up no flag",
    ] {
        assert!(other.contains(words), "{words} is not in\n{other}");
    }
    assert_eq!(code, Some(0), "what differs is to look at");
    assert_eq!(check("nonsense").0, Some(65));
}
