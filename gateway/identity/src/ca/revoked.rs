//! `revoked.jsonl` in the folder of a CA: one line of JSON for each `causeway revoke`. From it follow what the trust document says
//! is revoked, and that nothing is issued to a name that stands there. A name can be let in again; certificates that it had before
//! stay revoked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use causeway_federation::{
    name::{CallerIdentity, GatewayId, ZoneName},
    trust::{RevokedName, RevokedNames, RevokedUntil},
};
use causeway_host::files::{self, PRIVATE};
use serde::{Deserialize, Serialize};

use super::issued::{self, Issued, rfc3339};
use crate::{Serial, SpiffeId};

/// In the CA's folder.
pub const REVOKED_FILE: &str = "revoked.jsonl";

/// Subject of a revocation: whose certificates are revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationSubject {
    Zone(String),
    /// Such as `west/gw1`.
    Gateway(String),
    /// One certificate, by its serial number in hexadecimal digits; the name may get another.
    Serial(String),
}

impl RevocationSubject {
    /// Tells whether nothing is to be issued to `gateway` because of it.
    fn names(&self, gateway: &GatewayId) -> bool {
        match self {
            Self::Zone(zone) => *zone == gateway.zone.as_str(),
            Self::Gateway(name) => *name == gateway.to_string(),
            Self::Serial(_) => false,
        }
    }

    /// Name that is revoked; `None`: it is one certificate, or no name at all.
    fn name(&self) -> Option<RevokedName> {
        match self {
            Self::Zone(zone) => ZoneName::new(zone).ok().map(RevokedName::Zone),
            Self::Gateway(name) => {
                let (zone, gateway) = name.split_once('/')?;
                let id = GatewayId::new(zone.parse().ok()?, gateway.parse().ok()?);
                Some(RevokedName::Gateway(id))
            }
            Self::Serial(_) => None,
        }
    }

