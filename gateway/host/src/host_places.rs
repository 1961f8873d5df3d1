//! Places that hosts have in something that is over soon, such as a handshake: so many each, and whoever comes beyond is turned away.

use std::{net::IpAddr, sync::Arc};

use parking_lot::Mutex;

use crate::share::{ShareHolder, ShareTable};

/// Places that are taken, by host.
#[derive(Debug, Clone, Default)]
pub struct HostPlaces(Arc<Mutex<ShareTable>>);

/// Place of one host. It is free again when this is dropped.
#[derive(Debug)]
pub struct HostPlace {
    taken: HostPlaces,
    host: ShareHolder,
}

impl HostPlaces {
    /// Counts the places of the host that `address` is of.
    #[must_use]
    pub fn taken(&self, address: IpAddr) -> usize {
        let taken = self.0.lock().held_by(&ShareHolder::at(address));
        usize::try_from(taken).unwrap_or(usize::MAX)
    }

    /// Takes one of `most` places of the host that `address` is of; `None`: all are taken.
    #[must_use]
    pub fn take(&self, address: IpAddr, most: usize) -> Option<HostPlace> {
        let host = ShareHolder::at(address);
        let mut taken = self.0.lock();
        if taken.held_by(&host) >= most as u64 {
            return None;
        }
        taken.add(&host);
        drop(taken);
        let taken = self.clone();
        Some(HostPlace { taken, host })
    }
}

impl Drop for HostPlace {
    fn drop(&mut self) {
        self.taken.0.lock().give_back(&self.host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_so_many_places() {
        let places = HostPlaces::default();
        let take = |address: &str| places.take(address.parse().unwrap(), 1);
        let first = take("2001:db8::1");
        assert!(first.is_some() && take("2001:db8::2").is_none() && take("2001:db8:1::1").is_some());
        assert_eq!(places.taken("2001:db8::3".parse().unwrap()), 1);
        drop(first);
        assert_eq!(places.taken("2001:db8::3".parse().unwrap()), 0);
        assert!(take("2001:db8::2").is_some());
    }
}
