//! Whoever may not take the place of a gateway is told why before anything has moved, and the gateway goes on.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    instance::{Behaviour, Instance},
    process::program,
    talk::say,
};

const PORT: u16 = 9000;
/// Two users that are nobody's; they need no names.
const OWNER: u32 = 65_533;
const STRANGER: u32 = 65_532;

fn give(path: &Path, user: u32) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), user);
        }
    }
    chown(path, Some(user), Some(user)).unwrap();
}

/// Tells whether this test can start the program as other users; says so where it cannot.
fn can_be_others() -> bool {
    let mut command = Command::new(program().unwrap());
    let started = command.arg("--version").uid(OWNER).gid(OWNER).output();
    let can = started.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("skipped: this takes root, and a program that other users may run");
    }
    can
}

/// Starts a process that wants to take over and may not; returns what it says of that.
async fn refused(federation: &mut Federation, orders: SocketAddr) -> String {
    let zone = federation.zone_mut("east");
    let before = zone.log().len();
    zone.arguments.push("--take-over".to_owned());
    federation.start_zone("east").unwrap();
    let zone = federation.zone_mut("east");
    zone.arguments.clear();
    let status = zone.gateway().wait(PATIENCE).await;
    let said = zone.log().split_off(before);
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(say(orders, "on").await.unwrap(), "here on", "{said}");
    assert!(!said.contains("a successor takes over"), "{said}");
    said
}

#[tokio::test]
async fn another_user_and_another_folder_take_nothing_over() {
    if !can_be_others() {
        return;
    }
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let plan = Plan::new()
        .zone("east")
        .instance("orders", instance.address(), "{}");
    let plan = plan.service("orders", &format!("port: {PORT}, protocol: tcp"));
    let mut federation = plan.prepare().await.unwrap();
    fs::set_permissions(federation.folder(), Permissions::from_mode(0o755)).unwrap();
    let zone = federation.zone_mut("east");
    fs::create_dir_all(&zone.data).unwrap();
    fs::set_permissions(&zone.data, Permissions::from_mode(0o700)).unwrap();
    let own = zone.data.clone();
    give(&own, OWNER);
    give(&zone.identity.clone(), OWNER);
    zone.user = Some(OWNER);
    federation.start_zone("east").unwrap();
    federation.ready("east").await;
    let orders = federation.service_address("east", "orders", PORT).await;

    // Root may open everything, and is another user all the same.
    federation.zone_mut("east").user = None;
    let said = refused(&mut federation, orders).await;
    let words = format!("the running gateway is user {OWNER}'s, and this process is user 0's");
    assert!(said.contains(&words), "{said}");

    // Others do not come as far.
    let copy = federation.folder().join("copy");
    let zone = federation.zone_mut("east");
    let identity = std::mem::replace(&mut zone.identity, copy);
    fs::create_dir(&zone.identity).unwrap();
    for file in fs::read_dir(&identity).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), zone.identity.join(file.file_name())).unwrap();
    }
    give(&zone.identity.clone(), STRANGER);
    fs::set_permissions(&zone.identity, Permissions::from_mode(0o700)).unwrap();
    zone.user = Some(STRANGER);
    let said = refused(&mut federation, orders).await;
    assert!(said.contains("error: ") && said.contains("-data"), "{said}");

    // Of another folder nobody is found, and the addresses are taken.
    let zone = federation.zone_mut("east");
    zone.identity = identity;
    zone.data = own.with_extension("other");
    fs::create_dir(&zone.data).unwrap();
    fs::set_permissions(&zone.data, Permissions::from_mode(0o700)).unwrap();
    give(&zone.data.clone(), OWNER);
    zone.user = Some(OWNER);
    let said = refused(&mut federation, orders).await;
    assert!(
        said.contains("no gateway runs with this --data") && said.contains("error: "),
        "{said}"
    );

    // And its own successor takes over.
    federation.zone_mut("east").data = own;
    federation.succeed_zone("east").await.unwrap();
    assert_eq!(say(orders, "and").await.unwrap(), "here and");
}
