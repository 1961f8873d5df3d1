//! Sticky choice through real gateways: the requests of one user go to one instance of another zone, whatever connection they come on, and
//! when an instance leaves only its own users go elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use causeway_tests::{
    federation::{PATIENCE, Plan},
    instance::{Behaviour, Instance},
    process::run,
    wait::until_true,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const NAMES: [&str; 3] = ["one", "two", "three"];
const USERS: usize = 24;

/// The instance that answers a request on a connection of its own, and the cookie that is given with it. `None`: none answers.
async fn ask(service: SocketAddr, fields: &str) -> Option<(&'static str, Option<String>)> {
    let mut client = TcpStream::connect(service).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: shop.mesh\r\nConnection: close\r\n{fields}\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = client.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, reading).await.unwrap().ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let cookie = head
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: ").map(str::to_owned));
    let name = NAMES.into_iter().find(|name| body.contains(name))?;
    Some((name, cookie))
}

async fn owners(service: SocketAddr) -> BTreeMap<usize, Option<&'static str>> {
    let mut owners = BTreeMap::new();
    for user in 0..USERS {
        let answered = ask(service, &format!("Cookie: a=b; session=user-{user}\r\n")).await;
        owners.insert(
            user,
            answered.map(|(name, cookie)| {
                assert_eq!(cookie, None, "it has one");
                name
            }),
        );
    }
    owners
}

#[tokio::test]
async fn a_user_stays_at_an_instance_and_only_those_of_one_that_leaves_move() {
    let mut instances = Vec::new();
    for name in NAMES {
        instances.push(Instance::start(name, Behaviour::Http).await.unwrap());
    }
    let mut plan = Plan::new().zone("east").zone("west");
    for instance in &instances {
        plan = plan.instance("shop", instance.address(), "{}");
    }
    let keys = "port: 9000, protocol: http, health: { tcp: true, every: 1s, timeout: 1s, fall: 1 }, \
        sticky: { by: cookie, name: session, ttl: 1h }, routes: [{ match: { path_prefix: /by-user }, sticky: { by: header, name: x-user } }]";
    let federation = plan.service("shop", keys).start().await.unwrap();
    federation.wait_export("east", "west", "shop").await;
    let shop = federation.service_address("east", "shop", 9000).await;
    until_true("all instances are well", PATIENCE, async || {
        let names: BTreeSet<_> = owners(shop).await.into_values().flatten().collect();
        names.len() == NAMES.len()
    })
    .await;

    // A client without a cookie is given one, and comes back with it.
    let (first, cookie) = ask(shop, "").await.unwrap();
    let cookie = cookie.expect("a cookie");
    assert!(
        cookie.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"),
        "{cookie}"
    );
    let pair = cookie.split(';').next().unwrap();
    for _ in 0..8 {
        assert_eq!(
            ask(shop, &format!("Cookie: {pair}\r\n")).await,
            Some((first, None))
        );
    }
    let before = owners(shop).await;
    assert_eq!(owners(shop).await, before);

    let admin = federation.zone("east").admin.to_string();
    let explain = ["explain", "shop", "--admin", &admin, "--header"];
    let told = run([&explain[..], &["cookie:session=abc"]].concat()).unwrap();
    assert!(
        told.contains("cookie session for 1h") && told.contains("drawn by it"),
        "{told}"
    );
    let told = run([&explain[..], &["x-a:b"]].concat()).unwrap();
    assert!(told.contains("it has none, and is given one"), "{told}");

    let gone = instances.pop().unwrap();
    let name = NAMES[2];
    drop(gone);
    until_true("nobody is given the one that has gone", PATIENCE, async || {
        owners(shop)
            .await
            .values()
            .all(|owner| owner.is_some_and(|owner| owner != name))
    })
    .await;
    let after = owners(shop).await;
    for (user, owner) in before {
        if owner != Some(name) {
            assert_eq!(after[&user], owner, "user {user}");
        }
    }
}
