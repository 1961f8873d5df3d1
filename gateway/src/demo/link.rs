//! The network between two gateways of the demo: a UDP forwarder with a switch that drops every packet, both ways and
//! without a word, as a broken path does. It delays nothing and keeps no queue beyond the kernel's.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{net::UdpSocket, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Largest datagram in bytes.
const MAX_DATAGRAM_BYTES: usize = 65_535;
/// Senders that one link remembers; a gateway of the demo has one data thread, which dials from one port.
const MAX_SENDERS: usize = 64;
/// Pause after a failed receive, so that a gateway that is gone does not make the link spin.
const AFTER_FAILURE: Duration = Duration::from_millis(5);

/// A path to one gateway. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct DemoLink {
    address: SocketAddr,
    gateway: watch::Sender<Option<SocketAddr>>,
    cut: Arc<AtomicBool>,
    _running: DropGuard,
}

impl DemoLink {
    /// Opens the near end on loopback. Packets are dropped until [`DemoLink::lead_to`] names the far end.
    pub(super) async fn open() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let stop = CancellationToken::new();
        let forwarder = Forwarder {
            near: Arc::new(socket),
            gateway: watch::Sender::new(None),
            cut: Arc::default(),
            stop: stop.clone(),
        };
        let (gateway, cut) = (forwarder.gateway.clone(), forwarder.cut.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(forwarder.run()));
        Ok(Self {
            address,
            gateway,
            cut,
            _running: stop.drop_guard(),
        })
    }

    /// Returns the address of the gateway as it seems to whoever dials it through this link.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn lead_to(&self, gateway: SocketAddr) {
        self.gateway.send_replace(Some(gateway));
    }

    /// Drops every packet from now on, or no longer.
    pub(super) fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }
}

struct Forwarder {
    near: Arc<UdpSocket>,
    gateway: watch::Sender<Option<SocketAddr>>,
    cut: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Forwarder {
    async fn run(self) {
        let mut senders: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        loop {
            let Ok((length, sender)) = self.near.recv_from(&mut buffer).await else {
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            };
            if self.cut.load(Ordering::Relaxed) {
                continue;
            }
            if !senders.contains_key(&sender) && senders.len() < MAX_SENDERS {
                // A sender that cannot be served yet is looked at again with its next packet.
                if let Some(far) = self.towards_gateway(sender).await {
                    senders.insert(sender, far);
                }
            }
            if let Some(far) = senders.get(&sender) {
                // What cannot be sent is lost, as on any network.
                let _ = far.send(&buffer[..length]).await;
            }
        }
    }

    /// A socket of this sender's own towards the gateway, whose answers go back to it.
    async fn towards_gateway(&self, sender: SocketAddr) -> Option<Arc<UdpSocket>> {
        let gateway = (*self.gateway.borrow())?;
        let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.ok()?;
        far.connect(gateway).await.ok()?;
        let far = Arc::new(far);
        let answers = answer(far.clone(), self.near.clone(), sender, self.cut.clone());
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(answers));
        Some(far)
    }
}

async fn answer(far: Arc<UdpSocket>, near: Arc<UdpSocket>, sender: SocketAddr, cut: Arc<AtomicBool>) {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        match far.recv(&mut buffer).await {
            Ok(_) if cut.load(Ordering::Relaxed) => {}
            Ok(length) => {
                // What cannot be sent is lost, as on any network.
                let _ = near.send_to(&buffer[..length], sender).await;
            }
            Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longest that a packet on loopback is waited for.
    const PATIENCE: Duration = Duration::from_secs(10);

    async fn socket() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").await.unwrap()
    }

    async fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
        let mut buffer = [0; 64];
        let received = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer)).await;
        let (length, from) = received.expect("a packet in time").unwrap();
        (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
    }

    #[tokio::test]
    async fn a_cut_link_drops_packets_both_ways_until_it_is_healed() {
        let (client, gateway, link) = (socket().await, socket().await, DemoLink::open().await.unwrap());
        link.lead_to(gateway.local_addr().unwrap());
        client.send_to(b"one", link.address()).await.unwrap();
        let (text, back) = receive(&gateway).await;
        assert_eq!(text, "one");
        gateway.send_to(b"answer one", back).await.unwrap();
        assert_eq!(receive(&client).await, ("answer one".to_owned(), link.address()));

        link.set_cut(true);
        client.send_to(b"lost", link.address()).await.unwrap();
        gateway.send_to(b"lost answer", back).await.unwrap();
        // Each forwarding task drops its packet within microseconds; a probe through another link is no proof of it, so
        // this gives them far longer than they need before the link is healed.
        tokio::time::sleep(Duration::from_millis(100)).await;
        link.set_cut(false);
        client.send_to(b"two", link.address()).await.unwrap();
        assert_eq!(receive(&gateway).await.0, "two");
        gateway.send_to(b"answer two", back).await.unwrap();
        assert_eq!(receive(&client).await.0, "answer two");
    }
}
