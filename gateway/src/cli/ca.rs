//! `causeway ca`: certificates for gateways, by a CA that is kept in a folder.

use std::{
    io::{Write, stdout},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use causeway_zone_sync::name::{GatewayId, GatewayName, ZoneName};

use crate::identity::ca;

/// Certificates for gateways, by a CA that is kept in a folder
#[derive(Debug, clap::Args)]
pub struct CaCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a new CA: ca.pem, which every gateway trusts, and ca-key.pem, to be kept safe
    Init(Init),
    /// Issue a gateway's identity: cert.pem, key.pem and ca.pem
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

/// # Errors
/// When the CA cannot be made, read or used.
pub fn run(command: CaCommand) -> anyhow::Result<()> {
    match command.action {
        Action::Init(init) => make(&init),
        Action::Issue(issue) => hand_out(&issue),
    }
}

fn make(init: &Init) -> anyhow::Result<()> {
    let folder = init.folder.display();
    ca::init(&init.folder, &init.trust_domain).with_context(|| format!("cannot make a CA in {folder}"))?;
    let domain = &init.trust_domain;
    writeln!(
        stdout(),
        "made a CA for {domain} in {folder}; keep {}/{} safe",
        folder,
        ca::CA_KEY_FILE
    )?;
    Ok(())
}

fn hand_out(issue: &Issue) -> anyhow::Result<()> {
    let gateway = GatewayId::new(issue.zone.clone(), issue.gateway.clone());
    let id = ca::issue(&issue.ca, &gateway, &issue.out, issue.valid_for)
        .with_context(|| format!("cannot issue an identity for {gateway}"))?;
    let valid_for = humantime::format_duration(issue.valid_for);
    writeln!(
        stdout(),
        "issued {id} in {}, valid for {valid_for}",
        issue.out.display()
    )?;
    Ok(())
}
