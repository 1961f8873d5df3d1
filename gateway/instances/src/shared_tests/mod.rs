//! Gateways of one zone at a test server that is a zone-sync in memory, with real probes of HTTP instances that count them.

use std::{sync::atomic::Ordering, time::Duration};

use super::*;
use crate::{
    RegistrationStanding,
    attach::{
        AttachStatus,
        testing::{Server, Store},
    },
    sources::{SourceFeed, Troubles},
};

mod bench;

use bench::{
    EVERY, Gateway, Probed, eventually, key, orders, registration, topology, total, without_loopback,
};
use causeway_federation::registry::wire::UNTOUCHED;
use causeway_zone_sync::registry::Durability;
use tonic::{Status, metadata::MetadataValue};

#[tokio::test]
async fn two_gateways_share_the_checks_and_a_lost_one_leaves_its_share_to_the_other() {
    let instances = Probed::some(12).await;
    let (registered, fixed) = instances.split_at(8);
    let store = Store::default();
    registered.iter().for_each(|i| store.put(registration(i)));
    let server = Server::start(&store).await;
    let fixed: Vec<_> = fixed.iter().collect();
    let one = Gateway::start("gw1", &[&server], topology(EVERY, &fixed));
    one.until_healthy(12).await;
    let two = Gateway::start("gw2", &[&server], topology(EVERY, &fixed));
    for gateway in [&one, &two] {
        gateway.until_with(&["gw1", "gw2"]).await;
        gateway.until_healthy(12).await;
    }

    let (began, before) = (Instant::now(), (total(&instances), one.checks(), two.checks()));
    eventually("twenty rounds", || total(&instances) >= before.0 + 20 * 12).await;
    let most = began.elapsed().as_secs_f64() / EVERY.as_secs_f64() * 12.0;
    let made = total(&instances) - before.0;
    // Jitter shortens an interval by a tenth at most. If both checked everything it would be twice as many.
    assert!(
        (made as f64) < most * 1.3 + 12.0,
        "{made} probes are more than {most}"
    );
    let (by_one, by_two) = (one.checks() - before.1, two.checks() - before.2);
    for share in [by_one, by_two] {
        assert!(share * 4 > made, "{by_one} and {by_two} of {made}");
    }

    // What only the other one checks is known here too.
    let theirs = fixed.iter().copied().chain(registered);
    for instance in theirs.take(6) {
        instance.well.store(false, Ordering::Relaxed);
        for gateway in [&one, &two] {
            gateway.until_is(instance, Health::Unhealthy).await;
            let failure = gateway.status(instance).await.last_failure.unwrap();
            assert!(failure.reason.contains("503"), "{failure:?}");
        }
    }
    drop(one);
    two.until_with(&["gw2"]).await;
    let before: Vec<_> = instances.iter().map(Probed::probes).collect();
    eventually("all are checked by the one that is left", || {
        instances
            .iter()
            .zip(&before)
            .all(|(instance, before)| instance.probes() > before + 2)
    })
    .await;
    instances
        .iter()
        .for_each(|i| i.well.store(true, Ordering::Relaxed));
    two.until_healthy(12).await;
}

#[tokio::test]
async fn a_share_that_moves_keeps_the_last_known_health() {
    let instance = Probed::start().await;
    let store = Store::default();
    store.put(registration(&instance));
    let server = Server::start(&store).await;
    let slow = topology(Duration::from_secs(3600), &[]);
    let names = ["gw1", "gw2", "gw3", "gw4"];
    let mut gateways: Vec<_> = names
        .iter()
        .map(|name| Gateway::start(name, &[&server], slow.clone()))
        .collect();
    for gateway in &gateways {
        gateway.until_with(&names).await;
        gateway.until_healthy(1).await;
    }
    // The next check is an hour away, so whoever takes over goes by what was known.
    for _ in 1..names.len() {
        drop(gateways.remove(0));
        let left: Vec<_> = gateways.iter().map(|gateway| gateway.name.as_str()).collect();
        for gateway in &gateways {
            gateway.until_with(&left).await;
            assert_eq!(gateway.status(&instance).await.instance.health, Health::Healthy);
        }
    }
}

