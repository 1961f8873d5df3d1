//! The TLS listener, for callers that are known by their own certificate. A client sends a service's mesh name as server
//! name, the gateway shows its own certificate, and the client has to show one that names a caller of this zone. From then
//! on its bytes, decrypted, go the way of every other connection.
//!
//! The ClientHello says which service is meant, before anything is answered; whoever is refused hears a TLS alert. A
//! renewed identity counts from the next handshake on; a connection ends when the certificate that was shown on it is
//! revoked, or its root trusted no more, and a settable time after that certificate's end, unless its holder has shown a later one.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use causeway_dns as dns;
use causeway_dns::vips::{VipNames, VipTable};
use causeway_federation::{
    name::PortName,
    topology::{Protocol, Topology},
};
use causeway_host::{host_places::HostPlaces, share::NoShare};
use causeway_identity::{
    AFTER_THE_END, Distrust, Identity, LiveIdentity, ShownCertificate, TlsError, distrust,
};
use causeway_routing::target::Target;
use causeway_telemetry::{ConnectionOutcome, RateLimited};
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    server::{Acceptor, ClientHello},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::{
    EgressShared,
    arrival::{Arrival, ClientCertificate},
    client::ClientSocket,
};
use crate::open::{ConnectionHandle, Termination};

mod refusal;
mod socket;

use refusal::TlsRefusal;

pub(super) use socket::{SharedTcpStream, TlsSocket};

/// For a handshake, from the first byte to the last; what takes longer is no client.
const DEFAULT_HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Handshakes under way at once, on all data threads.
const DEFAULT_MAX_HANDSHAKES: usize = 1024;
/// Of those, for one host.
const DEFAULT_MAX_HANDSHAKES_OF_HOST: usize = 256;
/// Time that a refused client has to read its alert and go, before it is reset.
const PARTING: Duration = Duration::from_secs(1);
/// Longest time until the clock is looked at again: it may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Bytes that are read of such a client meanwhile.
const PARTING_BYTES: u64 = 64 * 1024;

/// Addresses at which callers with certificates are taken, and what that needs.
#[derive(Debug, Clone)]
pub struct TlsListen {
    pub addresses: Vec<SocketAddr>,
    pub identity: LiveIdentity,
    /// Knows which names by tag were asked for.
    pub vips: Arc<VipTable>,
    pub handshake_limit: Duration,
    pub max_handshakes: usize,
    pub max_handshakes_of_host: usize,
    pub outlive: Outlive,
}

/// Time for which a connection may outlive the certificate that its client showed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Outlive {
    /// As long as that certificate was valid.
    #[default]
    Life,
    For(Duration),
    /// For ever: only revocation ends it.
    Unbounded,
}

impl Outlive {
    /// Time after the certificate's end; `None`: no end.
    fn grants(self, shown: &ShownCertificate) -> Option<Duration> {
        match self {
            Self::Life => Some(shown.life),
            Self::For(time) => Some(time),
            Self::Unbounded => None,
        }
    }
}

impl TlsListen {
    #[must_use]
    pub fn new(addresses: Vec<SocketAddr>, identity: LiveIdentity, vips: Arc<VipTable>) -> Self {
        Self {
            addresses,
            identity,
            vips,
            handshake_limit: DEFAULT_HANDSHAKE_LIMIT,
            max_handshakes: DEFAULT_MAX_HANDSHAKES,
            max_handshakes_of_host: DEFAULT_MAX_HANDSHAKES_OF_HOST,
            outlive: Outlive::default(),
        }
    }
}

