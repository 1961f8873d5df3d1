//! The settings that flags of `causeway gateway` make.

use std::{sync::Arc, time::Duration};

use causeway_api::{
    admin::{AdminAddress, AdminConfig},
    credentials::Gate,
    registration::{RegistrationAddress, RegistrationConfig},
};
use causeway_control::{TopologySource, trust::Trusted};
use causeway_dns::DnsConfig;
use causeway_host::tasks::Tasks;
use causeway_identity::LiveIdentity;
use causeway_telemetry::{AccessLog, LineWriter};
use causeway_tunnel::{Congestion, MemoryBudget, TunnelConfig};
use causeway_zone_sync::replica::Ages;

use super::{AccessLogForm, CaptureName, CongestionName, GatewayArgs, REGISTRY_SOCKET, default_registry};
use crate::{
    cli::{
        Failure,
        limits::{
            half_closed_limit, history_limits, keepalive, redirect_port, stall_limit, tunnel_idle_timeout,
        },
    },
    gateway::{
        CertificateRenewal, GatewayConfig, GatewayMetrics, Handed, RegistryChoice, ServerProof, Storage,
        TrustAnchors,
    },
};

/// Gives the settings of a gateway that is started with `args`.
///
/// # Errors
/// Names what is out of range.
pub(super) fn config(
    args: &GatewayArgs,
    identity: LiveIdentity,
    topology: TopologySource,
    trust: Trusted,
    metrics: GatewayMetrics,
    gate: Gate,
    tasks: &Tasks,
) -> Result<GatewayConfig, Failure> {
    let mut tunnel = TunnelConfig::new(args.listen, identity.clone());
    tunnel.congestion = match args.congestion {
        CongestionName::Cubic => Congestion::Cubic,
        CongestionName::Bbr => Congestion::Bbr,
    };
    tunnel.memory = MemoryBudget::new(args.memory_budget);
    tunnel.idle_timeout = tunnel_idle_timeout(args.tunnel_idle_timeout)?;
    let writer = || {
        LineWriter::stdout("access log", tasks)
            .map_err(|error| Failure::new("cannot start the access log").because(&error))
    };
    let access = match args.access_log {
        AccessLogForm::Off => AccessLog::Off,
        AccessLogForm::Text => AccessLog::Text(writer()?),
        AccessLogForm::Json => AccessLog::Json(writer()?),
    };
    let socket = args.data.join(REGISTRY_SOCKET);
    Ok(GatewayConfig {
        identity,
        topology,
        anchors: TrustAnchors::Document(trust),
        storage: Storage::Folder(args.data.clone()),
        history: history_limits(args.history, args.history_size)?,
        registry: registry(args),
        renewal: CertificateRenewal::Elsewhere,
        tunnel,
        tls_listen: args.tls_listen.clone(),
        tls_outlive: args.tls_outlive,
        redirect_port: redirect_port(matches!(args.capture, CaptureName::Redirect), args.redirect_port)?,
        // Of a redirect the kernel knows the ranges of now alone.
        keep_vips: match args.capture {
            CaptureName::Redirect => Duration::ZERO,
            CaptureName::Listeners => args.keep_vips,
        },
        dns: DnsConfig {
            listen: args.dns.clone(),
            upstreams: args.dns_upstream.clone(),
            allow: args.dns_allow.clone(),
        },
        admin: args.admin.iter().map(|listen| admin(listen, args)).collect(),
        instances_folder: args.instances.clone(),
        registration: match args.registry.unwrap_or(default_registry(args)) {
            RegistrationAddress::Off => None,
            RegistrationAddress::At(listen) => Some(RegistrationConfig {
                listen,
                socket: Some(std::path::absolute(&socket).unwrap_or(socket)),
                insecure: args.registry_insecure,
            }),
        },
        gate,
        access,
        otlp: args.otlp.settings()?,
        ages: ages(args)?,
        stall_limit: stall_limit(args.stall_timeout)?,
        half_closed_limit: half_closed_limit(args.half_closed_timeout)?,
        keepalive: keepalive(args.tcp_keepalive)?,
        threads: args.data_threads(),
        settings: Arc::default(),
        handed: Handed::default(),
        metrics,
        tasks: tasks.clone(),
    })
}

fn registry(args: &GatewayArgs) -> RegistryChoice {
    if args.zone_sync.is_empty() {
        return RegistryChoice::Embedded;
    }
    RegistryChoice::Shared {
        servers: args.zone_sync.clone(),
        proof: match args.zone_sync_insecure {
            true => ServerProof::Nothing,
            false => ServerProof::Certificate,
        },
    }
}

fn admin(listen: &AdminAddress, args: &GatewayArgs) -> AdminConfig {
    AdminConfig {
        listen: listen.clone(),
        insecure: args.admin_insecure,
    }
}

pub(super) fn ages(args: &GatewayArgs) -> Result<Ages, Failure> {
    Ages::new(args.fresh_for, args.withdrawn_after).map_err(|error| {
        Failure::usage("cannot use --fresh-for and --withdrawn-after")
            .because(&error)
            .hint("the defaults are 5s and 5m")
    })
}
