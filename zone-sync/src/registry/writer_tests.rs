//! Group commit, full disks and flushes.

use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use causeway_federation::name::ServiceName;

use super::*;

fn registration(id: usize) -> Registration {
    Registration {
        service: ServiceName::new("orders").unwrap(),
        id: id.to_string(),
        address: "10.0.0.1:80".parse().unwrap(),
        tags: Default::default(),
        weight: 1,
        capacity_per_second: None,
        time_to_live: None,
        provenance: causeway_federation::registry::Provenance::ThisHost,
    }
}

fn key(id: usize) -> StoredKey {
    (InstanceSource::Registered, registration(id).key())
}

/// Storage in memory that refuses to be written while `full`, and counts its syncs.
#[derive(Debug, Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
    syncs: Arc<AtomicUsize>,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn open(&self) -> Open {
        let disk = self.clone();
        Arc::new(move || {
            let store = RegistryStore::with_backend(disk.clone())?;
            let registrations = store.read()?;
            Ok(Opened {
                store,
                registrations,
                set_aside: None,
            })
        })
    }

    fn ids(&self) -> Vec<String> {
        let read = self.open()().unwrap().registrations;
        read.into_iter().map(|(_, r)| r.id).collect()
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        out.copy_from_slice(&self.bytes.lock().unwrap()[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.bytes.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.check()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let start = offset as usize;
        self.bytes.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn put(writer: &mut Writer, id: usize) -> oneshot::Receiver<Durability> {
    let (answer, answered) = oneshot::channel();
    writer.put(InstanceSource::Registered, registration(id), Some(answer));
    answered
}

#[tokio::test]
async fn a_registration_is_answered_when_it_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.redb");
    let (mut writer, read) = Writer::open(&path).unwrap();
    assert!(read.is_empty());
    let mut answered = put(&mut writer, 1);
    assert!(answered.try_recv().is_err());
    assert_eq!(writer.progress().await, Progress::Committed);
    assert_eq!(answered.await, Ok(Durability::Durable));
    drop(writer);
    assert_eq!(
        Writer::open(&path).unwrap().1,
        [(InstanceSource::Registered, registration(1))]
    );
}

#[tokio::test]
async fn a_thousand_registrations_share_a_few_syncs() {
    let disk = Disk::default();
    let (mut writer, _) = Writer::with_open(disk.open()).unwrap();
    let before = disk.syncs.load(Ordering::SeqCst);
    let answers: Vec<_> = (0..1000).map(|n| put(&mut writer, n)).collect();
    writer.progress().await;
    for answer in answers {
        assert_eq!(answer.await, Ok(Durability::Durable));
    }
    assert!(disk.syncs.load(Ordering::SeqCst) - before < 10);
}

#[tokio::test]
async fn a_full_disk_is_reported_and_tried_again_without_losing_anything() {
    let disk = Disk::default();
    let (mut writer, _) = Writer::with_open(disk.open()).unwrap();
    writer.retry_every = Duration::from_millis(50);
    let kept = put(&mut writer, 0);
    writer.progress().await;
    assert_eq!(kept.await, Ok(Durability::Durable));

    disk.full.store(true, Ordering::SeqCst);
    let refused = put(&mut writer, 1);
    writer.progress().await;
    assert_eq!(refused.await, Ok(Durability::WriteFailed));
    assert!(writer.failing().load(Ordering::SeqCst), "and others see it");
    assert_eq!(
        put(&mut writer, 2).await,
        Ok(Durability::WriteFailed),
        "told at once"
    );
    writer.remove(key(0), None);
    for passing in 10..1000 {
        writer.put(InstanceSource::Registered, registration(passing), None);
        writer.remove(key(passing), None);
    }
    assert_eq!(writer.pending.len(), 3, "what came and went needs no writing");

    let start = Instant::now();
    writer.progress().await;
    assert!(start.elapsed() >= Duration::from_millis(40), "it does not spin");
    disk.full.store(false, Ordering::SeqCst);
    writer.progress().await;
    assert_eq!(put_and_commit(&mut writer, 3).await, Durability::Durable);
    assert!(!writer.failing().load(Ordering::SeqCst));
    drop(writer);
    assert_eq!(disk.ids(), ["1", "2", "3"]);
}

async fn put_and_commit(writer: &mut Writer, id: usize) -> Durability {
    let answer = put(writer, id);
    writer.progress().await;
    answer.await.unwrap()
}

#[tokio::test]
async fn a_removal_during_a_commit_is_not_forgotten() {
    let disk = Disk::default();
    let (mut writer, _) = Writer::with_open(disk.open()).unwrap();
    writer.put(InstanceSource::Registered, registration(1), None);
    writer.begin();
    writer.remove(key(1), None);
    assert!(writer.flush(Instant::now() + Duration::from_secs(60)).await);
    drop(writer);
    assert!(disk.ids().is_empty());
}

#[tokio::test]
async fn flushing_to_a_full_disk_gives_up_and_says_so() {
    let disk = Disk::default();
    let (mut writer, _) = Writer::with_open(disk.open()).unwrap();
    disk.full.store(true, Ordering::SeqCst);
    writer.put(InstanceSource::Registered, registration(1), None);
    assert!(!writer.flush(Instant::now() + Duration::from_secs(60)).await);
}

#[tokio::test]
async fn without_a_store_the_answer_says_so() {
    let mut writer = Writer::none();
    assert_eq!(put(&mut writer, 1).await, Ok(Durability::NoStore));
    assert!(writer.flush(Instant::now()).await);
    assert!(writer.pending.is_empty());
}
