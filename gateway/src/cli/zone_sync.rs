//! `causeway zone-sync`: serves the registry that several gateways of one zone share, until it is told to stop.

use std::{path::PathBuf, sync::Arc};

use causeway_zone_sync::name::ZoneName;
use tokio_util::sync::CancellationToken;

use super::{
    Exit, Failure,
    api_args::AuditArgs,
    identity_source::{IdentitySource, WorkloadApiArgs},
    signals::Signals,
};
use crate::{
    admin::{AdminAddress, AdminConfig},
    telemetry::{
        Metrics,
        log::{self, LogFormat},
    },
    trust::Trusted,
    zone_sync::{ListenAddress, ZoneSync, ZoneSyncConfig},
};

const AFTER_HELP: &str = "\
Examples:
  causeway zone-sync --zone east --etcd http://10.0.0.1:2379,http://10.0.0.2:2379,http://10.0.0.3:2379
  causeway zone-sync --zone east --etcd http://10.0.0.1:2379 --listen 10.0.0.5:7820 --identity /etc/causeway/east
  causeway gateway --zone east … --zone-sync 10.0.0.5:7820,10.0.0.6:7820

Run two or more of them in a zone; none is special, and each gateway attaches to any one. It keeps nothing on disk.
Signals: SIGTERM and SIGINT finish the calls under way and end.";

/// Serve the registry that several gateways of one zone share, kept in etcd
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
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
    /// Where gateways attach and instances register: IP:PORT, or unix:/PATH
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAUSEWAY_LISTEN",
        default_value = "127.0.0.1:7820"
    )]
    listen: ListenAddress,
    /// Folder with an identity of this zone (cert.pem, key.pem, ca.pem), to listen where other hosts can connect: they
    /// must prove to be gateways of this zone
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_IDENTITY")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    workload_api: WorkloadApiArgs,
    /// Listen where others than this host can connect without an identity, although whoever does may register instances
    #[arg(long, env = "CAUSEWAY_INSECURE")]
    insecure: bool,
    /// /livez, /readyz and /metrics: a loopback IP:PORT, or unix:/PATH
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAUSEWAY_ADMIN",
        default_value = "127.0.0.1:7821"
    )]
    admin: AdminAddress,
    #[command(flatten)]
    audit: AuditArgs,
    /// Form of the log on standard error
    #[arg(
        long,
        value_name = "FORM",
        env = "CAUSEWAY_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
    /// What to log: a level, or levels by module such as info,causeway_zone_sync=debug
    #[arg(long, value_name = "FILTER", env = "CAUSEWAY_LOG", default_value = "info")]
    log_level: String,
}

/// Runs until a signal ends it.
pub fn run(args: Args) -> Result<Exit, Failure> {
    log::start(args.log_format, &args.log_level)
        .map_err(|error| Failure::usage("cannot start the log").because(&error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new("cannot start the async runtime").because(&error))?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let folder = args.identity.as_deref();
    let source = IdentitySource::open(folder, &args.workload_api, &args.zone, &mut signals).await?;
    if source.is_none() && args.workload_api.is_given() {
        // A signal came first.
        return Ok(Exit::Done);
    }
    // What becomes of renewals and trust documents is told in the log; their counts are a gateway's.
    let metrics = Arc::new(Metrics::default());
    let held = source.as_ref().map(IdentitySource::held);
    let config = ZoneSyncConfig {
        identity: held.map(|held| held.identity()),
        trust: held.map(|held| Trusted::new(held.clone(), metrics.clone())),
        zone: args.zone,
        etcd: args.etcd,
        listen: args.listen,
        insecure: args.insecure,
        admin: Some(AdminConfig {
            listen: args.admin,
            insecure: false,
        }),
        audit: args.audit.open(metrics.clone())?,
    };
    let zone_sync = ZoneSync::start(config).await.map_err(|error| {
        Failure::new("cannot start zone sync")
            .because(&error)
            .hint(error.hint())
    })?;
    let watching = CancellationToken::new();
    if let Some(source) = source {
        if let Some(renewal) = source.renewal() {
            let renewing = renewal.run(None, metrics.clone());
            tokio::spawn(watching.clone().run_until_cancelled_owned(renewing));
        }
        tokio::spawn(source.watch(metrics, watching.clone()));
    }
    signals.next().await;
    watching.cancel();
    zone_sync.shutdown().await;
    Ok(Exit::Done)
}
