//! Taking a gateway apart: tell the peers, and let what is open finish until a deadline; whoever comes meanwhile is served. Then
//! stop accepting, force the rest and say what was cut.

use std::{
    pin::pin,
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime},
};

use causeway_api::{admin::Admin, registration::RegistrationServer};
use causeway_dns::DnsServer;
use causeway_proxy::open::OpenConnection;
use futures_util::future::{OptionFuture, join_all};

use super::{Gateway, history};

/// Most cut connections that are named in the log, one line each; the rest are counted.
const MAX_NAMED: usize = 100;
/// Time that clients may take to finish who came during the drain, once nobody is accepted any more. Each is one that would be refused
/// for as long, so it is what an exchange takes and not what a connection may.
const LATE_CLIENTS: Duration = Duration::from_millis(500);

/// Longest time that a shutdown waits, once it has cut what is left, until those at the other ends have been told.
const CUT_MAY_TAKE: Duration = Duration::from_secs(1);

/// Connections that a shutdown cut.
#[derive(Debug)]
pub struct Cut {
    /// Connections that had not ended by the deadline, oldest first.
    pub connections: Vec<OpenConnection>,
}

/// Time in which a client of HTTP that asks for something is told to come back on a new connection; then it is closed.
pub(super) const CLIENTS_MAY_ASK: Duration = Duration::from_secs(1);

impl Gateway {
    /// Ends the gateway: drains for at most `longest`, or until `force` resolves, and then cuts what is left.
    pub async fn shutdown(self, longest: Duration, force: impl Future<Output = ()>) -> Cut {
        tracing::info!(gateway = %self.id, ?longest, open = self.open(), "draining");
        let begun = Instant::now();
        let mut force = pin!(force);
        self.drain(longest);
        let is_forced = tokio::select! {
            () = self.drained() => false,
            () = tokio::time::sleep(longest) => {
                tracing::warn!("the drain deadline has passed");
                false
            }
            () = &mut force => {
                tracing::warn!("told to end at once");
                true
            }
        };
        let left = longest.saturating_sub(begun.elapsed()).min(LATE_CLIENTS);
        self.egress.close();
        self.egress.closed().await;
        if !is_forced {
            tokio::select! {
                () = self.emptied() => {}
                () = tokio::time::sleep(left) => {}
                () = force => {}
            }
        }
        let cut = self.cut().await;
        self.end().await;
        cut
    }

    /// Tells every peer, and clients that can come back; what is open goes on, and whoever comes is served.
    fn drain(&self, longest: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        // Tasks that take new work end from here on.
        self.background.tasks().stop();
        self.zone_sync.set_draining(true);
        self.tunnels.drain(longest);
        self.ingress.drain();
        self.egress.drain(CLIENTS_MAY_ASK);
    }

    pub(super) fn open(&self) -> usize {
        self.egress.open_connections().count() + self.ingress.open_connections().count()
    }

    /// Waits until nothing is open that was when the drain began.
    async fn drained(&self) {
        let (egress, ingress) = (self.egress.open_connections(), self.ingress.open_connections());
        tokio::join!(egress.drained(), ingress.drained());
    }

    pub(super) async fn emptied(&self) {
        let (egress, ingress) = (self.egress.open_connections(), self.ingress.open_connections());
        while self.open() > 0 {
            tokio::join!(egress.emptied(Duration::MAX), ingress.emptied(Duration::MAX));
        }
    }

    /// Cuts what is open, and waits, for a bounded time, until clients and peers have been told.
    pub(super) async fn cut(&self) -> Cut {
        let mut connections = self.egress.open_connections().list();
        connections.extend(self.ingress.open_connections().list());
        for connection in connections.iter().take(MAX_NAMED) {
            tracing::warn!(
                connection = %connection.id,
                role = connection.role.word(),
                service = %connection.service,
                client = connection.client.map(tracing::field::display),
                peer = connection.peer.as_ref().map(tracing::field::display),
                open_for = ?connection.since.elapsed(),
                "cut a connection"
            );
        }
        if let Some(more @ 1..) = connections.len().checked_sub(MAX_NAMED) {
            tracing::warn!(more, "cut more connections");
        }
        self.egress.cut();
        self.ingress.cut();
        // The end of a tunnel, or of a thread, would overtake the word.
        let _ = tokio::time::timeout(CUT_MAY_TAKE, self.emptied()).await;
        Cut { connections }
    }

    pub(super) async fn end(mut self) {
        // Tunnels that go from here on are no news.
        self.background.hand_over();
        self.history
            .note(SystemTime::now(), history::ended(&self.id, false));
        self.history.close().await;
        self.background.stop();
        let (dns, registration) = (self.dns.take(), self.registration.take());
        let admin = std::mem::take(&mut self.admin);
        let servers = async {
            tokio::join!(
                OptionFuture::from(dns.map(DnsServer::shutdown)),
                OptionFuture::from(registration.map(RegistrationServer::shutdown)),
                join_all(admin.into_iter().map(Admin::shutdown)),
                self.background.ended(),
            );
            tokio::join!(self.instances.shutdown(), self.zone_sync.shutdown());
        };
        let redirect = async {
            // A successor goes on with it.
            if !self.is_succeeded {
                self.egress.remove_redirect().await;
            }
        };
        // Side by side: nobody is accepted until the next process has started.
        tokio::join!(self.tunnels.close(), redirect, servers);
        let threads = std::mem::take(&mut self.threads);
        if tokio::task::spawn_blocking(move || threads.stop()).await.is_err() {
            tracing::error!("the data threads could not be ended");
        }
        // No span is under way any more.
        if let Some(otlp) = self.otlp.take() {
            otlp.close().await;
        }
        tracing::info!(gateway = %self.id, "the gateway has ended");
    }
}
