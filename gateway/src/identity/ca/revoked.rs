//! `revoked.jsonl` in the folder of a CA: one line of JSON for each `causeway revoke`. From it revocation lists are made, and
//! nothing is issued to a name that stands there. A name can be let in again; its certificates stay revoked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use causeway_zone_sync::name::{CallerIdentity, GatewayId};
use serde::{Deserialize, Serialize};

use super::issued::{Issued, rfc3339};
use crate::identity::{
    Serial, SpiffeId,
    files::{self, PRIVATE},
};

/// In the CA's folder.
pub const REVOKED_FILE: &str = "revoked.jsonl";

/// Whose certificates are revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    Zone(String),
    /// Such as `west/gw1`.
    Gateway(String),
    /// One certificate, by its serial number in hexadecimal digits; the name may get another.
    Serial(String),
}

impl Subject {
    /// Whether nothing is to be issued to `gateway` because of it.
    fn names(&self, gateway: &GatewayId) -> bool {
        match self {
            Self::Zone(zone) => *zone == gateway.zone.as_str(),
            Self::Gateway(name) => *name == gateway.to_string(),
            Self::Serial(_) => false,
        }
    }

    /// Whether a certificate that was issued is one of these.
    fn covers(&self, issued: &Issued) -> bool {
        match self {
            Self::Serial(serial) => Serial::parse(serial) == Serial::parse(&issued.serial),
            // Callers of the zone too.
            Self::Zone(zone) => {
                let id: Option<CallerIdentity> = issued.id.parse().ok();
                id.is_some_and(|id| id.zone() == Some(zone))
            }
            Self::Gateway(_) => {
                let id: Option<SpiffeId> = issued.id.parse().ok();
                id.is_some_and(|id| self.names(&id.gateway))
            }
        }
    }
}

/// `zone west`.
impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Zone(zone) => write!(f, "zone {zone}"),
            Self::Gateway(gateway) => write!(f, "gateway {gateway}"),
            Self::Serial(serial) => write!(f, "serial number {serial}"),
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    #[serde(with = "rfc3339")]
    pub at: SystemTime,
    #[serde(flatten)]
    pub subject: Subject,
    /// The certificates of the subject that were valid then, in hexadecimal digits.
    #[serde(default)]
    pub serials: Vec<String>,
    /// The name may be issued certificates again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub readmitted: bool,
}

/// Why the file cannot be used. Nothing is issued then: what it says is not known.
#[derive(Debug, thiserror::Error)]
pub enum RevokedError {
    #[error("cannot use {path}", path = path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("line {number} of {path} says nothing that can be understood; mend it", path = path.display())]
    Line {
        path: PathBuf,
        number: usize,
        #[source]
        source: serde_json::Error,
    },
}

/// What the file holds, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked(pub Vec<Revocation>);

