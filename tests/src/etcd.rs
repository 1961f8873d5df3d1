//! A real etcd of several members on loopback, in a folder that goes with it. Members can be killed and started again.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use causeway_proto::etcd::etcdserverpb::{
    StatusRequest, StatusResponse, maintenance_client::MaintenanceClient,
};
use tempfile::TempDir;
use tonic::transport::Endpoint;

use crate::{address::Block, process::Process, wait::until};

/// For all members to agree on a leader; on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// For one member to answer.
const ANSWER: Duration = Duration::from_secs(2);
const CLIENTS: u16 = 2379;
const PEERS: u16 = 2380;

/// Several members that make one etcd. Dropping it kills them.
#[derive(Debug)]
pub struct Etcd {
    block: Block,
    folder: TempDir,
    program: Program,
    members: Vec<Option<Process>>,
}

/// The program, and where its libraries are.
#[derive(Debug)]
struct Program {
    path: PathBuf,
    libraries: String,
}

impl Etcd {
    /// Starts that many members and waits until they have a leader.
    ///
    /// # Errors
    /// When etcd can be neither found nor installed, or does not start.
    pub async fn start(members: usize) -> anyhow::Result<Self> {
        let program = tokio::task::spawn_blocking(Program::set_up).await??;
        let mut etcd = Self {
            block: Block::take()?,
            folder: tempfile::tempdir().context("make a folder for etcd")?,
            program,
            members: (0..members).map(|_| None).collect(),
        };
        etcd.start_all()?;
        etcd.wait_leader().await;
        Ok(etcd)
    }

    /// The addresses that clients use, as `--etcd` takes them.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let all = 0..self.members.len();
        all.map(|member| format!("http://{}", self.address(member, CLIENTS)))
            .collect()
    }

    /// The loopback addresses of this test; those from 100 on are not used by etcd.
    #[must_use]
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// The folder of this etcd, with a log for each member.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts every member that does not run.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        for member in 0..self.members.len() {
            if self.members[member].is_none() {
                self.start_member(member)?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// When it cannot be started.
    pub fn start_member(&mut self, member: usize) -> anyhow::Result<()> {
        let name = format!("etcd{member}");
        let log = self.folder.path().join(format!("{name}.log"));
        self.members[member] = Some(Process::start(&name, &mut self.command(member), &log)?);
        Ok(())
    }

    /// Kills a member (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, member: usize) -> anyhow::Result<()> {
        let mut process = self.members[member].take().context("the member does not run")?;
        process.kill()
    }

    /// Kills every member that runs.
    ///
    /// # Errors
    /// When one cannot be killed.
    pub fn kill_all(&mut self) -> anyhow::Result<()> {
        for member in 0..self.members.len() {
            if self.members[member].is_some() {
                self.kill(member)?;
            }
        }
        Ok(())
    }

    /// Waits until all members that run agree on a leader that runs, and says which.
    pub async fn wait_leader(&self) -> usize {
        until("etcd has a leader", PATIENCE, async || self.leader().await.ok()).await
    }

    /// Resident memory of each member that runs, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> Vec<u64> {
        let running = self.members.iter().flatten();
        running
            .filter_map(|member| member.resident_bytes().ok())
            .collect()
    }

    async fn leader(&self) -> anyhow::Result<usize> {
        let mut ids = Vec::new();
        let mut leaders = Vec::new();
        for (member, process) in self.members.iter().enumerate() {
            if process.is_some() {
                let status = self.status(member).await?;
                let header = status.header.context("a header")?;
                ids.push((header.member_id, member));
                leaders.push(status.leader);
            }
        }
        let leader = *leaders.first().context("no member runs")?;
        ensure!(leaders.iter().all(|other| *other == leader), "they do not agree");
        let found = ids.iter().find(|(id, _)| *id == leader);
        found
            .map(|(_, member)| *member)
            .context("the leader does not run")
    }

    async fn status(&self, member: usize) -> anyhow::Result<StatusResponse> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address(member, CLIENTS)))?;
        let channel = endpoint.connect_timeout(ANSWER).timeout(ANSWER).connect().await?;
        let status = MaintenanceClient::new(channel).status(StatusRequest {}).await?;
        Ok(status.into_inner())
    }

    fn address(&self, member: usize, port: u16) -> SocketAddr {
        let host = u8::try_from(member).unwrap_or(u8::MAX);
        SocketAddr::new(self.block.host(host), port)
    }

    fn command(&self, member: usize) -> Command {
        let clients = format!("http://{}", self.address(member, CLIENTS));
        let peers = |member| format!("http://{}", self.address(member, PEERS));
        let cluster: Vec<_> = (0..self.members.len())
            .map(|member| format!("etcd{member}={}", peers(member)))
            .collect();
        let mut command = Command::new(&self.program.path);
        if !self.program.libraries.is_empty() {
            command.env("LD_LIBRARY_PATH", &self.program.libraries);
        }
        command
            .args(["--name", &format!("etcd{member}")])
            .arg("--data-dir")
            .arg(self.folder.path().join(format!("data{member}")))
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args([
                "--listen-peer-urls",
                &peers(member),
                "--initial-advertise-peer-urls",
                &peers(member),
            ])
            .args(["--initial-cluster", &cluster.join(",")])
            .args([
                "--initial-cluster-state",
                "new",
                "--initial-cluster-token",
                "causeway-test",
            ])
            .args(["--log-level", "warn", "--logger", "zap"]);
        // etcd 3.4 asks for this wherever it was tested less.
        if cfg!(target_arch = "aarch64") {
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        command
    }
}

impl Program {
    /// Installs etcd if it is not there, and says where it is.
    fn set_up() -> anyhow::Result<Self> {
        let setup = root().join("tests/etcd/setup");
        let output = Command::new("bash")
            .arg(&setup)
            .output()
            .context("run tests/etcd/setup")?;
        if !output.status.success() {
            bail!("etcd is missing: {}", String::from_utf8_lossy(&output.stderr));
        }
        // The script prints shell assignments, so a shell says what they come to.
        let assignments = String::from_utf8_lossy(&output.stdout);
        let script = format!("{assignments}\nprintf '%s\\n%s' \"$(command -v etcd)\" \"$LD_LIBRARY_PATH\"");
        let output = Command::new("bash")
            .args(["-c", &script])
            .output()
            .context("find etcd")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (path, libraries) = text.split_once('\n').context("two lines")?;
        ensure!(!path.is_empty(), "etcd was installed and is not to be found");
        Ok(Self {
            path: path.into(),
            libraries: libraries.to_owned(),
        })
    }
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}
