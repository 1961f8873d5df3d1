//! `causeway check`: is this zone well? A grouped report with a hint for everything that is not.

use std::{fmt::Write as _, path::PathBuf, time::SystemTime};

use anstyle::{AnsiColor, Style};
use causeway_api::{
    admin::view::{Envelope, SettingView},
    elsewhere::{EveryZoneView, ZoneAnswerState, ZoneAnswerView},
};
use causeway_telemetry::{Check, Status};

use super::{
    AdminArgs, Exit, Failure,
    federation::{PlaceArgs, shown, understood},
    get::structured,
    settings,
    tables::ago,
};
use crate::output::{self, Format, ReportFormat};

const AFTER_HELP: &str = "\
Examples:
  causeway check
  causeway check --admin unix:/run/causeway/east.sock
  causeway check --all                                        every zone, asked through this gateway; one that is away is a finding
  causeway check --at west                                    as zone west says it
  causeway check --ready                                      health check of a container: does it serve its zone?
  causeway check --environment /etc/causeway/gateway.env      does it differ from what the gateway runs with?

Exit codes: 0 when nothing failed (a ‼ is a warning, such as a service that has no instance yet), 1 when something did (×):
a zone that cannot be reached, or a service that nobody can serve any more. With --ready 0 when the gateway is ready, else 1.";

/// Report on the health of a running gateway and its federation.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    place: PlaceArgs,
    /// Form of the report
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: ReportFormat,
    /// Ask only whether the gateway serves its own zone, as /readyz says, whatever became of others
    #[arg(long, conflicts_with_all = ["environment", "all", "at", "output"])]
    ready: bool,
    /// Files with the variables that the gateway is started with, as its unit and the EnvironmentFile= of that: what differs from the
    /// command line in force is named as well
    #[arg(long, value_name = "FILE,…", value_delimiter = ',', conflicts_with_all = ["all", "at"])]
    environment: Vec<PathBuf>,
}

pub(crate) async fn run(args: CheckArgs) -> Result<Exit, Failure> {
    if args.ready {
        let (ready, lines) = args.admin.admin.readiness().await?;
        output::print(&lines)?;
        return Ok(if ready { Exit::Done } else { Exit::Failed });
    }
    let path = args.place.page("/v1/checks");
    if args.place.all {
        let view = args.admin.admin.get(&path).await?;
        return everywhere(&view, args.output);
    }
    let mut envelope: Envelope<Check> = args.admin.admin.get(&path).await?;
    if !args.environment.is_empty() {
        let wanted = settings::read(&args.environment)?;
        let in_force: Envelope<SettingView> = args.admin.admin.get("/v1/settings").await?;
        let differences = settings::differences(&wanted, &in_force.items);
        envelope.items.extend(differences);
    }
    output::print(&match args.output {
        ReportFormat::Text => report(&envelope.zone, &envelope.items, output::colour()),
        ReportFormat::Json => structured(&envelope, Format::Json)?,
    })?;
    Ok(exit(&envelope.items))
}

pub(super) fn exit(checks: &[Check]) -> Exit {
    match checks.iter().any(|check| check.status == Status::Fail) {
        true => Exit::Failed,
        false => Exit::Done,
    }
}

/// Shows the findings of every zone, one after another.
fn everywhere(view: &EveryZoneView, format: ReportFormat) -> Result<Exit, Failure> {
    let zones: Vec<_> = view
        .zones
        .iter()
        .map(|zone| (zone, of_zone(zone, SystemTime::now())))
        .collect();
    let report =
        |(zone, checks): &(&ZoneAnswerView, Vec<Check>)| report(&zone.zone, checks, output::colour());
    let reports: Vec<_> = zones.iter().map(report).collect();
    output::print(&match format {
        ReportFormat::Text => reports.join("\n"),
        ReportFormat::Json => structured(view, Format::Json)?,
    })?;
    let all: Vec<_> = zones.into_iter().flat_map(|(_, checks)| checks).collect();
    Ok(exit(&all))
}