impl Revoked {
    /// A CA that has revoked nothing has no file.
    ///
    /// # Errors
    /// When the file is there and a line of it cannot be read.
    pub fn read(folder: &Path) -> Result<Self, RevokedError> {
        let path = folder.join(REVOKED_FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            read => read.map_err(|source| RevokedError::File {
                path: path.clone(),
                source,
            })?,
        };
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty());
        let revoked = lines.map(|(index, line)| {
            serde_json::from_str(line).map_err(|source| RevokedError::Line {
                path: path.clone(),
                number: index + 1,
                source,
            })
        });
        revoked.collect::<Result<_, _>>().map(Self)
    }

    /// Writes the file anew, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), RevokedError> {
        let path = folder.join(REVOKED_FILE);
        let lines: Result<Vec<_>, _> = self.0.iter().map(serde_json::to_string).collect();
        let written = lines.map_err(io::Error::from).and_then(|lines| {
            let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            files::replace(&path, &text, PRIVATE)
        });
        written.map_err(|source| RevokedError::File { path, source })
    }

    /// Why nothing is to be issued to `gateway`; `None`: something may be.
    #[must_use]
    pub fn forbids(&self, gateway: &GatewayId) -> Option<&Revocation> {
        self.standing(|subject| subject.names(gateway))
    }

    /// Whether nothing is to be issued to anybody of `zone`.
    #[must_use]
    pub fn forbids_zone(&self, zone: &str) -> bool {
        let is_this = |subject: &Subject| matches!(subject, Subject::Zone(named) if named == zone);
        self.standing(is_this).is_some()
    }

    fn standing(&self, concerns: impl Fn(&Subject) -> bool) -> Option<&Revocation> {
        let mut standing: Vec<&Revocation> = Vec::new();
        for line in self.0.iter().filter(|line| concerns(&line.subject)) {
            standing.retain(|before| before.subject != line.subject);
            standing.extend((!line.readmitted).then_some(line));
        }
        standing.first().copied()
    }

    /// Whether a certificate with this serial number was revoked.
    #[must_use]
    pub fn holds(&self, serial: &Serial) -> bool {
        self.serials().contains_key(serial)
    }

    /// Every serial number that was revoked, and when first.
    #[must_use]
    pub fn serials(&self) -> BTreeMap<Serial, SystemTime> {
        let mut all = BTreeMap::new();
        for line in &self.0 {
            let serials = line.serials.iter().filter_map(|serial| Serial::parse(serial));
            for serial in serials {
                all.entry(serial).or_insert(line.at);
            }
        }
        all
    }

    /// What to add so that every certificate of `subject` is revoked that was issued and has not ended by `now`; `None`
    /// when all of that stands there already.
    #[must_use]
    pub fn revocation(&self, subject: &Subject, issued: &[Issued], now: SystemTime) -> Option<Revocation> {
        let valid = issued.iter().filter(|issued| issued.not_after >= now);
        let mut serials: BTreeSet<Serial> = valid
            .filter(|issued| subject.covers(issued))
            .filter_map(|issued| Serial::parse(&issued.serial))
            .collect();
        if let Subject::Serial(serial) = subject {
            serials.extend(Serial::parse(serial));
        }
        let known = self.serials();
        serials.retain(|serial| !known.contains_key(serial));
        let last = self.0.iter().rev().find(|line| line.subject == *subject);
        let named = last.is_some_and(|line| !line.readmitted);
        (!named || !serials.is_empty()).then(|| Revocation {
            at: now,
            subject: subject.clone(),
            serials: serials.iter().map(ToString::to_string).collect(),
            readmitted: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn gateway(zone: &str, name: &str) -> GatewayId {
        GatewayId::new(zone.parse().unwrap(), name.parse().unwrap())
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn issued(serial: &str, gateway: &GatewayId, ends: u64) -> Issued {
        Issued {
            serial: serial.to_owned(),
            id: SpiffeId::new("acme.internal", gateway.clone()).to_string(),
            issuer: "00".repeat(32),
            not_before: at(0),
            not_after: at(ends),
            dns_names: Vec::new(),
            how: "issue".to_owned(),
        }
    }

    #[test]
    fn what_is_revoked_by_name_is_every_certificate_that_was_issued_and_not_ended() {
        let (west, other) = (gateway("west", "gw1"), gateway("east", "gw1"));
        let all = [
            issued("0a", &west, 100),
            issued("0b", &gateway("west", "gw2"), 100),
            issued("0c", &west, 5),
            issued("0d", &other, 100),
        ];
        let mut revoked = Revoked::default();
        let zone = Subject::Zone("west".to_owned());
        let line = revoked.revocation(&zone, &all, at(10)).unwrap();
        assert_eq!(line.serials, ["0a", "0b"]);
        revoked.0.push(line);
        assert_eq!(revoked.revocation(&zone, &all, at(11)), None, "once is enough");
        assert!(revoked.forbids(&west).is_some() && revoked.forbids(&other).is_none());
        assert!(revoked.holds(&Serial::parse("00:0A").unwrap()));
        // One that was issued since, in a race with it, is caught by saying it again.
        let late = [issued("0e", &west, 100)];
        assert_eq!(revoked.revocation(&zone, &late, at(12)).unwrap().serials, ["0e"]);

        let one = Subject::Serial("0D".to_owned());
        revoked.0.push(revoked.revocation(&one, &all, at(13)).unwrap());
        assert!(revoked.forbids(&other).is_none(), "the name may get another");
    }

    #[test]
    fn a_name_can_be_let_in_again_and_its_certificates_stay_revoked() {
        let west = gateway("west", "gw1");
        let mut revoked = Revoked::default();
        let subject = Subject::Gateway("west/gw1".to_owned());
        let line = revoked.revocation(&subject, &[issued("0a", &west, 100)], at(1));
        revoked.0.extend(line);
        revoked.0.push(Revocation {
            at: at(2),
            subject: subject.clone(),
            serials: Vec::new(),
            readmitted: true,
        });
        assert_eq!(revoked.forbids(&west), None);
        assert!(revoked.holds(&Serial::parse("0a").unwrap()));
        assert!(
            revoked.revocation(&subject, &[], at(3)).is_some(),
            "and be revoked again"
        );
    }

    #[test]
    fn the_file_is_read_back_and_a_line_that_is_not_understood_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Revoked::read(folder.path()).unwrap(), Revoked::default());
        let subject = Subject::Zone("west".to_owned());
        let line = Revoked::default().revocation(&subject, &[], at(1));
        let revoked = Revoked(line.into_iter().collect());
        revoked.write(folder.path()).unwrap();
        assert_eq!(Revoked::read(folder.path()).unwrap(), revoked);
        let path = folder.path().join(REVOKED_FILE);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#""zone":"west""#), "{text}");
        fs::write(&path, format!("{text}nonsense\n")).unwrap();
        assert!(matches!(
            Revoked::read(folder.path()),
            Err(RevokedError::Line { number: 2, .. })
        ));
    }
}
