//! The shared registry while etcd is away, and when it comes back, with less than it had or without anything.

use super::*;

#[tokio::test]
async fn what_is_known_is_served_while_etcd_is_away_and_nothing_alive_is_dropped_when_it_is_back() {
    let time_to_live = Some(Duration::from_secs(4));
    let mut etcd = Etcd::start(3).await.unwrap();
    let one = ZoneSyncProcess::ready(&etcd, 0).await.unwrap();
    let mut client = one.client().await.unwrap();
    registered(&mut client, 0..50, time_to_live).await;
    registered(&mut client, 50..60, None).await;
    let mut watch = client.watch(WatchRequest::default()).await.unwrap().into_inner();

    etcd.kill_all().unwrap();
    until_true("it is noticed", PATIENCE, async || {
        one.metric("etcd_away_seconds").await.is_ok_and(|away| away > 3.0)
    })
    .await;
    let (ready, told) = one.readiness().await.unwrap();
    assert!(ready && told.contains("out of reach"), "{told}");
    let all: Vec<_> = (0..50).map(key).collect();
    let away = Instant::now();
    // Longer than any lease of these instances.
    until_true("an outage has lasted", PATIENCE, async || {
        assert!(
            heartbeat(&mut client, all.clone())
                .await
                .unwrap()
                .iter()
                .all(String::is_empty)
        );
        away.elapsed() > Duration::from_secs(9)
    })
    .await;
    assert_eq!(ids(&mut client).await, numbered(0..60));
    let mut gateway = Gateway::attach(&one, "east", "gw1").await.unwrap();
    let synced = gateway.until("it is told everything", |event| match event {
        Event::Synced(synced) => Some(synced.revision),
        _ => None,
    });
    assert!(synced.await > 0);
    let refused = register(&mut client, vec![registration(99, None)])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("try again"), "{}", refused.message());

    etcd.start_all().unwrap();
    until_true("registrations are taken again", PATIENCE, async || {
        heartbeat(&mut client, all.clone()).await.unwrap();
        register(&mut client, vec![registration(99, None)]).await.is_ok()
    })
    .await;
    let kept = if one.log().contains("a lease ran out") {
        "did not outlive"
    } else {
        "outlived"
    };
    measured(&format!("leases of 8 s {kept} an outage of {:?}", away.elapsed()));
    // From now on only half of them speak; the others get their full time, and go.
    let half: Vec<_> = (0..25).map(key).collect();
    until_true("the silent half is gone", PATIENCE, async || {
        assert!(
            heartbeat(&mut client, half.clone())
                .await
                .unwrap()
                .iter()
                .all(String::is_empty)
        );
        ids(&mut client).await == numbered((0..25).chain(50..60).chain([99]))
    })
    .await;
    assert_eq!(
        removed(&mut watch).await,
        numbered(25..50),
        "nothing that spoke was ever taken away"
    );
}

/// Everything that a watcher was told was removed, once that is 25 or more.
async fn removed(watch: &mut Streaming<WatchEvent>) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(5), next(watch)).await {
        match event.unwrap() {
            Event::Removed(gone) => {
                told.insert(gone.id);
            }
            Event::Synced(_) if told.len() >= 25 => break,
            _ => {}
        }
    }
    told
}

#[tokio::test]
async fn a_zone_sync_that_missed_more_than_etcd_remembers_reads_everything_anew() {
    let mut etcd = Etcd::start(3).await.unwrap();
    let one = ZoneSyncProcess::ready(&etcd, 0).await.unwrap();
    let two = ZoneSyncProcess::ready(&etcd, 1).await.unwrap();
    let (mut at_one, mut at_two) = (one.client().await.unwrap(), two.client().await.unwrap());
    registered(&mut at_one, 0..50, None).await;
    until_true("both know them", PATIENCE, async || {
        ids(&mut at_two).await.len() == 50
    })
    .await;
    let mut watch = at_one.watch(WatchRequest::default()).await.unwrap().into_inner();

    one.pause().unwrap();
    // Its watch breaks while it stands still, so that it has to go on from where it was.
    etcd.kill_all().unwrap();
    etcd.start_all().unwrap();
    until_true("the other goes on", PATIENCE, async || {
        register(&mut at_two, vec![registration(50, None)]).await.is_ok()
    })
    .await;
    let keys = (0..10).map(key).collect();
    at_two.deregister(DeregisterRequest { keys }).await.unwrap();
    etcd.compact().await.unwrap();
    one.resume().unwrap();
    until_true("it knows what it missed", PATIENCE, async || {
        ids(&mut at_one).await == numbered(10..51)
    })
    .await;
    assert!(one.log().contains("etcd has compacted its history"));
    let mut gone = BTreeSet::new();
    while gone.len() < 10 {
        if let Event::Removed(key) = next(&mut watch).await.unwrap() {
            gone.insert(key.id);
        }
    }
    assert_eq!(gone, numbered(0..10), "who watched is told the difference");
}

#[tokio::test]
async fn an_etcd_that_lost_everything_is_given_it_back() {
    let mut etcd = Etcd::start(3).await.unwrap();
    let one = ZoneSyncProcess::ready(&etcd, 0).await.unwrap();
    let mut client = one.client().await.unwrap();
    registered(&mut client, 0..50, None).await;
    registered(&mut client, 50..100, Some(Duration::from_secs(5))).await;
    etcd.kill_all().unwrap();
    etcd.wipe().unwrap();
    etcd.start_all().unwrap();
    let speaking: Vec<_> = (50..100).map(key).collect();
    until_true("it was noticed", PATIENCE, async || {
        heartbeat(&mut client, speaking.clone()).await.unwrap();
        one.log().contains("etcd has been set back")
    })
    .await;
    let two = ZoneSyncProcess::ready(&etcd, 1).await.unwrap();
    let mut at_two = two.client().await.unwrap();
    until_true("everything is back", PATIENCE, async || {
        assert!(
            heartbeat(&mut client, speaking.clone())
                .await
                .unwrap()
                .iter()
                .all(String::is_empty)
        );
        ids(&mut at_two).await == numbered(0..100)
    })
    .await;
    assert_eq!(ids(&mut client).await, numbered(0..100));
}
