//! A federation of real gateway processes on loopback: each zone with an address, an identity, a data folder, a
//! topology file and a log of its own.
//!
//! With [`Plan::linked`] every tunnel runs through the emulated link. Each zone then has its own topology file, which
//! differs from the others in the gateways' addresses alone, so that each pair of zones can be cut by itself.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;
use tempfile::TempDir;

use crate::{
    address::Block,
    authority::{Authority, Leaf, Validity, write_identity},
    dns, http,
    link::Network,
    metrics::Metrics,
    process::{Process, program},
    wait::{until, until_true},
};

/// The trust domain of every test federation.
pub const TRUST_DOMAIN: &str = "test.internal";
/// Longest time for a gateway to come up, or for news to reach another zone, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
const TUNNEL_PORT: u16 = 7800;
const ADMIN_PORT: u16 = 7810;
const DNS_PORT: u16 = 7853;
/// First port of the fronts of the emulated link.
const FRONT_PORT: u16 = 7900;

/// What a federation shall look like.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    zones: Vec<ZonePlan>,
    services: Vec<(String, String)>,
    linked: bool,
    arguments: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct ZonePlan {
    name: String,
    dials_only: bool,
    tags: String,
    instances: String,
}

impl Plan {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a zone with one gateway.
    #[must_use]
    pub fn zone(mut self, name: &str) -> Self {
        self.zones.push(ZonePlan {
            name: name.to_owned(),
            tags: "{}".to_owned(),
            ..ZonePlan::default()
        });
        self
    }

    /// The zone that was added last has no way in: it dials out.
    #[must_use]
    pub fn dials_only(mut self) -> Self {
        self.last().dials_only = true;
        self
    }

    /// Tags of the zone that was added last, as YAML: `{ region: us }`.
    #[must_use]
    pub fn zone_tags(mut self, tags: &str) -> Self {
        tags.clone_into(&mut self.last().tags);
        self
    }

    /// Puts a fixed instance into the zone that was added last; `tags` as YAML.
    #[must_use]
    pub fn instance(mut self, service: &str, address: SocketAddr, tags: &str) -> Self {
        let line = format!("      - {{ service: {service}, address: {address}, tags: {tags} }}\n");
        self.last().instances.push_str(&line);
        self
    }

    /// Declares a service; `rest` are further keys of its YAML mapping: `port: 80, protocol: tcp`.
    #[must_use]
    pub fn service(mut self, name: &str, rest: &str) -> Self {
        self.services.push((name.to_owned(), rest.to_owned()));
        self
    }

    /// All tunnels run through the emulated link.
    #[must_use]
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// A further argument for every gateway.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Lays out files and addresses, and starts every gateway. Returns once all are ready and joined by tunnels.
    ///
    /// # Errors
    /// When something cannot be set up.
    pub async fn start(self) -> anyhow::Result<Federation> {
        let mut federation = self.prepare().await?;
        for name in federation.names() {
            federation.start_zone(&name)?;
        }
        for name in federation.names() {
            federation.ready(&name).await;
        }
        Ok(federation)
    }

    /// As [`Plan::start`], but no gateway is started yet.
    ///
    /// # Errors
    /// When something cannot be set up.
    pub async fn prepare(self) -> anyhow::Result<Federation> {
        let folder = tempfile::tempdir().context("make a folder for the federation")?;
        let mut federation = Federation {
            block: Block::take()?,
            authority: Authority::new(TRUST_DOMAIN)?,
            network: self.linked.then(Network::new).transpose()?,
            zones: BTreeMap::new(),
            plan: self,
            folder,
        };
        federation.lay_out().await?;
        Ok(federation)
    }

    fn last(&mut self) -> &mut ZonePlan {
        self.zones.last_mut().expect("add a zone first")
    }

