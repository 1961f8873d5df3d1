//! The store on a real disk: what it keeps, and what it makes of files that a crash or a hand has damaged.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail by panicking, in its own functions too"
)]

use std::{fs, path::Path, sync::Arc};

use causeway_federation::{
    catalog::{Export, Record},
    edition::Fingerprint,
    name::{GatewayId, GatewayName, ServiceName, ZoneName},
};
use causeway_zone_sync::store::{CatalogStore, FILE, StoredRecords};
use proptest::prelude::*;

fn gateway(zone: usize) -> GatewayId {
    GatewayId::new(
        ZoneName::new(&format!("z{zone}")).unwrap(),
        GatewayName::new("gw").unwrap(),
    )
}

fn export(service: usize, healthy: u32) -> Export {
    Export {
        service: ServiceName::new(&format!("s{service}")).unwrap(),
        tags: [("version", "v1"), ("runtime", "vm")].into_iter().collect(),
        instances: 9,
        healthy,
        weight: 3,
        capacity_per_second: Some(100).filter(|_| healthy > 0),
    }
}

fn record(zone: usize, version: u64, exports: impl IntoIterator<Item = Export>) -> Arc<Record> {
    Arc::new(Record {
        origin: gateway(zone),
        incarnation: 4,
        version,
        exports: exports.into_iter().collect(),
        draining: version % 2 == 1,
        topology: Fingerprint([u8::try_from(version % 256).unwrap(); 32]),
        topology_generation: 0,
        trust: Default::default(),
        trust_ended: 0,
        shifts: Default::default(),
        signed: None,
    })
}

fn records(all: impl IntoIterator<Item = Arc<Record>>) -> StoredRecords {
    all.into_iter().map(|r| (r.origin.clone(), r)).collect()
}

fn open(folder: &Path) -> CatalogStore {
    let (store, set_aside) = CatalogStore::open(folder, 0).unwrap();
    assert!(set_aside.is_none(), "{set_aside:?}");
    store
}

fn set_aside_files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("corrupt")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_last_is_read_after_reopening(
        writes in prop::collection::vec(
            prop::collection::btree_map(0usize..4, prop::collection::btree_map(0usize..400, 0u32..9, 0..300), 0..4),
            1..5,
        ),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut last = StoredRecords::new();
        for (version, write) in (1..).zip(writes) {
            let mut store = open(folder.path());
            prop_assert_eq!(store.records(), &last);
            last = records(write.into_iter().map(|(zone, exports)| {
                record(zone, version, exports.into_iter().map(|(s, h)| export(s, h)))
            }));
            store.write(1, last.clone()).unwrap();
        }
        let store = open(folder.path());
        prop_assert_eq!(store.records(), &last);
    }
}

#[test]
fn incarnations_grow_over_restarts_even_when_the_clock_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = 0;
    for clock in [1000, 1000, 5, 0, 2000] {
        let next = open(folder.path()).next_incarnation(clock).unwrap();
        assert!(next > last && next > clock, "{next} after {last} at {clock}");
        last = next;
    }
    // A write of an older incarnation does not bring the stored one down.
    let mut store = open(folder.path());
    store.write(1, StoredRecords::new()).unwrap();
    assert!(store.next_incarnation(0).unwrap() > last);
}

#[test]
fn garbage_is_set_aside_and_a_new_store_begun() {
    for garbage in [vec![0u8; 4096], b"not a store at all".repeat(999), vec![0xff; 3]] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), &garbage).unwrap();
        let (mut store, set_aside) = CatalogStore::open(folder.path(), 1234).unwrap();
        let kept = set_aside.expect("the garbage was taken for a store").kept;
        assert_eq!(kept, folder.path().join("catalog.redb.corrupt-1234"));
        assert_eq!(fs::read(&kept).unwrap(), garbage, "it is kept as it was");
        store.write(1, records([record(1, 1, [export(1, 1)])])).unwrap();
    }
}

#[test]
fn a_copy_taken_in_the_middle_or_cut_short_is_read_or_set_aside_but_never_believed_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    let mut written = vec![StoredRecords::new()];
    let mut copies = Vec::new();
    for version in 1..6 {
        let exports = (0..2_000).map(|s| export(s, u32::try_from(version).unwrap()));
        let now = records([record(1, version, exports), record(2, version, [export(1, 1)])]);
        store.write(version, now.clone()).unwrap();
        written.push(now);
        copies.push(fs::read(folder.path().join(FILE)).unwrap());
    }
    let mut read_whole = 0;
    for copy in copies {
        for share in [100, 99, 90, 50, 10, 1, 0] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(FILE), &copy[..copy.len() * share / 100]).unwrap();
            let (store, set_aside) = CatalogStore::open(folder.path(), 1).unwrap();
            assert!(
                written.contains(store.records()),
                "half a write was believed at {share} %"
            );
            assert_eq!(
                set_aside_files(folder.path()).len(),
                usize::from(set_aside.is_some())
            );
            read_whole += usize::from(!store.records().is_empty());
        }
    }
    assert!(read_whole >= 5, "whole copies are read");
}

#[test]
fn a_flipped_byte_never_makes_a_record_that_nobody_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let now = records([record(1, 1, (0..300).map(|s| export(s, 1)))]);
    open(folder.path()).write(1, now.clone()).unwrap();
    let whole = fs::read(folder.path().join(FILE)).unwrap();
    let mut found = 0;
    let used: Vec<_> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    for at in used.iter().step_by(used.len() / 60).copied() {
        let folder = tempfile::tempdir().unwrap();
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(folder.path().join(FILE), damaged).unwrap();
        let (store, set_aside) = CatalogStore::open(folder.path(), 1).unwrap();
        let read = store.records();
        assert!(
            *read == now || read.is_empty(),
            "byte {at} of {} changed a record",
            whole.len()
        );
        found += usize::from(set_aside.is_some());
    }
    assert!(found > 0, "no damage was found anywhere");
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error_and_nothing_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(
        !CatalogStore::open(&file.join("below"), 1)
            .unwrap_err()
            .is_corrupt()
    );
    // Another process has it open.
    let _first = open(folder.path());
    assert!(!CatalogStore::open(folder.path(), 1).unwrap_err().is_corrupt());
    assert!(set_aside_files(folder.path()).is_empty());
}
