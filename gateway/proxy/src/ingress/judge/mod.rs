//! Looks at the requests on a stream of another zone, one by one: at what they say of the caller's certificate, and at whether it may
//! make them where its permissions depend on that.
//!
//! The calling gateway has asked the same question; this is the answer that counts. Bytes of HTTP/1.1 pass as they came (`heads`), HTTP/2
//! is read and written anew (`calls`). None of this is between the stream and its instance where that speaks no HTTP.

use std::{sync::Arc, time::Instant};

use causeway_federation::{
    name::{CallerIdentity, GatewayId, ServiceName, Tags},
    topology::Protocol,
};
use causeway_host::own_sockets::OwnSocket;
use causeway_routing::{
    callers::{FoundCaller, How},
    permit::{Caller, Permission, RequestLine, Rule, decide, judged_by},
};
use causeway_telemetry::{AccessRecord, ConnectionOutcome, Role, StreamRefusal};
use causeway_tunnel::{RecvHalf, SendHalf};
use tokio::{io::duplex, net::TcpStream};
use tokio_util::sync::CancellationToken;

use super::IngressShared;
use crate::{
    open::{ConnectionHandle, OpenConnectionGuard, UpgradeRequest},
    relay::{self, RelayCounters, RelayLimits, Relayed},
};

mod calls;
mod head;
mod heads;
#[cfg(test)]
mod hostile_tests;
mod piped;
#[cfg(test)]
mod tests;

use heads::JudgedSocket;
use piped::{KnownSocket, PipedSocket};

/// Bytes of calls on their way between a stream and what reads them.
const PIPE_BYTES: usize = 64 * 1024;

/// Answers whether requests may pass.
pub(super) trait JudgesRequests: Send + Sync + 'static {
    /// `path` is as it is written, without the query. The error is what the request comes to.
    fn judge(&self, method: &str, path: &str) -> Result<(), ConnectionOutcome>;

    /// Identity of the caller's certificate, if it showed one.
    fn identity(&self) -> Option<&str>;

    /// The connection has left HTTP with this request, which was permitted.
    fn upgraded(&self, request: UpgradeRequest);
}

/// Judge of the requests on one stream, by the topology that is in force at each.
pub(super) struct RequestJudge {
    shared: Arc<IngressShared>,
    handle: Arc<ConnectionHandle>,
    service: ServiceName,
    caller: Arc<Caller>,
    peer: GatewayId,
    is_grpc: bool,
    /// Another stream had the instance's connection before.
    is_warm: bool,
}

impl RequestJudge {
    /// `None`: whatever the caller asks for, it may, and its requests are none of HTTP.
    pub(super) fn of(
        shared: &Arc<IngressShared>,
        service: &ServiceName,
        opened: &OpenConnectionGuard,
        peer: &GatewayId,
        is_warm: bool,
    ) -> Option<Self> {
        let caller = opened.handle().caller()?.caller;
        let snapshot = shared.snapshots.load();
        let port = opened.handle().connection.port.as_ref();
        // Of a port that has just gone nothing passes that was not looked at, either.
        let port = snapshot.topology.port_of(service, port);
        if judged_by(&snapshot.topology, &caller, service).is_some() {
            opened.handle().set_judged();
        } else if !port.is_some_and(|port| port.protocol.is_http()) {
            return None;
        }
        Some(Self {
            shared: shared.clone(),
            handle: opened.shared_handle(),
            service: service.clone(),
            caller,
            peer: peer.clone(),
            is_grpc: port.is_some_and(|port| port.protocol == Protocol::Grpc),
            is_warm,
        })
    }

    /// Relays as [`relay::stream`] does, with a look at each request. Gives back the connection to the instance if the next stream may
    /// have it as far as can be seen here.
    pub(super) async fn relay(
        self,
        (own, socket): (OwnSocket, TcpStream),
        (send, recv): (&mut SendHalf, &mut RecvHalf),
        counters: RelayCounters,
        limits: RelayLimits,
        cut: &CancellationToken,
    ) -> (Relayed, Option<(OwnSocket, TcpStream)>) {
        if !self.is_grpc {
            let (is_warm, is_judged) = (self.is_warm, self.handle.is_judged());
            let mut judged = JudgedSocket::new(socket, self, !is_warm);
            let relayed = relay::stream(&mut judged, send, recv, counters, limits, cut).await;
            // Whether all requests that are judged were answered is for nobody else to say: nothing of them is lent on.
            if !is_judged && judged.is_whole() {
                return (relayed, Some((own, judged.into_inner())));
            }
            drop((own, judged));
            return (relayed, None);
        }
        let (near, far) = duplex(PIPE_BYTES);
        let mut near = PipedSocket(near);
        let mut relaying = std::pin::pin!(relay::stream(&mut near, send, recv, counters, limits, cut));
        tokio::select! {
            biased;
            relayed = relaying.as_mut() => return (relayed, None),
            () = calls::serve(far, KnownSocket { own, socket }, Arc::new(self), cut) => {}
        }
        // The calls are over, and the rest of what was said of them is on its way.
        (relaying.await, None)
    }

    fn refuse(&self, found: &FoundCaller, rule: Rule) -> ConnectionOutcome {
        let (now, connection) = (Instant::now(), self.handle.connection.id);
        self.shared
            .reports
            .refused(now, connection, found, &self.service, &rule);
        let outcome = ConnectionOutcome::refused_here(StreamRefusal::Forbidden);
        self.shared.access.write(&AccessRecord {
            role: Role::Ingress,
            service: self.service.clone(),
            port: self.handle.connection.port.clone(),
            tags: Tags::default(),
            client: None,
            from_zone: self.peer.zone.clone(),
            to_zone: None,
            peer: Some(self.peer.clone()),
            instance: None,
            outcome,
            attempts: 1,
            ready_after: None,
            duration: now.elapsed(),
            bytes_up: 0,
            bytes_down: 0,
            caller: Some(self.caller.clone()),
            rule: Some(rule),
            route: None,
            panic: false,
            connection,
            request: None,
            trace_id: None,
        });
        outcome
    }
}

impl JudgesRequests for RequestJudge {
    fn judge(&self, method: &str, path: &str) -> Result<(), ConnectionOutcome> {
        // One that nobody was to judge ends when that changes.
        if !self.handle.is_judged() {
            return Ok(());
        }
        let snapshot = self.shared.snapshots.load();
        let known = snapshot.topology.services.get(&self.service);
        let line = known.map(|known| RequestLine::read(known, method, path));
        let line = line
            .transpose()
            .map_err(|_| ConnectionOutcome::BadRequest)?
            .flatten();
        let verdict = decide(&snapshot.topology, &self.caller, &self.service, line.as_ref());
        let found = FoundCaller {
            caller: self.caller.clone(),
            how: How::Vouched,
        };
        match verdict.permission {
            Permission::Permitted => Ok(()),
            Permission::DryRun => {
                let (now, id) = (Instant::now(), self.handle.connection.id);
                let (reports, peer) = (&self.shared.reports, Some(&self.peer));
                reports.dry_run(now, id, &found, peer, &self.service, &verdict.rule);
                Ok(())
            }
            Permission::Forbidden => Err(self.refuse(&found, verdict.rule)),
        }
    }

    fn identity(&self) -> Option<&str> {
        self.caller.identity.as_ref().map(CallerIdentity::as_str)
    }

    fn upgraded(&self, request: UpgradeRequest) {
        self.handle.may_upgrade(request);
    }
}