#[tokio::test]
async fn what_is_known_is_served_on_while_no_server_is_there_and_after_a_restart() {
    let instances = Probed::some(4).await;
    let store = Store::default();
    instances.iter().for_each(|i| store.put(registration(i)));
    let folder = tempfile::tempdir().unwrap();
    let data = || Some(folder.path().to_owned());
    let server = Server::start(&store).await;
    let address = server.address;
    let gateway = Gateway::start_in("gw1", &[&server], topology(EVERY, &[]), data());
    gateway.until_healthy(4).await;

    drop(server);
    gateway.until_attached(|status| status.attached.is_err()).await;
    // It is on its own: it sees by itself that an instance is down, and its leases do not run out.
    instances[0].well.store(false, Ordering::Relaxed);
    gateway.until_is(&instances[0], Health::Unhealthy).await;
    gateway.until(|all| all.len() == 4).await;

    gateway.instances.shutdown().await;
    drop(gateway);
    let again = Gateway::start_in("gw1", &[&Server::gone(address)], topology(EVERY, &[]), data());
    assert_eq!(again.published.borrow()[&orders()].len(), 4, "at once, from disk");
    again.until_is(&instances[1], Health::Healthy).await;

    // One went while nobody looked; it goes when the server has told everything, and not before.
    store.lose(&key(&instances[1]));
    instances[0].well.store(true, Ordering::Relaxed);
    let _server = Server::start_at(&store, address).await;
    again.until_healthy(3).await;
    again.until_with(&["gw1"]).await;
}

#[tokio::test]
async fn a_gateway_moves_to_the_second_server_and_takes_up_what_happened_meanwhile() {
    let instances = Probed::some(3).await;
    let store = Store::default();
    store.put(registration(&instances[0]));
    let servers = [Server::start(&store).await, Server::start(&store).await];
    let gateway = Gateway::start("gw1", &[&servers[0], &servers[1]], topology(EVERY, &[]));
    gateway.until_healthy(1).await;
    let [first, second] = servers;
    let at = |status: &AttachStatus, server: &Server| {
        status
            .attached
            .as_ref()
            .is_ok_and(|a| a.server == server.address.to_string())
    };
    let status = gateway.until_attached(|status| status.attached.is_ok()).await;
    let (lost, left) = if at(&status, &first) {
        (first, second)
    } else {
        (second, first)
    };
    drop(lost);
    store.put(registration(&instances[1]));
    store.put(registration(&instances[2]));
    store.lose(&key(&instances[0]));
    let status = gateway.until_attached(|status| at(status, &left)).await;
    assert_eq!(status.attachments, 2);
    // What is still under way to the first one is of another session.
    let sessions = store.sessions();
    assert!(sessions.len() == 2 && sessions[0] != sessions[1], "{sessions:?}");
    gateway.until_healthy(2).await;
    assert_eq!(store.gateways().len(), 1);
}

#[tokio::test]
async fn registrations_are_passed_on_and_refused_when_nobody_can_take_them() {
    let instances = Probed::some(2).await;
    let store = Store::default();
    let server = Server::start(&store).await;
    let one = Gateway::start("gw1", &[&server], topology(EVERY, &[]));
    let two = Gateway::start("gw2", &[&server], topology(EVERY, &[]));
    let accepted = one.instances.register(registration(&instances[0])).await.unwrap();
    assert_eq!(
        (accepted.standing, accepted.durability),
        (RegistrationStanding::InForce, Durability::Durable)
    );
    for gateway in [&one, &two] {
        gateway.until_healthy(1).await;
    }
    two.instances.renew(&orders(), &instances[0].id()).await.unwrap();
    let unknown = two.instances.renew(&orders(), "nobody").await;
    assert!(matches!(unknown, Err(RegistryError::NotFound(_))), "{unknown:?}");
    let mut bad = registration(&instances[1]);
    bad.weight = u32::MAX;
    let refused = one.instances.register(bad).await.unwrap_err();
    assert!(
        matches!(&refused, RegistryError::Refused { word, .. } if word == "bad_weight"),
        "{refused:?}"
    );
    two.instances
        .deregister(&orders(), &instances[0].id())
        .await
        .unwrap();
    one.until(<[_]>::is_empty).await;

    drop(server);
    let refused = one.instances.register(registration(&instances[1])).await;
    // Whether the call had reached it is for the connection to say.
    assert!(
        matches!(
            refused,
            Err(RegistryError::Away(_) | RegistryError::NothingDone(_))
        ),
        "{refused:?}"
    );
    assert!(store.ids().is_empty());
    one.until(<[_]>::is_empty).await;
}

#[tokio::test]
async fn a_deregistration_whose_answer_was_lost_is_done_when_it_is_asked_for_again() {
    let instances = Probed::some(1).await;
    let store = Store::default();
    let server = Server::start(&store).await;
    let gateway = Gateway::start("gw1", &[&server], topology(EVERY, &[]));
    let id = instances[0].id();
    gateway
        .instances
        .register(registration(&instances[0]))
        .await
        .unwrap();
    store.lose_answer();
    let done = gateway.instances.deregister(&orders(), &id).await;
    assert_eq!(done, Ok(Durability::Durable));
    assert!(store.ids().is_empty());
    let unknown = gateway.instances.deregister(&orders(), &id).await;
    assert!(matches!(unknown, Err(RegistryError::NotFound(_))), "{unknown:?}");
}

