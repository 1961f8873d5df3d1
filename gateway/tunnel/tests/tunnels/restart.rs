//! Tests of what tells a peer that is gone from one that is only silent.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use causeway_identity::ca::Ca;
use causeway_proto::tunnel::stream_reply::Outcome;
use causeway_tunnel::{Ended, EndpointKeys, Loss, Stream, Tunnel, read_reply};
use tokio::runtime::Handle;

use crate::support::{
    DAY, DOMAIN, Detour, Gate, Log, connect_header, echo, four_threads, id, none, one, until,
};

/// Idle timeout in tests where the end of a tunnel must have another reason.
const NEVER: Duration = Duration::from_secs(300);

/// A stream on which [`Held::say`] is answered by the peer.
struct Held(Stream);

impl Held {
    async fn open(tunnel: &Tunnel) -> Self {
        let mut stream = tunnel.open(&connect_header()).await.unwrap();
        let reply = read_reply(&mut stream.recv).await.unwrap();
        assert!(matches!(reply, Outcome::Ready(_)));
        Self(stream)
    }

    async fn send(&mut self, text: &str) {
        self.0.send.write_all(text.as_bytes()).await.unwrap();
    }

    async fn expect(&mut self, text: &str) {
        let mut answer = vec![0; text.len()];
        let read = tokio::time::timeout(Duration::from_secs(20), self.0.recv.read_exact(&mut answer));
        read.await.expect("an answer in time").unwrap();
        assert_eq!(answer, text.as_bytes());
    }

    async fn say(&mut self, text: &str) {
        self.send(text).await;
        self.expect(text).await;
    }
}

async fn ended(tunnel: &Arc<Tunnel>) -> Ended {
    until("the tunnel to end", || tunnel.ended()).await
}

#[tokio::test]
async fn a_hello_of_a_new_process_ends_the_tunnels_to_the_one_before() {
    let ca = Ca::new(DOMAIN).unwrap();
    let known = [("east", none()), ("plant", none())];
    let identity = |zone| ca.issue(&id(zone), DAY).unwrap();
    let here = [Handle::current()];
    let patient = |config: &mut causeway_tunnel::TunnelConfig| config.idle_timeout = NEVER;
    let east = Gate::with(identity("east"), &known, &here, patient);
    let detour = Detour::to(east.address()).await;
    let by_detour = [("east", one(detour.address)), ("plant", none())];
    let _before = Gate::with(identity("plant"), &by_detour, &here, patient);
    let old = east.tunnel_to("plant").await;
    let mut held = Held::open(&old).await;
    held.say("hello").await;

    detour.cut(true);
    let direct = [("east", one(east.address())), ("plant", none())];
    let _after = Gate::with(identity("plant"), &direct, &here, patient);
    assert_eq!(ended(&old).await, Ended::Lost(Loss::Reset));
    assert!(held.0.recv.read_exact(&mut [0]).await.is_err());
    let new = east.tunnel_to("plant").await;
    assert!(!Arc::ptr_eq(&old, &new));
    echo(&new, b"the process after").await;
}

#[tokio::test]
async fn two_processes_with_one_identity_are_told_of_and_do_not_end_each_others_tunnels_in_turns() {
    let log = Log::capture();
    let ca = Ca::new(DOMAIN).unwrap();
    let identity = |zone| ca.issue(&id(zone), DAY).unwrap();
    let east = Gate::new(identity("east"), &[("east", none()), ("plant", none())]);
    let zones = [("east", one(east.address())), ("plant", none())];
    let _one = Gate::new(identity("plant"), &zones);
    east.tunnel_to("plant").await;
    let _other = Gate::new(identity("plant"), &zones);
    log.says(
        "two processes run with the identity of one gateway",
        &[("peer", "plant/gw1")],
    )
    .await;
    until("both have a tunnel", || {
        (east.set.count(&id("plant")) == 2).then_some(())
    })
    .await;
    for tunnel in east.set.all() {
        echo(&tunnel, b"each goes on").await;
    }
}

#[tokio::test]
async fn a_process_that_finds_packets_for_the_one_before_resets_them_on_whichever_thread() {
    let ca = Ca::new(DOMAIN).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let known = [("east", none()), ("plant", none())];
    let threads = four_threads();
    // No keep-alive and no silence tells of the restart here, and nobody dials.
    let quiet = |config: &mut causeway_tunnel::TunnelConfig| {
        (config.keep_alive, config.idle_timeout) = (NEVER, NEVER);
        config.keys = EndpointKeys::kept_in(folder.path()).unwrap();
    };
    let east = || Gate::with(ca.issue(&id("east"), DAY).unwrap(), &known, &threads, quiet);
    let (before, after) = (east(), east());
    for _ in 0..8 {
        let detour = Detour::to(before.address()).await;
        let zones = [("east", one(detour.address)), ("plant", none())];
        let identity = ca.issue(&id("plant"), DAY).unwrap();
        let plant = Gate::with(identity, &zones, &threads[..1], |config| {
            (config.keep_alive, config.idle_timeout) = (NEVER, NEVER);
        });
        let tunnel = plant.tunnel_to("east").await;
        let mut held = Held::open(&tunnel).await;
        held.say("hello").await;
        detour.lead(after.address());
        held.send("is anybody there?").await;
        assert_eq!(ended(&tunnel).await, Ended::Lost(Loss::Reset));
    }
}

