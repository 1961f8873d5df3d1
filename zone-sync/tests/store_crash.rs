//! The store when the power fails: at every write and every sync of a workload, with whatever of the unsynced writes
//! reached the disk. What is read afterwards is the last whole state, or the one that was being written.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail by panicking, in its own functions too"
)]

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use causeway_federation::{
    catalog::{Export, Record},
    edition::Fingerprint,
    name::{GatewayId, GatewayName, ServiceName, ZoneName},
    signing::{Credential, Signed},
};
use causeway_zone_sync::store::{CatalogStore, StoredRecords};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use redb::StorageBackend;

#[derive(Debug, Clone)]
enum Unsynced {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// A disk that fails for good after so many operations.
#[derive(Debug, Default)]
struct State {
    /// Bytes that a program that runs reads.
    seen: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Unsynced>,
    done: usize,
    fails_after: usize,
}

#[derive(Debug, Clone)]
struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn new(content: Vec<u8>, fails_after: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            seen: content.clone(),
            synced: content,
            fails_after,
            ..State::default()
        })))
    }

    fn operation(&self, act: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.done >= state.fails_after {
            return Err(io::Error::other("the power failed"));
        }
        state.done += 1;
        act(&mut state);
        Ok(())
    }

    /// Bytes that are found when the power is back: everything that was synced, and of the rest what chance wills. The last
    /// write may have got half way.
    fn after_the_failure(&self, rng: &mut SmallRng, share: f64) -> Vec<u8> {
        let state = self.0.lock().unwrap();
        let mut found = state.synced.clone();
        for (i, operation) in state.unsynced.iter().enumerate() {
            if !rng.random_bool(share) {
                continue;
            }
            match operation {
                Unsynced::Length(length) => found.resize(*length, 0),
                Unsynced::Write(at, bytes) => {
                    let torn = i + 1 == state.unsynced.len() && rng.random_bool(0.5);
                    let whole = if torn { bytes.len() / 2 } else { bytes.len() };
                    let end = at + whole;
                    found.resize(found.len().max(end), 0);
                    found[*at..end].copy_from_slice(&bytes[..whole]);
                }
            }
        }
        found
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        let bytes = state.seen.get(at..at + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).unwrap();
        self.operation(|state| {
            state.seen.resize(length, 0);
            state.unsynced.push(Unsynced::Length(length));
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operation(|state| {
            state.synced = state.seen.clone();
            state.unsynced.clear();
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.operation(|state| {
            state.seen[at..at + data.len()].copy_from_slice(data);
            state.unsynced.push(Unsynced::Write(at, data.to_vec()));
        })
    }
}

fn record(zone: usize, version: u64, exports: u32) -> (GatewayId, Arc<Record>) {
    let origin = GatewayId::new(
        ZoneName::new(&format!("z{zone}")).unwrap(),
        GatewayName::new("gw").unwrap(),
    );
    let mut record = Record {
        origin: origin.clone(),
        incarnation: 4,
        version,
        exports: Default::default(),
        draining: false,
        topology: Fingerprint::default(),
        topology_generation: 0,
        trust: Default::default(),
        trust_ended: 0,
        shifts: Default::default(),
        signed: None,
    };
    for i in 0..exports {
        let export = Export {
            service: ServiceName::new(&format!("s{i}")).unwrap(),
            tags: [("version", "v1")].into_iter().collect(),
            instances: 9,
            healthy: u32::try_from(version).unwrap() % 9,
            weight: 3,
            capacity_per_second: None,
        };
        let said = causeway_proto::sync::Export {
            key: Some(causeway_proto::sync::ExportKey {
                service: export.service.to_string(),
                tags: [("version".to_owned(), "v1".to_owned())].into(),
            }),
            instances: export.instances,
            healthy: export.healthy,
            weight: export.weight,
            capacity_per_second: 0,
        };
        let mut more = prost::Message::encode_to_vec(&said);
        more.extend([0xf8, 7, 1]);
        // Every third says more than this program understands.
        record.exports.put(export, (i % 3 == 0).then(|| more.into()));
    }
    (origin, Arc::new(record))
}

/// The states that a workload goes through, one write after the other.
fn states() -> Vec<StoredRecords> {
    let step = |version: u64| {
        let exports = u32::try_from(version * 7).unwrap();
        let zones = (1..4).filter(move |zone| !(version + zone).is_multiple_of(4));
        let zones = zones.map(move |zone| record(usize::try_from(zone).unwrap(), version, exports));
        zones.collect()
    };
    (1..6).map(step).collect()
}

/// Runs the workload until the disk fails; answers the states that may be found afterwards, and the incarnation that was
/// given out, if one was.
fn run(disk: &Disk) -> (Vec<StoredRecords>, Option<u64>) {
    let mut may_be_found = vec![StoredRecords::new()];
    let mut given = None;
    let run = catch_unwind(AssertUnwindSafe(|| {
        let Ok(mut store) = CatalogStore::on(disk.clone()) else {
            return;
        };
        let Ok(incarnation) = store.next_incarnation(1000) else {
            return;
        };
        given = Some(incarnation);
        for state in states() {
            may_be_found.push(state.clone());
            if store.write(incarnation, state).is_err() {
                return;
            }
            may_be_found.remove(0);
        }
    }));
    assert!(run.is_ok(), "a failing disk made the store panic");
    (may_be_found, given)
}

#[test]
fn the_power_may_fail_at_any_write() {
    let whole = Disk::new(Vec::new(), usize::MAX);
    run(&whole);
    let operations = whole.0.lock().unwrap().done;
    assert!(operations > 30, "{operations} operations");
    let mut rng = SmallRng::seed_from_u64(7);
    let mut newer = 0;
    for fails_after in 0..operations {
        let disk = Disk::new(Vec::new(), fails_after);
        let (may_be_found, given) = run(&disk);
        for share in [0.0, 0.5, 1.0] {
            let found = disk.after_the_failure(&mut rng, share);
            let mut store = match CatalogStore::on(Disk::new(found, usize::MAX)) {
                Ok(store) => store,
                // It was not even made. A gateway sets such a file aside and makes another.
                Err(error) if given.is_none() && error.is_corrupt() => continue,
                Err(error) => panic!("after {fails_after} of {operations}: {error:?}"),
            };
            let at = may_be_found.iter().position(|state| state == store.records());
            let at = at.unwrap_or_else(|| {
                panic!(
                    "after {fails_after} of {operations}: {:?}",
                    store.records().keys()
                )
            });
            newer += usize::from(at > 0);
            let next = store.next_incarnation(0).unwrap();
            assert!(
                given.is_none_or(|given| next > given),
                "{given:?} was given out again as {next}"
            );
        }
    }
    assert!(newer > 0, "no write was ever found that was not told to be whole");
}

#[test]
fn what_was_signed_and_what_only_newer_programs_say_outlives_a_restart() {
    let (origin, mut signed) = record(1, 3, 5);
    let inner = Arc::make_mut(&mut signed);
    let statement = causeway_proto::sync::Statement {
        incarnation: 4,
        version: 3,
        exports_digest: inner.exports.digest().0.to_vec(),
        topology_generation: 12,
        ..Default::default()
    };
    let mut words = prost::Message::encode_to_vec(&statement);
    words.extend([0xf8, 7, 1]);
    inner.topology_generation = 12;
    inner.signed = Some(Arc::new(Signed {
        words: words.into(),
        signature: [5; 64].into(),
        credential: Arc::new(Credential(vec![vec![1, 2, 3], vec![4]])),
    }));
    let disk = Disk::new(Vec::new(), usize::MAX);
    let mut store = CatalogStore::on(disk.clone()).unwrap();
    store.write(1, [(origin.clone(), signed.clone())].into()).unwrap();
    drop(store);
    let content = disk.0.lock().unwrap().seen.clone();
    let store = CatalogStore::on(Disk::new(content, usize::MAX)).unwrap();
    let read = &store.records()[&origin];
    assert_eq!(*read, signed);
    assert_eq!(read.signed, signed.signed);
    assert_eq!(read.exports.clone().digest(), signed.exports.clone().digest());
}
