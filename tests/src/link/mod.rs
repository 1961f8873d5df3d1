//! An emulated link between zones: datagrams that pass through it can be delayed, lost or cut off, pair by pair.
//!
//! A *front* stands for a gateway: whoever sends to the front's address reaches the gateway behind it, and the answers
//! come back from the same address. A tunnel that runs through a front therefore needs to know nothing of it. The
//! emulation has a thread of its own, so that a busy test does not slow it down. Order is kept; there is no rate limit.

mod conditions;
mod front;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    thread::JoinHandle,
};

use anyhow::Context;
use tokio::{runtime::Handle, sync::oneshot, sync::watch};

pub use conditions::Conditions;
use front::Way;

/// One direction of a link: from a zone to a zone.
type Direction = (String, String);

/// All links between the zones of one federation.
#[derive(Debug)]
pub struct Network {
    runtime: Handle,
    directions: Mutex<BTreeMap<Direction, watch::Sender<Conditions>>>,
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
            directions: Mutex::default(),
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
        let way = self.way(from, to);
        self.open(address, gateway, Box::new(move |_| Some(way.clone())))
            .await
    }

    /// Opens a front at `address` for the gateway of zone `to` that serves several zones, told apart by the addresses that
    /// they send from. Datagrams from elsewhere are dropped.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn connect_all(
        &self,
        from: &BTreeMap<IpAddr, String>,
        to: &str,
        address: SocketAddr,
        gateway: SocketAddr,
    ) -> anyhow::Result<SocketAddr> {
        let ways: BTreeMap<IpAddr, Way> = from
            .iter()
            .map(|(sender, zone)| (*sender, self.way(zone, to)))
            .collect();
        let ways = move |sender| ways.get(&sender).cloned();
        self.open(address, gateway, Box::new(ways)).await
    }

    async fn open(
        &self,
        address: SocketAddr,
        gateway: SocketAddr,
        ways: front::Ways,
    ) -> anyhow::Result<SocketAddr> {
        let opened = self.runtime.spawn(front::open(address, gateway, ways)).await;
        opened
            .context("open a front")?
            .with_context(|| format!("open a front at {address}"))
    }

    /// Changes the link between two zones from now on, in both directions.
    pub fn set(&self, one: &str, other: &str, conditions: Conditions) {
        self.set_direction(one, other, conditions);
        self.set_direction(other, one, conditions);
    }

    /// Changes what happens to datagrams on their way from one zone to another, whoever of the two opened the tunnel.
    pub fn set_direction(&self, from: &str, to: &str, conditions: Conditions) {
        self.direction(from, to).send_replace(conditions);
    }

    /// Changes every link of one zone.
    pub fn set_all(&self, zone: &str, conditions: Conditions) {
        let directions = self.directions.lock().unwrap_or_else(PoisonError::into_inner);
        for ((from, to), sender) in directions.iter() {
            if from == zone || to == zone {
                sender.send_replace(conditions);
            }
        }
    }

    fn way(&self, from: &str, to: &str) -> Way {
        Way {
            there: self.direction(from, to).subscribe(),
            back: self.direction(to, from).subscribe(),
        }
    }

    fn direction(&self, from: &str, to: &str) -> watch::Sender<Conditions> {
        let mut directions = self.directions.lock().unwrap_or_else(PoisonError::into_inner);
        directions
            .entry((from.to_owned(), to.to_owned()))
            .or_default()
            .clone()
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
