//! Gateways that have their identity from the SPIFFE Workload API, over real processes. The agents are stand-ins that were
//! written for these tests (`causeway_tests::workload_api`), not SPIRE.

use std::{fs, path::Path, process::Command};

use causeway_proto::workload::{X509svid, X509svidResponse};
use causeway_tests::{
    authority::Wish,
    ca::causeway,
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance},
    process::{Process, program},
    talk::{Client, say},
    wait::until_true,
    workload_api::{Agent, Says, svid, svid_of},
};
use rustix::process::Signal;
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject};

const RELOADS: &str = "causeway_identity_reloads_total";

/// East calls orders, which runs in west. East has its identity from an agent that is not started yet.
async fn prepare(arguments: &[&str]) -> (Federation, Instance, Agent) {
    let west = Instance::start("west", Behaviour::Name).await.unwrap();
    let mut plan = Plan::new().zone("east").zone("west");
    plan = plan.instance("orders", west.address(), "{}");
    plan = plan.service("orders", "port: 9000, protocol: tcp");
    for argument in arguments {
        plan = plan.argument(argument);
    }
    let mut federation = plan.prepare().await.unwrap();
    let agent = agent_for(&mut federation, "east");
    (federation, west, agent)
}

/// An agent of a zone's host; there are no files any more for its gateway.
fn agent_for(federation: &mut Federation, zone: &str) -> Agent {
    let agent = Agent::new(&federation.folder().join(format!("{zone}-agent.sock")));
    let zone = federation.zone_mut(zone);
    fs::remove_dir_all(&zone.identity).unwrap();
    zone.workload_api = Some(agent.address());
    agent
}

async fn begin(federation: &mut Federation) {
    for zone in ["east", "west"] {
        federation.start_zone(zone).unwrap();
    }
    for zone in ["east", "west"] {
        federation.ready(zone).await;
    }
    federation.wait_export("east", "west", "orders").await;
}

/// Tells whether a file below `folder` holds one of `secrets`, and which.
fn holder(folder: &Path, secrets: &[Vec<u8>]) -> Option<String> {
    fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holder(&path, secrets);
        }
        // What cannot be read is a socket.
        let bytes = fs::read(&path).ok()?;
        let found = secrets
            .iter()
            .any(|secret| bytes.windows(secret.len()).any(|window| window == secret));
        found.then(|| path.display().to_string())
    })
}

/// Ways in which the secret part of a P-256 key in PKCS #8 might be written.
fn writings(svid: &X509svid) -> Vec<Vec<u8>> {
    let secret = &svid.x509_svid_key[36..68];
    let decimal: Vec<String> = secret.iter().map(u8::to_string).collect();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        secret.to_vec(),
        decimal.join(", ").into_bytes(),
        hex.clone().into_bytes(),
        hex.to_uppercase().into_bytes(),
    ]
}

