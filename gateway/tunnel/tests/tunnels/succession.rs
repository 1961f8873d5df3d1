//! Tests of a process that takes the place of another one on its sockets.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use causeway_host::handed::HandedSockets;
use causeway_identity::ca::Ca;
use causeway_tunnel::{DatagramRelay, EndpointKeys, Predecessor};
use tokio::runtime::Handle;

use crate::support::{DAY, DOMAIN, Gate, echo, id, none, one, until};

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn until_a_successor_reads_the_sockets_the_process_before_does_and_then_it_relays() {
    let ca = Ca::new(DOMAIN).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let keys = || EndpointKeys::kept_in(folder.path()).unwrap();
    let known = [("east", none()), ("plant", none())];
    let handed = HandedSockets::default();
    let identity = |zone| ca.issue(&id(zone), DAY).unwrap();
    let here = [Handle::current()];
    let before = Gate::with(identity("east"), &known, &here, |config| {
        (config.keys, config.handed) = (keys(), handed.clone());
    });
    let zones = [("east", one(before.address())), ("plant", none())];
    let plant = Gate::new(identity("plant"), &zones);
    let old = plant.tunnel_to("east").await;

    let (ahead, behind) = DatagramRelay::pair().unwrap();
    let succession = before.tunnels.succession();
    before.tunnels.hand_over(behind);
    for _ in 0..3 {
        let echoed = echo(&old, b"nobody else reads yet");
        tokio::time::timeout(PATIENCE, echoed).await.unwrap();
    }
    let way = DatagramRelay::new(succession.places, ahead).unwrap();
    let owned = |socket: &Arc<_>| AsFd::as_fd(socket).try_clone_to_owned().unwrap();
    let sockets: Vec<OwnedFd> = handed.own().iter().map(owned).collect();
    assert!(!sockets.is_empty());
    let after = Gate::with(identity("east"), &known, &here, |config| {
        (config.keys, config.listen) = (keys(), before.address());
        config.handed = HandedSockets::inherited(sockets);
        config.predecessor = Some(Predecessor {
            start_id: succession.start_id,
            places: succession.places.next(here.len()),
            relays: vec![Arc::new(way)],
        });
    });
    assert_eq!(after.address(), before.address());
    let new = until("a tunnel to the successor", || {
        plant
            .set
            .choose(&id("east"), 0)
            .filter(|tunnel| !Arc::ptr_eq(tunnel, &old))
    });
    echo(&new.await, b"the successor").await;
    echo(&old, b"relayed to the process before").await;
    assert!(old.ended().is_none());
}
