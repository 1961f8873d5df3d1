//! Sources of the passphrase of a CA for commands: a file, or the environment. Never an argument, which everybody on the
//! host can read.

use std::{fs, path::PathBuf};

use causeway_identity::ca::key::Passphrase;

use super::{Exit, Failure};

/// Holds the passphrase itself.
const VARIABLE: &str = "CAUSEWAY_CA_PASSPHRASE";
/// Largest file in bytes.
const MAX_FILE_BYTES: u64 = 4096;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct PassphraseArgs {
    /// File whose one line is the passphrase of the CA's key [default: the variable CAUSEWAY_CA_PASSPHRASE, else none]
    #[arg(long, value_name = "FILE", env = "CAUSEWAY_CA_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// `None`: there is none.
    pub(crate) fn read(&self) -> Result<Option<Passphrase>, Failure> {
        let Some(path) = &self.passphrase_file else {
            return Ok(std::env::var(VARIABLE).ok().as_deref().and_then(Passphrase::new));
        };
        let failed = |message: &str| {
            Failure::new(format!(
                "cannot use the passphrase in {}: {message}",
                path.display()
            ))
            .exit(Exit::BadInput)
            .hint("the file holds the passphrase on one line and nothing else")
        };
        let file = fs::metadata(path).map_err(|error| failed(&error.to_string()))?;
        if file.len() > MAX_FILE_BYTES {
            return Err(failed("it is too large"));
        }
        let text = fs::read_to_string(path).map_err(|error| failed(&error.to_string()))?;
        let passphrase = Passphrase::new(&text).ok_or_else(|| failed("it is empty"))?;
        Ok(Some(passphrase))
    }
}