/// Takes clients up over TLS. One for all data threads.
#[derive(Debug)]
pub(super) struct TlsEntrance {
    identity: LiveIdentity,
    vips: Arc<VipTable>,
    /// Settings that were made of the identity that was in use last.
    settings: ArcSwapOption<TlsSettings>,
    handshakes: Semaphore,
    hosts: HostPlaces,
    max_handshakes_of_host: usize,
    handshake_limit: Duration,
    /// Refusals that were told of late, so that a client that comes again and again does not fill the log.
    rate_limited: Mutex<RateLimited<(&'static str, IpAddr)>>,
    outlive: Outlive,
    /// Time at which the first of the open connections is to be looked at, because its certificate has ended by then.
    next_look: watch::Sender<Option<SystemTime>>,
}

#[derive(Debug)]
struct TlsSettings {
    identity: Arc<Identity>,
    tls: ServerConfig,
}

impl TlsEntrance {
    pub(super) fn new(listen: &TlsListen) -> Self {
        Self {
            identity: listen.identity.clone(),
            vips: listen.vips.clone(),
            settings: ArcSwapOption::empty(),
            handshakes: Semaphore::new(listen.max_handshakes),
            hosts: HostPlaces::default(),
            max_handshakes_of_host: listen.max_handshakes_of_host,
            handshake_limit: listen.handshake_limit,
            rate_limited: Mutex::new(RateLimited::new()),
            outlive: listen.outlive,
            next_look: watch::Sender::new(None),
        }
    }

    /// Time at which a connection on which `shown` was shown is to end; `None`: at no time.
    fn ends_at(&self, shown: &ShownCertificate) -> Option<SystemTime> {
        let more = self.outlive.grants(shown)?.max(AFTER_THE_END);
        self.identity.proven_until(shown).checked_add(more)
    }

    /// Has connections looked at again at `end` at the latest.
    fn look_by(&self, end: SystemTime) {
        self.next_look.send_if_modified(|next| {
            let sooner = next.is_none_or(|next| end < next);
            if sooner {
                *next = Some(end);
            }
            sooner
        });
    }

    /// Shakes hands with a client, of these addresses: its own, and that which it connected to. `None`: it was refused, which
    /// was told.
    pub(super) async fn receive(
        &self,
        shared: &EgressShared,
        socket: TcpStream,
        (client, local): (SocketAddr, SocketAddr),
        begun: Instant,
    ) -> Option<Arrival> {
        let wire = SharedTcpStream::new(socket);
        let of_host = self.hosts.take(client.ip(), self.max_handshakes_of_host);
        let (Ok(_place), Some(_of_host)) = (self.handshakes.try_acquire(), of_host) else {
            self.overloaded(shared, wire.tcp(), client);
            return None;
        };
        let limit = self.handshake_limit;
        let shaken = timeout(limit, self.shake_hands(shared, wire.clone())).await;
        match shaken.unwrap_or(Err(TlsRefusal::Slow(limit))) {
            Ok((socket, target, certificate)) => Some(Arrival {
                port: primary_port(&shared.snapshots.load().topology, &target),
                socket: ClientSocket::Tls(Box::new(socket)),
                client,
                local,
                target,
                certificate: Some(certificate),
                begun,
            }),
            Err(refused) => {
                self.report(shared, client, &refused);
                close_refused(wire, &refused).await;
                None
            }
        }
    }

    /// There is no room for another client: it is reset.
    pub(super) fn overloaded(&self, shared: &EgressShared, socket: &TcpStream, client: SocketAddr) {
        let _ = socket.set_zero_linger();
        self.report(shared, client, &TlsRefusal::Overloaded);
    }

    /// There is no descriptor for another client, which is being reset.
    pub(super) fn lacks_descriptors(&self, shared: &EgressShared, client: SocketAddr, why: NoShare) {
        let refused = match why {
            NoShare::NoneFree => TlsRefusal::NoDescriptors,
            NoShare::Crowded { .. } => TlsRefusal::Crowded,
        };
        self.report(shared, client, &refused);
    }

    /// Names that clients may ask for.
    pub(in crate::egress) fn names(&self) -> Arc<VipNames> {
        Arc::clone(&self.vips.names())
    }

