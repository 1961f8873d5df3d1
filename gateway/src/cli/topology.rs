//! Parts that the commands about topologies share: reading a file whole, asking the gateway, and showing changes.

use std::path::Path;

use causeway_api::admin::view::{ChangeView, ChangesView, Envelope, GenerationView, TopologyView};
use causeway_control::topology::base::BaseLine;
use causeway_federation::topology::{self, Parsed};
use causeway_telemetry::printable;

use super::{
    Failure,
    client::{Endpoint, escape},
    everywhere::AppliedGeneration,
    input::{self, agreed},
    validate,
};
use crate::output;

/// Reads and checks a file as `causeway validate` does, and shows every error. `None` when it cannot be used. Its warnings are for
/// the gateway to say, which knows of more instances than the file does; see [`warn`].
pub(super) fn checked(path: &Path) -> Result<Option<Parsed>, Failure> {
    match input::load(path) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(error) => {
            crate::output::tell(&error.render(validate::style()));
            Ok(None)
        }
    }
}

/// Shows what a gateway has to say about a text.
pub(super) fn warn(name: &str, answer: &ChangesView) {
    let named = format!("[{name}:");
    crate::output::tell(&answer.warnings.replace("[topology:", &named));
}

/// The one item of an answer that has one.
pub(super) fn only<T>(envelope: Envelope<T>, from: &Endpoint) -> Result<T, Failure> {
    let mut items = envelope.items.into_iter();
    items.next().ok_or_else(|| {
        Failure::new(format!("the answer of {from} is empty"))
            .hint("is this a causeway gateway, and of this version? see `causeway --version`")
    })
}

/// Asks a gateway how `text` differs from what is in force there.
pub(super) async fn difference(admin: &Endpoint, text: &str) -> Result<ChangesView, Failure> {
    only(admin.post_text("/v1/topology/diff", text).await?, admin)
}

/// Asks what is in force; `with_text`: its file as well.
pub(super) async fn in_force(admin: &Endpoint, with_text: bool) -> Result<Envelope<TopologyView>, Failure> {
    admin.get(&format!("/v1/topology?text={with_text}")).await
}

pub(super) async fn history(admin: &Endpoint) -> Result<Envelope<GenerationView>, Failure> {
    admin.get("/v1/topology/history").await
}

/// A text with its defaults merged in, and the lines that values come from.
pub(super) fn resolved(text: &str, admin: &Endpoint) -> Result<String, Failure> {
    topology::resolved(text, &admin.to_string())
        .map_err(|findings| Failure::new("this program cannot read that topology").because(&findings))
}

/// State that must be in force for a text to be swapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onto {
    /// Generation that the first line of the text names; without such a line whatever is in force.
    FirstLine,
    Generation(u64),
    /// It may be anything, and shifts of services that it changes end.
    Whatever,
    /// The same, once it was shown what that changes.
    WhateverUnder(u64),
}

/// Topology that is to be swapped in.
#[derive(Debug)]
pub(super) struct TopologySwap<'a> {
    pub(super) text: &'a str,
    /// As the gateway's findings name it; `None`: nobody has written it.
    pub(super) name: Option<&'a str>,
    pub(super) onto: Onto,
    /// Only say what would change.
    pub(super) dry_run: bool,
    /// Words on why, for people.
    pub(super) reason: Option<&'a str>,
    /// Do not ask, whatever it removes.
    pub(super) yes: bool,
}

/// Swaps `text` in, or says what that would change.
async fn put(
    admin: &Endpoint,
    text: &str,
    onto: Onto,
    reason: Option<&str>,
    dry_run: bool,
) -> Result<ChangesView, Failure> {
    let mut path = format!("/v1/topology?dry_run={dry_run}");
    match onto {
        Onto::FirstLine => {}
        Onto::Generation(generation) => path.push_str(&format!("&generation={generation}")),
        Onto::Whatever => path.push_str("&force=true"),
        Onto::WhateverUnder(generation) => path.push_str(&format!("&force=true&generation={generation}")),
    }
    if let Some(reason) = reason {
        path.push_str(&format!("&reason={}", escape(reason)));
    }
    only(admin.put_text(&path, text).await?, admin)
}

