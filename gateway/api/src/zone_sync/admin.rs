//! `/livez`, `/readyz` and `/metrics` of a zone-sync.

use std::sync::{Arc, atomic::AtomicU64};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use causeway_host::{descriptors::Descriptors, handed::HandedSockets, tasks::Tasks};
use causeway_telemetry::DescribedRegistry;
use causeway_zone_sync::registry::etcd::{Contact, Figures, SharedRegistry};
use prometheus_client::{
    encoding::text,
    metrics::{
        counter::ConstCounter,
        gauge::{ConstGauge, Gauge},
    },
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{
    AdminAddress, AdminConfig, AdminError,
    server::{self, AdminListener, Doorway},
};

/// The running admin port.
#[derive(Debug)]
pub(super) struct ZoneSyncAdmin {
    address: AdminAddress,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl ZoneSyncAdmin {
    /// # Errors
    /// When the address is not allowed or cannot be bound.
    pub(super) async fn start(
        config: AdminConfig,
        registry: SharedRegistry,
        (tasks, descriptors): (&Tasks, Descriptors),
    ) -> Result<Self, AdminError> {
        config.listen.check(config.insecure)?;
        let listener = AdminListener::bind(&config.listen, &HandedSockets::default()).await?;
        let address = listener.address();
        let router = Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(Arc::new(registry));
        let stop = CancellationToken::new();
        let serving = server::serve(
            (listener, descriptors),
            Doorway::default(),
            router,
            (stop.clone(), Arc::default()),
        );
        let server = tokio::spawn(tasks.keep("readiness and metrics", serving));
        Ok(Self {
            address,
            stop,
            server,
        })
    }

    pub(super) fn address(&self) -> &AdminAddress {
        &self.address
    }

    pub(super) async fn shutdown(self) {
        self.stop.cancel();
        // It ends by itself; a panic in it was logged where it happened.
        let _ = self.server.await;
    }
}

/// Ready from the moment that something is known. While etcd is away what is known is served, so it stays ready, and says
/// what it cannot do.
async fn ready(State(registry): State<Arc<SharedRegistry>>) -> (StatusCode, String) {
    let contact = *registry.contact().borrow();
    match contact {
        Contact::Never => {
            let why = registry.trouble().unwrap_or_default();
            (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
        }
        Contact::Following => (StatusCode::OK, format!("ok: revision {}\n", registry.revision())),
        Contact::Away { since } => {
            let seconds = since.elapsed().as_secs();
            let text = format!(
                "etcd has been out of reach for {seconds} s; what is known is served, nothing can be registered\n"
            );
            (StatusCode::OK, text)
        }
    }
}

async fn metrics(State(registry): State<Arc<SharedRegistry>>) -> Result<impl IntoResponse, StatusCode> {
    let text = scrape(&registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], text))
}

fn scrape(registry: &SharedRegistry) -> Result<String, std::fmt::Error> {
    let away = match *registry.contact().borrow() {
        Contact::Following => 0.0,
        Contact::Never => -1.0,
        Contact::Away { since } => since.elapsed().as_secs_f64(),
    };
    let mut out = String::new();
    figures(&registry.figures(), away).encode(&mut out)?;
    text::encode_eof(&mut out)?;
    Ok(out)
}

/// Everything that a zone-sync tells, with the seconds that etcd has been out of reach.
#[must_use]
pub fn figures(figures: &Figures, away: f64) -> DescribedRegistry {
    let mut all = DescribedRegistry::new(Some("causeway_zone_sync"));
    let number = |count: usize| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
    let age = Gauge::<f64, AtomicU64>::default();
    age.set(away);
    all.register(
        "etcd_away_seconds",
        "How long etcd has been out of reach; -1: it never was in reach",
        age,
    );
    all.register(
        "revision",
        "The revision of etcd that is known",
        ConstGauge::new(figures.revision),
    );
    all.register("instances", "Instances of the zone", number(figures.instances));
    all.register(
        "gateways",
        "Gateways of the zone that are present",
        number(figures.gateways),
    );
    all.register(
        "attached",
        "Gateways that are attached to this process",
        number(figures.attached),
    );
    all.register(
        "watchers",
        "Watchers and attached gateways of this process",
        number(figures.watchers),
    );
    all.register(
        "leases",
        "Leases of etcd that this process keeps alive",
        number(figures.leases),
    );
    all.register(
        "writes",
        "Writes that etcd has done for this process",
        ConstCounter::new(figures.written),
    );
    all.register(
        "writes_failed",
        "Writes that could not be done",
        ConstCounter::new(figures.failed),
    );
    all.register(
        "heartbeats",
        "Heartbeats of instances",
        ConstCounter::new(figures.heartbeats),
    );
    all.register(
        "etcd_lost",
        "How often contact with etcd was lost",
        ConstCounter::new(figures.lost),
    );
    all.register(
        "strange_keys",
        "Keys of the zone in etcd that were not understood",
        ConstCounter::new(figures.strange),
    );
    all
}
