//! `causeway revoke`: has the whole federation no longer believe certificates that the built-in CA issued.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use causeway_zone_sync::name::ZoneName;

use super::{
    AdminArgs, Exit, Failure, output,
    passphrase::PassphraseArgs,
    rotate::{self, folder_failure},
    spread::{Federation, Waited, note_topology, say},
};
use crate::{
    identity::{
        Serial,
        ca::{
            CaError, issued,
            revoked::{Revocation, Revoked, Subject},
        },
    },
    rotation::{
        Goal, Lack,
        folder::{CaFolder, FolderError},
    },
};

const AFTER_HELP: &str = "\
Examples:
  causeway revoke gateway west/gw1 --ca /var/lib/causeway-ca
  causeway revoke zone west --ca /var/lib/causeway-ca --admin unix:/run/causeway/east.sock
  causeway revoke serial 5f3a9c --ca /var/lib/causeway-ca
  causeway revoke gateway west/gw1 --readmit --ca /var/lib/causeway-ca    let it have new certificates again

Any gateway takes the news, and the others get it from there within a second. What is revoked loses its tunnels and streams,
and is refused from then on; a zone or gateway by its name is issued nothing any more, until it is let in again.
Running it again changes nothing and waits for those that were away.

Exit codes: 0 every zone that is reachable has it; 1 failed; 79 a reachable zone does not have it yet.";

/// Revoke the certificates of a zone or gateway, or one certificate, everywhere and at once
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to revoke
    #[arg(value_enum, value_name = "WHAT")]
    what: What,
    /// The zone, the gateway as ZONE/NAME, or the serial number in hexadecimal digits
    #[arg(value_name = "NAME")]
    name: String,
    /// Folder of the CA, as `causeway ca init` made it
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_CA")]
    ca: PathBuf,
    /// Let the zone or gateway have certificates again; those that were revoked stay so
    #[arg(long)]
    readmit: bool,
    /// Go on although gateways trust roots that are not this CA's: they are then trusted no more
    #[arg(long)]
    only_this_ca: bool,
    /// How long to wait for zones that are reachable
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    wait: Duration,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Every gateway of a zone
    Zone,
    /// One gateway, such as west/gw1
    Gateway,
    /// One certificate
    Serial,
}

pub async fn run(args: Args) -> Result<Exit, Failure> {
    let subject = subject(&args)?;
    let folder = CaFolder::lock(&args.ca, args.passphrase.read()?);
    let folder = folder.map_err(|error| folder_failure("cannot use the CA", &error))?;
    // A wrong passphrase is noticed before anything is written.
    folder
        .ca()
        .map_err(|error| folder_failure("cannot use the CA", &error))?;
    if args.readmit {
        return readmit(&folder, &subject);
    }
    let revoked = record(&folder, &subject)?;
    output::print(&revoked)?;
    spread(&args, &folder, &subject).await
}

fn subject(args: &Args) -> Result<Subject, Failure> {
    let name = args.name.clone();
    match args.what {
        What::Zone => ZoneName::new(&name)
            .map(|_| Subject::Zone(name))
            .map_err(|error| Failure::usage(format!("`{}` is no zone", args.name)).because(&error)),
        What::Gateway => {
            let parts = name.split_once('/');
            let good = parts.filter(|(zone, gateway)| {
                ZoneName::new(zone).is_ok() && causeway_zone_sync::name::GatewayName::new(gateway).is_ok()
            });
            good.map(|_| Subject::Gateway(name.clone())).ok_or_else(|| {
                Failure::usage(format!("`{name}` is no gateway")).hint("give it as ZONE/NAME: west/gw1")
            })
        }
        What::Serial => match Serial::parse(&name) {
            Some(serial) => Ok(Subject::Serial(serial.to_string())),
            None => Err(Failure::usage(format!("`{name}` is no serial number"))
                .hint("give it in hexadecimal digits, as `openssl x509 -serial` shows it")),
        },
    }
}

/// Writes what is revoked into the CA's folder, where `causeway ca serve` reads it. Says what that was.
fn record(folder: &CaFolder, subject: &Subject) -> Result<String, Failure> {
    let failed = || Failure::new("cannot write down what is revoked");
    let now = SystemTime::now();
    let mut revoked = Revoked::read(folder.path()).map_err(|error| failed().because(&error))?;
    let mut added = BTreeSet::new();
    // The name first, and then once more what was issued until the CA saw that.
    for _ in 0..2 {
        let issued = issued::read(folder.path()).map_err(|error| failed().because(&error))?;
        if let Some(revocation) = revoked.revocation(subject, &issued.issued, now) {
            added.extend(revocation.serials.iter().cloned());
            revoked.0.push(revocation);
            revoked
                .write(folder.path())
                .map_err(|error| failed().because(&error))?;
        }
    }
    Ok(match (added.len(), subject) {
        (0, Subject::Serial(_)) => format!("{subject} was revoked before\n"),
        (0, _) => format!(
            "{subject}: no certificate that was not revoked before; nothing is issued to it any more\n"
        ),
        (count, Subject::Serial(_)) => format!("revoked {subject} ({count} certificate)\n"),
        (count, _) => format!("revoked {subject}: {count} certificates; nothing is issued to it any more\n"),
    })
}