#[tokio::test]
async fn a_nat_that_rebinds_keeps_tunnels_and_their_streams_on_every_thread() {
    let ca = Ca::new(DOMAIN).unwrap();
    let threads = four_threads();
    let known = [("east", none()), ("plant", none())];
    let east = Gate::with(ca.issue(&id("east"), DAY).unwrap(), &known, &threads, |_| {});
    let detour = Detour::to(east.address()).await;
    let zones = [("east", one(detour.address)), ("plant", none())];
    let plant = Gate::new(ca.issue(&id("plant"), DAY).unwrap(), &zones);
    let tunnel = plant.tunnel_to("east").await;
    let far = east.tunnel_to("plant").await;
    let mut held = Held::open(&tunnel).await;
    held.say("hello").await;
    for _ in 0..8 {
        let address = far.remote_address();
        detour.rebind();
        held.say("from another address").await;
        until("the tunnel to move", || {
            (far.remote_address() != address).then_some(())
        })
        .await;
    }
    assert_eq!(tunnel.ended(), None);
}

#[tokio::test]
async fn what_is_open_outlives_a_silence_that_nothing_new_is_entrusted_to() {
    let ca = Ca::new(DOMAIN).unwrap();
    let known = [("east", none()), ("plant", none())];
    let here = [Handle::current()];
    let patient = |config: &mut causeway_tunnel::TunnelConfig| config.idle_timeout = NEVER;
    let east = Gate::with(ca.issue(&id("east"), DAY).unwrap(), &known, &here, patient);
    let detour = Detour::to(east.address()).await;
    let zones = [("east", one(detour.address)), ("plant", none())];
    let plant = Gate::with(ca.issue(&id("plant"), DAY).unwrap(), &zones, &here, patient);
    let first = plant.tunnel_to("east").await;
    let mut held = Held::open(&first).await;
    held.say("hello").await;

    detour.cut(true);
    held.send("said into the silence").await;
    until("it to count as gone", || {
        let gone = !plant.set.links().contains_key(&id("east"));
        (gone && plant.set.choose(&id("east"), 0).is_none()).then_some(())
    })
    .await;
    assert_eq!(first.ended(), None);
    detour.cut(false);
    held.expect("said into the silence").await;
    let chosen = plant.tunnel_to("east").await;
    echo(&chosen, b"there is a way again").await;
}

#[tokio::test]
async fn a_second_tunnel_is_dialled_as_soon_as_one_is_silent_and_the_first_keeps_its_streams() {
    let ca = Ca::new(DOMAIN).unwrap();
    let known = [("east", none()), ("plant", none())];
    let here = [Handle::current()];
    let patient = |config: &mut causeway_tunnel::TunnelConfig| config.idle_timeout = NEVER;
    let east = Gate::with(ca.issue(&id("east"), DAY).unwrap(), &known, &here, patient);
    let detour = Detour::to(east.address()).await;
    let addresses = vec![detour.address.to_string(), east.address().to_string()];
    let zones = [("east", vec![addresses]), ("plant", none())];
    let plant = Gate::with(ca.issue(&id("plant"), DAY).unwrap(), &zones, &here, patient);
    let first = plant.tunnel_to("east").await;
    assert_eq!(first.remote_address().port(), detour.address.port());
    let mut held = Held::open(&first).await;
    // As the data path counts those that it opens.
    first.streams().fetch_add(1, Ordering::Relaxed);
    held.say("hello").await;

    detour.cut(true);
    let cut = Instant::now();
    let second = until("a second tunnel", || {
        let chosen = plant.set.choose(&id("east"), 0);
        chosen.filter(|chosen| chosen.id() != first.id())
    })
    .await;
    echo(&second, b"the way around").await;
    assert!(cut.elapsed() < NEVER / 10, "{:?}", cut.elapsed());
    assert_eq!(first.ended(), None);

    detour.cut(false);
    held.say("the first is heard again").await;
    assert!(first.is_retiring() && !second.is_retiring());
    drop(held);
    first.streams().fetch_sub(1, Ordering::Relaxed);
    assert!(matches!(ended(&first).await, Ended::Closed { .. }));
    echo(&second, b"the second stays").await;
}
