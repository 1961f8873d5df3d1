//! Tests of what another zone's streams are given: an instance, or a refusal that says whether another try can help.

use causeway_federation::{name::MAX_TAGS, registry::MAX_TAG_VALUE_BYTES, topology::Topology};
use causeway_proto::tunnel::{
    RefusalReason, StreamHeader, Sync, encode_frame, stream_header::Kind, stream_reply::Outcome,
};
use causeway_tunnel::{ReadError, RecvHalf, read_reply};

use super::*;
use crate::testbed::{self, Recorder, Zone, until};

fn topology() -> Arc<Topology> {
    testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders:\n    port: 8080\n    protocol: tcp\n    export_to: [home, east]",
    )
}

/// An ingress in `east`, and the far end of a tunnel to it, on which `caller` opens streams.
async fn east(
    caller: &str,
    instances: Vec<Arc<causeway_routing::snapshot::Instance>>,
) -> (Zone, Zone, Arc<Tunnel>) {
    let east = Zone::start("east", &topology(), instances);
    let calling = Zone::start(caller, &topology(), vec![]);
    calling.join("east", east.ingress.clone()).await;
    let tunnel = calling.tunnels.choose(&testbed::gateway("east"), 0).unwrap();
    (east, calling, tunnel)
}

fn connect(service: &str) -> Connect {
    Connect {
        service: service.to_owned(),
        attempt: 1,
        ..Connect::default()
    }
}

/// Asks for a connection; the stream stays open as long as what is returned.
async fn ask(tunnel: &Tunnel, kind: Kind) -> (Outcome, SendHalf, RecvHalf) {
    let Stream { mut send, mut recv } = tunnel.open_bare().await.unwrap();
    let header = StreamHeader { kind: Some(kind) };
    send.write_chunk(encode_frame(&header).unwrap()).await.unwrap();
    let reply = tokio::time::timeout(Duration::from_secs(5), read_reply(&mut recv)).await;
    (reply.unwrap().unwrap(), send, recv)
}

async fn refusal(tunnel: &Tunnel, connect: Connect) -> (RefusalReason, bool) {
    match ask(tunnel, Kind::Connect(connect)).await.0 {
        Outcome::Refusal(refusal) => {
            assert!(!refusal.message.is_empty());
            (refusal.reason(), refusal.retryable)
        }
        Outcome::Ready(_) => panic!("ready"),
    }
}

#[tokio::test]
async fn a_zone_that_a_service_is_not_exported_to_is_refused_for_good() {
    let there = Recorder::start("there").await;
    let (_east, _west, tunnel) = east("west", vec![there.instance(1, &[])]).await;
    assert_eq!(
        refusal(&tunnel, connect("orders")).await,
        (RefusalReason::NotExported, false)
    );
    assert!(there.given().is_empty());
}

#[tokio::test]
async fn an_unknown_service_is_refused_and_another_zone_may_know_it() {
    let (_east, _home, tunnel) = east("home", vec![]).await;
    assert_eq!(
        refusal(&tunnel, connect("unheard")).await,
        (RefusalReason::UnknownService, true)
    );
}

#[tokio::test]
async fn a_header_that_makes_no_sense_is_refused_for_good() {
    let (_east, _home, tunnel) = east("home", vec![]).await;
    assert_eq!(
        refusal(&tunnel, connect("No Such Name")).await,
        (RefusalReason::BadHeader, false)
    );
    let mut many = connect("orders");
    many.tags = (0..100).map(|i| (format!("k{i}"), "v".to_owned())).collect();
    assert_eq!(refusal(&tunnel, many).await, (RefusalReason::BadHeader, false));
    let (reply, ..) = ask(&tunnel, Kind::Sync(Sync {})).await;
    assert!(matches!(reply, Outcome::Refusal(refusal) if refusal.reason() == RefusalReason::BadHeader));
}

#[tokio::test]
async fn without_an_instance_that_fits_another_zone_may_help() {
    let there = Recorder::start("there").await;
    let (_east, _home, tunnel) = east("home", vec![there.instance(1, &[("version", "v1")])]).await;
    let mut wants_v2 = connect("orders");
    wants_v2.tags.insert("version".to_owned(), "v2".to_owned());
    assert_eq!(
        refusal(&tunnel, wants_v2).await,
        (RefusalReason::NoInstance, true)
    );
}

#[tokio::test]
async fn instances_that_do_not_accept_are_a_refusal_of_its_own() {
    let gone = testbed::instance("gone", testbed::vip(), 1, &[]);
    let (_east, _home, tunnel) = east("home", vec![gone]).await;
    assert_eq!(
        refusal(&tunnel, connect("orders")).await,
        (RefusalReason::ConnectFailed, true)
    );
}

#[tokio::test]
async fn an_instance_with_the_longest_legal_tags_is_reached() {
    let there = Recorder::start("there").await;
    let tags: Vec<_> = (0..MAX_TAGS)
        .map(|at| (format!("{at:063}"), "x".repeat(MAX_TAG_VALUE_BYTES)))
        .collect();
    let tags: Vec<_> = tags
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let (_east, _home, tunnel) = east("home", vec![there.instance(1, &tags)]).await;
    let (reply, ..) = ask(&tunnel, Kind::Connect(connect("orders"))).await;
    assert!(matches!(reply, Outcome::Ready(_)), "{reply:?}");
}