    /// The topology file with these addresses of gateways.
    fn topology(&self, block: &Block, gateways: &BTreeMap<String, SocketAddr>) -> String {
        let mut text =
            format!("version: 1\ntrust_domain: {TRUST_DOMAIN}\ndns: {{ domain: mesh, ttl: 5s }}\n\nzones:\n");
        for (index, zone) in (0..).zip(&self.zones) {
            let gateway = gateways.get(&zone.name).filter(|_| !zone.dials_only);
            let gateway = gateway
                .map(|address| format!("\"{address}\""))
                .unwrap_or_default();
            let range = block.virtual_range(index);
            let _ = writeln!(
                text,
                "  {}:\n    tags: {}\n    gateways: [{gateway}]",
                zone.name, zone.tags
            );
            let _ = writeln!(text, "    vips: {{ loopback: {range} }}");
            if !zone.instances.is_empty() {
                let _ = write!(text, "    instances:\n{}", zone.instances);
            }
        }
        text.push_str("\nservices:\n");
        for (name, rest) in &self.services {
            let _ = writeln!(text, "  {name}: {{ {rest} }}");
        }
        text
    }
}

/// Gateways on loopback. Dropping it kills them all.
#[derive(Debug)]
pub struct Federation {
    zones: BTreeMap<String, Zone>,
    plan: Plan,
    authority: Authority,
    network: Option<Network>,
    block: Block,
    folder: TempDir,
}

/// One zone: its files and addresses, and its gateway while that runs.
#[derive(Debug)]
pub struct Zone {
    pub name: String,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub dns: SocketAddr,
    pub topology: PathBuf,
    pub identity: PathBuf,
    pub data: PathBuf,
    log: PathBuf,
    gateway: Option<Process>,
}

impl Federation {
    async fn lay_out(&mut self) -> anyhow::Result<()> {
        for (index, zone) in (0..).zip(self.plan.zones.clone()) {
            let made = Zone::lay_out(&zone.name, self.block.host(index), self.folder.path());
            let leaf = self.authority.leaf(&zone.name, "gw1", Validity::Current)?;
            write_identity(&made.identity, &leaf, self.authority.root_pem())?;
            self.zones.insert(zone.name, made);
        }
        for name in self.names() {
            let addresses = self.addresses_for(&name).await?;
            fs::write(
                &self.zone(&name).topology,
                self.plan.topology(&self.block, &addresses),
            )?;
        }
        Ok(())
    }

