//! Addresses of peers by name: one look-up for all data threads at a time, whose answer is kept for a moment.
//!
//! The system's resolver knows what this host's names mean (`/etc/hosts`, nsswitch), but a look-up blocks, for as long as a
//! server that does not answer takes. So look-ups have threads of their own: a few, started when something is asked and
//! ended when nothing is, and none that a runtime waits for when it ends.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Look-ups that run at the same time; further ones wait. A resolver that loses bursts loses fewer of these.
const MAX_LOOKUPS: usize = 16;
/// Time for which an answer serves everybody who asks. Names are asked for when a tunnel is to be dialled, which waits up to
/// 5 s between tries; the system tells no time to live.
const KEPT: Duration = Duration::from_secs(5);
/// Time for which a failure does.
const FAILURE_KEPT: Duration = Duration::from_secs(1);

/// Answer of one look-up.
type Answer = Result<Arc<[SocketAddr]>, Arc<io::Error>>;
/// Function that blocks until it has looked a name with a port up.
type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Resolver that all data threads of a gateway share. Dropping it forgets what waits.
pub(super) struct PeerResolver {
    known: Mutex<BTreeMap<String, Known>>,
    queue: Arc<Queue>,
}

impl fmt::Debug for PeerResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// A name that was asked for.
struct Known {
    /// Holds nothing yet while the look-up waits or runs.
    answer: watch::Receiver<Option<(Instant, Answer)>>,
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
    tell: watch::Sender<Option<(Instant, Answer)>>,
}

impl PeerResolver {
    /// A resolver that asks the system's.
    pub(super) fn new() -> Self {
        Self::with(|name| Ok(name.to_socket_addrs()?.collect()))
    }

    fn with(lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self {
            known: Mutex::default(),
            queue: Arc::new(Queue {
                lookup: Box::new(lookup),
                state: Mutex::default(),
            }),
        }
    }

    /// Gives the addresses of `name`, which is `HOST:PORT`. Whoever gives up waiting leaves the look-up to those who come after.
    ///
    /// # Errors
    /// When the name has no address, or nobody can say.
    pub(super) async fn resolve(&self, name: &str) -> Answer {
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
    ) -> Result<watch::Receiver<Option<(Instant, Answer)>>, Arc<io::Error>> {
        let mut known = self.known.lock();
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
        Queue::push(&self.queue, asked)?;
        let kept = Known {
            answer: answer.clone(),
        };
        known.insert(name.to_owned(), kept);
        Ok(answer)
    }
}

impl Drop for PeerResolver {
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
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use futures_util::future::join_all;

    use super::*;

    const ADDRESS: &str = "192.0.2.1:7800";

    fn found() -> io::Result<Vec<SocketAddr>> {
        Ok(vec![ADDRESS.parse().unwrap()])
    }

    #[tokio::test]
    async fn all_who_ask_for_a_name_share_one_look_up_and_its_answer() {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let resolver = PeerResolver::with(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            found()
        });
        let answers = join_all((0..50).map(|_| resolver.resolve("gw.example:7800"))).await;
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
        let resolver = PeerResolver::with(|_| Err(io::ErrorKind::NotFound.into()));
        assert!(resolver.resolve("gw.example:7800").await.is_err());
        let now = Instant::now();
        let kept = |later| resolver.known.lock()["gw.example:7800"].is_current(now + later);
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
        let resolver = Arc::new(PeerResolver::with(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            let _ = held.lock().recv();
            found()
        }));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        for number in 0..1000 {
            let resolver = Arc::clone(&resolver);
            runtime.spawn(async move { resolver.resolve(&format!("gw{number}.example:7800")).await });
        }
        while running.load(Ordering::SeqCst) == 0 || resolver.known.lock().len() < 1000 {
            std::thread::yield_now();
        }
        let threads = resolver.queue.state.lock().threads;
        assert_eq!(threads, MAX_LOOKUPS);
        let begun = Instant::now();
        drop(runtime);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        drop(release);
    }
}
