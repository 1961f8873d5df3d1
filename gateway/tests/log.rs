//! A gateway whose log nobody takes any more: it goes on, and counts the lines.

#![allow(clippy::unwrap_used, reason = "what fails in a test program fails the test")]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longer than any wait here takes when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ends the gateway, whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn causeway(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
    command.current_dir(folder).stdin(Stdio::null());
    command
}

fn topology(services: &str) -> String {
    format!(
        "version: 1\ntrust_domain: a.b\nzones:\n  east: {{ gateways: [127.0.0.1:7800] }}\nservices:\n{services}"
    )
}

/// Waits until standard output of a command holds `text`.
fn until_said(folder: &Path, arguments: &[&str], text: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let output = causeway(folder).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains(text) {
            return;
        }
        assert!(Instant::now() < end, "waited in vain for {text}: {said}");
        std::thread::yield_now();
    }
}

#[test]
fn a_gateway_whose_log_reader_went_away_still_takes_up_topologies() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    for line in [
        "ca init ca --trust-domain a.b",
        "ca issue --ca ca --zone east --gateway gw1 --out identity",
    ] {
        assert!(causeway(folder).args(line.split(' ')).status().unwrap().success());
    }
    fs::write(folder.join("topology.yaml"), topology("  one: { port: 80 }\n")).unwrap();
    let line = "gateway --zone east --identity identity --data data --topology topology.yaml --listen 127.0.0.1:0 --dns 127.0.0.1:0 \
                --registry off --log-level debug";
    let mut gateway = causeway(folder);
    gateway.args(line.split_whitespace()).arg("--admin");
    gateway.arg(format!("unix:{}", folder.join("admin.sock").display()));
    let mut running = Running(
        gateway
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let admin = format!("unix:{}", folder.join("admin.sock").display());
    let services = ["get", "services", "--admin", &admin];
    until_said(folder, &services, "one");
    // Nobody reads the log from here on.
    drop(running.0.stderr.take());
    for (name, port) in [("two", 81), ("three", 82), ("four", 83)] {
        fs::write(
            folder.join("topology.yaml"),
            topology(&format!("  {name}: {{ port: {port} }}\n")),
        )
        .unwrap();
        until_said(folder, &services, name);
    }
    assert!(running.0.try_wait().unwrap().is_none(), "the gateway has ended");
}
