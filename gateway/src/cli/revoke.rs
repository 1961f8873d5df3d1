//! `causeway revoke`: has the whole federation no longer believe certificates that the built-in CA issued.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use causeway_api::admin::view::TrustSummary;
use causeway_federation::name::ZoneName;
use causeway_identity::{
    Serial,
    ca::{
        CaError, issued,
        revoked::{Revocation, RevocationSubject, Revoked},
    },
};

use super::{
    AdminArgs, Exit, Failure, known_zones,
    passphrase::PassphraseArgs,
    rotate::{self, folder_failure},
    spread::{FederationView, Waited, note_topology, say},
};
use crate::cli::rotation::{
    Goal, Lack,
    folder::{CaFolder, FolderError},
};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway revoke gateway west/gw1 --ca /var/lib/causeway-ca
  causeway revoke zone west --ca /var/lib/causeway-ca --admin unix:/run/causeway/east.sock
  causeway revoke serial 5f3a9c --ca /var/lib/causeway-ca
  causeway revoke gateway west/gw1 --readmit --ca /var/lib/causeway-ca    let it have new certificates again

Any gateway takes the news, and the others get it from there within a second. What is revoked loses its tunnels, streams and every
other connection, and is refused from then on. A zone or gateway is revoked by its name: whatever certificates it has, and it is
issued none any more, until it is let in again; those that it had before stay revoked. Of a serial number all certificates go with
it that came of it by renewals. Running it again changes nothing and waits for those that were away.

Exit codes: 0 every zone that is reachable has it; 1 failed; 79 a reachable zone does not have it yet.";

/// Most looks at how many connections were ended, and the pause before each.
const LOOKS_AT_CLOSED: usize = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(400);

/// Revoke the certificates of a zone or gateway, or one certificate, everywhere and at once
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RevokeArgs {
    /// Zone, gateway or certificate to revoke
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
    /// Time to wait for zones that are reachable
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

pub(crate) async fn run(args: RevokeArgs) -> Result<Exit, Failure> {
    let subject = subject(&args)?;
    args.admin.admin.check_credentials()?;
    let folder = CaFolder::lock(&args.ca, args.passphrase.read()?);
    let folder = folder.map_err(|error| folder_failure("cannot use the CA", &error))?;
    // A wrong passphrase is noticed before anything is written.
    folder
        .ca()
        .map_err(|error| folder_failure("cannot use the CA", &error))?;
    let federation = federation(&args, &subject);
    // Nothing is written where the gateways refuse it. While none of them answers, the CA at least is told.
    let view = match federation.look().await {
        Ok(view) => Some(view),
        Err(failure) if failure.is_refused() => return Err(failure),
        Err(_) => None,
    };
    if let Some(view) = view {
        rotate::check_roots(&folder, &view, args.only_this_ca)?;
    }
    let before = Revoked::read(folder.path()).map_err(|error| unwritten().because(&error))?;
    let written = match args.readmit {
        true => readmit(&folder, &subject).await?,
        false => {
            if let RevocationSubject::Zone(name) | RevocationSubject::Gateway(name) = &subject {
                let zone = name.split_once('/').map_or(name.as_str(), |(zone, _)| zone);
                known_zones::note_if_new(folder.path(), zone);
            }
            record(&folder, &subject)?
        }
    };
    let handed = match hand(&federation, &folder, args.only_this_ca).await {
        Ok(handed) => handed,
        Err(failure) if failure.is_refused() => {
            take_back(&folder, &before)?;
            return Err(failure);
        }
        Err(failure) => {
            // Where standard error is gone, nobody is left to be told.
            let _ = say(&format!(
                "the CA's folder says so, and the gateways do not know yet: run this again ({})\n",
                written.trim_end()
            ));
            return Err(failure);
        }
    };
    output::print(&written)?;
    spread(&args, &federation, &subject, handed).await
}

/// Has the folder say what it said before.
fn take_back(folder: &CaFolder, before: &Revoked) -> Result<(), Failure> {
    let taken_back = match Revoked::read(folder.path()) {
        Ok(revoked) if revoked == *before => Ok(()),
        Ok(_) => before.write(folder.path()),
        Err(error) => Err(error),
    };
    taken_back.map_err(|error| {
        Failure::new("the gateways refuse it, and it cannot be taken out of the CA's folder again")
            .because(&error)
    })
}

fn unwritten() -> Failure {
    Failure::new("cannot write down what is revoked")
}

/// The federation, but for a zone that is revoked.
fn federation<'a>(args: &'a RevokeArgs, subject: &RevocationSubject) -> FederationView<'a> {
    let without = match subject {
        RevocationSubject::Zone(zone) if !args.readmit => ZoneName::new(zone).ok().into_iter().collect(),
        _ => BTreeSet::new(),
    };
    FederationView {
        admin: &args.admin.admin,
        without,
    }
}

