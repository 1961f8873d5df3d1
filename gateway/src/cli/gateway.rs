//! `causeway gateway`: runs one zone's gateway until it is told to stop.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_zone_sync::{name::ZoneName, replica::Ages, topology::Style};
use clap::{ArgGroup, ValueEnum};
use ipnet::IpNet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use super::{
    Exit, Failure,
    api_args::ApiArgs,
    identity_source::{IdentitySource, WorkloadApiArgs},
    ruling::Ruling,
    signals::Signals,
};
use crate::{
    admin::{AdminAddress, AdminConfig},
    attach::ServerAddress,
    credentials::Gate,
    dns::DnsConfig,
    gateway::{Gateway, GatewayConfig, StartError, make_private_folder},
    identity::LiveIdentity,
    registration::{RegistrationAddress, RegistrationConfig},
    telemetry::{
        AccessLog, LineWriter, Metrics,
        log::{self, LogFormat},
    },
    trust::Trusted,
    tunnel::{Congestion, TunnelConfig},
};

const AFTER_HELP: &str = "\
Examples:
  causeway gateway --zone east --topology causeway.yaml --identity /etc/causeway/east --data /var/lib/causeway
  causeway gateway --zone east --topology causeway.yaml --identity /etc/causeway/east --data /var/lib/causeway \\
      --dns 127.0.0.53:53 --access-log json
  causeway gateway --zone east --topology causeway.yaml --identity /etc/causeway/east --data /var/lib/causeway \\
      --zone-sync 127.0.0.1:7820,127.0.0.1:7821
  causeway gateway --zone east --topology causeway.yaml --data /var/lib/causeway \\
      --spiffe-endpoint-socket unix:///run/spire/agent.sock

  causeway gateway --zone east --initial-topology causeway.yaml --identity /etc/causeway/east --data /var/lib/causeway

With --topology the file rules this gateway. With --initial-topology it is only where the gateway starts from: of
everything that was ever applied anywhere (`causeway apply`) the highest generation rules, over restarts too.

Signals: SIGTERM and SIGINT drain and end, a second one ends at once; SIGHUP reads the topology file again.";

/// Where registrations are taken over gRPC unless something else is said.
const DEFAULT_REGISTRY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7820);

