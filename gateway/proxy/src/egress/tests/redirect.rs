//! Redirect of clients, with a script in the place of `nft`: it keeps the table in a file, and redirects nobody.

use std::{ffi::OsString, fs, net::SocketAddr, path::Path, sync::Arc, time::Instant};

use causeway_routing::target::{Bindings, Target};
use tokio::sync::watch;

use super::topology;
use crate::{
    egress::{EgressConfig, RedirectConfig, RedirectError},
    testbed::{self, Zone, connect, until},
};

/// Stand-in for `nft`, as far as the redirect asks it, in the folder that is its first argument. With a file `refuse` there it says
/// what stands in that and fails.
const SCRIPT: &str = r#"
cd "$1"; shift
if [ -e refuse ]; then cat refuse >&2; exit 1; fi
case "$*" in
    "-f -")
        cat >rules
        case $(tail -n 1 rules) in
            delete*) rm -f table ;;
            *) sed '1,3d' rules >table ;;
        esac ;;
    "list tables inet") for other in others/*; do if [ -e "$other" ]; then echo "table inet ${other#others/}"; fi; done ;;
    "list table inet causeway_home_gw1")
        [ -e table ] || { echo "Error: No such file or directory" >&2; exit 1; }
        cat table ;;
    "list table inet "*) cat "others/$4" ;;
esac
"#;

/// A free port, and settings with the script for it.
fn config(folder: &Path) -> (u16, EgressConfig) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    let program: [OsString; 5] = [
        "sh".into(),
        "-c".into(),
        SCRIPT.into(),
        "nft".into(),
        folder.into(),
    ];
    let redirect = RedirectConfig::new(&testbed::gateway("home"), port).with_program(program.into());
    let config = EgressConfig {
        redirect: Some(redirect),
        ..EgressConfig::new(2)
    };
    (port, config)
}

/// A zone that takes clients of one virtual address, once it is started.
fn home(config: EgressConfig) -> (Zone, watch::Receiver<Bindings>) {
    let home = Zone::with_config("home", &topology(), Vec::new(), config);
    bind(&home, 8080);
    let bindings = home.bindings.subscribe();
    (home, bindings)
}

fn address(port: u16) -> SocketAddr {
    ([127, 64, 0, 1], port).into()
}

/// Has the zone one virtual address, at this port.
fn bind(home: &Zone, port: u16) {
    let target = Target::service(testbed::service("orders"));
    home.bindings
        .send_replace(Arc::new([(address(port), target.into())].into()));
}

fn keep(home: &Zone) {
    let (egress, bindings) = (home.egress.clone(), home.bindings.subscribe());
    tokio::spawn(async move { egress.keep_redirect(bindings).await });
}

fn table(folder: &Path) -> String {
    fs::read_to_string(folder.join("table")).unwrap_or_default()
}

#[tokio::test]
async fn the_table_is_in_place_before_the_start_returns_follows_the_ports_and_goes_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (port, config) = config(folder);
    let listening = config.listening.clone();
    let (home, bindings) = home(config);
    home.egress.start_redirect(&bindings).await.unwrap();
    let placed = table(folder);
    assert!(placed.contains("elements = { 8080 }"), "{placed}");
    assert!(placed.contains(&format!("redirect to :{port}")), "{placed}");
    assert!(listening.wait_for(&[address(8080)]).await);
    keep(&home);
    bind(&home, 9090);
    until("the other port is redirected", || {
        table(folder).contains("{ 9090 }")
    })
    .await;
    while !listening.wait_for(&[address(9090)]).await {}
    home.egress.remove_redirect().await;
    assert_eq!(table(folder), "");
}

#[tokio::test]
async fn clients_whom_the_process_before_has_redirected_are_known_before_the_table_is_this_ones() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (_, config) = config(folder);
    let listening = config.listening.clone();
    let (home, bindings) = home(config);
    let known = async { while !listening.wait_for(&[address(8080)]).await {} };
    tokio::time::timeout(testbed::PATIENCE, known).await.unwrap();
    assert_eq!(table(folder), "");
    home.egress.start_redirect(&bindings).await.unwrap();
    assert!(listening.wait_for(&[address(8080)]).await);
}

#[tokio::test]
async fn who_connects_to_the_listener_itself_is_refused_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (port, config) = config(folder.path());
    let (home, bindings) = home(config);
    home.egress.start_redirect(&bindings).await.unwrap();
    let mut direct = testbed::Client(connect(([127, 0, 0, 1], port).into()).await);
    let error = direct.greeting().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let counted = "causeway_redirect_refused_total{reason=\"not_redirected\"} 1";
    let mut metrics = String::new();
    home.metrics.encode(&mut metrics).unwrap();
    assert!(metrics.contains(counted), "{metrics}");
    assert_eq!(home.egress.open_connections().count(), 0);
}

#[tokio::test]
async fn a_table_that_somebody_removes_is_put_back_and_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (_, config) = config(folder);
    let listening = config.listening.clone();
    let (home, bindings) = home(config);
    home.egress.start_redirect(&bindings).await.unwrap();
    keep(&home);
    let placed = table(folder);
    let status = || home.egress.redirect_status().unwrap();
    assert!(status().in_force && !status().was_lost_lately(Instant::now()));
    fs::remove_file(folder.join("table")).unwrap();
    until("it is put back", || table(folder) == placed).await;
    until("it is told of", || status().was_lost_lately(Instant::now())).await;

    // One that cannot be put back is in force no more, and its addresses are not given out.
    fs::write(
        folder.join("refuse"),
        "Error: Could not process rule: No such file or directory",
    )
    .unwrap();
    until("it is not in force", || !status().in_force).await;
    let (error, _) = status().failure.unwrap();
    assert!(error.contains("Could not process rule"), "{error}");
    assert!(!listening.may_be_given_out(address(8080)));
    fs::remove_file(folder.join("refuse")).unwrap();
    until("it is in force", || {
        status().in_force && status().failure.is_none()
    })
    .await;
    assert!(listening.may_be_given_out(address(8080)));
}

#[tokio::test]
async fn what_keeps_the_redirect_from_being_had_is_said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(
        folder.join("refuse"),
        "Operation not permitted (you must be root)",
    )
    .unwrap();
    let refused = start(config(folder)).await;
    assert!(matches!(refused, RedirectError::NotPermitted));
    assert!(refused.advice().contains("CAP_NET_ADMIN") && refused.advice().contains("--capture listeners"));
    fs::remove_file(folder.join("refuse")).unwrap();

    let (port, mut without) = config(folder);
    without.redirect = without
        .redirect
        .map(|redirect| redirect.with_program(vec!["/no/nft".into()]));
    let missing = start((port, without)).await;
    assert!(missing.advice().contains("package nftables"), "{missing}");

    let (port, taken) = config(folder);
    let _program = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let in_the_way = start((port, taken)).await;
    assert!(in_the_way.advice().contains("--redirect-port"), "{in_the_way}");
    assert_eq!(table(folder), "", "a table leads to somebody else's port");
}

async fn start((_, config): (u16, EgressConfig)) -> RedirectError {
    let (home, bindings) = home(config);
    home.egress.start_redirect(&bindings).await.unwrap_err()
}

#[tokio::test]
async fn two_gateways_of_a_host_do_not_redirect_the_same_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let others = folder.join("others");
    fs::create_dir(&others).unwrap();
    let rule =
        |range: &str| format!("chain output {{\n\tip daddr {range} tcp dport @ports redirect to :7816\n}}");
    fs::write(others.join("causeway_west_gw1"), rule("127.0.0.0/8")).unwrap();
    let overlap = start(config(folder)).await;
    assert!(overlap.to_string().contains("causeway_west_gw1"), "{overlap}");
    assert!(
        overlap
            .advice()
            .contains("nft delete table inet causeway_west_gw1")
    );
    assert_eq!(table(folder), "");
    // Other ranges, and tables that are no gateway's, are in nobody's way.
    fs::write(others.join("causeway_west_gw1"), rule("10.0.0.0/8")).unwrap();
    fs::write(others.join("kube-proxy"), rule("127.64.0.0/10")).unwrap();
    let (home, bindings) = home(config(folder).1);
    home.egress.start_redirect(&bindings).await.unwrap();
    assert!(table(folder).contains("127.64.0.0/10"));
}
