//! A federation of real gateway processes on loopback: each zone with an address, an identity, a data folder, a
//! topology file and a log of its own.
//!
//! With [`Plan::linked`] every tunnel runs through the emulated link. Each zone then has its own topology file, which
//! differs from the others in the gateways' addresses alone, so that each pair of zones can be cut by itself.

mod plan;
mod zone;

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, time::Duration};

use tempfile::TempDir;

use crate::{
    address::Block,
    authority::{Authority, Leaf, Validity, write_identity},
    dns, http,
    link::Network,
    process,
    wait::{until, until_true},
};

pub use plan::Plan;
pub use zone::Zone;

/// The trust domain of every test federation.
pub const TRUST_DOMAIN: &str = "test.internal";
/// Longest time for a gateway to come up, or for news to reach another zone, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Word of a gateway of which another process has taken the place.
const SUCCEEDED: &str = "the successor serves";
/// First port of the fronts of the emulated link.
const FRONT_PORT: u16 = 7900;

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

    /// Addresses of each zone's gateway, as one zone shall see it.
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

    /// Range of virtual addresses that nobody else has; the zones of the plan have the first ones.
    #[must_use]
    pub fn virtual_range(&self, number: u8) -> String {
        self.block.virtual_range(number)
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
        let mut arguments = self.plan.arguments.clone();
        if self.plan.callers {
            arguments.extend(["--tls-listen".to_owned(), self.zone(name).callers.to_string()]);
        }
        let topology = match self.plan.applied {
            true => "--initial-topology",
            false => "--topology",
        };
        let zone = self.plan.zones.iter().find(|zone| zone.name == name);
        let own = zone.and_then(|zone| zone.descriptors);
        let descriptors = own.or(self.plan.descriptors);
        self.zone_mut(name).start(topology, &arguments, descriptors)
    }

    /// Starts another process for the gateway of a zone, which takes over from the one that runs; waits until it serves.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn succeed_zone(&mut self, name: &str) -> anyhow::Result<()> {
        let flag = "--take-over".to_owned();
        let zone = self.zone_mut(name);
        zone.arguments.push(flag.clone());
        let before = zone.log().matches(SUCCEEDED).count();
        let started = self.start_zone(name);
        self.zone_mut(name).arguments.retain(|argument| *argument != flag);
        started?;
        let zone = self.zone(name);
        let what = format!("the gateway of {name} is succeeded");
        until_true(&what, PATIENCE, async || {
            zone.log().matches(SUCCEEDED).count() > before
        })
        .await;
        Ok(())
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

    /// Explanation by `causeway explain` at a zone; it ends with another code than 0 where nobody can serve a request.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn explained(&self, zone: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let admin = self.zone(zone).admin.to_string();
        let arguments = [&["explain", "--admin", &admin], arguments].concat();
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        // Load that goes on meanwhile is not held up.
        tokio::task::spawn_blocking(|| process::said(arguments)).await?
    }

    /// Address that a client in `zone` connects to for a service: what its DNS says, and the service's port.
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

/// Tells whether the JSON list of exports has healthy instances of `service` in `zone`.
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
