//! Callers that are known by their certificate, over real sockets: who gets in, what each refusal is called on both sides,
//! and what ends them. `bytes` and `calls`: that theirs go the
//! way of every other connection's, and request.

mod bytes;
mod calls;
mod http;

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_dns::vips::VipTable;
use causeway_federation::topology::Topology;
use causeway_host::descriptors::Descriptors;
use causeway_identity::{
    ApiClient, Identity, IdentityFolder, REVOCATIONS_FILE, ROOTS_FILE, RefreshOutcome,
    ca::{self, Ca, LEAF_VALIDITY, Leaf},
};
use causeway_routing::testbed::gateway;
use rustls::{AlertDescription, ClientConfig, Error as TlsFailure};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::with_service;
use crate::{
    egress::{EgressConfig, TlsListen},
    testbed::{self, Client, Recorder, Zone, until},
};

const WEB: &str = "spiffe://test.internal/app/web";
const BATCH: &str = "spiffe://test.internal/app/batch";
/// Time that is promised for a revocation.
const A_SECOND: Duration = Duration::from_secs(1);

type Tls = Client<TlsStream<TcpStream>>;

/// The zone home with a TLS listener, and its CA.
struct Scene {
    home: Zone,
    here: Recorder,
    address: SocketAddr,
    vips: Arc<VipTable>,
    files: IdentityFolder,
    ca: Ca,
    folder: TempDir,
}

impl Scene {
    /// With an instance of `orders` in home itself.
    async fn local(topology: &Arc<Topology>) -> Self {
        let here = Recorder::start("here").await;
        Self::start(topology, here, true)
    }

    /// With one in east alone.
    async fn remote(topology: &Arc<Topology>) -> (Self, Zone) {
        let there = Recorder::start("there").await;
        let east = Zone::start("east", topology, vec![there.instance(1, &[])]);
        let scene = Self::start(topology, there, false);
        scene.home.join("east", east.ingress.clone()).await;
        (scene, east)
    }

    fn start(topology: &Arc<Topology>, here: Recorder, is_local: bool) -> Self {
        Self::start_at(testbed::vip(), topology, here, is_local, |_| {})
    }

    fn start_at(
        address: SocketAddr,
        topology: &Arc<Topology>,
        here: Recorder,
        is_local: bool,
        change: impl FnOnce(&mut EgressConfig),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [authority, own] = ["ca", "own"].map(|name| folder.path().join(name));
        let ca = ca::init(&authority, "test.internal").unwrap();
        ca::issue(&authority, &gateway("home"), &own, LEAF_VALIDITY).unwrap();
        let files = IdentityFolder::open(&own).unwrap();
        let vips = Arc::new(VipTable::in_memory());
        let tls = TlsListen::new(vec![address], files.identity(), vips.clone());
        let mut config = EgressConfig {
            tls: Some(tls),
            ..EgressConfig::new(1)
        };
        change(&mut config);
        let instances = is_local.then(|| here.instance(1, &[]));
        let home = Zone::with_config("home", topology, instances.into_iter().collect(), config);
        let egress = home.egress.clone();
        tokio::spawn(async move { egress.keep_checking_certificates().await });
        Self {
            home,
            here,
            address,
            vips,
            files,
            ca,
            folder,
        }
    }

    fn own(&self) -> &Path {
        self.files.path()
    }

    fn leaf(&self, uris: &[&str]) -> Leaf {
        let leaf = self.ca.leaf(&gateway("home"), LEAF_VALIDITY).unwrap();
        Leaf {
            uris: uris.iter().map(|&uri| uri.to_owned()).collect(),
            ..leaf
        }
    }

    /// Somebody whose certificate has this SPIFFE id.
    fn caller(&self, uri: &str) -> Identity {
        self.ca.issue_leaf(&self.leaf(&[uri])).unwrap()
    }

    async fn connect(&self, config: ClientConfig, name: &str) -> io::Result<Tls> {
        let socket = testbed::connect(self.address).await;
        connect(socket, config, name).await
    }

    /// `orders` over TLS, as this caller.
    async fn client(&self, uri: &str) -> Tls {
        let settings = settings(&self.caller(uri));
        self.connect(settings, "orders.mesh").await.unwrap()
    }

    /// Connects as a client that is refused, and returns the failure that it hears.
    async fn refusal(&self, config: ClientConfig, name: &str) -> TlsFailure {
        let error = match self.connect(config, name).await {
            Ok(mut client) => client.greeting().await.unwrap_err(),
            Err(error) => error,
        };
        let inner = error.into_inner().expect("a word of TLS");
        *inner.downcast::<TlsFailure>().unwrap()
    }

    fn counted(&self, word: &str) -> bool {
        let mut text = String::new();
        self.home.metrics.encode(&mut text).unwrap();
        text.contains(&format!("causeway_tls_refused_total{{reason=\"{word}\"}} 1"))
    }

