//! The one who writes: gives events their numbers, keeps them, and tells whoever follows.

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_federation::name::GatewayId;
use causeway_host::{files::make_private_folder, held::open_held};
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;
use tokio::sync::broadcast;

use crate::{
    HistoryLimits, HistoryMetrics,
    event::{EventKind, HistoryEvent, NewEvent, milliseconds, moment},
    figures::MinuteFigures,
    journal::{Journal, JournalConfig, LineKey, NotKept, SegmentSetAside, Shelf},
};

/// Folder in the data folder.
const FOLDER: &str = "history";
/// File by which one process at a time has the folder.
const LOCK: &str = "lock";
/// Bytes that are kept where there is no folder.
const MEMORY_BYTES: u64 = 4 * 1024 * 1024;
/// Time between two tries to write what the disk did not take.
pub(crate) const RETRY: Duration = Duration::from_secs(5);

/// Everything that the writer is made of.
pub(crate) struct WriterConfig {
    pub(crate) own: GatewayId,
    /// The data folder; `None`: nothing is kept on disk.
    pub(crate) data: Option<std::path::PathBuf>,
    pub(crate) limits: HistoryLimits,
    pub(crate) metrics: HistoryMetrics,
    pub(crate) events: Shelf,
    pub(crate) minutes: Shelf,
    pub(crate) live: broadcast::Sender<Arc<HistoryEvent>>,
}

/// Writes events. Everything here blocks.
pub(crate) struct HistoryWriter {
    own: GatewayId,
    metrics: HistoryMetrics,
    events: Journal,
    minutes: Journal,
    live: broadcast::Sender<Arc<HistoryEvent>>,
    /// Held for as long as the files are.
    _lock: Option<std::fs::File>,
    /// Lines were lost since the last event that tells so.
    untold: u64,
    is_failing: bool,
}

impl HistoryWriter {
    /// Opens what is there; where the disk does not let it, what happens is kept in memory alone.
    pub(crate) fn open(config: WriterConfig, now: SystemTime) -> Self {
        let folder = config.data.as_deref().map(|data| data.join(FOLDER));
        let opened = folder.as_deref().map(|folder| on_disk(&config, folder, now));
        let (journals, lock, set_aside) = match opened {
            Some(Ok(opened)) => opened,
            Some(Err(error)) => {
                let data = config.data.as_deref().unwrap_or(Path::new(FOLDER)).display();
                tracing::error!(%error, %data, "the history cannot be kept on disk, and ends with this process");
                in_memory(&config)
            }
            None => in_memory(&config),
        };
        let [events, minutes] = journals;
        for aside in set_aside {
            let (kept, lines, bad) = (aside.kept.display(), aside.lines, aside.bad);
            tracing::warn!(%kept, lines, bad, "a part of the history is corrupt and was set aside; what of it can be read is read");
        }
        Self {
            own: config.own,
            metrics: config.metrics,
            events,
            minutes,
            live: config.live,
            _lock: lock,
            untold: 0,
            is_failing: false,
        }
    }

    /// Takes down so many that did not fit into the queue.
    pub(crate) fn lost(&mut self, count: u64) {
        self.untold += count;
        self.metrics.dropped.inc_by(count);
    }

    /// Keeps an event, and what was lost before it.
    pub(crate) fn add(&mut self, at: SystemTime, event: NewEvent) {
        self.tell_lost(at);
        self.write(at, event);
    }

    fn tell_lost(&mut self, at: SystemTime) {
        let count = std::mem::take(&mut self.untold);
        if count > 0 {
            let text = format!("{count} events or minutes of figures are missing here");
            let event = NewEvent::new(EventKind::EventsLost, text)
                .because("they came faster than they could be written, or the disk did not take them");
            self.write(at, NewEvent { count, ..event });
        }
    }

    fn write(&mut self, at: SystemTime, event: NewEvent) {
        let event = HistoryEvent {
            id: self.events.next_id(),
            time: moment(at),
            zone: self.own.zone.to_string(),
            gateway: self.own.gateway.to_string(),
            kind: event.kind.word().to_owned(),
            service: event.service,
            peer: event.peer,
            subject: event.subject,
            text: event.text,
            because: event.because,
            count: event.count,
            explained: event.explained,
        };
        // A struct of texts and numbers can always be written as JSON.
        let Ok(line) = serde_json::to_string(&event) else {
            return;
        };
        let key = LineKey {
            id: event.id,
            at: milliseconds(at),
        };
        let kept = self.events.append(key, &line);
        self.note(kept);
        self.metrics.events.inc();
        // Nobody follows: nobody is told.
        let _ = self.live.send(Arc::new(event));
    }

