//! Secrets stay where they belong: a search for keys, tokens and the passphrase in everything that processes say.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use causeway_tests::{
    ca::{CaServer, causeway, text},
    federation::{Federation, Plan, TRUST_DOMAIN},
    http,
    process::program,
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};

const PASSPHRASE: &str = "a passphrase that nobody else would think of";
/// Certificates are renewed during the test, so that the keys of renewals are searched for as well.
const LIFETIME: Duration = Duration::from_secs(20);
/// Characters of a secret that must not be found together.
const PIECE: usize = 20;

/// Everything that processes said, and what none of it may hold.
#[derive(Default)]
struct Search {
    said: String,
    secrets: Vec<(String, String)>,
}

impl Search {
    fn said(&mut self, whose: &str, text: &str) {
        writeln!(self.said, "---- {whose}\n{text}").unwrap();
    }

    fn output(&mut self, whose: &str, output: &Output) {
        self.said(whose, &String::from_utf8_lossy(&output.stdout));
        self.said(whose, &String::from_utf8_lossy(&output.stderr));
    }

    fn secret(&mut self, what: &str, text: &str) {
        assert!(text.len() >= PIECE, "{what} is too short to be searched for");
        // Wherever it begins: a part of a token or of a key is as bad as the whole.
        let text: Vec<char> = text.chars().collect();
        for piece in text.chunks(PIECE).filter(|piece| piece.len() == PIECE) {
            self.secrets.push((what.to_owned(), piece.iter().collect()));
        }
    }

    /// A join token: the text, and in hexadecimal the secret in it.
    fn token(&mut self, token: &str) {
        let body = &token["cwjoin".len()..];
        // What comes before says which token it is, and is no secret.
        self.secret("a token", &body[15..]);
        self.secret("a token's secret", &hex(&base32(body)[9..41]));
    }

    /// A private key, in base 64, and its secret number in hexadecimal. What is before it says only which kind of key it is,
    /// and what is behind it is the public key.
    fn key(&mut self, what: &str, path: &Path) {
        let text = fs::read_to_string(path).unwrap();
        if let Ok(key) = PrivateKeyDer::from_pem_slice(text.as_bytes()) {
            self.secret(what, &hex(&key.secret_der()[36..68]));
        }
        let lines = text.lines().filter(|line| !line.starts_with("-----"));
        for line in lines.skip(1).filter(|line| line.len() >= PIECE) {
            self.secret(what, line);
        }
    }

    fn assert_nothing_found(&self) {
        assert!(!self.secrets.is_empty() && self.said.len() > 10_000);
        for (what, piece) in &self.secrets {
            let line = self.said.lines().find(|line| line.contains(piece));
            assert!(line.is_none(), "a piece of {what} was said: {line:?}");
        }
        for mark in ["PRIVATE KEY-----", "Secret(["] {
            assert!(!self.said.contains(mark), "{mark} was said");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that a token's text stands for (RFC 4648 §6, lower case, without padding).
fn base32(text: &str) -> Vec<u8> {
    let digits = text.bytes().map(|digit| match digit {
        b'a'..=b'z' => digit - b'a',
        _ => digit - b'2' + 26,
    });
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for digit in digits {
        (bits, count) = ((bits << 5 | u32::from(digit)) & 0xffff, count + 5);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    bytes
}

/// A CA with an encrypted key that logs everything, and a federation that has joined it and logs everything.
async fn talkative(search: &mut Search) -> (CaServer, Federation) {
    let mut ca = CaServer::start(TRUST_DOMAIN, LIFETIME).await.unwrap();
    ca.stop().await.unwrap();
    let folder = ca.ca();
    fs::remove_dir_all(&folder).unwrap();
    let file = folder.with_file_name("passphrase");
    fs::write(&file, format!("{PASSPHRASE}\n")).unwrap();
    let file = text(&file).unwrap().to_owned();
    let folder = text(&folder).unwrap().to_owned();
    let init = [
        "ca",
        "init",
        &folder,
        "--trust-domain",
        TRUST_DOMAIN,
        "--passphrase-file",
        &file,
    ];
    search.output("ca init", &causeway(&init).unwrap());
    ca.resume(&["--passphrase-file", &file, "--log-level", "trace"])
        .await
        .unwrap();
    let issue = [
        "ca",
        "issue",
        "--ca",
        &folder,
        "--zone",
        "east",
        "--gateway",
        "gw9",
        "--out",
        &folder,
    ];
    let refused = causeway(&issue).unwrap();
    assert_eq!(refused.status.code(), Some(65), "without the passphrase");
    search.output("ca issue", &refused);

    let plan = Plan::new()
        .zone("east")
        .zone("west")
        .service("orders", "port: 9000, protocol: tcp");
    let plan = plan.argument("--log-level=trace").argument("--access-log=json");
    let federation = plan.prepare().await.unwrap();
    for zone in federation.names() {
        let identity = &federation.zone(&zone).identity;
        fs::remove_dir_all(identity).unwrap();
        let token = ca.token(&zone, &[]).unwrap();
        search.token(&token);
        let mut join = Command::new(program().unwrap());
        join.args([
            "join",
            &format!("{token}@{}", ca.address),
            "--gateway",
            "gw1",
            "--out",
        ]);
        let joined = join.arg(identity).env("RUST_LOG", "trace").output().unwrap();
        assert!(joined.status.success(), "{joined:?}");
        search.output("join", &joined);
        search.output("join", &ca.join(&token, &identity.join("again")).unwrap());
        search.output("join", &ca.join(&token[..token.len() - 9], identity).unwrap());
    }
    (ca, federation)
}

#[tokio::test]
async fn no_key_token_or_passphrase_is_ever_said() {
    let mut search = Search::default();
    search.secret("the passphrase", PASSPHRASE);
    let (ca, mut federation) = talkative(&mut search).await;
    search.key("the CA's key", &ca.ca().join("ca-key.pem"));
    for zone in federation.names() {
        search.key(
            "a gateway's key",
            &federation.zone(&zone).identity.join("key.pem"),
        );
    }
    for zone in federation.names() {
        federation.start_zone(&zone).unwrap();
    }
    for zone in federation.names() {
        federation.ready(&zone).await;
        let renewed = [("result", "ok")];
        let gateway = federation.zone(&zone);
        gateway
            .wait_metric("causeway_identity_renewals_total", &renewed, 1.0)
            .await;
        search.key("a renewed key", &gateway.identity.join("key.pem"));
    }
    for zone in federation.names() {
        let gateway = federation.zone(&zone);
        let admin = gateway.admin.to_string();
        for what in [
            "zones",
            "services",
            "instances",
            "tunnels",
            "exports",
            "catalog",
            "topology",
        ] {
            let got = causeway(&["get", what, "-o", "json", "--admin", &admin]).unwrap();
            search.output(what, &got);
        }
        search.output("check", &causeway(&["check", "--admin", &admin]).unwrap());
        for page in ["/metrics", "/readyz?verbose"] {
            search.said(page, &http::get(gateway.admin, page).await.unwrap().body);
        }
        search.said("gateway", &gateway.log());
    }
    let tokens = causeway(&["token", "list", "--ca", text(&ca.ca()).unwrap()]).unwrap();
    search.output("token list", &tokens);
    search.said("CA", &ca.log());
    search.said(
        "issued",
        &fs::read_to_string(ca.ca().join("issued.jsonl")).unwrap(),
    );
    assert!(
        search.said.contains("TRACE"),
        "the search is worth nothing without the talkative logs"
    );
    search.assert_nothing_found();
}
