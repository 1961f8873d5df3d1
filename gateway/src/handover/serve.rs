//! The side of the running gateway: it waits for a successor, and hands over once one is ready. One process at a time may be on its way to
//! that; any other is refused in words.

use std::{
    convert::Infallible,
    io,
    net::Shutdown,
    os::unix::net::{UnixDatagram, UnixStream as StdUnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use causeway_host::{
    handed::{AnySocket, HandedSockets, OwnUnixSocket, is_datagram},
    handover::HandoverChannel,
    listen::{SocketFile, bind_unix},
};
use causeway_routing::limits::CarriedLimits;
use causeway_tunnel::{DatagramRelay, Succession};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::oneshot,
};

use super::{
    Incumbent, SOCKET,
    judge::judge,
    messages::{
        Agreed, Answer, AppliedText, LetGo, LimitsLeft, Ready, Started, TakeOverRequest, UnixSocketFile,
    },
    steps::Step,
};
use crate::gateway::Findings;

/// Only the owner of the process may open the socket.
const SOCKET_MODE: u32 = 0o600;
/// Longest time for each word of a successor, and for each that it takes: whoever needs longer has nothing handed over.
const WORD_MAY_TAKE: Duration = Duration::from_secs(10);
/// Longest time for each word of a process that is refused because another is at hand.
const REFUSAL_MAY_TAKE: Duration = Duration::from_secs(1);
/// Longest time that a successor may take to start once this process has let go.
const START_MAY_TAKE: Duration = Duration::from_secs(60);
/// Interval at which a successor that serves is told what this process still holds, if that has changed, and if it has not.
const TELL_EVERY: Duration = Duration::from_millis(50);
const REPEAT_EVERY: Duration = Duration::from_secs(2);
/// Pause after a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(100);
/// Words for a process that comes while another is at hand.
const BUSY: &str = "another process takes its place already: wait until that serves, or has ended";

/// Sockets and facts that are handed over before the moment.
#[derive(Clone)]
pub(crate) struct Offer {
    pub(crate) incumbent: Incumbent,
    pub(crate) succession: Succession,
    pub(crate) sockets: Vec<Arc<AnySocket>>,
    pub(crate) unix: Vec<OwnUnixSocket>,
    pub(crate) topology: AppliedText,
}

impl Offer {
    /// Keeps open only what this process needs itself, and the socket at which another successor comes.
    pub(crate) fn close_listeners(&mut self) {
        self.sockets.retain(|socket| is_datagram(socket));
        self.unix.retain(|unix| unix.path.ends_with(SOCKET));
    }
}

/// A process that is ready to take over.
pub(crate) struct Successor {
    channel: HandoverChannel,
    /// End at which it relays what is still for this process.
    relay: UnixDatagram,
    /// Its id; `None`: the kernel does not say.
    pub(crate) process: Option<u32>,
    /// It goes on with unix sockets.
    pub(crate) takes_unix: bool,
}

/// Way to tell it that this process has let go.
pub(crate) struct WaitingSuccessor(HandoverChannel);

/// A successor that serves, and goes on listening to what this process still holds.
pub(crate) struct ServingSuccessor(HandoverChannel);

/// Takes the connections of processes that want to take over.
#[derive(Debug)]
pub(crate) struct HandoverServer {
    listener: Arc<UnixListener>,
    file: Arc<SocketFile>,
    /// A process is on its way to take over.
    is_busy: AtomicBool,
    word_may_take: Duration,
}

/// Reason that nothing was handed over, and the step that it had come to.
#[derive(Debug, thiserror::Error)]
#[error("the successor was lost {}", .at.words())]
struct Broken {
    at: Step,
    #[source]
    source: io::Error,
}

impl HandoverServer {
    /// Binds the socket, or goes on with that of the process before.
    ///
    /// # Errors
    /// When the folder's file system has none.
    pub(crate) fn bind(data: &Path, handed: &HandedSockets) -> io::Result<Self> {
        let path = data.join(SOCKET);
        let listener = match handed.take_unix(&path) {
            Some(listener) => UnixListener::from_std(listener)?,
            None => bind_unix(&path, SOCKET_MODE)?,
        };
        let (listener, file) = (Arc::new(listener), Arc::new(SocketFile::new(&path)));
        handed.keep_unix(&file, &listener);
        Ok(Self {
            listener,
            file,
            is_busy: AtomicBool::new(false),
            word_may_take: WORD_MAY_TAKE,
        })
    }

    /// Tells whether a process is on its way to take over.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    /// Waits for a process that may take over and is ready to. Those that are not are told why, or are given up. Dropping it ends the
    /// conversation with the one that is at hand.
    pub(crate) async fn next(&self, offer: impl Fn() -> Offer) -> Successor {
        loop {
            let stream = self.accept().await;
            let talking = self.talk_with(stream, offer());
            if let Some(successor) = self.refuse_others(talking).await {
                return successor;
            }
        }
    }

    /// Waits for what becomes of the process that is at hand, and refuses all others meanwhile.
    pub(crate) async fn refuse_others<T>(&self, until: impl Future<Output = T>) -> T {
        self.is_busy.store(true, Ordering::Relaxed);
        let done = tokio::select! {
            biased;
            done = until => done,
            never = self.refuse_all() => match never {},
        };
        self.is_busy.store(false, Ordering::Relaxed);
        done
    }

    async fn refuse_all(&self) -> Infallible {
        loop {
            let stream = self.accept().await;
            let process = process_of(&stream);
            tracing::warn!(process, why = BUSY, "refused to hand over; this process goes on");
            // It hears that even if the other one is done meanwhile.
            let refusing = tokio::spawn(converse(stream, REFUSAL_MAY_TAKE, refuse));
            if let Ok(Err(error)) = refusing.await {
                tracing::debug!(%error, "a process is gone that was to be refused");
            }
        }
    }

    async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "a successor cannot be taken");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Talks to a process until it is ready to take over. `None`: it may not, and was told why, or was given up.
    async fn talk_with(&self, stream: UnixStream, offer: Offer) -> Option<Successor> {
        let process = process_of(&stream);
        let talking = converse(stream, self.word_may_take, move |channel| {
            Ok(talk(channel, process, &offer))
        });
        let talked = talking.await.map_err(|source| Broken {
            at: Step::Connected,
            source,
        });
        talked.flatten().unwrap_or_else(|broken| {
            let error = &broken as &dyn std::error::Error;
            tracing::warn!(error, process, "nothing was handed over; this process goes on");
            None
        })
    }

    /// Removes the socket, where no successor has it.
    pub(crate) fn remove(self) {
        self.file.remove();
    }
}

