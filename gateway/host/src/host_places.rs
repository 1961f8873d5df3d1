//! Places that hosts have in something that is over soon, such as a handshake: so many each, and whoever comes beyond is turned away.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::share::host_of;

/// Places that are taken, by host.
#[derive(Debug, Clone, Default)]
pub struct HostPlaces(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// Place of one host. It is free again when this is dropped.
#[derive(Debug)]
pub struct HostPlace {
    taken: HostPlaces,
    host: IpAddr,
}

impl HostPlaces {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the places of the host that `address` is of.
    #[must_use]
    pub fn taken(&self, address: IpAddr) -> usize {
        self.lock().get(&host_of(address)).copied().unwrap_or_default()
    }

    /// Takes one of `most` places of the host that `address` is of; `None`: all are taken.
    #[must_use]
    pub fn take(&self, address: IpAddr, most: usize) -> Option<HostPlace> {
        let host = host_of(address);
        let mut all = self.lock();
        let count = all.entry(host).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        let taken = self.clone();
        Some(HostPlace { taken, host })
    }
}

impl Drop for HostPlace {
    fn drop(&mut self) {
        let mut all = self.taken.lock();
        if let Some(count) = all.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.host);
            }
        }
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
