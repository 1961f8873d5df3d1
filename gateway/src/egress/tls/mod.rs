//! The TLS listener, for callers that are known by their own certificate. A client sends a service's mesh name as server
//! name, the gateway shows its own certificate, and the client has to show one that names a caller of this zone. From then
//! on its bytes, decrypted, go the way of every other connection.
//!
//! The ClientHello says which service is meant, before anything is answered; whoever is refused hears a TLS alert. A
//! renewed identity counts from the next handshake on; a connection ends when the certificate that was shown on it is
//! revoked, or its root trusted no more.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use causeway_zone_sync::{
    name::CallerIdentity,
    topology::{Protocol, Topology},
};
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    server::{Acceptor, ClientHello},
};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::Shared;
use crate::{
    dns,
    identity::{Identity, LiveIdentity, TlsError, distrust},
    relay::{Hold, Withdrawn},
    target::Target,
    tunnel::Quiet,
    vips::VipTable,
};

mod refusal;
mod socket;

use refusal::Refused;
pub(super) use socket::TlsSocket;
use socket::Wire;

/// For a handshake, from the first byte to the last; what takes longer is no client.
const DEFAULT_HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Handshakes under way at once, on all data threads.
const DEFAULT_MAX_HANDSHAKES: usize = 1024;
/// How long a refused client has to read its alert and go, before it is reset.
const PARTING: Duration = Duration::from_secs(1);
/// Bytes that are read of such a client meanwhile.
const PARTING_BYTES: u64 = 64 * 1024;

/// Where callers with certificates are taken, and what that needs.
#[derive(Debug, Clone)]
pub struct TlsListen {
    pub addresses: Vec<SocketAddr>,
    pub identity: LiveIdentity,
    /// Knows which names by tag were asked for.
    pub vips: Arc<VipTable>,
    pub handshake_limit: Duration,
    pub max_handshakes: usize,
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
        }
    }
}

/// Takes clients up over TLS. One for all data threads.
#[derive(Debug)]
pub(super) struct Door {
    identity: LiveIdentity,
    vips: Arc<VipTable>,
    /// What was made of the identity that was in use last.
    settings: ArcSwapOption<Settings>,
    handshakes: Semaphore,
    handshake_limit: Duration,
    /// What refusals were told of late, so that a client that comes again and again does not fill the log.
    quiet: Mutex<Quiet<(&'static str, IpAddr)>>,
}

#[derive(Debug)]
struct Settings {
    identity: Arc<Identity>,
    tls: ServerConfig,
}

/// A client that showed who it is, and said what it wants.
pub(super) struct Entered {
    pub(super) socket: TlsSocket,
    pub(super) target: Target,
    pub(super) identity: CallerIdentity,
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// By what the client was believed.
    pub(super) believed: Arc<Identity>,
}

impl Door {
    pub(super) fn new(listen: &TlsListen) -> Self {
        Self {
            identity: listen.identity.clone(),
            vips: listen.vips.clone(),
            settings: ArcSwapOption::empty(),
            handshakes: Semaphore::new(listen.max_handshakes),
            handshake_limit: listen.handshake_limit,
            quiet: Mutex::new(Quiet::new()),
        }
    }

    /// Shakes hands with a client. `None`: it was refused, which was told.
    pub(super) async fn enter(
        &self,
        shared: &Shared,
        socket: TcpStream,
        client: SocketAddr,
    ) -> Option<Entered> {
        let wire = Wire::new(socket);
        let Ok(_place) = self.handshakes.try_acquire() else {
            self.overloaded(shared, wire.tcp(), client);
            return None;
        };
        let limit = self.handshake_limit;
        let shaken = timeout(limit, self.shake_hands(shared, wire.clone())).await;
        match shaken.unwrap_or(Err(Refused::Slow(limit))) {
            Ok(entered) => Some(entered),
            Err(refused) => {
                self.tell(shared, client, &refused);
                part(wire, &refused).await;
                None
            }
        }
    }

    /// There is no room for another client: it is reset.
    pub(super) fn overloaded(&self, shared: &Shared, socket: &TcpStream, client: SocketAddr) {
        let _ = socket.set_zero_linger();
        self.tell(shared, client, &Refused::Overloaded);
    }