#[tokio::test]
async fn two_gateways_live_on_what_their_agents_say_and_no_connection_is_lost_nor_a_key_written_down() {
    let (mut federation, _orders, mut east_agent) = prepare(&["--log-level=trace"]).await;
    let mut west_agent = agent_for(&mut federation, "west");
    let authority = |federation: &Federation, zone| svid(federation.authority(), zone).unwrap();
    let mut keys = Vec::new();
    for (agent, zone) in [(&mut east_agent, "east"), (&mut west_agent, "west")] {
        let svid = authority(&federation, zone);
        keys.extend(writings(&svid));
        agent.give([svid]);
        agent.start().unwrap();
    }
    begin(&mut federation).await;
    let orders = federation.service_address("east", "orders", 9000).await;
    let mut lasting = Client::connect(orders).await.unwrap();
    assert_eq!(lasting.say("before").await.unwrap(), "west before");

    for (agent, zone) in [(&east_agent, "east"), (&west_agent, "west")] {
        let svid = authority(&federation, zone);
        keys.extend(writings(&svid));
        agent.give([svid]);
        let zone = federation.zone(zone);
        zone.wait_metric(RELOADS, &[("result", "ok")], 1.0).await;
    }
    assert_eq!(lasting.say("after").await.unwrap(), "west after");
    assert_eq!(say(orders, "anew").await.unwrap(), "west anew");

    let east = federation.zone("east");
    let mut bad = authority(&federation, "east");
    bad.x509_svid_key = authority(&federation, "east").x509_svid_key;
    keys.extend(writings(&bad));
    east_agent.give([bad]);
    east.wait_metric(RELOADS, &[("result", "failed")], 1.0).await;
    east.wait_log(&["ERROR", "is refused", "the key in the SVID of", "does not belong"])
        .await;
    let page = http::get(east.admin, "/readyz?verbose").await.unwrap();
    assert_eq!(page.status, 200);
    assert!(
        page.body.contains("the certificate before it stays in use"),
        "{}",
        page.body
    );
    assert_eq!(lasting.say("still").await.unwrap(), "west still");
    assert_eq!(say(orders, "also anew").await.unwrap(), "west also anew");
    east_agent.give([authority(&federation, "east")]);
    until_true("all is well again", PATIENCE, async || {
        let page = http::get(east.admin, "/readyz?verbose").await;
        page.is_ok_and(|page| page.body.contains("comes from the Workload API at unix://"))
    })
    .await;
    assert_eq!(lasting.say("to the end").await.unwrap(), "west to the end");
    assert!(east.log().contains("TRACE"), "everything is logged");
    assert_eq!(holder(federation.folder(), &keys), None, "a key is on disk");
}

#[tokio::test]
async fn an_agent_is_waited_for_and_the_identity_outlives_it_until_it_is_back() {
    let (mut federation, _orders, mut agent) = prepare(&[]).await;
    // West has files of the same CA.
    for zone in ["east", "west"] {
        federation.start_zone(zone).unwrap();
    }
    let east = federation.zone("east");
    east.wait_log(&["WARN", "waiting for an identity", "cannot connect to its socket"])
        .await;
    agent.start().unwrap();
    east.wait_log(&[
        "WARN",
        "it has no identity for this process",
        "spire-server entry create",
    ])
    .await;
    agent.give([svid(federation.authority(), "west").unwrap()]);
    east.wait_log(&["ERROR", "that can be used", "zone/west/gateway/gw1"])
        .await;
    agent.give([svid(federation.authority(), "east").unwrap()]);
    for zone in ["east", "west"] {
        federation.ready(zone).await;
    }
    federation.wait_export("east", "west", "orders").await;
    let orders = federation.service_address("east", "orders", 9000).await;
    assert_eq!(say(orders, "hello").await.unwrap(), "west hello");

    agent.die().unwrap();
    let works_on = "cannot be asked; the certificate in use works on: cannot connect to its socket";
    east.wait_log(&["WARN", works_on]).await;
    let check = causeway(&["check", "--admin", &east.admin.to_string()]).unwrap();
    let said = String::from_utf8(check.stdout).unwrap();
    assert_eq!(check.status.code(), Some(0), "a warning is no failure: {said}");
    assert!(
        said.contains("cannot be asked for") && said.contains("is the agent running"),
        "{said}"
    );
    assert_eq!(say(orders, "still").await.unwrap(), "west still");
    agent.give([svid(federation.authority(), "east").unwrap()]);
    agent.start().unwrap();
    east.wait_metric(RELOADS, &[("result", "ok")], 1.0).await;
    east.wait_log(&["INFO", "the SPIFFE Workload API answers again"])
        .await;
    assert_eq!(say(orders, "again").await.unwrap(), "west again");
}

