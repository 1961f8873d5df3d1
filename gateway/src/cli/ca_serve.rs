//! `causeway ca serve`: runs the CA that gateways join at and renew with, until it is told to stop.

use std::{net::SocketAddr, path::PathBuf};

use super::{Exit, Failure, passphrase::PassphraseArgs, signals::Signals};
use crate::{
    authority::{Authority, AuthorityConfig, AuthorityError, ServeError},
    identity::ca::LEAF_VALIDITY,
    telemetry::log::{self, LogFormat},
};

const AFTER_HELP: &str = "\
Examples:
  causeway ca serve --ca /var/lib/causeway-ca
  causeway ca serve --ca /var/lib/causeway-ca --listen 10.0.0.9:7830 --passphrase-file /run/secrets/ca

It holds the key of the whole federation: run it on a host of its own, as a user of its own, and let gateways reach its one
port. While it is away nothing stops but joining; gateways renew half a day before they must.
Signals: SIGTERM and SIGINT finish the calls under way and end.";

/// Serve the CA to gateways that join and renew (7830/tcp)
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Folder of the CA, as `causeway ca init` made it; what changes in it is taken up at once
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_CA")]
    ca: PathBuf,
    /// TCP address to listen on
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAUSEWAY_LISTEN",
        default_value = "0.0.0.0:7830"
    )]
    listen: SocketAddr,
    /// How long the certificates of gateways are valid; they are renewed at half of it
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_LEAF_LIFETIME", default_value_t = LEAF_VALIDITY.into())]
    leaf_lifetime: humantime::Duration,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Form of the log on standard error
    #[arg(
        long,
        value_name = "FORM",
        env = "CAUSEWAY_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
    /// What to log: a level, or levels by module such as info,causeway::authority=debug
    #[arg(long, value_name = "FILTER", env = "CAUSEWAY_LOG", default_value = "info")]
    log_level: String,
}

/// Runs until a signal ends it.
pub fn run(args: Args) -> Result<Exit, Failure> {
    log::start(args.log_format, &args.log_level)
        .map_err(|error| Failure::usage("cannot start the log").because(&error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::new("cannot start the async runtime").because(&error))?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let config = AuthorityConfig {
        folder: args.ca,
        passphrase: args.passphrase.read()?,
        listen: args.listen,
        leaf_lifetime: args.leaf_lifetime.into(),
    };
    let authority = Authority::start(config).await.map_err(|error| explain(&error))?;
    signals.next().await;
    authority.shutdown().await;
    Ok(Exit::Done)
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
