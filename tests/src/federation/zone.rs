//! One zone of a federation: its files and addresses, and its gateway process.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;
use crate::{
    http,
    metrics::Metrics,
    process::{Process, program},
    wait::until_true,
};

const TUNNEL_PORT: u16 = 7800;
const ADMIN_PORT: u16 = 7810;
const REGISTRY_PORT: u16 = 7820;
const DNS_PORT: u16 = 7853;
const CALLERS_PORT: u16 = 7843;

/// One zone: its files and addresses, and its gateway while that runs.
#[derive(Debug)]
pub struct Zone {
    pub name: String,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub registry: SocketAddr,
    pub dns: SocketAddr,
    /// Address at which callers with certificates are taken, if the plan says so.
    pub callers: SocketAddr,
    pub topology: PathBuf,
    pub identity: PathBuf,
    pub data: PathBuf,
    /// Source of the gateway's identity instead of its folder: `--spiffe-endpoint-socket`.
    pub workload_api: Option<String>,
    /// Further arguments of this gateway alone.
    pub arguments: Vec<String>,
    /// Runs the next process as this user; a test that is root may.
    pub user: Option<u32>,
    log: PathBuf,
    gateway: Option<Process>,
    /// Processes that another has taken the place of.
    former: Vec<Process>,
}

impl Zone {
    pub(super) fn lay_out(name: &str, host: IpAddr, folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            listen: SocketAddr::new(host, TUNNEL_PORT),
            admin: SocketAddr::new(host, ADMIN_PORT),
            registry: SocketAddr::new(host, REGISTRY_PORT),
            dns: SocketAddr::new(host, DNS_PORT),
            callers: SocketAddr::new(host, CALLERS_PORT),
            topology: folder.join(format!("{name}.yaml")),
            identity: folder.join(format!("{name}-identity")),
            data: folder.join(format!("{name}-data")),
            workload_api: None,
            arguments: Vec::new(),
            user: None,
            log: folder.join(format!("{name}.log")),
            gateway: None,
            former: Vec::new(),
        }
    }

    /// `topology` is the flag that the topology file is given with.
    pub(super) fn start(
        &mut self,
        topology: &str,
        arguments: &[String],
        descriptors: Option<u64>,
    ) -> anyhow::Result<()> {
        self.former.extend(self.gateway.take());
        let mut command = match descriptors {
            None => Command::new(program()?),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", r#"ulimit -n "$0" && exec "$@""#, &limit.to_string()]);
                shell.arg(program()?);
                shell
            }
        };
        command.args(["gateway", "--zone", &self.name, "--threads", "1"]);
        match &self.workload_api {
            None => command.arg("--identity").arg(&self.identity),
            Some(address) => command.args(["--spiffe-endpoint-socket", address]),
        };
        for (flag, path) in [(topology, &self.topology), ("--data", &self.data)] {
            command.arg(flag).arg(path);
        }
        for (flag, address) in [
            ("--listen", self.listen),
            ("--admin", self.admin),
            ("--registry", self.registry),
            ("--dns", self.dns),
        ] {
            command.arg(flag).arg(address.to_string());
        }
        command.args(arguments).args(&self.arguments);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        self.gateway = Some(Process::start(
            &format!("gateway {}", self.name),
            &mut command,
            &self.log,
        )?);
        Ok(())
    }

    /// Processes that its gateways have started themselves, as SIGUSR2 has them do, and that have not ended.
    #[must_use]
    pub fn own_successors(&self) -> Vec<Pid> {
        let log = self.log();
        let started = log.lines().filter(|line| line.contains("started a successor"));
        let ids = started.filter_map(|line| {
            line.split("process=")
                .nth(1)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        });
        let data = self.data.display().to_string();
        let is_ours = |id: &i32| {
            let command = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(&data)
        };
        ids.filter(is_ours).filter_map(Pid::from_raw).collect()
    }

    /// Socket over which the admin API takes changes.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.data.join("admin.sock")
    }

    /// Socket over which registrations are taken over gRPC.
    #[must_use]
    pub fn registry_socket(&self) -> PathBuf {
        self.data.join("registry.sock")
    }

    /// Process that the gateway last took the place of.
    ///
    /// # Panics
    /// When there was none.
    pub fn former(&mut self) -> &mut Process {
        self.former.last_mut().expect("a gateway that was succeeded")
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        self.gateway.is_some()
    }

    /// # Panics
    /// When the gateway was not started.
    pub fn gateway(&mut self) -> &mut Process {
        self.gateway.as_mut().expect("a gateway that was started")
    }

    /// Everything the gateway has written to its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills the gateway at once.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.gateway.take().map_or(Ok(()), |mut gateway| gateway.kill())
    }

    pub async fn wait_ready(&self) {
        let what = format!("the gateway of {} is ready", self.name);
        until_true(&what, PATIENCE, async || {
            http::get(self.admin, "/readyz")
                .await
                .is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// Waits until a tunnel with a gateway of `peer` is up.
    pub async fn wait_tunnel(&self, peer: &str) {
        let what = format!("{} has a tunnel with {peer}", self.name);
        until_true(&what, PATIENCE, async || {
            let page = http::get(self.admin, "/v1/tunnels").await;
            page.is_ok_and(|answer| answer.body.contains(&format!("\"{peer}\"")))
        })
        .await;
    }

    /// # Errors
    /// When the admin API does not answer.
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        Ok(Metrics::parse(&http::get(self.admin, "/metrics").await?.body))
    }

    /// Waits until the series of `name` that carry `labels` add up to `at_least`.
    ///
    /// # Panics
    /// When they do not in time; shows what was counted instead.
    pub async fn wait_metric(&self, name: &str, labels: &[(&str, &str)], at_least: f64) {
        let started = Instant::now();
        let mut last = Metrics::default();
        while last.sum(name, labels) < at_least {
            let others = last.about(name);
            let waited = started.elapsed() < PATIENCE;
            assert!(
                waited,
                "{}: {name} {labels:?} stays under {at_least}; there is:\n{others}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = self.metrics().await.unwrap_or_default();
        }
    }

    /// Waits until a line of the log holds all of `parts`.
    pub async fn wait_log(&self, parts: &[&str]) {
        let what = format!("the log of {} has a line with {parts:?}", self.name);
        until_true(&what, PATIENCE, async || {
            self.log()
                .lines()
                .any(|line| parts.iter().all(|part| line.contains(part)))
        })
        .await;
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        // They are no children of this process.
        for successor in self.own_successors() {
            let _ = kill_process(successor, Signal::KILL);
        }
    }
}
