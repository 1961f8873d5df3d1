//! Addresses by name: one look-up of a name at a time for all who ask, whose answer is kept for a moment.
//!
//! The system's resolver knows what this host's names mean (`/etc/hosts`, nsswitch), but a look-up blocks, for as long as a
//! server that does not answer takes. So look-ups have threads of their own: a few, started when something is asked and
//! ended when nothing is, and none that a runtime waits for when it ends.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::watch};

/// Look-ups that run at the same time; further ones wait. A resolver that loses bursts loses fewer of these.
const MAX_LOOKUPS: usize = 16;
/// Time for which an answer serves everybody who asks. Names are asked for when somebody is to be dialled, which waits up to
/// 5 s between tries; the system tells no time to live.
const KEPT: Duration = Duration::from_secs(5);
/// Time for which a failure does.
const FAILURE_KEPT: Duration = Duration::from_secs(1);

/// Answer of one look-up.
pub type ResolvedName = Result<Arc<[SocketAddr]>, Arc<io::Error>>;
/// Function that blocks until it has looked a name with a port up.
type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Resolver for whoever dials again and again. Clones share what is known; dropping the last forgets what waits.
#[derive(Clone)]
pub struct NameResolver(Arc<Names>);

struct Names {
    known: Mutex<BTreeMap<String, Known>>,
    queue: Arc<Queue>,
}

impl fmt::Debug for NameResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameResolver").finish_non_exhaustive()
    }
}

/// A name that was asked for.
struct Known {
    /// Holds nothing yet while the look-up waits or runs.
    answer: watch::Receiver<Option<(Instant, ResolvedName)>>,
}

impl Known {
    fn is_current(&self, now: Instant) -> bool {
        match &*self.answer.borrow() {
            Some((at, answer)) => {
                let kept = if answer.is_ok() { KEPT } else { FAILURE_KEPT };
                now.saturating_duration_since(*at) < kept
            }
            // One whose thread is gone without an answer is asked for again.
            None => self.answer.has_changed().is_ok(),
        }
    }
}

/// Names that wait for a thread, and how many threads there are.
struct Queue {
    lookup: Box<Lookup>,
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Asked>,
    threads: usize,
}

struct Asked {
    name: String,
    tell: watch::Sender<Option<(Instant, ResolvedName)>>,
}

/// Asks the system's resolver.
impl Default for NameResolver {
    fn default() -> Self {
        Self::with(|name| Ok(name.to_socket_addrs()?.collect()))
    }
}

