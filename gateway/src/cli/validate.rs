//! `causeway validate`: checks topology files offline.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use causeway_control::reload::LoadError;
use causeway_federation::topology::{Diagnostics, Parsed, Style};
use serde_json::{Value, json};

use super::{
    Exit, Failure, blocks,
    input::{self, GivenText},
};
use crate::output::{self, ReportFormat};

const AFTER_HELP: &str = "\
Examples:
  causeway validate topology.yaml
  causeway validate topologies/*.yaml --deny-warnings
  causeway validate topology.yaml -o json
  generate-topology | causeway validate -
  causeway validate orders.yaml --into topology.yaml    a file that holds blocks of services alone

Exit codes: 0 no errors, 65 errors, 79 warnings with --deny-warnings.";

/// Version of the JSON form.
const JSON_VERSION: u32 = 1;

/// Check topology files: every error in one run, each with its line and a hint.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ValidateArgs {
    /// Topology files to check; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Form of the findings
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    /// The topology that files of blocks (`services: { orders: ... }` alone) belong to
    #[arg(long, value_name = "TOPOLOGY")]
    into: Option<PathBuf>,
    /// Exit with 79 if there are warnings
    #[arg(long)]
    deny_warnings: bool,
}

pub(crate) fn run(args: &ValidateArgs) -> Result<Exit, Failure> {
    let (report, exit) = check(args, style())?;
    output::print(&report)?;
    Ok(exit)
}

/// Chooses the style of diagnostics on standard output.
pub(super) fn style() -> Style {
    if output::colour() {
        Style::Colour
    } else {
        Style::Plain
    }
}

fn check(args: &ValidateArgs, style: Style) -> Result<(String, Exit), Failure> {
    let into = args.into.as_deref();
    input::once(args.files.iter().map(PathBuf::as_path).chain(into))?;
    let results = args.files.iter().map(|file| one(file, into));
    let results: Vec<_> = results.collect::<Result<_, _>>()?;
    let errors = results.iter().any(Result::is_err);
    let warnings = results.iter().flatten().any(|parsed| !parsed.warnings.is_empty());
    let report = match args.output {
        ReportFormat::Text => results.iter().map(|result| in_words(result, style)).collect(),
        ReportFormat::Json => {
            let files: Vec<Value> = results.iter().map(as_json).collect();
            format!("{:#}\n", json!({ "version": JSON_VERSION, "files": files }))
        }
    };
    let exit = match (errors, warnings && args.deny_warnings) {
        (true, _) => Exit::BadInput,
        (false, true) => Exit::IssuesFound,
        (false, false) => Exit::Done,
    };
    Ok((report, exit))
}

/// Reads one file: a whole topology, or blocks of services that belong to one.
fn one(file: &Path, into: Option<&Path>) -> Result<Result<Parsed, LoadError>, Failure> {
    let given = match GivenText::read(file) {
        Ok(given) => given,
        Err(error) => return Ok(Err(error)),
    };
    if let Some(into) = into
        && let Some(merged) = blocks::merged(&given, into)?
    {
        return Ok(merged);
    }
    match blocks::holds(&given) {
        false => Ok(given.check()),
        true => Err(Failure::new(format!(
            "{} holds blocks of services, which are checked in the topology that they belong to",
            given.name
        ))
        .exit(Exit::BadInput)
        .hint(
            "name it with `--into topology.yaml`; or ask a gateway with `causeway apply -f FILE --dry-run`",
        )),
    }
}

/// The findings of one file and a line that sums them up.
fn in_words(result: &Result<Parsed, LoadError>, style: Style) -> String {
    let mut text = String::new();
    let summary = match result {
        Ok(parsed) => {
            text.push_str(&parsed.warnings.render(style));
            let (zones, services) = (parsed.topology.zones.len(), parsed.topology.services.len());
            let counts = format!(
                "{zones} zone{}, {services} service{}",
                plural(zones),
                plural(services)
            );
            format!("{} ({counts}, {})", parsed.warnings, parsed.topology.fingerprint)
        }
        Err(LoadError::Invalid(findings)) => {
            text.push_str(&findings.render(style));
            findings.to_string()
        }
        Err(error) => return error.render(style),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{summary}");
    text
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn as_json(result: &Result<Parsed, LoadError>) -> Value {
    let findings: &Diagnostics = match result {
        Ok(parsed) => &parsed.warnings,
        Err(LoadError::Invalid(findings)) => findings,
        Err(LoadError::Read { path, source }) => {
            return json!({
                "file": path.display().to_string(),
                "errors": 1,
                "warnings": 0,
                "left_out": 0,
                "diagnostics": [{
                    "severity": "error",
                    "code": "cannot-read",
                    "message": source.to_string(),
                }],
            });
        }
    };
    findings.to_json()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ValidateArgs,
    }

    const GOOD: &str = "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [gw:7800] } }\n";

    /// The output for files with these contents and these further arguments, and how it ended.
    fn validate(contents: &[&str], further: &[&str]) -> (String, Exit) {
        let folder = tempfile::tempdir().unwrap();
        let mut line = vec!["validate".to_owned()];
        for (index, content) in contents.iter().enumerate() {
            let path = folder.path().join(format!("{index}.yaml"));
            std::fs::write(&path, content).unwrap();
            line.push(path.display().to_string());
        }
        let real = folder.path().display().to_string();
        line.extend(further.iter().map(|word| word.replace("DIR", &real)));
        let (text, exit) = check(&Line::parse_from(line).args, Style::Plain).unwrap();
        (text.replace(&real, "DIR"), exit)
    }

    #[test]
    fn a_good_file_is_summed_up_in_one_line() {
        let (text, exit) = validate(&[GOOD], &[]);
        assert_eq!(exit, Exit::Done);
        assert!(
            text.starts_with("DIR/0.yaml: no errors (1 zone, 0 services, "),
            "{text}"
        );
    }

    #[test]
    fn warnings_count_only_when_they_are_denied() {
        let text = format!("{GOOD}services: {{ orders: {{ port: 80 }} }}\n");
        assert_eq!(validate(&[&text], &[]).1, Exit::Done);
        let (shown, exit) = validate(&[&text], &["--deny-warnings"]);
        assert_eq!(exit, Exit::IssuesFound);
        assert!(shown.contains("warning[no-instances]"), "{shown}");
    }

    #[test]
    fn every_file_is_checked_even_after_a_bad_one() {
        let (text, exit) = validate(&["nonsense", GOOD], &["DIR/missing.yaml"]);
        assert_eq!(exit, Exit::BadInput);
        assert!(text.contains("DIR/0.yaml: 1 error\n"), "{text}");
        assert!(text.contains("DIR/1.yaml: no errors"), "{text}");
        assert!(
            text.contains("error: cannot read DIR/missing.yaml: No such file"),
            "{text}"
        );
    }

    #[test]
    fn findings_can_be_had_as_json() {
        let (text, exit) = validate(&["nonsense", GOOD], &["-o", "json", "DIR/missing.yaml"]);
        assert_eq!(exit, Exit::BadInput);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["files"][0]["diagnostics"][0]["code"], "wrong-type");
        assert_eq!(json["files"][1]["errors"], 0);
        assert_eq!(json["files"][2]["diagnostics"][0]["code"], "cannot-read");
    }
}
