//! The shared registry of a zone: several `causeway zone-sync` over a real etcd of three members, and what they survive.

mod attached;
mod etcd_away;
mod late_calls;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use attached::Gateway;
use causeway_proto::registry::{
    DeregisterRequest, Health, ReplaceRequest, WatchEvent, WatchRequest, registry_client::RegistryClient,
    watch_event::Event,
};
use causeway_tests::{
    etcd::Etcd,
    measured::measured,
    wait::until_true,
    zone_sync::{ZoneSyncProcess, heartbeat, instances, key, next, register, registration},
};
use tonic::{Code, Streaming, transport::Channel};

/// For anything that must happen, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

type Client = RegistryClient<Channel>;

async fn ids(client: &mut Client) -> BTreeSet<String> {
    let all = instances(client).await.unwrap_or_default();
    all.into_iter()
        .filter_map(|instance| Some(instance.registration?.id))
        .collect()
}

fn numbered(numbers: impl Iterator<Item = u32>) -> BTreeSet<String> {
    numbers.map(|number| key(number).id).collect()
}

async fn registered(client: &mut Client, numbers: std::ops::Range<u32>, time_to_live: Option<Duration>) {
    let all: Vec<_> = numbers.map(|number| registration(number, time_to_live)).collect();
    for part in all.chunks(1_000) {
        let refusals = register(client, part.to_vec()).await.unwrap();
        assert!(refusals.iter().all(String::is_empty) && refusals.len() == part.len());
    }
}

async fn what_is_wrong_is_refused_by_itself(etcd: &Etcd, client: &mut Client) {
    let mut registry_itself = registration(3, None);
    registry_itself.address = etcd.addresses()[2].replace("http://", "");
    let bad = vec![
        registration(1, Some(Duration::from_millis(1))),
        registration(2, None),
        registry_itself,
    ];
    assert_eq!(
        register(client, bad).await.unwrap(),
        ["bad_time_to_live", "", "forbidden_address"]
    );
}

#[tokio::test]
async fn what_one_zone_sync_takes_every_other_tells() {
    let etcd = Etcd::start(3).await.unwrap();
    let (one, two) = (
        ZoneSyncProcess::ready(&etcd, 0).await.unwrap(),
        ZoneSyncProcess::ready(&etcd, 1).await.unwrap(),
    );
    let (mut one, mut two) = (
        one.client().await.map(|c| (one, c)).unwrap(),
        two.client().await.map(|c| (two, c)).unwrap(),
    );

    let started = Instant::now();
    registered(&mut one.1, 0..3_000, None).await;
    measured(&format!(
        "3,000 instances were registered in {:?}",
        started.elapsed()
    ));
    until_true("the other knows them", PATIENCE, async || {
        ids(&mut two.1).await == numbered(0..3_000)
    })
    .await;

    // An id that comes back at another address is the same instance.
    let mut moved = registration(7, None);
    moved.address = "10.9.9.9:1".to_owned();
    register(&mut two.1, vec![moved]).await.unwrap();
    until_true("it moved", PATIENCE, async || {
        let all = instances(&mut one.1).await.unwrap();
        all.len() == 3_000
            && all
                .iter()
                .filter_map(|i| i.registration.as_ref())
                .any(|r| r.address == "10.9.9.9:1")
    })
    .await;

    let keys = vec![key(7), key(8), key(999_999)];
    let reply = two
        .1
        .deregister(DeregisterRequest { keys })
        .await
        .unwrap()
        .into_inner();
    let refusals: Vec<_> = reply
        .outcomes
        .iter()
        .map(|outcome| outcome.refusal.as_str())
        .collect();
    assert_eq!(refusals, ["", "", "not_found"]);
    until_true("they are gone", PATIENCE, async || {
        ids(&mut one.1).await.len() == 2_998
    })
    .await;

    what_is_wrong_is_refused_by_itself(&etcd, &mut one.1).await;
    a_source_holds_exactly_what_it_handed_over(&mut one.1, &mut two.1).await;

    // Every change is in the audit log, which is part of the log here.
    let log = one.0.log();
    let audited = |parts: [&str; 3]| {
        let fits =
            |line: &str| line.contains("causeway::audit") && parts.iter().all(|part| line.contains(part));
        log.lines().any(fits)
    };
    assert!(
        audited(["Registry/Register", "who=\"local uid", "done=1 refused=2"]),
        "{log}"
    );
    assert!(
        audited(["Registry/Replace", "object=\"consul\"", "done=110"]),
        "{log}"
    );
    assert!(!log.contains("Registry/Watch"), "watching changes nothing");
}

