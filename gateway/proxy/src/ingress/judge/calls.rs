//! Calls on a stream that speaks HTTP/2: each is read, judged, and made anew on the instance's connection. Frames cannot be judged as they
//! pass, because their fields are packed with regard to all that came before.

use std::{error::Error, pin::pin, sync::Arc};

use bytes::Bytes;
use causeway_telemetry::ConnectionOutcome;
use h2::Reason;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Either, Full, combinators::MapFrame};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
    server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::JudgesRequests;
use crate::{
    http::{
        answer::own_answer,
        forwarded::set_certificate,
        grpc::{is_grpc, own_grpc_answer},
        limits::{
            CALLS_BEFORE_SETTINGS, MAX_CALLS, MAX_CONCURRENT_STREAMS, MAX_HEAD_BYTES, MAX_MISTAKEN_STREAMS,
            MAX_SEND_BUFFER_BYTES, UPSTREAM_STREAM_WINDOW, UPSTREAM_WINDOW,
        },
        trailers::strip_trailers,
        version2::{field_fault, is_unread},
    },
    tasks::ConnectionTasks,
};

type JudgedBody = Either<Incoming, Full<Bytes>>;
/// Body of a call on its way to the instance.
type JudgedCallBody = MapFrame<Incoming, fn(Frame<Bytes>) -> Frame<Bytes>>;

/// Serves the calls that come on `stream` by the instance, until one of both ends.
pub(super) async fn serve<S, J: JudgesRequests>(
    stream: DuplexStream,
    instance: S,
    judge: Arc<J>,
    cut: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // What is spawned is ended with the calls, as well as by `cut`.
    let over = cut.child_token();
    let _ending = over.clone().drop_guard();
    let tasks = ConnectionTasks::until(over);
    // As for a client of this gateway, with room for what another one adds to its clients' requests.
    let head_bytes = u32::try_from(2 * MAX_HEAD_BYTES).unwrap_or(u32::MAX);
    let handshake = http2::Builder::new(tasks.clone())
        .initial_stream_window_size(UPSTREAM_STREAM_WINDOW)
        .initial_connection_window_size(UPSTREAM_WINDOW)
        .max_header_list_size(head_bytes)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .initial_max_send_streams(CALLS_BEFORE_SETTINGS)
        .handshake(TokioIo::new(instance));
    let Ok((sender, connection)) = handshake.await else {
        return;
    };
    let service = service_fn(move |request| answer(judge.clone(), sender.clone(), request));
    let serving = server::Builder::new(tasks)
        .auto_date_header(false)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_pending_accept_reset_streams(MAX_CALLS)
        .max_local_error_reset_streams(MAX_MISTAKEN_STREAMS)
        .max_header_list_size(head_bytes)
        .initial_stream_window_size(UPSTREAM_STREAM_WINDOW)
        .initial_connection_window_size(UPSTREAM_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let (mut serving, mut connection) = (pin!(serving), pin!(connection));
    let mut is_connected = true;
    loop {
        tokio::select! {
            biased;
            // The reason of its end is told by the relay.
            _ = serving.as_mut() => return,
            _ = connection.as_mut(), if is_connected => {
                is_connected = false;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer<J: JudgesRequests>(
    judge: Arc<J>,
    mut sender: SendRequest<JudgedCallBody>,
    mut request: Request<Incoming>,
) -> Result<Response<JudgedBody>, Box<dyn Error + Send + Sync>> {
    let is_call = is_grpc(request.headers());
    let verdict = match *request.method() {
        // There is no way on for it.
        Method::CONNECT => Err(ConnectionOutcome::BadRequest),
        _ if field_fault(&request).is_some() => Err(ConnectionOutcome::BadRequest),
        _ => judge.judge(request.method().as_str(), request.uri().path()),
    };
    if let Err(outcome) = verdict {
        let own = match is_call {
            true => own_grpc_answer(outcome),
            false => own_answer(outcome),
        };
        return Ok(own.map(|text| Either::Right(Full::new(text))));
    }
    set_certificate(request.headers_mut(), judge.identity());
    let request = request.map(|body| body.map_frame(bare_frame as fn(Frame<Bytes>) -> Frame<Bytes>));
    match sender.try_send_request(request).await {
        Ok(answer) => Ok(answer.map(Either::Left)),
        Err(failure) if is_unread(failure.error()) => Err(h2::Error::from(Reason::REFUSED_STREAM).into()),
        // The instance has not seen it, which lets the other side ask another.
        Err(failure) if failure.message().is_some() => Err(h2::Error::from(Reason::REFUSED_STREAM).into()),
        Err(failure) => Err(failure.into_error().into()),
    }
}

/// The same frame, and if it has trailers, without those that a call may not have.
fn bare_frame(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        strip_trailers(trailers);
    }
    frame
}
