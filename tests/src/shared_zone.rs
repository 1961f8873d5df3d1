//! Zones with several gateways on loopback, for tests of a registry that they share. [`crate::federation`] has one gateway
//! for each zone; here any number are started, killed and started again, each by its name.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    address::Block,
    authority::{Authority, Validity, write_identity},
    federation::{PATIENCE, TRUST_DOMAIN},
    http,
    process::{Process, program},
    wait::until_true,
};

/// The first of the block's addresses that is a gateway's; those before are etcd's.
const FIRST_HOST: u8 = 20;

/// The gateways of two or more zones, by `zone/gateway`. Dropping it kills them.
#[derive(Debug)]
pub struct Gateways {
    gateways: BTreeMap<String, GatewayProcess>,
}

/// One gateway: its files and addresses, and its process while that runs.
#[derive(Debug)]
pub struct GatewayProcess {
    zone: String,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub dns: SocketAddr,
    folder: PathBuf,
    topology: PathBuf,
    arguments: Vec<String>,
    process: Option<Process>,
}

impl Gateways {
    /// Lays out gateways named `zone/gateway`, each with the further arguments of its zone, and starts none. `services`
    /// is the YAML under `services:`.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn lay_out(
        block: &Block,
        folder: &Path,
        names: &[&str],
        services: &str,
        arguments: impl Fn(&str) -> Vec<String>,
    ) -> anyhow::Result<Self> {
        let authority = Authority::new(TRUST_DOMAIN)?;
        let topology = folder.join("causeway.yaml");
        let mut gateways = BTreeMap::new();
        for (host, name) in (FIRST_HOST..).zip(names) {
            let (zone, gateway) = name.split_once('/').unwrap_or((name, "gw1"));
            let folder = folder.join(name.replace('/', "-"));
            fs::create_dir_all(&folder)?;
            let leaf = authority.leaf(zone, gateway, Validity::Current)?;
            write_identity(&folder.join("identity"), &leaf, authority.root_pem())?;
            let address = |port| SocketAddr::new(block.host(host), port);
            let gateway = GatewayProcess {
                zone: zone.to_owned(),
                listen: address(7800),
                admin: address(7810),
                dns: address(7853),
                folder,
                topology: topology.clone(),
                arguments: arguments(zone),
                process: None,
            };
            gateways.insert((*name).to_owned(), gateway);
        }
        let all = Self { gateways };
        fs::write(&topology, all.topology(block, services))?;
        Ok(all)
    }

    fn topology(&self, block: &Block, services: &str) -> String {
        let mut zones = BTreeMap::<&str, Vec<String>>::new();
        for gateway in self.gateways.values() {
            let addresses = zones.entry(&gateway.zone).or_default();
            addresses.push(format!("\"{}\"", gateway.listen));
        }
        let zones: String = (0..)
            .zip(zones)
            .map(|(index, (zone, addresses))| {
                let range = block.virtual_range(index);
                let addresses = addresses.join(", ");
                format!(
                    "  {zone}:\n    gateways: [{addresses}]\n    vips: {{ loopback: {range} }}\n    loopback_instances: true\n"
                )
            })
            .collect();
        format!(
            "version: 1\ntrust_domain: {TRUST_DOMAIN}\ndns: {{ domain: mesh, ttl: 5s }}\nzones:\n{zones}services:\n{services}"
        )
    }

    /// # Panics
    /// When there is no such gateway.
    #[must_use]
    pub fn of(&self, name: &str) -> &GatewayProcess {
        self.gateways
            .get(name)
            .unwrap_or_else(|| panic!("there is no gateway {name}"))
    }

    /// Starts a gateway and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let Some(gateway) = self.gateways.get_mut(name) else {
            anyhow::bail!("there is no gateway {name}");
        };
        gateway.start(name)?;
        gateway.wait_check(200, "").await;
        Ok(())
    }

    /// Kills a gateway (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let gateway = self.gateways.get_mut(name);
        let process = gateway.and_then(|gateway| gateway.process.take());
        process.map_or(Ok(()), |mut process| process.kill())
    }
}

impl GatewayProcess {
    /// Socket over which the admin API takes changes.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.folder.join("data").join("admin.sock")
    }

    fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let mut command = Command::new(program()?);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CAUSEWAY_")) {
            command.env_remove(name);
        }
        command.args(["gateway", "--zone", &self.zone, "--threads", "1"]);
        command.args(["--log-level", "info,causeway_instances::attach=debug"]);
        command.arg("--topology").arg(&self.topology);
        command.arg("--identity").arg(self.folder.join("identity"));
        command.arg("--data").arg(self.folder.join("data"));
        command.args(["--listen", &self.listen.to_string()]);
        command.args(["--admin", &self.admin.to_string()]);
        command.args(["--dns", &self.dns.to_string()]);
        command.args(["--registry", "off"]).args(&self.arguments);
        let log = self.folder.join("log");
        self.process = Some(Process::start(&format!("gateway {name}"), &mut command, &log)?);
        Ok(())
    }

    /// Waits until `/readyz?verbose` answers with this status, and says `part`.
    pub async fn wait_check(&self, status: u16, part: &str) {
        let what = format!("the gateway at {} says {part:?} with {status}", self.admin);
        until_true(&what, PATIENCE, async || {
            let answer = http::get(self.admin, "/readyz?verbose").await;
            answer.is_ok_and(|answer| answer.status == status && answer.body.contains(part))
        })
        .await;
    }

    /// Waits until a line of the log holds all of `parts`.
    pub async fn wait_log(&self, parts: &[&str]) {
        let what = format!(
            "the log of the gateway at {} has a line with {parts:?}",
            self.admin
        );
        until_true(&what, PATIENCE, async || {
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            log.lines()
                .any(|line| parts.iter().all(|part| line.contains(part)))
        })
        .await;
    }

    /// The ids of the healthy instances of its zone.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn healthy(&self) -> anyhow::Result<Vec<String>> {
        let answer = http::get(self.admin, "/v1/instances").await?;
        let page: serde_json::Value = serde_json::from_str(&answer.body)?;
        let items = page["items"].as_array().cloned().unwrap_or_default();
        let healthy = items.iter().filter(|item| item["health"] == "healthy");
        Ok(healthy
            .filter_map(|item| Some(item["id"].as_str()?.to_owned()))
            .collect())
    }

    /// Waits until exactly these instances are known, all of them healthy.
    pub async fn wait_healthy(&self, ids: &[String]) {
        let what = format!("the gateway at {} finds {ids:?} healthy", self.admin);
        until_true(&what, PATIENCE, async || {
            self.healthy().await.is_ok_and(|healthy| healthy == ids)
        })
        .await;
    }
}
