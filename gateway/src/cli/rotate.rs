//! `causeway ca rotate`: exchanges the root of the federation for another, step by step, while everything runs. What comes
//! after what is decided in `crate::cli::rotation`.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use causeway_api::admin::view::TrustSummary;
use causeway_federation::name::ZoneName;
use causeway_identity::ca::issued::{self, Issued};

use super::{
    AdminArgs, Exit, Failure, ca,
    passphrase::PassphraseArgs,
    revoke::ca_error,
    spread::{FederationView, Waited, note_topology, say},
};
use crate::cli::rotation::{
    Goal, Lack, RotationStep, State,
    folder::{self, CaFolder, FolderError},
    lacking,
};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway ca rotate --ca /var/lib/causeway-ca                    begin, or go on after an interruption
  causeway ca rotate --ca /var/lib/causeway-ca --status           where does it stand?
  causeway ca rotate --ca /var/lib/causeway-ca --pause            stop before the next step, or where it waits
  causeway ca rotate --ca /var/lib/causeway-ca --resume
  causeway ca rotate --ca /var/lib/causeway-ca --abandon          give it up, before anything is issued from the next CA
  causeway ca rotate --ca /var/lib/causeway-ca --without plant    do not wait for a zone; it must join anew

The steps: make the next CA; have every zone trust both; issue from the next one, and wait until every gateway has a
certificate of it (those with `renew.json` see to it by themselves, within minutes); have every zone trust the new root
alone. Before anything is written it is asked who is there, and said how long that takes. It can be interrupted at any moment and
begun again, and abandoned before the third step. Join tokens that were issued before the third step are void
after it.

Exit codes: 0 done, or as asked; 1 failed; 79 paused, or not done yet (--status).";

/// Longest time that a gateway which renews by itself takes for a certificate of another root.
const LONGEST_RENEWAL: Duration = Duration::from_secs(300);

/// Exchange the root of the federation for a new one, without stopping anything
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RotateArgs {
    /// Folder of the CA, as `causeway ca init` made it
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_CA")]
    ca: PathBuf,
    /// Show where it stands, and change nothing
    #[arg(long, conflicts_with_all = ["pause", "resume"])]
    status: bool,
    /// Have a rotation that runs or is begun later stop where it is
    #[arg(long, conflicts_with = "resume")]
    pause: bool,
    /// Go on after a pause
    #[arg(long)]
    resume: bool,
    /// Give up a rotation that has not begun to issue from the next CA: the gateways are told to trust the present root alone
    #[arg(long, conflicts_with_all = ["status", "pause", "resume"])]
    abandon: bool,
    /// Do not wait for this zone; it is left behind. Can be given several times
    #[arg(long, value_name = "ZONE")]
    without: Vec<ZoneName>,
    /// Go on although gateways trust roots that are not this CA's: they are then trusted no more
    #[arg(long)]
    only_this_ca: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) async fn run(args: RotateArgs) -> Result<Exit, Failure> {
    if args.status {
        return status(&args).await;
    }
    let set = |paused| {
        folder::set_paused(&args.ca, paused).map_err(|error| folder_failure("cannot use the CA", &error))
    };
    if args.pause {
        set(true)?;
        output::print("paused; `--resume` goes on\n")?;
        return Ok(Exit::Done);
    }
    if args.resume {
        set(false)?;
    }
    let folder = CaFolder::lock(&args.ca, args.passphrase.read()?);
    let folder = folder.map_err(|error| folder_failure("cannot use the CA", &error))?;
    if args.abandon {
        return abandon(&args, &folder).await;
    }
    let (mut state, is_new) = begin(&args, &folder).await?;
    while state.step != RotationStep::Done {
        if folder::is_paused(folder.path()) {
            return paused(&state);
        }
        if !carry_out(&args, &folder, &mut state, is_new).await? {
            return paused(&state);
        }
        state.step = state.step.next();
        write(&folder, &state)?;
    }
    note_topology(&args.admin.admin, None).await?;
    let aside = folder.finish(&state).map_err(|error| {
        folder_failure(
            "the rotation is done, but the old CA is still in its place",
            &error,
        )
    })?;
    output::print(&format!(
        "done: the root is {}; the old CA lies in {}, and its key may be destroyed\n",
        state.new.as_deref().unwrap_or_default(),
        aside.display()
    ))?;
    Ok(Exit::Done)
}

/// Takes up a rotation where it stands, or begins one, and says whether it is new; the state is on disk when this returns.
async fn begin(args: &RotateArgs, folder: &CaFolder) -> Result<(State, bool), Failure> {
    let failed = |error: FolderError| folder_failure("cannot begin the rotation", &error);
    let known = folder::read_state(folder.path()).map_err(failed)?;
    let known = known.filter(|state| state.step != RotationStep::Done);
    let is_new = known.is_none();
    let mut state = match known {
        Some(state) => state,
        None => {
            let state = State {
                step: RotationStep::Preparing,
                old: folder.ca().map_err(failed)?.hash().to_string(),
                new: None,
                begun_at: SystemTime::now(),
                without: args.without.iter().cloned().collect(),
            };
            // Nothing is written while nobody answers.
            let view = federation(args, &state).look().await?;
            check_roots(folder, &view, args.only_this_ca)?;
            foretell(folder, &view, &state)?;
            state
        }
    };
    state.without.extend(args.without.iter().cloned());
    write(folder, &state)?;
    Ok((state, is_new))
}

