//! `causeway token`: join tokens, given out where the CA's folder is.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use causeway_authority::join::JoinToken;
use causeway_federation::name::{GatewayId, GatewayName, ZoneName};
use causeway_identity::{
    DnsName, ROOTS_FILE,
    ca::{
        self, issued,
        rejoin::{joined_with, rejoined_with},
        revoked::{RevocationSubject, Revoked},
        tokens::{self, MAX_REJOIN_VALIDITY, MAX_VALIDITY, TokenId, TokenPurpose},
    },
    certificates,
};

use super::{
    Exit, Failure,
    ca::{DnsNames, failure},
    known_zones,
};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway token issue --ca ca --zone west
  causeway token issue --ca ca --zone west --gateway gw1 --valid-for 1h
  causeway token issue --ca ca --zone west --dns-name '*.mesh.acme.internal' --dns-name gw1.west.acme.internal
  causeway token issue --ca ca --zone plant --gateway gw1 --rejoin --valid-for 90d
  causeway token list --ca ca
  causeway token revoke --ca ca 0123456789abcdef

A token lets one gateway of one zone join, once: `causeway join TOKEN@HOST --gateway gw1 --out FOLDER` on its host. One with --rejoin
lets a gateway that still has the key of its last certificate come back after that has ended, as often as it must: it is given to it with
`causeway gateway --join-token FILE`.";

/// Times a day that gateways may come back with a token unless something else is said.
const USES_PER_DAY: u32 = 10;
const MAX_USES_PER_DAY: i64 = 1_000;
/// Time for which a token may be used unless something else is said: one for a new gateway, and one to come back.
const VALID_FOR: Duration = Duration::from_secs(15 * 60);
const REJOIN_VALID_FOR: Duration = Duration::from_secs(90 * 24 * 3600);

/// Give out, list and revoke join tokens
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct TokenCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Give out a token: it is shown this once, alone on standard output
    Issue(Issue),
    /// Show the tokens that may be used, or ended within a week, without their secrets
    List(List),
    /// Make a token worthless that may still be used
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
struct Issue {
    /// Folder of the CA, as `causeway ca init` made it
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_CA")]
    ca: PathBuf,
    /// The zone whose gateway may join with it
    #[arg(long)]
    zone: ZoneName,
    /// The gateway that may join with it [default: any of the zone]
    #[arg(long, value_name = "NAME")]
    gateway: Option<GatewayName>,
    #[command(flatten)]
    names: DnsNames,
    /// For gateways that come back: whoever still has the key of its last certificate gets another, also after that has ended, and
    /// nobody else gets anything. Such a token serves again and again
    #[arg(long, conflicts_with = "dns_name")]
    rejoin: bool,
    /// Times within 24 hours that it may be used
    #[arg(long, value_name = "N", requires = "rejoin", default_value_t = USES_PER_DAY,
        value_parser = clap::value_parser!(u32).range(1..=MAX_USES_PER_DAY))]
    uses_per_day: u32,
    /// Time for which it may be used, at most 30d, and 366d with --rejoin [default: 15m, with --rejoin 90d]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    valid_for: Option<Duration>,
}

impl Issue {
    fn valid_for(&self) -> Result<Duration, Failure> {
        let (default, longest, words) = match self.rejoin {
            false => (VALID_FOR, MAX_VALIDITY, "30 days"),
            true => (REJOIN_VALID_FOR, MAX_REJOIN_VALIDITY, "366 days with --rejoin"),
        };
        let valid_for = self.valid_for.unwrap_or(default);
        match valid_for.is_zero() || valid_for > longest {
            true => Err(Failure::usage(format!(
                "--valid-for must be more than nothing and at most {words}"
            ))),
            false => Ok(valid_for),
        }
    }
}

#[derive(Debug, clap::Args)]
struct List {
    /// Folder of the CA
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_CA")]
    ca: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// The token's id, as `causeway token list` shows it
    id: TokenId,
    /// Folder of the CA
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_CA")]
    ca: PathBuf,
}

pub(crate) fn run(command: TokenCommand) -> Result<Exit, Failure> {
    match command.action {
        Action::Issue(issue) => give_out(&issue),
        Action::List(args) => list(&args),
        Action::Revoke(revoke) => {
            tokens::revoke(&revoke.ca, revoke.id)
                .map_err(|error| failure(format!("cannot revoke the token {}", revoke.id), &error))?;
            output::print(&format!("revoked the token {}\n", revoke.id))?;
            Ok(Exit::Done)
        }
    }
}

fn give_out(issue: &Issue) -> Result<Exit, Failure> {
    let valid_for = issue.valid_for()?;
    let fingerprint = fingerprint(&issue.ca)?;
    let names = issue.names.read()?;
    not_revoked(issue)?;
    known_zones::note_if_new(&issue.ca, issue.zone.as_str());
    let now = SystemTime::now();
    let grant = TokenPurpose {
        zone: issue.zone.clone(),
        gateway: issue.gateway.clone(),
        dns_names: names,
        rejoins: issue.rejoin.then_some(issue.uses_per_day),
        issued_at: now,
        expires_at: now + valid_for,
    };
    // What is long over makes room first; that it cannot be looked for is told by what follows.
    let _ = tokens::sweep(&issue.ca, now);
    let (id, secret) = tokens::issue(&issue.ca, &grant)
        .map_err(|error| failure(format!("cannot give out a token for {}", issue.zone), &error))?;
    let token = JoinToken {
        id,
        secret,
        fingerprint,
        zone: issue.zone.clone(),
    };
    output::print(&format!("{}\n", token.reveal()))?;
    output::tell(&told(issue, id, valid_for));
    Ok(Exit::Done)
}

