//! `causeway check`: is this zone well? A grouped report with a hint for everything that is not.

use std::{fmt::Write as _, path::PathBuf};

use anstyle::{AnsiColor, Style};
use causeway_api::admin::view::{Envelope, SettingView};
use causeway_telemetry::{Check, Status};

use super::{AdminArgs, Exit, Failure, settings};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway check
  causeway check --admin unix:/run/causeway/east.sock
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
    /// Ask only whether the gateway serves its own zone, as /readyz says, whatever became of others
    #[arg(long, conflicts_with = "environment")]
    ready: bool,
    /// Files with the variables that the gateway is started with, as its unit and the EnvironmentFile= of that: what differs from the
    /// command line in force is named as well
    #[arg(long, value_name = "FILE,…", value_delimiter = ',')]
    environment: Vec<PathBuf>,
}

pub(crate) async fn run(args: CheckArgs) -> Result<Exit, Failure> {
    if args.ready {
        let (ready, lines) = args.admin.admin.readiness().await?;
        output::print(&lines)?;
        return Ok(if ready { Exit::Done } else { Exit::Failed });
    }
    let mut envelope: Envelope<Check> = args.admin.admin.get("/v1/checks").await?;
    if !args.environment.is_empty() {
        let wanted = settings::read(&args.environment)?;
        let in_force: Envelope<SettingView> = args.admin.admin.get("/v1/settings").await?;
        let differences = settings::differences(&wanted, &in_force.items);
        envelope.items.extend(differences);
    }
    output::print(&report(&envelope.zone, &envelope.items, output::colour()))?;
    let failed = envelope.items.iter().any(|check| check.status == Status::Fail);
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Groups in the order in which they first appear.
fn report(zone: &str, checks: &[Check], colour: bool) -> String {
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
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let (ok, warnings, failed) = (count(Status::Ok), count(Status::Warn), count(Status::Fail));
    let _ = writeln!(text, "\n{ok} well, {warnings} to look at, {failed} failed");
    text
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
