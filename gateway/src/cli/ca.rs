//! `causeway ca`: a certificate authority that is kept in a folder: made, served to gateways, and used by hand.

use std::{fs, path::PathBuf, time::Duration};

use causeway_federation::name::{CallerIdentity, GatewayId, GatewayName, ZoneName};
use causeway_identity::{
    DnsName, KEY_FILE, SpiffeId,
    ca::{self, Ca, CaError, LEAF_VALIDITY, key::CaKeyError, request::SigningRequest},
    check_trust_domain, check_writable, dns_names, write_request,
};

use super::{Exit, Failure, ca_serve, passphrase::PassphraseArgs, rotate};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway ca init ca --trust-domain acme.internal
  causeway ca serve --ca ca
  causeway token issue --ca ca --zone east                   then `causeway join` on the gateway's host
  causeway ca issue --ca ca --zone east --gateway gw1 --out east-identity      key and certificate by hand
  causeway ca issue --ca ca --identity spiffe://acme.internal/app/web --out web      for a caller (gateway --tls-listen)

Signing by hand, with the key made where it is used:
  causeway ca request --trust-domain acme.internal --zone east --gateway gw1 --out /etc/causeway/east
  causeway ca sign --ca ca request.pem --zone east --gateway gw1 --out cert.pem";

/// Make a CA in a folder, serve it, and issue certificates for gateways from it
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct CaCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a new CA: ca.pem, which every gateway trusts, and ca-key.pem, to be kept safe
    Init(Init),
    Serve(ca_serve::CaServeArgs),
    Rotate(rotate::RotateArgs),
    /// Issue a gateway's identity, or a caller's: cert.pem, key.pem and ca.pem
    Issue(Issue),
    /// Make a key, and a request for a certificate that `causeway ca sign` signs; the key stays where it is made
    Request(Request),
    /// Sign a request for a certificate
    Sign(Sign),
}

#[derive(Debug, clap::Args)]
struct Init {
    /// Folder for the CA; made if it is not there
    folder: PathBuf,
    /// The federation's trust domain, as in its topology file
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: String,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// For which gateway.
#[derive(Debug, clap::Args)]
struct Whose {
    /// Zone of the gateway
    #[arg(long)]
    zone: ZoneName,
    /// Name of the gateway, unique within its zone
    #[arg(long, value_name = "NAME")]
    gateway: GatewayName,
}

impl Whose {
    fn id(&self) -> GatewayId {
        GatewayId::new(self.zone.clone(), self.gateway.clone())
    }
}

/// Host names for a gateway's certificate.
#[derive(Debug, clap::Args)]
pub(super) struct DnsNames {
    /// A DNS name that the certificate gets, for clients that look at host names; at most 16, a `*` only as the first label
    #[arg(long, value_name = "NAME")]
    dns_name: Vec<DnsName>,
}

impl DnsNames {
    /// Each once.
    pub(super) fn read(&self) -> Result<Vec<DnsName>, Failure> {
        dns_names(self.dns_name.iter().cloned())
            .map_err(|error| Failure::usage("cannot use --dns-name").because(&error))
    }
}

#[derive(Debug, clap::Args)]
struct Issue {
    /// Folder of the CA, as `causeway ca init` made it
    #[arg(long, value_name = "FOLDER")]
    ca: PathBuf,
    /// Zone of the gateway
    #[arg(long, required_unless_present = "identity", requires = "gateway")]
    zone: Option<ZoneName>,
    /// Name of the gateway, unique within its zone
    #[arg(long, value_name = "NAME", requires = "zone")]
    gateway: Option<GatewayName>,
    /// Instead of a gateway, a caller: a program that shows its certificate on a gateway's TLS listener
    #[arg(long, value_name = "SPIFFE-ID", conflicts_with_all = ["zone", "dns_name"])]
    identity: Option<CallerIdentity>,
    #[command(flatten)]
    names: DnsNames,
    /// Folder for the identity; files that are there are replaced
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Time for which the certificate is valid; issue a new one before it ends
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = humantime::parse_duration)]
    valid_for: Duration,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