/// Run one zone's gateway: tunnels, ingress, egress, mesh DNS, zone sync and the admin API
#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER_HELP,
    group(ArgGroup::new("identity source").required(true).args(["identity", "spiffe_endpoint_socket"]))
)]
pub struct Args {
    /// The zone to serve; must be the one that the certificate names
    #[arg(long, env = "CAUSEWAY_ZONE")]
    zone: ZoneName,
    /// The topology file that rules this gateway; a change is taken up at once, and nothing can be applied
    #[arg(
        long,
        value_name = "FILE",
        env = "CAUSEWAY_TOPOLOGY",
        conflicts_with = "initial_topology"
    )]
    pub(super) topology: Option<PathBuf>,
    /// The topology to start from; from then on what `causeway apply` hands to any gateway rules
    #[arg(long, value_name = "FILE", env = "CAUSEWAY_INITIAL_TOPOLOGY")]
    pub(super) initial_topology: Option<PathBuf>,
    /// Folder with cert.pem, key.pem and ca.pem, as `causeway join` makes it; with renew.json beside them the gateway renews
    /// its certificate by itself. Files that others renew are taken up at once
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_IDENTITY")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    workload_api: WorkloadApiArgs,
    /// Folder for what must outlive a restart: catalog, registrations, virtual addresses, applied topologies
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_DATA")]
    pub(super) data: PathBuf,
    /// Zone-sync processes of this zone, any one of which serves the registry that its gateways share; without it the
    /// registry is embedded and this is the zone's only gateway
    #[arg(
        long,
        value_name = "ADDR,…",
        env = "CAUSEWAY_ZONE_SYNC",
        value_delimiter = ','
    )]
    zone_sync: Vec<ServerAddress>,
    /// Attach to zone-sync processes on other hosts that have no identity, in the clear and whoever they are
    #[arg(long, env = "CAUSEWAY_ZONE_SYNC_INSECURE")]
    zone_sync_insecure: bool,
    /// UDP address to accept tunnels on
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAUSEWAY_LISTEN",
        default_value = "0.0.0.0:7800"
    )]
    listen: SocketAddr,
    /// Takes clients that show a certificate, over TLS, and carries them to the service whose mesh name they send as server
    /// name (SNI); several are separated by commas, the usual port is 7843 [default: nowhere]
    #[arg(
        long,
        value_name = "ADDR,…",
        env = "CAUSEWAY_TLS_LISTEN",
        value_delimiter = ','
    )]
    tls_listen: Vec<SocketAddr>,
    /// Admin API: a loopback IP:PORT, or unix:/PATH; with --admin-tokens or --admin-allow any IP:PORT, over TLS; several are
    /// separated by commas
    #[arg(
        long,
        value_name = "ADDR,…",
        env = "CAUSEWAY_ADMIN",
        default_value = "127.0.0.1:7810",
        value_delimiter = ','
    )]
    admin: Vec<AdminAddress>,
    /// Let the admin API listen where others than this host can reach it, in the clear and for anybody
    #[arg(long, env = "CAUSEWAY_ADMIN_INSECURE")]
    admin_insecure: bool,
    #[command(flatten)]
    apis: ApiArgs,
    /// Folder whose *.yaml files hold instances of this zone, as the topology writes them; followed at once
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_INSTANCES")]
    instances: Option<PathBuf>,
    /// Registration over gRPC: a loopback IP:PORT, or off; any IP:PORT as with --admin [default: 127.0.0.1:7820; with --zone-sync off, as the
    /// zone-sync takes registrations]
    #[arg(long, value_name = "ADDR", env = "CAUSEWAY_REGISTRY")]
    registry: Option<RegistrationAddress>,
    /// Let registration listen where others than this host can reach it, in the clear and for anybody
    #[arg(long, env = "CAUSEWAY_REGISTRY_INSECURE")]
    registry_insecure: bool,
    /// Addresses for mesh DNS, UDP and TCP; give several separated by commas
    #[arg(
        long,
        value_name = "ADDR,…",
        env = "CAUSEWAY_DNS",
        default_value = "127.0.0.1:7853",
        value_delimiter = ','
    )]
    dns: Vec<SocketAddr>,
    /// Resolvers for names outside the mesh [default: those of /etc/resolv.conf]
    #[arg(
        long,
        value_name = "ADDR,…",
        env = "CAUSEWAY_DNS_UPSTREAM",
        value_delimiter = ','
    )]
    dns_upstream: Option<Vec<SocketAddr>>,
    /// Networks that may ask mesh DNS besides this host
    #[arg(
        long,
        value_name = "CIDR,…",
        env = "CAUSEWAY_DNS_ALLOW",
        value_delimiter = ','
    )]
    dns_allow: Vec<IpNet>,
    /// Data threads [default: one per core]
    #[arg(long, value_name = "N", env = "CAUSEWAY_THREADS")]
    threads: Option<std::num::NonZeroUsize>,
    /// Congestion control of what this gateway sends; bbr does not collapse on long paths with loss
    #[arg(
        long,
        value_name = "NAME",
        env = "CAUSEWAY_CONGESTION",
        default_value = "cubic"
    )]
    congestion: CongestionName,
    /// One line per finished connection on standard output
    #[arg(long, value_name = "FORM", env = "CAUSEWAY_ACCESS_LOG", default_value = "off")]
    access_log: AccessLogForm,
    /// How long what another zone says is taken for fresh after it was last heard
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_FRESH_FOR", default_value = "5s", value_parser = humantime::parse_duration)]
    fresh_for: Duration,
    /// How long after it was last heard what another zone says is not used at all any more
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_WITHDRAWN_AFTER", default_value = "5m", value_parser = humantime::parse_duration)]
    withdrawn_after: Duration,
    /// How long connections may take to finish after SIGTERM
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_DRAIN", default_value = "30s", value_parser = humantime::parse_duration)]
    drain: Duration,
    /// Form of the log on standard error
    #[arg(
        long,
        value_name = "FORM",
        env = "CAUSEWAY_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
    /// What to log: a level, or levels by module such as info,causeway::tunnel=debug
    #[arg(long, value_name = "FILTER", env = "CAUSEWAY_LOG", default_value = "info")]
    log_level: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CongestionName {
    Cubic,
    Bbr,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AccessLogForm {
    Off,
    Text,
    Json,
}

/// Runs until a signal ends it.
pub fn run(args: Args) -> Result<Exit, Failure> {
    log::start(args.log_format, &args.log_level)
        .map_err(|error| Failure::usage("cannot start the log").because(&error))?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::new("cannot start the async runtime").because(&error))?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> Result<Exit, Failure> {
    // From here on a signal ends the gateway in good order, however far it has come.
    let mut signals = Signals::new()?;
    let folder = args.identity.as_deref();
    let source = IdentitySource::open(folder, &args.workload_api, &args.zone, &mut signals).await?;
    let Some(source) = source else {
        // A signal came first.
        return Ok(Exit::Done);
    };
    let held = source.held().clone();
    let live = held.identity();
    if live.gateway().zone != args.zone {
        return Err(Failure::usage(format!(
            "the certificate is for zone `{}`, and --zone says `{}`",
            live.gateway().zone,
            args.zone
        ))
        .hint("issue a certificate for this zone, or correct --zone"));
    }
    let metrics = Arc::new(Metrics::default());
    make_private_folder(&args.data)
        .map_err(|error| trust_unkept(&args).because(&error))
        .and_then(|()| {
            let kept = held.keep_trust_in(&args.data, SystemTime::now());
            kept.map_err(|error| trust_unkept(&args).because(&error))
        })?;
    let trusted = Trusted::new(held, metrics.clone());
    let ruling = match Ruling::open(&args, &live, &metrics)? {
        Ok(ruling) => ruling,
        Err(error) => {
            // It has its own `error:` and `hint:` lines, one for each finding.
            anstream::stderr().write_all(error.render(Style::Colour).as_bytes())?;
            return Ok(Exit::BadInput);
        }
    };
    let watching = CancellationToken::new();
    let ending = watching.clone().drop_guard();
    let gate = args.apis.gate(metrics.clone(), &watching)?;
    let mut config = config(&args, live, &ruling, trusted, metrics.clone(), gate)?;
    config.renewal = source.renewal();
    let gateway = Gateway::start(config).await.map_err(|error| explain(&error))?;
    ending.disarm();
    let renewing = tokio::spawn(source.watch(metrics.clone(), watching.clone()));
    let watch = tokio::spawn(ruling.watch(metrics, watching.clone()));
    run_until_told(gateway, args.drain, signals).await;
    watching.cancel();
    // They end by themselves; a panic in one was logged where it happened.
    let _ = tokio::join!(watch, renewing);
    Ok(Exit::Done)
}

fn trust_unkept(args: &Args) -> Failure {
    Failure::new(format!(
        "cannot keep the trust document in {}",
        args.data.display()
    ))
    .hint("--data must be a folder that this user may write")
}

/// A zone-sync of this host listens on the same port.
fn default_registry(args: &Args) -> RegistrationAddress {
    match args.zone_sync.as_slice() {
        [] => RegistrationAddress::At(DEFAULT_REGISTRY),
        _ => RegistrationAddress::Off,
    }
}

fn config(
    args: &Args,
    identity: LiveIdentity,
    ruling: &Ruling,
    trust: Trusted,
    metrics: Arc<Metrics>,
    gate: Gate,
) -> Result<GatewayConfig, Failure> {
    let mut tunnel = TunnelConfig::new(args.listen, identity.clone());
    tunnel.congestion = match args.congestion {
        CongestionName::Cubic => Congestion::Cubic,
        CongestionName::Bbr => Congestion::Bbr,
    };
    let writer =
        || LineWriter::stdout().map_err(|error| Failure::new("cannot start the access log").because(&error));
    let access = match args.access_log {
        AccessLogForm::Off => AccessLog::Off,
        AccessLogForm::Text => AccessLog::Text(writer()?),
        AccessLogForm::Json => AccessLog::Json(writer()?),
    };
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Ok(GatewayConfig {
        identity,
        topology: ruling.topology(),
        reload: ruling.reload(),
        applied: ruling.applied(),
        trust: Some(trust),
        data_dir: Some(args.data.clone()),
        zone_sync: args.zone_sync.clone(),
        zone_sync_insecure: args.zone_sync_insecure,
        renewal: None,
        tunnel,
        tls_listen: args.tls_listen.clone(),
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
                insecure: args.registry_insecure,
            }),
        },
        gate,
        access,
        ages: ages(args)?,
        threads: args.threads.map_or_else(cores, std::num::NonZeroUsize::get),
        metrics,
    })
}

