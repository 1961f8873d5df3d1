//! One connection's lines, in the logs of both gateways and in both access logs, are found by one id.

use std::{
    io,
    sync::{Arc, LazyLock},
    time::Duration,
};

use causeway_host::tasks::Tasks;
use causeway_telemetry::{AccessLog, LineWriter};
use parking_lot::Mutex;
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

use super::topology;
use crate::{
    egress::EgressConfig,
    testbed::{self, Recorder, Zone, until},
};

/// Text that is written by one and read by another.
#[derive(Clone, Default)]
pub(super) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub(super) fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Written {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A second subscriber. With one alone `tracing` asks that of the thread which first reaches a line whether anybody wants it, and
/// another test's thread has none: the line would be off for all.
static SECOND: LazyLock<tracing::Dispatch> = LazyLock::new(|| {
    let subscriber = tracing_subscriber::fmt().with_max_level(Level::DEBUG);
    tracing::Dispatch::new(subscriber.with_writer(io::sink).finish())
});

/// Collects what this thread logs from `level` up.
fn log(level: Level) -> (Written, tracing::subscriber::DefaultGuard) {
    LazyLock::force(&SECOND);
    let written = Written::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(written.clone())
        .finish();
    (written, tracing::subscriber::set_default(subscriber))
}

fn zone(name: &str, instances: Vec<Arc<causeway_routing::snapshot::Instance>>) -> (Zone, Written) {
    let written = Written::default();
    let access =
        AccessLog::Text(LineWriter::start("access log", written.clone(), &Tasks::default()).unwrap());
    let config = EgressConfig {
        setup_deadline: Duration::from_millis(300),
        ..EgressConfig::new(1)
    };
    let zone = Zone::with_access_log(name, &topology(), instances, config, access);
    (zone, written)
}

/// The lines that these words stand in, after waiting for the first.
async fn lines_with(written: &Written, words: &str) -> Vec<String> {
    let found = || written.lines().into_iter().filter(|line| line.contains(words));
    until(words, || found().next().is_some()).await;
    found().collect()
}

/// The id in a line of the access log.
fn id(line: &str) -> &str {
    let (_, id) = line.rsplit_once(" connection=").unwrap();
    assert_eq!(id.len(), 16, "{line}");
    id
}

/// A zone without instances, and one whose only instance does not accept.
async fn refused(level: Level) -> (Vec<String>, String, String) {
    let (log, _guard) = log(level);
    let dead = testbed::instance("dead", testbed::vip(), 1, &[]);
    let (east, at_east) = zone("east", vec![dead]);
    let (home, at_home) = zone("home", vec![]);
    home.join("east", east.ingress.clone()).await;
    assert!(home.client().await.greeting().await.is_err());
    let egress = lines_with(&at_home, "egress orders").await.remove(0);
    let ingress = lines_with(&at_east, "ingress orders").await.remove(0);
    lines_with(&log, "no instance could be reached").await;
    (log.lines(), egress, ingress)
}

#[tokio::test]
async fn a_connections_lines_at_both_gateways_are_found_by_one_id() {
    let (log, egress, ingress) = refused(Level::DEBUG).await;
    let id = id(&egress);
    assert!(ingress.ends_with(id), "{egress}\n{ingress}");
    let own = log.iter().filter(|line| line.contains(id));
    let own: Vec<_> = own.map(String::as_str).collect();
    for words in [
        "egress{connection=",
        "ingress{connection=",
        "an instance does not accept",
        "refused a stream",
        "a candidate did not become ready",
        "no instance could be reached",
    ] {
        assert!(own.iter().any(|line| line.contains(words)), "{words}: {log:#?}");
    }
}

#[tokio::test]
async fn the_lines_of_the_default_level_say_the_id_without_a_span() {
    let (log, egress, _) = refused(Level::INFO).await;
    let told = format!("connection={}", id(&egress));
    for words in ["refused a stream", "no instance could be reached"] {
        let lines: Vec<_> = log.iter().filter(|line| line.contains(words)).collect();
        assert!(
            !lines.is_empty() && lines.iter().all(|line| line.contains(&told)),
            "{log:#?}"
        );
    }
    assert!(!log.iter().any(|line| line.contains("{connection=")), "{log:#?}");
}

#[tokio::test]
async fn both_access_log_lines_of_a_served_connection_have_one_id_and_the_next_has_another() {
    let there = Recorder::start("there").await;
    let (east, at_east) = zone("east", vec![there.instance(1, &[])]);
    let (home, at_home) = zone("home", vec![]);
    home.join("east", east.ingress.clone()).await;
    for _ in 0..2 {
        let mut client = home.client().await;
        assert_eq!(client.greeting().await.unwrap(), "there");
    }
    let both = |written: &Written| written.lines().len() == 2;
    until("both are in both logs", || both(&at_home) && both(&at_east)).await;
    let ids = |written: &Written| -> Vec<String> {
        let mut ids: Vec<_> = written.lines().iter().map(|line| id(line).to_owned()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&at_home), ids(&at_east));
    assert_ne!(ids(&at_home)[0], ids(&at_home)[1]);
}
