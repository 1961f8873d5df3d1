//! The side of the process that takes over.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use causeway_control::reload::{LoadError, load};
use causeway_federation::topology::parse;
use causeway_host::{handed::HandedSockets, handover::HandoverChannel, listen::connect_unix};
use causeway_routing::limits::CarriedLimits;
use causeway_tunnel::{DatagramRelay, Predecessor, ThreadPlaces};

use super::{
    SOCKET,
    messages::{Agreed, Answer, AppliedText, LetGo, LimitsLeft, Ready, Started, TakeOverRequest, VERSION},
};
use crate::gateway::{Findings, Handed};

/// Longest time for each word of the running gateway, which closes its files before the last.
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
    pub(crate) ruled_by: RuledBy,
}

/// Source of the topology that a process would serve by.
#[derive(Debug, Clone)]
pub(crate) enum RuledBy {
    /// It has been read by now.
    File,
    /// The topology that was applied last, in a file that one process has at a time; while nothing was, the initial one.
    Applied { initial: Option<PathBuf> },
}

/// Reason that nothing was taken over. The running gateway goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeOverError {
    #[error("the running gateway does not hand over: {0}")]
    Refused(String),
    #[error("cannot take over from the running gateway")]
    Broken(#[from] io::Error),
    #[error("the topology that would rule cannot be used")]
    Topology(#[source] LoadError),
    #[error("nothing was applied yet, and there is no --initial-topology")]
    NoTopology,
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
    /// Tells whether the process before has ended.
    pub(crate) fn is_gone(&self) -> bool {
        self.channel.as_ref().is_none_or(HandoverChannel::is_gone)
    }

    /// Tells the process before that this one serves, and goes on with what that says of limits until it has ended.
    pub(crate) fn started(self, carry_limits: impl Fn(&CarriedLimits) + Send + 'static) {
        let Some(mut channel) = self.channel else {
            return carry_limits(&CarriedLimits::default());
        };
        let told = serde_json::to_vec(&Started {}).map_err(io::Error::other);
        let told = told.and_then(|message| channel.send(&message));
        if let Err(error) = &told {
            tracing::info!(%error, "the process before has ended");
        }
        // It waits, and the end of this process must not wait for it.
        std::thread::spawn(move || {
            while let Ok(word) = channel.receive() {
                // One that is not understood says nothing.
                if let Ok(left) = serde_json::from_slice::<LimitsLeft>(&word) {
                    carry_limits(&left.limits());
                }
            }
            carry_limits(&CarriedLimits::default());
        });
    }
}

/// Takes over from the gateway that runs with this data folder; `None`: there is none, or it was gone before anything had moved. When this
/// returns, that gateway has let go, or is gone.
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
    talk.await.map_err(io::Error::other)?
}