    /// Tells whether a certificate that was issued is one of these.
    pub(super) fn covers(&self, issued: &Issued) -> bool {
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

impl From<&RevokedName> for RevocationSubject {
    fn from(name: &RevokedName) -> Self {
        match name {
            RevokedName::Zone(zone) => Self::Zone(zone.to_string()),
            RevokedName::Gateway(id) => Self::Gateway(id.to_string()),
        }
    }
}

/// `zone west`.
impl std::fmt::Display for RevocationSubject {
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
    pub subject: RevocationSubject,
    /// One certificate and those that came of it, in hexadecimal digits. Of a zone or gateway, where the name stands for all of
    /// them, empty; older programs wrote what was valid then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serials: Vec<String>,
    /// The name may be issued certificates again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub readmitted: bool,
}

/// Reason why the file cannot be used. Nothing is issued then: what it says is not known.
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

/// Revocations in the file, oldest first.
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
            files::replace_file(&path, &text, PRIVATE)
        });
        written.map_err(|source| RevokedError::File { path, source })
    }

    /// Reason why nothing is to be issued to `gateway`; `None`: something may be.
    #[must_use]
    pub fn forbids(&self, gateway: &GatewayId) -> Option<&Revocation> {
        self.standing(|subject| subject.names(gateway))
    }

    /// Tells whether nothing is to be issued to anybody of `zone`.
    #[must_use]
    pub fn forbids_zone(&self, zone: &str) -> bool {
        let is_this =
            |subject: &RevocationSubject| matches!(subject, RevocationSubject::Zone(named) if named == zone);
        self.standing(is_this).is_some()
    }

    fn standing(&self, concerns: impl Fn(&RevocationSubject) -> bool) -> Option<&Revocation> {
        let mut standing: Vec<&Revocation> = Vec::new();
        for line in self.0.iter().filter(|line| concerns(&line.subject)) {
            standing.retain(|before| before.subject != line.subject);
            standing.extend((!line.readmitted).then_some(line));
        }
        standing.first().copied()
    }

    /// Tells whether a certificate was revoked: by its serial number, or by the name of its holder.
    #[must_use]
    pub fn covers(&self, serial: &Serial, holder: &GatewayId, not_before: SystemTime) -> bool {
        let names = self.names();
        self.serials().contains_key(serial)
            || names.covers(holder.zone.as_str(), Some(holder), seconds(not_before))
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

    /// Every name that was revoked, also if it was let in again.
    #[must_use]
    pub fn names(&self) -> RevokedNames {
        let mut names = RevokedNames::default();
        for line in &self.0 {
            if let Some(name) = line.subject.name() {
                names.insert(name, line.until());
            }
        }
        names
    }

    /// Time at which the validity of a certificate for `gateway` must not begin before; `None`: whenever.
    #[must_use]
    pub fn first_not_before(&self, gateway: &GatewayId) -> Option<SystemTime> {
        self.readmitted(|subject| subject.names(gateway))
    }

    /// The same for a caller of a zone.
    pub(super) fn first_not_before_in(&self, zone: &str) -> Option<SystemTime> {
        self.readmitted(|subject| matches!(subject, RevocationSubject::Zone(named) if named == zone))
    }

    fn readmitted(&self, concerns: impl Fn(&RevocationSubject) -> bool) -> Option<SystemTime> {
        let lines = self.0.iter().filter(|line| concerns(&line.subject));
        let until = lines.filter_map(|line| match line.until() {
            RevokedUntil::Forever => None,
            RevokedUntil::Seconds(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
        });
        until.max()
    }

    /// Revocation to add so that `subject` is revoked, and how many of its certificates that are valid at `now` that ends; `None`
    /// when it stands there already. `issued` is what the CA has issued.
    #[must_use]
    pub fn revocation(
        &self,
        subject: &RevocationSubject,
        issued: &[Issued],
        now: SystemTime,
    ) -> Option<(Revocation, usize)> {
        let line = |serials: BTreeSet<Serial>| Revocation {
            at: now,
            subject: subject.clone(),
            serials: serials.iter().map(ToString::to_string).collect(),
            readmitted: false,
        };
        let RevocationSubject::Serial(serial) = subject else {
            let last = self.0.iter().rev().find(|line| line.subject == *subject);
            if last.is_some_and(|line| !line.readmitted) {
                return None;
            }
            let ends = issued
                .iter()
                .filter(|issued| issued.not_after >= now && subject.covers(issued));
            return Some((line(BTreeSet::new()), ends.count()));
        };
        let known = self.serials();
        let mut serials = issued::descendants(&Serial::parse(serial)?, issued);
        serials.retain(|serial| !known.contains_key(serial));
        let count = serials.len();
        (count > 0).then(|| (line(serials), count))
    }
}

impl Revocation {
    /// Certificates that this line makes revoked, if it is about a name. A certificate that is issued after a name was let in
    /// again begins at the next second or later.
    fn until(&self) -> RevokedUntil {
        match self.readmitted {
            false => RevokedUntil::Forever,
            true => RevokedUntil::Seconds(seconds(self.at) + 1),
        }
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
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
            parent: None,
            address: None,
            key: None,
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
        let zone = RevocationSubject::Zone("west".to_owned());
        let (line, ends) = revoked.revocation(&zone, &all, at(10)).unwrap();
        assert_eq!(
            (line.serials.len(), ends),
            (0, 2),
            "one line, however many there are"
        );
        revoked.0.push(line);
        assert_eq!(revoked.revocation(&zone, &all, at(11)), None, "once is enough");
        assert!(revoked.forbids(&west).is_some() && revoked.forbids(&other).is_none());
        // One that was issued since, in a race with it, too.
        for serial in ["0a", "0c", "0e"] {
            assert!(
                revoked.covers(&Serial::parse(serial).unwrap(), &west, at(12)),
                "{serial}"
            );
        }
        let (_, spared) = (&other, Serial::parse("0d").unwrap());
        assert!(!revoked.covers(&spared, &other, at(0)));

        let one = RevocationSubject::Serial("0D".to_owned());
        revoked.0.push(revoked.revocation(&one, &all, at(13)).unwrap().0);
        assert!(revoked.covers(&spared, &other, at(0)));
        assert!(revoked.forbids(&other).is_none(), "the name may get another");
    }

    #[test]
    fn a_name_can_be_let_in_again_and_its_certificates_stay_revoked() {
        let west = gateway("west", "gw1");
        let mut revoked = Revoked::default();
        let subject = RevocationSubject::Gateway("west/gw1".to_owned());
        let line = revoked.revocation(&subject, &[issued("0a", &west, 100)], at(1));
        revoked.0.extend(line.map(|(line, _)| line));
        assert_eq!(revoked.first_not_before(&west), None);
        revoked.0.push(Revocation {
            at: at(2),
            subject: subject.clone(),
            serials: Vec::new(),
            readmitted: true,
        });
        assert_eq!(revoked.forbids(&west), None);
        let serial = Serial::parse("0a").unwrap();
        assert!(revoked.covers(&serial, &west, at(2)), "issued before");
        assert!(!revoked.covers(&serial, &west, at(3)), "issued after");
        assert_eq!(revoked.first_not_before(&west), Some(at(3)));
        assert!(
            revoked.revocation(&subject, &[], at(3)).is_some(),
            "and be revoked again"
        );
    }

    #[test]
    fn the_file_is_read_back_and_a_line_that_is_not_understood_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Revoked::read(folder.path()).unwrap(), Revoked::default());
        let subject = RevocationSubject::Zone("west".to_owned());
        let line = Revoked::default().revocation(&subject, &[], at(1));
        let revoked = Revoked(line.into_iter().map(|(line, _)| line).collect());
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
