//! Calls of a gateway that reach a zone-sync late: when the gateway was killed and started anew, or has given them up. What was acknowledged
//! since is never undone by them.

use std::net::SocketAddr;

use ::http::Method;
use causeway_federation::registry::{CallSession, GatewaySession, wire};
use causeway_proto::registry::{DeregisterRequest, HeartbeatRequest, RegisterRequest, ReplaceRequest};
use causeway_tests::{
    chaos::admin::{Admin, Answer},
    etcd::Etcd,
    held_link::HeldLink,
    http,
    shared_zone::Gateways,
    wait::until_true,
    zone_sync::{ZoneSyncProcess, instances, key, registration},
};
use serde_json::{Value, json};
use tonic::{Code, Request, Status};

use super::{Client, PATIENCE, attached::Gateway, ids, numbered};

const GATEWAY: &str = "east/gw1";
const SERVICES: &str = "  orders: { port: 9000, protocol: tcp }\n";
const FLAP: &str = "/v1/instances/orders/flap-0";

async fn put(admin: &Admin, address: &str) {
    let body = json!({ "address": address });
    let answer = admin.ask(Method::PUT, FLAP, Some(&body)).await;
    assert!(matches!(answer, Answer::Came(200, _)), "{answer:?}");
}

/// The address of the instance as a zone-sync knows it.
async fn address_at(zone_sync: &ZoneSyncProcess) -> Option<String> {
    let mut client = zone_sync.client().await.unwrap();
    let all = instances(&mut client).await.unwrap();
    let flap = all.into_iter().filter_map(|instance| instance.registration);
    flap.filter(|registration| registration.id == "flap-0")
        .map(|registration| registration.address)
        .next()
}

/// Waits until the zone-sync has done with a call to deregister, and says what became of it.
async fn until_deregistering_ended(zone_sync: &ZoneSyncProcess) {
    until_true("the call has come to its end", PATIENCE, async || {
        zone_sync.log().lines().any(|line| {
            line.contains("causeway::audit")
                && line.contains("Registry/Deregister")
                && !line.contains("result=\"asked\"")
        })
    })
    .await;
}

/// A gateway's deregistration is held back, the gateway is killed and attaches anew to the zone-sync `second`, and registers; then what was
/// held back reaches the first one.
async fn a_held_call_comes_after_a_restart(second: usize) {
    let etcd = Etcd::start(1).await.unwrap();
    let zone_syncs = [
        ZoneSyncProcess::ready(&etcd, 0).await.unwrap(),
        ZoneSyncProcess::ready(&etcd, 1).await.unwrap(),
    ];
    let socket = etcd.folder().join("link.sock");
    let link = HeldLink::open(&socket, zone_syncs[0].address).unwrap();
    let server = format!("unix:{}", socket.display());
    let arguments = |_: &str| vec!["--zone-sync".to_owned(), server.clone()];
    let mut gateways =
        Gateways::lay_out(etcd.block(), etcd.folder(), &[GATEWAY], SERVICES, arguments).unwrap();
    gateways.start(GATEWAY).await.unwrap();
    gateways
        .of(GATEWAY)
        .wait_check(200, "with the gateways gw1")
        .await;
    let admin = Admin::new(&gateways.of(GATEWAY).admin_socket());
    put(&admin, "127.0.0.1:4001").await;

    link.hold();
    let asking = admin.clone();
    let deregistering = tokio::spawn(async move { asking.ask(Method::DELETE, FLAP, None).await });
    link.until_held("flap-0").await;
    gateways.kill(GATEWAY).unwrap();
    assert_eq!(deregistering.await.unwrap(), Answer::Broken);

    link.lead_to(zone_syncs[second].address);
    gateways.start(GATEWAY).await.unwrap();
    gateways
        .of(GATEWAY)
        .wait_check(200, "with the gateways gw1")
        .await;
    put(&admin, "127.0.0.1:4002").await;
    let registered = Some("127.0.0.1:4002".to_owned());
    until_true("both know it", PATIENCE, async || {
        let [one, two] = &zone_syncs;
        address_at(one).await == registered && address_at(two).await == registered
    })
    .await;
    link.release();
    until_deregistering_ended(&zone_syncs[0]).await;
    assert_eq!(address_at(&zone_syncs[0]).await, registered, "it is lost");
    // The gateway that lives is not kept from anything.
    let gone = admin.ask(Method::DELETE, FLAP, None).await;
    assert_eq!(gone, Answer::Came(204, Value::Null));
}

