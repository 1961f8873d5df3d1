//! Signals: which end a server, which must not, and that `register --keep` hears them whatever its gateway does.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    commands::causeway,
    federation::{registered, serve_at, state},
};

/// Longer than any wait of these tests takes when all is well.
const PATIENCE: Duration = Duration::from_secs(60);
const TOPOLOGY: &str = "version: 1\ntrust_domain: a.b\nzones:\n  east: { gateways: [gw.east:7800] }\n";

/// A running command, killed when the test ends before it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits until it has a handler of its own for SIGTERM.
    async fn handles_signals(&self) {
        let begun = Instant::now();
        loop {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
            if caught & (1 << (Signal::TERM.as_raw() - 1)) != 0 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not handle SIGTERM");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for its end; gives the exit code, `None` for the end by a signal, and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        let status = self.0.wait().unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }
}

fn done(folder: &Path, line: &str) {
    let mut command = causeway();
    command.args(line.split(' ')).current_dir(folder);
    assert!(command.output().unwrap().status.success(), "{line}");
}

#[tokio::test]
async fn a_server_ends_on_sigterm_and_on_no_signal_that_means_something_else() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("topology.yaml"), TOPOLOGY).unwrap();
    done(folder.path(), "ca init ca --trust-domain a.b");
    done(
        folder.path(),
        "ca issue --ca ca --zone east --gateway gw1 --out identity",
    );
    let gateway = "gateway --zone east --identity identity --listen 127.0.0.1:0 --admin 127.0.0.1:0 \
        --dns 127.0.0.1:0 --registry off --threads 1 --drain 1s";
    for line in [
        format!("{gateway} --initial-topology topology.yaml --data applied"),
        format!("{gateway} --topology topology.yaml --data file"),
        "ca serve --ca ca --listen 127.0.0.1:0".to_owned(),
        "zone-sync --zone east --etcd http://127.0.0.1:1 --listen 127.0.0.1:0 --admin 127.0.0.1:0".to_owned(),
        "register orders --address 127.0.0.1:8080 --keep --admin 127.0.0.1:1".to_owned(),
    ] {
        let mut command = causeway();
        command.args(line.split_whitespace()).current_dir(folder.path());
        let running = Running::start(command);
        running.handles_signals().await;
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::PIPE] {
            running.signal(signal);
        }
        // Of those that wait the lowest number is delivered first: each of the others would have ended it before this one.
        running.signal(Signal::TERM);
        let (code, said) = running.end();
        assert_eq!(code, Some(0), "{line}\n{said}");
    }
}

/// `register --keep` of one instance at a gateway.
fn keep(admin: &str) -> Running {
    let mut command = causeway();
    command.args([
        "register",
        "orders",
        "--address",
        "127.0.0.1:8080",
        "--id",
        "kept",
    ]);
    command.args(["--ttl", "1s", "--keep", "--admin", admin]);
    Running::start(command)
}

/// Waits for a line, on a thread of its own.
async fn line(pipe: impl Read + Send + 'static, wanted: &'static str) {
    let found = tokio::task::spawn_blocking(move || {
        BufReader::new(pipe)
            .lines()
            .map_while(Result::ok)
            .any(|line| line.contains(wanted))
    });
    assert!(found.await.unwrap(), "it never said {wanted}");
}

#[tokio::test]
async fn keep_waits_for_a_gateway_that_is_not_up_yet() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut kept = keep(&address.to_string());
    line(
        kept.0.stderr.take().unwrap(),
        "tried again until the gateway answers",
    )
    .await;

    let state = state();
    let instances = state.instances.clone();
    let _admin = serve_at(state, address).await;
    line(kept.0.stdout.take().unwrap(), "registered orders kept").await;
    assert_eq!(registered(&instances).await.len(), 1);
    kept.signal(Signal::TERM);
    let ended = tokio::task::spawn_blocking(move || kept.0.wait().unwrap());
    assert!(ended.await.unwrap().success());
    assert!(registered(&instances).await.is_empty());
}

#[tokio::test]
async fn keep_ends_on_sigterm_while_the_gateway_hangs() {
    // Connections to it are established by the system, and nobody answers.
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hanging.local_addr().unwrap().to_string();
    let kept = keep(&address);
    kept.handles_signals().await;
    kept.signal(Signal::TERM);
    let ended = tokio::task::spawn_blocking(move || kept.end());
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert_eq!(ended.0, Some(0), "{}", ended.1);
    drop(hanging);

    // This one answers two questions: where its socket is (nowhere), and the registration.
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut kept = keep(&hanging.local_addr().unwrap().to_string());
    let answering = tokio::task::spawn_blocking(move || {
        for kind in ["socket", "registered"] {
            let (mut stream, _) = hanging.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let body = format!(r#"{{"version":1,"kind":"{kind}","zone":"east","generation":1,"items":[]}}"#);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
        hanging
    });
    line(kept.0.stdout.take().unwrap(), "registered orders kept").await;
    let _hanging = answering.await.unwrap();
    kept.signal(Signal::TERM);
    let (code, said) = tokio::task::spawn_blocking(move || kept.end()).await.unwrap();
    assert_eq!(code, Some(1));
    assert!(said.contains("could not deregister"), "{said}");
}
