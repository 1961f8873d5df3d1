//! Starting the servers that a gateway has beside its services: mesh DNS, and its own APIs, which are the admin API and registration
//! over gRPC, each over TCP and on a unix socket.

use std::{path::Path, sync::Arc, time::Instant};

use causeway_api::{
    admin::{Admin, AdminAddress, AdminConfig, AdminState, Readiness},
    elsewhere::Elsewhere,
    registration::RegistrationServer,
};
use causeway_dns::DnsServer;
use causeway_telemetry::MetricsText;

use super::{GatewayConfig, GatewayStartError, start::Foundation};

/// Name of the admin API's socket in the data folder.
const ADMIN_SOCKET: &str = "admin.sock";

/// Servers that programs of this host ask.
pub(super) struct Servers {
    pub(super) dns: Option<DnsServer>,
    pub(super) admin: Vec<Admin>,
    /// Reader of what `/metrics` shows.
    pub(super) metrics: MetricsText,
    pub(super) registration: Option<RegistrationServer>,
}

/// Starts all of them, mesh DNS first.
pub(super) async fn start_servers(
    config: &GatewayConfig,
    known: &Foundation,
    checks: Readiness,
    begun: Instant,
) -> Result<Servers, GatewayStartError> {
    let dns = start_dns(config, known)?;
    let (admin, state) = start_admin(config, known, checks, begun).await?;
    Ok(Servers {
        dns,
        admin,
        metrics: Arc::new(move || state.metrics_text().unwrap_or_default()),
        registration: start_registration(config, known).await?,
    })
}

fn start_dns(config: &GatewayConfig, known: &Foundation) -> Result<Option<DnsServer>, GatewayStartError> {
    if config.dns.listen.is_empty() {
        return Ok(None);
    }
    let dns = DnsServer::start(
        config.dns.clone(),
        known.snapshots.clone(),
        known.vips.clone(),
        config.metrics.dns.clone(),
        &config.handed.sockets,
        (&config.tasks, known.descriptors.clone()),
    )?;
    Ok(Some(dns))
}

/// Starts the admin API at every address that was asked for, and on a unix socket.
async fn start_admin(
    config: &GatewayConfig,
    known: &Foundation,
    readiness: Readiness,
    begun: Instant,
) -> Result<(Vec<Admin>, AdminState), GatewayStartError> {
    let bindings = known.vips.bindings();
    let gate = config.gate.clone().knowing(known.own_sockets.clone());
    let state = AdminState {
        snapshots: known.snapshots.clone(),
        tunnels: known.tunnel_set.clone(),
        metrics: config.metrics.registry.clone(),
        tunnel_metrics: config.metrics.tunnels.clone(),
        instances: known.instances.clone(),
        demand: known.demand.clone(),
        readiness,
        sync: known.sync_view.readings(),
        bindings: Arc::new(move || bindings.borrow().clone()),
        access: config.access.clone(),
        topology: config.topology.clone(),
        gate,
        elsewhere: Elsewhere::new(
            config.id().clone(),
            known.tunnel_set.clone(),
            known.snapshots.clone(),
            config.metrics.api.clone(),
        ),
        identity: config.identity.clone(),
        trust: config.anchors.document().cloned(),
        history: known.history.clone(),
        tasks: config.tasks.clone(),
        descriptors: known.descriptors.clone(),
        handed: config.handed.sockets.clone(),
        settings: config.settings.clone(),
        started: begun,
    };
    let by_itself = socket_by_itself(config, &state).await;
    let socket = config.admin.iter().map(|admin| &admin.listen);
    let socket = socket.chain(by_itself.as_ref().map(Admin::local_addr));
    let told = socket.filter_map(unix_path).next();
    let state = AdminState {
        gate: state.gate.clone().with_socket(told),
        ..state
    };
    known.pages.open(&state);
    let mut started = Vec::with_capacity(config.admin.len() + 1);
    for admin in &config.admin {
        started.push(Admin::start(admin.clone(), state.clone()).await?);
    }
    // Behind those that were asked for, the first of which is the one to name.
    started.extend(by_itself);
    Ok((started, state))
}

/// Starts the admin API on a socket in the data folder, unless one was asked for elsewhere. A file system that has none costs
/// what it is for and nothing else.
async fn socket_by_itself(config: &GatewayConfig, state: &AdminState) -> Option<Admin> {
    let folder = config.storage.folder()?;
    let mut listened = config.admin.iter().map(|admin| &admin.listen);
    if config.admin.is_empty() || listened.any(|address| unix_path(address).is_some()) {
        return None;
    }
    let path = folder.join(ADMIN_SOCKET);
    let listen = AdminAddress::Unix(std::path::absolute(&path).unwrap_or(path));
    let config = AdminConfig {
        listen,
        insecure: false,
    };
    let started = Admin::start(config, state.clone()).await;
    started
        .inspect_err(|error| {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "commands of this host change nothing without a token");
        })
        .ok()
}

fn unix_path(address: &AdminAddress) -> Option<Arc<Path>> {
    match address {
        AdminAddress::Unix(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Some(path.into())
        }
        AdminAddress::Tcp(_) => None,
    }
}

/// Starts registration over gRPC, if it was asked for.
async fn start_registration(
    config: &GatewayConfig,
    known: &Foundation,
) -> Result<Option<RegistrationServer>, GatewayStartError> {
    let Some(registration) = config.registration.clone() else {
        return Ok(None);
    };
    let gate = config.gate.clone().knowing(known.own_sockets.clone());
    let gate = gate.with_socket(registration.socket.clone().map(Arc::from));
    let identity = Some(config.identity.clone());
    let started = RegistrationServer::start(
        registration,
        known.instances.clone(),
        gate,
        identity,
        &config.handed.sockets,
        (&config.tasks, known.descriptors.clone()),
    );
    Ok(Some(started.await?))
}