#[tokio::test]
async fn what_a_dead_gateway_said_undoes_nothing_that_was_acknowledged_since() {
    a_held_call_comes_after_a_restart(0).await;
}

#[tokio::test]
async fn nor_does_it_when_the_gateway_is_attached_to_another_zone_sync_by_then() {
    a_held_call_comes_after_a_restart(1).await;
}

fn session(number: u128) -> GatewaySession {
    GatewaySession::new(number)
}

/// A call of gw1 in that session and epoch.
fn call<T>(message: T, (number, epoch): (u128, u64)) -> Request<T> {
    let named = CallSession {
        gateway: "gw1".parse().unwrap(),
        session: session(number),
        epoch,
    };
    let mut request = Request::new(message);
    let named = named.to_string().parse().unwrap();
    request.metadata_mut().insert(wire::SESSION, named);
    request
}

async fn registering(client: &mut Client, number: u32, at: (u128, u64)) -> Result<(), Status> {
    let registrations = vec![registration(number, None)];
    let reply = client
        .register(call(RegisterRequest { registrations }, at))
        .await?;
    assert_eq!(reply.into_inner().outcomes[0].refusal, "");
    Ok(())
}

/// Every call that changes something, about an instance that is there; none is to be carried out.
async fn every_call_is_refused(client: &mut Client, number: u32, at: (u128, u64)) {
    let keys = vec![key(number)];
    let mut refused = vec![
        registering(client, 999, at).await.unwrap_err(),
        client
            .deregister(call(DeregisterRequest { keys: keys.clone() }, at))
            .await
            .unwrap_err(),
        client
            .heartbeat(call(HeartbeatRequest { keys }, at))
            .await
            .unwrap_err(),
    ];
    let everything = tokio_stream::iter([ReplaceRequest {
        source: "consul".to_owned(),
        registrations: Vec::new(),
    }]);
    refused.push(client.replace(call(everything, at)).await.unwrap_err());
    for refused in refused {
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.metadata().contains_key(wire::UNTOUCHED), "{refused}");
    }
}

