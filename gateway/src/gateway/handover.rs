//! Leaving the place to a successor: everything that one process has at a time changes hands at one moment, and this process
//! finishes what it holds.

use std::{
    os::unix::net::UnixDatagram,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use causeway_api::{admin::Admin, registration::RegistrationServer};
use causeway_federation::registry::InstanceKey;
use causeway_host::handed::AnySocket;
use causeway_instances::KnownHealth;
use causeway_routing::snapshot::Health;
use causeway_tunnel::Succession;
use futures_util::future::{OptionFuture, join_all};

use super::{Cut, Gateway};

/// Longest time that calls of the gateway's own APIs may take to finish while new clients wait for the successor.
const CALLS_MAY_TAKE: Duration = Duration::from_millis(250);

impl Gateway {
    /// Describes what a successor is to know before it takes over.
    #[must_use]
    pub fn succession(&self) -> Succession {
        self.tunnels.succession()
    }

    /// Sockets that a successor is to have.
    #[must_use]
    pub fn sockets(&self) -> Vec<Arc<AnySocket>> {
        self.handed.own()
    }

    /// Number of data threads, each of which reads one socket of the tunnels.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.handles().len()
    }

    /// The moment of a hand-over: stops accepting and speaking, and closes the files. `relay` is where the successor sends what is still
    /// for this process. Returns what is known of the instances' health.
    pub async fn let_go(&mut self, relay: UnixDatagram) -> KnownHealth {
        tracing::info!(gateway = %self.id, open = self.open(), "a successor takes over");
        self.is_succeeded = true;
        self.draining.store(true, Ordering::Relaxed);
        self.background.hand_over();
        self.egress.close();
        self.ingress.drain();
        self.egress.drain();
        if let Some(dns) = &self.dns {
            dns.hand_over();
        }
        let health = self.known_health();
        let registration = self.registration.take();
        let admin = std::mem::take(&mut self.admin);
        let calls = async {
            tokio::join!(
                OptionFuture::from(registration.map(RegistrationServer::shutdown)),
                join_all(admin.into_iter().map(Admin::shutdown)),
            )
        };
        // Who has not finished by then is cut: new clients wait meanwhile.
        let _ = tokio::time::timeout(CALLS_MAY_TAKE, calls).await;
        self.egress.closed().await;
        tokio::join!(self.instances.shutdown(), self.zone_sync.shutdown());
        self.vips.let_go();
        if let Some(applied) = self.topology.applied().cloned() {
            // It waits for a write that is under way.
            let letting_go = tokio::task::spawn_blocking(move || applied.let_go());
            if letting_go.await.is_err() {
                tracing::error!("the file of applied topologies may not be closed");
            }
        }
        self.tunnels.hand_over(relay);
        health
    }

    /// Finishes what is open once a successor has taken over: waits for at most `longest`, or until `force` resolves, and cuts what is
    /// left.
    pub async fn finish(self, longest: Duration, force: impl Future<Output = ()>) -> Cut {
        let force = pin!(force);
        tokio::select! {
            () = self.emptied() => {}
            () = tokio::time::sleep(longest) => tracing::warn!("the drain deadline has passed"),
            () = force => tracing::warn!("told to end at once"),
        }
        let cut = self.cut();
        self.end().await;
        cut
    }

    fn known_health(&self) -> KnownHealth {
        let published = self.instances.subscribe();
        let published = published.borrow();
        let instances = published.values().flat_map(|list| list.iter());
        let known = instances.filter(|instance| instance.health != Health::Unknown);
        known
            .map(|instance| {
                let key = InstanceKey {
                    service: instance.service.clone(),
                    id: instance.id.clone(),
                };
                (key, instance.health)
            })
            .collect()
    }
}
