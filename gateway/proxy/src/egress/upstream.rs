//! Upstreams of a client's connection: an instance of this zone, or a gateway of another zone that has one ready. Either is
//! opened by `ask`, is given the client's bytes here, and says for the access log what it is.

use std::{
    future::Future,
    io,
    sync::{Arc, atomic::Ordering},
};

use causeway_federation::name::GatewayId;
use causeway_tunnel::{Stream, StreamCode, Tunnel};
use futures_util::future::BoxFuture;
use tokio::io::AsyncWriteExt as _;

use super::{client::ClientSocket, connection::EstablishedConnection};
use crate::{
    dial::InstanceConnection,
    relay::{self, Socket, linger},
};

/// A connection that an instance is ready for.
#[derive(Debug)]
pub(super) enum Upstream {
    /// Boxed: it is what makes the two differ in size.
    Instance(Box<InstanceConnection>),
    Gateway(GatewayStream),
}

/// Stream to a gateway that has an instance ready.
#[derive(Debug)]
pub(super) struct GatewayStream {
    pub(super) stream: OpenStream,
    pub(super) counted: TunnelStreamGuard,
    /// Number of the instance; 0: the gateway does not say.
    pub(super) instance: u64,
    /// Bytes of the client that went with the header.
    pub(super) early_bytes: u64,
    /// Another stream has given the connection to the instance back.
    pub(super) is_warm: bool,
    /// The connection to the instance is taken back from this one.
    pub(super) is_lent: bool,
}

impl Upstream {
    /// The instance of this zone.
    pub(super) fn instance(&self) -> Option<&str> {
        match self {
            Self::Instance(connection) => Some(&connection.instance.id),
            Self::Gateway(_) => None,
        }
    }

    /// The gateway of another zone.
    pub(super) fn gateway(&self) -> Option<&GatewayId> {
        match self {
            Self::Instance(_) => None,
            Self::Gateway(stream) => Some(stream.counted.peer()),
        }
    }

    /// Gives it the client's first bytes, and returns how many it has been given. A gateway has them already, with the
    /// header.
    pub(super) async fn write_early(&mut self, early: &[u8]) -> io::Result<u64> {
        match self {
            Self::Gateway(stream) => Ok(stream.early_bytes),
            Self::Instance(_) if early.is_empty() => Ok(0),
            Self::Instance(connection) => {
                connection.socket.write_all(early).await?;
                Ok(early.len() as u64)
            }
        }
    }

    /// Returns what moves bytes between it and a client, to the end; `None`: it is gone. There is one future for each pair,
    /// so that none has the room for another.
    pub(super) fn carry(
        self,
        established: EstablishedConnection,
        socket: ClientSocket,
        early_bytes: u64,
    ) -> Option<BoxFuture<'static, ()>> {
        Some(match (self, socket) {
            (Self::Instance(instance), ClientSocket::Plain(socket)) => {
                Box::pin(to_instance(established, socket, *instance, early_bytes))
            }
            (Self::Instance(instance), ClientSocket::Tls(socket)) => {
                Box::pin(to_instance(established, socket, *instance, early_bytes))
            }
            (Self::Gateway(stream), ClientSocket::Plain(socket)) => {
                Box::pin(to_gateway(established, socket, stream)?)
            }
            (Self::Gateway(stream), ClientSocket::Tls(socket)) => {
                Box::pin(to_gateway(established, socket, stream)?)
            }
        })
    }
}

fn to_instance(
    established: EstablishedConnection,
    mut socket: impl Socket + Send,
    instance: InstanceConnection,
    early_bytes: u64,
) -> impl Future<Output = ()> + Send {
    let InstanceConnection {
        own,
        socket: mut instance,
        held,
        load,
        ..
    } = instance;
    let (counters, limits) = (established.counters(early_bytes), established.limits());
    async move {
        let cut = established.cut();
        let mut relayed = relay::sockets(&mut socket, &mut instance, counters, limits, cut).await;
        drop((own, instance, held, load, socket));
        relayed.sent += early_bytes;
        established.finish(relayed);
    }
}

fn to_gateway(
    established: EstablishedConnection,
    mut socket: impl Socket + Send,
    upstream: GatewayStream,
) -> Option<impl Future<Output = ()> + Send> {
    let GatewayStream {
        stream,
        counted,
        early_bytes,
        ..
    } = upstream;
    let Stream { mut send, mut recv } = stream.into_stream()?;
    let counters = established.counters(early_bytes);
    let limits = established.limits();
    Some(async move {
        let cut = established.cut();
        let mut relayed = relay::stream(&mut socket, &mut send, &mut recv, counters, limits, cut).await;
        drop(socket);
        relayed.sent += early_bytes;
        let opened = established.finish(relayed);
        Box::pin(linger(relayed.end, &send)).await;
        drop((counted, opened));
    })
}

/// Counts one stream of a tunnel for as long as it lives.
#[derive(Debug)]
pub(super) struct TunnelStreamGuard(Arc<Tunnel>);

impl TunnelStreamGuard {
    pub(super) fn new(tunnel: Arc<Tunnel>) -> Self {
        tunnel.streams().fetch_add(1, Ordering::Relaxed);
        Self(tunnel)
    }

    pub(super) fn peer(&self) -> &GatewayId {
        self.0.peer()
    }
}

impl Drop for TunnelStreamGuard {
    fn drop(&mut self) {
        self.0.streams().fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that is reset when it is dropped before it was given away.
#[derive(Debug)]
pub(super) struct OpenStream(Option<Stream>);

impl OpenStream {
    pub(super) fn new(stream: Stream) -> Self {
        Self(Some(stream))
    }

    pub(super) fn halves(&mut self) -> io::Result<&mut Stream> {
        self.0.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The stream, for the relay, which ends it itself.
    pub(super) fn into_stream(mut self) -> Option<Stream> {
        self.0.take()
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if let Some(Stream { send, recv }) = &mut self.0 {
            // Each fails only when the peer has ended that half already.
            let _ = send.reset(StreamCode::LostRace);
            let _ = recv.stop(StreamCode::LostRace);
        }
    }
}
