//! Open connections that follow: to another arm, back to a better tier, and anew at an age.

use std::{
    io::ErrorKind,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{
    catalog::{Age, Catalog},
    topology::Topology,
};
use tokio::sync::watch;

use super::{hops::counted, http::set_instances, with_service};
use crate::testbed::{self, Client, Recorder, Zone, until};

/// The shortest that a topology can say.
const LINGER: Duration = Duration::from_secs(1);

/// The word to a zone that its snapshot has changed.
pub(super) struct Following(watch::Sender<u64>);

impl Following {
    pub(super) fn start(zone: &Zone) -> Self {
        let (sender, changes) = watch::channel(0);
        let (egress, ingress) = (zone.egress.clone(), zone.ingress.clone());
        tokio::spawn(async move {
            tokio::join!(egress.keep_moving(changes.clone()), ingress.keep_moving(changes));
        });
        Self(sender)
    }

    pub(super) fn changed(&self) {
        self.0.send_modify(|generation| *generation += 1);
    }
}

/// Connections that ended in this way.
pub(super) fn ended(zone: &Zone, outcome: &str) -> u64 {
    let outcome = format!("outcome=\"{outcome}\"");
    counted(zone, "causeway_connections_total", &["role=\"egress\"", &outcome])
}

/// Open connections that belong elsewhere.
fn misplaced(zone: &Zone) -> u64 {
    counted(zone, "causeway_connections_misplaced", &["role=\"egress\""])
}

/// Connections that were sent away for this reason.
pub(super) fn followed(zone: &Zone, why: &str) -> u64 {
    counted(zone, "causeway_followed_total", &[&format!("why=\"{why}\"")])
}

fn split(v1: u32, v2: u32, more: &str) -> Arc<Topology> {
    with_service(&format!(
        "split: [{{ tags: {{ version: v1 }}, weight: {v1} }}, {{ tags: {{ version: v2 }}, weight: {v2} }}]\n    {more}"
    ))
}

async fn clients(zone: &Zone, count: usize, server: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = zone.client().await;
        assert_eq!(client.greeting().await.unwrap(), server);
        clients.push(client);
    }
    clients
}

/// Waits until the gateway has ended it, and tells when.
async fn end(client: &mut Client) -> Instant {
    let error = client.rest().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    Instant::now()
}

#[tokio::test]
async fn an_arm_whose_weight_becomes_0_loses_its_connections_after_linger_and_keeps_them_without() {
    let (v1, v2) = (Recorder::start("v1").await, Recorder::start("v2").await);
    let start = |more| {
        let instances = vec![
            v1.instance(1, &[("version", "v1")]),
            v2.instance(1, &[("version", "v2")]),
        ];
        Zone::start("home", &split(0, 1, more), instances)
    };
    let (home, staying) = (start("connections: { linger: 1s }"), start("early: false"));
    let words = (Following::start(&home), Following::start(&staying));
    let mut moved = clients(&home, 1, "v2").await.remove(0);
    let mut kept = clients(&staying, 1, "v2").await.remove(0);
    // A share of any size keeps what it has.
    home.change(|snapshot| snapshot.topology = split(99, 1, "connections: { linger: 1s }"));
    words.0.changed();
    moved.echo("still here").await;
    home.change(|snapshot| snapshot.topology = split(1, 0, "connections: { linger: 1s }"));
    staying.change(|snapshot| snapshot.topology = split(1, 0, "early: false"));
    let changed = Instant::now();
    words.0.changed();
    words.1.changed();
    assert!(end(&mut moved).await - changed >= LINGER);
    kept.echo("still here").await;
    assert_eq!(
        (ended(&home, "moved"), followed(&home, "arm_weight_zero")),
        (1, 1)
    );
    clients(&home, 1, "v1").await;
}

