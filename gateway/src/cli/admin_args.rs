//! Address of the gateway that a command talks to, and what the command shows there to be let in.

use std::path::PathBuf;

use causeway_federation::name::ZoneName;
use clap::{ArgMatches, Command, FromArgMatches};

use super::client::Endpoint;

/// The port of an admin API that is named without one.
pub(crate) const DEFAULT_PORT: u16 = 7810;

/// The flags, as every command that asks a gateway has them.
#[derive(Debug, Clone, clap::Args)]
struct Flags {
    /// The gateway's admin API: HOST:PORT, unix:/PATH, or https://HOST:PORT where it listens for others than its host. On
    /// loopback it names the socket that changes go over, which takes its user or root
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAUSEWAY_ADMIN",
        default_value = "127.0.0.1:7810",
        global = true
    )]
    admin: Endpoint,
    /// A file that holds a token of `causeway admin-token`, to show with https or on loopback
    #[arg(long, value_name = "FILE", env = "CAUSEWAY_ADMIN_TOKEN_FILE", global = true)]
    admin_token_file: Option<PathBuf>,
    /// With https: a folder with cert.pem, key.pem and ca.pem to be known by; the gateway must allow it
    #[arg(long, value_name = "FOLDER", env = "CAUSEWAY_ADMIN_IDENTITY", global = true)]
    admin_identity: Option<PathBuf>,
    /// With https: the roots that the gateway's certificate must lead to [default: ca.pem of --admin-identity]
    #[arg(long, value_name = "FILE", env = "CAUSEWAY_ADMIN_CA", global = true)]
    admin_ca: Option<PathBuf>,
    /// With https: the zone whose gateway must answer [default: that of --admin-identity]
    #[arg(long, value_name = "ZONE", env = "CAUSEWAY_ADMIN_ZONE", global = true)]
    admin_zone: Option<ZoneName>,
}

/// Credentials that a command shows, and whom it believes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub token_file: Option<PathBuf>,
    pub identity: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub zone: Option<ZoneName>,
}

/// Address of the gateway that a command talks to.
#[derive(Debug, Clone)]
pub struct AdminArgs {
    pub admin: Endpoint,
}

impl From<Flags> for AdminArgs {
    fn from(flags: Flags) -> Self {
        let credentials = Credentials {
            token_file: flags.admin_token_file,
            identity: flags.admin_identity,
            ca: flags.admin_ca,
            zone: flags.admin_zone,
        };
        Self {
            admin: Endpoint {
                credentials,
                ..flags.admin
            },
        }
    }
}

impl FromArgMatches for AdminArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Flags::from_arg_matches(matches).map(Self::from)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for AdminArgs {
    fn augment_args(command: Command) -> Command {
        <Flags as clap::Args>::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        <Flags as clap::Args>::augment_args_for_update(command)
    }
}
