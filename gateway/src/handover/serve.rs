//! The side of the running gateway: it waits for a successor, and hands over once one is ready.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use causeway_host::{handed::AnySocket, handover::HandoverChannel, listen::bind_unix};
use causeway_instances::KnownHealth;
use causeway_tunnel::{DatagramRelay, Succession};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::{UnixListener, UnixStream};

use super::{
    Incumbent, SOCKET,
    judge::judge,
    messages::{Agreed, Answer, LetGo, Ready, Started, TakeOverRequest},
    steps::{Step, WithoutSuccessor},
};

/// Only the owner of the process may open the socket.
const SOCKET_MODE: u32 = 0o600;
/// Longest wait for the next word of a successor.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time that a successor may take to start once this process has let go.
const START_MAY_TAKE: Duration = Duration::from_secs(60);
/// Pause after a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// Sockets and facts that are handed over before the moment.
pub(crate) struct Offer {
    pub(crate) incumbent: Incumbent,
    pub(crate) succession: Succession,
    pub(crate) sockets: Vec<Arc<AnySocket>>,
}

/// A process that is ready to take over.
pub(crate) struct Successor {
    channel: HandoverChannel,
    /// End at which it relays what is still for this process.
    relay: UnixDatagram,
}

/// Way to tell it that this process has let go.
pub(crate) struct WaitingSuccessor(HandoverChannel);

/// Takes the connections of processes that want to take over.
#[derive(Debug)]
pub(crate) struct HandoverServer {
    listener: UnixListener,
    path: PathBuf,
}

/// Reason that nothing was handed over, and the step that it had come to.
#[derive(Debug, thiserror::Error)]
#[error("the successor was gone {}", .at.words())]
struct Broken {
    at: Step,
    #[source]
    source: io::Error,
}

impl HandoverServer {
    /// Binds the socket in the place of that of the process before.
    ///
    /// # Errors
    /// When the folder's file system has none.
    pub(crate) fn bind(data: &Path) -> io::Result<Self> {
        let path = data.join(SOCKET);
        let listener = bind_unix(&path, SOCKET_MODE)?;
        Ok(Self { listener, path })
    }

    /// Waits for a process that may take over and is ready to. Those that are not are told why, or are gone. Dropping it refuses the one
    /// that is at hand.
    pub(crate) async fn next(&self, offer: impl Fn() -> Offer) -> Successor {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a successor cannot be taken");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let offer = offer();
            let talk = tokio::task::spawn_blocking(move || talk(stream, &offer));
            match talk.await {
                Ok(Ok(Some(successor))) => return successor,
                Ok(Ok(None)) => {}
                Ok(Err(broken)) => {
                    let error = &broken as &dyn std::error::Error;
                    tracing::warn!(error, "nothing was handed over; this process goes on");
                }
                Err(error) => tracing::error!(%error, "a hand-over has failed; this process goes on"),
            }
        }
    }

    /// Removes the socket, where no successor has its own in its place.
    pub(crate) fn remove(self) {
        let _ = std::fs::remove_file(self.path);
    }
}

fn say(channel: &mut HandoverChannel, message: &impl Serialize) -> io::Result<()> {
    channel.send(&serde_json::to_vec(message)?)
}

fn hear<M: DeserializeOwned>(channel: &mut HandoverChannel) -> io::Result<M> {
    Ok(serde_json::from_slice(&channel.receive()?)?)
}

/// Talks to a process until it is ready to take over. `None`: it may not, and was told why.
fn talk(stream: UnixStream, offer: &Offer) -> Result<Option<Successor>, Broken> {
    let broken = |at| move |source| Broken { at, source };
    let connected = broken(Step::Connected);
    let stream = stream.into_std().map_err(connected)?;
    let mut channel = HandoverChannel::new(stream, PATIENCE).map_err(connected)?;
    let user = channel.user().map_err(connected)?;
    let ask: TakeOverRequest = hear(&mut channel).map_err(connected)?;
    if let Err(why) = judge(&offer.incumbent, user, &ask) {
        tracing::warn!(
            why,
            program = ask.program,
            "refused to hand over; this process goes on"
        );
        say(&mut channel, &Answer::Refused { why }).map_err(connected)?;
        return Ok(None);
    }
    let agreed = broken(Step::Agreed);
    let relay = give(&mut channel, offer).map_err(agreed)?;
    let Ready {} = hear(&mut channel).map_err(agreed)?;
    Ok(Some(Successor { channel, relay }))
}

/// Gives what a successor needs to prepare itself, and returns this end of the relay.
fn give(channel: &mut HandoverChannel, offer: &Offer) -> io::Result<UnixDatagram> {
    let (ahead, behind) = DatagramRelay::pair()?;
    let Succession {
        start_id,
        places,
        relays,
    } = &offer.succession;
    let ahead: Arc<UnixDatagram> = Arc::new(ahead);
    let mut sockets: Vec<Arc<AnySocket>> = vec![ahead];
    sockets.extend(relays.iter().map(|(_, socket)| Arc::clone(socket)));
    sockets.extend(offer.sockets.iter().map(Arc::clone));
    let agreed = Agreed {
        start_id: *start_id,
        places: *places,
        relays: relays.iter().map(|(places, _)| *places).collect(),
        sockets: sockets.len(),
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
    /// Tells it that this process has let go, and waits until it serves, or is gone.
    pub(crate) fn tell(self, health: &KnownHealth) {
        let Self(mut channel) = self;
        let told = say(&mut channel, &LetGo::new(health)).map_err(|source| Broken {
            at: Step::Ready,
            source,
        });
        let heard = told.and_then(|()| {
            channel
                .be_patient(START_MAY_TAKE)
                .and_then(|()| hear(&mut channel))
                .map_err(|source| Broken {
                    at: Step::LetGo,
                    source,
                })
        });
        match heard {
            Ok(Started {}) => tracing::info!("the successor serves; this process finishes what it holds"),
            Err(broken) => {
                debug_assert_eq!(broken.at.without_successor(), WithoutSuccessor::FinishesOnly);
                let error = &broken as &dyn std::error::Error;
                tracing::error!(
                    error,
                    hint = "start the gateway again: what this process holds is finished, and nobody takes new connections",
                    "the successor has failed after it had taken over"
                );
            }
        }
    }
}
