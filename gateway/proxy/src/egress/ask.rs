//! Asks one candidate for a connection to an instance. Dropping an ask takes it back: its stream is reset, and an
//! instance that was connected to has been given no byte.

use std::{
    collections::BTreeMap,
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use causeway_federation::{
    edition::Fingerprint,
    name::{PortName, ServiceName, Tags},
    topology::{ServicePort, ServicePorts},
};
use causeway_host::own_sockets::SocketPair;
use causeway_proto::tunnel::{
    Connect, FrameError, Ready, RefusalReason, StreamHeader, encode_frame, stream_header::Kind,
    stream_reply::Outcome,
};
use causeway_routing::{failures::ConnectFailures, permit::Caller, snapshot::Snapshot, sticky::StickyKey};
use causeway_telemetry::{ConnectionId, ConnectionOutcome, Side, StreamRefusal, TraceContext};
use causeway_tunnel::{
    PORTS, ReadFrameError, ReplyError, SendHalf, Stream, Tunnel, TunnelSet, WriteError, read_reply,
    stream_refusal,
};
use rand::rngs::SmallRng;
use tokio::time::timeout;

use super::{
    early::EarlyBytes,
    upstream::{GatewayStream, OpenStream, TunnelStreamGuard, Upstream},
};
use crate::{
    ProxyMetrics,
    dial::{DialError, Passage, dial, no_descriptor},
};

/// Longest wait for the answer of one candidate, whatever else is under way. An ingress waits for an instance for three
/// seconds, and tries others meanwhile.
const ASK_TIMEOUT: Duration = Duration::from_millis(3500);

/// Reason that a candidate did not become ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum CandidateError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the service has no port of this name any more")]
    UnknownPort,
    #[error("no tunnel to the gateway is up")]
    NoTunnel,
    #[error("refused: {message} ({})", stream_refusal(*reason).word())]
    Refused {
        reason: RefusalReason,
        retryable: bool,
        message: String,
    },
    #[error("the tunnel was lost before the answer")]
    Lost(#[source] io::Error),
    #[error("the answer cannot be used")]
    Reply(#[from] ReplyError),
    #[error("the stream header cannot be sent")]
    Header(#[source] FrameError),
    #[error("no answer in time")]
    Timeout,
}

impl CandidateError {
    /// The connection's outcome, if nobody else is asked.
    pub(super) fn outcome(&self) -> ConnectionOutcome {
        match self {
            Self::Dial(DialError::NoInstance { .. }) => {
                ConnectionOutcome::refused_here(StreamRefusal::NoInstance)
            }
            Self::Dial(DialError::Connect { .. }) => {
                ConnectionOutcome::refused_here(StreamRefusal::ConnectFailed)
            }
            Self::Dial(DialError::NoDescriptor(why)) => ConnectionOutcome::refused_here(no_descriptor(*why)),
            Self::UnknownPort => ConnectionOutcome::refused_here(StreamRefusal::UnknownPort),
            Self::NoTunnel => ConnectionOutcome::NoTunnel,
            Self::Refused { reason, .. } => ConnectionOutcome::Refused {
                by: Side::Peer,
                reason: stream_refusal(*reason),
            },
            Self::Lost(_) | Self::Reply(ReplyError::Read(ReadFrameError::Broken(_))) => {
                ConnectionOutcome::LostUnready
            }
            Self::Reply(_) => ConnectionOutcome::BadReply,
            Self::Header(_) => ConnectionOutcome::refused_here(StreamRefusal::BadHeader),
            Self::Timeout => ConnectionOutcome::NoAnswer,
        }
    }

    /// Tells whether somebody else may be asked. A peer that refuses says so itself: it may know reasons that this program
    /// does not.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { retryable, .. } => *retryable,
            _ => self.outcome().is_retryable(),
        }
    }

    /// Tells whether the candidate itself said that it cannot serve, and would say so again: not one that is going away.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Self::Dial(_) | Self::UnknownPort => true,
            Self::Refused { reason, .. } => *reason != RefusalReason::Draining,
            _ => false,
        }
    }
}