#[tokio::test]
async fn who_registers_is_told_that_nothing_was_done_where_that_is_certain_and_only_there() {
    let instances = Probed::some(1).await;
    let refused = async |refusal: Status| {
        let store = Store::default();
        let server = Server::start(&store).await;
        let gateway = Gateway::start("gw1", &[&server], topology(EVERY, &[]));
        gateway.until_with(&["gw1"]).await;
        store.refuse(refusal);
        let register = gateway.instances.register(registration(&instances[0]));
        let refused = register.await.unwrap_err();
        let attempts = store.attempts().into_iter();
        let attempts: Vec<_> = attempts
            .map(|call| {
                assert_eq!([call.session.to_string()].as_slice(), store.sessions());
                call.epoch
            })
            .collect();
        (refused, attempts)
    };
    let mut surely = Status::unavailable("etcd is away");
    surely
        .metadata_mut()
        .insert(UNTOUCHED, MetadataValue::from_static("true"));
    let (surely, unknown, denied) = tokio::join!(
        refused(surely),
        refused(Status::unavailable("etcd did not answer")),
        refused(Status::unauthenticated("no_credentials")),
    );
    assert_eq!(surely.0, RegistryError::NothingDone("etcd is away".to_owned()));
    assert_eq!(unknown.0, RegistryError::Away("etcd did not answer".to_owned()));
    assert_eq!(denied.0, RegistryError::NothingDone("no_credentials".to_owned()));
    // An attempt of which it is not known what was done is given up before the next: it must not be carried out after it.
    assert!(
        surely.1.len() > 1 && surely.1.iter().all(|epoch| *epoch == 0),
        "{surely:?}"
    );
    let each: Vec<_> = (0..).take(unknown.1.len()).collect();
    assert!(each.len() > 1 && unknown.1 == each, "{unknown:?}");
    // Nobody was ever there to be asked.
    let server = Server::start(&Store::default()).await;
    let address = server.address;
    drop(server);
    let alone = Gateway::start("gw1", &[&Server::gone(address)], topology(EVERY, &[]));
    let nobody = alone.instances.register(registration(&instances[0])).await;
    assert!(matches!(nobody, Err(RegistryError::NothingDone(_))), "{nobody:?}");
}

#[tokio::test]
async fn what_a_folder_says_at_one_gateway_is_known_at_all_and_what_dns_says_stays() {
    let instances = Probed::some(3).await;
    let store = Store::default();
    store.put(registration(&instances[0]));
    let server = Server::start(&store).await;
    let one = Gateway::start("gw1", &[&server], topology(EVERY, &[]));
    let two = Gateway::start("gw2", &[&server], topology(EVERY, &[]));
    let lasting = |instance: &Probed| Registration {
        time_to_live: None,
        ..registration(instance)
    };
    let folder = one
        .instances
        .replace(InstanceSource::Folder, vec![lasting(&instances[1])])
        .await;
    assert_eq!(folder.unwrap().0.added, 1);
    one.instances
        .replace(InstanceSource::Dns, vec![lasting(&instances[2])])
        .await
        .unwrap();
    one.until_healthy(3).await;
    two.until_healthy(2).await;
    assert_eq!(two.status(&instances[1]).await.source.as_str(), "folder-gw1");
    // The folder of another gateway is another source.
    two.instances
        .replace(InstanceSource::Folder, Vec::new())
        .await
        .unwrap();
    two.until_healthy(2).await;
    one.instances
        .replace(InstanceSource::Folder, Vec::new())
        .await
        .unwrap();
    two.until_healthy(1).await;
    one.until_healthy(2).await;
}

#[tokio::test]
async fn what_the_topology_does_not_allow_is_left_out_until_it_does() {
    let instance = Probed::start().await;
    let store = Store::default();
    store.put(registration(&instance));
    store.put(Registration {
        id: "far".to_owned(),
        address: "203.0.113.7:80".parse().unwrap(),
        ..registration(&instance)
    });
    let server = Server::start(&store).await;
    let gateway = Gateway::start("gw1", &[&server], without_loopback(EVERY));
    // Nothing answers there; it comes in one view with the other.
    gateway
        .until(|all| all.iter().map(|(id, _)| id).eq(["far"]))
        .await;
    let refused = gateway.instances.register(registration(&instance)).await;
    assert_eq!(refused.unwrap_err().word(), "forbidden_address");
    gateway.set_topology(topology(EVERY, &[]));
    gateway.until_is(&instance, Health::Healthy).await;
    // What is known already is not connected to any more.
    gateway.set_topology(without_loopback(EVERY));
    gateway.until_is(&instance, Health::Unhealthy).await;
}

