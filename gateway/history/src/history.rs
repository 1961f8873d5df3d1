//! The handle of the history: whoever has something to tell puts it into a bounded queue, and one task writes.

use std::{
    ops::RangeInclusive,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use causeway_federation::name::GatewayId;
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::spawn_blocking,
    time::MissedTickBehavior,
};

use crate::{
    HistoryMetrics,
    event::{HistoryEvent, NewEvent},
    figures::MinuteFigures,
    journal::Shelf,
    query::{self, EventPage, EventQuery},
    writer::{HistoryWriter, RETRY, WriterConfig},
};

/// Events that wait to be written.
const QUEUE: usize = 1_024;
/// Events that one who follows may be behind.
const BEHIND: usize = 1_024;
/// Longest wait for what is on disk to be read at the start.
const OPENING_MAY_TAKE: Duration = Duration::from_secs(5);

/// Time and room for which the history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    pub keep: Duration,
    /// On disk; in memory it is 4 MiB at most.
    pub bytes: u64,
}

impl HistoryLimits {
    /// Times that it can be kept for.
    pub const KEEPS: RangeInclusive<Duration> =
        Duration::from_secs(60)..=Duration::from_secs(31 * 24 * 60 * 60);
    /// Sizes that it can have, in bytes.
    pub const SIZES: RangeInclusive<u64> = 1024 * 1024..=16 * 1024 * 1024 * 1024;
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(24 * 60 * 60),
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// Everything that a history is started with.
#[derive(Debug, Clone)]
pub struct HistoryConfig {
    pub own: GatewayId,
    /// The data folder; `None`: nothing outlives the process.
    pub data: Option<PathBuf>,
    pub limits: HistoryLimits,
    pub metrics: HistoryMetrics,
}

enum Order {
    Event(SystemTime, NewEvent),
    Minute(SystemTime, MinuteFigures),
    Close(oneshot::Sender<()>),
}

/// The history of one gateway. Clones are the same.
#[derive(Debug, Clone)]
pub struct History(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<Order>,
    lost: AtomicU64,
    limits: HistoryLimits,
    events: Shelf,
    minutes: Shelf,
    live: broadcast::Sender<Arc<HistoryEvent>>,
    is_open: watch::Receiver<bool>,
    /// Until the task is started.
    task: Mutex<Option<HistoryTask>>,
}

/// Parts that its task begins with.
struct HistoryTask {
    config: WriterConfig,
    orders: mpsc::Receiver<Order>,
    opened: watch::Sender<bool>,
}

impl std::fmt::Debug for HistoryTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistoryTask").finish_non_exhaustive()
    }
}

impl History {
    /// Makes a history that takes events; they are written once [`History::keep`] runs.
    #[must_use]
    pub fn new(config: HistoryConfig) -> Self {
        let (queue, orders) = mpsc::channel(QUEUE);
        let (opened, is_open) = watch::channel(false);
        let (events, minutes, live) = (Shelf::default(), Shelf::default(), broadcast::Sender::new(BEHIND));
        let limits = config.limits;
        let task = HistoryTask {
            config: WriterConfig {
                own: config.own,
                data: config.data,
                limits,
                metrics: config.metrics,
                events: events.clone(),
                minutes: minutes.clone(),
                live: live.clone(),
            },
            orders,
            opened,
        };
        Self(Arc::new(Shared {
            queue,
            lost: AtomicU64::new(0),
            limits,
            events,
            minutes,
            live,
            is_open,
            task: Mutex::new(Some(task)),
        }))
    }

    /// Writes what is told, until it is dropped. To be run once.
    pub async fn keep(self) {
        let task = self.0.task.lock().take();
        if let Some(task) = task {
            run(&self.0.lost, task).await;
        }
        // Its files are a successor's, and it is dropped with the other tasks.
        std::future::pending::<()>().await;
    }

    /// Tells of something that happens now. What does not fit into the queue is counted.
    pub fn note(&self, at: SystemTime, event: NewEvent) {
        self.tell(Order::Event(at, event));
    }

    /// Tells of a minute that ends now.
    pub fn note_minute(&self, at: SystemTime, minute: MinuteFigures) {
        self.tell(Order::Minute(at, minute));
    }

    fn tell(&self, order: Order) {
        match self.0.queue.try_send(order) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.0.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Writes what was told until now, and lets go of the files.
    pub async fn close(&self) {
        let (done, is_done) = oneshot::channel();
        if self.0.queue.send(Order::Close(done)).await.is_ok() {
            // An error: the task was dropped, and the files with it.
            let _ = is_done.await;
        }
    }

    /// Waits until what was on disk at the start is read.
    pub async fn opened(&self) {
        let mut is_open = self.0.is_open.clone();
        // An error: the task is gone, and what was read is what there is.
        let opened = async { drop(is_open.wait_for(|open| *open).await) };
        let _ = tokio::time::timeout(OPENING_MAY_TAKE, opened).await;
    }

    /// Reads events. It blocks while it reads.
    ///
    /// # Errors
    /// The disk does not give them.
    pub fn events(&self, query: &EventQuery) -> std::io::Result<EventPage> {
        query::events(&self.0.events, query)
    }

    /// Reads the figures of the minutes that ended between two moments, oldest first, 1,500 at most. It blocks while it reads.
    ///
    /// # Errors
    /// The disk does not give them.
    pub fn minutes(&self, since: SystemTime, until: SystemTime) -> std::io::Result<Vec<MinuteFigures>> {
        query::minutes(&self.0.minutes, (since, until))
    }

    /// Events from now on. Who falls behind by more than 1,024 loses them, and is told so.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Arc<HistoryEvent>> {
        self.0.live.subscribe()
    }

    #[must_use]
    pub fn limits(&self) -> HistoryLimits {
        self.0.limits
    }
}

async fn run(lost: &AtomicU64, task: HistoryTask) {
    let HistoryTask {
        config,
        mut orders,
        opened,
    } = task;
    let opening = spawn_blocking(|| HistoryWriter::open(config, SystemTime::now()));
    let Ok(mut writer) = opening.await else {
        tracing::error!("the history could not be opened, and nothing of it is kept");
        return;
    };
    opened.send_replace(true);
    let mut upkeep = tokio::time::interval(RETRY);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            biased;
            received = orders.recv_many(&mut waiting, QUEUE) => {
                if received == 0 {
                    return;
                }
            }
            _ = upkeep.tick() => {}
        }
        let batch = std::mem::take(&mut waiting);
        let missed = lost.swap(0, Ordering::Relaxed);
        let written = spawn_blocking(move || write(writer, missed, batch));
        writer = match written.await {
            Ok(Ok(writer)) => writer,
            Ok(Err(closed)) => {
                // Nobody waits any more: nobody is told.
                let _ = closed.send(());
                return;
            }
            Err(error) => {
                tracing::error!(%error, "the history could not be written, and nothing more of it is kept");
                return;
            }
        };
    }
}

/// Writes a batch; the error is whoever wants to know that the files are closed.
fn write(
    mut writer: HistoryWriter,
    missed: u64,
    batch: Vec<Order>,
) -> Result<HistoryWriter, oneshot::Sender<()>> {
    if missed > 0 {
        writer.lost(missed);
    }
    let is_tick = batch.is_empty();
    for order in batch {
        match order {
            Order::Event(at, event) => writer.add(at, event),
            Order::Minute(at, minute) => writer.add_minute(at, minute),
            Order::Close(done) => {
                writer.close(SystemTime::now());
                return Err(done);
            }
        }
    }
    if is_tick {
        writer.upkeep(SystemTime::now());
    }
    Ok(writer)
}
