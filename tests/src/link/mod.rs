//! An emulated link between zones: datagrams that pass through it can be delayed, lost or cut off, pair by pair.
//!
//! A *front* stands for a gateway: whoever sends to the front's address reaches the gateway behind it, and the answers
//! come back from the same address. A tunnel that runs through a front therefore needs to know nothing of it. The
//! emulation has a thread of its own, so that a busy test does not slow it down. Order is kept; there is no rate limit.

mod conditions;
mod front;

use std::{collections::BTreeMap, net::SocketAddr, sync::Mutex, thread::JoinHandle};

use anyhow::Context;
use tokio::{runtime::Handle, sync::oneshot, sync::watch};

pub use conditions::Conditions;

/// A pair of zones, in the order of their names: what is done to a link is done to both directions.
type Pair = (String, String);

/// All links between the zones of one federation.
#[derive(Debug)]
pub struct Network {
    runtime: Handle,
    pairs: Mutex<BTreeMap<Pair, watch::Sender<Conditions>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// A network without links.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start the link emulator")?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("link".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(stopped);
            });
        Ok(Self {
            runtime: handle,
            pairs: Mutex::default(),
            stop: Some(stop),
            thread: Some(thread.context("start the link emulator")?),
        })
    }

    /// Opens a front at `address`, through which zone `from` reaches the gateway of zone `to` at `gateway`.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn connect(
        &self,
        (from, to): (&str, &str),
        address: SocketAddr,
        gateway: SocketAddr,
    ) -> anyhow::Result<SocketAddr> {
        let conditions = self.conditions(from, to).subscribe();
        let opening = front::open(address, gateway, conditions);
        let opened = self.runtime.spawn(opening).await.context("open a front")?;
        opened.with_context(|| format!("open a front at {address}"))
    }

    /// Changes the link between two zones from now on.
    pub fn set(&self, one: &str, other: &str, conditions: Conditions) {
        self.conditions(one, other).send_replace(conditions);
    }

    /// Changes every link of one zone.
    pub fn set_all(&self, zone: &str, conditions: Conditions) {
        let pairs = self
            .pairs
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for ((one, other), sender) in pairs.iter() {
            if one == zone || other == zone {
                sender.send_replace(conditions);
            }
        }
    }

    fn conditions(&self, one: &str, other: &str) -> watch::Sender<Conditions> {
        let pair = (one.min(other).to_owned(), one.max(other).to_owned());
        let mut pairs = self
            .pairs
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        pairs.entry(pair).or_default().clone()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
