//! The order in which upstreams are asked. Pure: time is an argument.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Time for which an upstream that did not answer is asked only after all the others.
const SKIP_FOR: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Upstream {
    address: SocketAddr,
    skipped_until: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Upstreams {
    all: Vec<Upstream>,
}

impl Upstreams {
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        let all = addresses.into_iter().map(|address| Upstream {
            address,
            skipped_until: None,
        });
        Self { all: all.collect() }
    }

    /// As configured, those that failed lately last.
    pub(super) fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let is_skipped = |upstream: &&Upstream| upstream.skipped_until.is_some_and(|until| until > now);
        let (skipped, good): (Vec<&Upstream>, Vec<&Upstream>) = self.all.iter().partition(is_skipped);
        good.into_iter()
            .chain(skipped)
            .map(|upstream| upstream.address)
            .collect()
    }

    pub(super) fn failed(&mut self, address: SocketAddr, now: Instant) {
        self.set(address, Some(now + SKIP_FOR));
    }

    pub(super) fn worked(&mut self, address: SocketAddr) {
        self.set(address, None);
    }

    fn set(&mut self, address: SocketAddr, skipped_until: Option<Instant>) {
        let found = self.all.iter_mut().find(|upstream| upstream.address == address);
        if let Some(upstream) = found {
            upstream.skipped_until = skipped_until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_that_failed_is_asked_last_for_a_while() {
        let (a, b): (SocketAddr, SocketAddr) =
            ("10.0.0.1:53".parse().unwrap(), "10.0.0.2:53".parse().unwrap());
        let (mut upstreams, now) = (Upstreams::new(vec![a, b]), Instant::now());
        assert_eq!(upstreams.order(now), [a, b]);
        upstreams.failed(a, now);
        assert_eq!(upstreams.order(now), [b, a]);
        assert_eq!(upstreams.order(now + SKIP_FOR), [a, b]);
        upstreams.failed(b, now);
        assert_eq!(
            upstreams.order(now),
            [a, b],
            "with all of them down, all are asked"
        );
        upstreams.worked(b);
        assert_eq!(upstreams.order(now), [b, a]);
    }
}
