//! Zones of two trust domains in one federation: each has its own CA, and gateways know the others by the bundles in the
//! topology. What one of the CAs does to its root and its certificates reaches the other's gateways by itself.

use std::time::Duration;

use causeway_tests::{
    ca::{CaServer, causeway, text},
    federation::{Federation, PATIENCE, Plan, TRUST_DOMAIN},
    instance::{Behaviour, Instance},
    load::Load,
    measured::measured,
    talk::Client,
    wait::until_true,
};
use serde_json::Value;

use super::trust;

const PARTNER: &str = "partner.example";
/// Long enough that nothing is renewed for its age meanwhile; a renewal for the new root comes within a fiftieth of it.
const LIFETIME: Duration = Duration::from_secs(100);

/// east is ours and calls orders, which runs in west; that and south are the partner's.
struct Partners {
    theirs: CaServer,
    federation: Federation,
    _ours: CaServer,
    _west: Instance,
}

impl Partners {
    async fn begin() -> Self {
        let west = Instance::start("west", Behaviour::Name).await.unwrap();
        let ours = CaServer::start(TRUST_DOMAIN, LIFETIME).await.unwrap();
        let theirs = CaServer::start(PARTNER, LIFETIME).await.unwrap();
        let plan = Plan::new().zone("east");
        let plan = plan.zone("south").trust_domain(PARTNER);
        let plan = plan.zone("west").trust_domain(PARTNER);
        let plan = plan.instance("orders", west.address(), "{}");
        let plan = plan.service("orders", "port: 9000, protocol: tcp");
        let plan = plan.bundle(TRUST_DOMAIN, &ours.root_pem().unwrap());
        let plan = plan.bundle(PARTNER, &theirs.root_pem().unwrap());
        let mut federation = plan.prepare().await.unwrap();
        ours.admit_zone(&federation, "east").unwrap();
        for zone in ["south", "west"] {
            theirs.admit_zone(&federation, zone).unwrap();
        }
        for name in federation.names() {
            federation.start_zone(&name).unwrap();
        }
        for name in federation.names() {
            federation.ready(&name).await;
        }
        federation.wait_export("east", "west", "orders").await;
        Self {
            theirs,
            federation,
            _ours: ours,
            _west: west,
        }
    }

    /// Runs a command of the partner's CA by way of south.
    async fn partner(&self, command: &[&str]) -> String {
        let (ca, south) = (self.theirs.ca(), self.federation.zone("south").admin.to_string());
        let by = ["--ca", text(&ca).unwrap(), "--admin", &south];
        let all: Vec<String> = command
            .iter()
            .chain(&by)
            .map(|&argument| argument.to_owned())
            .collect();
        let done = tokio::task::spawn_blocking(move || {
            let all: Vec<_> = all.iter().map(String::as_str).collect();
            causeway(&all).unwrap()
        });
        let done = done.await.unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Belief of east about the partner.
    async fn believed(&self) -> Value {
        trust(&self.federation, "east").await["other_trust_domains"][0].clone()
    }

    async fn believes_generation(&self, generation: u64) {
        until_true("east has the partner's trust document", PATIENCE, async || {
            self.believed().await["generation"] == generation
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_partner_revokes_is_cut_off_here_too() {
    let mut partners = Partners::begin().await;
    let orders = partners.federation.service_address("east", "orders", 9000).await;
    let mut client = Client::connect(orders).await.unwrap();
    assert_eq!(client.say("before").await.unwrap(), "west before");

    let said = partners.partner(&["revoke", "gateway", "west/gw1"]).await;
    // Its own zones are waited for, and of those the revoked one hears nothing any more.
    assert!(said.contains("in force in 1 of 2 zones"), "{said}");
    let east = partners.federation.zone("east");
    east.wait_log(&["refused a tunnel", "revoked", "west/gw1"]).await;
    assert!(client.say("after").await.is_err());
    let believed = partners.believed().await;
    assert_eq!(
        (&believed["name"], &believed["generation"]),
        (&PARTNER.into(), &1.into())
    );
    let revoked = &believed["revoked_names"][0];
    assert_eq!(
        (&revoked["zone"], &revoked["gateway"]),
        (&"west".into(), &"gw1".into())
    );

    // What was revoked stays so over a restart, before any gateway of the partner has said a word.
    partners.federation.zone_mut("south").kill().unwrap();
    partners.federation.zone_mut("east").kill().unwrap();
    partners.federation.start_zone("east").unwrap();
    partners.federation.zone("east").wait_ready().await;
    assert_eq!(partners.believed().await["generation"], 1);
}

#[tokio::test]
async fn a_partner_exchanges_its_root_without_a_failed_request_here() {
    let mut partners = Partners::begin().await;
    let orders = partners.federation.service_address("east", "orders", 9000).await;
    let mut lasting = Client::connect(orders).await.unwrap();
    assert_eq!(lasting.say("before").await.unwrap(), "west before");
    let load = Load {
        service: orders,
        connections_per_second: 50,
        patience: Duration::from_secs(10),
    }
    .start();
    let old = partners.believed().await["roots"][0]["fingerprint"].clone();

    partners.partner(&["ca", "rotate"]).await;
    partners.believes_generation(3).await;
    let roots = partners.believed().await["roots"].as_array().cloned().unwrap();
    assert!(roots.len() == 1 && roots[0]["fingerprint"] != old, "{roots:?}");
    assert_eq!(roots[0]["source"], "document");
    assert_eq!(lasting.say("after").await.unwrap(), "west after");
    let report = load.stop().await;
    assert_eq!(report.failed().count(), 0, "{report}");
    measured(&format!("a partner's root rotation under load: {report}"));

    // The bundle in the topology still has the old root alone; what was learned since outlives a restart.
    partners.federation.zone_mut("east").kill().unwrap();
    partners.federation.start_zone("east").unwrap();
    partners.federation.ready("east").await;
    partners.federation.wait_export("east", "west", "orders").await;
}