    async fn shake_hands(&self, shared: &Shared, wire: Wire) -> Result<Entered, Refused> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), wire.clone()).await;
        let start = start.map_err(Refused::Handshake)?;
        let snapshot = shared.snapshots.load_full();
        let name = start.client_hello().server_name().map(str::to_owned);
        let name = name.ok_or(Refused::NoName)?;
        let Some(target) = dns::target_of(&snapshot, &self.vips.names(), &name) else {
            return Err(Refused::UnknownName(name));
        };
        let settings = self.settings()?;
        let mut tls = settings.tls.clone();
        tls.alpn_protocols = alpn(&snapshot.topology, &target, &start.client_hello());
        let stream = finish(start, tls).await.map_err(Refused::Handshake)?;
        let socket = TlsSocket::new(wire, stream);
        let chain = socket.chain().unwrap_or_default();
        let leaf = chain
            .first()
            .ok_or_else(|| failed(rustls::Error::NoCertificatesPresented))?;
        // It was looked at in the handshake already; this is for the name.
        let identity = settings.identity.caller(leaf);
        let identity =
            identity.map_err(|_| failed(rustls::Error::General("the certificate has changed".to_owned())))?;
        Ok(Entered {
            socket,
            target,
            identity,
            chain,
            believed: settings.identity.clone(),
        })
    }

    /// What the identity in use now is served with.
    fn settings(&self) -> Result<Arc<Settings>, TlsError> {
        let identity = self.identity.current();
        if let Some(settings) = &*self.settings.load()
            && Arc::ptr_eq(&settings.identity, &identity)
        {
            return Ok(settings.clone());
        }
        let tls = identity.caller_tls()?;
        let settings = Arc::new(Settings { identity, tls });
        self.settings.store(Some(settings.clone()));
        Ok(settings)
    }

    /// Ends a connection that was entered into the list of open ones, if its certificate is not believed any more. A change
    /// that came during its handshake was too early to find it there.
    pub(super) fn check(&self, believed: &Arc<Identity>, hold: &Hold) {
        let current = self.identity.current();
        if !Arc::ptr_eq(&current, believed) {
            check_one(&current, hold);
        }
    }

    /// Counts a refusal, and says the first of a kind and then one a minute.
    fn tell(&self, shared: &Shared, client: SocketAddr, refused: &Refused) {
        let reason = refused.word();
        shared.metrics.tls_refused(reason);
        let kind = (reason, client.ip().to_canonical());
        let Some(repeats) = self.quiet.lock().admit(Instant::now(), kind) else {
            return;
        };
        let (cause, hint) = (refused.cause(), refused.hint());
        tracing::warn!(reason, address = %client, cause, hint, repeats, "refused a client of the TLS listener");
    }
}

async fn finish(
    start: StartHandshake<Wire>,
    tls: ServerConfig,
) -> io::Result<tokio_rustls::server::TlsStream<Wire>> {
    start.into_stream(Arc::new(tls)).await
}

fn failed(error: rustls::Error) -> Refused {
    Refused::Handshake(io::Error::new(io::ErrorKind::InvalidData, error))
}

/// What is spoken inside: what the service's protocol says, and for a service of which nothing is known what the client names
/// first. Its bytes are carried as they are, so that is between it and the instance.
fn alpn(topology: &Topology, target: &Target, hello: &ClientHello<'_>) -> Vec<Vec<u8>> {
    let service = topology.services.get(&target.service);
    match service.map(|service| service.protocol) {
        Some(Protocol::Http) => vec![b"http/1.1".to_vec()],
        Some(Protocol::Grpc) => vec![b"h2".to_vec()],
        _ => hello
            .alpn()
            .and_then(|mut offered| offered.next())
            .map(<[u8]>::to_vec)
            .into_iter()
            .collect(),
    }
}

/// Sends the alert, and waits for the client to go: a reset would overtake what it is told.
async fn part(mut wire: Wire, refused: &Refused) {
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

/// Ends every open connection whose certificate is not believed any more, whenever the identity has changed. Runs until it is
/// dropped.
pub(super) async fn keep_checking(shared: Arc<Shared>, mut identity: LiveIdentity) {
    loop {
        identity.changed().await;
        let (shared, current) = (shared.clone(), identity.current());
        let looking = tokio::task::spawn_blocking(move || {
            for hold in shared.open.holds() {
                check_one(&current, &hold);
            }
        });
        if let Err(error) = looking.await {
            tracing::error!(%error, "open connections were not looked at after a change of the identity");
        }
    }
}

fn check_one(identity: &Identity, hold: &Hold) {
    let connection = &hold.connection;
    let Some(chain) = &connection.shown else { return };
    if let Some((outcome, why)) = distrust(identity, chain, SystemTime::now()) {
        let caller = hold.caller().map(|found| found.caller.to_string());
        tracing::warn!(service = %connection.service, caller, client = connection.client.map(tracing::field::display),
            reason = outcome, "closed a connection: {why}");
        hold.withdraw(Withdrawn { outcome, rule: None });
    }
}
