//! A gateway that says what it likes: no command has a terminal do anything by it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use serde_json::{Value, json};

use crate::commands::{causeway, err, out};

/// Characters that clear a screen, set a title, write over a line, hide what follows and turn it round, once in each of the ways that there are.
const EVIL: &str = "\u{1b}[2J\u{1b}]0;title\u{7}\rover\u{9b}8m\u{202e}\u{7f}";

/// Answers every question like this, with this status, for as long as the test runs.
fn answering(status: &'static str, body: &Value) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, body) = (listener.local_addr().unwrap(), body.to_string());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let body = body.clone();
            // A client that has gone needs no answer.
            thread::spawn(move || drop(answer(stream, status, &body)));
        }
    });
    address
}

fn answer(mut stream: TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let mut head = BufReader::new(stream.try_clone()?).lines();
    while head.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn told(admin: SocketAddr, arguments: &[&str]) -> (String, String) {
    let admin = admin.to_string();
    let output = causeway()
        .args(arguments)
        .args(["--admin", &admin])
        .output()
        .unwrap();
    (out(&output), err(&output))
}

/// Characters that act, and are neither the end of a line nor a tab.
fn acting(text: &str) -> Vec<char> {
    let acts = |c: &char| (c.is_control() && !"\n\t".contains(*c)) || *c == '\u{202e}';
    text.chars().filter(acts).collect()
}

fn envelope(kind: &str, item: &Value) -> Value {
    json!({ "version": 1, "kind": kind, "zone": EVIL, "generation": 1, "items": [item] })
}

#[test]
fn nothing_that_a_gateway_says_acts_on_a_terminal() {
    let check = json!({ "group": EVIL, "name": EVIL, "status": "fail", "message": EVIL, "hint": EVIL });
    let checks = answering("200 OK", &envelope("checks", &check));
    let refusal = answering(
        "400 Bad Request",
        &json!({ "error": EVIL, "hint": EVIL, "details": EVIL }),
    );
    let change = json!({ "kind": "added", "subject": EVIL, "before": null, "after": EVIL, "line": EVIL });
    let changes = json!({ "applied": false, "same": false, "generation": 1, "fingerprint": EVIL, "changes": [change], "warnings": EVIL });
    let changes = answering("200 OK", &envelope("changes", &changes));
    let file = tempfile::NamedTempFile::new().unwrap();
    let zone = "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: ['gw:1'] } }\n";
    std::fs::write(file.path(), zone).unwrap();
    let file = file.path().to_str().unwrap();
    for (admin, arguments) in [
        (checks, vec!["check"]),
        (checks, vec!["check", "-o", "json"]),
        (refusal, vec!["check"]),
        (refusal, vec!["get", "zones"]),
        (refusal, vec!["explain", "orders"]),
        (refusal, vec!["drain", "east"]),
        (changes, vec!["diff", "-f", file]),
    ] {
        let (out, err) = told(admin, &arguments);
        assert!(
            out.contains("title") || err.contains("title"),
            "{arguments:?} does not show it: {out:?} {err:?}"
        );
        assert_eq!(acting(&out), [], "{arguments:?}: {out:?}");
        assert_eq!(acting(&err), [], "{arguments:?}: {err:?}");
    }
    // For programs nothing is lost.
    let (out, _) = told(checks, &["check", "-o", "json"]);
    let read: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(read["items"][0]["message"], EVIL, "{out}");
}
