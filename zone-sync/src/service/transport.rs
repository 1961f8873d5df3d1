//! gRPC over one byte stream: HTTP/2 with hyper, messages with tonic. Whatever hyper runs in the background belongs to
//! the session and ends with it, so that a stalled peer cannot keep a stream that nobody wants any more.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
};

use causeway_proto::sync::{
    SyncMessage,
    zone_sync_client::ZoneSyncClient,
    zone_sync_server::{ZoneSync as Service, ZoneSyncServer},
};
use http::Uri;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Mutex, oneshot},
    task::JoinSet,
};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming, body::Body};

use super::session::Outgoing;
use crate::replica::limits::MAX_MESSAGE_BYTES;

/// Bytes that a peer may send before this side has taken them: two messages. A stalled task thus stalls the peer.
const WINDOW_BYTES: u32 = 2 * 128 * 1024;
/// Bytes that may wait to be written to a peer that does not read.
const MAX_SEND_BUFFER_BYTES: usize = 256 * 1024;
/// A session is one call; one more lets a peer that makes a second be told so.
const MAX_STREAMS: u32 = 2;
/// Longest list of headers in bytes.
const MAX_HEADERS_BYTES: u32 = 8 * 1024;
/// Host as HTTP/2 wants one; the peer is known by its tunnel.
const HOST: &str = "http://zone-sync";

/// The background tasks of one session; they end when this is dropped.
#[derive(Default)]
pub(super) struct SessionTasks(Spawner);

/// Lets hyper start tasks that belong to the session.
#[derive(Clone, Default)]
struct Spawner(Arc<std::sync::Mutex<JoinSet<()>>>);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).spawn(task);
    }
}

impl Drop for SessionTasks {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(|e| e.into_inner()).abort_all();
    }
}

impl SessionTasks {
    /// Waits until the connection is closed and every task has ended.
    pub(super) async fn finished(&self) {
        poll_fn(|cx| {
            let mut tasks = self.0.0.lock().unwrap_or_else(|e| e.into_inner());
            // What a task ended with was logged by the task.
            while ready!(tasks.poll_join_next(cx)).is_some() {}
            Poll::Ready(())
        })
        .await;
    }

    fn run(&self, connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static) {
        hyper::rt::Executor::execute(&self.0, async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection of a zone sync session ended");
            }
        });
    }
}

/// Opens the one call of a session on `io`.
///
/// # Errors
/// When the peer does not speak HTTP/2 or refuses the call.
pub(super) async fn call<S>(
    io: S,
    background: &SessionTasks,
    outgoing: Outgoing,
) -> Result<Streaming<SyncMessage>, Status>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = hyper::client::conn::http2::Builder::new(background.0.clone());
    builder
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .max_header_list_size(MAX_HEADERS_BYTES);
    let handshake = builder.handshake::<_, Body>(TokioIo::new(io)).await;
    let (sender, connection) = handshake.map_err(|error| Status::from_error(error.into()))?;
    background.run(connection);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let mut client = ZoneSyncClient::with_origin(service, Uri::from_static(HOST))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(client.sync(outgoing).await?.into_inner())
}

/// Waits for the one call of a session on `io`.
///
/// # Errors
/// When the connection ends before the peer has called.
pub(super) async fn answer<S>(
    io: S,
    background: &SessionTasks,
    outgoing: Outgoing,
) -> Result<Streaming<SyncMessage>, Status>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (called, call) = oneshot::channel();
    let service = ZoneSyncServer::new(OneCall(Mutex::new(Some((called, outgoing)))))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mut builder = hyper::server::conn::http2::Builder::new(background.0.clone());
    builder
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .max_header_list_size(MAX_HEADERS_BYTES)
        .max_concurrent_streams(MAX_STREAMS);
    background.run(builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(service)));
    call.await
        .map_err(|_| Status::unavailable("the connection ended before a call was made"))
}

/// The server side of a session: takes one call and hands its messages over.
struct OneCall(Mutex<Option<(oneshot::Sender<Streaming<SyncMessage>>, Outgoing)>>);

#[tonic::async_trait]
impl Service for OneCall {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<SyncMessage, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<SyncMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let taken = self.0.lock().await.take();
        let (called, outgoing) = taken.ok_or(Status::already_exists("a session is one call"))?;
        called
            .send(request.into_inner())
            .map_err(|_| Status::cancelled("the session has ended"))?;
        Ok(Response::new(Box::pin(outgoing.map(Ok))))
    }
}
