//! `causeway zone-sync`: serves the registry that several gateways of one zone share, until it is told to stop.

use std::{path::PathBuf, sync::Arc};

use causeway_api::{
    ApiMetrics,
    admin::{AdminAddress, AdminConfig},
    zone_sync::{ListenAddress, RunningZoneSync, ZoneSyncConfig},
};
use causeway_control::trust::Trusted;
use causeway_federation::name::ZoneName;
use causeway_host::tasks::Tasks;
use tokio_util::sync::CancellationToken;

use super::{
    Exit, Failure,
    api_args::{AuditArgs, tokens},
    identity_source::{IdentitySource, JoinTokenArgs, WorkloadApiArgs},
    log_args::LogArgs,
    signals::{self, Signals},
    supervised::Supervised,
};

const AFTER_HELP: &str = "\
Examples:
  causeway zone-sync --zone east --etcd http://10.0.0.1:2379,http://10.0.0.2:2379,http://10.0.0.3:2379
  causeway zone-sync --zone east --etcd http://10.0.0.1:2379 --listen 10.0.0.5:7820 --identity /etc/causeway/east
  causeway gateway --zone east … --zone-sync 10.0.0.5:7820,10.0.0.6:7820

Run two or more of them in a zone; none is special, and each gateway attaches to any one. It keeps nothing on disk.
Signals: SIGTERM and SIGINT finish the calls under way and end; SIGHUP ends nothing.";

/// Serve the registry that several gateways of one zone share, kept in etcd
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ZoneSyncArgs {
    /// The zone whose registry this is
    #[arg(long, env = "CAUSEWAY_ZONE")]
    zone: ZoneName,
    /// Members of etcd, separated by commas; any that are reachable will do
    #[arg(
        long,
        value_name = "URL,…",
        env = "CAUSEWAY_ETCD",
        value_delimiter = ',',
        required = true
    )]
    etcd: Vec<String>,
    /// Address at which gateways attach and instances register: IP:PORT, or unix:/PATH. On loopback changes are taken over the unix
    /// socket beside it, which gateways find by themselves, or with a token
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAUSEWAY_ZONE_SYNC_LISTEN",
        default_value = "127.0.0.1:7820"
    )]
    listen: ListenAddress,
    /// Folder with an identity of this zone (cert.pem, key.pem, ca.pem), to listen where other hosts can connect: they
    /// must prove to be gateways of this zone
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_IDENTITY")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    workload_api: WorkloadApiArgs,
    #[command(flatten)]
    join_token: JoinTokenArgs,
    /// Let whoever connects to --listen attach and register without proof of who it is, also where others than this host can
    #[arg(long, env = "CAUSEWAY_INSECURE")]
    insecure: bool,
    /// /livez, /readyz and /metrics: a loopback IP:PORT, or unix:/PATH
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAUSEWAY_ZONE_SYNC_ADMIN",
        default_value = "127.0.0.1:7821"
    )]
    admin: AdminAddress,
    /// File with the tokens that are taken over loopback, as `causeway admin-token` makes it; followed at once
    #[arg(long, value_name = "FILE", env = "CAUSEWAY_ADMIN_TOKENS")]
    admin_tokens: Option<PathBuf>,
    #[command(flatten)]
    audit: AuditArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Runs until a signal ends it.
pub(crate) fn run(args: ZoneSyncArgs) -> Result<Exit, Failure> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    signals::serve(&mut runtime, |signals| serve(args, signals))
}

async fn serve(args: ZoneSyncArgs, mut signals: Signals) -> Result<Exit, Failure> {
    let tasks = Tasks::default();
    let _stopping = tasks.stop_when_dropped();
    let starting = tasks.starting();
    let _last_words = args.log.start(&tasks)?;
    let join_token = args.join_token.open(&args.zone)?;
    let folder = args.identity.as_deref();
    let source = IdentitySource::open(folder, &args.workload_api, &args.zone, &mut signals).await?;
    if source.is_none() && args.workload_api.is_given() {
        // A signal came first.
        return Ok(Exit::Done);
    }
    // What becomes of renewals and trust documents is told in the log; their counts are a gateway's.
    let identity_metrics = Arc::default();
    let held = source.as_ref().map(IdentitySource::held);
    let watching = CancellationToken::new();
    let line = format!("serves the registry of zone {}", args.zone);
    let config = ZoneSyncConfig {
        tokens: tokens(args.admin_tokens.as_deref(), &watching, &tasks)?,
        identity: held.map(|held| held.identity()),
        trust: held.map(|held| Trusted::new(held.clone(), Arc::default())),
        zone: args.zone,
        etcd: args.etcd,
        listen: args.listen,
        insecure: args.insecure,
        admin: Some(AdminConfig {
            listen: args.admin,
            insecure: false,
        }),
        tasks: tasks.clone(),
        audit: args.audit.open(&ApiMetrics::default(), &tasks)?,
    };
    let zone_sync = RunningZoneSync::start(config).await.map_err(|error| {
        Failure::new("cannot start zone sync")
            .because(&error)
            .hint(error.hint())
    })?;
    starting.up();
    if let Some(source) = source {
        if let Some(renewal) = source.renewal(join_token) {
            let renewing = renewal.run(None, Arc::clone(&identity_metrics));
            let renewing = watching.clone().run_until_cancelled_owned(renewing);
            tokio::spawn(tasks.keep("certificate renewal", renewing));
        }
        let watch = source.watch(identity_metrics, watching.clone());
        tokio::spawn(tasks.keep("source of the identity", watch));
    }
    let supervised = Supervised::ready(&tasks, &line)?;
    let ended = signals::until_told_or_broken(signals.next(), &tasks).await;
    drop(supervised);
    tasks.stop();
    watching.cancel();
    zone_sync.shutdown().await;
    ended
}
