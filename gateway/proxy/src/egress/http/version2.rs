//! Clients that speak HTTP/2: their requests come side by side, and each goes its own way.

use std::{convert::Infallible, pin::pin, sync::Arc};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

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
            CLIENT_STREAM_WINDOW, CLIENT_WINDOW, CUT_WAIT, MAX_CONCURRENT_STREAMS, MAX_HEAD_BYTES,
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
    // They outlive the cut by the time that it takes to tell the client.
    let streams = CancellationToken::new();
    let _ending = streams.clone().drop_guard();
    let tasks = ConnectionTasks::of_requests(connection.opened.shared_handle(), streams);
    let serving = http2::Builder::new(tasks)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_MISTAKEN_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .initial_stream_window_size(CLIENT_STREAM_WINDOW)
        .initial_connection_window_size(CLIENT_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .serve_connection(TokioIo::new(io), service);
    let mut serving = pin!(serving);
    let driven = drive(connection, serving.as_mut(), |serving| {
        serving.graceful_shutdown();
        DriveStep::GoOn
    });
    if let Some(ended) = driven.await {
        return Some(ended);
    }
    if connection.is_cut() {
        // Each call is ended by itself, as long as the client takes that.
        serving.as_mut().graceful_shutdown();
        if let Ok(ended) = timeout(CUT_WAIT, serving).await {
            return Some(ended);
        }
    }
    connection.reset_if_cut();
    None
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