async fn a_source_holds_exactly_what_it_handed_over(one: &mut Client, two: &mut Client) {
    let hand_over = async |client: &mut Client, numbers: std::ops::Range<u32>| {
        let registrations = numbers.map(|number| registration(number, None)).collect();
        let message = ReplaceRequest {
            source: "consul".to_owned(),
            registrations,
        };
        client
            .replace(tokio_stream::iter([message]))
            .await
            .unwrap()
            .into_inner()
    };
    // 10 of these are registered as well, and stay so when the source drops them.
    let reply = hand_over(one, 2_990..3_100).await;
    assert_eq!((reply.added, reply.changed, reply.removed), (110, 0, 0));
    until_true("the other knows them", PATIENCE, async || {
        ids(two).await.len() == 3_098
    })
    .await;
    let reply = hand_over(two, 3_050..3_060).await;
    assert_eq!((reply.added, reply.changed, reply.removed), (0, 0, 100));
    until_true("they are gone", PATIENCE, async || ids(one).await.len() == 3_008).await;
    assert!(ids(one).await.contains("i2995"));
}

#[tokio::test]
async fn an_instance_that_falls_silent_goes_and_others_stay_through_the_loss_of_a_zone_sync() {
    let time_to_live = Some(Duration::from_secs(3));
    let etcd = Etcd::start(3).await.unwrap();
    let mut one = ZoneSyncProcess::ready(&etcd, 0).await.unwrap();
    let two = ZoneSyncProcess::ready(&etcd, 1).await.unwrap();
    let (mut at_one, mut at_two) = (one.client().await.unwrap(), two.client().await.unwrap());
    registered(&mut at_one, 0..300, time_to_live).await;

    // 200 keep sending heartbeats; the rest is silent.
    let all: Vec<_> = (0..200).map(key).collect();
    let started = Instant::now();
    until_true("the silent ones are gone", PATIENCE, async || {
        assert!(
            heartbeat(&mut at_one, all.clone())
                .await
                .unwrap()
                .iter()
                .all(String::is_empty)
        );
        ids(&mut at_two).await == numbered(0..200)
    })
    .await;
    assert!(started.elapsed() >= Duration::from_secs(2), "they went too early");
    // 300 were registered and 100 deleted. Heartbeats cost etcd nothing.
    until_true("the deletions are counted", PATIENCE, async || {
        one.metric("writes_total")
            .await
            .is_ok_and(|writes| writes > 399.5)
    })
    .await;
    for _ in 0..5 {
        heartbeat(&mut at_one, all.clone()).await.unwrap();
    }
    assert!((one.metric("writes_total").await.unwrap() - 400.0).abs() < 0.5);

    // The other one takes over those that speak to it; the rest goes with the leases of the one that died.
    one.kill().unwrap();
    let half: Vec<_> = (0..100).map(key).collect();
    let started = Instant::now();
    until_true("the silent half is gone", PATIENCE, async || {
        assert!(
            heartbeat(&mut at_two, half.clone())
                .await
                .unwrap()
                .iter()
                .all(String::is_empty)
        );
        let known = ids(&mut at_two).await;
        assert!(
            known.is_superset(&numbered(0..100)),
            "an instance that speaks was dropped"
        );
        known.len() == 100
    })
    .await;
    measured(&format!(
        "what a killed zone-sync vouched for was gone after {:?}",
        started.elapsed()
    ));
}