    async fn shake_hands(
        &self,
        shared: &EgressShared,
        wire: SharedTcpStream,
    ) -> Result<(TlsSocket, Target, ClientCertificate), TlsRefusal> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), wire.clone()).await;
        let start = start.map_err(TlsRefusal::Handshake)?;
        let snapshot = shared.snapshots.load_full();
        let name = start.client_hello().server_name().map(str::to_owned);
        let name = name.ok_or(TlsRefusal::NoName)?;
        let Some(target) = dns::target_of(&snapshot, &self.vips.names(), &name) else {
            return Err(TlsRefusal::UnknownName(name));
        };
        let settings = self.settings()?;
        let mut tls = settings.tls.clone();
        tls.alpn_protocols = alpn(&snapshot.topology, &target, &start.client_hello());
        let stream = finish(start, tls).await.map_err(TlsRefusal::Handshake)?;
        let socket = TlsSocket::new(wire, stream);
        let chain = socket.chain().unwrap_or_default();
        let leaf = chain
            .first()
            .ok_or_else(|| failed(rustls::Error::NoCertificatesPresented))?;
        // It was looked at in the handshake already; this is for the name.
        let identity = settings.identity.caller(leaf);
        let identity =
            identity.map_err(|_| failed(rustls::Error::General("the certificate has changed".to_owned())))?;
        self.identity.shook_hands(&chain, SystemTime::now());
        let certificate = ClientCertificate {
            identity,
            chain,
            believed_by: settings.identity.clone(),
        };
        Ok((socket, target, certificate))
    }

    /// Returns what the identity in use now is served with.
    fn settings(&self) -> Result<Arc<TlsSettings>, TlsError> {
        let identity = self.identity.current();
        if let Some(settings) = &*self.settings.load()
            && Arc::ptr_eq(&settings.identity, &identity)
        {
            return Ok(settings.clone());
        }
        let tls = identity.caller_tls()?;
        let settings = Arc::new(TlsSettings { identity, tls });
        self.settings.store(Some(settings.clone()));
        Ok(settings)
    }

    /// Ends a connection that was entered into the list of open ones, if its certificate is not believed any more. A change
    /// that came during its handshake was too early to find it there.
    pub(super) fn check(&self, believed_by: &Arc<Identity>, handle: &ConnectionHandle) {
        let current = self.identity.current();
        if !Arc::ptr_eq(&current, believed_by) && recheck_certificate(&current, handle) {
            self.identity.ended(1);
        }
        // Only now, when whoever looks finds it in the list.
        let shown = handle.connection.shown.as_deref().and_then(ShownCertificate::of);
        if let Some(end) = shown.and_then(|shown| self.ends_at(&shown)) {
            self.look_by(end);
        }
    }

    /// Counts a refusal, and says the first of a kind and then one a minute.
    fn report(&self, shared: &EgressShared, client: SocketAddr, refused: &TlsRefusal) {
        let reason = refused.word();
        shared.metrics.tls_refused(reason);
        let kind = (reason, client.ip().to_canonical());
        let Some(repeats) = self.rate_limited.lock().admit(Instant::now(), kind) else {
            return;
        };
        let (cause, hint) = (refused.cause(), refused.hint());
        tracing::warn!(reason, address = %client, cause, hint, repeats, "refused a client of the TLS listener");
    }
}

async fn finish(
    start: StartHandshake<SharedTcpStream>,
    tls: ServerConfig,
) -> io::Result<tokio_rustls::server::TlsStream<SharedTcpStream>> {
    start.into_stream(Arc::new(tls)).await
}

