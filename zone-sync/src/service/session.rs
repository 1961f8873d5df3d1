//! One session: carries messages between a peer's stream and the task until either side ends it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use causeway_federation::name::GatewayId;
use causeway_proto::sync::SyncMessage;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};
use tokio_stream::Stream;
use tonic::{Code, Status, Streaming};

use super::{
    ZoneSync,
    counted::{Counted, Counters},
    task::{SessionEnding, SessionHandle, SyncCommand},
    transport::{self, SessionTasks},
};
use crate::replica::SyncRefusal;

/// Messages that wait for one peer's transport. Each has at most 64 KiB of exports.
const MAX_OUTGOING: usize = 4;
/// Time for which a peer may take to set a session up.
const SETUP: Duration = Duration::from_secs(10);
/// Time for which a session that this side ends waits for the peer to read the last message.
const LINGER: Duration = Duration::from_secs(1);

/// Reason why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SyncSessionError {
    #[error("cannot set up a sync session with {peer} within {} s", SETUP.as_secs())]
    TimedOut { peer: GatewayId },
    #[error("cannot set up a sync session with {peer}")]
    Setup { peer: GatewayId, source: Box<Status> },
    #[error("lost the sync session with {peer}")]
    Lost { peer: GatewayId, source: Box<Status> },
    #[error("ended the sync session with {peer}: {reason}")]
    Refused { peer: GatewayId, reason: &'static str },
    #[error("{peer} ended the sync session: {reason}")]
    RefusedByPeer { peer: GatewayId, reason: &'static str },
    #[error("a newer sync session with {peer} took the place of this one")]
    Replaced { peer: GatewayId },
    #[error("cannot sync with {peer}: zone sync has shut down")]
    ShutDown { peer: GatewayId },
}

/// Queue of what goes out in a session. Tells the task when there is room again after there was none.
pub(super) struct Outgoing {
    messages: mpsc::Receiver<SyncMessage>,
    blocked: Arc<AtomicBool>,
    room: Arc<Notify>,
}

impl Stream for Outgoing {
    type Item = SyncMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SyncMessage>> {
        let next = self.messages.poll_recv(cx);
        if next.is_ready() && self.blocked.swap(false, Ordering::SeqCst) {
            self.room.notify_one();
        }
        next
    }
}

/// One end of a session that is being set up.
struct Setup {
    peer: GatewayId,
    counters: Arc<Counters>,
    link: SessionHandle,
    ending: oneshot::Receiver<SessionEnding>,
}

fn prepare(sync: &ZoneSync, peer: GatewayId) -> (Setup, Outgoing) {
    let (sender, messages) = mpsc::channel(MAX_OUTGOING);
    let (end, ending) = oneshot::channel();
    let blocked = Arc::<AtomicBool>::default();
    let counters = Arc::<Counters>::default();
    let outgoing = Outgoing {
        messages,
        blocked: blocked.clone(),
        room: sync.room.clone(),
    };
    let link = SessionHandle::new(sync.new_session(), sender, blocked, counters.clone(), end);
    let setup = Setup {
        peer,
        counters,
        link,
        ending,
    };
    (setup, outgoing)
}

pub(super) async fn open<S>(sync: &ZoneSync, peer: GatewayId, io: S) -> Result<(), SyncSessionError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let background = SessionTasks::default();
    let (setup, outgoing) = prepare(sync, peer);
    let io = Counted::new(io, setup.counters.clone());
    let call = transport::call(io, &background, outgoing);
    run(sync, setup, &background, call).await
}

pub(super) async fn accept<S>(sync: &ZoneSync, peer: GatewayId, io: S) -> Result<(), SyncSessionError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let background = SessionTasks::default();
    let (setup, outgoing) = prepare(sync, peer);
    let io = Counted::new(io, setup.counters.clone());
    let call = transport::answer(io, &background, outgoing);
    run(sync, setup, &background, call).await
}

