//! Every counted metric, told of once: its name, type, unit, help text and labels as `/metrics` shows them.

use std::time::{Duration, SystemTime};

use causeway::gateway::GatewayMetrics;
use causeway_federation::{
    catalog::Age,
    name::{GatewayId, ServiceName, Tags, ZoneName},
};
use causeway_proxy::{MoveReason, PermissionOutcome};
use causeway_routing::{permit::Rule, route::Why, snapshot::Link};
use causeway_telemetry::{
    AccessRecord, ConnectionId, ConnectionOutcome, RequestFacts, Role, Side, StreamRefusal,
};
use causeway_tunnel::{SocketBuffers, TunnelCount};

fn west() -> GatewayId {
    GatewayId::new(ZoneName::new("west").unwrap(), "gw1".parse().unwrap())
}

/// A connection that was served within two seconds.
fn record() -> AccessRecord {
    AccessRecord {
        role: Role::Egress,
        service: ServiceName::new("orders").unwrap(),
        port: None,
        tags: Tags::default(),
        client: None,
        from_zone: ZoneName::new("east").unwrap(),
        to_zone: None,
        peer: None,
        instance: None,
        outcome: ConnectionOutcome::Served,
        attempts: 1,
        ready_after: Some(Duration::from_secs(1)),
        duration: Duration::from_secs(2),
        bytes_up: 0,
        bytes_down: 0,
        caller: None,
        rule: None,
        route: Some("canary".into()),
        panic: false,
        request: Some(RequestFacts {
            status: Some(200),
            first_byte: Some(Duration::from_secs(1)),
            ..RequestFacts::default()
        }),
        trace_id: None,
        connection: ConnectionId::new(1),
    }
}

fn count_everything(metrics: &GatewayMetrics) {
    metrics
        .registry
        .services()
        .set([&ServiceName::new("orders").unwrap()]);
    metrics.proxy.connection_opened(Role::Egress, "orders");
    let counters = metrics.proxy.byte_counters(Role::Egress, "orders");
    counters.up.inc_by(1);
    metrics
        .proxy
        .connection_closed(Role::Egress, "orders", ConnectionOutcome::Served);
    metrics.proxy.timed(&record());
    metrics.proxy.decided(
        "orders",
        Why::Taken {
            tier: Some(1),
            own: true,
            age: Age::Fresh,
            link: Link::Up,
            draining: false,
            failing: false,
            spilled: false,
            panic: false,
        },
    );
    metrics.proxy.moved("orders", MoveReason::Hedged);
    let deny = Rule::Deny(ServiceName::new("orders").unwrap(), 0);
    metrics
        .proxy
        .forbidden(Role::Ingress, "orders", &deny, PermissionOutcome::Closed);
    metrics.proxy.instance_connected("orders", Duration::from_secs(1));
    metrics
        .proxy
        .instance_connect_failed("orders", Duration::from_secs(1));
    metrics.proxy.tls_refused("no_name");
    metrics.tunnels.tunnel_refused(Side::Local, "expired");
    metrics.tunnels.dial_failed("timeout");
    metrics
        .tunnels
        .stream_refused(Side::Peer, StreamRefusal::NotExported);
    metrics.tunnels.peer_broke_protocol("garbage");
    metrics.tunnels.socket_buffers(SocketBuffers::WANTED);
    let west = west();
    metrics.tunnels.count_tunnels(std::iter::once(TunnelCount {
        id: 1,
        peer: &west,
        lost_packets: 1,
        sent_bytes: 2,
        received_bytes: 3,
    }));
    metrics.api.api_refused("no_token");
    metrics.api.audit_lines().written.inc();
    metrics.instances.health_checked("orders", true);
    metrics.instances.registry_attached(true);
    metrics.dns.dns_answered("mesh", "NOERROR");
    metrics.sync.sync_bytes(&west, "sent", 1);
    metrics.sync.sync_refused(&west, Side::Local, "too_fast");
    metrics.sync.sync_repaired();
    metrics.sync.sync_passed_over();
    metrics.control.topology_reloaded(true);
    metrics.control.topology_document("applied");
    metrics.control.trust_document("taken");
    metrics.identity.identity_reloaded(true);
    metrics.identity.identity_renewed(false);
    metrics.identity.identity_rejoined(true);
    metrics
        .identity
        .identity_ends(SystemTime::UNIX_EPOCH + Duration::from_secs(20));
    metrics
        .identity
        .identity_renews(SystemTime::UNIX_EPOCH + Duration::from_secs(10));
}

/// The text of each family, in the order of their names, its lines in order too; of a histogram's many buckets the first alone.
fn families(text: &str) -> String {
    let mut families: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        if line.starts_with("# HELP") {
            families.push(Vec::new());
        }
        let further_bucket = line.contains("_bucket{") && !line.contains("le=\"0.00");
        if let Some(family) = families.last_mut().filter(|_| !further_bucket) {
            family.push(line);
        }
    }
    families.iter_mut().for_each(|family| family.sort_unstable());
    families.sort();
    families.concat().join("\n")
}

#[test]
fn every_counted_metric_keeps_its_name_help_and_labels() {
    let metrics = GatewayMetrics::default();
    count_everything(&metrics);
    let mut text = String::new();
    metrics.registry.encode(&mut text).unwrap();
    insta::assert_snapshot!(families(&text));
}
