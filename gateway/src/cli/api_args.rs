//! The flags of `causeway gateway` about who may use its APIs from elsewhere, and what is written down of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use causeway_api::{
    ApiMetrics,
    audit::Audit,
    credentials::{Gate, Grant, Guard, TokenFile},
};
use causeway_host::tasks::Tasks;
use tokio_util::sync::CancellationToken;

use super::{Exit, Failure};

#[derive(Debug, clap::Args)]
pub(crate) struct ApiArgs {
    /// File with the tokens that the admin API and registration take, as `causeway admin-token` makes it; followed at once
    #[arg(long, value_name = "FILE", env = "CAUSEWAY_ADMIN_TOKENS")]
    admin_tokens: Option<PathBuf>,
    /// Rights of holders of certificates: SCOPE=SPIFFE-ID, with read, register, write, register:SERVICE or write:SERVICE; /* at the end is
    /// all below. Several are separated by commas
    #[arg(
        long,
        value_name = "SCOPE=ID,…",
        env = "CAUSEWAY_ADMIN_ALLOW",
        value_delimiter = ','
    )]
    admin_allow: Vec<Grant>,
    #[command(flatten)]
    audit: AuditArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AuditArgs {
    /// Append a JSON line to this file for every change that was asked for, done or refused [default: to the log, under
    /// causeway::audit]
    #[arg(long, value_name = "FILE", env = "CAUSEWAY_AUDIT_LOG")]
    audit_log: Option<PathBuf>,
}

impl AuditArgs {
    pub(super) fn open(&self, metrics: &ApiMetrics, tasks: &Tasks) -> Result<Audit, Failure> {
        let Some(path) = &self.audit_log else {
            return Ok(Audit::default());
        };
        Audit::file(path, metrics, tasks).map_err(|error| {
            Failure::new("cannot use --audit-log")
                .because(&error)
                .hint("its folder must be there, and this user able to write in it")
        })
    }
}

impl ApiArgs {
    /// Opens the files, and follows the one with tokens until `stop`.
    pub(super) fn gate(
        &self,
        metrics: Arc<ApiMetrics>,
        stop: &CancellationToken,
        tasks: &Tasks,
    ) -> Result<Gate, Failure> {
        let tokens = tokens(self.admin_tokens.as_deref(), stop, tasks)?;
        let audit = self.audit.open(&metrics, tasks)?;
        let guard = Guard {
            tokens,
            grants: self.admin_allow.clone(),
        };
        Ok(Gate::new(Some(Arc::new(guard)), audit, metrics))
    }
}

/// Opens the file with tokens that was named, and follows it until `stop`.
pub(super) fn tokens(
    file: Option<&Path>,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> Result<Option<Arc<TokenFile>>, Failure> {
    let tokens = file.map(TokenFile::open).transpose();
    let tokens = tokens.map_err(|error| {
        Failure::new("cannot use --admin-tokens")
            .because(&error)
            .exit(Exit::BadInput)
            .hint("`causeway admin-token issue` makes such a file")
    })?;
    let tokens = tokens.map(Arc::new);
    if let Some(tokens) = &tokens {
        tokio::spawn(tasks.keep("file of tokens", tokens.clone().watch(stop.clone())));
    }
    Ok(tokens)
}
