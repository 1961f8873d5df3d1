//! Watchdog of a service manager (`WatchdogSec=` of systemd): it is told twice within its time that this process answers, for as long as
//! every runtime does, and restarts the process otherwise. A thread of its own asks, so that nothing that hangs keeps it from noticing.

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::runtime::Handle;

use crate::tasks::Tasks;

/// Shortest interval, for a time that is too short to be meant.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

type Answering = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Part of the process that is to answer: a runtime, and what it is asked.
pub struct Pulse {
    name: String,
    runtime: Handle,
    question: Box<dyn Fn() -> Answering + Send>,
}

impl Pulse {
    /// Asks `runtime` whatever `question` makes, which is answered when it ends.
    pub fn new<F>(name: impl Into<String>, runtime: Handle, question: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self {
            name: name.into(),
            runtime,
            question: Box::new(move || Box::pin(question())),
        }
    }

    /// Asks `runtime` for nothing but that it runs what it is given.
    pub fn of_runtime(name: impl Into<String>, runtime: Handle) -> Self {
        Self::new(name, runtime, || std::future::ready(()))
    }
}

enum Word {
    /// Of the part with this number.
    Answered(usize),
    Stop,
}

/// Thread that asks. Dropping it ends the pings.
#[derive(Debug)]
pub struct Watchdog(Sender<Word>);

impl Watchdog {
    /// Starts asking, if the environment says that a service manager waits for this process's pings.
    ///
    /// # Errors
    /// Fails when the operating system gives no thread.
    pub fn start(pulses: Vec<Pulse>, tasks: &Tasks) -> io::Result<Option<Self>> {
        let Some(limit) = sd_notify::watchdog_enabled() else {
            return Ok(None);
        };
        let ping = || {
            if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
                tracing::warn!(%error, "the service manager's watchdog cannot be told that this process answers");
            }
        };
        Self::ask(pulses, limit / 2, ping, tasks).map(Some)
    }

    fn ask(
        pulses: Vec<Pulse>,
        every: Duration,
        ping: impl FnMut() + Send + 'static,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let (words, heard) = channel();
        let asking = Asking {
            pulses,
            words: words.clone(),
            heard,
            every: every.max(SHORTEST_INTERVAL),
        };
        tasks.thread("watchdog", move || asking.run(ping))?;
        Ok(Self(words))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // The thread is gone where it has panicked.
        let _ = self.0.send(Word::Stop);
    }
}

struct Asking {
    pulses: Vec<Pulse>,
    words: Sender<Word>,
    heard: Receiver<Word>,
    every: Duration,
}

impl Asking {
    fn run(self, mut ping: impl FnMut()) {
        // Each part owes one answer at most, so that nothing piles up in one that hangs.
        let mut owing: BTreeSet<usize> = BTreeSet::new();
        let mut is_told = false;
        loop {
            for (number, pulse) in self.pulses.iter().enumerate() {
                if owing.insert(number) {
                    let (answering, words) = ((pulse.question)(), self.words.clone());
                    pulse.runtime.spawn(async move {
                        answering.await;
                        // Nobody waits once the watchdog has been dropped.
                        let _ = words.send(Word::Answered(number));
                    });
                }
            }
            let due = Instant::now() + self.every;
            while let Ok(word) = self
                .heard
                .recv_timeout(due.saturating_duration_since(Instant::now()))
            {
                match word {
                    Word::Stop => return,
                    Word::Answered(number) => {
                        owing.remove(&number);
                    }
                }
                if owing.is_empty() {
                    is_told = false;
                    ping();
                    // Nothing is owed, so nothing but the end can come.
                    let rest = due.saturating_duration_since(Instant::now());
                    if let Ok(Word::Stop) = self.heard.recv_timeout(rest) {
                        return;
                    }
                    break;
                }
            }
            if !owing.is_empty() && !is_told {
                is_told = true;
                tracing::error!(parts = self.names(&owing), waited = ?self.every, "a part of this process does not answer; the service manager restarts it if that goes on");
            }
        }
    }

    fn names(&self, owing: &BTreeSet<usize>) -> String {
        let names = owing.iter().filter_map(|number| self.pulses.get(*number));
        names
            .map(|pulse| pulse.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{runtime::Runtime, sync::Notify};

    use super::*;

    /// Longer than anything here takes when all is well.
    const PATIENCE: Duration = Duration::from_secs(20);
    const EVERY: Duration = Duration::from_millis(20);

    fn runtime() -> Runtime {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).build().unwrap()
    }

    #[test]
    fn pings_stop_while_one_part_does_not_answer_and_go_on_when_it_does() {
        let (well, ill) = (runtime(), runtime());
        let may_answer = Arc::new(Notify::new());
        let answering = may_answer.clone();
        let pulses = vec![
            Pulse::of_runtime("well", well.handle().clone()),
            Pulse::new("ill", ill.handle().clone(), move || {
                let answering = answering.clone();
                async move { answering.notified().await }
            }),
        ];
        let (pinged, pings) = channel();
        let ping = move || pinged.send(()).unwrap();
        let watchdog = Watchdog::ask(pulses, EVERY, ping, &Tasks::default()).unwrap();
        assert!(
            pings.recv_timeout(10 * EVERY).is_err(),
            "one part has not answered"
        );
        for _ in 0..2 {
            may_answer.notify_one();
            pings.recv_timeout(PATIENCE).unwrap();
        }
        // The thread drops its end of the channel.
        drop(watchdog);
        assert_eq!(
            pings.recv_timeout(PATIENCE),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
        );
    }

    #[test]
    fn a_runtime_that_has_ended_does_not_answer() {
        let ended = runtime();
        let pulses = vec![Pulse::of_runtime("ended", ended.handle().clone())];
        drop(ended);
        let (pinged, pings) = channel();
        let _watchdog =
            Watchdog::ask(pulses, EVERY, move || pinged.send(()).unwrap(), &Tasks::default()).unwrap();
        assert!(pings.recv_timeout(10 * EVERY).is_err());
    }
}