    /// Keeps the figures of a minute.
    pub(crate) fn add_minute(&mut self, at: SystemTime, minute: MinuteFigures) {
        let minute = MinuteFigures {
            id: self.minutes.next_id(),
            time: moment(at),
            ..minute
        };
        // As of an event.
        let Ok(line) = serde_json::to_string(&minute) else {
            return;
        };
        let key = LineKey {
            id: minute.id,
            at: milliseconds(at),
        };
        let kept = self.minutes.append(key, &line);
        self.note(kept);
    }

    fn note(&mut self, kept: Result<(), NotKept>) {
        match kept {
            Ok(()) => {}
            Err(NotKept::Waiting(error)) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(%error, "the disk does not take the history; it is kept in memory, within limits, and tried again");
                }
            }
            Err(NotKept::Lost) => self.lost(1),
        }
    }

    /// Looks after what is old, and tries again what the disk did not take.
    pub(crate) fn upkeep(&mut self, now: SystemTime) {
        self.events.drop_aged(milliseconds(now));
        self.minutes.drop_aged(milliseconds(now));
        let written = |journal: &mut Journal| journal.write_waiting().is_ok();
        if self.is_failing && written(&mut self.events) && written(&mut self.minutes) {
            self.is_failing = false;
            tracing::info!("the disk takes the history again");
        }
        if !self.is_failing {
            self.tell_lost(now);
        }
    }

    /// Writes the rest and lets go of the files.
    pub(crate) fn close(mut self, now: SystemTime) {
        self.upkeep(now);
        if let Err(error) = self.events.sync().and_then(|()| self.minutes.sync()) {
            tracing::warn!(%error, "the last of the history may not outlive a crash of this machine");
        }
    }
}

/// Journals of events and of minutes, with what keeps others from them and what was set aside.
type Opened = ([Journal; 2], Option<std::fs::File>, Vec<SegmentSetAside>);

fn on_disk(config: &WriterConfig, folder: &Path, now: SystemTime) -> io::Result<Opened> {
    let lock = lock(folder)?;
    let seconds = milliseconds(now) / 1_000;
    let [(events, events_shelf), (minutes, minutes_shelf)] = settings(config, Some(folder));
    let (events, mut set_aside) = Journal::open(events, events_shelf, seconds)?;
    let (minutes, more) = Journal::open(minutes, minutes_shelf, seconds)?;
    set_aside.extend(more);
    Ok(([events, minutes], Some(lock), set_aside))
}

fn in_memory(config: &WriterConfig) -> Opened {
    let journals = settings(config, None).map(|(settings, shelf)| Journal::in_memory(settings, shelf));
    (journals, None, Vec::new())
}

/// Settings of both journals. Events are few, and have a quarter of the room.
fn settings(config: &WriterConfig, folder: Option<&Path>) -> [(JournalConfig, Shelf); 2] {
    let room = match folder {
        Some(_) => config.limits.bytes,
        None => config.limits.bytes.min(MEMORY_BYTES),
    };
    let of = |name, limit_bytes| JournalConfig {
        name,
        folder: folder.map(Path::to_owned),
        limit_bytes,
        keep: config.limits.keep,
        key: line_key,
    };
    [
        (of("events", room / 4), config.events.clone()),
        (of("minutes", room / 4 * 3), config.minutes.clone()),
    ]
}

/// Makes the folder, and has it for this process alone.
fn lock(folder: &Path) -> io::Result<std::fs::File> {
    make_private_folder(folder)?;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(folder.join(LOCK))?;
    let is_held = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    open_held(is_held, || {
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from)
    })?;
    Ok(file)
}

/// Key of a line of either journal.
fn line_key(line: &str) -> Option<LineKey> {
    #[derive(Deserialize)]
    struct Key<'l> {
        id: u64,
        time: &'l str,
    }
    let key: Key<'_> = serde_json::from_str(line).ok()?;
    let at = humantime::parse_rfc3339(key.time).ok()?;
    Some(LineKey {
        id: key.id,
        at: milliseconds(at),
    })
}