    fn set_topology(&self, topology: &Arc<Topology>) {
        self.home.change(|snapshot| snapshot.topology = topology.clone());
        self.home.egress.recheck(&self.home.snapshots.load_full());
    }
}

async fn connect(socket: TcpStream, config: ClientConfig, name: &str) -> io::Result<Tls> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    // Else the first bytes wait for the other side's word that the end of the handshake has come.
    socket.set_nodelay(true).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, socket).await.map(Client)
}

/// As a client that is no gateway connects: with a server name, and whatever protocol.
fn settings(caller: &Identity) -> ClientConfig {
    let mut config = caller.client_tls().unwrap();
    config.enable_sni = true;
    config.alpn_protocols.clear();
    config
}

fn topology() -> Arc<Topology> {
    with_service(&format!("allow: [\"{WEB}\"]"))
}

async fn assert_reset(client: &mut Tls) {
    let error = client.rest().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_caller_reaches_what_its_certificate_is_permitted_here_and_in_another_zone() {
    for far in [false, true] {
        let (scene, _east) = match far {
            false => (Scene::local(&topology()).await, None),
            true => {
                let (scene, east) = Scene::remote(&topology()).await;
                (scene, Some(east))
            }
        };
        let mut web = scene.client(WEB).await;
        assert_eq!(web.greeting().await.unwrap(), if far { "there" } else { "here" });
        web.echo("hello").await;
        let handle = scene.home.egress.open_connections().handles().next().unwrap();
        let found = handle.caller().unwrap();
        assert_eq!(found.caller.identity, Some(WEB.parse().unwrap()));
        assert_eq!(found.word(), "by_certificate");
        let mut batch = scene.client(BATCH).await;
        assert_reset(&mut batch).await;
        // Without TLS nobody knows who it is.
        assert!(scene.home.client().await.greeting().await.is_err());
        assert_eq!(scene.here.given(), [b"hello"]);
    }
}

#[tokio::test]
async fn the_far_zone_decides_by_the_identity_that_it_is_told() {
    let (scene, east) = Scene::remote(&with_service("deny: []")).await;
    east.change(|snapshot| snapshot.topology = topology());
    assert_eq!(scene.client(WEB).await.greeting().await.unwrap(), "there");
    assert_reset(&mut scene.client(BATCH).await).await;
}

#[tokio::test]
async fn names_that_are_no_service_are_refused_with_an_alert() {
    let scene = Scene::local(&topology()).await;
    let web = scene.caller(WEB);
    for name in ["nobody.mesh", "orders.example", "mesh", "home.zone.mesh"] {
        let alert = scene.refusal(settings(&web), name).await;
        let expected = TlsFailure::AlertReceived(AlertDescription::UnrecognisedName);
        assert_eq!(alert, expected, "{name}");
    }
    let mut unnamed = settings(&web);
    unnamed.enable_sni = false;
    let alert = scene.refusal(unnamed, "orders.mesh").await;
    assert_eq!(
        alert,
        TlsFailure::AlertReceived(AlertDescription::MissingExtension)
    );
    assert!(scene.counted("no_name"));
    for name in ["ORDERS.Mesh", "orders.home.zone.mesh"] {
        let mut client = scene.connect(settings(&web), name).await.unwrap();
        assert_eq!(client.greeting().await.unwrap(), "here", "{name}");
    }
}

#[tokio::test]
async fn a_name_by_tag_reaches_the_instances_with_that_tag() {
    let (old, new) = (Recorder::start("old").await, Recorder::start("new").await);
    let scene = Scene::start(&topology(), old, false);
    let instances = vec![
        scene.here.instance(1, &[("version", "v1")]),
        new.instance(1, &[("version", "v2")]),
    ];
    scene.home.change(|snapshot| {
        snapshot.instances = Arc::new(BTreeMap::from([(testbed::service("orders"), instances.into())]));
    });
    let snapshot = scene.home.snapshots.load_full();
    scene.vips.refresh(&snapshot, SystemTime::now()).unwrap();
    let web = scene.caller(WEB);
    for _ in 0..4 {
        let client = scene.connect(settings(&web), "version-v2.orders.mesh").await;
        assert_eq!(client.unwrap().greeting().await.unwrap(), "new");
    }
}

#[tokio::test]
async fn each_certificate_that_will_not_do_is_refused_with_its_word_on_both_sides() {
    use AlertDescription::{
        CertificateExpired, CertificateRequired, CertificateUnknown, NoApplicationProtocol, UnknownCA,
    };
    let scene = Scene::local(&topology()).await;
    let of = |uris: &[&str]| settings(&scene.ca.issue_leaf(&scene.leaf(uris)).unwrap());
    let roots = scene.own().join(ROOTS_FILE);
    let [authority, stranger] = ["other-ca", "stranger"].map(|name| scene.folder.path().join(name));
    ca::init(&authority, "test.internal").unwrap();
    ca::issue(&authority, &gateway("home"), &stranger, LEAF_VALIDITY).unwrap();
    let with_name = |client: ApiClient| {
        let mut config = client.tls().unwrap();
        config.enable_sni = true;
        config
    };
    let foreign = with_name(ApiClient::load_with_roots(&stranger, &roots).unwrap());
    let nobody = with_name(ApiClient::anonymous(&roots).unwrap());
    let mut expired = scene.leaf(&[WEB]);
    expired.not_before = SystemTime::now() - Duration::from_secs(7200);
    expired.not_after = SystemTime::now() - Duration::from_secs(3600);
    let refused = [
        ("no_certificate", CertificateRequired, nobody),
        ("unknown_issuer", UnknownCA, foreign),
        (
            "expired",
            CertificateExpired,
            settings(&scene.ca.issue_leaf(&expired).unwrap()),
        ),
        ("bad_identity", CertificateUnknown, of(&[WEB, BATCH])),
        (
            "wrong_trust_domain",
            CertificateUnknown,
            of(&["spiffe://evil.example/app/web"]),
        ),
        (
            "wrong_zone",
            CertificateUnknown,
            of(&["spiffe://test.internal/zone/east/app/web"]),
        ),
    ];
    for (word, alert, config) in refused {
        let told = scene.refusal(config, "orders.mesh").await;
        assert_eq!(told, TlsFailure::AlertReceived(alert), "{word}");
        assert!(scene.counted(word), "{word}");
    }
    assert!(scene.here.given().is_empty());

    let topology = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 80, protocol: http }",
    );
    scene.set_topology(&topology);
    let offering = |names: &[&[u8]]| {
        let mut config = of(&[WEB]);
        config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        config
    };
    let told = scene.refusal(offering(&[b"spdy/3"]), "orders.mesh").await;
    assert_eq!(told, TlsFailure::AlertReceived(NoApplicationProtocol));
    assert!(scene.counted("wrong_alpn"));
    let both: [&[u8]; 2] = [b"http/1.1", b"h2"];
    for (names, agreed) in [(&both[..1], both[0]), (&both[..], both[1])] {
        let client = scene.connect(offering(names), "orders.mesh").await.unwrap();
        assert_eq!(client.0.get_ref().1.alpn_protocol(), Some(agreed));
    }
}