/// Ends a conversation when it is dropped, whoever waits in it.
struct ConversationEnd(Option<StdUnixStream>);

impl Drop for ConversationEnd {
    fn drop(&mut self) {
        if let Some(stream) = &self.0 {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Has a conversation on a thread that may wait. It ends at once where nobody waits any more for what comes of it: this process must not
/// live on for it.
async fn converse<T: Send + 'static>(
    stream: UnixStream,
    patience: Duration,
    talk: impl FnOnce(HandoverChannel) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let stream = stream.into_std()?;
    let mut end = ConversationEnd(Some(stream.try_clone()?));
    let channel = HandoverChannel::new(stream, patience)?;
    let talked = tokio::task::spawn_blocking(move || talk(channel)).await;
    end.0 = None;
    talked.map_err(io::Error::other).flatten()
}

fn process_of(stream: &UnixStream) -> Option<u32> {
    stream.peer_cred().ok()?.pid()?.try_into().ok()
}

fn say(channel: &mut HandoverChannel, message: &impl Serialize) -> io::Result<()> {
    channel.send(&serde_json::to_vec(message)?)
}

fn hear<M: DeserializeOwned>(channel: &mut HandoverChannel) -> io::Result<M> {
    Ok(serde_json::from_slice(&channel.receive()?)?)
}

/// Hears what a process wants, which waits for the answer only then, and refuses it.
fn refuse(mut channel: HandoverChannel) -> io::Result<()> {
    channel.receive()?;
    let why = BUSY.to_owned();
    say(&mut channel, &Answer::Refused { why })
}

/// Talks to a process until it is ready to take over. `None`: it may not, and was told why.
fn talk(
    mut channel: HandoverChannel,
    process: Option<u32>,
    offer: &Offer,
) -> Result<Option<Successor>, Broken> {
    let broken = |at| move |source| Broken { at, source };
    let connected = broken(Step::Connected);
    let user = channel.user().map_err(connected)?;
    let ask: TakeOverRequest = hear(&mut channel).map_err(connected)?;
    if let Err(why) = judge(&offer.incumbent, user, &ask) {
        tracing::warn!(
            why,
            process,
            program = ask.program,
            "refused to hand over; this process goes on"
        );
        say(&mut channel, &Answer::Refused { why }).map_err(connected)?;
        return Ok(None);
    }
    let agreed = broken(Step::Agreed);
    let takes_unix = ask.takes_unix;
    let relay = give(&mut channel, offer, takes_unix).map_err(agreed)?;
    let Ready {} = hear(&mut channel).map_err(agreed)?;
    Ok(Some(Successor {
        channel,
        relay,
        process,
        takes_unix,
    }))
}

/// Gives what a successor needs to prepare itself, and returns this end of the relay.
fn give(channel: &mut HandoverChannel, offer: &Offer, takes_unix: bool) -> io::Result<UnixDatagram> {
    let (ahead, behind) = DatagramRelay::pair()?;
    let Succession {
        start_id,
        places,
        relays,
    } = &offer.succession;
    let unix: &[OwnUnixSocket] = match takes_unix {
        true => &offer.unix,
        false => &[],
    };
    let ahead: Arc<UnixDatagram> = Arc::new(ahead);
    let mut sockets: Vec<Arc<AnySocket>> = vec![ahead];
    sockets.extend(relays.iter().map(|(_, socket)| Arc::clone(socket)));
    sockets.extend(offer.sockets.iter().map(Arc::clone));
    sockets.extend(unix.iter().map(|unix| Arc::clone(&unix.socket)));
    let agreed = Agreed {
        start_id: *start_id,
        places: *places,
        relays: relays.iter().map(|(places, _)| *places).collect(),
        sockets: sockets.len(),
        unix: unix.iter().map(UnixSocketFile::of).collect(),
        topology: offer.topology.clone(),
    };
    say(channel, &Answer::Agreed(agreed))?;
    channel.send_sockets(&sockets)?;
    Ok(behind)
}

impl Successor {
    pub(crate) fn split(self) -> (UnixDatagram, WaitingSuccessor) {
        (self.relay, WaitingSuccessor(self.channel))
    }
}

impl WaitingSuccessor {
    /// Tells it that this process has let go, and waits until it serves, or is given up. `None`: it does not serve.
    pub(crate) async fn tell(self, findings: &Findings) -> Option<ServingSuccessor> {
        let let_go = LetGo::new(findings);
        let (heard, hearing) = oneshot::channel();
        // Not one of the runtime's threads, whose end waits for what they do.
        std::thread::spawn(move || {
            // Nobody waits if this process ends meanwhile.
            let _ = heard.send(self.tell_and_hear(&let_go));
        });
        let told = hearing.await.map_err(|_| Broken {
            at: Step::LetGo,
            source: io::ErrorKind::Other.into(),
        });
        match told.flatten() {
            Ok(serving) => {
                tracing::info!("the successor serves; this process finishes what it holds");
                Some(serving)
            }
            Err(broken) => {
                let error = &broken as &dyn std::error::Error;
                tracing::error!(
                    error,
                    hint = "start the gateway again, with --take-over: clients wait for it a while",
                    "the successor has failed after it had taken over"
                );
                None
            }
        }
    }

    fn tell_and_hear(self, let_go: &LetGo) -> Result<ServingSuccessor, Broken> {
        let Self(mut channel) = self;
        let broken = |at| move |source| Broken { at, source };
        say(&mut channel, let_go).map_err(broken(Step::Ready))?;
        channel.be_patient(START_MAY_TAKE);
        let Started {} = hear(&mut channel).map_err(broken(Step::LetGo))?;
        channel.be_patient(WORD_MAY_TAKE);
        Ok(ServingSuccessor(channel))
    }
}

impl ServingSuccessor {
    /// Tells it what is left of limits, and then what this process still holds (`held`, without rates, which change by themselves), whenever that
    /// has changed. Returns once it cannot be told any more; dropping it says that nothing is held.
    pub(crate) async fn keep_told(self, left: CarriedLimits, held: impl Fn() -> CarriedLimits) {
        let Self(mut channel) = self;
        let (words, waiting) = sync_channel::<LimitsLeft>(1);
        // Not one of the runtime's threads, as above.
        std::thread::spawn(move || {
            while let Ok(word) = waiting.recv() {
                if say(&mut channel, &word).is_err() {
                    // One of a version that does not listen, or it has ended.
                    return;
                }
            }
        });
        if words.send(LimitsLeft::of(left)).is_err() {
            return;
        }
        let (mut last, mut said) = (None, Instant::now());
        loop {
            let now = LimitsLeft::of(held());
            if last.as_ref() != Some(&now) || said.elapsed() >= REPEAT_EVERY {
                match words.try_send(now.clone()) {
                    Ok(()) => (last, said) = (Some(now), Instant::now()),
                    Err(TrySendError::Full(_)) => {}
                    Err(TrySendError::Disconnected(_)) => return,
                }
            }
            tokio::time::sleep(TELL_EVERY).await;
        }
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
