//! `issued.jsonl` in the folder of a CA: one line of JSON for each certificate that it issued, written before the
//! certificate is handed out, so that every one there is can be revoked. Lines are only ever added. Those of
//! certificates that have ended are of no more use to anybody and may be taken out.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    time::SystemTime,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::identity::{DnsName, files::PRIVATE};

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
    /// `issue`, `sign`, `renewal`, or `token` and the token's id.
    pub how: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<DnsName>,
}

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
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
pub fn read(folder: &Path) -> io::Result<Record> {
    let file = match File::open(folder.join(ISSUED_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
        file => file?,
    };
    let (mut lines, mut record) = (BufReader::new(file), Record::default());
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(issued) => record.issued.push(issued),
            Err(_) if line.trim_ascii().is_empty() => {}
            Err(_) => record.unreadable.push(number),
        }
    }
    Ok(record)
}

/// Times as people read them.
pub(crate) mod rfc3339 {
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
            dns_names: Vec::new(),
        }
    }

    #[test]
    fn what_was_issued_is_read_back_in_order() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), Record::default());
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
}