fn failed(error: rustls::Error) -> TlsRefusal {
    TlsRefusal::Handshake(io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Port that a client means: its name says nothing of one.
fn primary_port(topology: &Topology, target: &Target) -> Option<PortName> {
    topology.port_of(&target.service, None)?.name.clone()
}

/// Protocols that are spoken inside: what the service's protocol says, and for a service of which nothing is known what the
/// client names first. Its bytes are carried as they are, so that is between it and the instance.
fn alpn(topology: &Topology, target: &Target, hello: &ClientHello<'_>) -> Vec<Vec<u8>> {
    match topology.port_of(&target.service, None).map(|port| port.protocol) {
        Some(Protocol::Http | Protocol::Grpc) => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        _ => hello
            .alpn()
            .and_then(|mut offered| offered.next())
            .map(<[u8]>::to_vec)
            .into_iter()
            .collect(),
    }
}

/// Sends the alert, and waits for the client to go: a reset would overtake what it is told.
async fn close_refused(mut wire: SharedTcpStream, refused: &TlsRefusal) {
    let parting = async {
        if let Some(alert) = refused.alert() {
            wire.write_all(&alert).await?;
        }
        wire.shutdown().await?;
        let mut rest = wire.take(PARTING_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // A client that stays, or has gone by itself, has had its chance.
    let _ = timeout(PARTING, parting).await;
}

/// Ends every open connection whose certificate is not believed any more, whenever the identity has changed, and those whose
/// certificates ended too long ago. Runs until it is dropped.
pub(super) async fn recheck_certificates(shared: Arc<EgressShared>, entrance: Arc<TlsEntrance>) {
    let mut identity = entrance.identity.clone();
    let mut next_look = entrance.next_look.subscribe();
    loop {
        let next = *next_look.borrow_and_update();
        tokio::select! {
            () = identity.changed() => {}
            () = until(next) => {}
            Ok(()) = next_look.changed() => continue,
        }
        // Connections that come while these are looked at say themselves when they end.
        entrance.next_look.send_replace(None);
        let (shared, entrance) = (shared.clone(), entrance.clone());
        let looking = tokio::task::spawn_blocking(move || entrance.look_at_all(&shared, SystemTime::now()));
        if let Err(error) = looking.await {
            tracing::error!(%error, "open connections were not looked at after a change of the identity");
        }
    }
}

/// Waits until `at`, and at most [`LOOK_EVERY`]: clocks are set. `None`: for ever.
async fn until(at: Option<SystemTime>) {
    match at {
        Some(at) => {
            let left = at.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
        None => std::future::pending().await,
    }
}

impl TlsEntrance {
    fn look_at_all(&self, shared: &EgressShared, now: SystemTime) {
        let current = self.identity.current();
        for handle in shared.open.handles() {
            if recheck_certificate(&current, &handle) {
                self.identity.ended(1);
                continue;
            }
            let shown = handle.connection.shown.as_deref().and_then(ShownCertificate::of);
            match shown.and_then(|shown| self.ends_at(&shown)) {
                Some(end) if end <= now => terminate(
                    &handle,
                    "expired",
                    "the certificate that it was opened with has ended, and no later one was shown",
                    ConnectionOutcome::CertificateExpired,
                ),
                Some(end) => self.look_by(end),
                None => {}
            }
        }
    }
}

/// Ends a connection whose certificate is not believed any more. Tells whether it did.
fn recheck_certificate(identity: &Identity, handle: &ConnectionHandle) -> bool {
    let Some(chain) = &handle.connection.shown else {
        return false;
    };
    let Some((distrust, why)) = distrust(identity, chain, SystemTime::now()) else {
        return false;
    };
    let outcome = match distrust {
        Distrust::Revoked => ConnectionOutcome::CertificateRevoked,
        Distrust::UnknownIssuer => ConnectionOutcome::IssuerDistrusted,
    };
    terminate(handle, distrust.word(), &why, outcome);
    true
}

fn terminate(handle: &ConnectionHandle, reason: &str, why: &str, outcome: ConnectionOutcome) {
    let connection = &handle.connection;
    let caller = handle.caller().map(|found| found.caller.to_string());
    tracing::warn!(connection = %connection.id, service = %connection.service, caller, client = connection.client.map(tracing::field::display),
        reason, "closed a connection: {why}");
    handle.terminate(Termination { outcome, rule: None });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_outlives_its_certificate_by_what_is_set() {
        let shown = ShownCertificate {
            holder: "spiffe://a.b/app/web".to_owned(),
            until: SystemTime::UNIX_EPOCH,
            life: Duration::from_secs(40),
        };
        assert_eq!(Outlive::default().grants(&shown), Some(shown.life));
        let hour = Duration::from_secs(3_600);
        assert_eq!(Outlive::For(hour).grants(&shown), Some(hour));
        assert_eq!(Outlive::Unbounded.grants(&shown), None);
    }
}
