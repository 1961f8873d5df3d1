//! Connections that come back, because what is taken for an instance is where clients of a gateway connect.

use std::io;

use causeway_routing::{hops::MAX_HOPS, suspicion::FEWEST};

use super::topology;
use crate::testbed::{self, Client, Zone, until};

/// Most connections that a loop between the clients of two gateways comes to: until each suspects it, and then to the limit.
const MOST_OF_A_LOOP: u64 = 2 * FEWEST + 2 * MAX_HOPS as u64;

/// Waits until a client was reset, and nothing is left open.
async fn assert_ends(mut client: Client, zones: &[&Zone]) {
    let error = client.rest().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    until("nothing is left open", || {
        let open =
            |zone: &&Zone| zone.egress.open_connections().count() + zone.ingress.open_connections().count();
        zones.iter().map(open).sum::<usize>() == 0
    })
    .await;
}

/// Adds up the series of a counter that have these labels.
pub(super) fn counted(zone: &Zone, counter: &str, labels: &[&str]) -> u64 {
    let mut text = String::new();
    zone.metrics.encode(&mut text).unwrap();
    let series = text
        .lines()
        .filter(|line| line.starts_with(counter) && labels.iter().all(|label| line.contains(label)));
    series
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

fn refused(zone: &Zone, side: &str) -> u64 {
    let labels = [side, r#"reason="too_many_hops""#];
    counted(zone, "causeway_stream_refused_total", &labels)
}

fn ended(zone: &Zone, role: &str) -> u64 {
    counted(zone, "causeway_connections_total", &[role])
}

#[tokio::test]
async fn a_loop_through_two_gateways_ends_at_the_limit() {
    let home = Zone::start("home", &topology(), vec![]);
    let back = testbed::instance("back", home.vip, 1, &[]);
    let east = Zone::start("east", &topology(), vec![back]);
    home.join("east", east.ingress.clone()).await;
    let client = home.client().await;
    assert_ends(client, &[&home, &east]).await;
    assert_eq!(refused(&east, r#"side="local""#), 1);
    assert_eq!(refused(&home, r#"side="peer""#), 1);
    // Each way round is two gateways.
    assert_eq!(ended(&east, r#"role="ingress""#), u64::from(MAX_HOPS / 2));
}

#[tokio::test]
async fn a_loop_through_one_gateway_ends_at_the_limit() {
    let home = Zone::start("home", &topology(), vec![]);
    let back = testbed::instance("back", home.vip, 1, &[]);
    let published = testbed::snapshot("home", &topology(), vec![back], vec![], &[]).instances;
    home.change(|snapshot| snapshot.instances = published);
    let client = home.client().await;
    assert_ends(client, &[&home]).await;
    assert_eq!(refused(&home, r#"side="local""#), 1);
    assert_eq!(ended(&home, r#"role="egress""#), u64::from(MAX_HOPS) + 1);
}

#[tokio::test]
async fn a_loop_between_the_clients_of_two_gateways_ends_after_a_few_dozen_connections() {
    let home = Zone::start("home", &topology(), vec![]);
    let back = testbed::instance("back", home.vip, 1, &[]);
    let east = Zone::start("east", &topology(), vec![back]);
    let forth = testbed::instance("forth", east.vip, 1, &[]);
    let published = testbed::snapshot("home", &topology(), vec![forth], vec![], &[]).instances;
    home.change(|snapshot| snapshot.instances = published);
    home.join("east", east.ingress.clone()).await;
    east.join("home", home.ingress.clone()).await;
    let client = home.client().await;
    assert_ends(client, &[&home, &east]).await;
    let all = ended(&home, r#"role="egress""#) + ended(&east, r#"role="egress""#);
    assert!(all <= MOST_OF_A_LOOP, "{all} connections");
    // Where it was found once, the next one ends at the limit.
    let client = home.client().await;
    assert_ends(client, &[&home, &east]).await;
    let more = ended(&home, r#"role="egress""#) + ended(&east, r#"role="egress""#) - all;
    assert!(more <= 2 * u64::from(MAX_HOPS), "{more} connections more");
    assert!(refused(&home, r#"side="local""#) + refused(&east, r#"side="local""#) >= 2);
}
