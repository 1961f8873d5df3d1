//! `causeway explain`: where a connection would go now, and why, in the order in which the gateway considers it.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use causeway_api::admin::{CallersVerdict, ExplainedVerdict, Explanation, PermissionVerdict, view::Envelope};
use causeway_federation::name::{PortName, ServiceName, ZoneName};

use super::{AdminArgs, Exit, Failure, client::escape, get::structured, register::Tag, tables::tags};
use crate::output::{self, Format};

const AFTER_HELP: &str = "\
Examples:
  causeway explain orders                          as a client in this zone that connects to orders.mesh
  causeway explain orders --port admin             as a client that connects to its port `admin`
  causeway explain orders --tag version=v2         only instances with this tag
  causeway explain orders --zone west              only this zone, as orders.west.zone.mesh
  causeway explain orders --at west                as a client in zone west, asked through this gateway
  causeway explain orders --caller web             whether the service web may call it, and by which rule
  causeway explain orders --caller batch@west      as callers in another zone are answered here
  causeway explain orders --caller web --method POST --path /api   whether it may call it with such a request
  causeway explain orders --path /beta --header x-canary:1    which of its routes rules such a request, of whom --caller says

The gateway answers with the very decision that a connection would get. A split is drawn anew each time, so two
answers may differ in the arm. Exit code 79: nobody can serve it, or the caller may not call it.";

/// Show where a connection would go now, and why.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ExplainArgs {
    #[arg(value_name = "SERVICE")]
    service: ServiceName,
    /// Port of the service, by its name [default: the primary one]
    #[arg(long, value_name = "PORT")]
    port: Option<PortName>,
    /// The zone that the connection comes from [default: the gateway's own]
    #[arg(long, value_name = "ZONE")]
    from: Option<ZoneName>,
    /// Only instances that carry this tag; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
    /// Only this zone
    #[arg(long, value_name = "ZONE")]
    zone: Option<ZoneName>,
    /// Caller: a service, `anonymous` or a SPIFFE id, with @ZONE if not in the gateway's own zone
    #[arg(long, value_name = "CALLER")]
    caller: Option<String>,
    /// A tag of the calling instance; may be given several times
    #[arg(long = "caller-tag", value_name = "KEY=VALUE", requires = "caller")]
    caller_tags: Vec<Tag>,
    /// A request with this method, or with what the next three say, for services of http and grpc [default: GET]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// With this path, and its query if it has one [default: /]
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// With this host [default: the mesh name]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// With this header; may be given several times
    #[arg(long = "header", value_name = "NAME:VALUE")]
    headers: Vec<String>,
    /// Ask this zone, through this gateway: where its own clients go
    #[arg(long, value_name = "ZONE")]
    at: Option<ZoneName>,
    /// Form of the answer; wide is the same as table
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) async fn run(args: ExplainArgs) -> Result<Exit, Failure> {
    let envelope: Envelope<Explanation> = args.admin.admin.get(&path(&args)).await?;
    let Some(explanation) = envelope.items.first() else {
        return Err(Failure::new(format!("{} explained nothing", args.admin.admin)));
    };
    match args.output {
        Format::Table | Format::Wide => output::print(&told(explanation, output::colour()))?,
        format => output::print_exactly(&structured(&envelope, format)?)?,
    }
    Ok(exit(explanation))
}

/// A caller of another zone has an answer without being routed.
fn exit(explanation: &Explanation) -> Exit {
    let verdict = explanation
        .permission
        .as_ref()
        .map(|permission| permission.verdict);
    let unrouted = explanation.steps.is_empty() && explanation.candidates.is_empty();
    match verdict {
        Some(PermissionVerdict::Forbidden) => Exit::IssuesFound,
        Some(_) if unrouted => Exit::Done,
        _ if explanation.answered_by.is_some() => Exit::Done,
        _ if explanation.candidates.is_empty() => Exit::IssuesFound,
        _ => Exit::Done,
    }
}

fn path(args: &ExplainArgs) -> String {
    let mut path = format!("/v1/explain?service={}", args.service);
    if let Some(port) = &args.port {
        path.push_str(&format!("&port={port}"));
    }
    if let Some(from) = &args.from {
        path.push_str(&format!("&from={from}"));
    }
    for Tag(key, value) in &args.tags {
        path.push_str(&format!("&tag={}", escape(&format!("{key}={value}"))));
    }
    if let Some(zone) = &args.zone {
        path.push_str(&format!("&zone={zone}"));
    }
    if let Some(at) = &args.at {
        path.push_str(&format!("&at={at}"));
    }
    if let Some(caller) = &args.caller {
        path.push_str(&format!("&caller={}", escape(caller)));
    }
    for Tag(key, value) in &args.caller_tags {
        path.push_str(&format!("&caller_tag={}", escape(&format!("{key}={value}"))));
    }
    let request = [
        ("method", &args.method),
        ("path", &args.path),
        ("host", &args.host),
    ];
    for (key, value) in request {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", escape(value)));
        }
    }
    for header in &args.headers {
        path.push_str(&format!("&header={}", escape(header)));
    }
    path
}