#[tokio::test]
async fn what_a_folder_says_reaches_a_zone_sync_that_comes_later() {
    let instance = Probed::start().await;
    let store = Store::default();
    let address = Server::start(&store).await.address;
    let gateway = Gateway::start("gw1", &[&Server::gone(address)], topology(EVERY, &[]));
    let troubles = Troubles::default();
    let mut feed = SourceFeed::new(
        InstanceSource::Folder,
        gateway.instances.clone(),
        troubles.clone(),
    );
    let lasting = Registration {
        time_to_live: None,
        ..registration(&instance)
    };
    feed.hand_over(vec![lasting.clone()]).await;
    assert_eq!(troubles.list().len(), 1, "the trouble is told");
    let _server = Server::start_at(&store, address).await;
    // As a source does at each look at its folder.
    while !troubles.list().is_empty() {
        feed.hand_over(vec![lasting.clone()]).await;
    }
    gateway.until_healthy(1).await;
    assert_eq!((troubles.list(), store.ids().len()), (Vec::new(), 1));
}

#[tokio::test]
async fn a_gateway_that_cannot_connect_doubts_what_another_finds_healthy() {
    let is_two = |instance: &&Probed| crate::health::checker(["gw1", "gw2"], &key(instance)) == Some("gw2");
    let instances = loop {
        // Who checks one depends on its port.
        let some = Probed::some(8).await;
        if some.iter().filter(is_two).count() >= 2 {
            break some;
        }
    };
    let store = Store::default();
    instances.iter().for_each(|i| store.put(registration(i)));
    let server = Server::start(&store).await;
    let slow = topology(Duration::from_secs(3600), &[]);
    let two = Gateway::start("gw2", &[&server], slow.clone());
    eventually("everything is told of", || store.reports().len() == 8).await;
    // So that it hears of every instance before it could look for itself.
    let one = Gateway::start("gw1", &[&server], slow);
    for gateway in [&one, &two] {
        gateway.until_with(&["gw1", "gw2"]).await;
        gateway.until_healthy(8).await;
    }
    let theirs = instances.iter().find(is_two).unwrap();
    // As from this gateway's side of a broken switch: the checker, whose next look is an hour away, sees nothing of it.
    theirs.well.store(false, Ordering::Relaxed);
    one.instances.connect_failures().report(&orders(), &theirs.id());
    one.until_is(theirs, Health::Unhealthy).await;
    assert_eq!(two.status(theirs).await.instance.health, Health::Healthy);
    assert!(store.reports()[&theirs.id()].1, "the zone is not told of a doubt");

    // A doubt that a probe does not confirm changes nothing, and costs one probe.
    let other = instances.iter().filter(is_two).nth(1).unwrap();
    let before = other.probes();
    one.instances.connect_failures().report(&orders(), &other.id());
    eventually("the probe", || other.probes() == before + 1).await;
    one.until_is(other, Health::Healthy).await;
}

#[tokio::test]
async fn what_was_registered_before_the_registry_was_shared_is_carried_over() {
    let instances = Probed::some(4).await;
    let folder = tempfile::tempdir().unwrap();
    let data = || Some(folder.path().to_owned());
    let alone = Gateway::alone(topology(EVERY, &[]), data());
    for instance in &instances[..2] {
        alone.instances.register(registration(instance)).await.unwrap();
    }
    let consul = InstanceSource::named("consul").unwrap();
    let mut listed = registration(&instances[2]);
    listed.time_to_live = None;
    alone
        .instances
        .replace(consul.clone(), vec![listed])
        .await
        .unwrap();
    alone.until_healthy(3).await;
    alone.instances.shutdown().await;
    // Of the first one somebody has told the shared registry something newer.
    let store = Store::default();
    let mut newer = registration(&instances[0]);
    newer.address = instances[3].address;
    store.put(newer);
    let server = Server::start(&store).await;
    let gateway = Gateway::start_in("gw1", &[&server], topology(EVERY, &[]), data());
    gateway.until_healthy(3).await;
    let all = gateway.instances.status(None).await.unwrap();
    let addresses: Vec<_> = all.iter().map(|status| status.instance.address).collect();
    for (instance, is_there) in instances.iter().zip([false, true, true, true]) {
        assert_eq!(addresses.contains(&instance.address), is_there, "{addresses:?}");
    }
    let of_consul = all.iter().filter(|status| status.source == consul);
    assert_eq!(of_consul.count(), 1);
    let aside = folder.path().join("registry.redb.carried-over");
    eventually("the file is set aside", || aside.exists()).await;
    assert!(!folder.path().join("registry.redb").exists());
}