/// Hands a gateway what the folder says now.
async fn hand(
    federation: &FederationView<'_>,
    folder: &CaFolder,
    only_this_ca: bool,
) -> Result<HandedDocument, Failure> {
    let view = federation.look().await?;
    rotate::check_roots(folder, &view, only_this_ca).map_err(Failure::refused)?;
    let document = folder
        .document((view.generation, &view.fingerprint), SystemTime::now())
        .map_err(|error| folder_failure("cannot make the trust document", &error))?;
    federation.hand(&document).await?;
    let edition = document.edition();
    Ok(HandedDocument {
        goal: Goal {
            document: (edition.generation, edition.fingerprint.to_string()),
            issuer: None,
        },
        view,
    })
}

/// Document that a gateway has taken, and what the gateways trusted before.
struct HandedDocument {
    goal: Goal,
    view: TrustSummary,
}

fn subject(args: &RevokeArgs) -> Result<RevocationSubject, Failure> {
    let name = args.name.clone();
    match args.what {
        What::Zone => ZoneName::new(&name)
            .map(|_| RevocationSubject::Zone(name))
            .map_err(|error| Failure::usage(format!("`{}` is no zone", args.name)).because(&error)),
        What::Gateway => {
            let parts = name.split_once('/');
            let good = parts.filter(|(zone, gateway)| {
                ZoneName::new(zone).is_ok() && causeway_federation::name::GatewayName::new(gateway).is_ok()
            });
            good.map(|_| RevocationSubject::Gateway(name.clone()))
                .ok_or_else(|| {
                    Failure::usage(format!("`{name}` is no gateway")).hint("give it as ZONE/NAME: west/gw1")
                })
        }
        What::Serial => match Serial::parse(&name) {
            Some(serial) => Ok(RevocationSubject::Serial(serial.to_string())),
            None => Err(Failure::usage(format!("`{name}` is no serial number"))
                .hint("give it in hexadecimal digits, as `openssl x509 -serial` shows it")),
        },
    }
}

/// Writes what is revoked into the CA's folder, where `causeway ca serve` reads it. Says what that was.
fn record(folder: &CaFolder, subject: &RevocationSubject) -> Result<String, Failure> {
    let failed = unwritten;
    let now = SystemTime::now();
    let mut revoked = Revoked::read(folder.path()).map_err(|error| failed().because(&error))?;
    let mut ends = 0;
    // Of a serial number once more, for what came of it until the CA saw that.
    for _ in 0..2 {
        let issued = issued::read(folder.path()).map_err(|error| failed().because(&error))?;
        if let Some((revocation, count)) = revoked.revocation(subject, &issued.issued, now) {
            ends += count;
            revoked.0.push(revocation);
            revoked
                .write(folder.path())
                .map_err(|error| failed().because(&error))?;
        }
    }
    let certificates = if ends == 1 { "certificate" } else { "certificates" };
    Ok(match (ends, subject) {
        (0, RevocationSubject::Serial(_)) => format!("{subject} was revoked before\n"),
        (0, _) => format!(
            "revoked {subject}: no certificate that was not revoked before; nothing is issued to it any more\n"
        ),
        (count, RevocationSubject::Serial(_)) => {
            format!("revoked {subject} ({count} {certificates}, with what came of it)\n")
        }
        (count, _) => {
            format!("revoked {subject}: {count} {certificates}; nothing is issued to it any more\n")
        }
    })
}

