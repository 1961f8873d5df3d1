//! `causeway gateway`: runs one zone's gateway until it is told to stop.

mod config;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use causeway_api::{
    admin::{AdminAddress, view::SettingView},
    registration::RegistrationAddress,
};
use causeway_control::{TopologySource, trust::Trusted};
use causeway_federation::name::ZoneName;
use causeway_host::{
    descriptors,
    passed::{PassedSockets, take_passed_sockets},
    tasks::Tasks,
};
use causeway_instances::attach::ServerAddress;
use causeway_proxy::egress::Outlive;
use clap::{ArgGroup, ValueEnum};
use ipnet::IpNet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Exit, Failure,
    api_args::ApiArgs,
    identity_source::{IdentitySource, JoinTokenArgs, WorkloadApiArgs},
    kept_folder,
    limits::{
        half_closed_limit, history_limits, history_size, keepalive, memory_budget, outlive, redirect_port,
        stall_limit, tunnel_idle_timeout,
    },
    log_args::LogArgs,
    otlp_args::OtlpArgs,
    ruling,
    signals::{self, Signals},
    start_failure,
    started_successor::OwnCommand,
    stored_sockets::StoredSockets,
    successor, supervised,
};
use crate::gateway::{CertificateRenewal, Gateway, GatewayMetrics};
use config::config;

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

Signals: SIGTERM and SIGINT drain and end: until all that was open has ended, or --drain is over, whoever connects is served. A second one\nends at once; SIGUSR2 starts a process with the same program and arguments that takes over (--take-over); SIGHUP reads the topology file\nagain, if one rules, and never ends the gateway.

Under a service manager it tells when it is ready, drains and is alive (NOTIFY_SOCKET, WATCHDOG_USEC), and goes on with sockets that it is
passed (LISTEN_FDS), each found by its address. Units for systemd: packaging/systemd.";

