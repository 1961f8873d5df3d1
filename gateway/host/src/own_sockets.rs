//! TCP connections that this process itself has opened to instances. One of them may come back to a listener of the same
//! process, over whatever stands in between; by this table it is known again, and how many gateways it has come through.
//!
//! A connection is known by both of its ends. One whose addresses are translated on the way is not known again.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::net::TcpStream;

/// Parts of the table with a lock each, so that data threads rarely wait for each other.
const SHARDS: usize = 16;
/// Offset basis and prime of the 64-bit FNV-1a hash.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Both ends of a TCP connection in one number: equal at both of them, and in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketPair(u64);

impl SocketPair {
    /// `client` is the end that connected.
    #[must_use]
    pub fn new(client: SocketAddr, server: SocketAddr) -> Self {
        let mut hash = FNV_OFFSET;
        for end in [client, server] {
            let (bytes, length) = octets(end.ip().to_canonical());
            let port = end.port().to_be_bytes();
            for byte in bytes[..length].iter().chain(&port) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
            }
        }
        Self(hash)
    }

    /// Reads it off a message, where 0 stands for none.
    #[must_use]
    pub fn told(bits: u64) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }

    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }
}

fn octets(ip: IpAddr) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(ip) => {
            bytes[..4].copy_from_slice(&ip.octets());
            (bytes, 4)
        }
        IpAddr::V6(ip) => (ip.octets(), 16),
    }
}

type Shard = Mutex<HashMap<SocketPair, u8>>;

/// Table of the connections that this process has opened to instances. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct OwnSockets(Arc<[Shard; SHARDS]>);

/// Place of one connection in the table, for as long as this lives; give it up before the socket is closed.
#[derive(Debug)]
pub struct OwnSocket {
    table: OwnSockets,
    pair: SocketPair,
}

impl OwnSockets {
    /// Enters a connection that this process opened, which has come through so many gateways, before a byte of anybody else's
    /// is written to it.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn enter(&self, socket: &TcpStream, hops: u8) -> io::Result<OwnSocket> {
        let pair = SocketPair::new(socket.local_addr()?, socket.peer_addr()?);
        self.shard(pair).insert(pair, hops);
        let table = self.clone();
        Ok(OwnSocket { table, pair })
    }

    /// Number of gateways that a connection has come through; `None`: this process did not open it.
    #[must_use]
    pub fn hops(&self, pair: SocketPair) -> Option<u8> {
        self.shard(pair).get(&pair).copied()
    }

    fn shard(&self, pair: SocketPair) -> MutexGuard<'_, HashMap<SocketPair, u8>> {
        // The upper bits, as the map goes by the lower ones; the remainder is below the number of shards.
        let shard = (pair.0 >> 48) as usize % SHARDS;
        self.0[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        let mut shard = self.table.shard(self.pair);
        shard.remove(&self.pair);
        if shard.is_empty() {
            shard.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_known_at_its_other_end_for_as_long_as_it_is_entered() {
        let own = OwnSockets::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let opened = TcpStream::connect(at).await.unwrap();
        let (accepted, from) = listener.accept().await.unwrap();
        let pair = SocketPair::new(from, accepted.local_addr().unwrap());
        assert_eq!(own.hops(pair), None);
        let entered = own.clone().enter(&opened, 3).unwrap();
        assert_eq!(own.hops(pair), Some(3));
        assert_eq!(own.hops(SocketPair::new(at, from)), None);
        drop(entered);
        assert_eq!(own.hops(pair), None);
    }

    #[test]
    fn a_pair_is_equal_however_its_addresses_are_written_and_in_every_version() {
        let pair = |client: &str, server: &str| {
            SocketPair::new(client.parse().unwrap(), server.parse().unwrap()).bits()
        };
        let plain = pair("127.0.0.1:40000", "127.64.0.1:80");
        assert_eq!(plain, pair("[::ffff:127.0.0.1]:40000", "127.64.0.1:80"));
        assert_ne!(plain, pair("127.0.0.1:40001", "127.64.0.1:80"));
        assert_eq!(plain, 0x8ee1_7f27_0045_f5b1);
    }
}