/// Says who is waited for, and how long that takes.
fn foretell(folder: &CaFolder, view: &TrustSummary, state: &State) -> Result<(), Failure> {
    let goal = Goal {
        document: (0, String::new()),
        issuer: None,
    };
    let away: Vec<_> = lacking(view, &goal, &state.without)
        .into_iter()
        .filter(|(_, lack)| *lack == Lack::Away)
        .map(|(zone, _)| zone.to_owned())
        .collect();
    let record = issued::read(folder.path()).unwrap_or_default();
    say(&foretold(
        view.own_zones().count(),
        &away,
        &record.issued,
        SystemTime::now(),
    ))
}

/// Words on how long a rotation takes, of so many zones of which these are away.
fn foretold(zones: usize, away: &[String], issued: &[Issued], now: SystemTime) -> String {
    let live = issued.iter().filter(|one| one.not_after >= now);
    let lives = live.filter_map(|one| one.not_after.duration_since(one.not_before).ok());
    let longest = lives
        .max()
        .map_or(LONGEST_RENEWAL, |life| (life / 50).min(LONGEST_RENEWAL));
    let longest = Duration::from_secs(longest.as_secs().max(1));
    let mut text = format!(
        "{zones} zones; gateways that renew by themselves have a certificate of the new root within {}, others need one by hand\n",
        humantime::format_duration(longest)
    );
    if !away.is_empty() {
        text.push_str(&format!(
            "not heard, and waited for until they are back: {}; --without ZONE leaves one behind\n",
            away.join(", ")
        ));
    }
    text
}

/// Gives up a rotation while no certificate is of the new root: has every zone trust the present one alone again.
async fn abandon(args: &RotateArgs, folder: &CaFolder) -> Result<Exit, Failure> {
    let failed = |error: FolderError| folder_failure("cannot abandon the rotation", &error);
    let known = folder::read_state(folder.path()).map_err(failed)?;
    let Some(state) = known.filter(|state| state.step != RotationStep::Done) else {
        output::print("no rotation is under way\n")?;
        return Ok(Exit::Done);
    };
    if state.step > RotationStep::Announcing {
        return Err(Failure::new("the rotation cannot be abandoned any more").hint(
            "gateways may have certificates of the new root already: go on, and rotate once more if that root is not wanted",
        ));
    }
    let federation = federation(args, &state);
    // Nothing is taken back while nobody answers.
    let view = federation.look().await?;
    let aside = set_aside(folder, &state)?;
    let document = folder
        .document((view.generation, &view.fingerprint), SystemTime::now())
        .map_err(failed)?;
    federation.hand(&document).await?;
    folder.forget_rotation().map_err(failed)?;
    let aside = aside.map_or_else(String::new, |aside| {
        format!("; the CA that was to come lies in {}", aside.display())
    });
    output::print(&format!(
        "abandoned: generation {} of what is trusted has the present root alone, and zones take it up as they are heard{aside}\n",
        document.edition().generation
    ))?;
    Ok(Exit::Done)
}

/// Sets the CA aside that was to come. Whoever goes on with the rotation after an interruption makes another one.
fn set_aside(folder: &CaFolder, state: &State) -> Result<Option<PathBuf>, Failure> {
    let anew = State {
        step: RotationStep::Preparing,
        new: None,
        ..state.clone()
    };
    write(folder, &anew)?;
    let aside = folder.abandon(state);
    aside.map_err(|error| folder_failure("cannot abandon the rotation", &error))
}

fn write(folder: &CaFolder, state: &State) -> Result<(), Failure> {
    let written = folder.write_state(state);
    written.map_err(|error| folder_failure("cannot write down where the rotation stands", &error))
}

fn paused(state: &State) -> Result<Exit, Failure> {
    output::print(&format!("paused at {}\n", state.step.describe()))?;
    Ok(Exit::IssuesFound)
}

fn say_step(state: &State) -> Result<(), Failure> {
    say(&format!("{}\n", state.step.describe()))
}