fn readmit(folder: &CaFolder, subject: &Subject) -> Result<Exit, Failure> {
    let failed = || Failure::new(format!("cannot let {subject} in again"));
    if let Subject::Serial(_) = subject {
        return Err(Failure::usage("a certificate stays revoked")
            .hint("issue another one: its gateway's name is not revoked by this"));
    }
    let mut revoked = Revoked::read(folder.path()).map_err(|error| failed().because(&error))?;
    revoked.0.push(Revocation {
        at: SystemTime::now(),
        subject: subject.clone(),
        serials: Vec::new(),
        readmitted: true,
    });
    revoked
        .write(folder.path())
        .map_err(|error| failed().because(&error))?;
    output::print(&format!(
        "{subject} may have certificates again; those that were revoked stay so\n"
    ))?;
    Ok(Exit::Done)
}

async fn spread(args: &Args, folder: &CaFolder, subject: &Subject) -> Result<Exit, Failure> {
    let without = match subject {
        Subject::Zone(zone) => ZoneName::new(zone).ok().into_iter().collect(),
        _ => BTreeSet::new(),
    };
    let federation = Federation {
        admin: &args.admin.admin,
        without,
    };
    let view = federation.look().await.inspect_err(not_spread)?;
    rotate::check_roots(folder, &view, args.only_this_ca)?;
    let document = folder
        .document((view.generation, &view.fingerprint), SystemTime::now())
        .map_err(|error| folder_failure("cannot make the trust document", &error))?;
    federation.hand(&document).await.inspect_err(not_spread)?;
    let goal = Goal {
        document: (
            document.edition().generation,
            document.edition().fingerprint.to_string(),
        ),
        issuer: None,
    };
    let begun = Instant::now();
    let excused = |(zone, lack): &(String, Lack)| match (lack, subject) {
        // It does not hear of it from anybody any more.
        (Lack::Document(gateways), Subject::Gateway(name)) => gateways
            .iter()
            .all(|gateway| *name == format!("{zone}/{gateway}")),
        (lack, _) => *lack == Lack::Away,
    };
    let waited = federation.wait(&goal, |lacks| {
        begun.elapsed() >= args.wait || lacks.iter().all(excused)
    });
    let waited = waited.await?;
    match subject {
        Subject::Zone(zone) => note_topology(&args.admin.admin, Some(&format!("{zone}/"))).await?,
        Subject::Gateway(gateway) => note_topology(&args.admin.admin, Some(gateway)).await?,
        Subject::Serial(_) => {}
    }
    let asked = view.own_zones().filter(|zone| {
        let left_out = federation.without.iter().any(|name| name.as_str() == zone.name);
        !left_out
    });
    report(asked.count(), &goal, waited, &excused)
}

/// `total`: so many zones were to have it.
fn report(
    total: usize,
    goal: &Goal,
    waited: Waited,
    excused: &dyn Fn(&(String, Lack)) -> bool,
) -> Result<Exit, Failure> {
    let lacks = match waited {
        Waited::Reached => Vec::new(),
        Waited::Stopped(lacks) => lacks,
    };
    let mut text = format!(
        "generation {} of what is trusted is in force in {} of {total} zones\n",
        goal.document.0,
        total - lacks.len().min(total)
    );
    for (zone, lack) in &lacks {
        text.push_str(&format!("zone {zone} {lack}"));
        text.push_str(match lack {
            Lack::Away => "; it gets the news when it is back\n",
            _ => "\n",
        });
    }
    output::print(&text)?;
    Ok(match lacks.iter().all(excused) {
        true => Exit::Done,
        false => Exit::IssuesFound,
    })
}

fn not_spread(_: &Failure) {
    // Where standard error is gone, nobody is left to be told.
    let _ = say("it is revoked at the CA, and the gateways do not know yet: run this again\n");
}

/// What kept a CA's folder from being used, with what to do.
pub(super) fn ca_error(error: &FolderError) -> Option<&CaError> {
    match error {
        FolderError::Ca(error) => Some(error),
        FolderError::Compose(crate::identity::ca::document::ComposeError::Ca(error)) => Some(error),
        _ => None,
    }
}