/// Added below a change of a zone's virtual addresses.
const VIPS_NOTE: &str = "  ! names of this zone move to other addresses at once: clients that hold one of before are served for --keep-vips of its gateways (10m), and then refused until they ask again\n";

/// One change a line, in the colours that people know from other diffs.
pub(super) fn lines(changes: &[ChangeView], colour: bool) -> String {
    if changes.is_empty() {
        return "no difference\n".to_owned();
    }
    let lines = changes.iter().map(|change| {
        let style = match (colour, change.kind.as_str()) {
            (true, "added") => anstyle::AnsiColor::Green.on_default(),
            (true, "removed") => anstyle::AnsiColor::Red.on_default(),
            (true, _) => anstyle::AnsiColor::Yellow.on_default(),
            (false, _) => anstyle::Style::new(),
        };
        let note = match change.subject.ends_with(": vips") {
            true => VIPS_NOTE,
            false => "",
        };
        format!("{style}{}{style:#}\n{note}", printable(&change.line))
    });
    lines.collect()
}

/// Shows the changes, swaps the text in on top of the generation that these were told for, and says how it ended. At a terminal somebody is asked
/// before zones, services or addresses go. Gives the generation in force; `None`: it was a dry run.
pub(super) async fn swap(
    admin: &Endpoint,
    swap: &TopologySwap<'_>,
) -> Result<Option<AppliedGeneration>, Failure> {
    let would = put(admin, swap.text, swap.onto, swap.reason, true).await?;
    if let Some(name) = swap.name {
        warn(name, &would);
    }
    output::print(&lines(&would.changes, output::colour()))?;
    let in_force = would.generation;
    if would.same {
        output::print(&format!(
            "generation {in_force} has this very text; nothing to apply\n"
        ))?;
        return Ok((!swap.dry_run).then_some(applied(would)));
    }
    if swap.dry_run {
        output::print(&dry_line(in_force))?;
        return Ok(None);
    }
    if let (Some(removed), false) = (removed(&would.changes), swap.yes)
        && !agreed(&format!("this removes {removed}. Go on?"))?
    {
        return Err(Failure::new("nothing was applied").hint("--yes does it without asking"));
    }
    // What was shown has to be what is swapped: the generation is the one that the changes were told for.
    let shown_for = match swap.onto {
        // Whoever overrules others means those as well who were faster meanwhile.
        Onto::Whatever => Onto::Whatever,
        Onto::WhateverUnder(_) => Onto::WhateverUnder(in_force),
        Onto::FirstLine | Onto::Generation(_) => Onto::Generation(in_force),
    };
    let done = put(admin, swap.text, shown_for, swap.reason, false).await?;
    output::print(&in_force_line(admin, &done))?;
    Ok(Some(applied(done)))
}

fn applied(answer: ChangesView) -> AppliedGeneration {
    AppliedGeneration {
        generation: answer.generation,
        fingerprint: answer.fingerprint,
    }
}

/// Most removed things that a question names.
const MAX_NAMED: usize = 5;

/// Zones, services and addresses that clients or other zones may hold, and that a change takes away; `None`: it takes none.
fn removed(changes: &[ChangeView]) -> Option<String> {
    let is_address = |change: &ChangeView| {
        [": gateway", ": instance"]
            .iter()
            .any(|end| change.subject.ends_with(end))
    };
    let named = changes.iter().filter_map(|change| {
        let ChangeView { subject, before, .. } = change;
        match (change.kind.as_str(), subject.split_once(": ")) {
            ("removed", None) if subject.starts_with("zone ") || subject.starts_with("service ") => {
                Some(subject.clone())
            }
            ("removed", Some(_)) if is_address(change) && !stays(changes, change) => {
                let (of, what) = subject.split_once(": ")?;
                Some(format!(
                    "{what} {} of {of}",
                    before.as_deref().unwrap_or_default()
                ))
            }
            ("changed", Some((zone, "vips"))) => Some(format!("the virtual addresses of {zone}")),
            _ => None,
        }
    });
    let mut named: Vec<String> = named.collect();
    if let Some(more @ 1..) = named.len().checked_sub(MAX_NAMED) {
        named.truncate(MAX_NAMED);
        named.push(format!("{more} more"));
    }
    (!named.is_empty()).then(|| named.join(", "))
}