/// The explanation as a person reads it: what was looked at, filter by filter, and then who would be asked.
fn told(explanation: &Explanation, colour: bool) -> String {
    let (good, faint) = (
        paint(colour, AnsiColor::Green),
        paint(colour, AnsiColor::BrightBlack),
    );
    let mut text = format!("{} from zone {}\n", explanation.target, explanation.from);
    permission(&mut text, explanation, colour);
    let mut filter = None;
    let width = explanation
        .steps
        .iter()
        .map(|step| step.subject.chars().count())
        .max()
        .unwrap_or(0);
    for step in &explanation.steps {
        if filter != Some(&step.filter) {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(text, "\n{}", step.filter);
            filter = Some(&step.filter);
        }
        let (mark, style) = match step.verdict {
            ExplainedVerdict::Taken => ("√", good),
            ExplainedVerdict::InReserve => ("○", Style::new()),
            ExplainedVerdict::PassedOver => ("·", faint),
        };
        let _ = writeln!(
            text,
            "  {style}{mark} {:width$}  {}{style:#}",
            step.subject, step.reason
        );
    }
    text.push('\n');
    if explanation.candidates.is_empty() {
        let outcome = &explanation.outcome;
        // Writing to a string cannot fail, here and below.
        let _ = match exit(explanation) {
            Exit::IssuesFound => writeln!(text, "Nobody is asked: {outcome}."),
            _ if explanation.answered_by.is_some() => writeln!(text, "No instance is asked: {outcome}."),
            _ => writeln!(text, "Not routed here: {outcome}."),
        };
        return text;
    }
    text.push_str("Would be asked, in this order:\n");
    for (rank, candidate) in explanation.candidates.iter().enumerate() {
        let place = match &candidate.gateway {
            Some(gateway) => format!("zone {} by gateway {gateway}", candidate.zone),
            None => format!("zone {}, an instance here", candidate.zone),
        };
        let wanted = if candidate.tags.is_empty() {
            String::new()
        } else {
            format!(" {{{}}}", tags(&candidate.tags))
        };
        let _ = writeln!(text, "  {}. {place}{wanted}", rank + 1);
    }
    policies(&mut text, explanation);
    text
}

/// Rules for connections and requests on their way.
fn policies(text: &mut String, explanation: &Explanation) {
    // Writing to a string cannot fail, here and below.
    if !explanation.policies.is_empty() {
        text.push_str("\nIn force on the way:\n");
    }
    for policy in &explanation.policies {
        let _ = writeln!(text, "  {policy}");
    }
    if !explanation.ejected.is_empty() {
        text.push_str("\nEjected, and so asked after the others:\n");
    }
    for ejected in &explanation.ejected {
        let _ = writeln!(text, "  ‼ {ejected}");
    }
    if let Some(stay) = &explanation.open_connections {
        let _ = writeln!(text, "\nConnections: {stay}.");
    }
}

fn paint(colour: bool, tone: AnsiColor) -> Style {
    match colour {
        true => Style::new().fg_color(Some(tone.into())),
        false => Style::new(),
    }
}

/// Tells whether the caller that was asked about may call, or who may.
fn permission(text: &mut String, explanation: &Explanation, colour: bool) {
    let good = paint(colour, AnsiColor::Green);
    if let Some(permission) = &explanation.permission {
        let (mark, may, style) = match permission.verdict {
            PermissionVerdict::Permitted => ("√", "may call", good),
            PermissionVerdict::DryRun => ("‼", "would be refused (dry run)", Style::new()),
            PermissionVerdict::Forbidden => ("×", "may not call", paint(colour, AnsiColor::Red)),
        };
        let (caller, reason) = (&permission.caller, &permission.reason);
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(
            text,
            "\npermission\n  {style}{mark} {caller} {may}: {reason}{style:#}"
        );
    }
    if let Some(callers) = &explanation.callers {
        let (mark, who, style) = match callers.verdict {
            CallersVerdict::Everyone => ("√", "everyone may call", good),
            CallersVerdict::Some => ("‼", "not everyone may call (--caller tells of one)", Style::new()),
            CallersVerdict::DryRun => ("‼", "everyone may call, in a dry run of", Style::new()),
            CallersVerdict::Nobody => ("×", "nobody may call", paint(colour, AnsiColor::Red)),
        };
        let _ = writeln!(
            text,
            "\npermission\n  {style}{mark} {who}: {}{style:#}",
            callers.reason
        );
    }
}

