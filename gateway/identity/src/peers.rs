//! Other sides of this process's connections: until when each name has proven itself here, and how many connections were ended
//! because their other side was believed no more.
//!
//! A connection ends shortly after the certificate that it was opened with, unless its holder has shown a later one on another
//! connection meanwhile. So whoever renews keeps what it has open, and whoever cannot get a certificate any more loses it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use causeway_federation::edition::Edition;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::{LiveIdentity, SpiffeId, leaf};

/// Time after its certificate's end that a connection may stay: the next handshake of a name may be a moment late.
pub const AFTER_THE_END: Duration = Duration::from_secs(5);
/// Names of gateways whose latest handshake is remembered: more than the largest federation has.
const MAX_GATEWAYS: usize = 16_384;
/// Names of others: callers, and programs that use the APIs.
const MAX_OTHERS: usize = 16_384;
/// Longest time until the clock is looked at again: it may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Name on a certificate, and until when that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCertificate {
    /// SPIFFE id.
    pub holder: String,
    /// End of the first certificate of the chain that ends.
    pub until: SystemTime,
    /// Time from its beginning to its end.
    pub life: Duration,
}

impl ShownCertificate {
    /// Reads a chain, leaf first; `None` when it names nobody, or says no time.
    #[must_use]
    pub fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let first = chain.first()?;
        let holder = leaf::only_uri(&leaf::parse(first).ok()?).ok()?.to_owned();
        let ends: Option<Vec<_>> = chain.iter().map(leaf::end_of).collect();
        let until = ends?.into_iter().min()?;
        let life = until.duration_since(leaf::begin_of(first)?).unwrap_or_default();
        Some(Self { holder, until, life })
    }
}

/// Latest ends of certificates that were shown, by the holder's name.
#[derive(Debug, Default)]
struct Latest {
    gateways: BTreeMap<String, SystemTime>,
    others: BTreeMap<String, SystemTime>,
}

impl Latest {
    fn note(&mut self, shown: &ShownCertificate, now: SystemTime) {
        let (ends, limit) = match shown.holder.parse::<SpiffeId>() {
            Ok(_) => (&mut self.gateways, MAX_GATEWAYS),
            Err(_) => (&mut self.others, MAX_OTHERS),
        };
        if let Some(known) = ends.get_mut(&shown.holder) {
            *known = shown.until.max(*known);
            return;
        }
        if ends.len() >= limit {
            ends.retain(|_, until| *until >= now);
        }
        // One that finds no room loses its connections when their certificates end, and can come again.
        if ends.len() < limit {
            ends.insert(shown.holder.clone(), shown.until);
        }
    }

    fn of(&self, holder: &str) -> Option<SystemTime> {
        let known = self.gateways.get(holder).or_else(|| self.others.get(holder));
        known.copied()
    }
}

/// Memory of a process about the other sides of its connections.
#[derive(Debug)]
pub(super) struct Peers {
    latest: Mutex<Latest>,
    /// Connections ended since this trust document was taken up.
    ended: watch::Sender<(Edition, u64)>,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            latest: Mutex::default(),
            ended: watch::Sender::new((Edition::default(), 0)),
        }
    }
}

impl LiveIdentity {
    /// Remembers that the holder of a chain has shown it in a handshake that it completed.
    pub fn shook_hands(&self, chain: &[CertificateDer<'_>], now: SystemTime) {
        if let Some(shown) = ShownCertificate::of(chain) {
            self.peers.latest.lock().note(&shown, now);
        }
    }

    /// Time until which what `shown` was shown for may go on, before anything that is granted beyond that.
    #[must_use]
    pub fn proven_until(&self, shown: &ShownCertificate) -> SystemTime {
        let latest = self.peers.latest.lock().of(&shown.holder);
        latest.map_or(shown.until, |latest| latest.max(shown.until))
    }

    /// Waits until the certificates of a connection have ended a while ago and its other side has shown no later ones. Never, if
    /// that cannot be read from them.
    pub fn outlived(&self, chain: &[CertificateDer<'_>]) -> impl Future<Output = ()> + Send + 'static {
        let (this, shown) = (self.clone(), ShownCertificate::of(chain));
        async move {
            let Some(shown) = shown else {
                return std::future::pending().await;
            };
            loop {
                match (this.proven_until(&shown) + AFTER_THE_END).duration_since(SystemTime::now()) {
                    Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(LOOK_EVERY)).await,
                    _ => return,
                }
            }
        }
    }

    /// Counts connections that were ended because their other side is believed no more.
    pub fn ended(&self, connections: u64) {
        let edition = self.current().anchors().edition;
        self.peers.ended.send_modify(|(of, count)| {
            if *of != edition {
                (*of, *count) = (edition, 0);
            }
            *count += connections;
        });
    }

    /// Connections that were ended since the trust document in force was taken up, now and whenever there are more.
    #[must_use]
    pub fn ended_count(&self) -> watch::Receiver<(Edition, u64)> {
        self.peers.ended.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn shown(holder: &str, until: u64) -> ShownCertificate {
        ShownCertificate {
            holder: holder.to_owned(),
            until: at(until),
            life: Duration::from_secs(10),
        }
    }

    #[test]
    fn the_latest_certificate_of_a_name_counts_and_no_other_name_does() {
        let mut latest = Latest::default();
        let (gateway, caller) = ("spiffe://a.b/zone/east/gateway/gw1", "spiffe://a.b/app/web");
        latest.note(&shown(gateway, 20), at(1));
        latest.note(&shown(gateway, 10), at(1));
        latest.note(&shown(caller, 30), at(1));
        assert_eq!(latest.of(gateway), Some(at(20)));
        assert_eq!(latest.of(caller), Some(at(30)));
        assert_eq!(latest.of("spiffe://a.b/zone/east/gateway/gw2"), None);
    }

    #[test]
    fn callers_without_end_take_no_room_from_gateways_and_ended_ones_make_room() {
        let mut latest = Latest::default();
        for nth in 0..MAX_OTHERS + 10 {
            latest.note(&shown(&format!("spiffe://a.b/app/{nth}"), 10), at(1));
        }
        assert_eq!(latest.others.len(), MAX_OTHERS);
        let gateway = "spiffe://a.b/zone/east/gateway/gw1";
        latest.note(&shown(gateway, 20), at(1));
        assert_eq!(latest.of(gateway), Some(at(20)));
        latest.note(&shown("spiffe://a.b/app/late", 40), at(11));
        assert_eq!(latest.others.len(), 1);
    }
}
