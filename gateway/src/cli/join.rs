//! `causeway join`: trades a join token for the identity of a gateway.

use std::{
    fmt,
    io::{BufRead as _, Read as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use causeway_authority::join::{self, CaAddress, CertificateRequestError, JoinToken};
use causeway_control::renewal::Settings;
use causeway_federation::name::{GatewayId, GatewayName};
use causeway_host::resolve::NameResolver;
use causeway_identity::{CERTIFICATE_FILE, KEY_FILE, certificates, check_writable, identify};

use super::{Exit, Failure};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway join cwjoin…@ca.acme.internal --gateway gw1 --out /etc/causeway/west
  causeway join - --gateway gw1 --out /etc/causeway/west < token-at-host     not on the command line, where others see it

The zone is the one that the token is for. The key is made here and never leaves; FOLDER gets key.pem, cert.pem, ca.pem and
renew.json, which tells the gateway where to renew its certificate. The folder must stay writable for the gateway.";

/// Longest line that is read from standard input, in bytes.
const MAX_LINE_BYTES: u64 = 1024;

/// Trade a join token for the identity of a gateway
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct JoinArgs {
    /// TOKEN@HOST[:PORT]: the token, and where its CA is served; `-`: the same from standard input
    #[arg(value_name = "TOKEN@HOST")]
    token: Invitation,
    /// Name of this gateway, unique within its zone
    #[arg(long, value_name = "NAME")]
    gateway: GatewayName,
    /// Folder for the identity, to be given to `causeway gateway --identity`
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Replace the identity of another gateway, or a key of unknown use, that is there
    #[arg(long)]
    force: bool,
    /// Do nothing, and need no token, where FOLDER holds an identity of this gateway already: for what runs before each start
    #[arg(long, conflicts_with = "force")]
    unless_joined: bool,
}

/// Invitation as it stands on the command line. It is never printed: it holds a secret.
#[derive(Clone)]
struct Invitation(String);

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Invitation")
    }
}

impl FromStr for Invitation {
    type Err = std::convert::Infallible;

    /// Takes any text. One that cannot be read is told later: clap would repeat it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl Invitation {
    fn read(&self) -> Result<(JoinToken, CaAddress), Failure> {
        let mut text = self.0.clone();
        if text == "-" {
            text.clear();
            let mut input = std::io::stdin().lock().take(MAX_LINE_BYTES);
            input
                .read_line(&mut text)
                .map_err(|error| Failure::new("cannot read standard input").because(&error))?;
        }
        let (token, address) = text.trim().split_once('@').ok_or_else(|| {
            Failure::usage("the token comes with the host of its CA: TOKEN@HOST")
                .hint("`causeway token issue` prints the token; the host is where `causeway ca serve` runs")
        })?;
        let token = token.parse::<JoinToken>().map_err(|error| {
            Failure::new("the join token cannot be read")
                .because(&error)
                .exit(Exit::BadInput)
                .hint("copy it whole, as `causeway token issue` printed it; it has not been used")
        })?;
        let address = address
            .parse::<CaAddress>()
            .map_err(|error| Failure::usage("cannot use the address of the CA").because(&error))?;
        Ok((token, address))
    }
}

pub(crate) async fn run(args: JoinArgs) -> Result<Exit, Failure> {
    if args.unless_joined && is_joined(&args.out, &args.gateway) {
        output::print(&format!(
            "{} has joined already, in {}\n",
            args.gateway,
            args.out.display()
        ))?;
        return Ok(Exit::Done);
    }
    let (token, address) = args.token.read()?;
    let id = GatewayId::new(token.zone.clone(), args.gateway.clone());
    if !args.force {
        check_vacant(&args.out, &id)?;
    }
    let folder = args.out.display();
    check_writable(&args.out).map_err(|error| {
        Failure::new(format!("cannot write an identity to {folder}"))
            .because(&error)
            .hint("the token has not been used; --out must be a folder that this user may write")
    })?;
    let failed = |error: &CertificateRequestError| {
        Failure::new(format!("cannot join as {id} at {address}"))
            .because(error)
            .hint(error.hint())
    };
    let stream = join::connect(&address, &NameResolver::default()).await;
    let stream = stream.map_err(|error| failed(&error))?;
    let made = join::join(stream, &token, &args.gateway)
        .await
        .map_err(|error| failed(&error))?;
    let settings = Settings {
        ca: vec![address.clone()],
    };
    let written = made.install(&args.out).and_then(|()| settings.write(&args.out));
    written.map_err(|error| {
        Failure::new(format!("cannot write the identity to {folder}"))
            .because(&error)
            .hint("the token is used up; mend that and issue another")
    })?;
    let until = made.not_after().map_or_else(String::new, |end| {
        format!(", valid until {}", humantime::format_rfc3339_seconds(end))
    });
    output::print(&format!(
        "joined as {} in {folder}{until}; the gateway renews it at {address}\n\
         run: causeway gateway --zone {} --identity {folder} --topology FILE --data FOLDER\n",
        made.id(),
        token.zone
    ))?;
    Ok(Exit::Done)
}

/// Tells whether there is an identity of a gateway of this name, of whatever zone: without the token nobody knows which was meant.
fn is_joined(folder: &Path, gateway: &GatewayName) -> bool {
    let there = certificates(&folder.join(CERTIFICATE_FILE)).ok();
    let there = there.and_then(|chain| identify(chain.first()?).ok());
    folder.join(KEY_FILE).exists() && there.is_some_and(|there| there.gateway.gateway == *gateway)
}

/// Nothing is there that this identity would destroy.
fn check_vacant(folder: &Path, id: &GatewayId) -> Result<(), Failure> {
    let path = folder.join(CERTIFICATE_FILE);
    let shown = folder.display();
    let hint = "take another folder, or pass --force to replace it";
    if !path.exists() {
        return match folder.join(KEY_FILE).exists() {
            true => Err(Failure::new(format!("{shown} holds a key without a certificate")).hint(hint)),
            false => Ok(()),
        };
    }
    let there = certificates(&path).ok();
    let there = there.and_then(|chain| identify(chain.first()?).ok());
    match there {
        Some(there) if there.gateway == *id => Ok(()),
        Some(there) => Err(Failure::new(format!("{shown} holds the identity of {there}")).hint(hint)),
        None => Err(Failure::new(format!("{shown} holds a certificate that is no gateway's")).hint(hint)),
    }
}
