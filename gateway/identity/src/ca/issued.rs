//! `issued.jsonl` in the folder of a CA: one line of JSON for each certificate that it issued, written before the
//! certificate is handed out, so that every one there is can be revoked. Lines are only ever added. Those of
//! certificates that have ended are of no more use to anybody and may be taken out.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use causeway_host::files::PRIVATE;

use super::CLOCK_SKEW;
use crate::{DnsName, Serial};

/// In the CA's folder.
pub const ISSUED_FILE: &str = "issued.jsonl";
/// Longest line in bytes; a real one has about 300, and with as many DNS names as there may be less than 5,000.
const MAX_LINE_BYTES: u64 = 8192;

/// One certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Its serial number: hexadecimal, lower case, most significant byte first, two digits for each byte.
    pub serial: String,
    /// Its SPIFFE id.
    pub id: String,
    /// SHA-256 of the CA certificate that it was issued under, hexadecimal.
    pub issuer: String,
    /// RFC 3339, UTC.
    #[serde(with = "rfc3339")]
    pub not_before: SystemTime,
    #[serde(with = "rfc3339")]
    pub not_after: SystemTime,
    /// `issue`, `sign`, `renewal`, or `token` or `rejoin` and the token's id.
    pub how: String,
    /// Serial number of the certificate that it comes after; absent: it is the first of its line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Address that asked for it; absent: it was issued by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// SHA-256 of its key (SubjectPublicKeyInfo), hexadecimal; absent: an older program issued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<DnsName>,
}

impl Issued {
    /// Time at which it was made: its validity begins a while before that.
    #[must_use]
    pub fn made_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        // Of a life and the tenth of it before, an eleventh is the tenth.
        self.not_before + CLOCK_SKEW.min(life / 11)
    }
}

/// Certificates in the file that have not ended long ago, read on as lines are added.
#[derive(Debug, Default)]
pub struct Follower {
    /// Inode of the file, and the bytes of it that were read.
    read: Option<(u64, u64)>,
    /// The line that was read last. Where another stands in its place the file is another, though its inode is the same: a file
    /// system gives that of a file that is gone to the next one.
    last_line: Vec<u8>,
    issued: Vec<Issued>,
}

/// Time after its end that a certificate is remembered: clocks differ.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

impl Follower {
    /// Reads what was added since, or everything where the file is another; what cannot be read is passed over. Blocks on the disk.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn read_on(&mut self, folder: &Path, now: SystemTime) -> io::Result<&[Issued]> {
        let mut file = match File::open(folder.join(ISSUED_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *self = Self::default();
                return Ok(&self.issued);
            }
            file => file?,
        };
        let (inode, length) = (file.metadata()?.ino(), file.metadata()?.len());
        let from = match self.read {
            Some((known, read))
                if known == inode && read <= length && self.ends_as_read(&mut file, read)? =>
            {
                read
            }
            _ => {
                self.issued.clear();
                self.last_line.clear();
                0
            }
        };
        file.seek(SeekFrom::Start(from))?;
        // A line that is being written is read when it is whole.
        let (mut lines, mut at, mut line) = (BufReader::new(file), from, Vec::new());
        loop {
            line.clear();
            let read = lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
            if read == 0 || (!line.ends_with(b"\n") && (line.len() as u64) < MAX_LINE_BYTES) {
                break;
            }
            at += read as u64;
            self.issued.extend(serde_json::from_slice::<Issued>(&line).ok());
            self.last_line.clone_from(&line);
        }
        self.read = Some((inode, at));
        self.issued.retain(|one| one.not_after + REMEMBERED >= now);
        Ok(&self.issued)
    }

    /// Tells whether the line that was read last still ends at `read`.
    fn ends_as_read(&self, file: &mut File, read: u64) -> io::Result<bool> {
        let mut line = vec![0; self.last_line.len()];
        file.seek(SeekFrom::Start(read.saturating_sub(line.len() as u64)))?;
        file.read_exact(&mut line)?;
        Ok(line == self.last_line)
    }
}

/// A certificate and all that came of it by renewals, those that have ended included.
#[must_use]
pub fn descendants(of: &Serial, issued: &[Issued]) -> BTreeSet<Serial> {
    let mut found = BTreeSet::from([of.clone()]);
    // Oldest first, so that a parent comes before its children.
    for one in issued {
        let parent = one.parent.as_deref().and_then(Serial::parse);
        if parent.is_some_and(|parent| found.contains(&parent)) {
            found.extend(Serial::parse(&one.serial));
        }
    }
    found
}

/// Content of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IssuedRecord {
    /// Oldest first.
    pub issued: Vec<Issued>,
    /// Numbers of the lines, from 1, that cannot be read: torn by a crash, or edited.
    pub unreadable: Vec<usize>,
}

