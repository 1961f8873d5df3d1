//! Load: new connections at a steady rate, each with an identity of its own, and what became of each one.
//!
//! The rate does not wait for answers (an open loop), so that a stall shows as waiting and not as missing load.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::waits::Wait;

/// A wait that is listed, and at most so many of them, the longest.
const LONG_WAIT: Duration = Duration::from_millis(100);
const LONG_WAITS: usize = 200;

/// Loads that this process has started.
static LOADS: AtomicU64 = AtomicU64::new(0);

/// Kind of load, and how long a client waits.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Address that the clients connect to; instances behind it answer as [`crate::instance::Behaviour::Name`].
    pub service: SocketAddr,
    pub connections_per_second: u32,
    /// After this a client gives up.
    pub patience: Duration,
}

/// Outcome of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionOutcome {
    /// The instance of this name answered.
    Served { by: String },
    /// The connection could not be made, or broke with an error.
    Broken { error: String },
    /// It was closed without an answer.
    Closed,
    /// No answer came in time.
    TimedOut,
}

/// One connection.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The line that it sent; no two are alike.
    pub id: String,
    pub started: Instant,
    /// From the connect to the answer, or to the failure.
    pub waited: Duration,
    pub outcome: ConnectionOutcome,
}

/// Everything that a load did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub attempts: Vec<Attempt>,
}

/// A load under way.
#[derive(Debug)]
pub struct Running {
    stop: oneshot::Sender<()>,
    begun: Arc<AtomicU64>,
    task: JoinHandle<Report>,
}

impl Load {
    /// Starts the load; it goes on until it is stopped.
    #[must_use]
    pub fn start(self) -> Running {
        let (stop, stopped) = oneshot::channel();
        let begun = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(self.run(Arc::clone(&begun), stopped));
        Running { stop, begun, task }
    }

    async fn run(self, begun: Arc<AtomicU64>, mut stopped: oneshot::Receiver<()>) -> Report {
        // Two loads upon the same instances must not share an id, not even from two processes.
        let load = format!("{}-{}", std::process::id(), LOADS.fetch_add(1, Ordering::Relaxed));
        let mut attempts = JoinSet::new();
        let mut tick = interval(Duration::from_secs(1) / self.connections_per_second.max(1));
        // A late tick is made up for, so that the rate holds on a busy machine.
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while stopped
            .try_recv()
            .is_err_and(|e| e == oneshot::error::TryRecvError::Empty)
        {
            tick.tick().await;
            let number = begun.fetch_add(1, Ordering::Relaxed);
            attempts.spawn(self.attempt(format!("load-{load}-connection-{number}")));
        }
        Report {
            attempts: attempts.join_all().await,
        }
    }

    async fn attempt(self, id: String) -> Attempt {
        let started = Instant::now();
        let outcome = match timeout(self.patience, exchange(self.service, &id)).await {
            Ok(Ok(Some(by))) => ConnectionOutcome::Served { by },
            Ok(Ok(None)) => ConnectionOutcome::Closed,
            Ok(Err(error)) => ConnectionOutcome::Broken {
                error: error.to_string(),
            },
            Err(_) => ConnectionOutcome::TimedOut,
        };
        Attempt {
            id,
            started,
            waited: started.elapsed(),
            outcome,
        }
    }
}

/// Sends one line and reads one; the name of who answered, or `None` when the other side closed.
async fn exchange(service: SocketAddr, id: &str) -> std::io::Result<Option<String>> {
    let mut stream = BufReader::new(TcpStream::connect(service).await?);
    stream.write_all(format!("{id}\n").as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let answer = line
        .trim_end()
        .split_once(' ')
        .filter(|(_, echoed)| *echoed == id);
    Ok(answer.map(|(name, _)| name.to_owned()))
}

impl Running {
    /// Number of connections that were begun so far.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Ends the load and waits for the connections that are still open.
    ///
    /// # Panics
    /// When the load itself panicked.
    pub async fn stop(self) -> Report {
        let _ = self.stop.send(());
        self.task.await.expect("the load runs to its end")
    }
}

impl Report {
    /// Connections that were not served.
    pub fn failed(&self) -> impl Iterator<Item = &Attempt> {
        let failed = |attempt: &&Attempt| !matches!(attempt.outcome, ConnectionOutcome::Served { .. });
        self.attempts.iter().filter(failed)
    }

    /// Connections by the name of the instance that answered.
    #[must_use]
    pub fn served(&self) -> BTreeMap<&str, usize> {
        let mut served = BTreeMap::new();
        for attempt in &self.attempts {
            if let ConnectionOutcome::Served { by } = &attempt.outcome {
                *served.entry(by.as_str()).or_default() += 1;
            }
        }
        served
    }

    /// The longest wait of a connection that was served.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        let served = self
            .attempts
            .iter()
            .filter(|a| matches!(a.outcome, ConnectionOutcome::Served { .. }));
        served.map(|attempt| attempt.waited).max().unwrap_or_default()
    }
}

impl Report {
    /// Lists the longest waits of connections that were served: of 100 ms and more, at most 200.
    #[must_use]
    pub fn long_waits(&self) -> Vec<Wait> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let served = self.attempts.iter().filter(|attempt| {
            matches!(attempt.outcome, ConnectionOutcome::Served { .. }) && attempt.waited >= LONG_WAIT
        });
        let wait = |attempt: &Attempt| Wait {
            begun: wall - now.duration_since(attempt.started),
            waited: attempt.waited,
        };
        let mut waits: Vec<Wait> = served.map(wait).collect();
        waits.sort_by_key(|wait| std::cmp::Reverse(wait.waited));
        waits.truncate(LONG_WAITS);
        waits
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: Vec<_> = self.failed().collect();
        write!(
            f,
            "{} connections, served by {:?}, ",
            self.attempts.len(),
            self.served()
        )?;
        write!(
            f,
            "longest wait {:?}, {} failed",
            self.longest_wait(),
            failed.len()
        )?;
        for attempt in failed.iter().take(10) {
            write!(
                f,
                "\n  {}: {:?} after {:?}",
                attempt.id, attempt.outcome, attempt.waited
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{Behaviour, Instance};
    use crate::wait::until_true;

    #[tokio::test]
    async fn load_names_who_served_and_who_was_not_served() {
        let instance = Instance::start("east", Behaviour::Name).await.unwrap();
        let load = Load {
            service: instance.address(),
            connections_per_second: 500,
            patience: Duration::from_secs(2),
        };
        let running = load.start();
        until_true("20 connections", Duration::from_secs(5), async || {
            running.begun() >= 20
        })
        .await;
        let report = running.stop().await;
        assert_eq!(
            (report.failed().count(), report.served()["east"]),
            (0, report.attempts.len())
        );
        assert_eq!(instance.lines().len(), report.attempts.len());

        drop(instance);
        let running = load.start();
        until_true("5 connections", Duration::from_secs(5), async || {
            running.begun() >= 5
        })
        .await;
        let report = running.stop().await;
        assert_eq!(report.failed().count(), report.attempts.len());
    }
}
