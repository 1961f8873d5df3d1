//! `causeway ca`: certificates for gateways, by a CA that is kept in a folder.

use std::{path::PathBuf, time::Duration};

use causeway_zone_sync::name::{GatewayId, GatewayName, ZoneName};

use super::{Exit, Failure, output};
use crate::identity::ca::{self, CaError};

const AFTER_HELP: &str = "\
Examples:
  causeway ca init ca --trust-domain acme.internal
  causeway ca issue --ca ca --zone east --gateway gw1 --out /etc/causeway/east";

/// Make a CA in a folder, and certificates for gateways from it.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct CaCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a new CA: ca.pem, which every gateway trusts, and ca-key.pem, to be kept safe.
    Init(Init),
    /// Issue a gateway's identity: cert.pem, key.pem and ca.pem.
    Issue(Issue),
}

#[derive(Debug, clap::Args)]
struct Init {
    /// Folder for the CA; made if it is not there
    folder: PathBuf,
    /// The federation's trust domain, as in its topology file
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: String,
}

#[derive(Debug, clap::Args)]
struct Issue {
    /// Folder of the CA, as `causeway ca init` made it
    #[arg(long, value_name = "FOLDER")]
    ca: PathBuf,
    /// Zone of the gateway
    #[arg(long)]
    zone: ZoneName,
    /// Name of the gateway, unique within its zone
    #[arg(long, value_name = "NAME")]
    gateway: GatewayName,
    /// Folder for the identity; files that are there are replaced
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// How long the certificate is valid; issue a new one before it ends
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = humantime::parse_duration)]
    valid_for: Duration,
}

pub fn run(command: CaCommand) -> Result<Exit, Failure> {
    match command.action {
        Action::Init(init) => make(&init),
        Action::Issue(issue) => hand_out(&issue),
    }
}

fn make(init: &Init) -> Result<Exit, Failure> {
    let folder = init.folder.display();
    ca::init(&init.folder, &init.trust_domain)
        .map_err(|error| failure(format!("cannot make a CA in {folder}"), &error))?;
    output::print(&format!(
        "made a CA for {} in {folder}; keep {folder}/{} safe\n",
        init.trust_domain,
        ca::CA_KEY_FILE
    ))?;
    Ok(Exit::Done)
}

fn hand_out(issue: &Issue) -> Result<Exit, Failure> {
    let gateway = GatewayId::new(issue.zone.clone(), issue.gateway.clone());
    let id = ca::issue(&issue.ca, &gateway, &issue.out, issue.valid_for)
        .map_err(|error| failure(format!("cannot issue an identity for {gateway}"), &error))?;
    output::print(&format!(
        "issued {id} in {}, valid for {}\n",
        issue.out.display(),
        humantime::format_duration(issue.valid_for)
    ))?;
    Ok(Exit::Done)
}

fn failure(message: String, error: &CaError) -> Failure {
    let failure = Failure::new(message).because(error);
    match error {
        CaError::TrustDomain(_) | CaError::Validity(_) => failure.exit(Exit::Usage),
        _ => failure,
    }
}
