//! Settings of a gateway: what it was started with, and how a file for its next start differs from that.

use std::{collections::BTreeMap, fs, path::PathBuf};

use causeway_api::admin::view::{SettingSource, SettingView};
use causeway_telemetry::Check;
use clap::{ArgMatches, Command, parser::ValueSource};

use super::{Exit, Failure};

/// Largest file with variables in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Beginning of the variables that commands read.
const PREFIX: &str = "CAUSEWAY_";
/// Variables that they read beside those, which other programs read too. More of that kind are read where a receiver is named, and not told of:
/// tokens may be in them.
const SHARED: [&str; 4] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_METRIC_EXPORT_INTERVAL",
];

/// Every flag of `command` that has a variable, as it was parsed.
pub(super) fn in_force(command: &Command, parsed: &ArgMatches) -> Vec<SettingView> {
    let flags = command.get_arguments().filter_map(|argument| {
        let (flag, variable) = (argument.get_long()?, argument.get_env()?.to_str()?);
        let id = argument.get_id().as_str();
        let values = parsed.get_raw(id).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        Some(SettingView {
            flag: format!("--{flag}"),
            variable: variable.to_owned(),
            value: values.join(","),
            source: match parsed.value_source(id) {
                Some(ValueSource::CommandLine) => SettingSource::CommandLine,
                Some(ValueSource::EnvVariable) => SettingSource::Environment,
                _ => SettingSource::Default,
            },
        })
    });
    flags.collect()
}

/// Variables that a gateway is to be started with.
#[derive(Debug)]
pub(super) struct WantedSettings {
    /// Files that they are in, as they are told.
    files: String,
    variables: BTreeMap<String, String>,
}

/// Reads variables from files as systemd reads them: one of variables (`EnvironmentFile=`) has a line for each, a unit has `Environment=`
/// before it. What does not concern causeway is left out, and a later file beats an earlier one.
///
/// # Errors
/// When one cannot be read, or a line of it is of no such form.
pub(super) fn read(paths: &[PathBuf]) -> Result<WantedSettings, Failure> {
    let mut variables = BTreeMap::new();
    for path in paths {
        let failure = || Failure::new(format!("cannot use {}", path.display())).exit(Exit::BadInput);
        let length = fs::metadata(path)
            .map_err(|error| failure().because(&error))?
            .len();
        if length > MAX_FILE_BYTES {
            return Err(failure().hint(format!(
                "it has {length} bytes; at most {MAX_FILE_BYTES} are read"
            )));
        }
        let text = fs::read_to_string(path).map_err(|error| failure().because(&error))?;
        let read = parse(&text)
            .map_err(|line| failure().hint(format!("line {line} is not of the form NAME=VALUE")))?;
        variables.extend(read);
    }
    let files: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    Ok(WantedSettings {
        files: files.join(" and "),
        variables,
    })
}

/// Tells whether commands read this variable.
fn concerns(name: &str) -> bool {
    name.starts_with(PREFIX) || SHARED.contains(&name)
}

/// The number of a line that cannot be understood otherwise.
fn parse(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut variables = BTreeMap::new();
    for (number, line) in (1_usize..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';', '[']) {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or(number)?;
        if name.trim() == "Environment" {
            // A unit may have several on one line.
            for word in words(value) {
                let (name, value) = word.split_once('=').ok_or(number)?;
                if concerns(name) {
                    variables.insert(name.to_owned(), value.to_owned());
                }
            }
        } else if concerns(name.trim()) {
            variables.insert(name.trim().to_owned(), unquoted(value).to_owned());
        }
    }
    Ok(variables)
}

/// The words of a line, in which quotes hold blanks together, without the quotes.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in text.chars() {
        match quote {
            Some(open) if letter == open => quote = None,
            None if letter == '"' || letter == '\'' => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            None if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    let quoted = ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    quoted.unwrap_or(value)
}

/// Says what would be otherwise if the gateway were started with these variables.
pub(super) fn differences(wanted: &WantedSettings, in_force: &[SettingView]) -> Vec<Check> {
    let files = &wanted.files;
    let warn = |message: String, hint: &str| {
        let message = format!("{files}: {message}");
        Check::warn("settings", "environment", message, hint)
    };
    let known = |name: &str| in_force.iter().find(|setting| setting.variable == name);
    let differing = wanted.variables.iter().filter_map(|(name, value)| {
        let Some(setting) = known(name) else {
            return Some(warn(
                format!("{name} is no variable of the gateway"),
                "`causeway gateway --help` names them; is it of another version?",
            ));
        };
        if is_same(&setting.value, value) {
            return None;
        }
        let (flag, held) = (&setting.flag, shown(&setting.value));
        let differs = format!("{name}={value} differs from the command line in force");
        Some(match setting.source {
            SettingSource::CommandLine => warn(
                format!("{differs}: {flag} {held} there beats it"),
                "take it out of the one or the other",
            ),
            SettingSource::Environment | SettingSource::Default => {
                warn(format!("{differs}, which has {flag} {held}"), TAKE_UP)
            }
        })
    });
    let mut found: Vec<Check> = differing.collect();
    let of_environment = in_force
        .iter()
        .filter(|setting| setting.source == SettingSource::Environment);
    let gone = of_environment.filter(|setting| !wanted.variables.contains_key(&setting.variable));
    found.extend(gone.map(|setting| {
        let (name, value) = (&setting.variable, &setting.value);
        warn(
            format!("{name} is not there, and {name}={value} is in force"),
            TAKE_UP,
        )
    }));
    if found.is_empty() {
        let message = format!("{files}: as in force");
        found.push(Check::ok("settings", "environment", message));
    }
    found
}