/// Says what the token is for, and what to do with it.
fn told(issue: &Issue, id: TokenId, valid_for: Duration) -> String {
    let whose = match &issue.gateway {
        Some(gateway) => format!("{gateway} of {}", issue.zone),
        None => format!("a gateway of {}", issue.zone),
    };
    let within = humantime::format_duration(valid_for);
    if issue.rejoin {
        return format!(
            "token {id} lets {whose} that has the key of its last certificate come back, {} times a day, within {within}; it is not \
             shown again\n\
             on its host, in a file of the mode 600: causeway gateway --join-token FILE …\n",
            issue.uses_per_day
        );
    }
    let gateway = issue.gateway.as_ref().map_or("NAME", GatewayName::as_str);
    format!(
        "token {id} lets {whose} join once, within {within}; it is not shown again\n\
         on its host: causeway join TOKEN@CA-HOST --gateway {gateway} --out /etc/causeway/{}\n",
        issue.zone,
    )
}

/// Refuses a token that would be of no use: nothing is issued to who was revoked.
fn not_revoked(issue: &Issue) -> Result<(), Failure> {
    let message = || format!("cannot give out a token for {}", issue.zone);
    let revoked = Revoked::read(&issue.ca).map_err(|error| Failure::new(message()).because(&error))?;
    let subject = match &issue.gateway {
        Some(gateway) => {
            let id = GatewayId::new(issue.zone.clone(), gateway.clone());
            revoked.forbids(&id).map(|revocation| revocation.subject.clone())
        }
        None => revoked
            .forbids_zone(issue.zone.as_str())
            .then(|| RevocationSubject::Zone(issue.zone.to_string())),
    };
    let Some(subject) = subject else { return Ok(()) };
    let (kind, name) = match &subject {
        RevocationSubject::Gateway(name) => ("gateway", name),
        RevocationSubject::Zone(name) | RevocationSubject::Serial(name) => ("zone", name),
    };
    Err(
        Failure::new(format!("{}: {subject} was revoked", message())).hint(format!(
            "`causeway revoke {kind} {name} --readmit --ca {}` lets it have certificates again",
            issue.ca.display()
        )),
    )
}

/// Of the CA's certificate. Its key is not needed, and its passphrase not asked for.
fn fingerprint(folder: &Path) -> Result<[u8; 32], Failure> {
    let path = folder.join(ROOTS_FILE);
    let message = || format!("cannot use the CA in {}", folder.display());
    let hint = "`causeway ca init FOLDER --trust-domain DOMAIN` makes one";
    let found = certificates(&path).map_err(|error| Failure::new(message()).because(&error).hint(hint))?;
    let certificate = found
        .first()
        .ok_or_else(|| Failure::new(message()).hint(hint).exit(Exit::BadInput))?;
    ca::trust_domain(certificate)
        .map_err(|error| Failure::new(message()).because(&error).exit(Exit::BadInput))?;
    Ok(ca::fingerprint(certificate))
}

fn list(args: &List) -> Result<Exit, Failure> {
    let found = tokens::list(&args.ca)
        .map_err(|error| failure(format!("cannot list the tokens in {}", args.ca.display()), &error))?;
    let used = issued::read(&args.ca).map_err(|error| {
        Failure::new(format!("cannot read what was issued in {}", args.ca.display())).because(&error)
    })?;
    // The last line of each counts.
    let used: BTreeMap<String, SystemTime> = used
        .issued
        .into_iter()
        .map(|one| (one.how.clone(), one.made_at()))
        .collect();
    let now = SystemTime::now();
    let rows = found.into_iter().map(|(id, fate, grant)| {
        let state = match fate {
            tokens::Fate::Open if now >= grant.expires_at => "expired",
            fate => fate.word(),
        };
        let gateway = grant.gateway.as_ref().map_or("any", GatewayName::as_str);
        let names: Vec<&str> = grant.dns_names.iter().map(DnsName::as_str).collect();
        let names = names.join(",");
        let time = |at| humantime::format_rfc3339_seconds(at).to_string();
        let (uses, how) = match grant.rejoins {
            None => ("once".to_owned(), joined_with(id)),
            Some(limit) => (format!("{limit} a day"), rejoined_with(id)),
        };
        let last = used.get(&how).map_or_else(|| "-".to_owned(), |at| time(*at));
        vec![
            id.to_string().as_str().into(),
            grant.zone.as_str().into(),
            gateway.into(),
            state.into(),
            uses.as_str().into(),
            names.as_str().into(),
            time(grant.issued_at).as_str().into(),
            time(grant.expires_at).as_str().into(),
            last.as_str().into(),
        ]
    });
    let header = [
        "ID",
        "ZONE",
        "GATEWAY",
        "STATE",
        "USES",
        "DNS NAMES",
        "ISSUED",
        "EXPIRES",
        "LAST USED",
    ];
    output::print(&output::table(&header, rows.collect(), output::colour()))?;
    Ok(Exit::Done)
}
