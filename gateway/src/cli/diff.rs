//! `causeway diff`: what one topology file changes with regard to another, or to what a
//! gateway has in force.

use std::path::{Path, PathBuf};

use causeway_api::admin::view::{ChangeView, changes};
use causeway_control::reload::LoadError;
use causeway_federation::topology::{Parsed, Topology, diff};
use serde_json::json;

use super::{
    AdminArgs, Exit, Failure, blocks,
    input::{self, GivenText, load},
    topology::{difference, lines, warn},
    validate,
};
use crate::output::{self, ReportFormat};

const AFTER_HELP: &str = "\
Examples:
  causeway diff topology.yaml new.yaml
  causeway diff <(git show HEAD:topology.yaml) topology.yaml
  causeway diff -f new.yaml                      with regard to what is in force at a gateway
  git show HEAD:topology.yaml | causeway diff - topology.yaml
  causeway diff -f orders.yaml                   the same of blocks of services alone (`services: { orders: ... }`)

Comments, order and spelled-out defaults make no difference.
Exit codes: 0 the same, 1 different, 2 a file cannot be used.";

/// Version of the JSON form.
const JSON_VERSION: u32 = 1;

/// Say what a topology file changes with regard to another, or to what is in force.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DiffArgs {
    /// The topology as it was; of both one may be -, standard input
    #[arg(required_unless_present = "file")]
    old: Option<PathBuf>,
    /// The topology as it is to be
    #[arg(required_unless_present = "file")]
    new: Option<PathBuf>,
    /// Compare this file, or - for standard input, with what is in force at a running gateway
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["old", "new"])]
    file: Option<PathBuf>,
    /// Form of the changes
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Exit codes are those of diff(1).
pub(crate) async fn run(args: DiffArgs) -> Result<Exit, Failure> {
    let compared = match (&args.file, &args.old, &args.new) {
        (Some(file), ..) => with_gateway(file, &args.admin).await,
        (None, Some(old), Some(new)) => with_file(old, new),
        // Only if the rules for the arguments above had a hole.
        (None, ..) => Err(Failure::usage(
            "two files are compared, or -f FILE with a gateway",
        )),
    };
    let changes = match compared {
        Ok(Some(changes)) => changes,
        Ok(None) => return Ok(Exit::NotCompared),
        Err(failure) => return Err(failure.exit(Exit::NotCompared)),
    };
    let (report, exit) = told(&changes, args.output, output::colour());
    output::print(&report)?;
    Ok(exit)
}

/// `None` when a file cannot be used, which has been said then; so below.
async fn with_gateway(file: &Path, admin: &AdminArgs) -> Result<Option<Vec<ChangeView>>, Failure> {
    let Some(given) = blocks::handed(file)? else {
        return Ok(None);
    };
    let compared = difference(&admin.admin, &given.text).await?;
    warn(&given.name, &compared);
    Ok(Some(compared.changes))
}

fn with_file(old: &Path, new: &Path) -> Result<Option<Vec<ChangeView>>, Failure> {
    input::once([old, new])?;
    let given = match GivenText::read(new) {
        Ok(given) => given,
        Err(error) => {
            topology(Err(error));
            return Ok(None);
        }
    };
    let new = match blocks::merged(&given, old)? {
        None => topology(given.check()),
        Some(merged) => topology(merged),
    };
    let (Some(old), Some(new)) = (topology(load(old)), new) else {
        return Ok(None);
    };
    Ok(Some(changes(&diff(&old, &new))))
}

/// Makes the text to print, and says how the command ends.
fn told(changes: &[ChangeView], format: ReportFormat, colour: bool) -> (String, Exit) {
    let report = match format {
        ReportFormat::Text => lines(changes, colour),
        ReportFormat::Json => {
            let parts = |change: &ChangeView| {
                json!({
                    "kind": change.kind,
                    "subject": change.subject,
                    "before": change.before,
                    "after": change.after,
                })
            };
            let changes: Vec<_> = changes.iter().map(parts).collect();
            format!("{:#}\n", json!({ "version": JSON_VERSION, "changes": changes }))
        }
    };
    let exit = match changes.is_empty() {
        true => Exit::Done,
        false => Exit::Failed,
    };
    (report, exit)
}

/// `None` when the file cannot be used, which is said then.
fn topology(loaded: Result<Parsed, LoadError>) -> Option<Topology> {
    let told = loaded.inspect_err(|error| crate::output::tell(&error.render(validate::style())));
    told.ok().map(|parsed| parsed.topology)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(old: &str, new: &str, output: ReportFormat) -> (String, Exit) {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (old, new) = (write("old.yaml", old), write("new.yaml", new));
        match with_file(&old, &new).unwrap() {
            Some(changes) => told(&changes, output, false),
            None => (String::new(), Exit::NotCompared),
        }
    }

    const OLD: &str = "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [] } }\n";
    const NEW: &str = "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [gw:7800] } }\n";

    #[test]
    fn exit_codes_are_those_of_diff() {
        assert_eq!(
            compared(OLD, OLD, ReportFormat::Text),
            ("no difference\n".to_owned(), Exit::Done)
        );
        let changed = "+ zone east: gateway: gw:7800\n".to_owned();
        assert_eq!(compared(OLD, NEW, ReportFormat::Text), (changed, Exit::Failed));
        assert_eq!(compared(OLD, "nonsense", ReportFormat::Text).1, Exit::NotCompared);
    }

    #[test]
    fn other_virtual_addresses_are_said_to_break_those_that_clients_hold() {
        let moved = OLD.replace("gateways: []", "gateways: [], vips: { loopback: 127.65.0.0/16 }");
        let (text, _) = compared(OLD, &moved, ReportFormat::Text);
        assert!(
            text.contains("clients that hold one of before are served for --keep-vips"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn changes_can_be_had_as_json() {
        let (text, _) = compared(OLD, NEW, ReportFormat::Json);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["changes"][0]["kind"], "added");
        assert_eq!(json["changes"][0]["before"], serde_json::Value::Null);
    }
}
