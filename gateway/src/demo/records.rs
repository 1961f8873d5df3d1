//! Reads the access log of the demo's gateways: which connections were moved, and which were lost only after an instance
//! had been given them.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use causeway_federation::name::ZoneName;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{sync::watch, time::timeout};

/// Longest wait for the last lines of the log.
const PATIENCE: Duration = Duration::from_secs(10);

/// The fields of an access log line that count here.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Line {
    role: String,
    client: Option<SocketAddr>,
    from_zone: ZoneName,
    /// Set once an instance was ready.
    to_zone: Option<ZoneName>,
    attempts: u32,
}

impl Line {
    /// Tells whether another place was asked because the first one did not answer in time.
    pub(super) fn is_moved(&self) -> bool {
        self.to_zone.is_some() && self.attempts > 1
    }

    /// The zone of the instance that was given the connection, if one was.
    pub(super) fn given_to(&self) -> Option<&ZoneName> {
        self.to_zone.as_ref()
    }
}

/// A client's socket address, which is only unique within its zone's gateway.
pub(super) type Client = (ZoneName, SocketAddr);

#[derive(Debug, Default)]
struct Seen {
    /// Those that nobody has taken yet, oldest first; a port is used again sooner or later.
    lines: Mutex<HashMap<Client, VecDeque<Line>>>,
    count: watch::Sender<u64>,
}

/// The lines of every gateway's egress. Clones show the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Records(Arc<Seen>);

impl Records {
    /// Forgets every line that nobody has taken.
    pub(super) fn forget(&self) {
        self.0.lines.lock().clear();
    }

    /// Makes the writer of the access log.
    pub(super) fn sink(&self) -> impl Write + Send + 'static {
        Sink {
            records: self.clone(),
            rest: Vec::new(),
        }
    }

    /// Takes the line of a connection.
    pub(super) fn take(&self, client: &Client) -> Option<Line> {
        self.0.lines.lock().get_mut(client)?.pop_front()
    }

    /// Waits until these connections have ended and their lines are here.
    pub(super) async fn wait_for(&self, mut clients: Vec<Client>) {
        let mut count = self.0.count.subscribe();
        let complete = count.wait_for(|_| {
            let lines = self.0.lines.lock();
            while let Some(client) = clients.last() {
                if lines.get(client).is_none_or(VecDeque::is_empty) {
                    return false;
                }
                clients.pop();
            }
            true
        });
        let complete = timeout(PATIENCE, complete).await;
        if complete.is_err() {
            tracing::warn!("the access log is not complete");
        }
    }

    fn add(&self, line: &[u8]) {
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            return;
        };
        let (Some(client), "egress") = (line.client, line.role.as_str()) else {
            return;
        };
        let client = (line.from_zone.clone(), client);
        self.0.lines.lock().entry(client).or_default().push_back(line);
        self.0.count.send_modify(|count| *count += 1);
    }
}

/// Puts lines together again.
struct Sink {
    records: Records,
    rest: Vec<u8>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.records.add(&line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_only_those_of_the_egress_count() {
        let records = Records::default();
        let mut sink = records.sink();
        let line = |role: &str, to: &str| {
            format!(
                r#"{{"role":"{role}","client":"127.0.0.1:5","from_zone":"east","to_zone":{to},"attempts":2}}"#
            ) + "\n"
        };
        let text = line("egress", r#""west""#) + &line("ingress", "null");
        let (start, end) = text.as_bytes().split_at(20);
        sink.write_all(start).unwrap();
        sink.write_all(end).unwrap();
        let zone = ZoneName::new("east").unwrap();
        let client = (zone, "127.0.0.1:5".parse().unwrap());
        let seen = records.take(&client).unwrap();
        assert!(seen.is_moved());
        assert_eq!(seen.given_to().unwrap().as_str(), "west");
        assert!(records.take(&client).is_none());
    }
}
