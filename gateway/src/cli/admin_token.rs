//! `causeway admin-token`: tokens for the admin API and registration, kept as hashes in a file that gateways read.

use std::{
    io::Write,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use causeway_api::credentials::{Rights, TokenFileError, TokenName, issue, list, revoke};
use rand::{TryRngCore, rngs::OsRng};

use super::{Exit, Failure};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway admin-token issue --file /etc/causeway/tokens.json --name grafana --scope read > grafana.token
  causeway admin-token issue --file /etc/causeway/tokens.json --name shop --scope write:orders,register:cart > shop.token
  causeway admin-token list --file /etc/causeway/tokens.json
  causeway admin-token revoke --file /etc/causeway/tokens.json --name grafana

`register:orders` registers, drains and deregisters instances of orders; `write:orders` also shifts it and changes its block of the
topology (`causeway apply -f orders.yaml`), but for its ports, `run_in`, `criticality` and `class`. See docs/admin-api.md.

A gateway that was started with --admin-tokens FILE takes up every change at once. The file holds hashes only; a token
that was lost is revoked and issued anew.";

/// Make and revoke tokens for the admin API and registration.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct AdminTokenCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token, and print it once, alone, on standard output.
    Issue(Issue),
    /// Show the names, scopes and times of the tokens.
    List(List),
    /// Take a token back.
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
struct List {
    /// The file that holds the tokens' hashes
    #[arg(long, value_name = "FILE", env = "CAUSEWAY_ADMIN_TOKENS")]
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Issue {
    #[command(flatten)]
    list: List,
    /// Name of the token in the audit log: a-z, 0-9 and -
    #[arg(long)]
    name: TokenName,
    /// read: see everything; register: instances too; write: everything; write:orders: what is of the service orders alone, besides
    /// reading. Several are separated by commas
    #[arg(long)]
    scope: Rights,
    /// Time for which it is good, such as 90d [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    valid_for: Option<Duration>,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    #[command(flatten)]
    list: List,
    #[arg(long)]
    name: TokenName,
}

pub(crate) fn run(command: &AdminTokenCommand) -> Result<Exit, Failure> {
    match &command.action {
        Action::Issue(args) => make(args),
        Action::List(args) => show(args),
        Action::Revoke(args) => take_back(args),
    }
}

fn make(args: &Issue) -> Result<Exit, Failure> {
    let expires = args.valid_for.map(|valid| SystemTime::now().checked_add(valid));
    let expires = match expires {
        Some(None) => return Err(Failure::usage("--valid-for is out of range").hint("for example 90d")),
        Some(end) => end,
        None => None,
    };
    let mut secret = [0; 32];
    OsRng
        .try_fill_bytes(&mut secret)
        .map_err(|error| Failure::new("the system gives no random numbers").because(&error))?;
    let file = &args.list.file;
    let token = issue(file, &args.name, &args.scope, expires, &secret)
        .map_err(|error| failure(format!("cannot issue token {}", args.name), &error))?;
    output::print(&format!("{}\n", token.reveal()))?;
    // Nowhere is left to report that standard error is gone.
    let _ = writeln!(
        std::io::stderr(),
        "note: this is shown once; {} keeps its hash. Gateways that were started with --admin-tokens take it from now on",
        file.display()
    );
    Ok(Exit::Done)
}

fn show(args: &List) -> Result<Exit, Failure> {
    let tokens = list(&args.file).map_err(|error| failure("cannot list the tokens".to_owned(), &error))?;
    let rows = tokens.into_iter().map(|token| {
        let expires = token.expires.unwrap_or_else(|| "never".to_owned());
        vec![
            token.name.into(),
            token.scope.into(),
            token.issued.into(),
            expires.into(),
        ]
    });
    let header = ["NAME", "SCOPE", "ISSUED", "EXPIRES"];
    output::print(&output::table(&header, rows.collect(), output::colour()))?;
    Ok(Exit::Done)
}

fn take_back(args: &Revoke) -> Result<Exit, Failure> {
    revoke(&args.list.file, &args.name)
        .map_err(|error| failure(format!("cannot revoke token {}", args.name), &error))?;
    output::print(&format!("revoked {}\n", args.name))?;
    Ok(Exit::Done)
}

fn failure(message: String, error: &TokenFileError) -> Failure {
    let failure = Failure::new(message).because(error);
    match error {
        TokenFileError::Open { .. }
        | TokenFileError::Json { .. }
        | TokenFileError::Entry { .. }
        | TokenFileError::TooLarge { .. } => failure.exit(Exit::BadInput),
        TokenFileError::Read { .. } => failure.hint("`causeway admin-token issue` makes one"),
        _ => failure,
    }
}