#[tokio::test]
async fn a_call_is_carried_out_in_its_gateways_last_session_and_unless_it_was_given_up() {
    let etcd = Etcd::start(1).await.unwrap();
    let (one, two) = (
        ZoneSyncProcess::ready(&etcd, 0).await.unwrap(),
        ZoneSyncProcess::ready(&etcd, 1).await.unwrap(),
    );
    let (mut at_one, mut at_two) = (one.client().await.unwrap(), two.client().await.unwrap());
    every_call_is_refused(&mut at_one, 1, (1, 0)).await;
    let attach = async |zone_sync, number| {
        let session = session(number).to_string();
        Gateway::attach_in(zone_sync, "east", "gw1", session)
            .await
            .unwrap()
    };
    let mut first = attach(&one, 1).await;
    registering(&mut at_one, 1, (1, 0)).await.unwrap();
    registering(&mut at_one, 2, (1, 1)).await.unwrap();
    every_call_is_refused(&mut at_one, 1, (1, 0)).await;
    every_call_is_refused(&mut at_one, 1, (9, 9)).await;
    registering(&mut at_one, 3, (1, 1)).await.unwrap();

    // At another zone-sync, and then at the same one.
    let mut second = attach(&two, 2).await;
    registering(&mut at_two, 4, (2, 0)).await.unwrap();
    every_call_is_refused(&mut at_one, 4, (1, 1)).await;
    first.until_ended().await;
    let _third = attach(&two, 3).await;
    every_call_is_refused(&mut at_two, 4, (2, 0)).await;
    second.until_ended().await;
    registering(&mut at_two, 5, (3, 0)).await.unwrap();
    // Who is no gateway names none.
    super::registered(&mut at_one, 6..7, None).await;
    for client in [&mut at_one, &mut at_two] {
        until_true("exactly what was acknowledged is there", PATIENCE, async || {
            ids(client).await == numbered(1..7)
        })
        .await;
    }
    let nonsense = {
        let mut request = Request::new(HeartbeatRequest::default());
        request
            .metadata_mut()
            .insert(wire::SESSION, "gw1".parse().unwrap());
        at_one.heartbeat(request).await.unwrap_err()
    };
    assert_eq!(nonsense.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_gateway_is_let_in_again_by_an_etcd_that_lost_its_session() {
    let mut etcd = Etcd::start(1).await.unwrap();
    let zone_sync = ZoneSyncProcess::ready(&etcd, 0).await.unwrap();
    let arguments = |_: &str| vec!["--zone-sync".to_owned(), zone_sync.address.to_string()];
    let mut gateways =
        Gateways::lay_out(etcd.block(), etcd.folder(), &[GATEWAY], SERVICES, arguments).unwrap();
    gateways.start(GATEWAY).await.unwrap();
    let admin = Admin::new(&gateways.of(GATEWAY).admin_socket());
    put(&admin, "127.0.0.1:4001").await;
    etcd.kill_all().unwrap();
    etcd.wipe().unwrap();
    etcd.start_all().unwrap();
    etcd.wait_leader().await;
    let body = json!({ "address": "127.0.0.1:4002" });
    until_true("it registers again", PATIENCE, async || {
        matches!(
            admin.ask(Method::PUT, FLAP, Some(&body)).await,
            Answer::Came(200, _)
        )
    })
    .await;
    assert_eq!(address_at(&zone_sync).await.as_deref(), Some("127.0.0.1:4002"));
}

/// Transactions that etcd has carried out or refused.
async fn transactions(member: SocketAddr) -> f64 {
    let answer = http::get(member, "/metrics").await.unwrap();
    let counts = answer.body.lines().filter_map(|line| {
        let (series, count) = line.rsplit_once(' ')?;
        let is_of_them = series.starts_with("grpc_server_handled_total") && series.contains("\"Txn\"");
        is_of_them.then(|| count.parse::<f64>().unwrap())
    });
    counts.sum()
}

#[tokio::test]
async fn a_write_that_was_tried_again_undoes_nothing_when_the_first_attempt_comes_late() {
    let etcd = Etcd::start(1).await.unwrap();
    let member = etcd.addresses()[0].trim_start_matches("http://").parse().unwrap();
    let front = SocketAddr::new(etcd.block().host(90), 2379);
    let link = HeldLink::open_port(front, member).await.unwrap();
    // Two members, as it seems; connections to the second one are made when the first does not answer.
    let addresses = vec![format!("http://{front}"); 2];
    let zone_sync = ZoneSyncProcess::start_with(&etcd, &addresses, 0).unwrap();
    let zone_sync = zone_sync.when_ready().await.unwrap();
    let mut client = zone_sync.client().await.unwrap();
    super::registered(&mut client, 1..2, None).await;

    link.hold();
    let mut asking = client.clone();
    let keys = vec![key(1)];
    let deregistering = tokio::spawn(async move { asking.deregister(DeregisterRequest { keys }).await });
    link.until_held(&key(1).id).await;
    deregistering.await.unwrap().unwrap();
    super::registered(&mut client, 1..2, None).await;
    let before = transactions(member).await;
    link.release_without_giving_up();
    until_true("the first attempt was taken up", PATIENCE, async || {
        transactions(member).await > before
    })
    .await;
    // What etcd tells comes in order, so it has told of a deletion by the time that it tells of this.
    super::registered(&mut client, 2..3, None).await;
    let another = ZoneSyncProcess::ready(&etcd, 1).await.unwrap();
    assert_eq!(ids(&mut another.client().await.unwrap()).await, numbered(1..3));
    assert_eq!(ids(&mut client).await, numbered(1..3));
}
