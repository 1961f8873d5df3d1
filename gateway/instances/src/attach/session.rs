//! One attachment to one server: dialling it, and the two streams of the call.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use causeway_federation::{
    name::GatewayId,
    registry::{GatewaySession, wire},
    trust::TrustDocument,
};
use causeway_host::{beside::connect_beside, listen::Io, resolve::NameResolver};
use causeway_identity::Secure;
use causeway_proto::registry as proto;
use causeway_proto::registry::{
    Alive, AttachRequest, Attachment, HealthReport, WatchEvent, attach_request::Request,
    registry_client::RegistryClient,
};
use causeway_routing::snapshot::Health;
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

use super::{Report, ServerAddress, calls::SessionCalls};

/// Longest that dialling a server may take: it is in the same zone.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Longest until a server answers the call.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Interval at which a server is asked whether it is still there; together with the next, 3 s of silence are a loss.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Time for which the answer to that may take.
const PING_LIMIT: Duration = Duration::from_secs(2);
/// Requests that may wait for the server. One that does not take them for a while is given up.
const OUTGOING: usize = 1024;
/// Bytes that a server may send before they are taken in: the instances of a large zone come in one go.
const WINDOW_BYTES: u32 = 4 << 20;
/// Host as HTTP/2 wants one; which server it is was decided by the address.
const HOST: &str = "http://zone-sync";

/// Reason why a server could not be attached to, or was lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    #[error("cannot connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("no answer within {ANSWER_LIMIT:?}")]
    Silent,
    #[error("it refused: {}", .0.message())]
    Refused(Status),
    #[error("the connection broke: {}", .0.message())]
    Broken(Status),
    #[error("it ended the attachment")]
    Ended,
    #[error("it does not take what it is sent")]
    Stuck,
    #[error("it began to tell what it knows and did not go on for {0:?}")]
    Halted(Duration),
    #[error(transparent)]
    Intake(#[from] super::intake::IntakeError),
}

/// An open call to a server.
pub(super) struct AttachSession {
    pub(super) calls: SessionCalls,
    pub(super) requests: mpsc::Sender<AttachRequest>,
    pub(super) events: Streaming<WatchEvent>,
}

