//! Journals on disk and in memory: what is kept, what goes, and what is set aside.

use std::fs;

use super::*;

const MINUTE: u64 = 60_000;

fn key(line: &str) -> Option<LineKey> {
    let (id, at) = line.split_once(' ')?;
    Some(LineKey {
        id: id.parse().ok()?,
        at: at.split(' ').next()?.parse().ok()?,
    })
}

fn config(folder: Option<&std::path::Path>, limit_bytes: u64) -> JournalConfig {
    JournalConfig {
        name: "events",
        folder: folder.map(ToOwned::to_owned),
        limit_bytes,
        keep: Duration::from_secs(24 * 60 * 60),
        key,
    }
}

fn opened(config: JournalConfig) -> (Journal, Vec<SegmentSetAside>) {
    Journal::open(config, Shelf::default(), 42).unwrap()
}

fn add(journal: &mut Journal, at: u64, more: &str) -> u64 {
    let id = journal.next_id();
    journal
        .append(LineKey { id, at }, &format!("{id} {at} {more}"))
        .unwrap();
    id
}

fn ids(journal: &Journal) -> Vec<u64> {
    let texts = journal
        .shelf
        .list()
        .into_iter()
        .map(|segment| segment.read().unwrap());
    let texts: Vec<String> = texts.collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.map(|line| key(line).unwrap().id).collect()
}

fn bytes_in(folder: &std::path::Path) -> u64 {
    let files = fs::read_dir(folder).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn lines_outlive_a_restart_and_ids_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = opened(config(Some(folder.path()), 1 << 20));
    for minute in 0..150 {
        add(&mut journal, minute * MINUTE, "x");
    }
    assert_eq!(journal.shelf.list().len(), 3, "one for each hour");
    drop(journal);
    let (mut journal, aside) = opened(config(Some(folder.path()), 1 << 20));
    assert!(aside.is_empty());
    assert_eq!(add(&mut journal, 151 * MINUTE, "x"), 151);
    assert_eq!(ids(&journal), (1..=151).collect::<Vec<_>>());
}

#[test]
fn the_oldest_go_by_age_and_ids_go_on_even_so() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = opened(config(Some(folder.path()), 1 << 20));
    add(&mut journal, 0, "old");
    add(&mut journal, 23 * 60 * MINUTE, "young");
    journal.drop_aged(30 * 60 * MINUTE);
    assert_eq!(ids(&journal), [2]);
    journal.drop_aged(300 * 60 * MINUTE);
    drop(journal);
    let (mut journal, _) = opened(config(Some(folder.path()), 1 << 20));
    assert_eq!(add(&mut journal, 301 * 60 * MINUTE, "x"), 3);
}

#[test]
fn a_flood_stays_within_its_bytes_on_disk_and_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    for folder in [Some(folder.path()), None] {
        let limit = 256 * 1024;
        let (mut journal, _) = opened(config(folder, limit));
        for nth in 0..20_000 {
            add(&mut journal, nth, &"y".repeat(100));
            let held: u64 = journal.shelf.list().iter().map(|segment| segment.bytes).sum();
            assert!(held <= limit, "{held}");
        }
        let kept = ids(&journal);
        assert_eq!(kept.last(), Some(&20_000));
        assert!(kept.len() > 1_500, "{}", kept.len());
        assert!(
            kept.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "none in between is missing"
        );
        if let Some(folder) = folder {
            assert!(bytes_in(folder) <= limit);
        }
    }
}

#[test]
fn what_is_corrupt_is_set_aside_as_it_was_and_what_is_sound_is_read() {
    for (damage, expected) in [
        (b"4 4".to_vec(), vec![1, 2, 3]),
        (b"\xff\xfe\x00\n4 4 fine\n".to_vec(), vec![1, 2, 3, 4]),
        (b"2 2 again\n".to_vec(), vec![1, 2, 3]),
        (
            format!("{} 4 behind which there is none\n", u64::MAX).into_bytes(),
            vec![1, 2, 3],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = opened(config(Some(folder.path()), 1 << 20));
        for nth in 1..=3 {
            add(&mut journal, nth, "x");
        }
        drop(journal);
        let path = folder.path().join(folder::file_name("events", 1));
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(&damage);
        fs::write(&path, &text).unwrap();
        let (mut journal, aside) = opened(config(Some(folder.path()), 1 << 20));
        assert_eq!(aside.len(), 1);
        assert_eq!(fs::read(&aside[0].kept).unwrap(), text, "as it was");
        assert!(
            aside[0]
                .kept
                .ends_with("events-00000000000000000001.jsonl.corrupt-42")
        );
        assert_eq!(ids(&journal), expected);
        let next = add(&mut journal, 9, "x");
        assert_eq!(next, expected.last().unwrap() + 1);
        drop(journal);
        let (journal, aside) = opened(config(Some(folder.path()), 1 << 20));
        assert!(aside.is_empty(), "once");
        assert_eq!(ids(&journal).last(), Some(&next));
    }
}

#[test]
fn what_is_no_file_is_set_aside_unread() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(folder::file_name("events", 7));
    // A read of it would wait for whoever writes.
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    fs::create_dir(folder.path().join(folder::file_name("events", 8))).unwrap();
    let (mut journal, aside) = opened(config(Some(folder.path()), 1 << 20));
    assert_eq!(aside.len(), 2);
    assert_eq!(add(&mut journal, 1, "x"), 9);
}

#[test]
fn ids_go_on_behind_a_segment_of_which_nothing_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(folder::file_name("events", 70)), b"garbage").unwrap();
    let (mut journal, aside) = opened(config(Some(folder.path()), 1 << 20));
    assert_eq!((aside.len(), aside[0].lines), (1, 0));
    assert_eq!(add(&mut journal, 1, "x"), 71);
}

#[test]
fn lines_wait_in_memory_while_the_disk_takes_nothing() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("history");
    fs::create_dir(&folder).unwrap();
    let (mut journal, _) = opened(config(Some(&folder), 16 << 20));
    add(&mut journal, 1, "x");
    // The next hour wants a file of its own, and there is no folder for it.
    let away = above.path().join("away");
    fs::rename(&folder, &away).unwrap();
    let at = 61 * MINUTE;
    for id in 2..5 {
        let kept = journal.append(LineKey { id, at }, &format!("{id} {at} x"));
        assert!(matches!(kept, Err(NotKept::Waiting(_))), "{kept:?}");
    }
    assert!(journal.is_waiting() && journal.write_waiting().is_err());
    let long = "z".repeat(600 * 1024);
    let one_more = |journal: &mut Journal| {
        let id = journal.next_id();
        journal.append(LineKey { id, at }, &format!("{id} {at} {long}"))
    };
    assert!(matches!(one_more(&mut journal), Err(NotKept::Waiting(_))));
    assert!(
        matches!(one_more(&mut journal), Err(NotKept::Lost)),
        "it is bounded"
    );
    fs::rename(&away, &folder).unwrap();
    journal.write_waiting().unwrap();
    assert!(!journal.is_waiting());
    assert_eq!(ids(&journal), [1, 2, 3, 4, 5]);
    drop(journal);
    let (journal, aside) = opened(config(Some(&folder), 1 << 20));
    assert!(aside.is_empty());
    assert_eq!(ids(&journal), [1, 2, 3, 4, 5]);
}
