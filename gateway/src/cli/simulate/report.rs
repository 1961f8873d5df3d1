//! Outcomes of a simulation in words.

use std::fmt::Write as _;

use causeway_federation::{
    name::{Tags, ZoneName},
    topology::Criticality,
};
use causeway_routing::simulate::{
    CheckedPromise, ConflictKind, PermissionConflict, PromiseState, Simulated, SimulatedFinding, SinglePoint,
    SinglePointKind,
};

use crate::{
    cli::tables::tags,
    output::{self, Word},
};

/// Most broken cases of one promise that are shown.
const SHOWN_CASES: usize = 8;
/// Most findings of one of them.
const SHOWN_FINDINGS: usize = 4;

/// One scenario as tables, and what was found.
pub(super) fn scenario(outcome: &Simulated) -> String {
    let lost: Vec<&str> = outcome.lost.iter().map(ZoneName::as_str).collect();
    let mut text = match lost[..] {
        [] => "With every zone:\n".to_owned(),
        _ => format!("\nWithout {}:\n", lost.join(", ")),
    };
    // Most services know no other.
    let is_ranked = outcome
        .flows
        .iter()
        .any(|flow| flow.criticality != Criticality::Normal);
    let rows = outcome.flows.iter().map(|flow| {
        let mut row = vec![
            flow.service.as_str().into(),
            flow.from.as_str().into(),
            match &flow.to {
                Some(zone) => zone.as_str().into(),
                None if flow.is_shed => Word::doubtful("shed".to_owned()),
                None if flow.forbidden_by.is_some() => Word::doubtful("forbidden".to_owned()),
                None => Word::doubtful("nobody".to_owned()),
            },
            tags(&flow.tags).into(),
            format!("{:.0} %", flow.share * 100.0).into(),
            format!("{:.1}", flow.per_second).into(),
        ];
        if is_ranked {
            row.push(flow.criticality.word().into());
        }
        row
    });
    let mut header = vec!["SERVICE", "FROM", "TO", "TAGS", "SHARE", "PER SECOND"];
    if is_ranked {
        header.push("CRITICALITY");
    }
    text.push_str(&output::table(&header, rows.collect(), output::colour()));
    capacities(&mut text, outcome);
    for finding in &outcome.findings {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "! {}", finding_in_words(finding));
    }
    text
}