impl AttachSession {
    /// Dials the server, says who this is, and begins a session: an attachment of the gateway like no other before.
    pub(super) async fn open(
        server: &ServerAddress,
        (id, session): (&GatewayId, GatewaySession),
        secure: Option<&Secure>,
        resolver: &NameResolver,
    ) -> Result<Self, AttachError> {
        let channel = connect(server, secure, resolver).await;
        let channel = channel.map_err(AttachError::Connect)?;
        let mut client = RegistryClient::new(channel.clone())
            .max_decoding_message_size(wire::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(wire::MAX_MESSAGE_BYTES);
        let (requests, outgoing) = mpsc::channel(OUTGOING);
        let attachment = Request::Attachment(Attachment {
            zone: id.zone.to_string(),
            gateway: id.gateway.to_string(),
            session: session.to_string(),
        });
        // There is room in a queue that is new.
        let _ = requests.try_send(request(attachment));
        let answer = timeout(ANSWER_LIMIT, client.attach(ReceiverStream::new(outgoing))).await;
        let answer = answer.map_err(|_| AttachError::Silent)?;
        Ok(Self {
            events: answer.map_err(AttachError::Refused)?.into_inner(),
            calls: SessionCalls::new(channel, id.gateway.clone(), session),
            requests,
        })
    }
}

pub(super) fn alive() -> AttachRequest {
    request(Request::Alive(Alive {}))
}

pub(super) fn report((key, verdict): Report) -> AttachRequest {
    let health = match verdict.health {
        Health::Healthy => proto::Health::Healthy,
        Health::Unhealthy => proto::Health::Unhealthy,
        Health::Unknown => proto::Health::Unspecified,
    };
    request(Request::Health(HealthReport {
        key: Some(wire::key_message(&key)),
        health: health.into(),
        failure: verdict.failure,
        gateway: verdict.gateway,
    }))
}

/// Message with what the federation trusts, for the server to trust as well.
pub(super) fn trust(document: &TrustDocument) -> AttachRequest {
    request(Request::TrustDocument(document.encode()))
}

fn request(request: Request) -> AttachRequest {
    AttachRequest {
        request: Some(request),
    }
}

async fn connect(
    server: &ServerAddress,
    secure: Option<&Secure>,
    resolver: &NameResolver,
) -> Result<Channel, tonic::transport::Error> {
    let server = server.clone();
    let (secure, resolver) = (secure.cloned(), resolver.clone());
    let is_dialled = Arc::new(AtomicBool::new(false));
    let dial = tower::service_fn(move |_: Uri| {
        let (server, secure, resolver) = (server.clone(), secure.clone(), resolver.clone());
        // A session is one connection: what was said on one that broke may arrive after what is said on the next.
        let was_dialled = is_dialled.swap(true, Ordering::Relaxed);
        async move {
            if was_dialled {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the connection broke",
                ));
            }
            dial(&server, secure.as_ref(), &resolver).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static(HOST)
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_LIMIT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect_with_connector(dial)
        .await
}

/// Connects to the server: to one of this host over the socket beside its address, where it has one for this user.
async fn dial(
    server: &ServerAddress,
    secure: Option<&Secure>,
    resolver: &NameResolver,
) -> io::Result<Box<dyn Io>> {
    if let Some(address) = server.loopback() {
        match (connect_beside(address).await, secure) {
            (Ok(Some(socket)), _) => return Ok(Box::new(socket)),
            (Err(error), None) => return Err(error),
            // A certificate says as much.
            (Ok(None), _) | (Err(_), Some(_)) => {}
        }
    }
    Ok(match server {
        ServerAddress::Tcp { host, port } => {
            let stream = resolver.connect(host, *port).await?;
            stream.set_nodelay(true)?;
            match secure {
                Some(secure) => Box::new(secure.connect(stream).await.map_err(io::Error::other)?),
                None => Box::new(stream),
            }
        }
        ServerAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::mpsc::{Receiver, Sender, channel},
        time::Instant,
    };

    use causeway_host::beside::bind_beside;
    use causeway_proto::registry::RegisterRequest;
    use parking_lot::Mutex;
    use tokio::net::TcpListener;

    use super::*;
    use crate::attach::testing::{Server, Store};

    fn gateway() -> GatewayId {
        GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap())
    }

    #[tokio::test]
    async fn a_server_of_this_host_is_reached_over_the_socket_beside_its_address_where_there_is_one() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = tcp.local_addr().unwrap();
        let server: ServerAddress = address.to_string().parse().unwrap();
        let resolver = NameResolver::default();
        let dialled = dial(&server, None, &resolver).await.unwrap();
        tcp.accept().await.unwrap();
        drop(dialled);
        let socket = bind_beside(address).unwrap();
        let _dialled = dial(&server, None, &resolver).await.unwrap();
        socket.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_session_ends_with_its_connection_and_makes_no_other() {
        let store = Store::default();
        let server = Server::start(&store).await;
        let (address, named) = (server.address, server.server_address());
        let id = (&gateway(), GatewaySession::new(7));
        let opened = AttachSession::open(&named, id, None, &NameResolver::default()).await;
        let mut session = opened.unwrap();
        let call = async || {
            let (mut client, _attempt) = session.calls.attempt();
            client.register(RegisterRequest::default()).await
        };
        call().await.unwrap();
        drop(server);
        while let Ok(Some(_)) = session.events.message().await {}
        let _again = Server::start_at(&store, address).await;
        for _ in 0..3 {
            call().await.unwrap_err();
        }
        assert_eq!(store.attempts().len(), 1);
    }

    #[test]
    fn a_name_that_nobody_answers_for_keeps_no_runtime_from_ending() {
        let (_release, held): (Sender<()>, Receiver<()>) = channel();
        let held = Mutex::new(held);
        let (asked, is_asked) = channel();
        let resolver = NameResolver::with(move |_| {
            let _ = asked.send(());
            let _ = held.lock().recv();
            Ok(Vec::new())
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let server: ServerAddress = "sync1.east.internal".parse().unwrap();
        let opening = async move {
            AttachSession::open(&server, (&gateway(), GatewaySession::new(7)), None, &resolver)
                .await
                .map(drop)
        };
        let opening = runtime.spawn(opening);
        is_asked.recv().unwrap();
        let begun = Instant::now();
        opening.abort();
        drop(runtime);
        // It would be for ever.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
