//! The admin API where others than this host reach it: tokens, certificates, scopes, and what is written down.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_api::{
    admin::{Admin, AdminAddress, AdminConfig, AdminError},
    audit::Audit,
    credentials::{Gate, Grant, Guard, TokenFile},
};
use causeway_federation::name::GatewayId;
use causeway_host::{own_sockets::OwnSockets, tasks::Tasks};
use causeway_identity::{ApiClient, IdentityFolder, RefreshOutcome, ca};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::{
    commands::{err, out, run},
    federation::{ask_over_tcp, serve, state},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longer than any wait here takes when all is well.
const PATIENCE: Duration = Duration::from_secs(30);
const GW2: &str = "spiffe://acme.internal/zone/east/gateway/gw2";

/// A gateway of zone east whose admin API is open to the network.
struct Bench {
    folder: TempDir,
    port: u16,
    identity: IdentityFolder,
    _admin: Admin,
    stop: CancellationToken,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bench {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("ca");
        ca::init(&authority, "acme.internal").unwrap();
        for (name, zone, gateway) in [
            ("gateway", "east", "gw1"),
            ("operator", "east", "gw2"),
            ("west", "west", "gw1"),
        ] {
            let id = GatewayId::new(zone.parse().unwrap(), gateway.parse().unwrap());
            ca::issue(&authority, &id, &folder.path().join(name), DAY).unwrap();
        }
        let bench = |path: &str| folder.path().join(path);
        for (name, scope) in [("grafana", "read"), ("registrar", "register"), ("ci", "write")] {
            token(&bench("tokens.json"), name, scope, &bench(name)).await;
        }
        let tokens = Arc::new(TokenFile::open(&bench("tokens.json")).unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(tokens.clone().watch(stop.clone()));
        let grant: Grant = format!("write={GW2}").parse().unwrap();
        let guard = Guard {
            tokens: Some(tokens),
            grants: vec![grant],
        };
        let mut state = state();
        let metrics = Arc::new(causeway_api::ApiMetrics::default());
        let audit = Audit::file(&bench("audit.log"), &metrics, &Tasks::default()).unwrap();
        state.gate = Gate::new(Some(Arc::new(guard)), audit, metrics);
        let identity = IdentityFolder::open(&bench("gateway")).unwrap();
        state.identity = identity.identity();
        let config = AdminConfig {
            listen: AdminAddress::Tcp("0.0.0.0:0".parse().unwrap()),
            insecure: false,
        };
        let admin = Admin::start(config, state).await.unwrap();
        let AdminAddress::Tcp(address) = *admin.local_addr() else {
            panic!("not on TCP");
        };
        Self {
            folder,
            port: address.port(),
            identity,
            _admin: admin,
            stop,
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs a command against it; `credentials` are further arguments.
    async fn command(&self, command: &[&str], credentials: &[&str]) -> std::process::Output {
        let url = format!("https://127.0.0.1:{}", self.port);
        let mut all = command.to_vec();
        all.extend(["--admin", &url]);
        all.extend(credentials);
        run(None, &all).await
    }

    /// As [`Bench::command`], with the token of this name and the right roots and zone.
    async fn with_token(&self, command: &[&str], token: &str) -> std::process::Output {
        let (token, roots) = (self.path(token), self.path("gateway/ca.pem"));
        let credentials = [
            "--admin-token-file",
            &token,
            "--admin-ca",
            &roots,
            "--admin-zone",
            "east",
        ];
        self.command(command, &credentials).await
    }

    /// Waits until the audit log has this many lines.
    async fn audited(&self, lines: usize) -> Vec<Value> {
        let path = PathBuf::from(self.path("audit.log"));
        let read = || fs::read_to_string(&path).unwrap();
        until("the audit log", || read().lines().count() >= lines).await;
        read()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// Issues a token with the program and writes what it printed to `out_file`.
async fn token(file: &Path, name: &str, scope: &str, out_file: &Path) {
    let file = file.display().to_string();
    let args = [
        "admin-token",
        "issue",
        "--file",
        &file,
        "--name",
        name,
        "--scope",
        scope,
    ];
    let output = run(None, &args).await;
    assert!(output.status.success(), "{}", err(&output));
    let printed = out(&output);
    assert!(
        printed.starts_with(&format!("cwa_{name}_")) && printed.lines().count() == 1,
        "{printed}"
    );
    fs::write(out_file, printed).unwrap();
}

const REGISTER: [&str; 4] = ["register", "orders", "--address", "10.1.0.12:8080"];

#[tokio::test]
async fn a_token_opens_what_its_scope_says() {
    let bench = Bench::start().await;
    for (token, may_register) in [("grafana", false), ("registrar", true), ("ci", true)] {
        let seen = bench.with_token(&["get", "zones"], token).await;
        assert!(seen.status.success(), "{token}: {}", err(&seen));
        let registered = bench.with_token(&REGISTER, token).await;
        assert_eq!(
            registered.status.success(),
            may_register,
            "{token}: {}",
            err(&registered)
        );
    }
    let refused = bench.with_token(&REGISTER, "grafana").await;
    let told = err(&refused);
    assert!(
        told.contains("token grafana may read and this needs register"),
        "{told}"
    );
    let bad = bench.folder.path().join("bad");
    fs::write(&bad, "cwa_ci_0000\n").unwrap();
    let refused = bench.with_token(&["get", "zones"], "bad").await;
    let told = err(&refused);
    assert!(told.contains("the bearer token is not known\nhint: "), "{told}");
}

#[tokio::test]
async fn nobody_gets_in_without_credentials_or_in_the_clear() {
    let bench = Bench::start().await;
    let roots = bench.path("gateway/ca.pem");
    let right = ["--admin-ca", &roots, "--admin-zone", "east"];
    let refused = bench.command(&["get", "zones"], &right).await;
    assert!(
        err(&refused).contains("wants a bearer token or a client certificate"),
        "{}",
        err(&refused)
    );
    let address = format!("127.0.0.1:{}", bench.port);
    let plain = run(None, &["get", "zones", "--admin", &address]).await;
    assert!(!plain.status.success() && out(&plain).is_empty());
    assert!(err(&plain).contains("name it https://"), "{}", err(&plain));
    let whom = bench.command(&["get", "zones"], &[]).await;
    assert_eq!(whom.status.code(), Some(64), "{}", err(&whom));
    assert!(err(&whom).contains("--admin-ca"), "{}", err(&whom));
}

#[tokio::test]
async fn a_certificate_opens_what_is_granted_to_its_holder() {
    let bench = Bench::start().await;
    let (operator, west) = (bench.path("operator"), bench.path("west"));
    let done = bench.command(&REGISTER, &["--admin-identity", &operator]).await;
    assert!(done.status.success(), "{}", err(&done));
    let credentials = ["--admin-identity", &west, "--admin-zone", "east"];
    let refused = bench.command(&["get", "zones"], &credentials).await;
    let told = err(&refused);
    assert!(
        told.contains("nothing is granted to spiffe://acme.internal/zone/west/gateway/gw1"),
        "{told}"
    );
    // Who acts for the operator of another zone does not even show its token to this one.
    let other = bench
        .command(&["get", "zones"], &["--admin-identity", &west])
        .await;
    let told = err(&other);
    assert!(told.contains("not a gateway of zone west"), "{told}");
}

#[tokio::test]
async fn a_revoked_token_is_refused_as_soon_as_the_file_says_so() {
    let bench = Bench::start().await;
    let file = bench.path("tokens.json");
    let args = ["admin-token", "revoke", "--file", &file, "--name", "ci"];
    assert!(run(None, &args).await.status.success());
    let listed = out(&run(None, &["admin-token", "list", "--file", &file]).await);
    assert!(listed.contains("grafana") && !listed.contains("ci "), "{listed}");
    let begun = std::time::Instant::now();
    while bench.with_token(&["get", "zones"], "ci").await.status.success() {
        assert!(begun.elapsed() < PATIENCE, "a revoked token still works");
    }
    assert!(
        bench
            .with_token(&["get", "zones"], "grafana")
            .await
            .status
            .success()
    );
}

#[tokio::test]
async fn the_audit_log_says_who_did_what_and_holds_no_secret() {
    let bench = Bench::start().await;
    let operator = bench.path("operator");
    assert!(bench.with_token(&REGISTER, "ci").await.status.success());
    assert!(!bench.with_token(&REGISTER, "grafana").await.status.success());
    let gone = ["deregister", "orders", "--id", "nobody"];
    let missing = bench.command(&gone, &["--admin-identity", &operator]).await;
    assert!(!missing.status.success());
    assert!(bench.with_token(&["get", "zones"], "ci").await.status.success());
    let lines = bench.audited(5).await;
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            format!(
                "{} {} {} {} {} {}",
                line["who"], line["method"], line["object"], line["result"], line["status"], line["error"]
            )
            .replace('"', "")
        })
        .collect();
    assert_eq!(
        told,
        [
            "token ci PUT orders/10.1.0.12%3A8080 asked null null".to_owned(),
            "token ci PUT orders/10.1.0.12%3A8080 done 200 null".to_owned(),
            "token grafana PUT orders refused 403 scope".to_owned(),
            format!("{GW2} DELETE orders/nobody asked null null"),
            format!("{GW2} DELETE orders/nobody refused 404 not_found"),
        ]
    );
    assert!(
        lines
            .iter()
            .all(|line| line["from"].as_str().unwrap().starts_with("127.0.0.1:"))
    );
    let text = fs::read_to_string(bench.path("audit.log")).unwrap();
    for token in ["grafana", "ci"] {
        let secret = fs::read_to_string(bench.path(token)).unwrap();
        assert!(!text.contains(secret.trim()), "a token is in the audit log");
    }
}

#[tokio::test]
async fn refused_attempts_are_written_down_once_and_then_counted() {
    let bench = Bench::start().await;
    for _ in 0..5 {
        assert!(!bench.with_token(&REGISTER, "grafana").await.status.success());
    }
    assert!(bench.with_token(&REGISTER, "ci").await.status.success());
    let lines = bench.audited(3).await;
    let results: Vec<_> = lines.iter().map(|line| line["result"].clone()).collect();
    assert_eq!(results, ["refused", "asked", "done"]);
}

#[tokio::test]
async fn without_any_way_to_prove_oneself_an_open_address_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca");
    ca::init(&authority, "acme.internal").unwrap();
    let id = GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap());
    ca::issue(&authority, &id, &folder.path().join("id"), DAY).unwrap();
    let mut state = state();
    state.identity = IdentityFolder::open(&folder.path().join("id"))
        .unwrap()
        .identity();
    let config = AdminConfig {
        listen: AdminAddress::Tcp("0.0.0.0:0".parse().unwrap()),
        insecure: false,
    };
    let error = Admin::start(config, state).await.unwrap_err();
    assert!(matches!(error, AdminError::NotLoopback(_)));
    assert!(error.hint().contains("--admin-tokens") && error.hint().contains("--admin-allow"));
}

#[tokio::test]
async fn on_this_host_the_socket_takes_changes_and_loopback_those_with_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let (tokens, shown) = (folder.path().join("tokens.json"), folder.path().join("ci"));
    token(&tokens, "ci", "register", &shown).await;
    let guard = Guard {
        tokens: Some(Arc::new(TokenFile::open(&tokens).unwrap())),
        grants: Vec::new(),
    };
    let mut state = state();
    let metrics = Arc::new(causeway_api::ApiMetrics::default());
    let audit = Audit::file(&log, &metrics, &Tasks::default()).unwrap();
    state.gate = Gate::new(Some(Arc::new(guard)), audit, metrics);
    let admin = serve(state).await;

    // Commands find the socket by themselves, unless they have a token to show.
    let registered = run(Some(&admin), &REGISTER).await;
    assert!(registered.status.success(), "{}", err(&registered));
    let shown = shown.display().to_string();
    let with_token = [&REGISTER[..], &["--admin-token-file", &shown]].concat();
    let registered = run(Some(&admin), &with_token).await;
    assert!(registered.status.success(), "{}", err(&registered));
    // Whoever comes over loopback with nothing may read.
    let path = "PUT /v1/instances/orders/x";
    let body = r#"{"address":"10.1.0.1:80"}"#;
    let (status, answer) = ask_over_tcp(&admin, path, body).await;
    assert_eq!(status, 401, "{answer}");
    assert!(
        answer.contains("nothing is changed over loopback") && answer.contains("admin.sock"),
        "{answer}"
    );
    assert_eq!(ask_over_tcp(&admin, "POST /v1/zones", "").await.0, 401);
    assert_eq!(ask_over_tcp(&admin, "GET /v1/zones", "").await.0, 200);

    let read = || fs::read_to_string(&log).unwrap();
    until("a line for the refusals, and two for each change", || {
        read().lines().count() == 5
    })
    .await;
    let told = read();
    let told = told
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<(String, String)> = told
        .map(|line| {
            let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            (word("who"), word("result"))
        })
        .collect();
    let uid = rustix::process::getuid().as_raw();
    let line = |who: &str, result: &str| (who.to_owned(), result.to_owned());
    let local = format!("local uid {uid}");
    assert_eq!(
        told,
        [
            line(&local, "asked"),
            line(&local, "done"),
            line("token ci", "asked"),
            line("token ci", "done"),
            // The second of a kind is held back.
            line("loopback", "refused"),
        ]
    );
    // Who needs no token to read is refused with a wrong one all the same.
    let wrong = folder.path().join("wrong");
    fs::write(&wrong, "cwa_wrong").unwrap();
    let wrong = wrong.display().to_string();
    let refused = run(Some(&admin), &["get", "zones", "--admin-token-file", &wrong]).await;
    assert!(!refused.status.success(), "{refused:?}");
    assert!(
        err(&refused).contains("the bearer token is not known"),
        "{}",
        err(&refused)
    );
    let known = run(Some(&admin), &["get", "zones", "--admin-token-file", &shown]).await;
    assert!(known.status.success(), "{}", err(&known));
}

#[tokio::test]
async fn a_connection_that_the_gateway_opened_itself_may_not_even_read() {
    let own = OwnSockets::default();
    let mut state = state();
    state.gate = state.gate.clone().knowing(own.clone());
    let admin = serve(state).await;
    let AdminAddress::Tcp(address) = *admin.local_addr() else {
        panic!("not on TCP");
    };
    let read = async |entered: bool| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let own = entered.then(|| own.enter(&stream, 1).unwrap());
        let request = b"GET /v1/topology HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        drop(own);
        answer
    };
    assert!(read(false).await.starts_with("HTTP/1.1 200"));
    let refused = read(true).await;
    assert!(
        refused.starts_with("HTTP/1.1 401") && refused.contains("has opened this connection itself"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_command_that_cannot_open_the_socket_says_which_and_what_else_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("nobody-listens.sock");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let page = format!(
        r#"{{"version":1,"kind":"socket","zone":"east","generation":1,"items":[{{"path":"{}"}}]}}"#,
        told.display()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
            let _ = stream.write_all((head + &page).as_bytes()).await;
        }
    });
    let args = [&REGISTER[..], &["--admin", &address]].concat();
    let refused = run(None, &args).await;
    assert!(!refused.status.success());
    let said = err(&refused);
    assert!(
        said.contains("nobody-listens.sock") && said.contains("--admin-token-file"),
        "{said}"
    );
}

#[tokio::test]
async fn a_connection_ends_when_its_certificate_is_not_believed_any_more() {
    let bench = Bench::start().await;
    let client = ApiClient::load(Path::new(&bench.path("operator"))).unwrap();
    let connector = TlsConnector::from(Arc::new(client.tls().unwrap()));
    let stream = TcpStream::connect(("127.0.0.1", bench.port)).await.unwrap();
    let name = ServerName::try_from("any.invalid").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let request = b"GET /v1/zones HTTP/1.1\r\nHost: any.invalid\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    // The gateway moves to another CA, and the operator does not.
    let fresh = bench.folder.path().join("ca2");
    ca::init(&fresh, "acme.internal").unwrap();
    let id = GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap());
    ca::issue(&fresh, &id, Path::new(&bench.path("gateway")), DAY).unwrap();
    assert_eq!(bench.identity.reload(SystemTime::now()), RefreshOutcome::Taken);
    let mut rest = Vec::new();
    // An idle connection is closed after 30 s anyway.
    let soon = Duration::from_secs(15);
    let ended = tokio::time::timeout(soon, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection goes on");
}
