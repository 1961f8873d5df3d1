//! The command line: one file per command. Data goes to standard output and everything else to standard error; an error
//! is one line of what failed and one of what to do about it.
//!
//! Adding a command: a file with `NAMEArgs` (clap) and `run`, a variant of [`Command`] and its line in [`dispatch`], and the
//! name in the tests of help in `tests/cli/commands.rs`.

mod admin_args;
mod admin_token;
mod api_args;
mod apply;
mod blocks;
mod ca;
mod ca_serve;
mod check;
mod choosable;
mod choose;
mod client;
mod completion;
mod demo;
mod diff;
mod drain;
mod everywhere;
mod explain;
mod failure;
mod federation;
mod gateway;
mod get;
mod get_events;
mod identity_source;
mod input;
mod join;
mod keep;
mod kept_folder;
mod known_zones;
mod limits;
mod load_table;
mod local_socket;
mod log_args;
mod man;
mod netcheck;
mod otlp_args;
mod passphrase;
mod ping;
mod register;
mod register_list;
mod revoke;
mod rollback;
mod rotate;
pub(crate) mod rotation;
mod ruling;
mod schema;
mod secure;
mod service_table;
mod settings;
mod shift;
mod shift_status;
mod shift_table;
mod signals;
mod silent_tunnels;
mod simulate;
mod spread;
mod start_failure;
mod started_successor;
mod stored_sockets;
mod successor;
mod supervised;
mod tables;
mod token;
mod topology;
mod validate;
mod zone_state;
mod zone_sync;
mod zone_table;

use std::process::ExitCode;

use causeway_api::admin::view::SettingView;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use admin_args::AdminArgs;
pub use failure::{Exit, Failure};

const AFTER_HELP: &str = "\
Examples:
  causeway demo                                   see a federation work and fail over, on this machine
  causeway validate topology.yaml                 check a topology file
  causeway join TOKEN@HOST --gateway gw1 --out /etc/causeway/east     get an identity from the federation's CA
  causeway gateway --zone east --topology topology.yaml --identity /etc/causeway/east --data /var/lib/causeway
  causeway apply -f topology.yaml                 hand a changed topology to the federation
  causeway get zones                              what a running gateway knows
  causeway explain orders --tag version=v2        where a connection would go now, and why
  causeway simulate topology.yaml --fail each     and where all of them would go if a zone were lost

Exit codes: 0 done, 1 failed, 64 wrong usage, 65 bad input, 79 issues found.";

/// Connects services across data centers: one gateway per zone, mesh DNS, failover by a topology file.
#[derive(Debug, Parser)]
#[command(name = "causeway", version, after_help = AFTER_HELP, max_term_width = 110, propagate_version = false)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // Commands that run something come first, then those that prepare it, then those that ask it.
    Demo(demo::DemoArgs),
    Gateway(Box<gateway::GatewayArgs>),
    ZoneSync(zone_sync::ZoneSyncArgs),
    Ca(Box<ca::CaCommand>),
    Token(token::TokenCommand),
    Join(join::JoinArgs),
    AdminToken(admin_token::AdminTokenCommand),
    Revoke(Box<revoke::RevokeArgs>),
    Validate(validate::ValidateArgs),
    Schema(schema::SchemaArgs),
    Diff(diff::DiffArgs),
    Apply(apply::ApplyArgs),
    Rollback(rollback::RollbackArgs),
    Drain(drain::DrainArgs),
    Undrain(drain::UndrainArgs),
    Shift(shift::ShiftArgs),
    Get(get::GetArgs),
    Explain(explain::ExplainArgs),
    Ping(ping::PingArgs),
    Netcheck(netcheck::NetcheckArgs),
    Simulate(simulate::SimulateArgs),
    Register(register::RegisterArgs),
    Deregister(register::DeregisterArgs),
    Check(check::CheckArgs),
    Completion(completion::CompletionArgs),
    Man(man::ManArgs),
}

/// Parses the command line of this process and does what it says.
#[must_use]
pub fn run() -> ExitCode {
    let parsed = Cli::command().try_get_matches();
    let parsed = parsed.and_then(|parsed| {
        let cli = Cli::from_arg_matches(&parsed).map_err(|error| error.format(&mut Cli::command()))?;
        Ok((cli, parsed))
    });
    let (cli, parsed) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are asked for; everything else is wrong usage. A closed pipe is not worth a word.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            }
            .into();
        }
    };
    match dispatch(cli.command, &parsed) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report().into(),
    }
}

fn dispatch(command: Command, parsed: &ArgMatches) -> Result<Exit, Failure> {
    match command {
        Command::Validate(args) => validate::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Diff(args) => block_on(diff::run(args)),
        Command::Apply(args) => block_on(apply::run(args)),
        Command::Rollback(args) => block_on(rollback::run(args)),
        Command::Drain(args) => block_on(drain::drain(args)),
        Command::Undrain(args) => block_on(drain::undrain(args)),
        Command::Shift(args) => block_on(shift::run(args)),
        Command::Demo(args) => demo::run(&args),
        Command::Gateway(args) => gateway::run(*args, settings_of("gateway", parsed)),
        Command::ZoneSync(args) => zone_sync::run(args),
        Command::Ca(args) => ca::run(*args),
        Command::Token(args) => token::run(args),
        Command::Join(args) => block_on(join::run(args)),
        Command::AdminToken(args) => admin_token::run(&args),
        Command::Revoke(args) => block_on(revoke::run(*args)),
        Command::Get(args) => block_on(get::run(args)),
        Command::Explain(args) => block_on(explain::run(args)),
        Command::Ping(args) => block_on(ping::run(args)),
        Command::Netcheck(args) => block_on(netcheck::run(args)),
        Command::Simulate(args) => block_on(simulate::run(args)),
        Command::Register(args) => block_on(register::register(args)),
        Command::Deregister(args) => block_on(register::deregister(args)),
        Command::Check(args) => block_on(check::run(args)),
        Command::Completion(args) => completion::run(&args, &mut Cli::command()),
        Command::Man(args) => man::run(&args, &Cli::command()),
    }
}

/// Settings of a command that was parsed.
fn settings_of(command: &str, parsed: &ArgMatches) -> Vec<SettingView> {
    let tree = Cli::command();
    let known = tree
        .find_subcommand(command)
        .zip(parsed.subcommand_matches(command));
    known.map_or_else(Vec::new, |(command, parsed)| settings::in_force(command, parsed))
}

/// Runs a client command on a runtime of its own; one thread is plenty to wait on a socket.
fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new("cannot start the async runtime").because(&error))?;
    runtime.block_on(signals::unless_ended(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}

#[cfg(test)]
#[path = "variables_tests.rs"]
mod variables_tests;