/// Address at which registrations are taken over gRPC unless something else is said.
const DEFAULT_REGISTRY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7820);
/// Name of the socket beside it in the data folder.
const REGISTRY_SOCKET: &str = "registry.sock";
/// Run one zone's gateway: tunnels, ingress, egress, mesh DNS, zone sync and the admin API
#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER_HELP,
    group(ArgGroup::new("identity source").required(true).args(["identity", "spiffe_endpoint_socket"]))
)]
pub(crate) struct GatewayArgs {
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
    #[command(flatten)]
    join_token: JoinTokenArgs,
    /// Folder for what must outlive a restart: catalog, registrations, virtual addresses, applied topologies
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_DATA")]
    pub(super) data: PathBuf,
    /// Time for which what happened is kept, and the figures of each minute, for `causeway get events` and the dashboard
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_HISTORY", default_value = "24h", value_parser = humantime::parse_duration)]
    pub(super) history: Duration,
    /// Room that it may take in --data; the oldest goes first
    #[arg(long, value_name = "BYTES", env = "CAUSEWAY_HISTORY_SIZE", default_value = "64MiB", value_parser = history_size)]
    pub(super) history_size: u64,
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
    /// UDP address to accept tunnels on; `[::]` is every address of this host, IPv4 and IPv6
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAUSEWAY_GATEWAY_LISTEN",
        default_value = "[::]:7800"
    )]
    pub(super) listen: SocketAddr,
    /// Takes clients that show a certificate, over TLS, and carries them to the service whose mesh name they send as server
    /// name (SNI); several are separated by commas, the usual port is 7843 [default: nowhere]
    #[arg(
        long,
        value_name = "ADDR,…",
        env = "CAUSEWAY_TLS_LISTEN",
        value_delimiter = ','
    )]
    tls_listen: Vec<SocketAddr>,
    /// Longest time that such a connection may go on after the certificate that was shown on it has ended, where its client has shown no
    /// later one: a time, `life` for as long as that certificate was valid, or `never` to leave it open
    #[arg(
        long,
        value_name = "TIME",
        env = "CAUSEWAY_TLS_OUTLIVE",
        default_value = "life",
        value_parser = outlive
    )]
    tls_outlive: Outlive,
    /// Way in which clients of virtual addresses are taken: listeners has a listening socket for each address and port; redirect has the kernel
    /// send them to one port of the gateway, and takes no port from programs. That takes nftables and CAP_NET_ADMIN
    #[arg(
        long,
        value_name = "WAY",
        env = "CAUSEWAY_CAPTURE",
        default_value = "listeners"
    )]
    capture: CaptureName,
    /// Port that clients are redirected to with --capture redirect; who connects to it directly is refused [default: 7815]
    #[arg(long, value_name = "PORT", env = "CAUSEWAY_REDIRECT_PORT", value_parser = clap::value_parser!(u16).range(1..))]
    redirect_port: Option<u16>,
    /// Admin API: a loopback IP:PORT, to read; with --admin-tokens or --admin-allow any IP:PORT, over TLS; or unix:/PATH, for
    /// this user and root; several are separated by commas. Changes are taken over the socket [default: admin.sock in --data],
    /// which commands find by themselves, or with a token
    #[arg(
        long,
        value_name = "ADDR,…",
        env = "CAUSEWAY_GATEWAY_ADMIN",
        default_value = "127.0.0.1:7810",
        value_delimiter = ','
    )]
    pub(super) admin: Vec<AdminAddress>,
    /// Let the admin API listen where others than this host can reach it, in the clear and for anybody, changes included
    #[arg(long, env = "CAUSEWAY_ADMIN_INSECURE")]
    admin_insecure: bool,
    #[command(flatten)]
    apis: ApiArgs,
    /// Folder whose *.yaml files hold instances of this zone, as the topology writes them; followed at once
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_INSTANCES")]
    instances: Option<PathBuf>,
    /// Registration over gRPC: a loopback IP:PORT, or off; any IP:PORT as with --admin; and beside it on registry.sock in --data
    /// [default: 127.0.0.1:7820; with --zone-sync off, as the zone-sync takes registrations]
    #[arg(long, value_name = "ADDR", env = "CAUSEWAY_REGISTRY")]
    pub(super) registry: Option<RegistrationAddress>,
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
    pub(super) dns: Vec<SocketAddr>,
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
    /// Time for which addresses of before are still taken after the zone's `vips` have changed, for clients that hold one; mesh DNS tells
    /// the new ones at once. 0s, or with --capture redirect: not at all
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_KEEP_VIPS", default_value = "10m", value_parser = humantime::parse_duration)]
    keep_vips: Duration,
    /// Data threads [default: one per core]
    #[arg(long, value_name = "N", env = "CAUSEWAY_THREADS")]
    threads: Option<std::num::NonZeroUsize>,
    /// Congestion control of what this gateway sends: bbr follows what a path delivers; cubic slows down at each loss, and
    /// collapses on a long path that loses packets by itself
    #[arg(long, value_name = "NAME", env = "CAUSEWAY_CONGESTION", default_value = "bbr")]
    congestion: CongestionName,
    /// One line per finished connection on standard output
    #[arg(long, value_name = "FORM", env = "CAUSEWAY_ACCESS_LOG", default_value = "off")]
    access_log: AccessLogForm,
    #[command(flatten)]
    otlp: OtlpArgs,
    /// Time after which what another zone said last is not fresh any more
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_FRESH_FOR", default_value = "5s", value_parser = humantime::parse_duration)]
    fresh_for: Duration,
    /// Time after which what another zone said last is not used at all any more
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_WITHDRAWN_AFTER", default_value = "5m", value_parser = humantime::parse_duration)]
    withdrawn_after: Duration,
    /// Time that connections to a gateway of which nothing is heard may wait for it to come back; they are reset then. New
    /// ones go elsewhere after 1.25 s, whatever this says
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_TUNNEL_IDLE_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration)]
    tunnel_idle_timeout: Duration,
    /// Time that a connection between zones may hold bytes of which its client or instance takes none; it is reset then
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_STALL_TIMEOUT", default_value = "5m", value_parser = humantime::parse_duration)]
    stall_timeout: Duration,
    /// Memory for what other zones have sent and no client or instance here has taken yet; one peer gateway may have a quarter of it
    #[arg(long, value_name = "BYTES", env = "CAUSEWAY_MEMORY_BUDGET", default_value = "256MiB", value_parser = memory_budget)]
    memory_budget: u64,
    /// Time that a connection of which one side has finished may go on without a byte; it is reset then. 0s: for ever
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_HALF_CLOSED_TIMEOUT", default_value = "1h", value_parser = humantime::parse_duration)]
    half_closed_timeout: Duration,
    /// After how long a silence the hosts of clients and instances are probed, four times within as long again; one that
    /// does not answer has its connections ended. 0s: never
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_TCP_KEEPALIVE", default_value = "60s", value_parser = humantime::parse_duration)]
    tcp_keepalive: Duration,
    /// Time that connections may take to finish after SIGTERM; new ones are served meanwhile
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_DRAIN", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(super) drain: Duration,
    /// Take the place of the gateway that runs with this --data, if one does, with its sockets and files: nobody is refused meanwhile, and
    /// it finishes what it holds. SIGUSR2 has a running gateway start such a process
    #[arg(long, env = "CAUSEWAY_TAKE_OVER")]
    pub(super) take_over: bool,
    #[command(flatten)]
    log: LogArgs,
}

