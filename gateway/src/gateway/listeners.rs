//! Addresses that a gateway listens on for itself, and those of its zone's registry, where no instance can be; and the virtual ones.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use causeway_api::{admin::AdminAddress, registration::RegistrationServer};
use causeway_dns::{DnsServer, vips::VipTable};
use causeway_instances::attach::ServerAddress;
use causeway_routing::{reach::OwnListeners, snapshot::Snapshots};
use causeway_tunnel::Tunnels;
use tokio::sync::watch;

use super::{GatewayConfig, GatewayStartError, RegistryChoice, Storage, apis::Servers};

/// Addresses that were asked for, so that nothing is registered there before they are bound.
pub(super) fn configured(config: &GatewayConfig) -> BTreeSet<SocketAddr> {
    let admin = config.admin.iter();
    let addresses = admin
        .filter_map(|admin| tcp_address(&admin.listen))
        .chain(config.dns.listen.iter().copied())
        .chain(config.tls_listen.iter().copied())
        .chain(
            config
                .redirect_port
                .map(|port| (Ipv4Addr::LOCALHOST, port).into()),
        )
        .chain(config.registration.iter().map(|registration| registration.listen))
        .chain(registry(&config.registry));
    // A port that the kernel chooses is known once it is bound.
    addresses.filter(|address| address.port() != 0).collect()
}

/// Addresses of zone-sync processes; those that are given by name are not known.
fn registry(registry: &RegistryChoice) -> impl Iterator<Item = SocketAddr> {
    let servers: &[ServerAddress] = match registry {
        RegistryChoice::Shared { servers, .. } => servers,
        RegistryChoice::Embedded => &[],
    };
    servers.iter().filter_map(|server| match server {
        ServerAddress::Tcp { host, port } => Some(SocketAddr::new(host.parse().ok()?, *port)),
        ServerAddress::Unix(_) => None,
    })
}

fn tcp_address(address: &AdminAddress) -> Option<SocketAddr> {
    match address {
        AdminAddress::Tcp(address) => Some(*address),
        AdminAddress::Unix(_) => None,
    }
}

/// Addresses that are listened on once every part is up.
fn bound(tunnels: &Tunnels, servers: &Servers) -> Vec<SocketAddr> {
    let dns = servers.dns.as_ref();
    let dns = dns.map_or(&[] as &[SocketAddr], DnsServer::local_addrs);
    let admin = servers.admin.iter();
    let admin = admin.filter_map(|admin| tcp_address(admin.local_addr()));
    let others = dns.iter().copied().chain(admin);
    let registration = servers.registration.as_ref();
    let others = others.chain(registration.map(RegistrationServer::local_addr));
    others.chain([tunnels.local_addr()]).collect()
}

/// Adds them to what this process is known to listen on.
pub(super) fn tell_bound(listeners: &watch::Sender<OwnListeners>, tunnels: &Tunnels, servers: &Servers) {
    let bound = bound(tunnels, servers);
    listeners.send_modify(|own| Arc::make_mut(own).extend(bound));
}

/// Opens the table of virtual addresses that clients connect to.
pub(super) fn open_vips(
    config: &GatewayConfig,
    snapshots: &Snapshots,
) -> Result<Arc<VipTable>, GatewayStartError> {
    let vips = match &config.storage {
        Storage::Folder(folder) => VipTable::open(folder, SystemTime::now())?,
        Storage::Memory => VipTable::in_memory(),
    };
    let vips = vips.keep_former(config.keep_vips);
    // Once here, so that the listeners of a gateway that has just started are not late.
    if let Err(error) = vips.refresh(&snapshots.load(), SystemTime::now()) {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "virtual addresses are not complete"
        );
    }
    Ok(Arc::new(vips))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::ServerProof;

    #[test]
    fn where_the_registry_of_the_zone_is_no_instance_can_be() {
        let servers = [
            "127.0.0.1:7820",
            "[fd00::1]:7820",
            "sync.east.internal:7820",
            "unix:/run/a",
        ];
        let shared = RegistryChoice::Shared {
            servers: servers.map(|server| server.parse().unwrap()).into(),
            proof: ServerProof::Certificate,
        };
        let expected = ["127.0.0.1:7820", "[fd00::1]:7820"].map(|address| address.parse().unwrap());
        assert_eq!(registry(&shared).collect::<Vec<SocketAddr>>(), expected);
        assert_eq!(registry(&RegistryChoice::Embedded).count(), 0);
    }
}