#[tokio::test]
async fn a_refusal_is_final_only_to_those_who_go_by_the_same_topology() {
    let topology = with_callers();
    let east = Zone::start("east", &topology, vec![]);
    let home = Zone::start("home", &topology, vec![]);
    home.join("east", east.ingress.clone()).await;
    let tunnel = home.tunnels.choose(&testbed::gateway("east"), 0).unwrap();
    let going_by = |topology: &[u8], connect| Connect {
        topology: topology.to_vec(),
        ..connect
    };
    let same = topology.fingerprint.compared();
    for (calls, reason) in [
        (calling("other", ""), RefusalReason::Forbidden),
        (calling("web", ""), RefusalReason::Unvouched),
    ] {
        let known = going_by(same, calls.clone());
        assert_eq!(refusal(&tunnel, known).await, (reason, false));
        let behind = going_by(&[7; 16], calls);
        assert_eq!(refusal(&tunnel, behind).await, (reason, true));
    }
    // What no topology can mend stays final.
    let bad = going_by(&[7; 16], connect("Not A Name"));
    assert_eq!(refusal(&tunnel, bad).await, (RefusalReason::BadHeader, false));
}

#[tokio::test]
async fn a_draining_ingress_serves_new_streams_and_waits_for_the_old() {
    let there = Recorder::start("there").await;
    let (east, _home, tunnel) = east("home", vec![there.instance(1, &[])]).await;
    let (_, mut send, mut recv) = ask(&tunnel, Kind::Connect(connect("orders"))).await;
    east.ingress.drain();
    let (_, _late, mut late) = ask(&tunnel, Kind::Connect(connect("orders"))).await;
    late.read_exact(&mut [0; 6]).await.unwrap();
    send.write_all(b"hello").await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(99).await.unwrap(), b"there\nhello");
    let open = east.ingress.open_connections();
    tokio::time::timeout(Duration::from_secs(20), open.drained())
        .await
        .expect("the later one is not waited for");
    assert_eq!(open.count(), 1);
}

#[tokio::test]
async fn a_cut_resets_the_stream_and_the_instance() {
    let there = Recorder::start("there").await;
    let (east, _home, tunnel) = east("home", vec![there.instance(1, &[])]).await;
    let (_, _send, mut recv) = ask(&tunnel, Kind::Connect(connect("orders"))).await;
    recv.read_exact(&mut [0; 6]).await.unwrap();
    east.ingress.cut();
    let error = recv.read_to_end(9).await.unwrap_err();
    assert_eq!(error, ReadError::Reset(StreamCode::Cut));
    until("the stream is over", || {
        east.ingress.open_connections().count() == 0
    })
    .await;
}

#[tokio::test]
async fn one_peer_cannot_take_more_than_its_streams() {
    let there = Recorder::start("there").await;
    let instances = vec![there.instance(1, &[])];
    let (zone, calling, _) = east("home", instances).await;
    let config = IngressConfig {
        max_streams_per_peer: 2,
        ..IngressConfig::new(1)
    };
    let limited = Ingress::new(
        config,
        zone.snapshots.clone(),
        Arc::new(ProxyMetrics::default()),
        AccessLog::default(),
    );
    calling.join("east/gw2", limited).await;
    let tunnel = calling.tunnels.choose(&testbed::gateway("east/gw2"), 0).unwrap();
    let first = ask(&tunnel, Kind::Connect(connect("orders"))).await;
    let second = ask(&tunnel, Kind::Connect(connect("orders"))).await;
    assert!(matches!(
        (&first.0, &second.0),
        (Outcome::Ready(_), Outcome::Ready(_))
    ));
    assert_eq!(
        refusal(&tunnel, connect("orders")).await,
        (RefusalReason::Overloaded, true)
    );
}

#[tokio::test]
async fn outstanding_connections_are_counted_on_the_instance() {
    let there = Recorder::start("there").await;
    let instance = there.instance(1, &[]);
    let (_east, _home, tunnel) = east("home", vec![instance.clone()]).await;
    let outstanding = || instance.load.outstanding.load(Ordering::Relaxed);
    let (_, mut send, mut recv) = ask(&tunnel, Kind::Connect(connect("orders"))).await;
    assert_eq!(outstanding(), 1);
    send.reset(StreamCode::Reset).unwrap();
    recv.stop(StreamCode::Reset).unwrap();
    until("the connection is over", || outstanding() == 0).await;
    assert!(instance.load.latency_micros.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_connection_that_has_come_through_too_many_gateways_is_refused_for_good() {
    let there = Recorder::start("there").await;
    let (_east, _calling, tunnel) = east("home", vec![there.instance(1, &[])]).await;
    for (hops, reason) in [(0, None), (3, None), (4, Some(RefusalReason::TooManyHops))] {
        let asked = Connect {
            hops,
            ..connect("orders")
        };
        let (answer, ..) = ask(&tunnel, Kind::Connect(asked)).await;
        match (answer, reason) {
            (Outcome::Ready(_), None) => {}
            (Outcome::Refusal(refusal), Some(reason)) => {
                assert_eq!((refusal.reason(), refusal.retryable), (reason, false));
            }
            (answer, _) => panic!("{hops}: {answer:?}"),
        }
    }
}

/// orders in east, which only batch of `home` and identities of home may call; web may run in east alone.
fn with_callers() -> Arc<Topology> {
    testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 8080, allow: [batch@home, { service: web, tags: { env: prod } }, 'spiffe://test.internal/zone/home/*'] }\n  \
         web: { port: 81, run_in: [east] }",
    )
}

