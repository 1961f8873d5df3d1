//! `causeway completion`: the script that teaches a shell the commands.

use clap_complete::{Shell, generate};

use super::{Exit, Failure};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  source <(causeway completion bash)
  causeway completion zsh > ~/.zfunc/_causeway
  causeway completion fish > ~/.config/fish/completions/causeway.fish";

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CompletionArgs {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionArgs, command: &mut clap::Command) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    generate(args.shell, command, "causeway", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