/// Tells whether two values mean the same: one text, or one time.
fn is_same(held: &str, wanted: &str) -> bool {
    let time = |text| humantime::parse_duration(text).ok();
    held == wanted || time(held).is_some_and(|held| time(wanted) == Some(held))
}

const TAKE_UP: &str = "a running gateway takes up no flag: restart it, or start another process with --take-over, which nobody notices; another --listen or fewer --threads take a restart";

fn shown(value: &str) -> &str {
    match value {
        "" => "nothing",
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(flag: &str, variable: &str, value: &str, source: SettingSource) -> SettingView {
        SettingView {
            flag: flag.to_owned(),
            variable: variable.to_owned(),
            value: value.to_owned(),
            source,
        }
    }

    #[test]
    fn variables_are_read_as_systemd_reads_them() {
        let text = "# comment\n; another\n\nCAUSEWAY_DRAIN=60s\n CAUSEWAY_ZONE = \"east\" \nPATH=/bin\nOTEL_EXPORTER_OTLP_ENDPOINT=http://[::1]:4317\nOTEL_SERVICE_NAME=x\nCAUSEWAY_DNS='127.0.0.1:53'\n\
                    [Service]\nUser=causeway\nEnvironment=CAUSEWAY_DATA=/data\nEnvironment=\"CAUSEWAY_LOG=info\"\n";
        let read = parse(text).unwrap();
        let read: Vec<_> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(
            read,
            [
                ("CAUSEWAY_DATA", "/data"),
                ("CAUSEWAY_DNS", "127.0.0.1:53"),
                ("CAUSEWAY_DRAIN", "60s"),
                ("CAUSEWAY_LOG", "info"),
                ("CAUSEWAY_ZONE", "east"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1]:4317")
            ]
        );
        assert_eq!(parse("CAUSEWAY_DRAIN=1s\nnonsense"), Err(2));
        let several = "Environment=CAUSEWAY_THREADS=1 \"CAUSEWAY_LOG=info, causeway=debug\" 'CAUSEWAY_DRAIN=40s' HOME=/root\n";
        let read = parse(several).unwrap();
        let read: Vec<_> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(
            read,
            [
                ("CAUSEWAY_DRAIN", "40s"),
                ("CAUSEWAY_LOG", "info, causeway=debug"),
                ("CAUSEWAY_THREADS", "1")
            ]
        );
    }

    #[test]
    fn what_would_be_otherwise_at_the_next_start_is_named_with_both_values() {
        let in_force = [
            setting("--drain", "CAUSEWAY_DRAIN", "30s", SettingSource::Default),
            setting("--zone", "CAUSEWAY_ZONE", "east", SettingSource::CommandLine),
            setting(
                "--dns",
                "CAUSEWAY_DNS",
                "127.0.0.1:53",
                SettingSource::Environment,
            ),
            setting("--threads", "CAUSEWAY_THREADS", "2", SettingSource::Environment),
        ];
        let of = |text: &str| {
            let wanted = WantedSettings {
                files: "env".to_owned(),
                variables: parse(text).unwrap(),
            };
            let found = differences(&wanted, &in_force);
            found.into_iter().map(|check| check.message).collect::<Vec<_>>()
        };
        assert_eq!(
            of("CAUSEWAY_DNS=127.0.0.1:53\nCAUSEWAY_THREADS=2\nCAUSEWAY_DRAIN=30000ms"),
            ["env: as in force"]
        );
        let found = of("CAUSEWAY_DNS=127.0.0.1:53\nCAUSEWAY_DRAIN=60s\nCAUSEWAY_ZONE=west\nCAUSEWAY_NOPE=1");
        assert_eq!(
            found,
            [
                "env: CAUSEWAY_DRAIN=60s differs from the command line in force, which has --drain 30s",
                "env: CAUSEWAY_NOPE is no variable of the gateway",
                "env: CAUSEWAY_ZONE=west differs from the command line in force: --zone east there beats it",
                "env: CAUSEWAY_THREADS is not there, and CAUSEWAY_THREADS=2 is in force",
            ]
        );
    }
}
