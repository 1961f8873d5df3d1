//! `causeway ca serve`: runs the CA that gateways join at and renew with, until it is told to stop.

use std::{net::SocketAddr, path::PathBuf};

use causeway_authority::{Authority, AuthorityConfig, AuthorityError, ServeError};
use causeway_host::tasks::Tasks;
use causeway_identity::ca::LEAF_VALIDITY;

use super::{
    Exit, Failure,
    kept_folder::KeptFolder,
    log_args::LogArgs,
    passphrase::PassphraseArgs,
    signals::{self, Signals},
    supervised::Supervised,
};

const AFTER_HELP: &str = "\
Examples:
  causeway ca serve --ca /var/lib/causeway-ca
  causeway ca serve --ca /var/lib/causeway-ca --listen 10.0.0.9:7830 --passphrase-file /run/secrets/ca

It holds the key of the whole federation: run it on a host of its own, as a user of its own, and let gateways reach its one
port. While it is away nothing stops but joining; gateways renew half a day before they must.
Signals: SIGTERM and SIGINT finish the calls under way and end; SIGHUP ends nothing.";

/// Serve the CA to gateways that join and renew (7830/tcp)
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CaServeArgs {
    /// Folder of the CA, as `causeway ca init` made it; what changes in it is taken up at once
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_CA")]
    ca: PathBuf,
    /// TCP address to listen on
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAUSEWAY_CA_LISTEN",
        default_value = "0.0.0.0:7830"
    )]
    listen: SocketAddr,
    /// Time for which the certificates of gateways are valid; they are renewed at half of it
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_LEAF_LIFETIME", default_value_t = LEAF_VALIDITY.into())]
    leaf_lifetime: humantime::Duration,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Runs until a signal ends it.
pub(crate) fn run(args: CaServeArgs) -> Result<Exit, Failure> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    signals::serve(runtime.worker_threads(2), |signals| serve(args, signals))
}

async fn serve(args: CaServeArgs, mut signals: Signals) -> Result<Exit, Failure> {
    let tasks = Tasks::default();
    let _stopping = tasks.stop_when_dropped();
    let starting = tasks.starting();
    let _last_words = args.log.start(&tasks)?;
    KeptFolder::Ca.check(&args.ca)?;
    let config = AuthorityConfig {
        folder: args.ca,
        passphrase: args.passphrase.read()?,
        listen: args.listen,
        leaf_lifetime: args.leaf_lifetime.into(),
        tasks: tasks.clone(),
    };
    let authority = Authority::start(config).await.map_err(|error| explain(&error))?;
    starting.up();
    let supervised = Supervised::ready(&tasks, "serves the CA")?;
    let ended = signals::until_told_or_broken(signals.next(), &tasks).await;
    drop(supervised);
    authority.shutdown().await;
    ended
}

fn explain(error: &AuthorityError) -> Failure {
    match error {
        AuthorityError::Ca(ServeError::Ca(source)) => {
            super::ca::failure("cannot serve the CA".to_owned(), source)
        }
        AuthorityError::Lifetime(_) => Failure::usage("cannot serve the CA").because(error),
        AuthorityError::Ca(_) => Failure::new("cannot serve the CA").because(error),
        AuthorityError::Bind { .. } => Failure::new("cannot serve the CA")
            .because(error)
            .hint("is the address this host's own and the port free? set --listen"),
    }
}