/// Writes down that a name may have certificates again, once the second is over: those that it had begin before, and those that
/// it gets do not. Says what that was.
async fn readmit(folder: &CaFolder, subject: &RevocationSubject) -> Result<String, Failure> {
    let failed = || Failure::new(format!("cannot let {subject} in again"));
    if let RevocationSubject::Serial(_) = subject {
        return Err(Failure::usage("a certificate stays revoked")
            .hint("issue another one: its gateway's name is not revoked by this"));
    }
    let mut revoked = Revoked::read(folder.path()).map_err(|error| failed().because(&error))?;
    let last = revoked.0.iter().rev().find(|line| line.subject == *subject);
    match last.map(|line| line.readmitted) {
        None => {
            return Err(failed()
                .because(&std::io::Error::other("it was never revoked"))
                .hint("what was revoked is in revoked.jsonl in the CA's folder: a zone and its gateways are let in one by one"));
        }
        Some(true) => {}
        Some(false) => {
            let at = SystemTime::now();
            revoked.0.push(Revocation {
                at,
                subject: subject.clone(),
                serials: Vec::new(),
                readmitted: true,
            });
            revoked
                .write(folder.path())
                .map_err(|error| failed().because(&error))?;
            let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let over =
                Duration::from_secs(1).saturating_sub(Duration::from_nanos(since.subsec_nanos().into()));
            tokio::time::sleep(over).await;
        }
    }
    Ok(format!(
        "{subject} may have certificates again; those that it had before stay revoked\n"
    ))
}

/// Waits until the zones that are reachable have the document, and says how that went.
async fn spread(
    args: &RevokeArgs,
    federation: &FederationView<'_>,
    subject: &RevocationSubject,
    HandedDocument { goal, view }: HandedDocument,
) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let excused = |(zone, lack): &(String, Lack)| match (lack, subject) {
        // It does not hear of it from anybody any more.
        (Lack::Document(gateways), RevocationSubject::Gateway(name)) => gateways
            .iter()
            .all(|gateway| *name == format!("{zone}/{gateway}")),
        (lack, _) => *lack == Lack::Away,
    };
    let waited = federation.wait(&goal, |lacks| {
        begun.elapsed() >= args.wait || lacks.iter().all(excused)
    });
    let waited = waited.await?;
    if !args.readmit {
        output::print(&closed(federation, &goal).await?)?;
    }
    match subject {
        RevocationSubject::Zone(zone) => note_topology(&args.admin.admin, Some(&format!("{zone}/"))).await?,
        RevocationSubject::Gateway(gateway) => note_topology(&args.admin.admin, Some(gateway)).await?,
        RevocationSubject::Serial(_) => {}
    }
    let asked = view.own_zones().filter(|zone| {
        let left_out = federation.without.iter().any(|name| name.as_str() == zone.name);
        !left_out
    });
    report(asked.count(), &goal, waited, &excused)
}

/// Says how many connections the gateways have ended for this document, once they say the same twice: it takes them a moment.
async fn closed(federation: &FederationView<'_>, goal: &Goal) -> Result<String, Failure> {
    let mut last = None;
    for _ in 0..LOOKS_AT_CLOSED {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let view = federation.look().await?;
        let gateways = view.own_zones().flat_map(|zone| &zone.gateways);
        let having = gateways.filter(|gateway| gateway.generation == goal.document.0);
        let count: u64 = having.map(|gateway| gateway.ended_connections).sum();
        if last.replace(count) == Some(count) {
            break;
        }
    }
    let count = last.unwrap_or(0);
    let connections = if count == 1 { "connection" } else { "connections" };
    Ok(format!(
        "closed {count} {connections}, tunnels and the streams on them included\n"
    ))
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
            Lack::Away => ": what it has open was not reached; it gets the news when it is back\n",
            _ => "\n",
        });
    }
    output::print(&text)?;
    Ok(match lacks.iter().all(excused) {
        true => Exit::Done,
        false => Exit::IssuesFound,
    })
}

/// Finds the CA's own error, for which [`super::ca::failure`] knows what to do, if that kept its folder from being used.
pub(super) fn ca_error(error: &FolderError) -> Option<&CaError> {
    match error {
        FolderError::Ca(error) => Some(error),
        FolderError::Compose(causeway_identity::ca::document::ComposeError::Ca(error)) => Some(error),
        _ => None,
    }
}
