//! What the commands about topologies share: reading a file whole, asking the gateway, and showing changes.

use std::{fmt::Write as _, io, path::Path};

use causeway_zone_sync::topology::Parsed;

use super::{Exit, Failure, client::Endpoint, validate};
use crate::{
    admin::view::{ChangeView, ChangesView, Envelope, GenerationView, TopologyView},
    reload::load,
};

/// Reads and checks a file as `causeway validate` does, and shows every finding. `None` when it cannot be used.
pub(super) fn checked(path: &Path) -> Result<Option<Parsed>, Failure> {
    let (parsed, shown) = match load(path) {
        Ok(parsed) => {
            let warnings = parsed.warnings.render(validate::style());
            (Some(parsed), warnings)
        }
        Err(error) => (None, error.render(validate::style())),
    };
    io::Write::write_all(&mut anstream::stderr(), shown.as_bytes())?;
    Ok(parsed)
}

/// The one item of an answer that has one.
pub(super) fn only<T>(envelope: Envelope<T>, from: &Endpoint) -> Result<T, Failure> {
    let mut items = envelope.items.into_iter();
    items.next().ok_or_else(|| {
        Failure::new(format!("the answer of {from} is empty"))
            .hint("is this a causeway gateway, and of this version? see `causeway --version`")
    })
}

/// How `text` differs from what is in force at a gateway.
pub(super) async fn difference(admin: &Endpoint, text: &str) -> Result<ChangesView, Failure> {
    only(admin.post_text("/v1/topology/diff", text).await?, admin)
}

/// What is in force; `with_text`: its file as well.
pub(super) async fn in_force(admin: &Endpoint, with_text: bool) -> Result<Envelope<TopologyView>, Failure> {
    admin.get(&format!("/v1/topology?text={with_text}")).await
}

pub(super) async fn history(admin: &Endpoint) -> Result<Envelope<GenerationView>, Failure> {
    admin.get("/v1/topology/history").await
}

/// Swaps `text` in on top of `generation`, or says what that would change.
pub(super) async fn put(
    admin: &Endpoint,
    text: &str,
    generation: Option<u64>,
    dry_run: bool,
) -> Result<ChangesView, Failure> {
    let mut path = format!("/v1/topology?dry_run={dry_run}");
    if let Some(generation) = generation {
        // Writing to a string cannot fail.
        let _ = write!(path, "&generation={generation}");
    }
    only(admin.put_text(&path, text).await?, admin)
}

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
        format!("{style}{}{style:#}\n", change.line)
    });
    lines.collect()
}

/// Shows the changes, swaps the text in on top of the generation that these were told for, and says how it ended.
pub(super) async fn swap(
    admin: &Endpoint,
    text: &str,
    generation: Option<u64>,
    dry_run: bool,
    colour: bool,
) -> Result<(String, Exit), Failure> {
    let would = put(admin, text, generation, true).await?;
    let mut report = lines(&would.changes, colour);
    let in_force = would.generation;
    if would.same {
        report.push_str(&format!(
            "generation {in_force} has this very text; nothing to apply\n"
        ));
        return Ok((report, Exit::Done));
    }
    if dry_run {
        report.push_str(&format!(
            "nothing was applied; it would become generation {} after {in_force}\n",
            in_force + 1
        ));
        return Ok((report, Exit::Done));
    }
    // What was shown has to be what is swapped: the generation is the one that the changes were told for.
    let done = put(admin, text, Some(in_force), false).await?;
    report.push_str(&format!(
        "applied: generation {} ({}) is in force at {admin} and spreads to every gateway from there\n",
        done.generation, done.fingerprint
    ));
    Ok((report, Exit::Done))
}

/// A topology as a file that can be edited and applied: what is known of it stands in comments.
pub(super) fn as_file(view: &TopologyView) -> String {
    let mut text = format!(
        "# generation {}, fingerprint {}",
        view.generation, view.fingerprint
    );
    match (&view.applied_by, &view.applied_at) {
        (Some(by), Some(at)) => text.push_str(&format!(", applied by {by} at {at} (its clock)")),
        _ => text.push_str(match view.source.as_str() {
            "file" => ", from the file that rules this gateway (--topology)",
            _ => ", from the initial file; nothing was applied yet",
        }),
    }
    text.push('\n');
    match &view.text {
        Some(file) => {
            text.push_str(file);
            if !file.ends_with('\n') {
                text.push('\n');
            }
        }
        None => {
            let lists = [("zones", &view.zones), ("services", &view.services)];
            for (what, names) in lists {
                text.push_str(&format!("# {what}: {}\n", names.join(", ")));
            }
        }
    }
    text
}
