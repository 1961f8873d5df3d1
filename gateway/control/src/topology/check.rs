//! Is all well with the applied topology? For `/readyz` and `causeway check`.

use causeway_telemetry::Check;

use super::{RulingTopology, words::in_words};

/// Nothing here keeps local clients from being served, so the worst is a warning.
#[must_use]
pub fn check(view: &RulingTopology) -> Check {
    let (group, name) = ("gateway", "topology");
    let applied = &view.applied;
    if let Some(conflict) = applied.conflict() {
        return Check::warn(
            group,
            name,
            format!(
                "two were applied without knowing of each other: {} is in force, {} is overruled",
                in_words(applied, conflict.winner),
                in_words(applied, conflict.loser)
            ),
            "apply what is still wanted of the overruled one (`causeway get topology --history`); the next generation \
             ends this warning",
        );
    }
    if let Some((edition, refused)) = applied.refused().last() {
        return Check::warn(
            group,
            name,
            format!(
                "generation {edition} of {} is refused: {}",
                refused.by, refused.why
            ),
            refused.why.hint(),
        );
    }
    if view.disk_fails {
        return Check::warn(
            group,
            name,
            "the one in force is not on disk; a restart would go back to an older one",
            "is the --data folder full or read-only?",
        );
    }
    match applied.document() {
        Some(document) => Check::ok(
            group,
            name,
            format!(
                "generation {}, applied by {}, is in force",
                document.edition(),
                document.by()
            ),
        ),
        None => Check::ok(
            group,
            name,
            "the initial topology is in force; nothing was applied yet",
        ),
    }
}