/// Findings of a zone. That it is away is one; what it said before counts no more, and is summed up.
fn of_zone(zone: &ZoneAnswerView, now: SystemTime) -> Vec<Check> {
    const GROUP: &str = "federation";
    let because = zone.because.clone().unwrap_or_default();
    let hint = zone.hint.clone();
    let told = shown(zone, now).map(|shown| (understood::<Check>(shown.answer), shown.age));
    match (zone.state, told) {
        (ZoneAnswerState::Answered, Some((Ok(envelope), _))) => envelope.items,
        (ZoneAnswerState::Answered, _) => {
            let hint = "are the gateways of both zones of the same version?";
            vec![Check::fail(GROUP, "answer", "it cannot be understood", hint)]
        }
        (ZoneAnswerState::Refused, _) => {
            let hint = hint.unwrap_or_else(|| "ask that zone's operator what may be read".to_owned());
            vec![Check::warn(GROUP, "answer", format!("refused: {because}"), hint)]
        }
        (ZoneAnswerState::Away, last) => {
            let last = match last {
                Some((Ok(envelope), Some(age))) => {
                    format!("; {} it said: {}", ago(age), sum(&envelope.items))
                }
                _ => "; this gateway remembers no word of it".to_owned(),
            };
            let hint = hint.unwrap_or_else(|| "is its gateway running, and is there a way to it?".to_owned());
            vec![Check::fail(
                GROUP,
                "answer",
                format!("away: {because}{last}"),
                hint,
            )]
        }
    }
}

/// Groups in the order in which they first appear.
pub(super) fn report(zone: &str, checks: &[Check], colour: bool) -> String {
    let mut text = format!("zone {zone}\n");
    let mut groups: Vec<&str> = Vec::new();
    for check in checks {
        if !groups.contains(&check.group.as_str()) {
            groups.push(&check.group);
        }
    }
    for group in groups {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "\n{group}");
        for check in checks.iter().filter(|check| check.group == group) {
            lines(&mut text, check, colour);
        }
    }
    let _ = writeln!(text, "\n{}", sum(checks));
    text
}

fn sum(checks: &[Check]) -> String {
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let (ok, warnings, failed) = (count(Status::Ok), count(Status::Warn), count(Status::Fail));
    format!("{ok} well, {warnings} to look at, {failed} failed")
}

fn lines(text: &mut String, check: &Check, colour: bool) {
    let (mark, tone) = match check.status {
        Status::Ok => ("√", AnsiColor::Green),
        Status::Warn => ("‼", AnsiColor::Yellow),
        Status::Fail => ("×", AnsiColor::Red),
    };
    let style = if colour {
        Style::new().fg_color(Some(tone.into()))
    } else {
        Style::new()
    };
    let _ = write!(text, "  {style}{mark}{style:#} {}", check.name);
    if !check.message.is_empty() {
        let _ = write!(text, ": {}", check.message);
    }
    text.push('\n');
    if let (Some(hint), true) = (&check.hint, check.status != Status::Ok) {
        let _ = writeln!(text, "    hint: {hint}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_that_is_away_is_a_finding_with_its_last_word_and_one_that_refuses_is_to_be_looked_at() {
        let zone: ZoneAnswerView = serde_json::from_value(serde_json::json!({
            "zone": "west", "state": "away", "asked": "2026-11-18T11:06:40Z", "because": "no tunnel leads there",
            "last": { "time": "2026-11-18T11:04:40Z", "answer": {
                "version": 1, "kind": "checks", "zone": "west", "generation": 1,
                "items": [{ "group": "gateway", "name": "running", "status": "ok", "message": "" }],
            } },
        }))
        .unwrap();
        let now = humantime::parse_rfc3339_weak("2026-11-18T11:06:40Z").unwrap();
        let checks = of_zone(&zone, now);
        assert_eq!(exit(&checks), Exit::Failed);
        insta::assert_snapshot!(report("west", &checks, false), @r"
zone west

federation
  × answer: away: no tunnel leads there; 2m ago it said: 1 well, 0 to look at, 0 failed
    hint: is its gateway running, and is there a way to it?

0 well, 0 to look at, 1 failed
");
        let refused = ZoneAnswerView {
            state: ZoneAnswerState::Refused,
            last: None,
            ..zone
        };
        let checks = of_zone(&refused, now);
        assert_eq!((checks[0].status, exit(&checks)), (Status::Warn, Exit::Done));
    }

    #[test]
    fn checks_are_grouped_and_only_what_is_not_well_gets_a_hint() {
        let checks = [
            Check::ok("gateway", "topology", "6a1b2c in force"),
            Check::fail("services", "orders", "no instance anywhere", "register one"),
            Check::ok("gateway", "mesh DNS", ""),
            Check::warn("tunnels", "zone west", "no tunnel", "is its gateway running?"),
        ];
        insta::assert_snapshot!(report("east", &checks, false), @r"
zone east

gateway
  √ topology: 6a1b2c in force
  √ mesh DNS

services
  × orders: no instance anywhere
    hint: register one

tunnels
  ‼ zone west: no tunnel
    hint: is its gateway running?

2 well, 1 to look at, 1 failed
");
    }
}