#[tokio::test]
async fn connections_that_failed_over_come_back_at_a_pace() {
    let (here, there) = (Recorder::start("here").await, Recorder::start("there").await);
    let topology = with_service("connections: { linger: 1s }");
    let east = Zone::start("east", &topology, vec![there.instance(1, &[])]);
    let home = Zone::start("home", &topology, vec![]);
    home.join("east", east.ingress.clone()).await;
    let word = Following::start(&home);
    let away = clients(&home, 4, "there").await;
    let changed = Instant::now();
    set_instances(&home, vec![here.instance(1, &[])]);
    word.changed();
    until("it is known that they belong elsewhere", || misplaced(&home) == 4).await;
    let ends = away
        .into_iter()
        .map(|mut client| tokio::spawn(async move { end(&mut client).await }));
    let mut ended_at = Vec::new();
    for end in ends.collect::<Vec<_>>() {
        ended_at.push(end.await.unwrap());
    }
    assert!(ended_at.is_sorted(), "the oldest first");
    assert!(ended_at[0] - changed >= LINGER);
    // Two a second: the fourth comes a second and a half after the first.
    let spread = ended_at[3] - ended_at[0];
    assert!(spread >= Duration::from_millis(1400), "all at once: {spread:?}");
    until("all is written down", || ended(&home, "moved") == 4).await;
    assert_eq!(followed(&home, "better_tier"), 4);
    let mut back = clients(&home, 4, "here").await;
    back[0].echo("at home").await;
    word.changed();
    until("it is known that all are where they belong", || {
        misplaced(&home) == 0
    })
    .await;
    let far = || {
        counted(
            &east,
            "causeway_connections_total",
            &["role=\"ingress\"", "outcome=\"cut\""],
        )
    };
    until("the far gateway has ended them too", || far() == 4).await;
}

#[tokio::test]
async fn a_connection_through_a_gateway_that_drains_follows_to_another() {
    let (one, two) = (Recorder::start("one").await, Recorder::start("two").await);
    let topology = with_service("connections: { linger: 1s }");
    let east = Zone::start("east", &topology, vec![one.instance(1, &[])]);
    let west = Zone::start("west", &topology, vec![two.instance(1, &[])]);
    let home = Zone::start("home", &topology, vec![]);
    home.join("east", east.ingress.clone()).await;
    let word = Following::start(&home);
    let mut client = clients(&home, 1, "one").await.remove(0);
    home.join("west", west.ingress.clone()).await;
    let told = |zone, draining| testbed::entry(zone, Age::Fresh, draining, &[(&[], 1, 1)]);
    home.change(|snapshot| {
        snapshot.catalog = Arc::new(Catalog::new([told("east", true), told("west", false)]))
    });
    word.changed();
    end(&mut client).await;
    until("it is written down", || followed(&home, "draining") == 1).await;
    clients(&home, 1, "two").await;
}

#[tokio::test]
async fn a_connection_at_an_instance_that_is_taken_out_follows_to_another() {
    let (one, two) = (Recorder::start("one").await, Recorder::start("two").await);
    let topology = with_service("connections: { linger: 1s }");
    let home = Zone::start("home", &topology, vec![one.instance(1, &[])]);
    let word = Following::start(&home);
    let mut client = clients(&home, 1, "one").await.remove(0);
    set_instances(&home, vec![one.instance(0, &[]), two.instance(1, &[])]);
    word.changed();
    end(&mut client).await;
    until("it is written down", || followed(&home, "draining") == 1).await;
    clients(&home, 1, "two").await;
}

#[tokio::test]
async fn a_connection_at_an_instance_that_another_zone_takes_out_follows_to_another() {
    let (one, two) = (Recorder::start("one").await, Recorder::start("two").await);
    let topology = with_service("connections: { linger: 1s }");
    let east = Zone::start("east", &topology, vec![one.instance(1, &[])]);
    let home = Zone::start("home", &topology, vec![]);
    home.join("east", east.ingress.clone()).await;
    let (word, _home) = (Following::start(&east), Following::start(&home));
    let mut client = clients(&home, 1, "one").await.remove(0);
    set_instances(&east, vec![two.instance(1, &[])]);
    word.changed();
    end(&mut client).await;
    until("it is written down", || followed(&east, "draining") == 1).await;
    assert_eq!((followed(&home, "draining"), ended(&home, "cut")), (0, 1));
    clients(&home, 1, "two").await;
}

#[tokio::test]
async fn a_connection_ends_at_its_age_give_or_take_a_tenth() {
    let here = Recorder::start("here").await;
    let topology = with_service("connections: { max_age: 1s }");
    let home = Zone::start("home", &topology, vec![here.instance(1, &[])]);
    let _word = Following::start(&home);
    let begun = Instant::now();
    let mut client = clients(&home, 1, "here").await.remove(0);
    let age = end(&mut client).await - begun;
    assert!(age >= Duration::from_millis(900), "{age:?}");
    until("it is written down", || ended(&home, "max_age") == 1).await;
    assert_eq!(followed(&home, "max_age"), 1);
}