    /// Where each zone's gateway is, as one zone shall see it.
    async fn addresses_for(&self, from: &str) -> anyhow::Result<BTreeMap<String, SocketAddr>> {
        let own = self.zone(from).listen;
        let mut addresses = BTreeMap::new();
        for (port, zone) in (FRONT_PORT..).zip(self.zones.values()) {
            let mut address = zone.listen;
            if let Some(network) = self.network.as_ref().filter(|_| zone.name != from) {
                let front = SocketAddr::new(own.ip(), port);
                address = network.connect((from, &zone.name), front, zone.listen).await?;
            }
            addresses.insert(zone.name.clone(), address);
        }
        Ok(addresses)
    }

    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.zones.keys().cloned().collect()
    }

    /// # Panics
    /// When there is no such zone.
    #[must_use]
    pub fn zone(&self, name: &str) -> &Zone {
        self.zones
            .get(name)
            .unwrap_or_else(|| panic!("there is no zone {name}"))
    }

    /// # Panics
    /// When there is no such zone.
    pub fn zone_mut(&mut self, name: &str) -> &mut Zone {
        self.zones
            .get_mut(name)
            .unwrap_or_else(|| panic!("there is no zone {name}"))
    }

    /// The emulated link.
    ///
    /// # Panics
    /// When the plan was not [`Plan::linked`].
    #[must_use]
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a plan with `linked()`")
    }

    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Gives a zone another certificate; a gateway that runs is not told.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn set_identity(&self, zone: &str, leaf: &Leaf, root_pem: &str) -> anyhow::Result<()> {
        write_identity(&self.zone(zone).identity, leaf, root_pem)
    }

    /// Starts the gateway of a zone; does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_zone(&mut self, name: &str) -> anyhow::Result<()> {
        let arguments = self.plan.arguments.clone();
        self.zone_mut(name).start(&arguments)
    }

    /// Waits until a gateway is ready and has a tunnel with every other zone that it can have one with.
    pub async fn ready(&self, name: &str) {
        let zone = self.zone(name);
        zone.wait_ready().await;
        for other in self.plan.zones.iter().filter(|z| z.name != name) {
            let reachable =
                !other.dials_only || !self.plan.zones.iter().any(|z| z.name == name && z.dials_only);
            if reachable && self.zone(&other.name).is_running() {
                zone.wait_tunnel(&other.name).await;
            }
        }
    }

    /// Waits until `from` sees healthy instances of a service in `zone`.
    pub async fn wait_export(&self, from: &str, zone: &str, service: &str) {
        let what = format!("{from} sees {service} in {zone}");
        let admin = self.zone(from).admin;
        until_true(&what, PATIENCE, async || {
            let page = http::get(admin, "/v1/exports").await;
            page.is_ok_and(|answer| has_export(&answer.body, zone, service))
        })
        .await;
    }

    /// Where a client in `zone` connects to for a service: what its DNS says, and the service's port.
    pub async fn service_address(&self, zone: &str, service: &str, port: u16) -> SocketAddr {
        let name = format!("{service}.mesh.");
        let server = self.zone(zone).dns;
        let what = format!("{zone} answers for {name}");
        let address = until(&what, PATIENCE, async || {
            dns::addresses(server, &name).await.ok()?.into_iter().next()
        })
        .await;
        SocketAddr::new(address, port)
    }
}

/// Whether the JSON list of exports has healthy instances of `service` in `zone`.
fn has_export(page: &str, zone: &str, service: &str) -> bool {
    let Ok(page) = serde_json::from_str::<serde_json::Value>(page) else {
        return false;
    };
    let items = page
        .get("items")
        .unwrap_or(&page)
        .as_array()
        .cloned()
        .unwrap_or_default();
    items.iter().any(|item| {
        let healthy = item["healthy"].as_u64().is_some_and(|count| count > 0);
        healthy && item["zone"] == zone && item["service"] == service
    })
}

impl Zone {
    fn lay_out(name: &str, host: IpAddr, folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            listen: SocketAddr::new(host, TUNNEL_PORT),
            admin: SocketAddr::new(host, ADMIN_PORT),
            dns: SocketAddr::new(host, DNS_PORT),
            topology: folder.join(format!("{name}.yaml")),
            identity: folder.join(format!("{name}-identity")),
            data: folder.join(format!("{name}-data")),
            log: folder.join(format!("{name}.log")),
            gateway: None,
        }
    }

    fn start(&mut self, arguments: &[String]) -> anyhow::Result<()> {
        let mut command = Command::new(program()?);
        command.args(["gateway", "--zone", &self.name, "--threads", "1"]);
        for (flag, path) in [
            ("--topology", &self.topology),
            ("--identity", &self.identity),
            ("--data", &self.data),
        ] {
            command.arg(flag).arg(path);
        }
        for (flag, address) in [
            ("--listen", self.listen),
            ("--admin", self.admin),
            ("--dns", self.dns),
        ] {
            command.arg(flag).arg(address.to_string());
        }
        command.args(arguments);
        self.gateway = Some(Process::start(
            &format!("gateway {}", self.name),
            &mut command,
            &self.log,
        )?);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_found_by_zone_service_and_health() {
        let page = r#"{"items":[{"zone":"east","service":"orders","healthy":0},{"zone":"west","service":"orders","healthy":2}]}"#;
        assert!(has_export(page, "west", "orders"));
        assert!(!has_export(page, "east", "orders"));
        assert!(!has_export("nonsense", "west", "orders"));
    }
}
