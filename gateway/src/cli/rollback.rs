//! `causeway rollback`: applies an older topology again, as a new generation.

use causeway_api::admin::view::GenerationView;
use causeway_federation::topology::applied::MAX_REASON_BYTES;

use super::{
    AdminArgs, Exit, Failure,
    apply::{HandingArgs, handing_help},
    topology::{self, Onto, TopologySwap},
};
use crate::output;

const AFTER_HELP: &str = concat!(
    "\
Examples:
  causeway rollback                   back to the topology before the one in force
  causeway rollback --to 5            back to that of generation 5; see `causeway get topology --history`
  causeway rollback --to 5 --dry-run  only show what would change
  causeway rollback -m 'undo OPS-7' --wait 1m
                                      say why, and wait until every gateway that can be heard has it
",
    handing_help!()
);

/// Apply an older topology again: its text becomes a new generation.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RollbackArgs {
    /// The generation whose topology shall rule again [default: the one before the one in force]
    #[arg(long, value_name = "GENERATION")]
    to: Option<u64>,
    /// End shifts of services that it changes
    #[arg(long)]
    force: bool,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    handing: HandingArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) async fn run(args: RollbackArgs) -> Result<Exit, Failure> {
    let admin = &args.admin.admin;
    let history = topology::history(admin).await?.items;
    let (from, to) = chosen(&history, args.to)?;
    let head = format!(
        "from generation {from} back to the topology of generation {}:\n",
        to.generation
    );
    output::print(&head)?;
    let reason = reason(to.generation, args.handing.reason());
    let swap = TopologySwap {
        text: &to.text,
        name: None,
        onto: match args.force {
            true => Onto::WhateverUnder(from),
            false => Onto::Generation(from),
        },
        dry_run: args.dry_run,
        reason: Some(&reason),
        yes: args.handing.yes,
    };
    let applied = topology::swap(admin, &swap).await?;
    args.handing.wait(admin, applied.as_ref()).await?;
    Ok(Exit::Done)
}

/// `rollback to 5`, with the words of whoever does it, as far as there is room for both.
fn reason(to: u64, given: Option<&str>) -> String {
    let rollback = format!("rollback to {to}");
    let Some(given) = given else {
        return rollback;
    };
    let both = format!("{rollback}: {given}");
    match both.len() <= MAX_REASON_BYTES {
        true => both,
        false => given.to_owned(),
    }
}

/// The generation in force, and the one to go back to. `history` is newest first.
fn chosen(history: &[GenerationView], to: Option<u64>) -> Result<(u64, &GenerationView), Failure> {
    let hint =
        "`causeway get topology --history` lists what is kept; `causeway apply -f FILE` takes any other";
    let in_force = history
        .iter()
        .find(|generation| generation.standing == "in force");
    let in_force = in_force.ok_or_else(|| {
        Failure::new("nothing was applied yet, so there is nothing to go back to").hint(hint)
    })?;
    let standing = |one: &&GenerationView| one.standing == "former";
    let mut former = history.iter().filter(standing);
    let found = match to {
        None => former.next(),
        Some(wanted) => former.find(|one| one.generation == wanted),
    };
    let found = found.ok_or_else(|| {
        let which = to.map_or_else(
            || format!("a generation before {}", in_force.generation),
            |wanted| format!("generation {wanted} among those before {}", in_force.generation),
        );
        Failure::new(format!("the gateway does not keep {which}")).hint(hint)
    })?;
    Ok((in_force.generation, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> Vec<GenerationView> {
        let one = |generation: u64, standing: &str| GenerationView {
            generation,
            fingerprint: String::new(),
            standing: standing.to_owned(),
            applied_by: "east/gw1".to_owned(),
            applied_at: String::new(),
            reason: None,
            follows: generation - 1,
            text: format!("text of {generation}, {standing}"),
        };
        vec![
            one(8, "unusable"),
            one(7, "in force"),
            one(7, "overruled"),
            one(6, "former"),
            one(6, "overruled"),
            one(5, "former"),
        ]
    }

    #[test]
    fn a_rollback_says_that_it_is_one_and_why() {
        assert_eq!(reason(5, None), "rollback to 5");
        assert_eq!(reason(5, Some("undo OPS-7")), "rollback to 5: undo OPS-7");
        let long = "x".repeat(MAX_REASON_BYTES);
        assert_eq!(reason(5, Some(&long)), long);
    }

    #[test]
    fn the_way_back_leads_to_what_was_in_force_and_never_to_what_was_overruled() {
        let history = history();
        let text = |to| chosen(&history, to).map(|(from, to)| (from, to.text.clone()));
        assert_eq!(text(None), Ok((7, "text of 6, former".to_owned())));
        assert_eq!(text(Some(5)), Ok((7, "text of 5, former".to_owned())));
        assert!(text(Some(7)).is_err());
        assert!(text(Some(2)).is_err());
        assert!(chosen(&history[5..], None).is_err(), "nothing is in force");
        assert!(chosen(&history[..3], None).is_err(), "nothing was before it");
    }
}