/// Does what a step asks for. Says whether it is done; if not, it was paused. A rotation that is new, and that the gateways refuse, is as if
/// it had not been begun.
async fn carry_out(
    args: &RotateArgs,
    folder: &CaFolder,
    state: &mut State,
    is_new: bool,
) -> Result<bool, Failure> {
    let failed = |error: FolderError| folder_failure("cannot go on with the rotation", &error);
    match state.step {
        RotationStep::Preparing => {
            say_step(state)?;
            check_roots(folder, &federation(args, state).look().await?, args.only_this_ca)?;
            state.new = Some(folder.prepare().map_err(failed)?.to_string());
            return Ok(true);
        }
        RotationStep::Announcing => {}
        RotationStep::Issuing => folder.exchange(state).map_err(failed)?,
        RotationStep::Retiring => folder.retire(state).map_err(failed)?,
        RotationStep::Done => return Ok(true),
    }
    let federation = federation(args, state);
    let view = federation.look().await?;
    let document = folder
        .document((view.generation, &view.fingerprint), SystemTime::now())
        .map_err(failed)?;
    if let Err(failure) = federation.hand(&document).await {
        if is_new && state.step == RotationStep::Announcing && failure.is_refused() {
            let undone = set_aside(folder, state).and_then(|_| folder.forget_rotation().map_err(failed));
            // Beside the refusal, which is why.
            if let Err(error) = undone {
                let _ = error.report();
            }
        }
        return Err(failure);
    }
    // Only now it is true.
    say_step(state)?;
    let edition = document.edition();
    let goal = Goal {
        document: (edition.generation, edition.fingerprint.to_string()),
        issuer: state.new.clone().filter(|_| state.step == RotationStep::Issuing),
    };
    let path = folder.path();
    let waited = federation.wait(&goal, |_| folder::is_paused(path)).await?;
    Ok(waited == Waited::Reached)
}

fn federation<'a>(args: &'a RotateArgs, state: &State) -> FederationView<'a> {
    FederationView {
        admin: &args.admin.admin,
        without: state.without.clone(),
    }
}

/// Before the first document: it would have gateways trust this CA's roots alone, where their files may say more.
pub(super) fn check_roots(folder: &CaFolder, view: &TrustSummary, only_this_ca: bool) -> Result<(), Failure> {
    if view.generation > 0 || only_this_ca {
        return Ok(());
    }
    let ca = folder
        .ca()
        .map_err(|error| folder_failure("cannot use the CA", &error))?;
    let ours = |fingerprint: &str| {
        let mut roots = ca.roots().iter();
        roots.any(|root| causeway_federation::trust::CertificateHash::of(root).to_string() == fingerprint)
    };
    match view.roots.iter().find(|root| !ours(&root.fingerprint)) {
        None => Ok(()),
        Some(root) => Err(Failure::new(format!(
            "the gateways trust {} ({}), which is not this CA's and would be trusted no more",
            root.subject, root.fingerprint
        ))
        .hint(
            "put its certificate behind the own one in the CA's ca.pem to keep it, or give --only-this-ca",
        )),
    }
}

async fn status(args: &RotateArgs) -> Result<Exit, Failure> {
    let state = folder::read_state(&args.ca).map_err(|error| folder_failure("cannot use the CA", &error))?;
    let Some(state) = state else {
        output::print("no rotation was begun\n")?;
        return Ok(Exit::Done);
    };
    let mut text = format!(
        "{}\nbegun {}, from {}{}\n",
        state.step.describe(),
        humantime::format_rfc3339_seconds(state.begun_at),
        state.old,
        state
            .new
            .as_ref()
            .map_or_else(String::new, |new| format!(" to {new}"))
    );
    for zone in &state.without {
        text.push_str(&format!("zone {zone} is not waited for\n"));
    }
    let paused = folder::is_paused(&args.ca);
    if paused && state.step != RotationStep::Done {
        text.push_str("it is paused; `--resume` goes on\n");
    }
    if state.step != RotationStep::Done {
        // What cannot be asked is told, and the rest shown all the same.
        match federation(args, &state).look().await {
            Ok(view) => {
                let goal = Goal {
                    document: (view.generation, view.fingerprint.clone()),
                    issuer: state.new.clone().filter(|_| state.step == RotationStep::Issuing),
                };
                for (zone, lack) in lacking(&view, &goal, &state.without) {
                    text.push_str(&format!("zone {zone} {lack}\n"));
                }
            }
            Err(failure) => drop(failure.report()),
        }
    }
    output::print(&text)?;
    Ok(match state.step {
        RotationStep::Done => Exit::Done,
        _ => Exit::IssuesFound,
    })
}

pub(super) fn folder_failure(message: &str, error: &FolderError) -> Failure {
    match ca_error(error) {
        Some(source) => ca::failure(message.to_owned(), source),
        None => Failure::new(message).because(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_beforehand_how_long_a_rotation_takes_and_who_is_waited_for() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let issued = |life: u64| Issued {
            serial: "0a".to_owned(),
            id: "spiffe://acme.internal/zone/east/gateway/gw1".to_owned(),
            issuer: "00".repeat(32),
            not_before: now,
            not_after: now + Duration::from_secs(life),
            how: "renewal".to_owned(),
            parent: None,
            address: None,
            key: None,
            dns_names: Vec::new(),
        };
        let short = foretold(3, &["plant".to_owned()], &[issued(500), issued(100)], now);
        assert!(
            short.starts_with("3 zones;") && short.contains("within 10s,"),
            "{short}"
        );
        assert!(
            short.contains("not heard, and waited for until they are back: plant;"),
            "{short}"
        );
        let day = foretold(2, &[], &[issued(24 * 3600)], now);
        assert!(day.contains("within 5m,") && !day.contains("not heard"), "{day}");
    }
}
