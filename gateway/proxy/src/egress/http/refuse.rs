//! Answer to what is no request: written down, and the client heard out so that it sees it.

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use causeway_telemetry::{ConnectionOutcome, StreamRefusal};
use http::{Response, header};
use http_body_util::Full;
use tokio::{io::AsyncReadExt as _, time::timeout};

use super::{
    body::AnswerBody, prepare::UnfitRequest, record::RequestRecord, serve::HttpConnection,
    upstream::UpstreamFacts, watched::SharedClient,
};
use crate::http::{
    answer::{own_answer, refusal},
    answer_fault::AnswerFault,
    grpc::own_grpc_answer,
    limits::{MAX_REFUSED_BYTES, REFUSED_LINGER},
    scan::RequestFault,
};

/// Bytes that are thrown away at a time.
const DISCARD_BYTES: usize = 8 * 1024;

/// Answers what is no request and writes it down.
pub(super) fn refuse(connection: &HttpConnection, record: &mut RequestRecord) -> Response<AnswerBody> {
    record.unserved(ConnectionOutcome::BadRequest, 0);
    answer_of(connection, ConnectionOutcome::BadRequest, false)
}

/// Answers a request of HTTP/2 that is refused, and writes it down; those beside it on its connection go on.
pub(super) fn refuse_one(connection: &Arc<HttpConnection>, fault: RequestFault) -> Response<AnswerBody> {
    let mut record = RequestRecord::begin(connection.clone());
    record.unserved(ConnectionOutcome::BadRequest, 0);
    connection.warn_refused(fault);
    let mut answer = refusal(fault);
    answer.headers_mut().remove(header::CONNECTION);
    record.tells(answer.status(), answer.headers());
    answer.map(|text| AnswerBody::Own(Full::new(text)))
}

/// Answers a request that cannot be forwarded, and writes it down; those after it on its connection go on.
pub(super) fn refuse_unfit(
    connection: &HttpConnection,
    record: &mut RequestRecord,
    unfit: &UnfitRequest,
    is_call: bool,
) -> Response<Bytes> {
    if let UnfitRequest::Forbidden(rule) = unfit {
        let outcome = ConnectionOutcome::refused_here(StreamRefusal::Forbidden);
        record.permitted_by(rule.clone());
        record.unserved(outcome, 0);
        return match is_call {
            true => own_grpc_answer(outcome),
            false => own_answer(outcome),
        };
    }
    record.unserved(ConnectionOutcome::BadRequest, 0);
    let id = connection.id();
    tracing::debug!(connection = %id, error = %unfit, "a request cannot be forwarded");
    match unfit {
        UnfitRequest::Path(fault) if !is_call => {
            let fault = RequestFault::of_path(*fault);
            connection.warn_refused(fault);
            let mut answer = refusal(fault);
            answer.headers_mut().remove(header::CONNECTION);
            answer
        }
        _ if is_call => own_grpc_answer(ConnectionOutcome::BadRequest),
        _ => own_answer(ConnectionOutcome::BadRequest),
    }
}

/// The gateway's own answer to a request that came to `outcome`; to a call of gRPC in its form.
pub(super) fn answer_of(
    connection: &HttpConnection,
    outcome: ConnectionOutcome,
    is_call: bool,
) -> Response<AnswerBody> {
    let fault = connection.checks.fault();
    let answer = match (outcome, fault) {
        (ConnectionOutcome::BadRequest, Some(fault)) => {
            connection.warn_refused(fault);
            refusal(fault)
        }
        _ if is_call => own_grpc_answer(outcome),
        _ => own_answer(outcome),
    };
    answer.map(|text| AnswerBody::Own(Full::new(text)))
}

impl HttpConnection {
    /// Logs that a client sent what is no request: the first of a service, and then one a minute.
    pub(super) fn warn_refused(&self, fault: RequestFault) {
        let (service, outcome) = (&self.arrival.target.service, ConnectionOutcome::BadRequest.word());
        let kind = (service.clone(), outcome);
        let admitted = self.shared.rate_limited.lock().admit(Instant::now(), kind);
        if let Some(repeats) = admitted {
            let (connection, client) = (self.id(), self.arrival.endpoints.client);
            let fault = fault.text();
            tracing::warn!(%connection, %service, %client, outcome, fault, repeats, "a malformed request was refused");
        }
    }
}

impl HttpConnection {
    /// Logs that an instance's answer is none that can be passed on: the first of a service, and then one a minute.
    pub(super) fn warn_faulty(&self, facts: &UpstreamFacts, fault: AnswerFault) {
        let (service, outcome) = (&self.arrival.target.service, fault.outcome().word());
        let kind = (service.clone(), outcome);
        let admitted = self.shared.rate_limited.lock().admit(Instant::now(), kind);
        if let Some(repeats) = admitted {
            let (connection, (instance, gateway)) = (self.id(), facts.server.names());
            let gateway = gateway.map(tracing::field::display);
            let fault = fault.text();
            tracing::warn!(%connection, %service, instance, gateway, outcome, fault, repeats, "an instance's answer was not passed on");
        }
    }
}

/// Reads on and throws away what the client sends, for a while or to its end: closing while bytes come resets the connection,
/// and the answer may be lost with it.
pub(super) async fn hear_out(socket: &SharedClient) {
    let discarding = async {
        let mut buffer = BytesMut::with_capacity(DISCARD_BYTES);
        let mut socket = socket.clone();
        let mut discarded = 0;
        while let Ok(read @ 1..) = socket.read_buf(&mut buffer).await {
            buffer.clear();
            discarded += read;
            if discarded >= MAX_REFUSED_BYTES {
                return;
            }
        }
    };
    // Whoever sends for longer than that does not listen.
    let _ = timeout(REFUSED_LINGER, discarding).await;
}
