//! Receiver of OTLP that keeps what it gets: over gRPC and over HTTP, in the clear or with TLS.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use parking_lot::Mutex;
use prost::Message;
use rcgen::CertifiedKey;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, service::Routes};

/// Longest time that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Messages that have come.
#[derive(Debug, Default)]
pub struct Received {
    pub traces: Vec<ExportTraceServiceRequest>,
    pub metrics: Vec<ExportMetricsServiceRequest>,
    pub logs: Vec<ExportLogsServiceRequest>,
    /// Fields `authorization` of the messages.
    pub tokens: Vec<String>,
    /// Values of each further message that it would not have.
    pub rejects: i64,
}

type Kept = Arc<Mutex<Received>>;

/// Running receiver.
pub struct Receiver {
    pub port: u16,
    pub received: Kept,
    /// Its certificate, where it speaks TLS.
    pub certificate: Option<String>,
    _serving: AbortOnDropHandle<()>,
}

impl Receiver {
    pub async fn start(tls: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Kept::default();
        let identity = tls.then(|| rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap());
        let certificate = identity.as_ref().map(|identity| identity.cert.pem());
        let acceptor = identity.map(acceptor);
        let serving = tokio::spawn(serve(listener, acceptor, router(received.clone())));
        Self {
            port,
            received,
            certificate,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    /// Waits until what has come is enough.
    pub async fn until(&self, what: &str, is_enough: impl Fn(&Received) -> bool) {
        let waited = async {
            while !is_enough(&self.received.lock()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waited).await;
        assert!(waited.is_ok(), "{what} has not come: {:?}", self.received.lock());
    }
}

fn acceptor(CertifiedKey { cert, signing_key }: CertifiedKey<rcgen::KeyPair>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>, router: Router) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            match acceptor {
                None => {
                    let _ = server.serve_connection(TokioIo::new(socket), service).await;
                }
                Some(acceptor) => {
                    if let Ok(socket) = acceptor.accept(socket).await {
                        let _ = server.serve_connection(TokioIo::new(socket), service).await;
                    }
                }
            }
        });
    }
}

fn router(received: Kept) -> Router {
    let grpc = Routes::new(TraceServiceServer::new(Service(received.clone())))
        .add_service(MetricsServiceServer::new(Service(received.clone())))
        .add_service(LogsServiceServer::new(Service(received.clone())));
    let http = Router::new()
        .route("/v1/traces", post(traces))
        .route("/v1/metrics", post(metrics))
        .route("/v1/logs", post(logs))
        .with_state(Service(received));
    http.fallback_service(grpc.prepare().into_axum_router())
}

#[derive(Debug, Clone)]
struct Service(Kept);

impl Service {
    fn keep(&self, token: Option<&str>, put: impl FnOnce(&mut Received)) {
        let mut received = self.0.lock();
        received.tokens.extend(token.map(str::to_owned));
        put(&mut received);
    }

    fn answer(&self) -> ExportMetricsServiceResponse {
        let rejected_data_points = self.0.lock().rejects;
        ExportMetricsServiceResponse {
            partial_success: (rejected_data_points > 0).then(|| ExportMetricsPartialSuccess {
                rejected_data_points,
                error_message: "too old".to_owned(),
            }),
        }
    }
}

fn token<T>(request: &Request<T>) -> Option<&str> {
    request.metadata().get("authorization")?.to_str().ok()
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let message = request.get_ref().clone();
        self.keep(token(&request), |received| received.traces.push(message));
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let message = request.get_ref().clone();
        self.keep(token(&request), |received| received.metrics.push(message));
        Ok(Response::new(self.answer()))
    }
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let message = request.get_ref().clone();
        self.keep(token(&request), |received| received.logs.push(message));
        Ok(Response::new(Default::default()))
    }
}

fn read<M: Message + Default>(headers: &HeaderMap, body: Bytes) -> (Option<&str>, M) {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let token = headers.get("authorization").map(|token| token.to_str().unwrap());
    (token, M::decode(body).unwrap())
}

async fn traces(State(service): State<Service>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    let (token, message) = read(&headers, body);
    service.keep(token, |received| received.traces.push(message));
    Vec::new()
}

async fn metrics(State(service): State<Service>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    let (token, message) = read(&headers, body);
    service.keep(token, |received| received.metrics.push(message));
    service.answer().encode_to_vec()
}

async fn logs(State(service): State<Service>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    let (token, message) = read(&headers, body);
    service.keep(token, |received| received.logs.push(message));
    Vec::new()
}