/// Tells whether the address that goes comes again with other tags, weight or capacity, or beside further ones.
fn stays(changes: &[ChangeView], removed: &ChangeView) -> bool {
    let before = removed.before.as_deref().unwrap_or_default();
    let mut added = changes
        .iter()
        .filter(|change| change.kind == "added" && change.subject == removed.subject)
        .filter_map(|change| change.after.as_deref());
    match removed.subject.ends_with(": instance") {
        true => added.any(|after| after.split(' ').take(3).eq(before.split(' ').take(3))),
        false => added.any(|after| {
            before
                .split(" or ")
                .all(|address| after.split(" or ").any(|one| one == address))
        }),
    }
}

/// Says what is in force now.
pub(super) fn in_force_line(admin: &Endpoint, done: &ChangesView) -> String {
    format!(
        "applied: generation {} ({}) is in force at {admin} and spreads to every gateway from there\n",
        done.generation, done.fingerprint
    )
}

/// Says what nobody has asked to be done.
pub(super) fn dry_line(in_force: u64) -> String {
    format!(
        "nothing was applied; it would become generation {} after {in_force}\n",
        in_force + 1
    )
}

/// A topology as a file that can be edited and applied: what is known of it stands in the first line.
pub(super) fn as_file(view: &TopologyView, from: &Endpoint) -> Result<String, Failure> {
    let Some(file) = &view.text else {
        return Err(Failure::new(format!(
            "the gateway at {from} does not tell the text of its topology"
        ))
        .hint("is it of an older version? `causeway get topology -o yaml` shows what it does tell"));
    };
    let line = BaseLine {
        generation: view.generation,
        fingerprint: &view.fingerprint,
    };
    let mut text = line.to_string();
    match (&view.applied_by, &view.applied_at) {
        (Some(by), Some(at)) => text.push_str(&format!(", applied by {by} at {at} (its clock)")),
        _ => text.push_str(match view.source.as_str() {
            "file" => ", from the file that rules this gateway (--topology)",
            _ => ", from the initial file; nothing was applied yet",
        }),
    }
    text.push('\n');
    text.push_str(file);
    if !file.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: &str, subject: &str, before: Option<&str>) -> ChangeView {
        ChangeView {
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            before: before.map(str::to_owned),
            after: None,
            line: String::new(),
        }
    }

    #[test]
    fn what_takes_zones_services_or_addresses_away_is_asked_about() {
        let harmless = [
            change("added", "zone west", None),
            change("changed", "service orders: port", Some("80")),
            change("removed", "service orders: route", Some("canary")),
            change("removed", "apply_from", Some("east")),
        ];
        assert_eq!(removed(&harmless), None);
        let again = |subject: &str, before: &str, after: &str| {
            let added = ChangeView {
                after: Some(after.to_owned()),
                ..change("added", subject, None)
            };
            removed(&[change("removed", subject, Some(before)), added])
        };
        let (instance, gateway) = ("zone east: instance", "zone east: gateway");
        let orders = "orders at 10.0.0.1:80 {} weight 1";
        assert_eq!(again(instance, orders, "orders at 10.0.0.1:80 {} weight 5"), None);
        assert!(again(instance, orders, "orders at 10.0.0.2:80 {} weight 1").is_some());
        assert_eq!(
            again(gateway, "10.0.0.1:7800", "10.0.0.1:7800 or 10.0.0.9:7800"),
            None
        );
        assert!(again(gateway, "10.0.0.1:7800 or 10.0.0.9:7800", "10.0.0.1:7800").is_some());
        let harmful = [
            change("removed", "zone west", None),
            change("removed", "service orders", None),
            change("removed", "zone east: gateway", Some("gw:7800")),
            change("changed", "zone east: vips", Some("loopback 127.64.0.0/16")),
        ];
        assert_eq!(
            removed(&harmful).unwrap(),
            "zone west, service orders, gateway gw:7800 of zone east, the virtual addresses of zone east"
        );
        let many: Vec<_> = (0..9)
            .map(|n| change("removed", &format!("service s{n}"), None))
            .collect();
        assert!(removed(&many).unwrap().ends_with("service s4, 4 more"));
    }
}
