//! A CA as its operator has it: a folder, `causeway ca serve` as a process, join tokens, and gateways that join.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    address::Block,
    federation::{Federation, PATIENCE},
    process::{Process, program, run},
    wait::until_true,
};

const PORT: u16 = 7830;

/// A CA that is served, or was. Dropping it kills the process.
#[derive(Debug)]
pub struct CaServer {
    pub address: SocketAddr,
    leaf_lifetime: String,
    process: Option<Process>,
    folder: TempDir,
    _block: Block,
}

/// Runs `causeway` to its end, however it ends, without variables of this process.
///
/// # Errors
/// When it cannot be run.
pub fn causeway(arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(program()?);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CAUSEWAY_")) {
        command.env_remove(name);
    }
    command.args(arguments).output().context("run causeway")
}

impl CaServer {
    /// Makes a CA and serves it; gateways get certificates of this lifetime.
    ///
    /// # Errors
    /// When it cannot be made or started.
    pub async fn start(trust_domain: &str, leaf_lifetime: Duration) -> anyhow::Result<Self> {
        let (folder, block) = (tempfile::tempdir()?, Block::take()?);
        let mut server = Self {
            address: SocketAddr::new(block.host(0), PORT),
            leaf_lifetime: format!("{}s", leaf_lifetime.as_secs()),
            process: None,
            folder,
            _block: block,
        };
        let ca = server.ca();
        run(["ca", "init", text(&ca)?, "--trust-domain", trust_domain])?;
        server.resume(&[]).await?;
        Ok(server)
    }

    /// Starts the process again, with further arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn resume(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(program()?);
        command
            .args(["ca", "serve", "--listen", &self.address.to_string()])
            .args(["--leaf-lifetime", &self.leaf_lifetime, "--ca"])
            .arg(self.ca())
            .args(arguments);
        let log = self.folder.path().join("log");
        self.process = Some(Process::start("the CA", &mut command, &log)?);
        let address = self.address;
        until_true("the CA listens", PATIENCE, async || {
            TcpStream::connect(address).is_ok()
        })
        .await;
        Ok(())
    }

    /// Asks the process to end and waits until it has.
    ///
    /// # Errors
    /// When it does not run, or does not end in good order.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("a CA that is served")?;
        process.signal(Signal::TERM)?;
        let status = process.wait(PATIENCE).await;
        ensure!(status.success(), "the CA ended with {status}");
        Ok(())
    }

    /// The folder of the CA.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    /// Everything that the process has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until a line of the log holds all of `parts`.
    pub async fn wait_log(&self, parts: &[&str]) {
        let what = format!("the log of the CA has a line with {parts:?}");
        let has = |line: &str| parts.iter().all(|part| line.contains(part));
        until_true(&what, PATIENCE, async || self.log().lines().any(has)).await;
    }

    /// Gives out a token; `arguments` go to `causeway token issue`.
    ///
    /// # Errors
    /// When that fails.
    pub fn token(&self, zone: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let ca = self.ca();
        let mut all = vec!["token", "issue", "--ca", text(&ca)?, "--zone", zone];
        all.extend(arguments);
        Ok(run(all)?.trim().to_owned())
    }

    /// Has the gateway `gw1` join with a token; whatever becomes of it.
    ///
    /// # Errors
    /// When `causeway join` cannot be run.
    pub fn join(&self, token: &str, out: &Path) -> anyhow::Result<Output> {
        let invitation = format!("{token}@{}", self.address);
        causeway(&["join", &invitation, "--gateway", "gw1", "--out", text(out)?])
    }

    /// Gives every zone of a federation an identity by a token and a join, in the place of the one it was laid out with.
    ///
    /// # Errors
    /// When one of them cannot join.
    pub fn admit(&self, federation: &Federation) -> anyhow::Result<()> {
        federation
            .names()
            .iter()
            .try_for_each(|name| self.admit_zone(federation, name))
    }

    /// The same for one zone.
    ///
    /// # Errors
    /// When it cannot join.
    pub fn admit_zone(&self, federation: &Federation, name: &str) -> anyhow::Result<()> {
        let folder = &federation.zone(name).identity;
        fs::remove_dir_all(folder)?;
        let joined = self.join(&self.token(name, &[])?, folder)?;
        let said = String::from_utf8_lossy(&joined.stderr);
        ensure!(joined.status.success(), "{name} cannot join: {said}");
        Ok(())
    }

    /// The certificate that gateways trust, PEM.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn root_pem(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.ca().join("ca.pem"))?)
    }
}

/// A path as an argument.
///
/// # Errors
/// When it is not UTF-8.
pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}
