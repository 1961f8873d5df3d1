//! Way to the receiver, by either protocol, in the clear or with TLS. What is called here logs under the targets of [`super::logs`], which
//! are not sent: a message would otherwise lead to another.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
};
use prost::Message;
use tonic::{
    client::Grpc,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{OtlpProtocol, OtlpSettings, OtlpSignal, tls::OtlpTls};
use crate::log::in_one_line;

/// Longest time that a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that a message may take.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Most characters of an answer that is no success, as they are told.
const MAX_TOLD: usize = 200;
const PROGRAM: &str = concat!("causeway/", env!("CARGO_PKG_VERSION"));

/// Message that a receiver takes.
pub(super) trait OtlpMessage: Message + Default + 'static {
    const SIGNAL: OtlpSignal;
    /// Path of gRPC.
    const METHOD: &'static str;
    type Answer: Message + Default + 'static;

    /// Number of things in it that the receiver would not have, and why.
    fn rejected(answer: Self::Answer) -> Option<(i64, String)>;
}

impl OtlpMessage for ExportTraceServiceRequest {
    const SIGNAL: OtlpSignal = OtlpSignal::Traces;
    const METHOD: &'static str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    type Answer = ExportTraceServiceResponse;

    fn rejected(answer: Self::Answer) -> Option<(i64, String)> {
        let partial = answer.partial_success?;
        Some((partial.rejected_spans, partial.error_message))
    }
}

impl OtlpMessage for ExportMetricsServiceRequest {
    const SIGNAL: OtlpSignal = OtlpSignal::Metrics;
    const METHOD: &'static str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
    type Answer = ExportMetricsServiceResponse;

    fn rejected(answer: Self::Answer) -> Option<(i64, String)> {
        let partial = answer.partial_success?;
        Some((partial.rejected_data_points, partial.error_message))
    }
}

impl OtlpMessage for ExportLogsServiceRequest {
    const SIGNAL: OtlpSignal = OtlpSignal::Logs;
    const METHOD: &'static str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    type Answer = ExportLogsServiceResponse;

    fn rejected(answer: Self::Answer) -> Option<(i64, String)> {
        let partial = answer.partial_success?;
        Some((partial.rejected_log_records, partial.error_message))
    }
}

/// Reason that a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum OtlpSendError {
    #[error("{}: {}", .0.code(), told(.0))]
    Grpc(Box<tonic::Status>),
    #[error(transparent)]
    Unreachable(#[from] hyper_util::client::legacy::Error),
    #[error("answered {status}{}", after(.text))]
    Answer { status: http::StatusCode, text: String },
    #[error("its answer cannot be read")]
    Unreadable,
    #[error("no answer after {} s", SEND_TIMEOUT.as_secs())]
    Timeout,
}

/// Words of a status and of what caused it: that of a connection that failed says nothing else.
fn told(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => in_one_line(cause),
        None => cut(status.message()),
    }
}

fn after(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

/// Beginning of a text of the receiver's, in one line.
pub(super) fn cut(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(MAX_TOLD).collect()
}

/// Reason that the receiver's address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OtlpStartError {
    #[error("the address cannot be used")]
    Grpc(#[from] tonic::transport::Error),
    #[error("the address cannot be used")]
    Http(#[from] http::uri::InvalidUri),
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Way to a receiver. Clones share their connections.
#[derive(Debug, Clone)]
pub(super) struct OtlpChannel {
    headers: HeaderMap,
    kind: ChannelKind,
}

#[derive(Debug, Clone)]
enum ChannelKind {
    Grpc(Channel),
    Http {
        client: Box<HttpClient>,
        endpoint: String,
    },
}

impl OtlpChannel {
    /// Makes one; it connects once there is something to send.
    pub(super) fn new(settings: &OtlpSettings) -> Result<Self, OtlpStartError> {
        let endpoint = &settings.endpoint;
        let kind = match settings.protocol {
            OtlpProtocol::Grpc => {
                let endpoint = Endpoint::from_shared(endpoint.clone())?.user_agent(PROGRAM)?;
                ChannelKind::Grpc(endpoint.connect_with_connector_lazy(connector(settings)))
            }
            OtlpProtocol::Http => {
                let _: Uri = endpoint.parse()?;
                ChannelKind::Http {
                    client: Box::new(Client::builder(TokioExecutor::new()).build(connector(settings))),
                    endpoint: endpoint.clone(),
                }
            }
        };
        Ok(Self {
            headers: settings.headers.clone(),
            kind,
        })
    }

    /// Sends a message, and gives how much of it the receiver would not have, and why.
    pub(super) async fn send<M: OtlpMessage>(
        &self,
        message: M,
    ) -> Result<Option<(i64, String)>, OtlpSendError> {
        let sending = async {
            match &self.kind {
                ChannelKind::Grpc(channel) => self.call(channel.clone(), message).await,
                ChannelKind::Http { client, endpoint } => self.post(client, endpoint, &message).await,
            }
        };
        let answer = tokio::time::timeout(SEND_TIMEOUT, sending)
            .await
            .map_err(|_| OtlpSendError::Timeout)??;
        // With a count of 0 it is advice.
        Ok(M::rejected(answer).filter(|(count, _)| *count > 0))
    }

    async fn call<M: OtlpMessage>(&self, channel: Channel, message: M) -> Result<M::Answer, OtlpSendError> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
        let mut client = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let failed = |status| OtlpSendError::Grpc(Box::new(status));
        let ready = client.ready().await;
        ready.map_err(|error| failed(tonic::Status::from_error(Box::new(error))))?;
        let codec = ProstCodec::<M, M::Answer>::default();
        let answer = client.unary(request, PathAndQuery::from_static(M::METHOD), codec);
        Ok(answer.await.map_err(failed)?.into_inner())
    }

    async fn post<M: OtlpMessage>(
        &self,
        client: &HttpClient,
        endpoint: &str,
        message: &M,
    ) -> Result<M::Answer, OtlpSendError> {
        let mut request = Request::new(Full::new(Bytes::from(message.encode_to_vec())));
        *request.method_mut() = Method::POST;
        let uri = format!("{endpoint}/v1/{}", M::SIGNAL.word());
        *request.uri_mut() = uri.parse().map_err(|_| OtlpSendError::Unreadable)?;
        *request.headers_mut() = self.headers.clone();
        let own = [
            (header::CONTENT_TYPE, "application/x-protobuf"),
            (header::USER_AGENT, PROGRAM),
        ];
        for (name, value) in own {
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        let (head, body) = client.request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|_| OtlpSendError::Unreadable)?.to_bytes();
        if !head.status.is_success() {
            // Of a failure it may be a message, or a page for people.
            let text = str::from_utf8(&body).map(cut).unwrap_or_default();
            return Err(OtlpSendError::Answer {
                status: head.status,
                text,
            });
        }
        M::Answer::decode(body).map_err(|_| OtlpSendError::Unreadable)
    }
}

/// Connects by TCP, and with TLS where the address asks for it.
fn connector(settings: &OtlpSettings) -> HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    // A receiver that has gone without a word is connected to anew.
    tcp.set_tcp_user_timeout(Some(2 * SEND_TIMEOUT));
    let OtlpTls(tls) = settings.tls.clone();
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    match settings.protocol {
        OtlpProtocol::Grpc => builder.enable_http2().wrap_connector(tcp),
        OtlpProtocol::Http => builder.enable_http1().wrap_connector(tcp),
    }
}