/// Request that is put to a remote candidate.
#[derive(Debug, Clone)]
pub(super) struct ConnectRequest {
    pub(super) service: ServiceName,
    pub(super) port: WantedPort,
    pub(super) tags: Tags,
    pub(super) attempt: u32,
    /// Topology that the decision to ask was made by.
    pub(super) topology: Fingerprint,
    pub(super) connection: ConnectionId,
    pub(super) caller: Arc<Caller>,
    /// Gateways that the client's connection has come through, this one with them.
    pub(super) hops: u8,
    /// Both ends of the client's connection.
    pub(super) client: SocketPair,
    /// Numbers of the instances that have failed the request already.
    pub(super) besides: Vec<u64>,
    pub(super) key: Option<StickyKey>,
    /// Numbers of the instances that are given it if there is no other.
    pub(super) avoid: Vec<u64>,
    /// Bytes of the client that go along.
    pub(super) early: EarlyBytes,
    /// Terms on which a connection to an instance is lent.
    pub(super) lending: Lending,
    /// Place in a trace of what is asked for; `None`: it is in none.
    pub(super) trace: Option<TraceContext>,
}

/// Port of a service, as a far gateway is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedPort {
    /// `None`: the only one, which has no name.
    name: Option<PortName>,
    is_primary: bool,
}

impl WantedPort {
    /// Wish for `port`, which is one of these.
    pub(super) fn of(ports: &ServicePorts, port: &ServicePort) -> Self {
        Self {
            name: port.name.clone(),
            is_primary: port.name == ports.primary.name,
        }
    }

    /// Tells whether a gateway of this tunnel leads to it. One that cannot tell ports apart leads to the primary one.
    fn is_known_over(&self, tunnel: &Tunnel) -> bool {
        self.is_primary || tunnel.capabilities().has(PORTS)
    }
}

/// Terms on which a far gateway lends a connection to an instance, where the stream carries HTTP/1.1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lending {
    /// The end of the stream gives it back.
    pub(super) gives_back: bool,
    /// One that another stream gave back will do.
    pub(super) takes_warm: bool,
}

impl ConnectRequest {
    fn header(&self) -> StreamHeader {
        let caller = &self.caller;
        let (identity, port) = (caller.identity.as_ref(), &self.port.name);
        let trace = self.trace.as_ref();
        StreamHeader {
            kind: Some(Kind::Connect(Connect {
                service: self.service.as_str().to_owned(),
                tags: pairs(&self.tags),
                caller: caller
                    .service
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                caller_tags: pairs(&caller.tags),
                caller_identity: identity.map(ToString::to_string).unwrap_or_default(),
                trace_parent: trace.map(TraceContext::parent).unwrap_or_default(),
                trace_state: trace.map(TraceContext::state).unwrap_or_default(),
                attempt: self.attempt,
                early: !self.early.bytes().is_empty(),
                connection: self.connection.bits(),
                topology: self.topology.compared().to_vec(),
                hops: self.hops.into(),
                client_sockets: self.client.bits(),
                besides: self.besides.clone(),
                sticky: self.key.map_or(0, StickyKey::bits),
                avoid: self.avoid.clone(),
                gives_back: self.lending.gives_back,
                takes_warm: self.lending.takes_warm,
                port: port.as_ref().map(ToString::to_string).unwrap_or_default(),
                primary_port: port.is_some() && self.port.is_primary,
            })),
        }
    }
}

fn pairs(tags: &Tags) -> BTreeMap<String, String> {
    let pairs = tags.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    pairs.collect()
}

/// Asks an instance of this zone.
pub(super) async fn local(
    snapshot: Arc<Snapshot>,
    service: ServiceName,
    tags: Tags,
    metrics: Arc<ProxyMetrics>,
    failures: Arc<dyn ConnectFailures>,
    passage: Passage,
    mut rng: SmallRng,
) -> Result<Upstream, CandidateError> {
    let dialling = dial(
        &snapshot, &service, &tags, &metrics, &*failures, &passage, &mut rng,
    );
    let dialled = dialling.await?;
    Ok(Upstream::Instance(Box::new(dialled)))
}

