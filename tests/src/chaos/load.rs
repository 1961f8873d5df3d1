//! The load of a run: what is registered in every zone, at a steady rate, and the ledger of it all.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Method;
use rand::{SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use super::{
    admin::{Admin, Answer},
    lanes,
    ledger::{Content, Key, Ledger, RequestOutcome},
};

/// Instances in one request of a crowd, and services that a crowd is spread over.
const CROWD_LIST: usize = 500;
const CROWD_SERVICES: usize = 100;

/// Requests by how they ended.
#[derive(Debug, Default)]
pub struct Counts {
    pub acknowledged: AtomicU64,
    pub not_done: AtomicU64,
    pub unknown: AtomicU64,
    pub late: AtomicU64,
    /// In force, and not on the disk.
    pub unwritten: AtomicU64,
}

/// One registry under load, and the book that is kept of it. Clones share it.
#[derive(Debug, Clone)]
pub struct Registry {
    pub zone: String,
    admin: Admin,
    ledger: Arc<Mutex<Ledger>>,
    faults: Arc<Mutex<Vec<String>>>,
    pub counts: Arc<Counts>,
}

impl Registry {
    /// Makes an instance `wanted`; with a time to live in seconds if that is given.
    pub async fn put(&self, key: &Key, wanted: &Content, ttl: Option<u32>) -> RequestOutcome {
        let body = json!({
            "address": wanted.address,
            "weight": wanted.weight,
            "tags": { "version": wanted.version },
            "ttl": ttl.map(|seconds| format!("{seconds}s")),
        });
        let answer = self.admin.ask(Method::PUT, &path(key), Some(&body)).await;
        let durability = match &answer {
            Answer::Came(200, body) => &body["items"][0]["durability"],
            _ => &Value::Null,
        };
        self.book_durable(key, Some(wanted.clone()), &answer, durability)
    }

    /// Books an answer with the durability that it tells. What could not be written, for the disk is full, may be lost with the
    /// gateway, and may be written later.
    fn book_durable(
        &self,
        key: &Key,
        wanted: Option<Content>,
        answer: &Answer,
        durability: &Value,
    ) -> RequestOutcome {
        match durability.as_str() {
            Some("write_failed") => {
                self.counts.unwritten.fetch_add(1, Ordering::Relaxed);
                self.ledger().asked(key, wanted, RequestOutcome::Unknown);
                return RequestOutcome::Unknown;
            }
            Some("durable") => {}
            _ if matches!(answer, Answer::Came(200, _)) => {
                self.fault(format!("{key} was answered with the durability {durability}"));
            }
            _ => {}
        }
        self.book(key, wanted, answer)
    }

    /// Registers an instance and deregisters it: both are written.
    ///
    /// # Errors
    /// When the registry does not say so.
    pub async fn writes(admin: &Admin) -> anyhow::Result<()> {
        let path = "/v1/instances/orders/after-faults";
        let body = json!({ "address": "127.0.0.1:19999" });
        let answer = admin.ask(Method::PUT, path, Some(&body)).await;
        let Answer::Came(200, body) = &answer else {
            anyhow::bail!("{path} was answered with {answer:?}");
        };
        let durability = &body["items"][0]["durability"];
        anyhow::ensure!(durability == "durable", "{path} is {durability}");
        let answer = admin.ask(Method::DELETE, path, None).await;
        anyhow::ensure!(
            matches!(answer, Answer::Came(204, _)),
            "{path} is left: {answer:?}"
        );
        Ok(())
    }

    pub async fn remove(&self, key: &Key) -> RequestOutcome {
        let answer = self.admin.ask(Method::DELETE, &path(key), None).await;
        if let (Answer::Came(404, _), Some(what)) = (&answer, self.must_be_there(key)) {
            self.fault(format!("{key} cannot be deregistered, it is lost: {what:?}"));
        }
        // Not there (any more) is what was asked for.
        let answer = match answer {
            Answer::Came(404, _) => Answer::Came(204, Value::Null),
            other => other,
        };
        self.book(key, None, &answer)
    }

    /// Registers a whole list in one request.
    pub async fn put_all(&self, list: &[(Key, Content)]) {
        let element = |(key, wanted): &(Key, Content)| {
            json!({
                "service": key.service,
                "id": key.id,
                "address": wanted.address,
                "weight": wanted.weight,
                "tags": { "version": wanted.version },
            })
        };
        let body: Value = list.iter().map(element).collect();
        let answer = self.admin.ask(Method::POST, "/v1/instances", Some(&body)).await;
        for (index, (key, wanted)) in list.iter().enumerate() {
            self.book_element(key, Some(wanted.clone()), &answer, index);
        }
    }

    /// Deregisters a whole list in one request.
    pub async fn remove_all(&self, list: &[Key]) {
        let element = |key: &Key| json!({ "service": key.service, "id": key.id });
        let body: Value = list.iter().map(element).collect();
        let path = "/v1/instances/deregister";
        let answer = self.admin.ask(Method::POST, path, Some(&body)).await;
        for (index, key) in list.iter().enumerate() {
            self.book_element(key, None, &answer, index);
        }
    }

    /// Books what became of one element of a list. What is not registered may be deregistered, unless it must be there.
    fn book_element(&self, key: &Key, wanted: Option<Content>, answer: &Answer, index: usize) {
        let Answer::Came(200, body) = answer else {
            self.book(key, wanted, answer);
            return;
        };
        let outcome = &body["items"][index];
        let gone = outcome["refusal"] == "not_found" && wanted.is_none();
        if gone && let Some(what) = self.must_be_there(key) {
            self.fault(format!("{key} cannot be deregistered, it is lost: {what:?}"));
        }
        if gone {
            self.book(key, wanted, answer);
        } else {
            self.book_durable(key, wanted, answer, &outcome["durability"]);
        }
    }

    /// Renews a lease. `false`: there is nothing to renew.
    pub async fn renew(&self, key: &Key) -> bool {
        let path = format!("{}/renew", path(key));
        let answer = self.admin.ask(Method::POST, &path, None).await;
        self.count(RequestOutcome::of(&answer));
        let gone = matches!(answer, Answer::Came(404, _));
        if let (true, Some(what)) = (gone, self.must_be_there(key)) {
            self.fault(format!(
                "the lease of {key} was being renewed and is lost: {what:?}"
            ));
        }
        !gone
    }

    /// Nobody will renew this one.
    pub fn lapses(&self, key: &Key) {
        self.ledger().lapses(key);
    }

    pub fn is_retired(&self, key: &Key) -> bool {
        self.ledger().is_retired(key)
    }

    fn must_be_there(&self, key: &Key) -> Option<Content> {
        self.ledger().certain(key)
    }

    fn book(&self, key: &Key, wanted: Option<Content>, answer: &Answer) -> RequestOutcome {
        if let Answer::Came(400..=499, body) = answer {
            self.fault(format!("{key} was refused: {answer:?} {body}"));
        }
        let outcome = RequestOutcome::of(answer);
        self.count(outcome);
        self.ledger().asked(key, wanted, outcome);
        outcome
    }

    fn count(&self, outcome: RequestOutcome) {
        let counter = match outcome {
            RequestOutcome::Acknowledged => &self.counts.acknowledged,
            RequestOutcome::NotDone => &self.counts.not_done,
            RequestOutcome::Unknown => &self.counts.unknown,
            RequestOutcome::Late => &self.counts.late,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn fault(&self, text: String) {
        self.faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path(key: &Key) -> String {
    format!("/v1/instances/{}/{}", key.service, key.id)
}

/// A load under way.
#[derive(Debug)]
pub struct Load {
    phase: watch::Sender<Phase>,
    changing: JoinSet<()>,
    renewing: JoinSet<()>,
    ledger: Arc<Mutex<Ledger>>,
    faults: Arc<Mutex<Vec<String>>>,
    pub counts: Arc<Counts>,
}

/// Phase of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everything changes.
    Changing,
    /// Leases are renewed, nothing else happens.
    Renewing,
    /// It is over.
    Over,
}

impl Load {
    /// Starts every lane in every zone.
    #[must_use]
    pub fn start(seed: u64, admins: &BTreeMap<String, Admin>) -> Self {
        let mut load = Self {
            phase: watch::Sender::new(Phase::Changing),
            changing: JoinSet::new(),
            renewing: JoinSet::new(),
            ledger: Arc::default(),
            faults: Arc::default(),
            counts: Arc::default(),
        };
        for (number, (zone, admin)) in (0..).zip(admins) {
            let registry = load.registry(zone, admin);
            let mut rng = SmallRng::seed_from_u64(seed ^ (number << 32));
            let phase = load.phase.subscribe();
            lanes::start_changing(&mut load.changing, &registry, &phase, &mut rng);
            load.renewing.spawn(lanes::renew(registry, phase));
        }
        load
    }

    /// Registers so many instances in one zone, in lists, which are to be there until the end.
    ///
    /// # Errors
    /// When one of them is not acknowledged.
    pub async fn crowd(&self, zone: &str, admin: &Admin, count: usize) -> anyhow::Result<()> {
        let registry = self.registry(zone, admin);
        let instance = |number: usize| {
            let key = Key {
                zone: zone.to_owned(),
                service: format!("s{:05}", number % CROWD_SERVICES),
                id: format!("crowd-{number}"),
            };
            let content = Content {
                address: format!("127.0.0.1:{}", 20_000 + number % 40_000),
                weight: 1,
                version: "v1".to_owned(),
            };
            (key, content)
        };
        for first in (0..count).step_by(CROWD_LIST) {
            let list: Vec<_> = (first..count.min(first + CROWD_LIST)).map(instance).collect();
            registry.put_all(&list).await;
            let lost = list.iter().find(|(key, _)| registry.must_be_there(key).is_none());
            anyhow::ensure!(lost.is_none(), "{lost:?} was not acknowledged");
        }
        Ok(())
    }

    fn registry(&self, zone: &str, admin: &Admin) -> Registry {
        Registry {
            zone: zone.to_owned(),
            admin: admin.clone(),
            ledger: self.ledger.clone(),
            faults: self.faults.clone(),
            counts: self.counts.clone(),
        }
    }

    /// Ends all changes and waits for the requests under way. Leases are still renewed.
    pub async fn settle(&mut self) {
        self.phase.send_replace(Phase::Renewing);
        while let Some(ended) = self.changing.join_next().await {
            if let Err(error) = ended {
                let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
                faults.push(format!("a part of the load broke down: {error}"));
            }
        }
    }

    /// Ends everything.
    pub async fn end(mut self) {
        self.phase.send_replace(Phase::Over);
        while self.renewing.join_next().await.is_some() {}
    }

    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Faults that showed at once, rather than in the end.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Waits `time`, or until the load has come to `wanted`. `true`: it has.
pub(super) async fn until_phase(phase: &mut watch::Receiver<Phase>, wanted: Phase, time: Duration) -> bool {
    let reached = phase.wait_for(|phase| *phase >= wanted);
    // A sender that is gone means that it is over.
    tokio::time::timeout(time, reached).await.is_ok()
}
