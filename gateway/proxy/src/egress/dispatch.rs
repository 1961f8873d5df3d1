//! Hands a client from the data thread that accepted it to the one that serves it: the one with the fewest connections, so
//! that one busy service is spread over all threads although one of them accepts for it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::mpsc};

use super::accept::AcceptedClient;
use crate::open::OpenConnections;

/// Clients that may wait for a data thread to take them. Where that is not enough, the thread that accepted serves them itself.
const MAX_WAITING: usize = 1024;

/// Sender of clients to every data thread. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Dispatch {
    queues: Arc<[mpsc::Sender<GivenClient>]>,
    /// Clients by thread that are not among the open connections yet: they wait, or shake hands.
    pending: Arc<[AtomicUsize]>,
    open: Arc<OpenConnections>,
}

/// Client on the way to another data thread. Its socket is of no runtime meanwhile.
#[derive(Debug)]
pub(super) struct GivenClient {
    socket: std::net::TcpStream,
    pub(super) client: AcceptedClient,
}

impl GivenClient {
    /// Takes the client up on the runtime of the calling thread.
    pub(super) fn take_up(self) -> io::Result<(TcpStream, AcceptedClient)> {
        Ok((TcpStream::from_std(self.socket)?, self.client))
    }
}

/// Clients that were given to one data thread.
pub(super) type ClientQueue = mpsc::Receiver<GivenClient>;

/// Each data thread's end, until it takes it.
#[derive(Debug)]
pub(super) struct DispatchEnds(Mutex<Vec<Option<(Dispatch, ClientQueue)>>>);

impl DispatchEnds {
    pub(super) fn new(threads: usize, open: &Arc<OpenConnections>) -> Self {
        let channels = (0..threads.max(1)).map(|_| mpsc::channel(MAX_WAITING));
        let (queues, receivers): (Vec<_>, Vec<_>) = channels.unzip();
        let dispatch = Dispatch {
            pending: queues.iter().map(|_| AtomicUsize::new(0)).collect(),
            queues: queues.into(),
            open: open.clone(),
        };
        let ends = receivers.into_iter().map(|queue| Some((dispatch.clone(), queue)));
        Self(Mutex::new(ends.collect()))
    }

    /// Takes the end of a data thread; `None`: it has it already. A queue ends once every thread has dropped its [`Dispatch`].
    pub(super) fn take(&self, thread: usize) -> Option<(Dispatch, ClientQueue)> {
        self.0.lock().get_mut(thread)?.take()
    }
}

impl Dispatch {
    /// Picks the data thread for a client that `own` has accepted, and counts the client as pending there.
    pub(super) fn pick(&self, own: usize) -> PendingClient {
        let loads = self.pending.iter().enumerate();
        let loads =
            loads.map(|(thread, pending)| self.open.count_of(thread) + pending.load(Ordering::Relaxed));
        PendingClient::new(self.pending.clone(), least_loaded(own, loads))
    }

    /// Gives a client to the thread that was picked for it. Returns it when that is `own`, or has no room for another: then
    /// `own` serves it.
    ///
    /// # Errors
    /// When the socket cannot be taken from this thread's runtime.
    pub(super) fn give(
        &self,
        own: usize,
        socket: TcpStream,
        mut client: AcceptedClient,
    ) -> io::Result<Option<(TcpStream, AcceptedClient)>> {
        let thread = client.pending.thread;
        if thread == own {
            return Ok(Some((socket, client)));
        }
        // The queue of a thread that has ended is closed; this one is about to end as well.
        let Ok(place) = self.queues[thread].try_reserve() else {
            client.pending = PendingClient::new(self.pending.clone(), own);
            return Ok(Some((socket, client)));
        };
        let socket = socket.into_std()?;
        place.send(GivenClient { socket, client });
        Ok(None)
    }
}

/// Returns the thread with the least load; among equals `own`, which saves waking another, or else the first.
fn least_loaded(own: usize, loads: impl Iterator<Item = usize>) -> usize {
    let least = loads
        .enumerate()
        .min_by_key(|(thread, load)| (*load, *thread != own));
    least.map_or(own, |(thread, _)| thread)
}

/// Counts a client with a thread until it is among the open connections there, or is refused.
#[derive(Debug)]
pub(super) struct PendingClient {
    pending: Arc<[AtomicUsize]>,
    thread: usize,
}

impl PendingClient {
    fn new(pending: Arc<[AtomicUsize]>, thread: usize) -> Self {
        pending[thread].fetch_add(1, Ordering::Relaxed);
        Self { pending, thread }
    }
}

impl Drop for PendingClient {
    fn drop(&mut self) {
        self.pending[self.thread].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_thread_is_picked_and_among_equals_the_own() {
        let pick = |own, loads: &[usize]| least_loaded(own, loads.iter().copied());
        assert_eq!(pick(0, &[3, 2, 4]), 1);
        assert_eq!(pick(2, &[2, 2, 2]), 2);
        assert_eq!(pick(2, &[2, 2, 3]), 0);
        assert_eq!(pick(0, &[5]), 0);
    }
}