/// Asks a gateway of another zone over `tunnel`. Waiting for the peer's stream limit counts as waiting for the answer.
///
/// When nothing at all has come on the tunnel within `late`, not even a word that the question arrived, it is asked over
/// another one too, if there is one: so a tunnel that is broken costs no connection a peer that is well.
pub(super) async fn remote(
    tunnels: Arc<TunnelSet>,
    tunnel: Arc<Tunnel>,
    question: ConnectRequest,
    late: Duration,
) -> Result<Upstream, CandidateError> {
    let answering = timeout(
        ASK_TIMEOUT,
        over_one_or_another(&tunnels, &tunnel, &question, late),
    );
    let answer = answering.await;
    let by = match &answer {
        Ok((by, _)) => by,
        Err(_) => &tunnel,
    };
    by.asked(answer.is_ok());
    let (tunnel, stream) = answer.map_err(|_| CandidateError::Timeout)?;
    let ReadyStream {
        stream,
        ready,
        early_bytes,
    } = stream?;
    Ok(Upstream::Gateway(GatewayStream {
        stream,
        instance: ready.instance,
        early_bytes,
        is_warm: ready.warm,
        is_lent: ready.lent,
        counted: TunnelStreamGuard::new(tunnel),
    }))
}

/// A stream of which an instance has become ready.
struct ReadyStream {
    stream: OpenStream,
    ready: Ready,
    /// Bytes of the client that went with its header.
    early_bytes: u64,
}

/// Gives the tunnel that the answer came on, and the answer. The other stream, if there is one, is reset.
async fn over_one_or_another(
    tunnels: &TunnelSet,
    tunnel: &Arc<Tunnel>,
    question: &ConnectRequest,
    late: Duration,
) -> (Arc<Tunnel>, Result<ReadyStream, CandidateError>) {
    let before = tunnel.received_datagrams();
    let mut first = pin!(exchange(tunnel, question));
    loop {
        let begun = Instant::now();
        if let Ok(answer) = timeout(late, &mut first).await {
            return (tunnel.clone(), answer);
        }
        if tunnel.received_datagrams() != before {
            return (tunnel.clone(), first.await);
        }
        // A thread that is so busy that this timer is late has not looked at its tunnels either.
        if begun.elapsed() <= 2 * late {
            break;
        }
    }
    let other = tunnels.choose_besides(tunnel.peer(), tunnel.thread(), Some(tunnel.id()));
    let Some(other) = other.filter(|other| question.port.is_known_over(other)) else {
        return (tunnel.clone(), first.await);
    };
    let again = ConnectRequest {
        early: question.early.beside_others(),
        ..question.clone()
    };
    let mut second = pin!(exchange(&other, &again));
    tokio::select! {
        answer = &mut first => match answer {
            Err(CandidateError::Lost(_)) => (other.clone(), second.await),
            answer => (tunnel.clone(), answer),
        },
        answer = &mut second => match answer {
            Err(CandidateError::Lost(_)) => (tunnel.clone(), first.await),
            answer => (other.clone(), answer),
        },
    }
}

async fn exchange(tunnel: &Tunnel, question: &ConnectRequest) -> Result<ReadyStream, CandidateError> {
    if !question.port.is_known_over(tunnel) {
        return Err(CandidateError::Refused {
            reason: RefusalReason::UnknownPort,
            retryable: true,
            message: "its program cannot tell the ports of a service apart".to_owned(),
        });
    }
    let frame = encode_frame(&question.header()).map_err(CandidateError::Header)?;
    let opened = tunnel.open_bare().await;
    let mut stream = OpenStream::new(opened.map_err(|error| CandidateError::Lost(error.into()))?);
    let Stream { send, recv } = stream.halves().map_err(CandidateError::Lost)?;
    write(send, frame).await?;
    let early = question.early.bytes();
    if !early.is_empty() {
        write(send, early.clone()).await?;
    }
    match read_reply(recv).await? {
        Outcome::Ready(ready) => Ok(ReadyStream {
            stream,
            ready,
            early_bytes: early.len() as u64,
        }),
        Outcome::Refusal(refusal) => Err(CandidateError::Refused {
            reason: refusal.reason(),
            retryable: refusal.retryable,
            message: refusal.message,
        }),
    }
}

/// A peer that stops the stream has an answer to read, so that is not an error yet.
async fn write(send: &mut SendHalf, bytes: Bytes) -> Result<(), CandidateError> {
    match send.write_chunk(bytes).await {
        Ok(()) | Err(WriteError::Stopped(_)) => Ok(()),
        Err(error) => Err(CandidateError::Lost(error.into())),
    }
}