impl NameResolver {
    /// One that goes by `lookup`, which may block.
    #[must_use]
    pub fn with(lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Names {
            known: Mutex::default(),
            queue: Arc::new(Queue {
                lookup: Box::new(lookup),
                state: Mutex::default(),
            }),
        }))
    }

    /// Connects to the first address of a host that takes the connection. Nobody waits for a look-up that does not end, not the end of the
    /// process either.
    ///
    /// # Errors
    /// A name without an address, or none that can be connected to: what the last one came to.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses = match host.parse::<IpAddr>() {
            Ok(ip) => [SocketAddr::new(ip, port)].into(),
            Err(_) => self
                .resolve(&format!("{host}:{port}"))
                .await
                .map_err(|error| io::Error::new(error.kind(), error))?,
        };
        let mut failed = io::ErrorKind::NotFound.into();
        for address in addresses.iter() {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Gives the addresses of `name`, which is `HOST:PORT`. Whoever gives up waiting leaves the look-up to those who come after.
    ///
    /// # Errors
    /// When the name has no address, or nobody can say.
    pub async fn resolve(&self, name: &str) -> ResolvedName {
        if let Ok(address) = name.parse::<SocketAddr>() {
            return Ok([address].into());
        }
        let mut answer = self.ask(name, Instant::now())?;
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some((_, answer))) => answer.clone(),
            _ => Err(Arc::new(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Joins a look-up or an answer that is current, or has a new look-up made.
    fn ask(
        &self,
        name: &str,
        now: Instant,
    ) -> Result<watch::Receiver<Option<(Instant, ResolvedName)>>, Arc<io::Error>> {
        let mut known = self.0.known.lock();
        // So it holds no more than the topology names within a moment.
        known.retain(|_, known| known.is_current(now));
        if let Some(known) = known.get(name) {
            return Ok(known.answer.clone());
        }
        let (tell, answer) = watch::channel(None);
        let asked = Asked {
            name: name.to_owned(),
            tell,
        };
        Queue::push(&self.0.queue, asked)?;
        let kept = Known {
            answer: answer.clone(),
        };
        known.insert(name.to_owned(), kept);
        Ok(answer)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.queue.state.lock().waiting.clear();
    }
}

impl Queue {
    fn push(queue: &Arc<Self>, asked: Asked) -> io::Result<()> {
        let mut state = queue.state.lock();
        state.waiting.push_back(asked);
        if state.threads < MAX_LOOKUPS {
            let working = Arc::clone(queue);
            std::thread::Builder::new()
                .name("resolve".to_owned())
                .spawn(move || working.work())
                .inspect_err(|_| drop(state.waiting.pop_back()))?;
            state.threads += 1;
        }
        Ok(())
    }

    /// Looks names up until none waits.
    fn work(&self) {
        loop {
            let Asked { name, tell } = {
                let mut state = self.state.lock();
                let Some(next) = state.waiting.pop_front() else {
                    state.threads -= 1;
                    return;
                };
                next
            };
            let answer = (self.lookup)(&name).map(Arc::from).map_err(Arc::new);
            tell.send_replace(Some((Instant::now(), answer)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
    };

    use tokio::task::JoinSet;

    use super::*;

    const ADDRESS: &str = "192.0.2.1:7800";

    fn found() -> io::Result<Vec<SocketAddr>> {
        Ok(vec![ADDRESS.parse().unwrap()])
    }

    #[tokio::test]
    async fn all_who_ask_for_a_name_share_one_look_up_and_its_answer() {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let resolver = NameResolver::with(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            found()
        });
        let mut asking = JoinSet::new();
        for _ in 0..50 {
            let resolver = resolver.clone();
            asking.spawn(async move { resolver.resolve("gw.example:7800").await });
        }
        let answers = asking.join_all().await;
        assert!(
            answers
                .iter()
                .all(|answer| **answer.as_ref().unwrap() == *found().unwrap())
        );
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(resolver.ask("gw.example:7800", Instant::now() + KEPT).is_ok());
        resolver.resolve("gw.example:7800").await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2, "an answer is not kept for ever");
    }

    #[tokio::test]
    async fn a_failure_is_forgotten_sooner_and_an_address_needs_nobody() {
        let resolver = NameResolver::with(|_| Err(io::ErrorKind::NotFound.into()));
        assert!(resolver.resolve("gw.example:7800").await.is_err());
        let now = Instant::now();
        let kept = |later| resolver.0.known.lock()["gw.example:7800"].is_current(now + later);
        assert!(kept(Duration::ZERO) && !kept(FAILURE_KEPT));
        assert_eq!(
            **resolver.resolve(ADDRESS).await.as_ref().unwrap(),
            *found().unwrap()
        );
    }

    #[test]
    fn a_resolver_that_hangs_takes_a_few_threads_and_no_runtime_waits_for_it() {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let running = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&running);
        let resolver = NameResolver::with(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            let _ = held.lock().recv();
            found()
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        for number in 0..1000 {
            let resolver = resolver.clone();
            runtime.spawn(async move { resolver.resolve(&format!("gw{number}.example:7800")).await });
        }
        while running.load(Ordering::SeqCst) == 0 || resolver.0.known.lock().len() < 1000 {
            std::thread::yield_now();
        }
        let threads = resolver.0.queue.state.lock().threads;
        assert_eq!(threads, MAX_LOOKUPS);
        let begun = Instant::now();
        drop(runtime);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        drop(release);
    }

    #[tokio::test]
    async fn a_host_is_connected_to_at_the_first_address_that_takes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let resolver = NameResolver::with(|name| {
            let (_, port) = name.rsplit_once(':').unwrap();
            let at = |ip| SocketAddr::new(ip, port.parse().unwrap());
            // Nobody listens at the first.
            Ok([[127, 0, 0, 9], [127, 0, 0, 1]].map(|ip| at(ip.into())).to_vec())
        });
        for host in ["ca.example", "127.0.0.1"] {
            let stream = resolver.connect(host, port).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        }
        let nobody = NameResolver::with(|_| Ok(Vec::new()));
        assert!(nobody.connect("ca.example", port).await.is_err());
    }
}