/// Tells what zones are given of what they declare, and what is shed of each criticality, where anything is declared.
fn capacities(text: &mut String, outcome: &Simulated) {
    let declared = |load: &&causeway_routing::simulate::ServedLoad| load.capacity_per_second.is_some();
    let rows = outcome.served.iter().filter(declared).map(|load| {
        let capacity = load.capacity_per_second.unwrap_or_default() as f64;
        vec![
            load.service.as_str().into(),
            load.zone.as_str().into(),
            format!("{:.1}", load.per_second).into(),
            match load.is_measured {
                true => format!("{capacity:.0} measured").into(),
                false => format!("{capacity:.0}").into(),
            },
            match capacity > 0.0 {
                true => format!("{:.0} %", load.per_second / capacity * 100.0).into(),
                false => "".into(),
            },
        ]
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        text.push('\n');
        let header = ["SERVICE", "ZONE", "PER SECOND", "CAPACITY", "USED"];
        text.push_str(&output::table(&header, rows, output::colour()));
    }
    if outcome
        .criticalities
        .iter()
        .any(|load| load.shed_per_second > 0.0)
    {
        let loads = outcome.criticalities.iter().map(|load| {
            let (shed, all) = (load.shed_per_second, load.per_second);
            format!("{shed:.1} of {all:.1} {}", load.criticality.word())
        });
        let _ = writeln!(text, "\nShed a second: {}.", loads.collect::<Vec<_>>().join(", "));
    }
}

fn finding_in_words(finding: &SimulatedFinding) -> String {
    match finding {
        SimulatedFinding::NoHome {
            service,
            from,
            per_second,
            ..
        } => format!("{service}: nobody serves clients in {from} ({per_second:.1} a second)"),
        SimulatedFinding::Shed {
            service,
            from,
            criticality,
            per_second,
        } => format!(
            "{service}: {per_second:.1} {} a second of clients in {from} are shed: there is no capacity for them",
            criticality.word()
        ),
        SimulatedFinding::OverCapacity {
            service,
            zone,
            tags,
            per_second,
            capacity_per_second,
        } => format!(
            "{service}: instances in {zone}{} get {per_second:.1} a second, and declare {capacity_per_second}",
            with(tags)
        ),
        SimulatedFinding::Forbidden {
            service,
            from,
            per_second,
            rule,
        } => format!(
            "{service}: nobody in {from} may call it, by {rule}, and clients there ask for {per_second:.1} a second"
        ),
        SimulatedFinding::NoGateway {
            service,
            from,
            per_second,
            ..
        } => format!("{service}: clients in {from} have no other gateway ({per_second:.1} a second)"),
    }
}

fn with(tags: &Tags) -> String {
    match tags.is_empty() {
        true => String::new(),
        false => format!(" with {tags}"),
    }
}

/// Outcomes of all promises.
pub(super) fn promises(checked: &[CheckedPromise], is_made_up: bool) -> String {
    if checked.is_empty() {
        return String::new();
    }
    let by = match is_made_up {
        true => " (by loads that are made up: --load and --loads give others)",
        false => "",
    };
    let mut text = format!("\nPromises{by}:\n");
    for (place, promise) in checked.iter().enumerate() {
        let (lose, keep, tried) = (&promise.lose, &promise.keep, promise.tried);
        let (mark, word) = match promise.state {
            PromiseState::Kept => ("√", format!("kept, in {tried} of {tried} cases")),
            PromiseState::Broken => (
                "×",
                format!("broken in {} of {tried} cases", promise.broken.len()),
            ),
            PromiseState::Untried => (
                "‼",
                "not tried: none of the loads is of what it keeps, or there is nothing to lose".to_owned(),
            ),
        };
        let _ = writeln!(text, "{mark} promises[{place}]: lose {lose}, keep {keep}: {word}");
        for case in promise.broken.iter().take(SHOWN_CASES) {
            let _ = writeln!(text, "    without {}:", case.lost);
            let own = case.findings.len().saturating_sub(case.without_loss);
            for (place, finding) in case.findings.iter().take(SHOWN_FINDINGS).enumerate() {
                let always = if place < own {
                    ""
                } else {
                    " (also with nothing lost)"
                };
                let _ = writeln!(text, "      {}{always}", finding_in_words(finding));
            }
            more(&mut text, "      ", case.findings.len(), SHOWN_FINDINGS);
        }
        more(&mut text, "    ", promise.broken.len(), SHOWN_CASES);
    }
    text
}

fn more(text: &mut String, indent: &str, all: usize, shown: usize) {
    if all > shown {
        let _ = writeln!(text, "{indent}and {} more", all - shown);
    }
}

/// Remarks beside the loads: parts that a service is lost with, and permissions that contradict exports.
pub(super) fn remarks(points: &[SinglePoint], conflicts: &[PermissionConflict]) -> String {
    let mut text = String::new();
    if !points.is_empty() {
        text.push_str("\nSingle points of failure:\n");
    }
    for SinglePoint { service, zone, kind } in points {
        let _ = match kind {
            SinglePointKind::Instance => writeln!(text, "- {service}: one instance, in {zone}"),
            SinglePointKind::Gateway => writeln!(text, "- {service}: zone {zone}, and its one gateway"),
            SinglePointKind::Zone => writeln!(text, "- {service}: zone {zone}"),
        };
    }
    if !conflicts.is_empty() {
        text.push_str("\nPermissions that contradict exports:\n");
    }
    for conflict in conflicts {
        let (service, zone, rule) = (&conflict.service, &conflict.zone, &conflict.rule);
        let _ = match conflict.kind {
            ConflictKind::ExportedButForbidden => writeln!(
                text,
                "- {service}: `export_to` names {zone}, and by {rule} nobody there may call it"
            ),
            ConflictKind::AllowedButNotExported => writeln!(
                text,
                "- {service}: `allow` names callers in {zone}, and {rule} leaves that zone out"
            ),
        };
    }
    text
}
