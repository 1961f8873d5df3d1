//! `causeway diff`: what one topology file changes with regard to another.

use std::{
    io,
    path::{Path, PathBuf},
};

use causeway_zone_sync::topology::{ChangeKind, Diff, Topology, diff};
use serde_json::json;

use super::{Exit, Failure, output, validate};
use crate::reload::load;

const AFTER_HELP: &str = "\
Examples:
  causeway diff topology.yaml new.yaml
  causeway diff <(git show HEAD:topology.yaml) topology.yaml

Comments, order and spelled-out defaults make no difference.
Exit codes: 0 the same, 1 different, 2 a file cannot be used.";

/// Version of the JSON form.
const JSON_VERSION: u32 = 1;

/// Say what a topology file changes with regard to another.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The topology as it was
    old: PathBuf,
    /// The topology as it is to be
    new: PathBuf,
    /// How to print the changes
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[default]
    Text,
    /// Stable and versioned, for programs
    Json,
}

/// Exit codes are those of diff(1).
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let (report, exit) = compare(args, output::colour())?;
    output::print(&report)?;
    Ok(exit)
}

/// What to print, and how the command ends.
fn compare(args: &Args, colour: bool) -> Result<(String, Exit), Failure> {
    let (Some(old), Some(new)) = (topology(&args.old)?, topology(&args.new)?) else {
        return Ok((String::new(), Exit::NotCompared));
    };
    let changes = diff(&old, &new);
    let report = match args.output {
        Format::Text => in_words(&changes, colour),
        Format::Json => {
            let mut json = changes.to_json();
            json["version"] = json!(JSON_VERSION);
            format!("{json:#}\n")
        }
    };
    let exit = if changes.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    };
    Ok((report, exit))
}

/// `None` when the file cannot be used, which has been said then.
fn topology(path: &Path) -> Result<Option<Topology>, Failure> {
    match load(path) {
        Ok(parsed) => Ok(Some(parsed.topology)),
        Err(error) => {
            let text = error.render(validate::style());
            io::Write::write_all(&mut anstream::stderr(), text.as_bytes())?;
            Ok(None)
        }
    }
}

/// One change a line, in the colours that people know from other diffs.
fn in_words(changes: &Diff, colour: bool) -> String {
    if changes.is_empty() {
        return "no difference\n".to_owned();
    }
    let lines = changes.changes.iter().map(|change| {
        let colours = match change.kind {
            ChangeKind::Added => anstyle::AnsiColor::Green,
            ChangeKind::Removed => anstyle::AnsiColor::Red,
            ChangeKind::Changed => anstyle::AnsiColor::Yellow,
        };
        let style = if colour {
            colours.on_default()
        } else {
            anstyle::Style::new()
        };
        format!("{style}{change}{style:#}\n")
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(old: &str, new: &str, output: Format) -> (String, Exit) {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (old, new) = (write("old.yaml", old), write("new.yaml", new));
        compare(&Args { old, new, output }, false).unwrap()
    }

    const OLD: &str = "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [] } }\n";
    const NEW: &str = "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [gw:7800] } }\n";

    #[test]
    fn exit_codes_are_those_of_diff() {
        assert_eq!(
            compared(OLD, OLD, Format::Text),
            ("no difference\n".to_owned(), Exit::Done)
        );
        let changed = "+ zone east: gateway: gw:7800\n".to_owned();
        assert_eq!(compared(OLD, NEW, Format::Text), (changed, Exit::Failed));
        assert_eq!(compared(OLD, "nonsense", Format::Text).1, Exit::NotCompared);
    }

    #[test]
    fn changes_can_be_had_as_json() {
        let (text, _) = compared(OLD, NEW, Format::Json);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["changes"][0]["kind"], "added");
        assert_eq!(json["changes"][0]["before"], serde_json::Value::Null);
    }
}
