//! Clients that speak HTTP/2: their requests come side by side, and each goes its own way.

use std::{convert::Infallible, pin::pin, sync::Arc};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;

use super::{
    body::AnswerBody,
    forward::forward,
    preface::RecognisedClient,
    refuse::refuse_one,
    serve::{DriveStep, HttpConnection, drive},
};
use crate::{
    http::{
        limits::{
            CLIENT_STREAM_WINDOW, CLIENT_WINDOW, MAX_CONCURRENT_STREAMS, MAX_HEAD_BYTES,
            MAX_MISTAKEN_STREAMS, MAX_PENDING_RESETS, MAX_SEND_BUFFER_BYTES,
        },
        version2::fault_of,
    },
    tasks::ConnectionTasks,
};

/// Serves a client to its end.
pub(super) async fn serve_version_2(
    connection: &Arc<HttpConnection>,
    io: RecognisedClient,
) -> Option<hyper::Result<()>> {
    connection.watch.speaks_version_2();
    let requests = connection.clone();
    let service = service_fn(move |request| answer(requests.clone(), request));
    let tasks = ConnectionTasks::until(connection.opened.handle().cut().clone());
    let serving = http2::Builder::new(tasks)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_MISTAKEN_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .initial_stream_window_size(CLIENT_STREAM_WINDOW)
        .initial_connection_window_size(CLIENT_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .serve_connection(TokioIo::new(io), service);
    drive(connection, pin!(serving), |serving| {
        serving.graceful_shutdown();
        DriveStep::GoOn
    })
    .await
}

async fn answer(
    connection: Arc<HttpConnection>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    Ok(match fault_of(&request) {
        Some(fault) => refuse_one(&connection, fault),
        None => forward(connection, request).await,
    })
}
