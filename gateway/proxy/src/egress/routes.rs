//! Routes of virtual addresses that share a socket at every address of the host: binding that one does not tell whether they
//! are routed here at all, so each is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use super::{
    EgressShared,
    bind::{BindError, BindFailure, advice},
    layout::Covered,
};

/// Time after which addresses that are not routed here are asked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Addresses that are asked for before the thread's other tasks have their turn.
const AT_ONCE: usize = 32;

/// Knowledge of one data thread about routes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Addresses that are this host's.
    here: BTreeSet<IpAddr>,
    /// Virtual addresses that are not, and were told.
    missing: BTreeSet<SocketAddr>,
}

impl Routes {
    /// Takes from `sockets` what clients cannot reach because it is not routed to this host, and tells of that.
    pub(super) async fn keep_routed(
        &mut self,
        shared: &EgressShared,
        sockets: &mut BTreeMap<SocketAddr, Covered>,
    ) {
        self.ask(sockets).await;
        let mut missing = BTreeMap::new();
        for covered in shared_by_all(sockets) {
            covered.retain(|address, binding| {
                let is_here = self.here.contains(&address.ip());
                if !is_here {
                    missing.insert(*address, binding.to_string());
                }
                is_here
            });
        }
        sockets.retain(|_, covered| !covered.is_empty());
        self.tell(shared, missing);
    }

    /// Waits until routes are to be looked at again; for ever if none is missing.
    pub(super) async fn look_again(&self) {
        match self.missing.is_empty() {
            true => std::future::pending().await,
            false => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }

    /// Takes back what was told.
    pub(super) fn forget(&mut self, shared: &EgressShared) {
        self.tell(shared, BTreeMap::new());
    }

    async fn ask(&mut self, sockets: &mut BTreeMap<SocketAddr, Covered>) {
        let wanted: BTreeSet<IpAddr> = shared_by_all(sockets)
            .flat_map(|covered| covered.keys().map(SocketAddr::ip))
            .collect();
        self.here.retain(|ip| wanted.contains(ip));
        for (number, ip) in wanted.into_iter().enumerate() {
            if !self.here.contains(&ip) && is_routed_here(ip) {
                self.here.insert(ip);
            }
            if number % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn tell(&mut self, shared: &EgressShared, missing: BTreeMap<SocketAddr, String>) {
        let listening = &shared.config.listening;
        let mut failures = shared.bind_failures.lock();
        for found in self
            .missing
            .iter()
            .filter(|address| !missing.contains_key(address))
        {
            failures.remove(found);
            listening.given_up(*found);
        }
        let error = BindError::System(io::ErrorKind::AddrNotAvailable.into());
        let new = missing
            .iter()
            .filter(|(address, _)| !self.missing.contains(address));
        let new: Vec<_> = new.collect();
        for (address, serves) in &new {
            let failure = BindFailure {
                address: **address,
                serves: (*serves).clone(),
                error: error.to_string(),
                advice: advice(&error),
                lacks_descriptors: false,
                since: Instant::now(),
            };
            failures.insert(**address, failure);
            listening.failed(**address);
        }
        if let Some((address, serves)) = new.first() {
            let count = new.len();
            tracing::warn!(%address, serves, count, advice = advice(&error),
                "virtual addresses are not routed to this host; they are looked at again");
        }
        self.missing = missing.into_keys().collect();
    }
}

/// Tells whether connections to `ip` come to this host, as far as the kernel says it: of IPv6 addresses that are routed here, but
/// of no interface, it does not.
fn is_routed_here(ip: IpAddr) -> bool {
    let bound = UdpSocket::bind((ip, 0));
    ip.is_ipv6() || !bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Lists the virtual addresses of the sockets that are bound to every address of the host.
fn shared_by_all(sockets: &mut BTreeMap<SocketAddr, Covered>) -> impl Iterator<Item = &mut Covered> {
    let shared = sockets
        .iter_mut()
        .filter(|(socket, _)| socket.ip().is_unspecified());
    shared.map(|(_, covered)| covered)
}