#[tokio::test]
async fn a_connection_ends_when_its_certificate_is_revoked_or_its_root_is_gone() {
    let scene = Scene::local(&with_service("early: false")).await;
    let (web, batch) = (scene.caller(WEB), scene.caller(BATCH));
    let mut bad = scene.connect(settings(&web), "orders.mesh").await.unwrap();
    let mut good = scene.connect(settings(&batch), "orders.mesh").await.unwrap();
    bad.greeting().await.unwrap();
    good.greeting().await.unwrap();
    let now = SystemTime::now();
    let revoked = BTreeMap::from([(web.serial().unwrap(), now)]);
    let list = scene.ca.revocation_list(&revoked, 1, now).unwrap();
    fs::write(scene.own().join(REVOCATIONS_FILE), list).unwrap();
    assert_eq!(scene.files.reload(now), RefreshOutcome::Taken);
    let ended = tokio::time::timeout(A_SECOND, bad.rest())
        .await
        .expect("within a second");
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    good.echo("still here").await;
    let told = scene.refusal(settings(&web), "orders.mesh").await;
    assert_eq!(
        told,
        TlsFailure::AlertReceived(AlertDescription::CertificateRevoked)
    );
    assert!(scene.counted("revoked"));

    // Another CA takes over: what is shown and believed from then on is new, on the same listener.
    let [authority, next] = ["next-ca", "next"].map(|name| scene.folder.path().join(name));
    let other = ca::init(&authority, "test.internal").unwrap();
    ca::issue(&authority, &gateway("home"), &next, LEAF_VALIDITY).unwrap();
    fs::remove_file(scene.own().join(REVOCATIONS_FILE)).unwrap();
    for name in ["cert.pem", "key.pem", "ca.pem"] {
        fs::copy(next.join(name), scene.own().join(name)).unwrap();
    }
    assert_eq!(scene.files.reload(SystemTime::now()), RefreshOutcome::Taken);
    let ended = tokio::time::timeout(A_SECOND, good.rest())
        .await
        .expect("within a second");
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let new = other.issue_leaf(&scene.leaf(&[BATCH])).unwrap();
    let mut new = scene.connect(settings(&new), "orders.mesh").await.unwrap();
    assert_eq!(new.greeting().await.unwrap(), "here");
}

