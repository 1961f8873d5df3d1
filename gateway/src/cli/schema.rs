//! `causeway schema`: the JSON Schema of topology files, for editors.

use causeway_federation::topology::schema;

use super::{Exit, Failure};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway schema > topology.schema.json

Then put this at the top of a topology, for editors with a YAML language server:
  # yaml-language-server: $schema=topology.schema.json";

/// Print the JSON Schema of topology files, for editors.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct SchemaArgs {}

pub(crate) fn run(_args: &SchemaArgs) -> Result<Exit, Failure> {
    output::print(&format!("{:#}\n", schema()))?;
    Ok(Exit::Done)
}