#[derive(Debug, clap::Args)]
struct Request {
    /// The federation's trust domain
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: String,
    #[command(flatten)]
    whose: Whose,
    /// Folder for key.pem, where the gateway will look for it, and request.pem; no key that is there is replaced
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Sign {
    /// The request, PEM
    request: PathBuf,
    /// Folder of the CA, as `causeway ca init` made it
    #[arg(long, value_name = "FOLDER")]
    ca: PathBuf,
    /// Gateway that the request must name: what is signed is what you say, not what the request says
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    names: DnsNames,
    /// File for the certificate
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Time for which the certificate is valid
    #[arg(long, value_name = "TIME", default_value_t = LEAF_VALIDITY.into())]
    valid_for: humantime::Duration,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

pub(crate) fn run(command: CaCommand) -> Result<Exit, Failure> {
    match command.action {
        Action::Init(init) => make(&init),
        Action::Serve(args) => ca_serve::run(args),
        Action::Rotate(args) => super::block_on(rotate::run(args)),
        Action::Issue(issue) => hand_out(&issue),
        Action::Request(request) => prepare(&request),
        Action::Sign(sign) => certify(&sign),
    }
}

fn make(init: &Init) -> Result<Exit, Failure> {
    let folder = init.folder.display();
    let passphrase = init.passphrase.read()?;
    ca::init_under(&init.folder, &init.trust_domain, passphrase.as_ref())
        .map_err(|error| failure(format!("cannot make a CA in {folder}"), &error))?;
    let how = match passphrase {
        Some(_) => "it opens with the passphrase alone",
        None => "it is not encrypted; --passphrase-file encrypts it",
    };
    output::print(&format!(
        "made a CA for {} in {folder}; keep {folder}/{} safe ({how})\n\
         serve it with `causeway ca serve --ca {folder}`, and let gateways in with `causeway token issue --ca {folder} --zone ZONE`\n",
        init.trust_domain,
        ca::CA_KEY_FILE
    ))?;
    Ok(Exit::Done)
}

fn hand_out(issue: &Issue) -> Result<Exit, Failure> {
    let names = issue.names.read()?;
    let passphrase = issue.passphrase.read()?;
    // What cannot be written is noticed before the CA has written down that it was issued.
    check_writable(&issue.out).map_err(|error| {
        Failure::new(format!("cannot write an identity to {}", issue.out.display())).because(&error)
    })?;
    let open = || Ca::open(&issue.ca, passphrase.as_ref());
    let (whose, issued) = match (&issue.identity, &issue.zone, &issue.gateway) {
        (Some(caller), _, _) => {
            let issued =
                open().and_then(|ca| ca.issue_caller(&issue.ca, caller, &issue.out, issue.valid_for));
            (caller.to_string(), issued.map(|()| caller.to_string()))
        }
        (None, Some(zone), Some(gateway)) => {
            let gateway = GatewayId::new(zone.clone(), gateway.clone());
            let issued =
                open().and_then(|ca| ca.issue_to(&issue.ca, &gateway, &issue.out, issue.valid_for, &names));
            (gateway.to_string(), issued.map(|id| id.to_string()))
        }
        _ => {
            return Err(Failure::usage(
                "whom is it for? give --zone and --gateway, or --identity",
            ));
        }
    };
    let id = issued.map_err(|error| failure(format!("cannot issue an identity for {whose}"), &error))?;
    output::print(&format!(
        "issued {id} in {}, valid for {}\n",
        issue.out.display(),
        humantime::format_duration(issue.valid_for)
    ))?;
    Ok(Exit::Done)
}

fn prepare(request: &Request) -> Result<Exit, Failure> {
    check_trust_domain(&request.trust_domain)
        .map_err(|error| Failure::usage("the trust domain is not valid").because(&error))?;
    let id = SpiffeId::new(&request.trust_domain, request.whose.id());
    let folder = request.out.display();
    let path = write_request(&request.out, &id).map_err(|error| {
        failure(format!("cannot make a request for {id}"), &error)
            .hint("a key that is there is never replaced; move it away to make another")
    })?;
    output::print(&format!(
        "made {folder}/{KEY_FILE} and {path} for {id}\n\
         have {path} signed with `causeway ca sign`, and put cert.pem and the CA's ca.pem beside the key\n",
        path = path.display()
    ))?;
    Ok(Exit::Done)
}

fn certify(sign: &Sign) -> Result<Exit, Failure> {
    let gateway = sign.whose.id();
    let shown = sign.request.display();
    let text = fs::read(&sign.request)
        .map_err(|error| Failure::new(format!("cannot read {shown}")).because(&error))?;
    let request = SigningRequest::from_pem(&text).map_err(|error| {
        Failure::new(format!("cannot sign {shown}"))
            .because(&error)
            .exit(Exit::BadInput)
    })?;
    if request.id().gateway != gateway {
        return Err(Failure::new(format!(
            "{shown} is for {}, and not for {gateway}",
            request.id().gateway
        ))
        .exit(Exit::BadInput)
        .hint("--zone and --gateway must say whom you mean to certify"));
    }
    let names = sign.names.read()?;
    let passphrase = sign.passphrase.read()?;
    let ca = Ca::open(&sign.ca, passphrase.as_ref());
    let id = ca
        .and_then(|ca| ca.sign_to(&sign.ca, &request, &sign.out, sign.valid_for.into(), &names))
        .map_err(|error| failure(format!("cannot certify {gateway}"), &error))?;
    output::print(&format!(
        "certified {id} in {}, valid for {}; {}/ca.pem goes beside it\n",
        sign.out.display(),
        sign.valid_for,
        sign.ca.display()
    ))?;
    Ok(Exit::Done)
}

pub(super) fn failure(message: String, error: &CaError) -> Failure {
    let failure = Failure::new(message).because(error);
    match error {
        CaError::TrustDomain(_) | CaError::Validity(_) => failure.exit(Exit::Usage),
        CaError::Key {
            source: CaKeyError::NoPassphrase | CaKeyError::WrongPassphrase,
            ..
        } => failure
            .exit(Exit::BadInput)
            .hint("give the passphrase with --passphrase-file or in CAUSEWAY_CA_PASSPHRASE"),
        CaError::OtherTrustDomain { .. } => failure.exit(Exit::BadInput),
        CaError::NoCaller(_) => failure
            .exit(Exit::Usage)
            .hint("--zone and --gateway issue a gateway's; a caller's path is another, such as /app/web"),
        _ => failure,
    }
}
