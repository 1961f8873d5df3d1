//! The TCP connections of mesh DNS, and which of them gives way when there are too many: the one that has been without a
//! question for longest, so that whoever keeps connections open keeps nobody else out. Time is an argument.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use causeway_host::accept::host_of;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Most TCP connections at once.
pub(super) const MAX_CONNECTIONS: usize = 256;
/// Most of one host: all programs of this one are one.
pub(super) const MAX_CONNECTIONS_OF_HOST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct TcpClients(Mutex<OpenClients>);

#[derive(Debug, Default)]
struct OpenClients {
    entered: u64,
    clients: BTreeMap<u64, OpenClient>,
}

#[derive(Debug)]
struct OpenClient {
    host: IpAddr,
    /// `None` while a question is being answered.
    idle_since: Option<Instant>,
    gives_way: CancellationToken,
}

/// Place of one connection. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct TcpClient {
    clients: Arc<TcpClients>,
    id: u64,
    /// Is cancelled when another connection takes the place.
    pub(super) gives_way: CancellationToken,
}

impl TcpClients {
    /// Takes a place, if need be that of the idlest connection: of the same host when that has its share. `None`: all of
    /// them have questions under way.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<TcpClient> {
        let host = host_of(address);
        let mut open = self.0.lock();
        let is_of_host = |client: &OpenClient| client.host == host;
        let of_host = open.clients.values().filter(|client| is_of_host(client)).count();
        let has_share = of_host < MAX_CONNECTIONS_OF_HOST;
        if !has_share || open.clients.len() >= MAX_CONNECTIONS {
            let idle = open.clients.iter().filter_map(|(id, client)| {
                let may_go = has_share || is_of_host(client);
                Some((client.idle_since.filter(|_| may_go)?, *id))
            });
            let (_, idlest) = idle.min()?;
            if let Some(client) = open.clients.remove(&idlest) {
                client.gives_way.cancel();
            }
        }
        let id = open.entered;
        open.entered += 1;
        let gives_way = CancellationToken::new();
        let client = OpenClient {
            host,
            idle_since: Some(now),
            gives_way: gives_way.clone(),
        };
        open.clients.insert(id, client);
        let clients = self.clone();
        Some(TcpClient {
            clients,
            id,
            gives_way,
        })
    }
}

impl TcpClient {
    /// Notes that a question is being answered (`None`), or since when one is waited for.
    pub(super) fn set_idle(&self, since: Option<Instant>) {
        if let Some(client) = self.clients.0.lock().clients.get_mut(&self.id) {
            client.idle_since = since;
        }
    }
}

impl Drop for TcpClient {
    fn drop(&mut self) {
        self.clients.0.lock().clients.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn enter(clients: &Arc<TcpClients>, address: &str, now: Instant) -> Option<TcpClient> {
        clients.enter(address.parse().unwrap(), now)
    }

    #[test]
    fn the_idlest_connection_of_a_crowded_host_gives_way_and_no_other_hosts() {
        let (clients, start) = (Arc::new(TcpClients::default()), Instant::now());
        let at = |second: usize| start + Duration::from_secs(second as u64);
        let other = enter(&clients, "10.0.0.9", start).unwrap();
        let held: Vec<TcpClient> = (0..MAX_CONNECTIONS_OF_HOST)
            .map(|second| enter(&clients, "127.0.0.1", at(second + 1)).unwrap())
            .collect();
        held[0].set_idle(None);
        held[1].set_idle(Some(at(100)));
        let _new = enter(&clients, "127.0.0.2", at(101)).unwrap();
        let gone: Vec<usize> = (0..held.len())
            .filter(|at| held[*at].gives_way.is_cancelled())
            .collect();
        assert_eq!(gone, [2], "0 has a question under way, and 1 had one lately");
        assert!(!other.gives_way.is_cancelled());
        held.iter().for_each(|client| client.set_idle(None));
        let newer = enter(&clients, "127.0.0.1", at(102)).unwrap();
        newer.set_idle(None);
        assert!(enter(&clients, "127.0.0.1", at(103)).is_none(), "all are busy");
        drop(newer);
        assert!(enter(&clients, "127.0.0.1", at(104)).is_some());
    }

    #[test]
    fn among_all_hosts_the_idlest_gives_way() {
        let (clients, start) = (Arc::new(TcpClients::default()), Instant::now());
        let held: Vec<TcpClient> = (0..MAX_CONNECTIONS)
            .map(|number| enter(&clients, &format!("10.0.0.{}", number / 2), start).unwrap())
            .collect();
        held[0].set_idle(Some(start + Duration::from_secs(1)));
        let _new = enter(&clients, "127.0.0.1", start + Duration::from_secs(2)).unwrap();
        assert!(!held[0].gives_way.is_cancelled() && held[1].gives_way.is_cancelled());
        assert_eq!(clients.0.lock().clients.len(), MAX_CONNECTIONS);
    }
}
