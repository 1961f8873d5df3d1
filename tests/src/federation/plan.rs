//! The plan of a federation: zones, services and instances, and the topology file that says so.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use anyhow::Context;

use super::{Federation, TRUST_DOMAIN};
use crate::{address::Block, authority::Authority, link::Network};

/// Plan of a federation.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub(super) zones: Vec<ZonePlan>,
    services: Vec<(String, String)>,
    permissions: String,
    bundles: String,
    linked: bool,
    pub(super) applied: bool,
    pub(super) callers: bool,
    pub(super) arguments: Vec<String>,
    pub(super) descriptors: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct ZonePlan {
    pub name: String,
    pub dials_only: bool,
    trust_domain: Option<String>,
    tags: String,
    instances: String,
    /// Of its gateway, where it has others than the rest.
    pub descriptors: Option<u64>,
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

    /// The zone that was added last is of another trust domain.
    #[must_use]
    pub fn trust_domain(mut self, name: &str) -> Self {
        self.last().trust_domain = Some(name.to_owned());
        self
    }

    /// The bundle of a trust domain: certificates, PEM.
    #[must_use]
    pub fn bundle(mut self, trust_domain: &str, pem: &str) -> Self {
        let pem = pem.trim_end().replace('\n', "\n      ");
        let _ = writeln!(self.bundles, "  {trust_domain}:\n    bundle: |\n      {pem}");
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

    /// `permissions` of the topology, as the inside of a YAML mapping: `default: deny`.
    #[must_use]
    pub fn permissions(mut self, inside: &str) -> Self {
        self.permissions = format!("permissions: {{ {inside} }}\n");
        self
    }

    /// All tunnels run through the emulated link.
    #[must_use]
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// The topology files are only what the gateways start from; what is applied rules.
    #[must_use]
    pub fn ruled_by_applied(mut self) -> Self {
        self.applied = true;
        self
    }

    /// Every gateway takes callers with certificates.
    #[must_use]
    pub fn takes_callers(mut self) -> Self {
        self.callers = true;
        self
    }

    /// A further argument for every gateway.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Every gateway has so many descriptors.
    #[must_use]
    pub fn descriptors(mut self, limit: u64) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// The gateway of the zone that was added last has so many descriptors.
    #[must_use]
    pub fn own_descriptors(mut self, limit: u64) -> Self {
        self.last().descriptors = Some(limit);
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
    pub(super) fn topology(&self, block: &Block, gateways: &BTreeMap<String, SocketAddr>) -> String {
        let mut text =
            format!("version: 1\ntrust_domain: {TRUST_DOMAIN}\ndns: {{ domain: mesh, ttl: 5s }}\n");
        text.push_str(&self.permissions);
        if !self.bundles.is_empty() {
            // Whoever applies decides whose CA counts for which zone.
            let first = self.zones.first().map_or("east", |zone| zone.name.as_str());
            let _ = write!(text, "apply_from: [{first}]\ntrust_domains:\n{}", self.bundles);
        }
        text.push_str("\nzones:\n");
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
            if let Some(trust_domain) = &zone.trust_domain {
                let _ = writeln!(text, "    trust_domain: {trust_domain}");
            }
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