#[tokio::test]
async fn what_a_revocation_list_of_the_agent_names_is_cut_off() {
    let (mut federation, _orders, mut agent) = prepare(&[]).await;
    let authority = federation.authority();
    let (own, wish) = (svid(authority, "east").unwrap(), authority.wish("west", "gw1"));
    let revocable = authority.sign(&Wish {
        serial: Some(77),
        ..wish.clone()
    });
    let list = authority.revocations(77).unwrap();
    let list = CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap();
    let mut west_agent = Agent::new(&federation.folder().join("west-agent.sock"));
    west_agent.give([svid_of(authority, &wish.uris[0], &revocable.unwrap()).unwrap()]);
    west_agent.start().unwrap();
    agent.give([own.clone()]);
    agent.start().unwrap();
    federation.zone_mut("west").workload_api = Some(west_agent.address());
    begin(&mut federation).await;
    let answer = X509svidResponse {
        svids: vec![own],
        crl: vec![list.to_vec()],
        ..X509svidResponse::default()
    };
    agent.say(Says::Answer(Box::new(answer)));
    let east = federation.zone("east");
    east.wait_metric("causeway_tunnel_refused_total", &[("reason", "revoked")], 1.0)
        .await;
    until_true("the tunnel is gone", PATIENCE, async || {
        let page = http::get(east.admin, "/v1/tunnels").await;
        page.is_ok_and(|page| !page.body.contains("\"west\""))
    })
    .await;
    west_agent.give([svid(federation.authority(), "west").unwrap()]);
    east.wait_tunnel("west").await;
}

#[tokio::test]
async fn a_signal_ends_the_wait_for_an_identity() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix://{}", folder.path().join("nobody.sock").display());
    let gateway = ["gateway", "--topology", "none.yaml", "--data", "none"];
    let zone_sync = ["zone-sync", "--etcd", "http://127.0.0.1:1"];
    for command in [&gateway[..], &zone_sync[..]] {
        let mut waiting = Command::new(program().unwrap());
        waiting.args(command);
        waiting.args(["--zone", "east", "--spiffe-endpoint-socket", &address]);
        let log = folder.path().join(command[0]);
        let mut process = Process::start(command[0], &mut waiting, &log).unwrap();
        until_true("it says what it waits for", PATIENCE, async || {
            process.log().contains("waiting for an identity")
        })
        .await;
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.wait(PATIENCE).await.code(), Some(0), "{}", process.log());
    }
}

/// Arguments, a variable, the exit code, and what is said.
type Start<'a> = (&'a [&'a str], Option<(&'a str, &'a str)>, i32, &'a str);

#[tokio::test]
async fn the_source_of_the_identity_is_chosen_by_flags_and_never_by_the_standard_variable_alone() {
    let folder = tempfile::tempdir().unwrap();
    let standard = "SPIFFE_ENDPOINT_SOCKET";
    let (somewhere, flag) = (
        (standard, "unix:///nowhere/agent.sock"),
        "--spiffe-endpoint-socket",
    );
    let neither = "<--identity <FOLDER>|--spiffe-endpoint-socket [<ADDR>]>";
    let cases: [Start<'_>; 8] = [
        (&[], None, 64, neither),
        (&[], Some(somewhere), 64, neither),
        (
            &["--identity", "nowhere"],
            Some(somewhere),
            65,
            "cannot use the identity in nowhere",
        ),
        (&["--identity", "x", flag], None, 64, "cannot be used with"),
        (&[flag], None, 64, "SPIFFE_ENDPOINT_SOCKET, which is not set"),
        (
            &[flag],
            Some((standard, "tcp://127.0.0.1:1")),
            64,
            "give unix:///PATH",
        ),
        (&[flag, "/run/agent.sock"], None, 64, "give unix:///PATH"),
        (
            &[],
            Some(("CAUSEWAY_SPIFFE_ENDPOINT_SOCKET", "agent")),
            64,
            "give unix:///PATH",
        ),
    ];
    for (index, (arguments, variable, code, said)) in cases.into_iter().enumerate() {
        let mut command = Command::new(program().unwrap());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CAUSEWAY_")) {
            command.env_remove(name);
        }
        command.env_remove(standard).envs(variable);
        command.args([
            "gateway",
            "--zone",
            "east",
            "--topology",
            "none.yaml",
            "--data",
            "none",
        ]);
        let log = folder.path().join(index.to_string());
        let mut process = Process::start("gateway", command.args(arguments), &log).unwrap();
        let ended = process.wait(PATIENCE).await;
        let case = format!("{arguments:?} {variable:?}: {}", process.log());
        assert_eq!(ended.code(), Some(code), "{case}");
        assert!(process.log().contains(said), "{case}");
    }
}