/// Adds a line and waits until it is on disk. Several processes may do so at once.
///
/// # Errors
/// When it cannot be written.
pub fn add(folder: &Path, issued: &Issued) -> io::Result<()> {
    let path = folder.join(ISSUED_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(PRIVATE)
        .open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(PRIVATE))?;
    flock(&file, FlockOperation::LockExclusive)?;
    let mut line = serde_json::to_string(issued)?;
    line.push('\n');
    // What a crash left half-written stays a line of its own, and spoils no other.
    if is_torn(&mut file)? {
        line.insert(0, '\n');
    }
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

fn is_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Reads everything; a CA that has issued nothing has no file.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read(folder: &Path) -> io::Result<IssuedRecord> {
    read_those(folder, |_| true)
}

/// As [`read`], but keeps of the certificates only those that are asked for.
///
/// # Errors
/// As [`read`].
pub fn read_those(folder: &Path, keep: impl Fn(&Issued) -> bool) -> io::Result<IssuedRecord> {
    let file = match File::open(folder.join(ISSUED_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(IssuedRecord::default()),
        file => file?,
    };
    let (mut lines, mut record) = (BufReader::new(file), IssuedRecord::default());
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(issued) => record.issued.extend(Some(issued).filter(&keep)),
            Err(_) if line.trim_ascii().is_empty() => {}
            Err(_) => record.unreadable.push(number),
        }
    }
    Ok(record)
}

/// Times as people read them.
pub mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        time::{Duration, UNIX_EPOCH},
    };

    use super::*;

    fn issued(number: u64) -> Issued {
        Issued {
            serial: format!("{number:040x}"),
            id: "spiffe://acme.internal/zone/east/gateway/gw1".to_owned(),
            issuer: "00".repeat(32),
            not_before: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            not_after: UNIX_EPOCH + Duration::from_secs(1_800_086_400 + number),
            how: "token 0123456789abcdef".to_owned(),
            parent: None,
            address: None,
            key: None,
            dns_names: Vec::new(),
        }
    }

    #[test]
    fn what_was_issued_is_read_back_in_order() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), IssuedRecord::default());
        for number in 0..3 {
            add(folder.path(), &issued(number)).unwrap();
        }
        let expected = (0..3).map(issued).collect::<Vec<_>>();
        assert_eq!(read(folder.path()).unwrap().issued, expected);
        let text = fs::read_to_string(folder.path().join(ISSUED_FILE)).unwrap();
        assert!(text.contains(r#""not_before":"2027-01-15T08:00:00Z""#), "{text}");
    }

    #[test]
    fn a_line_torn_by_a_crash_costs_no_other() {
        let folder = tempfile::tempdir().unwrap();
        add(folder.path(), &issued(0)).unwrap();
        let path = folder.path().join(ISSUED_FILE);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str(r#"{"serial":"00"#);
        fs::write(&path, text).unwrap();
        add(folder.path(), &issued(1)).unwrap();
        let record = read(folder.path()).unwrap();
        assert_eq!(record.issued, [issued(0), issued(1)]);
        assert_eq!(record.unreadable, [2]);
    }

    #[test]
    fn what_is_added_is_read_on_and_what_ended_long_ago_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut follower = Follower::default();
        let now = issued(0).not_after;
        assert_eq!(follower.read_on(folder.path(), now).unwrap(), []);
        add(folder.path(), &issued(0)).unwrap();
        assert_eq!(follower.read_on(folder.path(), now).unwrap(), [issued(0)]);
        let path = folder.path().join(ISSUED_FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{{\"serial\":\"00")).unwrap();
        assert_eq!(follower.read_on(folder.path(), now).unwrap(), [issued(0)]);
        add(folder.path(), &issued(1)).unwrap();
        assert_eq!(
            follower.read_on(folder.path(), now).unwrap(),
            [issued(0), issued(1)]
        );
        let later = issued(1).not_after + REMEMBERED;
        assert_eq!(follower.read_on(folder.path(), later).unwrap(), [issued(1)]);
        // Another file, as an operator puts one in its place who takes old lines out.
        fs::rename(&path, folder.path().join("old")).unwrap();
        add(folder.path(), &issued(2)).unwrap();
        assert_eq!(follower.read_on(folder.path(), now).unwrap(), [issued(2)]);
        // Other lines in the same inode, as many bytes.
        let text = fs::read_to_string(&path).unwrap();
        let other = text.replace(&issued(2).serial, &issued(3).serial);
        fs::write(&path, other).unwrap();
        let other = Issued {
            serial: issued(3).serial,
            ..issued(2)
        };
        assert_eq!(follower.read_on(folder.path(), now).unwrap(), [other]);
        for text in ["", "", &text] {
            fs::write(&path, text).unwrap();
            follower.read_on(folder.path(), now).unwrap();
        }
        assert_eq!(follower.read_on(folder.path(), now).unwrap(), [issued(2)]);
    }

    #[test]
    fn what_came_of_a_certificate_is_found_through_all_its_renewals_and_nothing_else_is() {
        let renewed = |number: u64, parent: u64| Issued {
            parent: Some(format!("{parent:040x}")),
            ..issued(number)
        };
        let all = [
            issued(1),
            issued(2),
            renewed(3, 1),
            renewed(4, 3),
            renewed(5, 2),
            renewed(6, 1),
        ];
        let serial = |number: u64| Serial::parse(&format!("{number:x}")).unwrap();
        assert_eq!(descendants(&serial(1), &all), [1, 3, 4, 6].map(serial).into());
        assert_eq!(descendants(&serial(9), &all), [serial(9)].into());
    }
}
