//! Taking a gateway apart: stop accepting, tell the peers, let connections finish until a deadline, then force the rest
//! and say what was cut.

use std::{sync::atomic::Ordering, time::Duration};

use causeway_proxy::open::OpenConnection;

use super::Gateway;

/// Most cut connections that are named in the log, one line each; the rest are counted.
const MAX_NAMED: usize = 100;

/// Connections that a shutdown cut.
#[derive(Debug)]
pub struct Cut {
    /// Connections that had not ended by the deadline, oldest first.
    pub connections: Vec<OpenConnection>,
}

impl Gateway {
    /// Ends the gateway: drains for at most `longest`, or until `force` resolves, and then cuts what is left.
    pub async fn shutdown(self, longest: Duration, force: impl Future<Output = ()>) -> Cut {
        tracing::info!(gateway = %self.id, ?longest, open = self.open(), "draining");
        self.drain(longest);
        tokio::select! {
            () = self.emptied() => {}
            () = tokio::time::sleep(longest) => tracing::warn!("the drain deadline has passed"),
            () = force => tracing::warn!("told to end at once"),
        }
        let cut = self.cut();
        self.end().await;
        cut
    }

    /// Stops accepting and tells every peer; what is open goes on.
    fn drain(&self, longest: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        // Tasks that take new work end from here on.
        self.background.tasks().stop();
        self.zone_sync.set_draining(true);
        self.tunnels.drain(longest);
        self.ingress.drain();
        self.egress.drain();
    }

    fn open(&self) -> usize {
        self.egress.open_connections().count() + self.ingress.open_connections().count()
    }

    async fn emptied(&self) {
        let (egress, ingress) = (self.egress.open_connections(), self.ingress.open_connections());
        while self.open() > 0 {
            tokio::join!(egress.emptied(Duration::MAX), ingress.emptied(Duration::MAX));
        }
    }

    fn cut(&self) -> Cut {
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
        Cut { connections }
    }

    async fn end(mut self) {
        self.tunnels.close().await;
        self.background.stop();
        if let Some(dns) = self.dns.take() {
            dns.shutdown().await;
        }
        for admin in std::mem::take(&mut self.admin) {
            admin.shutdown().await;
        }
        if let Some(registration) = self.registration.take() {
            registration.shutdown().await;
        }
        self.background.ended().await;
        self.egress.remove_redirect().await;
        self.instances.shutdown().await;
        self.zone_sync.shutdown().await;
        let threads = std::mem::take(&mut self.threads);
        if tokio::task::spawn_blocking(move || threads.stop()).await.is_err() {
            tracing::error!("the data threads could not be ended");
        }
        tracing::info!(gateway = %self.id, "the gateway has ended");
    }
}
