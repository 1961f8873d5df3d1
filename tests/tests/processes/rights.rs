//! Rights over single services, with real gateways: a team steers its own service with a token, by shift, block and registration, and nothing
//! else of the federation.

use std::{fs, net::SocketAddr, path::PathBuf};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    http,
    process::run,
    wait::until_true,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

struct Scene {
    federation: Federation,
    folder: tempfile::TempDir,
    audit: PathBuf,
}

impl Scene {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (tokens, audit) = (folder.path().join("tokens.json"), folder.path().join("audit.log"));
        for (name, scope) in [
            ("operator", "write"),
            ("team", "write:orders"),
            ("agent", "register:orders"),
            ("viewer", "read"),
        ] {
            let issued = run([
                "admin-token",
                "issue",
                "--file",
                &tokens.display().to_string(),
                "--name",
                name,
                "--scope",
                scope,
            ]);
            fs::write(folder.path().join(name), issued.unwrap()).unwrap();
        }
        let plan = Plan::new().zone("east");
        let plan = plan
            .instance("orders", "127.0.0.1:9".parse().unwrap(), "{ version: v1 }")
            .instance("orders", "127.0.0.1:10".parse().unwrap(), "{ version: v2 }")
            .service("orders", "port: 9000, split: [{ tags: { version: v1 } }]")
            .service("ledger", "port: 9001")
            .argument("--admin-tokens")
            .argument(&tokens.display().to_string())
            .argument("--audit-log")
            .argument(&audit.display().to_string());
        let federation = plan.ruled_by_applied().start().await.unwrap();
        federation.ready("east").await;
        Self {
            federation,
            folder,
            audit,
        }
    }

    /// Runs a command with the token of this name.
    fn with(&self, token: &str, arguments: &[&str]) -> Result<String, String> {
        let admin = self.federation.zone("east").admin.to_string();
        let file = self.folder.path().join(token).display().to_string();
        let with = ["--admin", &admin, "--admin-token-file", &file];
        run(arguments.iter().chain(&with)).map_err(|error| format!("{error:#}"))
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    async fn in_force(&self) -> (u64, String) {
        let page = http::get(self.federation.zone("east").admin, "/v1/topology?text=true").await;
        let page: Value = serde_json::from_str(&page.unwrap().body).unwrap();
        let item = &page["items"][0];
        (
            item["generation"].as_u64().unwrap(),
            item["text"].as_str().unwrap().to_owned(),
        )
    }

    fn audited(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.audit).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

#[tokio::test]
async fn a_team_steers_its_own_service_and_nothing_else() {
    let scene = Scene::start().await;
    let (generation, before) = scene.in_force().await;

    // Its block, alone in a file: what else is in force stays as it stands.
    let block = "services:\n  orders:   # of the team\n    port: 9000\n    split:\n      - { tags: { version: v1 }, weight: 3 }\n      - { tags: { version: v2 }, weight: 1 }\n    allow: [ledger]\n";
    let file = scene.file("orders.yaml", block);
    let would = scene.with("team", &["apply", "-f", &file, "--dry-run"]).unwrap();
    assert!(
        would.contains("service orders: allow") && would.contains("nothing was applied"),
        "{would}"
    );
    scene.with("team", &["apply", "-f", &file]).unwrap();
    let (now, text) = scene.in_force().await;
    assert_eq!(now, generation + 1);
    assert!(text.contains("weight: 3 }") && text.contains("ledger"), "{text}");
    let zones = |text: &str| text.split("services:").next().unwrap().to_owned();
    assert_eq!(zones(&text), zones(&before));

    // The whole file, of which only its service differs.
    let whole = scene.file("whole.yaml", &text.replace("weight: 3", "weight: 7"));
    scene.with("team", &["apply", "-f", &whole]).unwrap();
    assert!(scene.in_force().await.1.contains("weight: 7"));

    // A shift of its own.
    let shift = ["--to", "version=v2", "--steps", "50,100", "--every", "1h"];
    scene
        .with("team", &[&["shift", "orders"], &shift[..]].concat())
        .unwrap();
    scene.with("team", &["shift", "abort", "orders"]).unwrap();

    everything_else_is_refused(&scene, &file).await;
    the_audit_log_names_what_was_asked(&scene).await;
    a_team_that_does_not_stop_is_stopped(&scene, &file);
}

#[tokio::test]
async fn generations_of_operators_outlive_what_a_team_may_make_in_a_minute() {
    let scene = Scene::start().await;
    for n in 1..=4 {
        let text = format!("# {n}\n{}", scene.in_force().await.1);
        let file = scene.file("operator.yaml", &text);
        scene.with("operator", &["apply", "-f", &file]).unwrap();
    }
    let shift = [
        "shift",
        "orders",
        "--to",
        "version=v2",
        "--steps",
        "50,100",
        "--every",
        "1h",
    ];
    // An apply asks twice, and twelve times is what there is in a minute.
    for weight in 1..=3 {
        let block = format!(
            "services: {{ orders: {{ port: 9000, split: [{{ tags: {{ version: v1 }}, weight: {weight} }}] }} }}"
        );
        let file = scene.file("orders.yaml", &block);
        scene.with("team", &["apply", "-f", &file]).unwrap();
        scene.with("team", &shift).unwrap();
        scene.with("team", &["shift", "abort", "orders"]).unwrap();
    }
    let page = http::get(scene.federation.zone("east").admin, "/v1/topology/history").await;
    let page: Value = serde_json::from_str(&page.unwrap().body).unwrap();
    let items = page["items"].as_array().unwrap().iter();
    let kept: Vec<u64> = items.filter_map(|item| item["generation"].as_u64()).collect();
    assert!(
        kept.contains(&1) && kept.contains(&4) && kept[0] == 13,
        "{kept:?}"
    );
    scene.with("operator", &["rollback", "--to", "1"]).unwrap();
}

/// Asks to follow what happens, and says with what status that was answered.
async fn follow(admin: SocketAddr, token: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let request = format!(
        "GET /v1/events/stream HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {}\r\n\r\n",
        token.trim()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    let reading = timeout(PATIENCE, stream.read_exact(&mut status)).await;
    reading.expect("an answer in time").unwrap();
    (stream, String::from_utf8_lossy(&status[9..]).into_owned())
}

#[tokio::test]
async fn one_caller_has_a_third_of_the_streams_of_events_and_gets_them_back() {
    let scene = Scene::start().await;
    let admin = scene.federation.zone("east").admin;
    let token = |name: &str| fs::read_to_string(scene.folder.path().join(name)).unwrap();
    let mut streams = Vec::new();
    for _ in 0..30 {
        streams.push(follow(admin, &token("viewer")).await);
    }
    let answered = |status: &str| streams.iter().filter(|(_, answer)| answer == status).count();
    assert_eq!((answered("200"), answered("429")), (21, 9));
    assert_eq!(follow(admin, &token("agent")).await.1, "200", "another caller");
    streams.clear();
    until_true("places are free again", PATIENCE, async || {
        follow(admin, &token("viewer")).await.1 == "200"
    })
    .await;
}

fn a_team_that_does_not_stop_is_stopped(scene: &Scene, file: &str) {
    let refused = (0..20).find_map(|_| scene.with("team", &["apply", "-f", file, "--dry-run"]).err());
    let refused = refused.expect("the team makes as many changes as it likes");
    assert!(refused.contains("more than 12 changes within 60 s"), "{refused}");
}

// `file` has the team's own block.
async fn everything_else_is_refused(scene: &Scene, file: &str) {
    let shift = ["--to", "version=v2", "--steps", "50,100", "--every", "1h"];
    let (generation, text) = scene.in_force().await;
    let other = scene.file("ledger.yaml", "services: { ledger: { port: 9001, early: true } }");
    let zone = scene.file(
        "zone.yaml",
        &text.replace(
            "trust_domain: test.internal",
            "tls: { require_post_quantum: true }\ntrust_domain: test.internal",
        ),
    );
    let port = scene.file("port.yaml", &text.replace("port: 9000", "port: 9100"));
    for (token, arguments, word) in [
        ("team", vec!["apply", "-f", &other], "this changes service ledger"),
        ("team", vec!["apply", "-f", &zone], "this changes tls"),
        (
            "team",
            vec!["apply", "-f", &port],
            "this changes ports of service orders",
        ),
        ("team", vec!["drain", "east"], "this changes zone east"),
        (
            "team",
            [&["shift", "ledger"], &shift[..]].concat(),
            "token team may write:orders and this needs write:ledger",
        ),
        (
            "team",
            vec!["register", "ledger", "--address", "127.0.0.1:11"],
            "this needs register:ledger",
        ),
        (
            "agent",
            vec!["apply", "-f", file],
            "token agent may register:orders and this needs write of some service",
        ),
        (
            "agent",
            [&["shift", "orders"], &shift[..]].concat(),
            "this needs write:orders",
        ),
        (
            "agent",
            vec!["deregister", "ledger", "--id", "a"],
            "this needs register:ledger",
        ),
        (
            "agent",
            vec!["deregister", "ledger", "--id", "a", "--id", "b"],
            "register:ledger",
        ),
        (
            "viewer",
            vec!["register", "orders", "--address", "127.0.0.1:11"],
            "this needs register:orders",
        ),
    ] {
        let refused = scene.with(token, &arguments).unwrap_err();
        assert!(refused.contains(word), "{arguments:?}: {refused}");
    }
    assert_eq!(scene.in_force().await, (generation, text));
    scene
        .with("agent", &["register", "orders", "--address", "127.0.0.1:11"])
        .unwrap();
}

async fn the_audit_log_names_what_was_asked(scene: &Scene) {
    let mut lines = Vec::new();
    until_true("the audit log has every attempt", PATIENCE, async || {
        lines = scene.audited();
        lines
            .iter()
            .any(|line| line["object"] == "orders/127.0.0.1%3A11" && line["result"] == "done")
    })
    .await;
    for (who, object, result) in [
        ("token team", "topology: orders", "done"),
        ("token team", "topology: orders", "refused"),
        ("token team", "topology: ledger", "refused"),
        ("token team", "ledger", "refused"),
    ] {
        let is = |line: &Value| line["who"] == who && line["object"] == object && line["result"] == result;
        assert!(
            lines.iter().any(is),
            "{who} {object} {result} is not in\n{lines:#?}"
        );
    }
}
