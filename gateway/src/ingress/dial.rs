//! Connects to an instance of this zone: picks one, and another when it does not answer. Both roles use it: ingress for
//! other zones, egress for this one.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_zone_sync::name::{ServiceName, Tags};
use rand::rngs::SmallRng;
use tokio::net::TcpStream;

use crate::{
    balance::{self, LoadGuard},
    instances::ConnectFailures,
    snapshot::{Instance, Snapshot},
    telemetry::Metrics,
};

/// Longest wait for one instance to accept. Instances are in this zone, where an answer takes milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Most instances tried for one connection.
const MAX_INSTANCES_TRIED: usize = 3;

/// A connection to an instance that has been given no byte yet.
#[derive(Debug)]
pub struct Dialled {
    pub socket: TcpStream,
    pub instance: Arc<Instance>,
    pub load: LoadGuard,
}

/// Why no instance was reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no healthy instance of {service} carries {tags}")]
    NoInstance { service: ServiceName, tags: Tags },
    #[error("connect to {tried} instances of {service}: the last is {instance}")]
    Connect {
        service: ServiceName,
        tried: usize,
        instance: String,
        #[source]
        source: io::Error,
    },
}

/// Connects to a healthy instance of `service` that carries `tags`.
///
/// # Errors
/// When there is none, or none of those tried accepts.
pub async fn dial(
    snapshot: &Snapshot,
    service: &ServiceName,
    tags: &Tags,
    metrics: &Metrics,
    failures: &ConnectFailures,
    rng: &mut SmallRng,
) -> Result<Dialled, DialError> {
    let instances = snapshot.instances.get(service).map_or(&[][..], |list| &**list);
    let mut tried: Vec<Arc<Instance>> = Vec::new();
    let mut last_error = None;
    while tried.len() < MAX_INSTANCES_TRIED {
        let Some(instance) = balance::pick(instances, tags, &tried, rng) else {
            break;
        };
        match connect(instance, metrics).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) => {
                tracing::debug!(%service, instance = instance.id, %error, "an instance does not accept");
                failures.report(service, &instance.id);
                last_error = Some(error);
                tried.push(instance.clone());
            }
        }
    }
    Err(match (tried.last(), last_error) {
        (Some(instance), Some(source)) => DialError::Connect {
            service: service.clone(),
            tried: tried.len(),
            instance: instance.id.clone(),
            source,
        },
        _ => DialError::NoInstance {
            service: service.clone(),
            tags: tags.clone(),
        },
    })
}

async fn connect(instance: &Arc<Instance>, metrics: &Metrics) -> io::Result<Dialled> {
    // Counted while it is being dialled, so that others do not crowd onto an instance that is slow to accept.
    let load = LoadGuard::new(instance.load.clone());
    let begun = Instant::now();
    let connecting = TcpStream::connect(instance.address);
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
    let took = begun.elapsed();
    let socket = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(socket) => socket,
        Err(error) => {
            balance::observe(&instance.load, CONNECT_TIMEOUT);
            metrics.instance_connect_failed(instance.service.as_str(), took);
            return Err(error);
        }
    };
    balance::observe(&instance.load, took);
    metrics.instance_connected(instance.service.as_str(), took);
    socket.set_nodelay(true)?;
    Ok(Dialled {
        socket,
        instance: instance.clone(),
        load,
    })
}