impl GatewayArgs {
    /// Data threads.
    pub(super) fn data_threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        self.threads.map_or_else(cores, std::num::NonZeroUsize::get)
    }

    /// Finds what is out of range before anything is taken over.
    fn check_limits(&self) -> Result<(), Failure> {
        tunnel_idle_timeout(self.tunnel_idle_timeout)?;
        redirect_port(matches!(self.capture, CaptureName::Redirect), self.redirect_port)?;
        config::ages(self)?;
        stall_limit(self.stall_timeout)?;
        half_closed_limit(self.half_closed_timeout)?;
        keepalive(self.tcp_keepalive)?;
        history_limits(self.history, self.history_size)?;
        self.otlp.settings()?;
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CongestionName {
    Cubic,
    Bbr,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CaptureName {
    Listeners,
    Redirect,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AccessLogForm {
    Off,
    Text,
    Json,
}

/// Runs until a signal ends it.
pub(crate) fn run(args: GatewayArgs, settings: Vec<SettingView>) -> Result<Exit, Failure> {
    // While there is one thread.
    let passed = take_passed_sockets();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).thread_name("control");
    signals::serve(&mut runtime, |signals| serve(args, settings, passed, signals))
}

/// A signal ends the gateway in good order, however far it has come.
async fn serve(
    args: GatewayArgs,
    settings: Vec<SettingView>,
    passed: PassedSockets,
    mut signals: Signals,
) -> Result<Exit, Failure> {
    let own = OwnCommand::of_this_process();
    let tasks = Tasks::default();
    let _stopping = tasks.stop_when_dropped();
    let starting = tasks.starting();
    let _last_words = args.log.start(&tasks)?;
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    let join_token = args.join_token.open(&args.zone)?;
    let folder = args.identity.as_deref();
    let source = IdentitySource::open(folder, &args.workload_api, &args.zone, &mut signals);
    let Some(source) = source.await? else {
        // A signal came first.
        return Ok(Exit::Done);
    };
    let held = source.held().clone();
    let live = held.identity();
    check_zone(&args.zone, &live.gateway().zone)?;
    let metrics = GatewayMetrics::default();
    kept_folder::open_data(&args.data)?;
    held.keep_trust_in(&args.data, SystemTime::now())
        .map_err(|error| kept_folder::trust_unkept(&args.data).because(&error))?;
    let trusted = Trusted::new(held, metrics.control.clone());
    let watching = CancellationToken::new();
    let ending = watching.clone().drop_guard();
    let gate = args.apis.gate(metrics.api.clone(), &watching, &tasks)?;
    args.check_limits()?;
    let Some((topology, taken)) = successor::rule(&args, &live, &metrics.control).await? else {
        return Ok(Exit::BadInput);
    };
    let mut config = config(
        &args,
        live.clone(),
        topology.clone(),
        trusted,
        metrics.clone(),
        gate,
        &tasks,
    )?;
    config.settings = settings.into();
    if let Some(renewal) = source.renewal(join_token) {
        config.renewal = CertificateRenewal::FromCa(renewal);
    }
    if let Some(taken) = &taken {
        config.handed = taken.handed.clone();
    }
    let sockets = config.handed.sockets.clone();
    successor::take_up_passed(&sockets, passed);
    let mut gateway = Gateway::start(config)
        .await
        .map_err(|error| start_failure::explain(&error))?;
    let server = gateway.take_handover_server();
    ending.disarm();
    starting.up();
    let watchdog = supervised::watchdog(gateway.pulses(), &tasks)?;
    successor::take_clients(taken, &gateway, &live).await;
    let stored = StoredSockets::follow(sockets.clone(), &tasks);
    successor::close_unclaimed(sockets, stored.as_ref().map(StoredSockets::removal));
    let following = follow(source, topology, &metrics, &watching, &tasks);
    let running = (gateway, watchdog, stored);
    Box::pin(successor::run_until_told(
        running, &args, &live, &own, server, signals,
    ))
    .await;
    watching.cancel();
    following.wait().await;
    Ok(Exit::Done)
}

fn check_zone(said: &ZoneName, certified: &ZoneName) -> Result<(), Failure> {
    if certified == said {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the certificate is for zone `{certified}`, and --zone says `{said}`"
    ))
    .hint("issue a certificate for this zone, or correct --zone"))
}

/// Follows the files that a running gateway's identity and topology come from, until `stop`.
fn follow(
    source: IdentitySource,
    topology: TopologySource,
    metrics: &GatewayMetrics,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> TaskTracker {
    let following = TaskTracker::new();
    let identity = source.watch(metrics.identity.clone(), stop.clone());
    following.spawn(tasks.keep("source of the identity", identity));
    let topology = ruling::watch(topology, metrics.control.clone(), stop.clone());
    following.spawn(tasks.keep("topology file", topology));
    following.close();
    following
}

/// A zone-sync of this host listens on the same port.
pub(super) fn default_registry(args: &GatewayArgs) -> RegistrationAddress {
    match args.zone_sync.as_slice() {
        [] => RegistrationAddress::At(DEFAULT_REGISTRY),
        _ => RegistrationAddress::Off,
    }
}

#[cfg(test)]
#[path = "gateway_tests.rs"]
mod tests;