fn admin(listen: &AdminAddress, args: &Args) -> AdminConfig {
    AdminConfig {
        listen: listen.clone(),
        insecure: args.admin_insecure,
    }
}

fn ages(args: &Args) -> Result<Ages, Failure> {
    Ages::new(args.fresh_for, args.withdrawn_after).map_err(|error| {
        Failure::usage("cannot use --fresh-for and --withdrawn-after")
            .because(&error)
            .hint("the defaults are 5s and 5m")
    })
}

fn explain(error: &StartError) -> Failure {
    let failure = Failure::new("cannot start the gateway").because(error);
    match error {
        StartError::UnknownZone(_) => failure
            .exit(Exit::BadInput)
            .hint("add the zone to the topology, or issue a certificate for a zone that is in it"),
        StartError::DataDir { .. } => failure.hint("--data must be a folder that this user may write"),
        StartError::Admin(source) => failure.hint(source.hint()),
        StartError::Registration(source) => failure.hint(source.hint()),
        StartError::Dns(_) => failure.hint("is the address this host's own and the port free? set --dns"),
        StartError::Tunnels(_) => {
            failure.hint("is the address this host's own and the UDP port free? set --listen")
        }
        StartError::Instances(_) | StartError::Vips(_) => {
            failure.hint("does another gateway use the same --data folder?")
        }
        StartError::Identity(_) => failure.hint("the key must be one that can sign: ECDSA, Ed25519 or RSA"),
        StartError::Threads { .. } | StartError::ZoneSync(_) => failure,
    }
}

/// The first signal drains, the second ends at once.
async fn run_until_told(gateway: Gateway, drain: Duration, mut signals: Signals) {
    signals.next().await;
    let cut = gateway.shutdown(drain, signals.next()).await;
    if !cut.connections.is_empty() {
        tracing::warn!(connections = cut.connections.len(), "connections were cut");
    }
}

/// A connection takes a file descriptor or two, and the usual soft limit is 1,024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(?limit, %error, "cannot raise the limit on open files");
    }
}
