//! The side of the process that takes over.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::Path,
    sync::Arc,
    time::Duration,
};

use causeway_host::{handed::HandedSockets, handover::HandoverChannel, listen::connect_unix};
use causeway_instances::KnownHealth;
use causeway_tunnel::{DatagramRelay, Predecessor, ThreadPlaces};

use super::{
    SOCKET,
    messages::{Agreed, Answer, LetGo, Ready, Started, TakeOverRequest, VERSION},
};
use crate::gateway::Handed;

/// Longest wait for the next word of the running gateway, which closes its files before the last.
const PATIENCE: Duration = Duration::from_secs(20);

/// Facts of a process that wants to take over, and its needs.
#[derive(Debug, Clone)]
pub(crate) struct TakeOverCandidate {
    /// Name with its trust domain, as in its certificate.
    pub(crate) gateway: String,
    pub(crate) threads: usize,
    /// Address of tunnels.
    pub(crate) listen: SocketAddr,
    /// Addresses without which it does not start: of TCP, and of those that are served over UDP too.
    pub(crate) tcp: Vec<SocketAddr>,
    pub(crate) dns: Vec<SocketAddr>,
}

/// Reason that nothing was taken over. The running gateway goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeOverError {
    #[error("the running gateway does not hand over: {0}")]
    Refused(String),
    #[error("cannot take over from the running gateway")]
    Broken(#[from] io::Error),
    #[error("cannot listen on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// Everything that was taken over.
#[derive(Debug)]
pub(crate) struct TakenOver {
    pub(crate) handed: Handed,
    /// `None`: the process before is gone.
    channel: Option<HandoverChannel>,
}

impl TakenOver {
    /// Tells the process before that this one serves.
    pub(crate) fn started(self) {
        if let Some(mut channel) = self.channel {
            let told = serde_json::to_vec(&Started {}).map_err(io::Error::other);
            if let Err(error) = told.and_then(|message| channel.send(&message)) {
                tracing::info!(%error, "the process before has ended");
            }
        }
    }
}

/// Takes over from the gateway that runs with this data folder; `None`: there is none. When this returns, that gateway has let go.
///
/// # Errors
/// When it refuses, or something is missing here. It goes on then.
pub(crate) async fn take_over(
    data: &Path,
    candidate: TakeOverCandidate,
) -> Result<Option<TakenOver>, TakeOverError> {
    let stream = match connect_unix(&data.join(SOCKET)).await {
        Ok(stream) => stream.into_std()?,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let talk = tokio::task::spawn_blocking(move || talk(HandoverChannel::new(stream, PATIENCE)?, &candidate));
    talk.await.map_err(io::Error::other)?.map(Some)
}

fn talk(mut channel: HandoverChannel, candidate: &TakeOverCandidate) -> Result<TakenOver, TakeOverError> {
    let ask = TakeOverRequest {
        version: VERSION,
        program: concat!("causeway ", env!("CARGO_PKG_VERSION")).to_owned(),
        gateway: candidate.gateway.clone(),
        threads: candidate.threads,
        listen: Some(candidate.listen),
    };
    let message = serde_json::to_vec(&ask).map_err(io::Error::other)?;
    channel.send(&message)?;
    let answer: Answer = serde_json::from_slice(&channel.receive()?).map_err(io::Error::from)?;
    let agreed = match answer {
        Answer::Refused { why } => return Err(TakeOverError::Refused(why)),
        Answer::Agreed(agreed) => agreed,
    };
    let sockets = channel.receive_sockets(agreed.sockets)?;
    let (predecessor, sockets) = sort(&agreed, candidate.threads, sockets)?;
    bind_the_rest(candidate, &sockets)?;
    let message = serde_json::to_vec(&Ready {}).map_err(io::Error::other)?;
    channel.send(&message)?;
    let let_go = channel.receive();
    let (health, channel) = match let_go {
        Ok(bytes) => {
            let let_go: LetGo = serde_json::from_slice(&bytes).map_err(io::Error::from)?;
            (let_go.known_health(), Some(channel))
        }
        // It was killed, or told to end: its files are waited for, and what it had goes on here.
        Err(error) => {
            tracing::warn!(%error, "the running gateway was gone before it had let go");
            (KnownHealth::new(), None)
        }
    };
    Ok(TakenOver {
        handed: Handed {
            sockets,
            health,
            tunnels: Some(predecessor),
        },
        channel,
    })
}

/// Tells the ways to the processes before from the sockets that are listened on.
fn sort(agreed: &Agreed, threads: usize, sockets: Vec<OwnedFd>) -> io::Result<(Predecessor, HandedSockets)> {
    let mut sockets = VecDeque::from(sockets);
    let mut relays = Vec::with_capacity(1 + agreed.relays.len());
    let all: Vec<ThreadPlaces> = [agreed.places]
        .into_iter()
        .chain(agreed.relays.iter().copied())
        .collect();
    for places in all {
        let socket = sockets.pop_front().ok_or(io::ErrorKind::UnexpectedEof)?;
        relays.push(Arc::new(DatagramRelay::new(places, UnixDatagram::from(socket))?));
    }
    let predecessor = Predecessor {
        start_id: agreed.start_id,
        places: agreed.places.next(threads),
        relays,
    };
    Ok((predecessor, HandedSockets::inherited(sockets)))
}

/// Binds what the process before did not have, so that a start fails before anything has moved.
fn bind_the_rest(candidate: &TakeOverCandidate, sockets: &HandedSockets) -> Result<(), TakeOverError> {
    let fixed = |address: &&SocketAddr| address.port() != 0;
    let bind = |address| move |source| TakeOverError::Bind { address, source };
    for address in candidate.tcp.iter().chain(&candidate.dns).filter(fixed) {
        sockets.listen_too(*address).map_err(bind(*address))?;
    }
    for address in candidate.dns.iter().filter(fixed) {
        sockets.bind_udp_too(*address).map_err(bind(*address))?;
    }
    Ok(())
}