#[tokio::test]
async fn a_permission_that_is_taken_away_closes_what_it_had_opened_and_nothing_else() {
    let scene = Scene::local(&with_service(&format!("allow: [\"{WEB}\", \"{BATCH}\"]"))).await;
    let (mut web, mut batch) = (scene.client(WEB).await, scene.client(BATCH).await);
    web.greeting().await.unwrap();
    batch.greeting().await.unwrap();
    scene.set_topology(&topology());
    assert_reset(&mut batch).await;
    web.echo("still here").await;
}

#[tokio::test]
async fn the_listener_is_bound_once_its_address_is_free_and_ends_with_the_egress() {
    let taken = std::net::TcpListener::bind(testbed::vip()).unwrap();
    let here = Recorder::start("here").await;
    let scene = Scene::start_at(taken.local_addr().unwrap(), &topology(), here, true, |_| {});
    let egress = scene.home.egress.clone();
    until("the failure is reported", || !egress.bind_failures().is_empty()).await;
    let failure = &egress.bind_failures()[0];
    assert_eq!(
        (failure.address, failure.serves.as_str()),
        (scene.address, "the TLS listener")
    );
    drop(taken);
    until("the address is bound", || egress.bind_failures().is_empty()).await;
    let mut web = scene.client(WEB).await;
    web.greeting().await.unwrap();
    egress.close();
    let refused = async {
        while TcpStream::connect(scene.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused)
        .await
        .expect("nobody listens");
    web.echo("still here").await;
}

#[tokio::test]
async fn one_host_cannot_take_all_handshakes() {
    let here = Recorder::start("here").await;
    let scene = Scene::start_at(testbed::vip(), &topology(), here, true, |config| {
        let tls = config.tls.as_mut().unwrap();
        (tls.max_handshakes_of_host, tls.handshake_limit) = (1, Duration::from_secs(60));
    });
    // One that says nothing has the only place of all that comes over loopback.
    let _silent = testbed::connect(scene.address).await;
    // The reset may come before the client has seen that it was accepted.
    let error = match TcpStream::connect(scene.address).await {
        Ok(crowded) => Client(crowded).rest().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(scene.counted("overloaded"));
}

#[tokio::test]
async fn handshakes_are_bounded_in_time_and_number_and_so_are_connections() {
    let here = Recorder::start("here").await;
    let scene = Scene::start_at(testbed::vip(), &topology(), here, true, |config| {
        config.max_connections = 2;
        let tls = config.tls.as_mut().unwrap();
        (tls.max_handshakes, tls.handshake_limit) = (1, Duration::from_millis(500));
    });
    // One that says nothing has the only place, and keeps it until its time is over.
    let mut silent = Client(testbed::connect(scene.address).await);
    // The reset may come before the client has seen that it was accepted.
    let error = match TcpStream::connect(scene.address).await {
        Ok(crowded) => Client(crowded).rest().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(scene.counted("overloaded") && !scene.counted("slow"));
    assert!(silent.rest().await.unwrap().is_empty());
    assert!(scene.counted("slow"));
    drop(silent);
    let web = scene.caller(WEB);
    let mut open = Vec::new();
    while open.len() < 2 {
        // The place is free again a moment after its client has gone.
        if let Ok(mut client) = scene.connect(settings(&web), "orders.mesh").await {
            client.greeting().await.unwrap();
            open.push(client);
        }
    }
    let mut beyond = scene.client(WEB).await;
    assert_reset(&mut beyond).await;
    drop(open.pop());
    let egress = &scene.home.egress;
    until("there is room again", || egress.open_connections().count() == 1).await;
    scene.client(WEB).await.greeting().await.unwrap();
}

#[tokio::test]
async fn a_client_is_promised_a_descriptor_for_its_instance_before_it_has_said_what_it_wants() {
    let descriptors = Descriptors::limited_to(1_000_000);
    let kept = descriptors.clone();
    let here = Recorder::start("here").await;
    let scene = Scene::start_at(testbed::vip(), &topology(), here, true, |config| {
        config.descriptors = kept;
    });
    let socket = testbed::connect(scene.address).await;
    until("a descriptor is promised", || descriptors.promised() == 1).await;
    let mut client = connect(socket, settings(&scene.caller(WEB)), "orders.mesh")
        .await
        .unwrap();
    assert_eq!(client.greeting().await.unwrap(), "here");
    until("it is taken", || descriptors.promised() == 0).await;

    // One that asks for nothing that is here gives it back.
    let socket = testbed::connect(scene.address).await;
    until("a descriptor is promised", || descriptors.promised() == 1).await;
    let refused = connect(socket, settings(&scene.caller(WEB)), "nothing.mesh").await;
    until("it is given back", || descriptors.promised() == 0).await;
    drop(refused);
}
