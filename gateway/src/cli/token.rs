//! `causeway token`: join tokens, given out where the CA's folder is.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use causeway_authority::join::JoinToken;
use causeway_federation::name::{GatewayId, GatewayName, ZoneName};
use causeway_identity::{
    DnsName, ROOTS_FILE,
    ca::{
        self,
        revoked::{RevocationSubject, Revoked},
        tokens::{self, MAX_VALIDITY, TokenId, TokenPurpose},
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
  causeway token list --ca ca
  causeway token revoke --ca ca 0123456789abcdef

A token lets one gateway of one zone join, once: `causeway join TOKEN@HOST --gateway gw1 --out FOLDER` on its host.";

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
    /// Show the tokens that were given out in the last week, without their secrets
    List(List),
    /// Make a token worthless that has not been used
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
    /// Time for which it may be used
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = humantime::parse_duration)]
    valid_for: Duration,
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
    if issue.valid_for.is_zero() || issue.valid_for > MAX_VALIDITY {
        return Err(Failure::usage(
            "--valid-for must be more than nothing and at most 30 days",
        ));
    }
    let fingerprint = fingerprint(&issue.ca)?;
    let names = issue.names.read()?;
    not_revoked(issue)?;
    known_zones::note_if_new(&issue.ca, issue.zone.as_str());
    let now = SystemTime::now();
    let grant = TokenPurpose {
        zone: issue.zone.clone(),
        gateway: issue.gateway.clone(),
        dns_names: names,
        issued_at: now,
        expires_at: now + issue.valid_for,
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
    let whose = match &issue.gateway {
        Some(gateway) => format!("{gateway} of {}", issue.zone),
        None => format!("a gateway of {}", issue.zone),
    };
    let gateway = issue.gateway.as_ref().map_or("NAME", GatewayName::as_str);
    output::tell(&format!(
        "token {id} lets {whose} join once, within {}; it is not shown again\n\
         on its host: causeway join TOKEN@CA-HOST --gateway {gateway} --out /etc/causeway/{}\n",
        humantime::format_duration(issue.valid_for),
        issue.zone,
    ));
    Ok(Exit::Done)
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
        vec![
            id.to_string().as_str().into(),
            grant.zone.as_str().into(),
            gateway.into(),
            state.into(),
            names.as_str().into(),
            time(grant.issued_at).as_str().into(),
            time(grant.expires_at).as_str().into(),
        ]
    });
    let header = ["ID", "ZONE", "GATEWAY", "STATE", "DNS NAMES", "ISSUED", "EXPIRES"];
    output::print(&output::table(&header, rows.collect(), output::colour()))?;
    Ok(Exit::Done)
}
