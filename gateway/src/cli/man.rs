//! `causeway man`: manual pages, made from the same tree as the help texts.

use std::path::PathBuf;

use clap_mangen::Man;

use super::{Exit, Failure};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway man | man -l -
  causeway man --out /usr/local/share/man/man1      one page per command";

/// Print the manual page.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ManArgs {
    /// Write a page for every command into this folder instead
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &ManArgs, command: &clap::Command) -> Result<Exit, Failure> {
    if let Some(folder) = &args.out {
        let cannot = format!("cannot write manual pages into {}", folder.display());
        clap_mangen::generate_to(command.clone(), folder).map_err(|error| {
            Failure::new(cannot)
                .because(&error)
                .hint("does the folder exist, and may you write to it?")
        })?;
        return Ok(Exit::Done);
    }
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(Exit::Done)
}