#[cfg(test)]
mod tests {
    use causeway_federation::name::Tags;

    use super::*;
    use causeway_api::admin::{ExplainedCandidate, ExplainedStep, PermissionView};

    fn step(filter: &str, subject: &str, verdict: ExplainedVerdict, reason: &str) -> ExplainedStep {
        ExplainedStep {
            filter: filter.to_owned(),
            subject: subject.to_owned(),
            verdict,
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn an_explanation_reads_from_the_first_filter_to_who_is_asked() {
        let explanation = Explanation {
            target: "orders".to_owned(),
            from: "east".to_owned(),
            steps: vec![
                step(
                    "split",
                    "{version=v1}",
                    ExplainedVerdict::Taken,
                    "drawn by weight, 95 of 100",
                ),
                step("split", "{version=v2}", ExplainedVerdict::InReserve, "in reserve"),
                step(
                    "tier 1",
                    "east",
                    ExplainedVerdict::PassedOver,
                    "no healthy instance",
                ),
                step("tier 2", "west/gw1", ExplainedVerdict::Taken, "fresh, tunnel up"),
            ],
            candidates: vec![ExplainedCandidate {
                zone: "west".to_owned(),
                gateway: Some("gw1".to_owned()),
                tags: [("version", "v1")].into_iter().collect::<Tags>(),
            }],
            outcome: "tier 2".to_owned(),
            permission: None,
            callers: None,
            open_connections: Some("open connections are ended 30s after they belong elsewhere".to_owned()),
            policies: vec!["timeout: 2s, of canary".to_owned(), "retry: none".to_owned()],
            ejected: vec![
                "zone east: 5 failures in a row (5 no answer in time), 3s ago, back in 27s".to_owned(),
            ],
            answered_by: None,
        };
        insta::assert_snapshot!(told(&explanation, false), @r"
orders from zone east

split
  √ {version=v1}  drawn by weight, 95 of 100
  ○ {version=v2}  in reserve

tier 1
  · east          no healthy instance

tier 2
  √ west/gw1      fresh, tunnel up

Would be asked, in this order:
  1. zone west by gateway gw1 {version=v1}

In force on the way:
  timeout: 2s, of canary
  retry: none

Ejected, and so asked after the others:
  ‼ zone east: 5 failures in a row (5 no answer in time), 3s ago, back in 27s

Connections: open connections are ended 30s after they belong elsewhere.
");
    }

    #[test]
    fn without_a_candidate_it_says_so() {
        let explanation = Explanation {
            target: "orders".to_owned(),
            from: "east".to_owned(),
            outcome: "no zone can serve it now".to_owned(),
            ..Explanation::default()
        };
        assert!(told(&explanation, false).ends_with("Nobody is asked: no zone can serve it now.\n"));
    }

    #[test]
    fn who_may_not_call_is_told_the_rule_and_who_may_is_told_where_it_goes() {
        let told_of = |verdict, zone: &str| {
            let explanation = Explanation {
                target: "orders".to_owned(),
                from: zone.to_owned(),
                steps: vec![],
                candidates: vec![],
                outcome: "only a gateway of west knows where it goes from there".to_owned(),
                permission: Some(PermissionView {
                    caller: format!("web@{zone}"),
                    verdict,
                    rule: "services.orders.deny[0]".to_owned(),
                    reason: "services.orders.deny[0] denies `*@west`".to_owned(),
                }),
                callers: None,
                open_connections: None,
                policies: Vec::new(),
                ejected: Vec::new(),
                answered_by: None,
            };
            (told(&explanation, false), exit(&explanation))
        };
        let (text, code) = told_of(PermissionVerdict::Forbidden, "west");
        assert!(
            text.contains("× web@west may not call: services.orders.deny[0] denies `*@west`\n"),
            "{text}"
        );
        assert_eq!(code, Exit::IssuesFound);
        let (text, code) = told_of(PermissionVerdict::DryRun, "west");
        assert!(text.contains("‼ web@west would be refused (dry run)"), "{text}");
        assert!(text.contains("Not routed here: only a gateway of west"), "{text}");
        assert_eq!(code, Exit::Done);
    }
}