/// Registers one instance after the other at whichever zone-sync answers, until it is told to stop. What was acknowledged
/// ends up in `acknowledged`.
async fn keep_registering(
    mut clients: Vec<Client>,
    numbers: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
) -> BTreeSet<u32> {
    let mut acknowledged = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let place = number as usize % clients.len();
        if register(&mut clients[place], vec![registration(number, None)])
            .await
            .is_ok_and(|refusals| refusals == [""])
        {
            acknowledged.insert(number);
        }
    }
    acknowledged
}

#[tokio::test]
async fn no_acknowledged_registration_is_lost_with_the_leader_of_etcd() {
    let mut etcd = Etcd::start(3).await.unwrap();
    let (one, two) = (
        ZoneSyncProcess::ready(&etcd, 0).await.unwrap(),
        ZoneSyncProcess::ready(&etcd, 1).await.unwrap(),
    );
    let (numbers, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let clients = vec![one.client().await.unwrap(), two.client().await.unwrap()];
        tasks.push(tokio::spawn(keep_registering(
            clients,
            Arc::clone(&numbers),
            Arc::clone(&stop),
        )));
    }
    let written = async || {
        one.metric("writes_total").await.unwrap_or(0.0) + two.metric("writes_total").await.unwrap_or(0.0)
    };
    until_true("there is load", PATIENCE, async || written().await > 500.0).await;
    let leader = etcd.wait_leader().await;
    etcd.kill(leader).unwrap();
    let (lost, before) = (Instant::now(), written().await);
    until_true("registrations go on", PATIENCE, async || {
        written().await > before + 20.0
    })
    .await;
    measured(&format!(
        "registrations went on {:?} after etcd's leader was killed",
        lost.elapsed()
    ));
    until_true("there is load again", PATIENCE, async || {
        written().await > before + 500.0
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    for task in tasks {
        acknowledged.extend(task.await.unwrap());
    }
    assert!(acknowledged.len() > 900, "{}", acknowledged.len());
    // What was not acknowledged may be there as well.
    for zone_sync in [&one, &two] {
        let mut client = zone_sync.client().await.unwrap();
        until_true("everything acknowledged is known", PATIENCE, async || {
            ids(&mut client)
                .await
                .is_superset(&numbered(acknowledged.iter().copied()))
        })
        .await;
    }
    let fresh = ZoneSyncProcess::ready(&etcd, 2).await.unwrap();
    let mut at_fresh = fresh.client().await.unwrap();
    assert!(
        ids(&mut at_fresh)
            .await
            .is_superset(&numbered(acknowledged.iter().copied()))
    );
}

#[tokio::test]
async fn gateways_at_different_zone_syncs_know_of_each_other_and_share_what_they_find() {
    let etcd = Etcd::start(3).await.unwrap();
    let mut one = ZoneSyncProcess::ready(&etcd, 0).await.unwrap();
    let two = ZoneSyncProcess::ready(&etcd, 1).await.unwrap();
    registered(&mut one.client().await.unwrap(), 0..2, None).await;
    let refused = Gateway::attach(&one, "west", "gw1")
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("east"), "{}", refused.message());

    let gw1 = Gateway::attach(&one, "east", "gw1").await.unwrap();
    let mut gw2 = Gateway::attach(&two, "east", "gw2").await.unwrap();
    gw2.until_gateways(&["gw1", "gw2"]).await;
    gw1.report(1, Health::Unhealthy).await;
    let told = gw2.until("the report comes", |event| match event {
        Event::Health(report) => Some(report),
        _ => None,
    });
    let told = told.await;
    assert_eq!(
        (told.key, told.health, told.gateway.as_str()),
        (Some(key(1)), Health::Unhealthy.into(), "gw1")
    );

    // A gateway whose zone-sync dies is present until it had time to attach elsewhere, and its reports move with it.
    one.kill().unwrap();
    let mut gw1 = Gateway::attach(&two, "east", "gw1").await.unwrap();
    let known = gw1.until("it is told the report", |event| match event {
        Event::Health(report) => Some(report.health),
        _ => None,
    });
    assert_eq!(known.await, i32::from(Health::Unhealthy));
    gw1.until_gateways(&["gw1", "gw2"]).await;
    drop(gw1);
    gw2.until_gateways(&["gw2"]).await;
    drop(two);
}