async fn run(
    sync: &ZoneSync,
    setup: Setup,
    background: &SessionTasks,
    call: impl Future<Output = Result<Streaming<SyncMessage>, Status>>,
) -> Result<(), SyncSessionError> {
    let Setup {
        peer,
        link,
        mut ending,
        ..
    } = setup;
    let mut incoming = match timeout(SETUP, call).await {
        Err(_) => return Err(SyncSessionError::TimedOut { peer }),
        Ok(Err(status)) => {
            let source = Box::new(status);
            return Err(SyncSessionError::Setup { peer, source });
        }
        Ok(Ok(incoming)) => incoming,
    };
    let session = link.session;
    let opened = SyncCommand::Opened(peer.clone(), link);
    if sync.commands.send(opened).await.is_err() {
        return ended(&peer, None);
    }
    let result = carry(sync, &peer, session, &mut incoming, &mut ending).await;
    // Fails only when the task is gone, and then nobody needs to know.
    let _ = sync.commands.send(SyncCommand::Closed(peer, session)).await;
    if matches!(result, Err(SyncSessionError::Refused { .. })) {
        // The peer closes when it has read why; a peer that does not is not waited for long.
        let _ = timeout(LINGER, background.finished()).await;
    }
    result
}

/// Hands what comes in to the task until the peer or the task ends the session.
async fn carry(
    sync: &ZoneSync,
    peer: &GatewayId,
    session: u64,
    incoming: &mut Streaming<SyncMessage>,
    ending: &mut oneshot::Receiver<SessionEnding>,
) -> Result<(), SyncSessionError> {
    loop {
        // Both are cancel-safe: a message that was not taken stays in the stream.
        let message = tokio::select! {
            biased;
            ending = &mut *ending => return ended(peer, ending.ok()),
            message = incoming.message() => message,
        };
        let (command, lost) = match message {
            Ok(Some(message)) => {
                let command = SyncCommand::Message(peer.clone(), session, message);
                if sync.commands.send(command).await.is_err() {
                    return ended(peer, None);
                }
                continue;
            }
            Ok(None) => (SyncCommand::Closed(peer.clone(), session), None),
            Err(status) => match broken(&status) {
                Some(refusal) => (SyncCommand::Broken(peer.clone(), session, refusal), None),
                None => (SyncCommand::Closed(peer.clone(), session), Some(status)),
            },
        };
        // The task has the last word: what the peer said before it went may be why it went.
        let _ = sync.commands.send(command).await;
        return match (ending.await.ok(), lost) {
            (Some(SessionEnding::Over), Some(status)) => {
                let (peer, source) = (peer.clone(), Box::new(status));
                Err(SyncSessionError::Lost { peer, source })
            }
            (ending, _) => ended(peer, ending),
        };
    }
}

/// Outcome for the caller of a session that the task ended; without a word from the task, it is gone.
fn ended(peer: &GatewayId, ending: Option<SessionEnding>) -> Result<(), SyncSessionError> {
    let peer = peer.clone();
    Err(match ending {
        Some(SessionEnding::Refused(reason)) => SyncSessionError::Refused { peer, reason },
        Some(SessionEnding::RefusedByPeer(reason)) => SyncSessionError::RefusedByPeer { peer, reason },
        Some(SessionEnding::Replaced) => SyncSessionError::Replaced { peer },
        Some(SessionEnding::Over) => return Ok(()),
        None => SyncSessionError::ShutDown { peer },
    })
}

/// Tells whether a failure is the doing of a peer that sent a message which cannot be read, rather than a lost connection.
fn broken(status: &Status) -> Option<SyncRefusal> {
    if std::error::Error::source(status).is_some() {
        return None;
    }
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => Some(SyncRefusal::MessageTooLarge),
        Code::Internal | Code::Unimplemented => Some(SyncRefusal::Malformed("it cannot be decoded")),
        _ => None,
    }
}
