//! One watcher: what is there, then every change, until it goes or the gateway ends.
//!
//! Nothing is queued for a watcher that reads slowly: when it is ready for more it is told how things are by then, which
//! may skip what came and went meanwhile. One that reads nothing at all for a minute is let go.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use causeway_federation::name::ServiceName;
use causeway_proto::registry::{Synced, WatchEvent, watch_event::Event};
use causeway_routing::snapshot::Published;
use futures_util::Stream;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::changes::changes;

/// Events on their way to one watcher.
const QUEUE: usize = 64;
/// Longest that a watcher may read nothing while there is something to read.
const MAX_STALL: Duration = Duration::from_secs(60);

/// Stream that the server sends to one watcher: its events, and at the end the reason.
#[derive(Debug)]
pub struct RegistrationEvents {
    events: mpsc::Receiver<WatchEvent>,
    end: Option<oneshot::Receiver<Status>>,
}

impl Stream for RegistrationEvents {
    type Item = Result<WatchEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(event) = std::task::ready!(self.events.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(event)));
        }
        let Some(end) = &mut self.end else {
            return Poll::Ready(None);
        };
        let end = std::task::ready!(Pin::new(end).poll(cx));
        self.end = None;
        // Without a reason the watcher itself has left.
        Poll::Ready(end.ok().map(Err))
    }
}

/// Begins to tell a watcher; `place` is given back when it ends.
pub(super) fn watch(
    published: watch::Receiver<Published>,
    only: Option<ServiceName>,
    place: OwnedSemaphorePermit,
    stop: CancellationToken,
) -> RegistrationEvents {
    let (queue, events) = mpsc::channel(QUEUE);
    let (ending, end) = oneshot::channel();
    tokio::spawn(async move {
        let told = tell(published, only, queue.clone());
        let status = tokio::select! {
            status = told => status,
            () = queue.closed() => None,
            () = stop.cancelled() => Some(Status::unavailable("the gateway is shutting down")),
        };
        if let Some(status) = status {
            // A watcher that has left needs no reason.
            let _ = ending.send(status);
        }
        drop(place);
    });
    RegistrationEvents {
        events,
        end: Some(end),
    }
}

/// Tells until it cannot go on, and says why if the watcher should know.
async fn tell(
    mut published: watch::Receiver<Published>,
    only: Option<ServiceName>,
    queue: mpsc::Sender<WatchEvent>,
) -> Option<Status> {
    let mut told = Published::default();
    let mut first = true;
    loop {
        let now = published.borrow_and_update().clone();
        for event in changes(&told, &now, only.as_ref()) {
            if let Err(status) = send(&queue, event).await {
                return status;
            }
        }
        if std::mem::take(&mut first) {
            // The embedded registry has no revisions.
            let synced = Event::Synced(Synced::default());
            let synced = WatchEvent { event: Some(synced) };
            if let Err(status) = send(&queue, synced).await {
                return status;
            }
        }
        told = now;
        if published.changed().await.is_err() {
            return Some(Status::unavailable("the gateway is shutting down"));
        }
    }
}

async fn send(queue: &mpsc::Sender<WatchEvent>, event: WatchEvent) -> Result<(), Option<Status>> {
    match timeout(MAX_STALL, queue.send(event)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(None),
        Err(_) => Err(Some(Status::resource_exhausted(format!(
            "fell_behind: nothing was read for {} s; watch again",
            MAX_STALL.as_secs()
        )))),
    }
}