fn calling(service: &str, identity: &str) -> Connect {
    Connect {
        caller: service.to_owned(),
        caller_identity: identity.to_owned(),
        ..connect("orders")
    }
}

#[tokio::test]
async fn a_caller_is_believed_only_as_far_as_its_zone_may_vouch() {
    let there = Recorder::start("there").await;
    let east = Zone::start("east", &with_callers(), vec![there.instance(1, &[])]);
    let home = Zone::start("home", &with_callers(), vec![]);
    home.join("east", east.ingress.clone()).await;
    let tunnel = home.tunnels.choose(&testbed::gateway("east"), 0).unwrap();
    let ready = |connect| async { ask(&tunnel, Kind::Connect(connect)).await.0 };
    assert!(matches!(ready(calling("batch", "")).await, Outcome::Ready(_)));
    let own = "spiffe://test.internal/zone/home/app/x";
    assert!(matches!(ready(calling("", own)).await, Outcome::Ready(_)));

    // Its tags would let web in, but home may not run it, and so not speak for it.
    let mut stolen = calling("web", "");
    stolen.caller_tags.insert("env".to_owned(), "prod".to_owned());
    assert_eq!(refusal(&tunnel, stolen).await, (RefusalReason::Unvouched, false));
    for identity in [
        "spiffe://test.internal/zone/east/app/x",
        "spiffe://other.internal/app/x",
    ] {
        let claimed = calling("batch", identity);
        assert_eq!(
            refusal(&tunnel, claimed).await,
            (RefusalReason::Unvouched, false),
            "{identity}"
        );
    }
    for caller in [
        calling("", ""),
        calling("other", ""),
        calling("", "spiffe://test.internal/app/x"),
    ] {
        assert_eq!(refusal(&tunnel, caller).await, (RefusalReason::Forbidden, false));
    }
    assert_eq!(there.given().len(), 2);
}

#[tokio::test]
async fn a_refusal_names_the_rule() {
    let east = Zone::start("east", &with_callers(), vec![]);
    let home = Zone::start("home", &with_callers(), vec![]);
    home.join("east", east.ingress.clone()).await;
    let tunnel = home.tunnels.choose(&testbed::gateway("east"), 0).unwrap();
    let message = |connect| async {
        match ask(&tunnel, Kind::Connect(connect)).await.0 {
            Outcome::Refusal(refusal) => refusal.message,
            Outcome::Ready(_) => panic!("ready"),
        }
    };
    assert_eq!(
        message(calling("other", "")).await,
        "other@home may not call orders: services.orders.allow"
    );
    assert_eq!(
        message(calling("web", "")).await,
        "zone home may not vouch for web@home: services.web.run_in"
    );
}

#[tokio::test]
async fn a_caller_that_cannot_be_read_is_a_bad_header() {
    let (_east, _home, tunnel) = east("home", vec![]).await;
    let mut tagged = connect("orders");
    tagged.caller_tags.insert("env".to_owned(), "prod".to_owned());
    let mut long = calling("web", "");
    long.caller_tags.insert("env".to_owned(), "x".repeat(64));
    let identity = calling("", "spiffe://test.internal/../x");
    for bad in [calling("Web", ""), tagged, long, identity] {
        assert_eq!(refusal(&tunnel, bad).await, (RefusalReason::BadHeader, false));
    }
}

#[tokio::test]
async fn a_zone_that_may_not_run_a_service_serves_nothing_of_it() {
    let there = Recorder::start("there").await;
    let elsewhere = testbed::topology(
        "  home: {}\n  east: {}",
        "  orders: { port: 8080, run_in: [home] }",
    );
    let east = Zone::start("east", &elsewhere, vec![there.instance(1, &[])]);
    let home = Zone::start("home", &elsewhere, vec![]);
    home.join("east", east.ingress.clone()).await;
    let tunnel = home.tunnels.choose(&testbed::gateway("east"), 0).unwrap();
    assert_eq!(
        refusal(&tunnel, connect("orders")).await,
        (RefusalReason::NoInstance, true)
    );
    // And who believes nobody about it does not even ask.
    let mut client = testbed::Client(testbed::connect(home.vip).await);
    assert!(client.greeting().await.is_err());
    assert!(there.given().is_empty());
}