fn talk(
    mut channel: HandoverChannel,
    candidate: &TakeOverCandidate,
) -> Result<Option<TakenOver>, TakeOverError> {
    let given = ask(&mut channel, candidate);
    let (predecessor, sockets, topology) = match given {
        Err(TakeOverError::Broken(error)) if is_gone(&error) => {
            tracing::warn!(%error, "the running gateway was gone before it had handed anything over");
            return Ok(None);
        }
        given => given?,
    };
    check_topology(candidate, &topology)?;
    bind_the_rest(candidate, &sockets)?;
    let (findings, channel) = match wait_for_the_moment(&mut channel) {
        Ok(findings) => (findings, Some(channel)),
        // It was killed, or told to end: its files are waited for, and what it had goes on here.
        Err(error) if is_gone(&error) => {
            tracing::warn!(%error, "the running gateway was gone before it had let go");
            (Findings::default(), None)
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Some(TakenOver {
        handed: Handed {
            sockets,
            findings,
            tunnels: Some(predecessor),
        },
        channel,
    }))
}

/// Tells whether the other end has closed, and is not merely late or not understood.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// Asks the running gateway for its sockets, and the topology that was applied to it.
fn ask(
    channel: &mut HandoverChannel,
    candidate: &TakeOverCandidate,
) -> Result<(Predecessor, HandedSockets, AppliedText), TakeOverError> {
    let ask = TakeOverRequest {
        version: VERSION,
        program: concat!("causeway ", env!("CARGO_PKG_VERSION")).to_owned(),
        gateway: candidate.gateway.clone(),
        threads: candidate.threads,
        listen: Some(candidate.listen),
        takes_unix: true,
    };
    channel.send(&serde_json::to_vec(&ask).map_err(io::Error::other)?)?;
    let answer: Answer = serde_json::from_slice(&channel.receive()?).map_err(io::Error::other)?;
    let mut agreed = match answer {
        Answer::Refused { why } => return Err(TakeOverError::Refused(why)),
        Answer::Agreed(agreed) => agreed,
    };
    let sockets = channel.receive_sockets(agreed.sockets)?;
    let topology = std::mem::take(&mut agreed.topology);
    let (predecessor, sockets) = sort(agreed, candidate.threads, sockets)?;
    Ok((predecessor, sockets, topology))
}

/// Reads what would rule: a program that cannot, as an earlier one may not, is not to be the only one there is.
fn check_topology(candidate: &TakeOverCandidate, applied: &AppliedText) -> Result<(), TakeOverError> {
    let RuledBy::Applied { initial } = &candidate.ruled_by else {
        return Ok(());
    };
    let parsed = match (applied, initial) {
        (AppliedText::Text(text), _) => {
            parse(text, "the applied topology").map_err(|findings| LoadError::Invalid(Box::new(findings)))
        }
        (AppliedText::Nothing, Some(path)) => load(path),
        (AppliedText::Nothing, None) => return Err(TakeOverError::NoTopology),
        // It is found out when the file is opened.
        (AppliedText::Untold, _) => return Ok(()),
    };
    parsed.map(drop).map_err(TakeOverError::Topology)
}

/// Says that all is prepared, and waits until the running gateway has let go.
fn wait_for_the_moment(channel: &mut HandoverChannel) -> io::Result<Findings> {
    channel.send(&serde_json::to_vec(&Ready {}).map_err(io::Error::other)?)?;
    let let_go: LetGo = serde_json::from_slice(&channel.receive()?).map_err(io::Error::other)?;
    Ok(let_go.findings())
}

/// Tells the ways to the processes before from the sockets that are listened on.
fn sort(agreed: Agreed, threads: usize, sockets: Vec<OwnedFd>) -> io::Result<(Predecessor, HandedSockets)> {
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
    let others = sockets.len().saturating_sub(agreed.unix.len());
    let unix = sockets.split_off(others);
    let handed = HandedSockets::inherited(sockets);
    for (file, socket) in agreed.unix.into_iter().zip(unix) {
        handed.take_up_unix((file.path.into(), file.number), socket);
    }
    Ok((predecessor, handed))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_could_not_read_what_would_rule_takes_nothing_over() {
        let folder = tempfile::tempdir().unwrap();
        let [good, bad] = ["good.yaml", "bad.yaml"].map(|name| folder.path().join(name));
        let text = "version: 1\ntrust_domain: acme\nzones: { east: { gateways: [] } }\n\
            services: { orders: { port: 9000, protocol: tcp } }\n";
        std::fs::write(&good, text).unwrap();
        std::fs::write(&bad, "version: 1\nzones: 7\n").unwrap();
        let ruled_by = |initial: Option<&PathBuf>| TakeOverCandidate {
            gateway: String::new(),
            threads: 1,
            listen: "127.0.0.1:0".parse().unwrap(),
            tcp: Vec::new(),
            dns: Vec::new(),
            ruled_by: RuledBy::Applied {
                initial: initial.cloned(),
            },
        };
        let check = |applied: &AppliedText, initial| check_topology(&ruled_by(initial), applied);
        let applied = AppliedText::Text(text.to_owned());
        assert!(
            check(&applied, Some(&bad)).is_ok(),
            "the initial one rules no more"
        );
        let later = AppliedText::Text("version: 99\n".to_owned());
        assert!(matches!(
            check(&later, Some(&good)),
            Err(TakeOverError::Topology(_))
        ));
        assert!(check(&AppliedText::Nothing, Some(&good)).is_ok());
        assert!(matches!(
            check(&AppliedText::Nothing, Some(&bad)),
            Err(TakeOverError::Topology(_))
        ));
        assert!(matches!(
            check(&AppliedText::Nothing, None),
            Err(TakeOverError::NoTopology)
        ));
        assert!(check(&AppliedText::Untold, None).is_ok());
    }
}
